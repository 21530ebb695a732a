//! The HTTP layer through real sockets, one file per question, whatever store the claims live in:
//! each test target that runs these says in its `ground` what that is.

pub(crate) mod support;

mod bullets;
mod doubts;
mod elsewhere;
mod grpc;
mod page;
mod reports;
mod rows;
mod servers;
mod zombies;
