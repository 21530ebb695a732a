//! The HTTP layer through real sockets, one file per question.

mod support;

mod bullets;
mod conformance;
mod grpc;
mod page;
mod reports;
mod rows;
mod zombies;
