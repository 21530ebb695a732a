//! Claims in PostgreSQL, on real servers that the tests start, with a standby where it matters.
//!
//! Wants root and Debian's postgresql, so it runs only where it is named: `cargo test --test
//! postgres`. `ONCELOG_FAILOVERS=20` is how often the primary is killed; 2 by default.
#![expect(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a step of a test that fails fails the test; it looks for an installed server itself"
)]

mod boundary;
mod conformance;
mod drop;
mod failover;
mod ground;
#[path = "../layer/mod.rs"]
mod layer;
mod processes;
#[path = "../witness/programs.rs"]
mod programs;
mod schema;
mod server;
mod transactions;
mod trouble;
