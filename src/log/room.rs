//! Room in the tail: what is kept free in it, so that every open claim can end.
//!
//! ```text
//! records | the end of every open claim | CLEAN | SEAL | <= blocks of the tail <= its size
//! ```
//! Whatever makes the log grow leaves that much, or goes to the next segment, or is `Full`. What
//! ends a claim takes the share of its claim and needs neither blocks nor another segment, so a
//! full disk refuses claims and bodies, and nothing else. The CLEAN is for an open on a full disk:
//! it makes the tail one that can be gone on in. Each end brings the room of another.

use std::io;

use crate::error::Error;
use crate::format::record;
use crate::log::OpenClaim;
use crate::storage::File;

/// Blocks are allocated this far ahead, at least and at most: a small store stays small.
pub(in crate::log) const AHEAD_BYTES_MIN: u64 = 64 * 1024;
pub(in crate::log) const AHEAD_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a record does to the room that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// It leaves all of it, and adds so many bytes to it.
    Grows(u64),
    /// It takes the place that is kept for a CLEAN.
    Clean,
    /// It ends a claim, and takes that claim's share.
    Ends,
}

/// Kept in every tail: a CLEAN and a SEAL.
pub(crate) const SPARE_BYTES: u64 = 2 * record::SEAL_BYTES;

/// Kept for the end of a claim: a COMPLETE without its body, and the CLEAN of an open after it.
pub(crate) fn ending_bytes(scope_bytes: usize) -> u64 {
    record::complete_bytes(scope_bytes) + record::SEAL_BYTES
}

/// What is kept for this claim.
pub(in crate::log) fn ending_of(claim: &OpenClaim) -> u64 {
    ending_bytes(claim.facts.scope.len())
}

/// What a roll writes for this claim.
pub(crate) fn carried_bytes(claim: &OpenClaim) -> u64 {
    let checkpoint = claim.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.len());
    record::carried_bytes(claim.facts.scope.len(), checkpoint)
}

/// Gives `file` blocks from `start` to `wish`, or to `enough` where there is no room for more.
/// Returns where they end.
pub(in crate::log) fn allocate(
    file: &dyn File,
    start: u64,
    enough: u64,
    wish: u64,
) -> io::Result<u64> {
    match file.allocate(start..wish) {
        Err(error) if is_full(&error) && enough < wish => {
            file.allocate(start..enough).map(|()| enough)
        }
        allocated => allocated.map(|()| wish),
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// `Full` where the device has no room, else `Io`.
pub(crate) fn full_or(context: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| match error {
        error if is_full(&error) => Error::Full { what: "the file system" },
        error => Error::io(context)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Mutex;

    /// A device that has room up to `end`, or answers `broken`; remembers what it was asked for.
    #[derive(Debug)]
    struct Device {
        end: u64,
        broken: Option<io::ErrorKind>,
        asked: Mutex<Vec<u64>>,
    }

    impl Device {
        fn asked(end: u64, broken: Option<io::ErrorKind>, enough: u64) -> (Option<u64>, Vec<u64>) {
            let device = Device { end, broken, asked: Mutex::default() };
            let end = allocate(&device, 10, enough, 100).ok();
            (end, device.asked.into_inner())
        }
    }

    impl File for Device {
        fn size(&self) -> io::Result<u64> {
            Ok(u64::MAX)
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            unreachable!("nothing is read")
        }

        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            unreachable!("nothing is written")
        }

        fn allocate(&self, range: std::ops::Range<u64>) -> io::Result<()> {
            self.asked.lock().push(range.end);
            match self.broken {
                Some(kind) => Err(kind.into()),
                None if range.end > self.end => Err(io::ErrorKind::StorageFull.into()),
                None => Ok(()),
            }
        }

        fn discard(&self, _: std::ops::Range<u64>) -> io::Result<()> {
            unreachable!("nothing is given back")
        }

        fn sync(&self) -> io::Result<()> {
            unreachable!("nothing is synced")
        }
    }

    #[test]
    fn where_the_wish_does_not_fit_enough_is_taken_and_a_device_error_is_final() {
        let broken = Some(io::ErrorKind::Other);
        assert_eq!(Device::asked(100, None, 50), (Some(100), vec![100]));
        assert_eq!(Device::asked(99, None, 50), (Some(50), vec![100, 50]));
        assert_eq!(Device::asked(49, None, 50), (None, vec![100, 50]));
        assert_eq!(Device::asked(99, None, 100), (None, vec![100]), "there is nothing less to ask");
        assert_eq!(Device::asked(100, broken, 50), (None, vec![100]), "room is not what lacks");
    }
}
