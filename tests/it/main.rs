//! The integration tests: one binary, one file per question.

mod crash;
mod faults;
mod layering;
mod smoke;
mod support;
