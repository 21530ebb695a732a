//! What goes wrong between here and the server.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::format::DecodeError;
use crate::http::backend::{BackendError, ErrorKind};

/// What goes wrong with claims in Redis.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum RedisError {
    /// No answer, or one that the write could not be made. It may have arrived or not.
    Unavailable {
        /// What the client or the server said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// No answer within the time limit. The write may have arrived or not.
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// Fewer replicas than wanted had the write in time. It may survive a failover or not.
    Replicas {
        /// How many had it.
        acknowledged: u64,
        /// How many should have.
        wanted: u64,
    },
    /// The server takes no writes at present: its disk fails, or it has lost its replicas. What it
    /// holds can be read.
    Refused {
        /// What the server said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The server is out of memory, and evicts nothing.
    Full {
        /// What the server said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The attempt is no longer the current one of its scope.
    Superseded,
    /// The scope or the checkpoint is over its limit.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The largest size that is taken.
        limit: u64,
    },
    /// An option, an address or a scope that cannot be.
    Invalid {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A key holds what this library did not write.
    Corrupt {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The server is older than Redis 7.0.
    Version {
        /// What it says that it is.
        version: String,
    },
}

impl RedisError {
    /// What the client library or the server said, in the words of the layer.
    pub(crate) fn of(error: redis::RedisError) -> RedisError {
        let code = error.code().map(str::to_owned);
        let source = Arc::new(error);
        match code.as_deref() {
            Some("OOM") => RedisError::Full { source },
            Some("MISCONF" | "NOREPLICAS") => RedisError::Refused { source },
            Some("WRONGTYPE") => RedisError::Corrupt { what: "a key holds no string" },
            _ => RedisError::Unavailable { source },
        }
    }

    /// Whether the server answered that it writes nothing, so that it can still be read.
    pub(crate) fn leaves_reading(&self) -> bool {
        matches!(self, RedisError::Full { .. } | RedisError::Refused { .. })
    }

    /// Whether a write may have arrived although the caller gets an error.
    pub(crate) fn is_in_doubt(&self) -> bool {
        matches!(
            self,
            RedisError::Unavailable { .. }
                | RedisError::TimedOut { .. }
                | RedisError::Replicas { .. }
        )
    }
}

impl std::fmt::Display for RedisError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RedisError::Unavailable { source } => write!(f, "redis is unavailable: {source}"),
            RedisError::TimedOut { limit } => {
                write!(f, "redis gave no answer within {} ms", limit.as_millis())
            }
            RedisError::Replicas { acknowledged, wanted } => {
                write!(f, "{acknowledged} replicas have the write, not {wanted}")
            }
            RedisError::Refused { source } => write!(f, "redis takes no writes: {source}"),
            RedisError::Full { source } => write!(f, "redis is out of memory: {source}"),
            RedisError::Superseded => write!(f, "the attempt was superseded"),
            RedisError::TooLarge { what, bytes, limit } => {
                write!(f, "the {what} has {bytes} bytes, over the limit of {limit}")
            }
            RedisError::Invalid { what } | RedisError::Corrupt { what } => write!(f, "{what}"),
            RedisError::Version { version } => {
                write!(f, "redis {version} is older than 7.0")
            }
        }
    }
}

impl std::error::Error for RedisError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RedisError::Unavailable { source }
            | RedisError::Refused { source }
            | RedisError::Full { source } => Some(&**source),
            RedisError::TimedOut { .. }
            | RedisError::Replicas { .. }
            | RedisError::Superseded
            | RedisError::TooLarge { .. }
            | RedisError::Invalid { .. }
            | RedisError::Corrupt { .. }
            | RedisError::Version { .. } => None,
        }
    }
}

impl BackendError for RedisError {
    fn kind(&self) -> ErrorKind {
        match self {
            RedisError::Unavailable { .. }
            | RedisError::TimedOut { .. }
            | RedisError::Replicas { .. }
            | RedisError::Refused { .. }
            | RedisError::Version { .. } => ErrorKind::Unavailable,
            RedisError::Full { .. } => ErrorKind::Full,
            RedisError::Superseded => ErrorKind::Superseded,
            RedisError::TooLarge { .. } => ErrorKind::TooLarge,
            RedisError::Invalid { .. } => ErrorKind::Invalid,
            RedisError::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }
}

impl From<DecodeError> for RedisError {
    fn from(error: DecodeError) -> RedisError {
        RedisError::Corrupt { what: error.what() }
    }
}

/// What is wrong with a scope.
impl From<Error> for RedisError {
    fn from(error: Error) -> RedisError {
        match error {
            Error::TooLarge { what, bytes, limit } => RedisError::TooLarge { what, bytes, limit },
            Error::Invalid { what } => RedisError::Invalid { what },
            other => RedisError::Unavailable { source: Arc::new(other) },
        }
    }
}
