//! The lines of one shard: each key may sit in two of them.
//!
//! A key prefers its primary line; what moves to the alternate one leaves a flag behind, without
//! which a reader looks at one line only. Flags are cleared by the sweep's recount alone.

use crate::index::line::{Line, Place, SLOTS, Tag};
use crate::location::Location;

/// How many lines a search for room may look at.
const SEARCH_LINES: usize = 64;

#[derive(Debug)]
pub(crate) struct Table {
    /// None before the first key.
    lines: Vec<Line>,
    /// How many lines there are, or will be.
    count: usize,
    /// Slots that hold something, of dropped segments too.
    used: usize,
    /// Every place is in a segment from here on.
    floor: u64,
}

/// A line that the search for room has reached.
#[derive(Clone, Copy)]
struct Reached {
    line: usize,
    /// The step before it, and the slot there that would move here.
    from: Option<(usize, usize)>,
}

impl Table {
    pub(crate) fn new(lines: usize, floor: u64) -> Table {
        Table { lines: Vec::new(), count: lines.max(2), used: 0, floor }
    }

    pub(crate) fn lines(&self) -> usize {
        self.count
    }

    /// The memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn slots(&self) -> usize {
        self.count * SLOTS
    }

    /// Calls back with every place under the tag of `hash`.
    pub(crate) fn find(&self, hash: u64, mut each: impl FnMut(Location)) {
        let (tag, primary) = (Tag::of(hash), self.primary(hash));
        let Some(line) = self.lines.get(primary) else { return };
        self.matching(line, tag, &mut each);
        if line.has_spilled(tag) {
            self.matching(&self.lines[self.alternate(primary, tag)], tag.away(), &mut each);
        }
    }

    /// How many lines a look at `hash` touches.
    #[cfg(test)]
    pub(in crate::index) fn touched(&self, hash: u64) -> u8 {
        let Some(line) = self.lines.get(self.primary(hash)) else { return 0 };
        if line.has_spilled(Tag::of(hash)) { 2 } else { 1 }
    }

    fn matching(&self, line: &Line, tag: Tag, each: &mut impl FnMut(Location)) {
        let mut bits = line.matches(tag);
        while bits != 0 {
            if let Some((_, place)) = line.get(bits.trailing_zeros() as usize) {
                each(place.location(self.floor));
            }
            bits &= bits - 1;
        }
    }

    /// Asks the memory for both lines of `hash`, so that they come while something else is done.
    pub(crate) fn prefetch(&self, hash: u64) {
        let primary = self.primary(hash);
        for line in [primary, self.alternate(primary, Tag::of(hash))] {
            self.lines.get(line).into_iter().for_each(prefetch);
        }
    }

    /// Empties the slot of a place. `false` where there is none.
    pub(crate) fn remove(&mut self, hash: u64, location: Location) -> bool {
        let Some((line, slot)) = self.slot_of(hash, location) else { return false };
        self.lines[line].clear(slot);
        self.used -= 1;
        true
    }

    fn slot_of(&self, hash: u64, location: Location) -> Option<(usize, usize)> {
        let (tag, primary) = (Tag::of(hash), self.primary(hash));
        let place = Place::of(location);
        let lines = [(primary, tag), (self.alternate(primary, tag), tag.away())];
        lines.into_iter().find_map(|(line, tag)| {
            let held = self.lines.get(line)?;
            let slot = (0..SLOTS).find(|&slot| held.get(slot) == Some((tag, place)))?;
            Some((line, slot))
        })
    }

    /// Adds a place; nothing changes where it is there already. `false` where there is no room.
    pub(crate) fn insert(&mut self, hash: u64, location: Location) -> bool {
        let (tag, primary) = (Tag::of(hash), self.primary(hash));
        let alternate = self.alternate(primary, tag);
        let place = Place::of(location);
        if self.lines.is_empty() {
            self.lines = vec![Line::EMPTY; self.count];
        }
        let holds = |line: &Line, tag| (0..SLOTS).any(|slot| line.get(slot) == Some((tag, place)));
        if self.lines[primary].matches(tag) != 0 && holds(&self.lines[primary], tag) {
            return true;
        }
        if self.lines[primary].has_spilled(tag) && holds(&self.lines[alternate], tag.away()) {
            return true;
        }
        if let Some(slot) = self.lines[primary].vacancy() {
            self.lines[primary].set(slot, tag, place);
        } else if let Some(slot) = self.lines[alternate].vacancy() {
            self.put_away(primary, alternate, slot, tag, place);
        } else if let Some((line, slot)) = self.make_room(primary, alternate) {
            if line == primary {
                self.lines[primary].set(slot, tag, place);
            } else {
                self.put_away(primary, alternate, slot, tag, place);
            }
        } else {
            return false;
        }
        self.used += 1;
        true
    }

    fn put_away(&mut self, primary: usize, alternate: usize, slot: usize, tag: Tag, place: Place) {
        self.lines[alternate].set(slot, tag.away(), place);
        self.lines[primary].note_spill(tag);
    }

    /// Frees a slot in one of the two lines by moving others to their other lines, along the
    /// shortest chain.
    fn make_room(&mut self, primary: usize, alternate: usize) -> Option<(usize, usize)> {
        let mut reached = [Reached { line: primary, from: None }; SEARCH_LINES];
        let mut count = 1;
        if alternate != primary {
            reached[1].line = alternate;
            count = 2;
        }
        let mut at = 0;
        while at < count {
            let line = reached[at].line;
            self.prefetch_others(line);
            for slot in 0..SLOTS {
                let Some((tag, _)) = self.lines[line].get(slot) else { continue };
                let other = self.alternate(line, tag);
                if reached[..count].iter().any(|reached| reached.line == other) {
                    continue;
                }
                if let Some(vacancy) = self.lines[other].vacancy() {
                    return Some(self.shift(&reached, at, slot, other, vacancy));
                }
                if count < SEARCH_LINES {
                    reached[count] = Reached { line: other, from: Some((at, slot)) };
                    count += 1;
                }
            }
            at += 1;
        }
        None
    }

    /// Asks the memory for every line that a slot of this one could move to.
    fn prefetch_others(&self, line: usize) {
        for slot in 0..SLOTS {
            if let Some((tag, _)) = self.lines[line].get(slot) {
                prefetch(&self.lines[self.alternate(line, tag)]);
            }
        }
    }

    /// Moves one key after the other, the last of the chain first, and returns the slot that is
    /// free then.
    fn shift(
        &mut self,
        reached: &[Reached; SEARCH_LINES],
        mut at: usize,
        mut slot: usize,
        mut to: usize,
        mut vacancy: usize,
    ) -> (usize, usize) {
        loop {
            let line = reached[at].line;
            let (tag, place) = self.lines[line].get(slot).expect("a slot that was full");
            self.lines[to].set(vacancy, tag.moved(), place);
            self.lines[line].clear(slot);
            if !tag.is_alternate() {
                self.lines[line].note_spill(tag);
            }
            match reached[at].from {
                None => return (line, slot),
                Some((before, from)) => (to, vacancy, at, slot) = (line, slot, before, from),
            }
        }
    }

    /// Clears what is in a segment below `oldest`, moves home what has room there, and counts the
    /// flags again.
    pub(crate) fn sweep(&mut self, oldest: u64) {
        for line in &mut self.lines {
            for slot in 0..SLOTS {
                let Some((_, place)) = line.get(slot) else { continue };
                if place.location(self.floor).segment() < oldest {
                    line.clear(slot);
                    self.used -= 1;
                }
            }
            line.forget_spills();
        }
        self.floor = self.floor.max(oldest);
        for away in 0..self.lines.len() {
            for slot in 0..SLOTS {
                let Some((tag, place)) = self.lines[away].get(slot) else { continue };
                if !tag.is_alternate() {
                    continue;
                }
                let primary = self.alternate(away, tag);
                if let Some(vacancy) = self.lines[primary].vacancy() {
                    self.lines[primary].set(vacancy, tag.home(), place);
                    self.lines[away].clear(slot);
                } else {
                    self.lines[primary].note_spill(tag);
                }
            }
        }
    }

    fn primary(&self, hash: u64) -> usize {
        self.scaled((hash >> 24) & u64::from(u32::MAX))
    }

    /// The other line of a key with this tag: each is the other of the other.
    fn alternate(&self, line: usize, tag: Tag) -> usize {
        let sum = self.scaled(tag.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
        if sum >= line { sum - line } else { sum + self.count - line }
    }

    /// Maps 32 bits evenly to the lines.
    fn scaled(&self, bits: u64) -> usize {
        let line = (bits * self.count as u64) >> 32;
        usize::try_from(line).expect("below the number of lines")
    }
}

/// Without effect but on time.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "there is no safe way to ask for a line ahead")]
fn prefetch(line: &Line) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing, and the address is that of a live line.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast()) }
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_: &Line) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: &Table, hash: u64) -> Vec<Location> {
        let mut found = Vec::new();
        table.find(hash, |location| found.push(location));
        found
    }

    /// Spreads a counter over 64 bits.
    fn hash(number: u64) -> u64 {
        let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    fn location(number: u64) -> Location {
        Location::new(1 + number / 1000, 8192 + 16 * (number % 1000))
    }

    #[test]
    fn the_alternate_of_the_alternate_is_the_line_itself() {
        for lines in [2, 3, 64, 65, 1000, 1023] {
            let table = Table::new(lines, 1);
            for tag in (0..0x8000).step_by(17).map(Tag::of) {
                for line in 0..lines {
                    let other = table.alternate(line, tag);
                    assert!(other < lines);
                    assert_eq!(table.alternate(other, tag), line);
                }
            }
        }
    }

    #[test]
    fn a_table_takes_985_of_1000_slots_before_the_first_refusal() {
        let mut table = Table::new(4096, 1);
        let mut number = 0;
        while table.insert(hash(number), location(number)) {
            number += 1;
        }
        let load = table.used() as f64 / table.slots() as f64;
        assert!(load > 0.985, "refused at a load of {load}");
        for number in 0..number {
            assert!(found(&table, hash(number)).contains(&location(number)), "{number} is lost");
        }
    }

    #[test]
    fn the_same_place_twice_is_one_slot() {
        let mut table = Table::new(2, 1);
        for number in 0..12 {
            assert!(table.insert(hash(number), location(number)));
        }
        for number in 0..12 {
            assert!(table.insert(hash(number), location(number)));
        }
        assert_eq!(table.used(), 12);
    }

    #[test]
    fn keys_with_one_tag_and_one_line_fill_both_lines_and_no_more() {
        let mut table = Table::new(64, 1);
        let room = if table.alternate(table.primary(5), Tag::of(5)) == table.primary(5) {
            SLOTS
        } else {
            2 * SLOTS
        };
        let taken = (0..30).filter(|&number| table.insert(5, location(number))).count();
        assert_eq!(taken, room);
        assert_eq!(found(&table, 5).len(), room);
    }

    #[test]
    fn a_sweep_clears_the_dropped_and_keeps_the_rest_within_reach() {
        let mut table = Table::new(512, 1);
        let count = 4400;
        for number in 0..count {
            assert!(table.insert(hash(number), location(number)));
        }
        table.sweep(3);
        for number in 0..count {
            let kept = location(number).segment() >= 3;
            assert_eq!(found(&table, hash(number)).contains(&location(number)), kept);
        }
        assert_eq!(table.used() as u64, count - 2000);
        let away = table.lines.iter().flat_map(|line| (0..SLOTS).filter_map(|s| line.get(s)));
        assert!(away.filter(|(tag, _)| tag.is_alternate()).count() < 100, "few stay away");
    }

    /// A miss looks at one line, and at the other one where the flag of its tag is set.
    #[test]
    fn a_miss_looks_at_1_3_lines_at_a_load_of_0_90_after_churn() {
        let mut table = Table::new(1000, 1);
        let (mut added, mut oldest, mut worst) = (0, 1, 0.0f64);
        // Ten lifetimes of about eight segments.
        while added < 80_000 {
            assert!(table.insert(hash(added), location(added)));
            added += 1;
            if table.used() * 10 < table.slots() * 9 {
                continue;
            }
            let misses = 0..10_000;
            let flagged = misses.clone().filter(|number| {
                let hash = hash(1_000_000 + number);
                table.lines[table.primary(hash)].has_spilled(Tag::of(hash))
            });
            worst = worst.max(1.0 + flagged.count() as f64 / misses.end as f64);
            oldest += 1;
            table.sweep(oldest);
        }
        assert!(worst <= 1.3, "{worst} lines a miss");
    }
}
