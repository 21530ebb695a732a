//! What the fuzz targets share: checksums made right again, runs on the simulated disk, and the
//! edits that damage a directory.
#![expect(clippy::cast_possible_truncation, reason = "bytes of the input are cut on purpose")]

pub mod mend;

pub mod edit;

pub mod run;

#[path = "../../tests/it/support/mod.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod support;
