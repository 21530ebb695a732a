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

#[path = "../admin/device.rs"]
mod device;
#[allow(dead_code, reason = "shared with tests that ask more of a disk")]
#[path = "../it/support/disk.rs"]
mod disk;
mod driver;
mod server;

mod alarms;
mod looks;
mod works;
