//! What becomes of an operation whose outcome is unknown: a witness is asked, it runs again, or it
//! is held until somebody resolves it.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::outcome::OrphanCause;
use crate::scope::{OperationId, Token};

/// What becomes of an orphan. There is no right default, so a route has to say.
#[derive(Clone, Debug)]
pub enum Orphans {
    /// Whoever knows is asked: the operation happens exactly once.
    Witness(Witness),
    /// It runs again, with the same operation id: at least once after a crash.
    Rerun,
    /// Retries get `503`, code `idempotency_outcome_unknown`, until somebody resolves it.
    Hold,
}

impl Orphans {
    /// Asks a function of the question; see [`Witness`].
    pub fn witness<F, Fut>(ask: F) -> Orphans
    where
        F: Fn(Question) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Testimony, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        Orphans::Witness(Witness(Arc::new(move |question| Box::pin(ask(question)))))
    }
}

type Asked = dyn Fn(Question) -> Answering + Send + Sync;
type Answering =
    Pin<Box<dyn Future<Output = Result<Testimony, Box<dyn Error + Send + Sync>>> + Send>>;

/// Knows whether an operation happened, usually from a row that the handler wrote in the
/// transaction of the effect. An error, or no answer in time, is *unknown*.
#[derive(Clone)]
pub struct Witness(Arc<Asked>);

impl Witness {
    pub(crate) fn ask(&self, question: Question) -> Answering {
        (self.0)(question)
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Witness")
    }
}

/// Did this operation happen?
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The operation.
    pub operation: OperationId,
    /// The attempt in whose name is asked.
    pub token: Token,
    /// *It did not happen* promises that no attempt with a token up to this number can commit any
    /// more. Below [`Question::token`] where that attempt is about to run; the same where it ran.
    pub fence: u64,
    /// The number of the attempt, counted from 1.
    pub attempt: u32,
    /// Why the attempt before it ended.
    pub cause: Option<OrphanCause>,
    /// What its attempts saved last.
    pub checkpoint: Option<Bytes>,
}

/// What a witness says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Testimony {
    /// It happened, and this is its response, as
    /// [`Attempt::encode`](crate::http::Attempt::encode) made it.
    Happened(Bytes),
    /// It did not, and no attempt up to the fence can commit any more.
    DidNotHappen,
}

impl Testimony {
    /// The word of a row's `response` column, which is NULL until the effect has committed.
    pub fn of_saved(response: Option<Vec<u8>>) -> Testimony {
        match response {
            Some(response) => Testimony::Happened(response.into()),
            None => Testimony::DidNotHappen,
        }
    }
}
