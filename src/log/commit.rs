//! A batch of records that one sync makes durable, and those who wait for it.
//!
//! ```text
//! gathering > (its leader writes and syncs, the next batch gathers) > done
//! ```
//! A blocking caller never leaves before its batch is done, so leadership can be offered to it.

use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::sync::Word;

/// What the word of a batch says.
const GATHERING: u32 = 0;
/// Leadership was offered, and nobody has come for it yet.
const LEAD: u32 = 1;
const DONE: u32 = 2;

#[derive(Debug, Default)]
pub(crate) struct Batch {
    word: Word,
    /// Set before the word says that it is done.
    outcome: OnceLock<Result<()>>,
}

/// What a waiting caller is to do.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Commit, unless somebody has begun to.
    Lead,
    /// Go on: the batch is durable, or it failed.
    Done(Result<()>),
}

impl Batch {
    /// Offers leadership to one of the blocking callers that wait, or will wait.
    pub(crate) fn offer_lead(&self) {
        if self.word.exchange(GATHERING, LEAD) {
            self.word.wake_one();
        }
    }

    pub(crate) fn finish(&self, outcome: Result<()>) {
        self.outcome.set(outcome).ok();
        self.word.store(DONE);
        self.word.wake_all();
    }

    pub(crate) fn wait(&self) -> Turn {
        loop {
            if let Some(outcome) = self.outcome.get() {
                return Turn::Done(outcome.clone());
            }
            if self.word.exchange(LEAD, GATHERING) {
                return Turn::Lead;
            }
            self.word.sleep_while(GATHERING);
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
