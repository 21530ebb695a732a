//! The contract, sentence by sentence: each test is named after what it claims.

mod directory;
mod durability;
mod expiry;
mod futures;
mod limits;
mod states;
mod support;
mod winner;
