//! Locks, and the one-shot event that a waiting caller sleeps on; the import point for both.
//!
//! Every lock of the crate comes from here, so that a model checker can take their place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

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
