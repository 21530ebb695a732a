//! Safe retries for an HTTP API, as one [`tower`](tower_layer) layer for axum, hyper and tonic.
//!
//! ```
//! use axum::{Router, routing::post};
//! use oncelog::http::{IdempotencyLayer, Organization, Orphans};
//!
//! # let dir = tempfile::tempdir()?;
//! let store = oncelog::Store::open(dir.path())?;
//! let layer = IdempotencyLayer::new(store, Organization::single(), Orphans::Hold);
//! let app: Router = Router::new().route("/invoices", post(|| async { "created" })).layer(layer);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A write with an `Idempotency-Key` runs once; a retry with the same key and body gets the stored
//! answer, one with another body `409`. The answers, one by one, for those who call the API:
//! `docs/clients.md`. The choices, for those who run it: `docs/servers.md`.
//!
//! # The way of a request
//! ```text
//! other method, upgrade, an attempt under way, no key -----------------> handler, untouched
//! key malformed, no organization, body too large or cut short ---------> refused, nothing claimed
//!                    |
//!                  claim <------------------------------------------+
//!    +---------+-----+-----+------------+----------+                |
//!  granted  replay  conflict       in progress  orphaned            |
//!    |         |       |                |          |                |
//!    |      may it   409           wait, bounded   +-- Hold: 503    |
//!    |      be seen?                ended -> ------+----------------+
//!    |       | no: 403              time is up: 429|
//!    |      replay                                 +-- take over: one caller wins
//!    |                                                  |            | the others: as in progress
//!    |                              Rerun: next attempt   Witness is asked, with the new permit
//!    |                                    |           it did not: next attempt
//!    |<-----------------------------------+-----------+ it happened: complete, send
//!    |                                                  unknown: give up, 503
//!  handler, in the client's connection, or in a task of its own once the client hangs up;
//!    |      the lease is renewed meanwhile
//!    +-- success ---- collected up to a limit and a time, durable, then sent
//!    |                past them: "it ran" durable, then the stream passes through
//!    +-- no effect -- released, then sent
//!    +-- in doubt --- witness: happened: complete, send what was saved; did not: release; else
//!    |                give up
//!                    none: released on the first attempt if the handler never asked who it is,
//!                    else given up
//! ```
//! Every arrow out of *handler* ends the claim: [`Drop`] leaves an orphan where nothing else did.
//!
//! # Exactly once
//! The store alone grants an operation once. With two statements in the handler's own transaction,
//! and a witness that reads what they wrote, its effect happens exactly once, also against attempts
//! thought dead that commit late: see `docs/servers.md`, which has them for SQLite and PostgreSQL.
//! It takes [`Durability::Synced`](crate::Durability::Synced).
//!
//! # Where it goes
//! Inside of authentication, which tells the [`Organization`]; inside of CORS and compression, so
//! that what is stored is what the handler said; outside of time limits that should cancel the
//! handler, or use [`PolicyBuilder::run_limit`]. Where a router strips prefixes the path of the
//! request line counts: with the feature `axum`, by itself; else see
//! [`IdempotencyLayer::original_uri`]. The layer needs a tokio runtime.

pub(crate) mod backend;

pub(crate) mod any;
pub(crate) mod embedded;
pub(crate) mod json;

pub(crate) mod body;
pub(crate) mod classify;
pub(crate) mod crowd;
pub(crate) mod encoding;
pub(crate) mod fingerprint;
pub(crate) mod key;
pub(crate) mod organization;
pub(crate) mod orphans;
pub(crate) mod problem;
pub(crate) mod tasks;
pub(crate) mod waiters;

pub(crate) mod grpc;
pub(crate) mod policy;

pub(crate) mod observe;

pub(crate) mod held;

pub(crate) mod attempt;

pub(crate) mod answer;
pub(crate) mod settings;

pub(crate) mod asked;

pub(crate) mod run;

pub(crate) mod flow;

pub(crate) mod service;

pub(crate) mod layer;

pub use any::{AnyBackend, AnyError, AnyPermit};
pub use attempt::{Attempt, AttemptError};
pub use backend::{
    Administer, Answer, Backend, BackendError, BackendPermit, Completed, Conflicting, ErrorKind,
    Evicts, Holding, Orphaned, OrphansShow, Promises, Running, Survives, TokensOrder, Unresolved,
};
pub use body::{RequestBody, ResponseBody};
pub use classify::{NoEffect, Outcome};
pub use embedded::StorePermit;
pub use fingerprint::FingerprintOf;
pub use key::{KeyFunction, KeyPresence, KeySource, KeySyntax};
pub use layer::IdempotencyLayer;
#[cfg(feature = "metrics")]
pub use observe::record_stats;
pub use organization::Organization;
pub use orphans::{Orphans, Question, Testimony, Witness};
pub use policy::{Failures, Keep, Permission, Policy, PolicyBuilder, PolicyError, Replay};
pub use problem::{Code, Problem, Renderer};
pub use service::{Idempotency, ResponseFuture};
pub use tasks::Drained;
pub use waiters::Bounds;
