//! The integration tests: one binary, one file per question.
#![expect(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a step of a test that fails fails the test; tests stage files and threads themselves"
)]

mod backup;
mod buffered;
mod contract;
mod crash;
mod faults;
mod fixtures;
mod flips;
mod interrupted;
mod intruders;
mod kill;
mod layering;
mod linear;
mod meanwhile;
mod model;
mod mutations;
mod quarantine;
mod recovery_edges;
mod restart;
mod scan;
mod scrub;
mod smoke;
mod snapshot;
mod support;
mod verify;
