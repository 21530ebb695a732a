//! The HTTP layer through real sockets, one file per question.

mod support;

mod page;
mod rows;
