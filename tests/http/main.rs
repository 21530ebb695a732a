//! The HTTP layer through real sockets, one file per question.

mod support;

mod bullets;
mod grpc;
mod page;
mod rows;
mod zombies;
