//! Erasure: the one change of durable bytes. What a durable FORGET names is overwritten where it
//! stands, by an ERASED record of the same length.
//!
//! ```text
//! FORGET durable > gone for readers > overwritten > synced
//! ```
//! A crash in between, which may tear the record, is finished at the next open.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::config::Durability;
use crate::error::{Error, Result};
use crate::format::record::{Draft, HEADER_BYTES, Header, Identity, Kind, Record, Stamp};
use crate::format::segment::SegmentHeader;
use crate::location::{Location, Lsn};
use crate::log::hinted::read_whole;
use crate::log::reader::{self, Beyond, End};
use crate::log::room::Room;
use crate::log::segment_name;
use crate::log::segments::Stored;
use crate::log::writer::Log;
use crate::storage::Access;
use crate::time::Reading;

/// A record that is to be erased.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace {
    /// The keyed hash of its scope.
    pub(crate) hash: u64,
    pub(crate) location: Location,
    pub(crate) header: Header,
}

impl Trace {
    fn erased(&self, identity: Identity) -> Vec<u8> {
        let Header { lsn, time_ms, .. } = self.header;
        let durable = self.header.promise();
        let stamp = Stamp { identity, offset: self.location.offset(), lsn, durable, time_ms };
        erased(&stamp, self.header.record_bytes())
    }
}

impl<D> Log<D> {
    /// Stages a FORGET for each trace, in order. Returns how many, and why no more.
    pub(crate) fn stage_forgets(&self, traces: &[Trace], now: Reading) -> (usize, Result<()>) {
        let mut staged = 0;
        let outcome = traces.iter().try_for_each(|trace| {
            let mut draft = Draft::forget(trace.hash, trace.location);
            let room = Room::Grows(0);
            let mut state = self.begin(now.now_ms, draft.record_bytes() as u64, room)?;
            let placed =
                self.append(&mut state.staging, now.now_ms, room, &mut draft, |_, _| {})?;
            state.staging.hint_forget(trace.hash, placed.location);
            if let Durability::Buffered { sync_every } = self.durability {
                self.note_unsynced(&mut state, now.real, sync_every);
            }
            staged += 1;
            Ok(())
        });
        (staged, outcome)
    }

    /// Overwrites what durable FORGETs name. A failure poisons: the next open finishes it.
    pub(crate) fn erase(&self, traces: &[Trace]) -> Result<()> {
        // A claim whose end is gone would be found open. So the ends go last, after a sync.
        let is_end = |trace: &&Trace| trace.header.kind == Kind::Complete;
        self.erase_some(traces.iter().filter(|trace| !is_end(trace)))?;
        self.erase_some(traces.iter().filter(is_end))
    }

    fn erase_some<'a>(&self, traces: impl Iterator<Item = &'a Trace>) -> Result<()> {
        let mut by_segment: BTreeMap<u64, Vec<&Trace>> = BTreeMap::new();
        for trace in traces {
            by_segment.entry(trace.location.segment()).or_default().push(trace);
        }
        let erased = by_segment.into_iter().try_for_each(|(segment, traces)| {
            let Some(header) = self.segments.header(segment) else { return Ok(()) };
            let identity = header.identity();
            let records = traces.iter().map(|t| (t.location.offset(), t.erased(identity)));
            self.overwrite(segment, records)
        });
        erased.map_err(Error::io("erase a record")).inspect_err(|error| self.set_poison(error))
    }

    fn overwrite(
        &self,
        segment: u64,
        records: impl Iterator<Item = (u64, Vec<u8>)>,
    ) -> io::Result<()> {
        let file = self.maker.storage.open(&segment_name(segment), Access::Write)?;
        for (offset, bytes) in records {
            file.write_at(offset, &bytes)?;
        }
        file.sync()
    }

    /// Erases what an earlier process was about to, where it did not come to the end of it.
    pub(crate) fn finish_erasures(&self, forgotten: &[(u64, Location)]) -> Result<u64> {
        let (mut traces, mut torn, mut finished) = (Vec::new(), BTreeSet::new(), 0);
        for &(hash, location) in forgotten {
            match self.segments.read(location) {
                // After a failed sync the page cache can hold an erasure that the disk never got,
                // so one that is there already is written again.
                Ok(Some(Stored { header, .. })) if is_erasable(header.kind) => {
                    finished += u64::from(header.kind != Kind::Erased);
                    traces.push(Trace { hash, location, header });
                }
                Ok(_) => {}
                Err(Error::Corrupt { .. }) => {
                    torn.insert(location.segment());
                }
                Err(error) => return Err(error),
            }
        }
        self.erase(&traces)?;
        // Of a segment in quarantine nobody knows what is torn and what is damaged.
        for segment in torn.into_iter().filter(|number| !self.segments.is_quarantined(*number)) {
            let here = forgotten.iter().filter(|(_, location)| location.segment() == segment);
            let named = here.map(|(_, location)| location.offset()).collect();
            finished += self.mend_segment(segment, &named)?;
        }
        Ok(finished)
    }

    fn mend_segment(&self, segment: u64, named: &BTreeSet<u64>) -> Result<u64> {
        let Some(header) = self.segments.header(segment) else { return Ok(0) };
        let file = self.maker.storage.open(&segment_name(segment), Access::Write);
        let file = file.map_err(Error::io("open a segment"))?;
        let mut bytes = read_whole(&*file, header.segment_bytes)?;
        let mended = mend(&mut bytes, &header, named);
        self.overwrite(segment, mended.iter().cloned()).map_err(Error::io("erase a record"))?;
        Ok(mended.len() as u64)
    }
}

fn is_erasable(kind: Kind) -> bool {
    matches!(kind, Kind::Claim | Kind::Progress | Kind::Complete | Kind::Erased)
}

/// An ERASED record of the same length as the one that it takes the place of.
fn erased(stamp: &Stamp, record_bytes: usize) -> Vec<u8> {
    let zeros = vec![0; record_bytes - HEADER_BYTES];
    let mut bytes = Vec::with_capacity(record_bytes);
    Draft::erased(&[&zeros]).write(stamp, &mut bytes);
    debug_assert_eq!(bytes.len(), record_bytes);
    bytes
}

/// Puts ERASED records in the place of those among `named` that an erasure tore, and returns what
/// was put where.
pub(crate) fn mend(
    bytes: &mut [u8],
    header: &SegmentHeader,
    named: &BTreeSet<u64>,
) -> Vec<(u64, Vec<u8>)> {
    let mut mended = Vec::new();
    loop {
        let scan = reader::scan(bytes, header.identity(), header.first_lsn, |_| {});
        let torn = matches!(scan.end, End::Bad(_)) && named.contains(&scan.offset);
        let good = reader::next_good(bytes, header.identity(), scan.offset);
        // Its length went with it: it reached as far as the next record.
        let Some((end, next)) = good.filter(|_| torn) else { return mended };
        let end = named.range(scan.offset + 1..).next().map_or(end, |&named| named.min(end));
        let lsn = match scan.last {
            None => header.first_lsn,
            Some((_, Kind::Clean)) => Lsn::first_of(next.lsn.epoch()),
            Some((last, _)) => last.next(),
        };
        let (identity, offset) = (header.identity(), scan.offset);
        let stamp = Stamp { identity, offset, lsn, durable: Lsn::ZERO, time_ms: header.created_ms };
        let start = usize::try_from(offset).expect("within a segment");
        let end = usize::try_from(end).expect("within a segment");
        let erased = erased(&stamp, end - start);
        bytes[start..end].copy_from_slice(&erased);
        mended.push((offset, erased));
    }
}

/// What is to be written where an erasure tore the record at `offset`; nothing where none did. An
/// erasure begins once its FORGETs are durable, and all before them with them: so the log, with
/// what they name put right, must come as far as each of them. Else the record never was durable.
pub(crate) fn mend_torn(
    bytes: &[u8],
    header: &SegmentHeader,
    offset: u64,
    behind: Vec<(Vec<u8>, &SegmentHeader)>,
    beyond: &Beyond,
) -> Vec<(u64, Vec<u8>)> {
    let named_in = |segment: u64| -> BTreeSet<u64> {
        let there = beyond.forgotten.iter().filter(|(_, at)| at.segment() == segment);
        there.map(|(_, at)| at.offset()).collect()
    };
    if !named_in(header.segment).contains(&offset) {
        return Vec::new();
    }
    let (mut here, mut reached) = (None, BTreeSet::new());
    for (mut bytes, header) in std::iter::once((bytes.to_vec(), header)).chain(behind) {
        let mended = mend(&mut bytes, header, &named_in(header.segment));
        here.get_or_insert(mended);
        let scan = reader::scan(&bytes, header.identity(), header.first_lsn, |entry| {
            if let Record::Forget { segment, offset, .. } = entry.record {
                reached.extend(Location::checked(segment, offset));
            }
        });
        if scan.end != End::Sealed {
            break;
        }
    }
    let mended = here.unwrap_or_default();
    let is_reached = |offset: u64| reached.contains(&Location::new(header.segment, offset));
    if mended.iter().all(|(offset, _)| is_reached(*offset)) { mended } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::Freed;
    use crate::format::segment::DATA_START;
    use crate::scope::Token;

    fn header() -> SegmentHeader {
        SegmentHeader::sample(65_536)
    }

    /// A segment with three RELEASEs and a FORGET of the first, and where they stand.
    fn segment() -> (Vec<u8>, Vec<usize>) {
        let header = header();
        let mut bytes = vec![0; usize::try_from(DATA_START).unwrap()];
        let release = |token| Draft::release(Token::new(token), Freed::NoEffect, 1);
        let named = Location::new(1, DATA_START);
        let drafts = [release(10), release(11), release(12), Draft::forget(9, named)];
        let mut places = Vec::new();
        for (draft, lsn) in drafts.iter().zip(1..) {
            places.push(bytes.len());
            let (identity, offset) = (header.identity(), bytes.len() as u64);
            let (lsn, durable) = (Lsn(lsn), Lsn::ZERO);
            draft.write(&Stamp { identity, offset, lsn, durable, time_ms: 5 }, &mut bytes);
        }
        bytes.resize(65_536, 0);
        (bytes, places)
    }

    fn mended_at_the_first(bytes: &[u8]) -> usize {
        let header = header();
        let mut beyond = Beyond::default();
        reader::look_ahead(bytes, header.identity(), DATA_START, Lsn::ZERO, &mut beyond);
        mend_torn(bytes, &header, DATA_START, Vec::new(), &beyond).len()
    }

    #[test]
    fn a_torn_record_is_mended_only_if_the_log_comes_as_far_as_its_forget() {
        let (mut bytes, places) = segment();
        bytes[places[0]] ^= 1;
        assert_eq!(mended_at_the_first(&bytes), 1);
        bytes[places[2]] ^= 1;
        assert_eq!(mended_at_the_first(&bytes), 0, "the FORGET was never durable");
    }

    #[test]
    fn what_goes_on_in_the_epoch_of_a_clean_was_cut_there() {
        let (mut bytes, places) = segment();
        let header = header();
        let clean = Draft::clean(&crate::format::summary::Summary::default());
        let put = |bytes: &mut Vec<u8>, at: usize, lsn: Lsn, draft: &Draft<'_>| {
            let (identity, offset) = (header.identity(), at as u64);
            let mut record = Vec::new();
            draft.write(&Stamp { identity, offset, lsn, durable: lsn, time_ms: 5 }, &mut record);
            bytes[at..at + record.len()].copy_from_slice(&record);
            at + record.len()
        };
        let release = Draft::release(Token::new(13), Freed::NoEffect, 1);
        let end = put(&mut bytes, places[1], Lsn(2), &clean);
        put(&mut bytes, end, Lsn(3), &release);
        let last = |bytes: &[u8]| {
            let scan = reader::scan(bytes, header.identity(), header.first_lsn, |_| {});
            (scan.last.map(|(lsn, _)| lsn), matches!(scan.end, End::Bad(_)))
        };
        assert_eq!(last(&bytes), (Some(Lsn(2)), true));
        put(&mut bytes, end, Lsn::first_of(1), &release);
        assert_eq!(last(&bytes).0, Some(Lsn::first_of(1)));
    }
}
