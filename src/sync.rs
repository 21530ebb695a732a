//! Locks, the word that followers of a commit sleep on, and the one-shot event that a waiting
//! caller sleeps on; the import point for all of them.
//!
//! Every lock of the crate comes from here, so that a model checker can take their place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::thread::futex;

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

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

/// An event that happens once and is then remembered. A thread or a task may wait for it.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    // LOCK: signal (a leaf: nothing is taken while it is held)
    state: Mutex<SignalState>,
    fired: Condvar,
}

#[derive(Debug, Default)]
struct SignalState {
    fired: bool,
    waker: Option<Waker>,
}

impl Signal {
    /// Makes the event happen and wakes whoever waits.
    pub(crate) fn fire(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.fired = true;
            state.waker.take()
        };
        self.fired.notify_all();
        if let Some(waker) = waker {
            wake(waker);
        }
    }

    /// Whether the event has happened.
    pub(crate) fn has_fired(&self) -> bool {
        self.state.lock().fired
    }

    /// Sleeps until the event, or until `limit` of real time is over. `true` if it has happened.
    pub(crate) fn wait_for(&self, limit: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.fired {
            self.fired.wait_while_for(&mut state, |state| !state.fired, limit);
        }
        state.fired
    }

    /// Ready once the event has happened; until then the task is woken by it.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = self.state.lock();
        if state.fired {
            return Poll::Ready(());
        }
        let old = state.waker.replace(waker);
        drop(state);
        // Dropped without the lock: a waker is somebody else's code.
        drop(old);
        Poll::Pending
    }
}

/// Wakes a task. What its executor does there is not the store's to fail for.
pub(crate) fn wake(waker: Waker) {
    catch_unwind(AssertUnwindSafe(|| waker.wake())).ok();
}
