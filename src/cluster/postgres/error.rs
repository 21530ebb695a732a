//! What goes wrong in a store of claims in PostgreSQL.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::http::backend::{BackendError, ErrorKind};

/// What goes wrong in a [`PostgresStore`](crate::cluster::PostgresStore).
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum PostgresError {
    /// The server gave no answer, or refused the statement. A write may have arrived or not.
    Unavailable {
        /// What was asked.
        context: &'static str,
        /// What the client or the pool says.
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The server did not answer in this time. A write may have arrived or not.
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// The disk of the server is full (SQLSTATE 53100): no room for another claim.
    Full {
        /// What the server says.
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The attempt is no longer the current one of its scope.
    Superseded,
    /// The scope or the checkpoint is over its limit.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its bytes.
        bytes: u64,
        /// How many it may have.
        limit: u64,
    },
    /// An argument, an option or the caller's transaction is not allowed.
    Invalid {
        /// Why.
        what: &'static str,
    },
    /// A row of the store is not what the store writes.
    Corrupt {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The schema is not there, or is one of a newer version of this crate.
    Version {
        /// The version that was found; `None` where there is no store.
        found: Option<i32>,
        /// The version that this crate knows.
        known: i32,
    },
}

impl PostgresError {
    /// Whether the same call may succeed later, without a change of it.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Full { .. })
    }

    pub(crate) fn of(context: &'static str, error: tokio_postgres::Error) -> PostgresError {
        let full = error.code() == Some(&SqlState::DISK_FULL);
        let source = Arc::new(error);
        if full { PostgresError::Full { source } } else { Self::Unavailable { context, source } }
    }
}

impl fmt::Display for PostgresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { context, .. } => write!(f, "PostgreSQL failed: {context}"),
            Self::TimedOut { after } => {
                write!(f, "PostgreSQL gave no answer in {} ms", after.as_millis())
            }
            Self::Full { .. } => f.write_str("the disk of PostgreSQL is full"),
            Self::Superseded => f.write_str("the attempt was superseded"),
            Self::TooLarge { what, bytes, limit } => {
                write!(f, "the {what} has {bytes} bytes, of at most {limit}")
            }
            Self::Invalid { what } => f.write_str(what),
            Self::Corrupt { what } => write!(f, "a row is damaged: {what}"),
            Self::Version { found: None, .. } => f.write_str("there is no store in this schema"),
            Self::Version { found: Some(found), known } => {
                write!(f, "the schema has version {found}, and this program knows {known}")
            }
        }
    }
}

impl StdError for PostgresError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unavailable { source, .. } | Self::Full { source } => Some(&**source),
            _ => None,
        }
    }
}

impl BackendError for PostgresError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Version { .. } => {
                ErrorKind::Unavailable
            }
            Self::Full { .. } => ErrorKind::Full,
            Self::Superseded => ErrorKind::Superseded,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }
}

/// What a scope's own check finds.
impl From<Error> for PostgresError {
    fn from(error: Error) -> PostgresError {
        match error {
            Error::TooLarge { what, bytes, limit } => Self::TooLarge { what, bytes, limit },
            Error::Invalid { what } => Self::Invalid { what },
            other => Self::Unavailable { context: "checking a scope", source: Arc::new(other) },
        }
    }
}
