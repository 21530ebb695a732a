//! Claims in Redis on real servers: one alone, and a cluster of three primaries and three replicas,
//! which the tests start on loopback in scratch directories, kill, pause and cut off.
//!
//! Wants Debian's redis-server and util-linux, and root for what needs a network of its own, so it
//! runs only where it is named: `cargo test --test redis`.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a step of a test that fails fails the test; it starts threads and reads time itself"
)]

mod server;

mod cluster;

mod proxy;

mod conformance;
mod faults;
mod processes;
mod records;

mod failover;
mod partition;
mod troubles;

mod ground;
#[path = "../layer/mod.rs"]
mod layer;
