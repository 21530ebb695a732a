//! One attempt: its facts, and the permit to end it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{self, Clock, SystemClock, duration_ms, real_monotonic};
use crate::cluster::redis::error::RedisError;
use crate::cluster::redis::link::Key;
use crate::cluster::redis::record::{Head, Record, State};
use crate::engine::outcome::OrphanCause;
use crate::http::backend::BackendPermit;
use crate::random;
use crate::scope::{Fingerprint, OperationId, Scope, Token};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};

/// An attempt whose claim is in Redis. Dropping this tells nobody: the claim is an orphan when its
/// lease is over.
#[derive(Debug)]
pub struct RedisPermit {
    pub(crate) attempt: Arc<Attempt>,
}

/// The facts of an attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) key: Key,
    /// In the form of [`crate::scope::decode`].
    pub(crate) scope: Bytes,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) operation: OperationId,
    pub(crate) token: Token,
    pub(crate) number: u32,
    pub(crate) cause: Option<OrphanCause>,
    pub(crate) checkpoint: Option<Bytes>,
    pub(crate) ttl_ms: u64,
    // Relaxed: a number that nothing else depends on.
    lease_ms: AtomicU64,
    /// How old the operation was when this attempt began.
    age_ms: u64,
    /// When it began, on the monotonic clock of this process.
    began: Duration,
}

/// What a claim is asked with.
pub(crate) struct Wanted<'s> {
    pub(crate) scope: Scope<'s>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) lease: Duration,
    pub(crate) ttl_ms: u64,
    /// What [`Drawn`] gave.
    pub(crate) drawn: ([u8; 16], u32),
}

impl Attempt {
    /// The first attempt of an operation that nobody knows yet.
    pub(crate) fn first(key: Key, wanted: &Wanted<'_>) -> Attempt {
        let (operation, number) = wanted.drawn;
        Attempt {
            key,
            scope: Bytes::copy_from_slice(&wanted.scope.encode()),
            fingerprint: wanted.fingerprint,
            operation: OperationId::from_hash(operation),
            token: fresh_token(number),
            number: 1,
            cause: None,
            checkpoint: None,
            ttl_ms: wanted.ttl_ms,
            lease_ms: AtomicU64::new(duration_ms(wanted.lease)),
            age_ms: 0,
            began: real_monotonic(),
        }
    }

    /// The same with a token above that of an attempt before it.
    pub(crate) fn after(self, before: Token) -> Attempt {
        let token = self.token.max(Token::new(before.get() + 1));
        Attempt { token, ..self }
    }

    /// The attempt that a record says is running.
    pub(crate) fn of(key: Key, record: &Record) -> Attempt {
        let Head { fingerprint, operation, token, cause, ttl_ms, .. } = record.head;
        let checkpoint = (!record.checkpoint.is_empty()).then(|| record.checkpoint.clone());
        Attempt {
            key,
            scope: record.scope.clone(),
            fingerprint,
            operation,
            token,
            number: record.head.attempt,
            cause,
            checkpoint,
            ttl_ms,
            lease_ms: AtomicU64::new(record.head.lease_ms),
            age_ms: record.head.age_ms,
            began: real_monotonic(),
        }
    }

    /// How old the operation is: what passed here, added to what the record said.
    pub(crate) fn age_ms(&self) -> u64 {
        self.age_ms + duration_ms(real_monotonic().saturating_sub(self.began))
    }

    pub(crate) fn head(&self, state: State) -> Head {
        Head {
            state,
            cause: self.cause,
            flags: 0,
            attempt: self.number,
            operation: self.operation,
            token: self.token,
            fingerprint: self.fingerprint,
            ttl_ms: self.ttl_ms,
            lease_ms: self.lease_ms.load(Ordering::Relaxed),
            age_ms: self.age_ms(),
        }
    }

    pub(crate) fn set_lease(&self, lease: Duration) {
        self.lease_ms.store(duration_ms(lease), Ordering::Relaxed);
    }
}

/// A token for an attempt with none before it: the time in ms, and 20 random bits, so that a token
/// is likely to be new also where the server lost what came before. Below 2^63, since times are
/// below 2^43 ms until the year 2248.
fn fresh_token(drawn: u32) -> Token {
    let now_ms = clock::to_ms(SystemClock.wall()) & ((1 << 43) - 1);
    Token::new(now_ms << 20 | u64::from(drawn) & ((1 << 20) - 1))
}

/// Random bytes of the system, fetched for some operations at a time: a call of the kernel for each
/// would be a tenth of what a claim costs here.
#[derive(Debug, Default)]
pub(crate) struct Drawn {
    // LOCK: drawn (a leaf)
    left: Mutex<Vec<u8>>,
}

impl Drawn {
    /// The bits of an operation id and of a token; nobody else gets the same.
    pub(crate) fn next(&self) -> Result<([u8; 16], u32), RedisError> {
        const BYTES: usize = 20;
        let mut left = self.left.lock();
        if left.len() < BYTES {
            let fresh = random::bytes::<{ 64 * BYTES }>();
            let unavailable = |error| RedisError::Unavailable { source: Arc::new(error) };
            *left = fresh.map_err(unavailable)?.to_vec();
        }
        let rest = left.len() - BYTES;
        let (mut operation, mut number) = ([0; 16], 0);
        for (byte, drawn) in operation.iter_mut().zip(&left[rest..]) {
            *byte = *drawn;
        }
        for drawn in &left[rest + operation.len()..] {
            number = number << 8 | u32::from(*drawn);
        }
        left.truncate(rest);
        Ok((operation, number))
    }
}

impl BackendPermit for RedisPermit {
    fn operation(&self) -> OperationId {
        self.attempt.operation
    }

    fn token(&self) -> Token {
        self.attempt.token
    }

    fn attempt(&self) -> u32 {
        self.attempt.number
    }

    fn cause(&self) -> Option<OrphanCause> {
        self.attempt.cause
    }

    fn checkpoint(&self) -> Option<&[u8]> {
        self.attempt.checkpoint.as_deref()
    }

    fn lease(&self) -> Duration {
        Duration::from_millis(self.attempt.lease_ms.load(Ordering::Relaxed))
    }
}
