//! How a command ends that did not do what was asked: what is said, and the exit code.

use std::io;
use std::path::{Path, PathBuf};

use oncelog::Error;

/// What a command comes to.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

pub(crate) enum Failure {
    /// The store at this directory refused.
    Store(PathBuf, Error),
    /// What was to be printed could not be.
    Output(io::Error),
    Usage(String),
    NotFound(String),
    /// What is damaged was printed.
    Damaged(String),
    /// Somebody else has the store open.
    Owned(PathBuf),
    NotConfirmed(String),
    /// What is wrong with the clock was printed.
    Clock,
}

/// Names the store that an error is of.
pub(crate) fn of(dir: &Path) -> impl FnOnce(Error) -> Failure {
    move |error| Failure::Store(dir.to_owned(), error)
}

impl Failure {
    /// As the help lists them.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Failure::Output(_) => 1,
            Failure::Usage(_) => 2,
            Failure::NotFound(_) => 3,
            Failure::Damaged(_) => 4,
            Failure::Owned(_) => 5,
            Failure::NotConfirmed(_) => 7,
            Failure::Clock => 8,
            Failure::Store(_, error) => match error {
                Error::Invalid { .. } | Error::TooLarge { .. } => 2,
                // An attempt that was superseded meanwhile is no orphan any more.
                Error::Superseded => 3,
                Error::Corrupt { .. } => 4,
                Error::AlreadyOpen { .. } => 5,
                Error::Missing { .. } | Error::Version { .. } => 6,
                _ => 1,
            },
        }
    }

    /// `None` where nobody is there to read it, or all was said.
    pub(crate) fn text(&self) -> Option<String> {
        let text = match self {
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return None,
            Failure::Output(error) => format!("cannot write the output: {error}"),
            Failure::Usage(text)
            | Failure::NotFound(text)
            | Failure::Damaged(text)
            | Failure::NotConfirmed(text) => text.clone(),
            Failure::Clock => return None,
            Failure::Owned(dir) | Failure::Store(_, Error::AlreadyOpen { dir }) => owned(dir),
            // They name the directory themselves.
            Failure::Store(_, error @ Error::Missing { .. }) => error.to_string(),
            Failure::Store(dir, error) => format!("{}: {error}", dir.display()),
        };
        Some(text)
    }
}

fn owned(dir: &Path) -> String {
    format!(
        "{} is open in another process, and only that one can change it.\n\
         Ask it, by the admin router if the server mounts one, or stop the server and\n\
         run this again. What only reads works beside it: stat, get, list, unresolved,\n\
         verify, backup, check-clock.",
        dir.display()
    )
}
