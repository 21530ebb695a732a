//! Verifies the sealed segments one after the other, for as long as the store is open, and keeps
//! what it found.
//!
//! The verification is that of [`Store::verify`](crate::Store::verify); here is only the order, and
//! the list. A segment's damage is what the last look at it found, so that a place which was erased
//! or dropped since goes from the list.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::log::walk::Pace;
use crate::stats::Counter;
use crate::sync::Mutex;
use crate::verify::{Damage, Subject};

/// Places that are kept: enough to see what is wrong with a disk, and no load on memory.
const PLACES_MAX: usize = 1000;

/// What a look at a segment costs though nothing of it can be read.
const LOOK_BYTES: u64 = 4096;

/// What was read and found since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    pub(crate) bytes: Counter,
    pub(crate) rounds: Counter,
    // LOCK: damage (a leaf)
    damage: Mutex<BTreeMap<u64, Vec<Damage>>>,
}

impl Scrub {
    /// Every damaged place, by segment.
    pub(crate) fn damage(&self) -> Vec<Damage> {
        self.damage.lock().values().flatten().cloned().collect()
    }

    /// How many there are.
    pub(crate) fn places(&self) -> u64 {
        self.damage.lock().values().map(Vec::len).sum::<usize>() as u64
    }

    fn keep(&self, segment: u64, mut found: Vec<Damage>) {
        let mut damage = self.damage.lock();
        damage.remove(&segment);
        let kept: usize = damage.values().map(Vec::len).sum();
        found.truncate(PLACES_MAX - kept);
        if !found.is_empty() {
            damage.insert(segment, found);
        }
    }

    fn keep_from(&self, oldest: u64) {
        let mut damage = self.damage.lock();
        *damage = damage.split_off(&oldest);
    }

    /// Verifies every segment that is sealed now. Returns how many there were.
    ///
    /// # Errors
    /// What `pace` answers.
    pub(crate) fn round(&self, subject: &Subject<'_>, pace: Pace<'_>) -> Result<usize> {
        let paced = |bytes| {
            pace(bytes)?;
            self.bytes.add(bytes);
            Ok(())
        };
        let sealed = subject.segments.sealed();
        let mut room = Vec::new();
        for (number, summary) in &sealed {
            // A segment without a file has nothing to wait for: here the store's end is seen too.
            pace(LOOK_BYTES)?;
            let Some(segment) = subject.segments.get(*number) else { continue };
            match subject.live_segment(&segment, Some(summary), &paced, &mut room) {
                Ok(Some(found)) => self.keep(*number, found.damage),
                Ok(None) => {}
                Err(Error::Io { context: what, .. }) => {
                    let damage = Damage { segment: *number, offset: 0, what };
                    self.keep(*number, vec![damage]);
                }
                Err(error) => return Err(error),
            }
        }
        self.keep_from(subject.segments.oldest());
        if !sealed.is_empty() {
            self.rounds.add(1);
        }
        Ok(sealed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_look_replaces_what_an_earlier_one_found_and_the_list_is_bounded() {
        let scrub = Scrub::default();
        let places = |segment, count: u64| -> Vec<Damage> {
            (0..count).map(|offset| Damage { segment, offset, what: "" }).collect()
        };
        scrub.keep(1, places(1, 3));
        scrub.keep(2, places(2, 5_000));
        assert_eq!((scrub.places(), scrub.damage().len()), (1000, 1000));
        scrub.keep(2, places(2, 1));
        assert_eq!(scrub.places(), 4);
        scrub.keep(1, Vec::new());
        assert_eq!(scrub.damage(), places(2, 1));
        scrub.keep_from(3);
        assert_eq!(scrub.places(), 0);
    }
}
