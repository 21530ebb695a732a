//! The segments whose damage an operator has accepted, and what that means for scopes that the
//! store does not know.

use std::collections::BTreeMap;
use std::io;

use crate::clock::from_ms;
use crate::error::{Error, Result};
use crate::format::quarantine::{self, Entry, Loss};
use crate::location::Lsn;
use crate::recovery::unknown_version_or;
use crate::scope::Token;
use crate::stats::Quarantined;
use crate::storage::{Access, Storage};

/// The name of the file that lists them.
pub(crate) const NAME: &str = "QUARANTINE";
/// What is put behind the name of a file that would be removed were it not in quarantine.
const KEPT_ASIDE: &str = ".quarantined";

/// The segments in quarantine, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quarantine {
    entries: BTreeMap<u64, Entry>,
    /// The entry that lasts longest: what a scope that is not known is answered with.
    longest: Option<Entry>,
}

impl Quarantine {
    /// Reads the list; none where there is no file.
    pub(in crate::recovery) fn read(storage: &dyn Storage, store: [u8; 16]) -> Result<Quarantine> {
        let file = match storage.open(NAME, Access::ReadPositioned) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("open QUARANTINE")(error)),
        };
        let corrupt = |what| Error::Corrupt { segment: 0, offset: 0, what };
        let size = file.size().map_err(Error::io("read QUARANTINE"))?;
        if size > quarantine::FILE_BYTES_MAX {
            return Err(corrupt("QUARANTINE is beyond all bounds"));
        }
        let mut bytes = vec![0; usize::try_from(size).expect("at most 8 MiB")];
        file.read_at(0, &mut bytes).map_err(Error::io("read QUARANTINE"))?;
        let entries = quarantine::decode(&bytes, store).map_err(unknown_version_or(corrupt))?;
        let mut read = Quarantine::default();
        entries.into_iter().for_each(|entry| read.insert(entry));
        Ok(read)
    }

    /// The bytes of its file.
    pub(crate) fn encode(&self, store: [u8; 16]) -> Vec<u8> {
        quarantine::encode(store, &Vec::from_iter(self.entries.values().copied()))
    }

    pub(in crate::recovery) fn insert(&mut self, entry: Entry) {
        self.entries.insert(entry.segment, entry);
        self.weigh();
    }

    fn weigh(&mut self) {
        let unnamed = self.entries.values().filter(|entry| entry.loss == Loss::Unnamed);
        self.longest = unnamed.max_by_key(|entry| entry.until_ms).copied();
    }

    /// Those of which it is not decided yet until when they last.
    pub(in crate::recovery) fn undated(&self) -> Vec<Entry> {
        let undated = |e: &&Entry| e.loss == Loss::Unnamed && e.until_ms == 0;
        self.entries.values().filter(undated).copied().collect()
    }

    /// Whether a loss of this kind in this segment was accepted.
    pub(in crate::recovery) fn covers(&self, segment: u64, loss: Loss) -> bool {
        self.entries.get(&segment).is_some_and(|entry| entry.loss >= loss)
    }

    pub(crate) fn has(&self, segment: u64) -> bool {
        self.entries.contains_key(&segment)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Those whose segment is there, or whose loss is still felt.
    fn live(&self, oldest: u64, now_ms: u64) -> impl Iterator<Item = &Entry> {
        let is_live = move |e: &&Entry| e.segment >= oldest || now_ms < e.until_ms;
        self.entries.values().filter(is_live)
    }

    /// Lets go of those that mean nothing any more; whether there were any.
    pub(in crate::recovery) fn prune(&mut self, oldest: u64, now_ms: u64) -> bool {
        let before = self.entries.len();
        let live = self.live(oldest, now_ms).map(|entry| (entry.segment, *entry)).collect();
        self.entries = live;
        self.weigh();
        self.entries.len() < before
    }

    /// An error where a scope that the store does not know may have been in a segment that was
    /// lost. Every answer "absent" asks here first.
    pub(crate) fn check_absent(&self, now_ms: u64) -> Result<()> {
        match self.longest {
            Some(lost) if now_ms < lost.until_ms => Err(Error::Corrupt {
                segment: lost.segment,
                offset: 0,
                what: "the scope may have been in what was lost of a quarantined segment",
            }),
            _ => Ok(()),
        }
    }

    /// Whether the end of this attempt may have been in a segment that was lost.
    pub(crate) fn may_have_ended(&self, token: Token, now_ms: u64) -> bool {
        let before = |lost: &Entry| {
            lost.loss == Loss::Unnamed
                && now_ms < lost.until_ms
                && Lsn(token.get()).epoch() < lost.epoch
        };
        self.entries.values().any(before)
    }

    /// How many are live, and until when absence is in doubt.
    pub(crate) fn summary(&self, oldest: u64, now_ms: u64) -> (u64, Option<std::time::SystemTime>) {
        let until = self.longest.filter(|lost| now_ms < lost.until_ms);
        (self.live(oldest, now_ms).count() as u64, until.map(|lost| from_ms(lost.until_ms)))
    }

    /// The first one that is live.
    pub(crate) fn first_live(&self, oldest: u64, now_ms: u64) -> Option<u64> {
        self.live(oldest, now_ms).map(|entry| entry.segment).next()
    }

    pub(in crate::recovery) fn report(&self, oldest: u64, now_ms: u64) -> Vec<Quarantined> {
        let told = |entry: &Entry| Quarantined {
            segment: entry.segment,
            until: (entry.loss == Loss::Unnamed).then(|| from_ms(entry.until_ms)),
        };
        self.live(oldest, now_ms).map(told).collect()
    }
}

/// Puts a file of a segment in quarantine aside, where it would be removed otherwise.
pub(crate) fn put_aside(storage: &dyn Storage, name: &str) -> io::Result<()> {
    match storage.rename(name, &format!("{name}{KEPT_ASIDE}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_is_named_or_over_puts_the_end_of_no_attempt_in_doubt() {
        let token = Token::new(Lsn::first_of(3).0);
        let lost = Entry { segment: 1, until_ms: 100, epoch: 4, loss: Loss::Unnamed };
        let in_doubt = |entry: Entry, now_ms: u64| {
            let mut quarantine = Quarantine::default();
            quarantine.insert(entry);
            quarantine.may_have_ended(token, now_ms)
        };
        assert!(in_doubt(lost, 99));
        assert!(!in_doubt(lost, 100), "it is over");
        assert!(!in_doubt(Entry { epoch: 3, ..lost }, 99), "the attempt began later");
        assert!(!in_doubt(Entry { loss: Loss::Named, ..lost }, 99), "all of it is known");
    }
}
