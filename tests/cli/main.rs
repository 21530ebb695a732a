//! The operator's tool, through its executable: what it prints, how it ends, and beside an owner.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a step of a test that fails fails the test; tests stage files and clocks themselves"
)]

mod change;
mod copy;
mod look;
mod refusals;
mod support;
mod terminal;
