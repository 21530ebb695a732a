//! The contract, sentence by sentence: each test is named after what it claims.

mod batches;
mod callbacks;
mod directory;
mod durability;
mod erasure;
mod expiry;
mod figures;
mod full;
mod futures;
mod limits;
mod overlaps;
mod states;
pub(crate) mod support;
mod upkeep;
mod winner;
