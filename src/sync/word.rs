//! A word of memory that threads sleep on, as the kernel has it.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

/// A number that threads sleep on until it changes. One system call wakes all of them, and none of
/// them needs a lock to go on: through a condition variable each would take its mutex in turn.
#[derive(Debug, Default)]
pub(crate) struct Word(AtomicU32);

impl Word {
    /// `Release`, for whoever exchanges or sleeps afterwards.
    pub(crate) fn store(&self, number: u32) {
        self.0.store(number, Ordering::Release);
    }

    /// Puts `new` in the place of `old`; `false` where something else is there.
    pub(crate) fn exchange(&self, old: u32, new: u32) -> bool {
        self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Sleeps while the number is `number`. May return although it is.
    pub(crate) fn sleep_while(&self, number: u32) {
        // Whatever ends the sleep, an interruption too: the caller looks again.
        futex::wait(&self.0, futex::Flags::PRIVATE, number, None).ok();
    }

    pub(crate) fn wake_one(&self) {
        futex::wake(&self.0, futex::Flags::PRIVATE, 1).ok();
    }

    pub(crate) fn wake_all(&self) {
        futex::wake(&self.0, futex::Flags::PRIVATE, i32::MAX.unsigned_abs()).ok();
    }
}
