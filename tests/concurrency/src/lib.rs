//! The parts of the engine that are small enough for every schedule, as `loom` runs them: each
//! order of the threads, and each value that a weakly ordered atomic may show.
#![cfg(loom)]
#![expect(dead_code, reason = "the modules of the engine are here whole, and used in part")]

#[path = "../../../src/clock.rs"]
mod clock;
#[path = "../../../src/error.rs"]
mod error;
#[path = "../../../src/sync/mod.rs"]
mod sync;
#[path = "../../../src/engine/ticket.rs"]
mod ticket;
#[path = "../../../src/time.rs"]
mod time;

pub mod models;
