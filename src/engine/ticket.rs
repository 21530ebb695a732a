//! What a future waits on while its record is committed.

use std::task::{Context, Poll, Waker};

use crate::error::Result;
use crate::sync::{Mutex, wake};

#[derive(Debug, Default)]
pub(crate) struct Ticket {
    // LOCK: ticket (a leaf)
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<Result<()>>,
    waker: Option<Waker>,
    /// The future is gone.
    abandoned: bool,
}

impl Ticket {
    /// Records the outcome. `true` where nobody will take it.
    pub(crate) fn finish(&self, outcome: Result<()>) -> bool {
        let (waker, abandoned) = {
            let mut state = self.state.lock();
            state.outcome = Some(outcome);
            (state.waker.take(), state.abandoned)
        };
        if let Some(waker) = waker {
            wake(waker);
        }
        abandoned
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let waker = cx.waker().clone();
        let mut state = self.state.lock();
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        let old = state.waker.replace(waker);
        drop(state);
        // Dropped without the lock: a waker is somebody else's code.
        drop(old);
        Poll::Pending
    }

    /// Says that nobody will take the outcome, which is returned if there is one already.
    pub(crate) fn abandon(&self) -> Option<Result<()>> {
        let mut state = self.state.lock();
        state.abandoned = true;
        state.outcome.clone()
    }
}
