//! A batch of records that one sync makes durable, and those who wait for it.
//!
//! ```text
//! gathering > (its leader writes and syncs, the next batch gathers) > done
//! ```
//! A blocking caller never leaves before its batch is done, so leadership can be handed to it.

use crate::error::{Error, Result};
use crate::sync::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(crate) struct Batch {
    // LOCK: batch (a leaf)
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Leadership was handed over, and nobody has taken it yet.
    lead: bool,
    outcome: Option<Result<()>>,
}

/// What a waiting caller is to do.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Commit: leadership is the caller's.
    Lead,
    /// Go on: the batch is durable, or it failed.
    Done(Result<()>),
}

impl Batch {
    /// Hands leadership to one of the blocking callers that wait, or will wait.
    pub(crate) fn hand_over(&self) {
        self.state.lock().lead = true;
        self.changed.notify_one();
    }

    pub(crate) fn finish(&self, outcome: Result<()>) {
        self.state.lock().outcome.get_or_insert(outcome);
        self.changed.notify_all();
    }

    pub(crate) fn wait(&self) -> Turn {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = &state.outcome {
                return Turn::Done(outcome.clone());
            }
            if std::mem::take(&mut state.lead) {
                return Turn::Lead;
            }
            self.changed.wait(&mut state);
        }
    }
}

/// Poisons unless it is told that all went well: a panic between a write and its publication
/// leaves what was written in doubt.
pub(crate) struct PoisonOnUnwind<F: FnMut(Error)> {
    poison: Option<F>,
}

impl<F: FnMut(Error)> PoisonOnUnwind<F> {
    pub(crate) fn armed(poison: F) -> Self {
        PoisonOnUnwind { poison: Some(poison) }
    }

    pub(crate) fn disarm(mut self) {
        self.poison = None;
    }
}

impl<F: FnMut(Error)> Drop for PoisonOnUnwind<F> {
    fn drop(&mut self) {
        if let Some(poison) = &mut self.poison {
            poison(Error::Poisoned { cause: "a thread panicked while it committed".into() });
        }
    }
}
