//! The facts of one attempt, and where its row lies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::postgres::statements::Leaf;
use crate::engine::outcome::OrphanCause;
use crate::http::backend::BackendPermit;
use crate::scope::{OperationId, Token};

/// An attempt whose claim is in PostgreSQL. Dropping it tells nobody: the claim is an orphan when
/// its lease is over.
#[derive(Clone, Debug)]
pub struct PostgresPermit {
    pub(crate) operation: OperationId,
    pub(crate) token: Token,
    pub(crate) attempt: u32,
    pub(crate) cause: Option<OrphanCause>,
    pub(crate) checkpoint: Option<Bytes>,
    pub(crate) lease: Duration,
    pub(crate) digest: [u8; 32],
    pub(crate) leaf: Arc<Leaf>,
}

impl BackendPermit for PostgresPermit {
    fn operation(&self) -> OperationId {
        self.operation
    }

    fn token(&self) -> Token {
        self.token
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    fn cause(&self) -> Option<OrphanCause> {
        self.cause
    }

    fn checkpoint(&self) -> Option<&[u8]> {
        self.checkpoint.as_deref()
    }

    fn lease(&self) -> Duration {
        self.lease
    }
}
