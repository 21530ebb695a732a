//! The operator's page in a real browser: what is seen, heard from a screen reader's view, done by
//! keyboard, and sent.
//!
//! Wants Debian's chromium and chromium-driver, so it runs only where it is named: `cargo test
//! --test browser`. `ONCELOG_SCREENSHOTS` names a directory that gets pictures.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a step of a test that fails fails the test; pictures are written, patience has an end"
)]

mod driver;
mod server;

mod looks;
mod works;
