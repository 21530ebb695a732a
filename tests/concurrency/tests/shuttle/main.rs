//! The engine under random schedules: at every lock, atomic, wait and call to the disk `shuttle`
//! chooses who runs next. A schedule in which nobody can go on is a lost wake-up, and fails.
#![cfg(shuttle)]

#[path = "../../../it/support/caller.rs"]
mod caller;
#[path = "../../../it/support/disk.rs"]
mod disk;
#[path = "../../../it/support/history.rs"]
mod history;
mod support {
    pub(crate) use crate::history;
}

mod claims;
mod commits;
mod explore;
mod futures;
mod segments;
