//! What can go wrong, as one enum that a server can act on.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// The result of every fallible call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. Replays, conflicts and running operations are outcomes
/// ([`Claim`](crate::Claim)), not errors.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum Error {
    /// The operating system refused a call. Where it was a write or a sync the store is now
    /// poisoned, and later calls answer [`Error::Poisoned`].
    Io {
        /// What the store was doing.
        context: &'static str,
        /// What the system answered.
        source: Arc<io::Error>,
    },
    /// Bytes that were durable do not verify. Damage is never taken for absence: a scope whose
    /// record is damaged gets this error, not a grant. Where an open answers it,
    /// [`Options::on_damage`](crate::Options::on_damage) says what can be done.
    Corrupt {
        /// The sequence number of the segment, counted from 1; 0 for the files beside the segments.
        segment: u64,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// Somebody, in this process or another, has the directory open.
    AlreadyOpen {
        /// The directory.
        dir: PathBuf,
    },
    /// No room for another claim, another checkpoint or an erasure. Replays and conflicts go on,
    /// and every granted claim, orphans included, can complete, at worst without its response, or
    /// be released.
    ///
    /// What to do, by what is full:
    /// - *the file system*: make room on it, or delete old backups; watch
    ///   [`Stats::headroom_bytes`](crate::Stats::headroom_bytes);
    /// - *`disk_budget_bytes`*: raise [`Options::disk_budget_bytes`](crate::Options), or wait until
    ///   a segment expires;
    /// - *open claims*: complete, release or resolve some; see
    ///   [`Store::unresolved`](crate::Store::unresolved). A claim of a fresh key may be retried.
    Full {
        /// What is full.
        what: &'static str,
    },
    /// An argument is over its limit. Nothing was stored.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The attempt is no longer the current one of its scope: it was taken over, resolved or
    /// released by somebody else. Nothing was changed.
    Superseded,
    /// The directory was written in a format that this version does not know.
    Version {
        /// The format version found.
        found: u32,
        /// The newest format version that this version reads.
        supported: u32,
    },
    /// A write or sync failed earlier, so what was in doubt stays in doubt. Durable data can still
    /// be looked up; reopening the store is the way back.
    Poisoned {
        /// The failure that poisoned the store.
        cause: Arc<str>,
    },
    /// The store was closed.
    Closed,
    /// An argument or option can never work, or a call is not allowed in this state.
    Invalid {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The directory holds no store, and none was to be made: with
    /// [`Create::Never`](crate::Create::Never) or
    /// [`Options::open_read_only`](crate::Options::open_read_only).
    Missing {
        /// The directory.
        dir: PathBuf,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody mending the store: true for
    /// [`Error::Full`] and [`Error::AlreadyOpen`].
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Full { .. } | Error::AlreadyOpen { .. })
    }

    pub(crate) fn io(context: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { context, source: Arc::new(source) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { context, source } => write!(f, "cannot {context}: {source}"),
            Error::Corrupt { segment: 0, offset, what } => write!(f, "{what} at byte {offset}"),
            Error::Corrupt { segment, offset, what } => {
                write!(f, "segment {segment} is damaged at byte {offset}: {what}")
            }
            Error::AlreadyOpen { dir } => write!(f, "{} is already open", dir.display()),
            Error::Full { what } => write!(f, "no room: {what}"),
            Error::TooLarge { what, bytes, limit } => {
                write!(f, "{what} has {bytes} bytes, the limit is {limit}")
            }
            Error::Superseded => write!(f, "the attempt is no longer the current one"),
            Error::Version { found, supported } => {
                write!(f, "format version {found} is not known, the newest known is {supported}")
            }
            Error::Poisoned { cause } => {
                write!(f, "the store is poisoned and must be reopened: {cause}")
            }
            Error::Closed => write!(f, "the store is closed"),
            Error::Invalid { what } => write!(f, "{what}"),
            Error::Missing { dir } => write!(f, "{} holds no store", dir.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
