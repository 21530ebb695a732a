//! A store as it was at one point of its log, read from front to back, in constant memory.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::backup::{Backup, Files};
use crate::clock::from_ms;
use crate::engine::outcome::OrphanInfo;
use crate::error::Result;
use crate::scope::Token;
use crate::snapshot::{Entries, Snapshot};
use crate::storage::Owner;
use crate::verify::Verification;

/// A store at one point of its log, from [`Options::scan_read_only`](crate::Options): a
/// [`Snapshot`] without an index, so it finds no scope by itself, and takes memory for the hints of
/// one segment and what was not sealed, however many responses there are.
///
/// It has no lock and changes no byte of the store, whoever has it open.
///
/// What it shows differs in one case from a [`Snapshot`]: where a process died while it erased
/// records whose FORGET is in a sealed segment already, they are shown until an open ends that.
#[derive(Debug)]
pub struct Scan(Snapshot);

/// What an open of the store would make of the clock, from [`Scan::clock`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockCheck {
    /// The newest store time on record; `None` where the store never held a record.
    pub recorded: Option<SystemTime>,
    /// What the clock says.
    pub clock: SystemTime,
    /// The store time that an open would go on from: the clock's, but never before `recorded`, and
    /// `recorded` itself where the clock is not believed.
    pub store: SystemTime,
    /// Whether the clock is so far ahead that an open would not believe it: nothing expires by it
    /// for an hour, or until [`Store::accept_clock`](crate::Store::accept_clock).
    pub held: bool,
    /// The longest stop that is believed: the ttl, or 30 days where that is longer.
    pub stop_max: Duration,
}

impl Scan {
    pub(crate) fn new(snapshot: Snapshot) -> Scan {
        Scan(snapshot)
    }

    /// Whether somebody had the store open when the scan began.
    pub fn owner(&self) -> Owner {
        self.0.owner()
    }

    /// The newest record that it shows; `None` where the store never held one.
    pub fn upto(&self) -> Option<Token> {
        self.0.newest().0
    }

    /// Every claim whose outcome is unknown, oldest first.
    pub fn unresolved(&self) -> Vec<OrphanInfo> {
        self.0.unresolved()
    }

    /// As [`Snapshot::entries`].
    pub fn entries(&self) -> Entries<'_> {
        self.0.entries()
    }

    /// As [`Snapshot::verify`].
    ///
    /// # Errors
    /// `Io` where a file that is there cannot be opened; whatever else is wrong is damage.
    pub fn verify(&self) -> Result<Verification> {
        self.0.verify()
    }

    /// Copies the store to a directory that is new or empty, and verifies the copy, as
    /// [`Store::backup`](crate::Store::backup) does, and beside whoever has the store open.
    /// It shows the store as it is when this is called, up to [`Backup::upto`].
    ///
    /// Sealed segments are hard-linked where the file system allows that. The copy is made in a
    /// directory of the same name with `.tmp` behind it, which gets its name once it is whole, and
    /// is removed where the copy fails. One that is left by a process that died is to be removed.
    ///
    /// # Errors
    /// `Invalid` where the directory is not empty, or that other directory is there; `Corrupt`
    /// where the store or the copy is damaged, or a segment is in quarantine; `Io`.
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<Backup> {
        self.0.copy_to(dir.as_ref(), Files::Linked)
    }

    /// The same, with every byte copied: the copy shares no file with this store, so what is
    /// erased in one is kept by the other. A backup is restored like this.
    ///
    /// # Errors
    /// As [`Scan::backup`].
    pub fn copy(&self, dir: impl AsRef<Path>) -> Result<Backup> {
        self.0.copy_to(dir.as_ref(), Files::Copied)
    }

    /// What an open with the same ttl and clock would make of the clock.
    pub fn clock(&self) -> ClockCheck {
        let (reading, (_, newest_ms)) = (self.0.reading(), self.0.newest());
        ClockCheck {
            recorded: (newest_ms > 0).then(|| from_ms(newest_ms)),
            clock: from_ms(self.0.wall_ms()),
            store: from_ms(reading.now_ms),
            held: reading.is_held(),
            stop_max: Duration::from_millis(self.0.stop_max_ms()),
        }
    }
}
