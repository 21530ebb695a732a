//! The routes for operators, through real sockets.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a step of a test that fails fails the test; it looks at files, and damages some"
)]

mod device;
#[allow(dead_code, reason = "shared with tests that ask more of a disk")]
#[path = "../it/support/disk.rs"]
mod disk;
mod exposition;
mod support;

mod access;
mod alarms;
mod changes;
mod figures;
mod orphans;
