//! One cache line of the index: nine slots of a tag and a place, and the spill flags.

use crate::location::Location;

pub(crate) const SLOTS: usize = 9;
const SEGMENT_BITS: u32 = 18;
/// Segment numbers are kept modulo this: so many may be live at once.
pub(crate) const SEGMENTS: u64 = 1 << SEGMENT_BITS;

/// A place as a slot keeps it: granule in the lower 22 bits, segment modulo 2^18 above. Never zero
/// in its lower half, since no record stands at the very start of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u64);

impl Place {
    pub(crate) fn of(location: Location) -> Place {
        let (segment, granule) = (location.segment() % SEGMENTS, location.granule());
        debug_assert!(granule > 0, "a record at the start of its segment");
        Place((segment << Location::GRANULE_BITS) | granule)
    }

    /// The location again: its segment is the only one from `floor` on that fits.
    pub(crate) fn location(self, floor: u64) -> Location {
        let segment = self.0 >> Location::GRANULE_BITS;
        let above = segment.wrapping_sub(floor) % SEGMENTS;
        Location::of_granule(floor + above, self.0 & ((1 << Location::GRANULE_BITS) - 1))
    }
}

/// The 15 bits of a hash that a slot keeps, and whether it sits in its alternate line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag(u16);

impl Tag {
    const ALTERNATE: u16 = 1;

    /// The tag of a slot in its primary line.
    pub(crate) fn of(hash: u64) -> Tag {
        Tag(u16::try_from(hash & 0x7fff).expect("15 bits") << 1)
    }

    pub(crate) fn is_alternate(self) -> bool {
        self.0 & Tag::ALTERNATE != 0
    }

    pub(crate) fn home(self) -> Tag {
        Tag(self.0 & !Tag::ALTERNATE)
    }

    pub(crate) fn away(self) -> Tag {
        Tag(self.0 | Tag::ALTERNATE)
    }

    /// The same key in its other line.
    pub(crate) fn moved(self) -> Tag {
        Tag(self.0 ^ Tag::ALTERNATE)
    }

    /// Without the bit that says where it sits.
    pub(crate) fn bits(self) -> u64 {
        u64::from(self.0 >> 1)
    }

    /// The flag in the primary line that says that a key with such a tag left it.
    fn flag(self) -> u8 {
        1 << (self.bits() & 7)
    }
}

/// Empty where all bits are zero.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line {
    lo: [u32; SLOTS],
    tags: [u16; SLOTS],
    hi: [u8; SLOTS],
    spill: u8,
}

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    pub(crate) const EMPTY: Line =
        Line { lo: [0; SLOTS], tags: [0; SLOTS], hi: [0; SLOTS], spill: 0 };

    /// What a slot holds.
    pub(crate) fn get(&self, slot: usize) -> Option<(Tag, Place)> {
        let place = (u64::from(self.hi[slot]) << 32) | u64::from(self.lo[slot]);
        (self.lo[slot] != 0).then_some((Tag(self.tags[slot]), Place(place)))
    }

    pub(crate) fn set(&mut self, slot: usize, tag: Tag, place: Place) {
        self.lo[slot] = u32::try_from(place.0 & u64::from(u32::MAX)).expect("32 bits");
        self.hi[slot] = u8::try_from(place.0 >> 32).expect("a place has 40 bits");
        self.tags[slot] = tag.0;
    }

    pub(crate) fn clear(&mut self, slot: usize) {
        (self.lo[slot], self.hi[slot], self.tags[slot]) = (0, 0, 0);
    }

    /// The slots with this tag, as bits. A bit may stand for an empty slot.
    pub(crate) fn matches(&self, tag: Tag) -> u32 {
        let mut bits = 0;
        for (slot, &other) in self.tags.iter().enumerate() {
            bits |= u32::from(other == tag.0) << slot;
        }
        bits
    }

    /// The first slot that holds nothing.
    pub(crate) fn vacancy(&self) -> Option<usize> {
        self.lo.iter().position(|&lo| lo == 0)
    }

    /// Whether a key with such a tag may sit in its alternate line; this is its primary one.
    pub(crate) fn has_spilled(&self, tag: Tag) -> bool {
        self.spill & tag.flag() != 0
    }

    pub(crate) fn note_spill(&mut self, tag: Tag) {
        self.spill |= tag.flag();
    }

    /// Only for a recount: a flag that is missing makes a key absent.
    pub(crate) fn forget_spills(&mut self) {
        self.spill = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_gives_its_location_back_wherever_the_window_stands() {
        for floor in [1, SEGMENTS - 3, SEGMENTS, 5 * SEGMENTS + 7, (1 << 40) + 11] {
            for above in [0, 1, 77, SEGMENTS - 1] {
                let location = Location::new(floor + above, 8192 + 16 * above);
                assert_eq!(Place::of(location).location(floor), location);
            }
        }
    }

    #[test]
    fn a_slot_gives_back_what_was_set() {
        let mut line = Line::EMPTY;
        for slot in 0..SLOTS {
            assert_eq!(line.vacancy(), Some(slot));
            let tag = Tag::of(slot as u64 * 7919);
            let place = Place::of(Location::new(SEGMENTS - 1 - slot as u64, (64 << 20) - 16));
            line.set(slot, tag.away(), place);
            assert_eq!(line.get(slot), Some((tag.away(), place)));
            assert_eq!((line.matches(tag.away()) >> slot) & 1, 1);
            assert!(!line.has_spilled(tag.away()));
        }
        assert_eq!(line.vacancy(), None);
        line.clear(4);
        assert_eq!((line.get(4), line.vacancy()), (None, Some(4)));
    }
}
