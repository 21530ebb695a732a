//! The integration tests: one binary, one file per question.

mod layering;
mod smoke;
mod support;
