//! Where a record is, and which place in the history it has.

use std::fmt;

/// A log sequence number: the number of the open (the epoch) in the upper bits, a counter of the
/// records since in the lower 40. Every open makes its epoch durable before its first record, so
/// that no number is handed out twice, whatever a power cut took.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    /// 2^40 records an epoch: 12 days at a million records a second, without a restart.
    const COUNTER_BITS: u32 = 40;
    /// Keeps every number below 2^63, so that a token fits a signed SQL bigint.
    pub(crate) const EPOCH_MAX: u64 = (1 << 23) - 1;
    pub(crate) const ZERO: Lsn = Lsn(0);
    pub(crate) const HIGHEST: Lsn = Lsn((1 << 63) - 1);

    /// The first number of `epoch`.
    pub(crate) fn first_of(epoch: u64) -> Lsn {
        Lsn(epoch << Self::COUNTER_BITS)
    }

    pub(crate) fn epoch(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    pub(crate) fn counter(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }

    pub(crate) fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }

    /// The number just below; for the first number of an epoch this lies above every number of
    /// the epochs before it.
    pub(crate) fn before(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// Whether a record with this number may stand right behind one with `previous`.
    pub(crate) fn follows(self, previous: Lsn) -> bool {
        self == previous.next() || (self.counter() == 0 && self.epoch() > previous.epoch())
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch(), self.counter())
    }
}

/// The place of a record: segment sequence number (42 bits) and offset in granules of 16 bytes
/// (22 bits, which is 64 MiB).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Location(u64);

impl Location {
    pub(crate) const GRANULE: u64 = 16;
    pub(crate) const GRANULE_BITS: u32 = 22;
    /// The largest segment that an offset can address, in bytes.
    pub(crate) const SEGMENT_BYTES_MAX: u64 = Self::GRANULE << Self::GRANULE_BITS;

    /// Segment numbers are below.
    pub(crate) const SEGMENTS_MAX: u64 = 1 << (64 - Self::GRANULE_BITS);

    /// No location is lower.
    pub(crate) const LOWEST: Location = Location(0);
    /// No location is higher.
    pub(crate) const HIGHEST: Location = Location(u64::MAX);

    /// `offset` is a multiple of 16 below 64 MiB.
    pub(crate) fn new(segment: u64, offset: u64) -> Location {
        debug_assert!(offset.is_multiple_of(Self::GRANULE) && offset < Self::SEGMENT_BYTES_MAX);
        Location((segment << Self::GRANULE_BITS) | (offset / Self::GRANULE))
    }

    /// The same with the offset in granules.
    pub(crate) fn of_granule(segment: u64, granule: u64) -> Location {
        debug_assert!(granule < 1 << Self::GRANULE_BITS);
        Location((segment << Self::GRANULE_BITS) | granule)
    }

    /// The place that a record names, if there can be such a place: none stands at the very start
    /// of a segment, and the index takes that place for an empty slot.
    pub(crate) fn checked(segment: u64, offset: u64) -> Option<Location> {
        let addressable = offset > 0
            && offset < Self::SEGMENT_BYTES_MAX
            && offset.is_multiple_of(Self::GRANULE)
            && segment < Self::SEGMENTS_MAX;
        addressable.then(|| Location::new(segment, offset))
    }

    pub(crate) fn segment(self) -> u64 {
        self.0 >> Self::GRANULE_BITS
    }

    pub(crate) fn granule(self) -> u64 {
        self.0 & ((1 << Self::GRANULE_BITS) - 1)
    }

    pub(crate) fn offset(self) -> u64 {
        self.granule() * Self::GRANULE
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.segment(), self.offset())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_gives_back_its_parts() {
        let location = Location::new((1 << 42) - 1, (64 << 20) - 16);
        assert_eq!((location.segment(), location.offset()), ((1 << 42) - 1, (64 << 20) - 16));
    }

    #[test]
    fn a_place_that_no_record_can_have_is_none() {
        let end = Location::SEGMENT_BYTES_MAX;
        for (segment, offset) in [(1, 0), (1, 8), (1, end), (Location::SEGMENTS_MAX, 16)] {
            assert_eq!(Location::checked(segment, offset), None, "{segment}@{offset}");
        }
        assert_eq!(Location::checked(1, end - 16), Some(Location::new(1, end - 16)));
    }

    #[test]
    fn only_the_next_number_or_a_later_epoch_follows() {
        let last = Lsn(Lsn::first_of(3).0 + 7);
        assert!(Lsn(last.0 + 1).follows(last));
        assert!(Lsn::first_of(4).follows(last) && Lsn::first_of(9).follows(last));
        assert!(!Lsn(last.0 + 2).follows(last) && !last.follows(last));
        assert!(!Lsn(Lsn::first_of(4).0 + 1).follows(last));
        assert!(!Lsn::first_of(3).follows(last));
    }

    #[test]
    fn the_number_before_an_epoch_covers_all_earlier_epochs() {
        assert!(Lsn::first_of(2).before() > Lsn(Lsn::first_of(1).0 + 1_000_000));
        assert!(Lsn::first_of(Lsn::EPOCH_MAX + 1).0 <= 1 << 63);
    }
}
