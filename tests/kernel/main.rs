//! What a real kernel does to a store: power cuts, full disks, failing calls, limits, stopped
//! processes, and rolling restarts. Runs as root, on loop images of ext4 and xfs:
//! `cargo test --test kernel`.
#![expect(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a step of a test that fails fails the test; tests stage files and threads themselves"
)]

mod child;
mod full;
// A copy of the crate with a fault in it is built without the layer.
#[cfg(feature = "http")]
mod handover;
mod image;
mod injected;
mod keys;
mod ledger;
mod limits;
mod load;
mod media;
mod planted;
mod power;
#[path = "../it/support/rng.rs"]
mod rng;
#[expect(dead_code, reason = "shared with jobs that say more at once")]
#[path = "../it/support/rows.rs"]
mod rows;
mod stopped;
#[path = "../it/support/tree.rs"]
mod tree;
