//! The HTTP layer through real sockets, one file per question.
#![expect(clippy::unwrap_used, reason = "a step of a test that fails fails the test")]

mod support;

mod bullets;
mod conformance;
mod doubts;
mod elsewhere;
mod grpc;
mod page;
mod reports;
mod rows;
mod told;
mod zombies;
