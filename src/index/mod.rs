//! Key hash -> where its responses are. Knows nothing of files: keys are compared by the caller,
//! who reads the records at the candidates. Single-threaded; the shard's lock is the engine's.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::location::Location;

/// The responses of one shard: every location under the hash of its scope. Plain and obvious, so
/// that a faster index has something to be compared with.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: BTreeSet<(u64, Location)>,
}

impl Index {
    /// Every place where a response of a scope with this hash may be, newest first.
    pub(crate) fn candidates(&self, hash: u64) -> impl Iterator<Item = Location> + '_ {
        self.entries.range(range_of(hash)).rev().map(|&(_, location)| location)
    }

    /// Adds a response; `replaced` is the place of the one that it supersedes.
    pub(crate) fn publish(&mut self, hash: u64, location: Location, replaced: Option<Location>) {
        if let Some(replaced) = replaced {
            self.entries.remove(&(hash, replaced));
        }
        self.entries.insert((hash, location));
    }

    /// Removes every response in a segment below `oldest`.
    pub(crate) fn sweep(&mut self, oldest: u64) {
        self.entries.retain(|(_, location)| location.segment() >= oldest);
    }

    /// How many responses there are, expired ones included.
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// About how much memory they take, in bytes: 16 an entry in tree nodes two thirds full.
    pub(crate) fn bytes(&self) -> u64 {
        self.len() * 24
    }
}

fn range_of(hash: u64) -> RangeInclusive<(u64, Location)> {
    (hash, Location::new(0, 0))..=(hash, Location::HIGHEST)
}
