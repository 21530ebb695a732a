//! The routes for operators, through real sockets.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a step of a test that fails fails the test; it looks at the files of a backup"
)]

mod exposition;
mod support;

mod access;
mod changes;
mod figures;
mod orphans;
