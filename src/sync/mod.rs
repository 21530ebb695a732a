//! Locks, the word that followers of a commit sleep on, atomics and threads, and the one-shot event
//! that a waiting caller sleeps on; the import point for all of them.
//!
//! Under `cfg(shuttle)` and `cfg(loom)` those of a model checker take their place.

#[cfg(any(shuttle, loom))]
pub(crate) mod checked;
#[cfg(not(any(shuttle, loom)))]
mod word;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

#[cfg(not(any(shuttle, loom)))]
pub(crate) use crate::sync::word::Word;
#[cfg(not(any(shuttle, loom)))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(any(shuttle, loom)))]
pub(crate) use std::sync::atomic;
#[cfg(not(any(shuttle, loom)))]
pub(crate) use std::thread;

#[cfg(any(shuttle, loom))]
#[cfg_attr(loom, expect(unused_imports, reason = "loom sees a part of the engine"))]
pub(crate) use crate::sync::checked::{Condvar, Mutex, MutexGuard, RwLock, Word};
#[cfg(loom)]
pub(crate) use loom::sync::atomic;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::atomic;
#[cfg(shuttle)]
pub(crate) use shuttle::thread;

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
