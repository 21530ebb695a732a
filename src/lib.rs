//! An embedded storage engine for the *idempotency table* of an HTTP API.
//!
//! API clients retry. A timeout after the server has already created the invoice must not create
//! it twice. The server links this crate and asks, before it runs a write request: *has this
//! request run before?*
//!
//! ```
//! use oncelog::{Claim, Fingerprint, Scope, Store};
//!
//! # let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path())?;
//! let (method, path, key) = ("POST", "/v1/invoices", "order-1001");
//! let scope = Scope { organization: "acme", method, path, key };
//! let body = br#"{"total": 100}"#;
//! match store.claim(scope, Fingerprint::of(body))? {
//!     Claim::Granted(permit) => {
//!         // Run the operation, then store its response.
//!         permit.complete(b"201 created")?;
//!     }
//!     Claim::Replay(stored) => println!("it ran: {:?}", stored.bytes()),
//!     Claim::InProgress(running) => println!("ask again in {:?}", running.retry_after()),
//!     Claim::Conflict(_) => println!("this key was used with another body"),
//!     Claim::Orphaned(orphan) => println!("unknown outcome: {:?}", orphan.info().cause()),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Guarantees
//! - **One winner.** However many callers claim a scope at once, one is granted.
//! - **Durable before acknowledged**, as [`Durability`] says.
//! - **A crash is known at reopen.** A claim that an earlier process left open is an [`Orphan`] at
//!   once; no lease has to lapse first.
//! - **Fencing.** An attempt that was superseded changes nothing any more.
//! - **Damage is never absence.** A damaged record is [`Error::Corrupt`], not a free scope.
//!
//! # Not provided
//! The store alone grants an operation once; it cannot know whether the effect happened before a
//! crash. Write the [`OperationId`], unique, in the transaction of the effect, and it happens
//! exactly once: `examples/contacts_api.rs` shows how.
//!
//! # Assumptions
//! One process opens a directory. A 512-byte sector is written whole or not at all. With
//! [`Reads::Mapped`] a device error on a read arrives as a signal; [`Reads::Positioned`] makes it
//! an [`Error::Io`].

#[cfg(feature = "admin")]
pub mod admin;
mod backup;
mod claim;
mod clock;
#[cfg(any(feature = "redis", feature = "postgres"))]
pub mod cluster;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod engine;
mod error;
mod expiry;
#[cfg(not(fuzzing))]
#[expect(unreachable_pub, reason = "public under `cfg(fuzzing)` alone")]
mod format;
#[cfg(fuzzing)]
pub mod format;
mod future;
#[cfg(feature = "http")]
pub mod http;
mod index;
mod location;
mod log;
mod numbered;
mod parallel;
mod random;
mod recovery;
mod scan;
mod scope;
mod scrub;
mod snapshot;
mod stats;
pub mod storage;
mod store;
mod sync;
mod time;
mod verify;
mod warning;
mod worker;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use backup::Backup;
pub use claim::{Claim, Orphan, Permit};
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{Background, Create, Durability, OnDamage, OrphanPolicy, Phase, Progress, Reads};
pub use engine::outcome::{
    Conflict, ConflictState, InProgress, Kept, OrphanCause, OrphanInfo, Status, Stored, StoredBytes,
};
pub use error::{Error, Result};
pub use expiry::Expired;
pub use future::{ClaimFuture, CompleteFuture, EndFuture, LookupFuture};
pub use scan::{ClockCheck, Scan};
pub use scope::{Fingerprint, OperationId, Scope, Token};
pub use snapshot::{Entries, Entry, Snapshot, Totals};
pub use stats::{CommitLatency, Quarantined, Recovery, SegmentInfo, SegmentState, Stats};
pub use store::{Options, Store};
pub use verify::{Damage, Verification};
pub use warning::Warning;
