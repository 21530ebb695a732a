//! Key hash -> where its responses are. Knows nothing of files: keys are compared by the caller,
//! who reads the records at the candidates. Single-threaded; the shard's lock is the engine's.
//!
//! ```text
//! table      a tag of 15 bits and a place of 40 for each response, nine to a cache line
//! overflow   what found no room in the table, whole hashes; nearly always empty
//! recent     whole hashes of what no hint file holds yet: the table cannot give them back
//! delta      what was published while the next table is filled
//! ```
//! A slot keeps too little of a hash to be moved to a larger table. So a shard grows as it is
//! opened: the hints on disk and the recent ones fill a new table, then the delta is applied.

pub(crate) mod line;

pub(crate) mod table;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::index::table::Table;
use crate::location::Location;

pub(crate) use crate::index::line::SEGMENTS;

/// Shards, by the upper eight bits of a hash. A model checker gets few of them, and small ones, so
/// that its threads meet.
pub(crate) const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = if cfg!(shuttle) { 1 } else { 8 };
/// 64 lines are a page.
const LINES_MIN: f64 = if cfg!(shuttle) { 1.0 } else { 64.0 };
/// A larger table has so many times the lines.
const GROWTH: f64 = 1.125;
/// Loads, in thousandths of the slots: when a larger table is asked for, when one that was sized
/// for its keys asks for it, and when whoever wants to add a key waits for it.
const GROW_AT: usize = 930;
const GROW_SIZED_AT: usize = 975;
const FULL_AT: usize = 985;
/// A table that was just made larger is at most this full.
const GROWN_LOAD: f64 = 0.9;
/// A table sized for its keys is this full when they are all there.
const SIZED_LOAD: f64 = 0.958;

/// The shard of a hash.
pub(crate) fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> (64 - SHARD_BITS)).expect("eight bits are left")
}

/// The hashes of a shard.
pub(crate) fn hashes_of(shard: usize) -> RangeInclusive<u64> {
    let first = (shard as u64) << (64 - SHARD_BITS);
    first..=first | (u64::MAX >> SHARD_BITS)
}

/// The places under one hash: nearly always none or one.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    first: Option<Location>,
    rest: Vec<Location>,
}

impl Candidates {
    fn push(&mut self, location: Location) {
        if self.first.is_none() {
            self.first = Some(location);
        } else {
            self.rest.push(location);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Location> + '_ {
        self.first.into_iter().chain(self.rest.iter().copied())
    }
}

/// The responses of one shard.
#[derive(Debug)]
pub(crate) struct Index {
    shard: usize,
    table: Table,
    overflow: BTreeSet<(u64, Location)>,
    recent: Vec<(u64, Location)>,
    /// Places that were removed and that the hints may still name.
    forgotten: Vec<(u64, Location)>,
    growth: Growth,
    /// How many keys the table is sized for, where that is known.
    sized_for: usize,
    /// Segments below are swept.
    floor: u64,
}

#[derive(Debug)]
enum Growth {
    None,
    Asked,
    /// A larger table is being filled; what was published since.
    Running(Vec<Change>),
}

#[derive(Clone, Copy, Debug)]
struct Change {
    hash: u64,
    location: Location,
    replaced: Option<Location>,
}

/// A table that takes the place of a shard's when it is filled.
#[derive(Debug)]
pub(crate) struct Larger {
    table: Table,
    overflow: BTreeSet<(u64, Location)>,
    floor: u64,
    /// What no hint file had when the filling began.
    pub(crate) recent: Vec<(u64, Location)>,
}

impl Larger {
    pub(crate) fn add(&mut self, hash: u64, location: Location) {
        // What was dropped before the filling began is not a place that the table can name.
        let place = (hash, location);
        if location.segment() >= self.floor
            && !self.overflow.contains(&place)
            && !self.table.insert(hash, location)
        {
            self.overflow.insert((hash, location));
        }
    }

    /// Removes a place that was forgotten.
    pub(crate) fn remove(&mut self, hash: u64, location: Location) {
        if !self.table.remove(hash, location) {
            self.overflow.remove(&(hash, location));
        }
    }
}

impl Index {
    /// An empty index whose segments are all from `floor` on.
    pub(crate) fn new(shard: usize, expected_keys: u64, floor: u64) -> Index {
        let mean = expected_keys as f64 / SHARDS as f64;
        // Three standard deviations of how evenly keys fall into shards.
        let sized_for = whole(mean + 3.0 * mean.sqrt());
        Index {
            shard,
            table: Table::new(lines_for(shard, 0, sized_for), floor),
            overflow: BTreeSet::new(),
            recent: Vec::new(),
            forgotten: Vec::new(),
            growth: Growth::None,
            sized_for,
            floor,
        }
    }

    /// Asks the memory for what a look at `hash` will need.
    pub(crate) fn prefetch(&self, hash: u64) {
        self.table.prefetch(hash);
    }

    /// Every place where a response of a scope with this hash may be, in segments from `oldest`.
    pub(crate) fn candidates(&self, hash: u64, oldest: u64) -> Candidates {
        let mut candidates = Candidates::default();
        self.table.find(hash, |location| {
            if location.segment() >= oldest {
                candidates.push(location);
            }
        });
        if !self.overflow.is_empty() {
            let found = self.overflow.range((hash, Location::LOWEST)..=(hash, Location::HIGHEST));
            for &(_, location) in found.filter(|(_, location)| location.segment() >= oldest) {
                candidates.push(location);
            }
        }
        candidates
    }

    /// Adds a response that no hint file holds; `replaced` is the place of the one that it
    /// supersedes. `true` where a larger table is wanted from now on.
    pub(crate) fn publish(
        &mut self,
        hash: u64,
        location: Location,
        replaced: Option<Location>,
    ) -> bool {
        if location.segment() < self.floor {
            return false;
        }
        self.recent.push((hash, location));
        if let Growth::Running(delta) = &mut self.growth {
            delta.push(Change { hash, location, replaced });
        }
        self.apply(Change { hash, location, replaced });
        let wanted = matches!(self.growth, Growth::None) && self.wants_room();
        if wanted {
            self.growth = Growth::Asked;
        }
        wanted
    }

    fn apply(&mut self, change: Change) {
        let Change { hash, location, replaced } = change;
        if location.segment() < self.floor {
            return;
        }
        if let Some(replaced) = replaced
            && !self.table.remove(hash, replaced)
        {
            self.overflow.remove(&(hash, replaced));
        }
        if !self.overflow.contains(&(hash, location)) && !self.table.insert(hash, location) {
            self.overflow.insert((hash, location));
        }
    }

    fn wants_room(&self) -> bool {
        let sized = self.len() <= self.sized_for as u64;
        let at = if sized { GROW_SIZED_AT } else { GROW_AT };
        self.len() * 1000 >= (self.table.slots() * at) as u64
    }

    /// Whether a larger table was asked for.
    pub(crate) fn is_asked_to_grow(&self) -> bool {
        matches!(self.growth, Growth::Asked)
    }

    /// Whether a caller who is about to add a key should see to a larger table first.
    pub(crate) fn is_full(&self) -> bool {
        self.table.used() * 1000 >= self.table.slots() * FULL_AT
            && !matches!(self.growth, Growth::Running(_))
    }

    /// Begins to fill a table for `keys` that the hints on disk hold. To be finished.
    pub(crate) fn begin_load(&mut self, keys: u64) -> Larger {
        self.growth = Growth::Running(Vec::new());
        self.larger(usize::try_from(keys).unwrap_or(usize::MAX))
    }

    /// Removes a place that was forgotten.
    pub(crate) fn remove(&mut self, hash: u64, location: Location) {
        if !self.table.remove(hash, location) {
            self.overflow.remove(&(hash, location));
        }
        self.recent.retain(|&recent| recent != (hash, location));
        self.forgotten.push((hash, location));
    }

    /// Begins to fill a larger table, unless that is under way. To be finished or given up.
    pub(crate) fn begin_growth(&mut self) -> Option<Larger> {
        if matches!(self.growth, Growth::Running(_)) {
            return None;
        }
        if !self.wants_room() {
            self.growth = Growth::None;
            return None;
        }
        let (used, lines) = (self.table.used() + self.overflow.len(), self.table.lines());
        self.growth = Growth::Running(Vec::new());
        let mut larger = self.larger(used);
        if larger.table.lines() <= lines {
            larger = self.larger(lines * line::SLOTS);
        }
        Some(larger)
    }

    /// An empty table for so many keys, from the steps in which this shard grows.
    fn larger(&self, keys: usize) -> Larger {
        let lines = lines_for(self.shard, keys, self.sized_for);
        Larger {
            table: Table::new(lines, self.floor),
            overflow: BTreeSet::new(),
            floor: self.floor,
            recent: self.recent.clone(),
        }
    }

    /// Puts the larger table in the place of the old one.
    pub(crate) fn finish_growth(&mut self, larger: Larger) {
        let growth = std::mem::replace(&mut self.growth, Growth::None);
        let Growth::Running(delta) = growth else { unreachable!("a growth that began") };
        (self.table, self.overflow) = (larger.table, larger.overflow);
        if self.floor > larger.floor {
            // First: a segment number that was used again since is an old one to this table.
            self.sweep(self.floor);
        }
        delta.into_iter().for_each(|change| self.apply(change));
        for &(hash, location) in &self.forgotten {
            if !self.table.remove(hash, location) {
                self.overflow.remove(&(hash, location));
            }
        }
    }

    /// Goes on with the old table. Growth is tried again when the next key is added.
    pub(crate) fn give_up_growth(&mut self) {
        self.growth = Growth::None;
    }

    /// Removes every response in a segment below `oldest`.
    pub(crate) fn sweep(&mut self, oldest: u64) {
        self.table.sweep(oldest);
        let overflow = std::mem::take(&mut self.overflow);
        for (hash, location) in overflow {
            if location.segment() >= oldest && !self.table.insert(hash, location) {
                self.overflow.insert((hash, location));
            }
        }
        self.recent.retain(|(_, location)| location.segment() >= oldest);
        self.forgotten.retain(|(_, location)| location.segment() >= oldest);
        self.floor = self.floor.max(oldest);
    }

    /// The hint file of `segment` is there.
    pub(crate) fn hinted(&mut self, segment: u64) {
        self.recent.retain(|(_, location)| location.segment() != segment);
        if self.recent.capacity() > 4 * self.recent.len() + 64 {
            self.recent.shrink_to(2 * self.recent.len());
        }
    }

    /// How many responses there are, expired ones included.
    pub(crate) fn len(&self) -> u64 {
        (self.table.used() + self.overflow.len()) as u64
    }

    /// How many of them found no room in their lines.
    pub(crate) fn overflow(&self) -> u64 {
        self.overflow.len() as u64
    }

    /// Whether a response with this hash, which no hint file holds, is at this place.
    pub(crate) fn is_recent(&self, hash: u64, location: Location) -> bool {
        self.recent.contains(&(hash, location))
    }

    /// The memory of the table and what overflowed, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        // An entry of the overflow takes about 24 bytes of a tree node.
        (self.table.bytes() + self.overflow.len() * 24) as u64
    }

    /// The memory of the hashes that no hint file holds yet, in bytes.
    pub(crate) fn recent_bytes(&self) -> u64 {
        (self.recent.capacity() * size_of::<(u64, Location)>()) as u64
    }
}

/// How many lines a shard gets for so many keys, or for those that it is sized for. The shards
/// have their steps at different sizes, so that they grow one after the other.
fn lines_for(shard: usize, keys: usize, sized_for: usize) -> usize {
    let slots = line::SLOTS as f64;
    let mut lines = LINES_MIN * GROWTH.powf(shard as f64 / SHARDS as f64);
    while lines * slots * GROWN_LOAD < keys as f64 {
        lines *= GROWTH;
    }
    whole(lines).max(whole(sized_for as f64 / SIZED_LOAD / slots))
}

#[expect(clippy::cast_possible_truncation, reason = "a number of lines is far below 2^53")]
#[expect(clippy::cast_sign_loss, reason = "and not negative")]
fn whole(number: f64) -> usize {
    number.ceil() as usize
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod bars;

#[cfg(test)]
mod hostile;
