//! Recovery without the segments that are damaged: reads what can be read of them, and puts them
//! in quarantine, where that is allowed. Nothing is changed here.
//!
//! A sealed segment whose file is gone, and whose hint file is the one that was written when it was
//! sealed, is known response by response. Of any other nobody knows which scopes were in the bad
//! places.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::clock::MS_MAX;
use crate::config::{OnDamage, Phase, Progress};
use crate::error::{Error, Result};
use crate::format::hint::{Binding, Hints};
use crate::format::quarantine::{Entry, Loss};
use crate::format::record::{Kind, Record};
use crate::format::segment::{DATA_START, SegmentHeader};
use crate::format::summary::Summary;
use crate::format::superblock::Superblock;
use crate::index::Index;
use crate::location::{Location, Lsn};
use crate::log::hinted::{HintFile, read_whole};
use crate::log::reader::{self, End};
use crate::log::segment_name;
use crate::log::segments::{Segment, SegmentHints, Standing};
use crate::log::walk::walk;
use crate::recovery::Tell;
use crate::recovery::survey::{Salvaged, Scanned, Survey, Told, Verdict};
use crate::storage::{Access, File};
use crate::time::Reading;

/// A segment that is not sealed, or what is wrong with its file.
type Unsealed = std::result::Result<(Arc<dyn File>, SegmentHeader), &'static str>;

impl Survey<'_> {
    /// Whether damage may be other than the end of the open.
    pub(in crate::recovery) fn may_salvage(&self) -> bool {
        self.on_damage == OnDamage::Quarantine || !self.quarantine.is_empty()
    }

    /// Puts a segment in quarantine, unless it is there; `Corrupt` where that is not allowed.
    fn accept(&mut self, segment: u64, loss: Loss, offset: u64, what: &'static str) -> Result<()> {
        if self.quarantine.covers(segment, loss) {
            return Ok(());
        }
        if self.on_damage == OnDamage::Refuse {
            return Err(Error::Corrupt { segment, offset, what });
        }
        let epoch = self.checkpoint.epoch + 1;
        self.quarantine.insert(Entry { segment, until_ms: 0, epoch, loss });
        self.fresh = true;
        Ok(())
    }

    /// Takes in what is left of a sealed segment in which this was wrong.
    pub(in crate::recovery) fn salvage_sealed(
        &mut self,
        number: u64,
        offset: u64,
        what: &'static str,
    ) -> Result<()> {
        if !self.may_salvage() {
            return Err(Error::Corrupt { segment: number, offset, what });
        }
        let opened = match self.open_segment(number) {
            Err(Error::Corrupt { .. }) => None,
            opened => opened?,
        };
        self.last = Lsn::ZERO;
        if let Some((file, header)) = opened {
            self.accept(number, Loss::Unnamed, offset, what)?;
            return self.salvage_records(&file, header);
        }
        let Some((header, hints)) = self.hints_alone(number)? else {
            self.accept(number, Loss::Unnamed, offset, what)?;
            self.salvage_nothing(number, what);
            return Ok(());
        };
        self.accept(number, Loss::Named, offset, what)?;
        self.last = hints.seal_lsn;
        self.time_ms = self.time_ms.max(hints.summary.time_ms_max);
        let standing =
            if self.has_size(number)? { Standing::Damaged } else { Standing::Unreadable(what) };
        self.salvaged.push(Salvaged { header, standing, hints });
        Ok(())
    }

    /// The records of a sealed segment that verify, before and behind the bad places.
    fn salvage_records(&mut self, file: &Arc<dyn File>, header: SegmentHeader) -> Result<()> {
        let mut bytes = read_whole(&**file, header.segment_bytes)?;
        let walked = walk(&**file, &header, &mut bytes, Lsn::HIGHEST, &self.hash_key, None);
        let forgotten = &mut self.forgotten_in_sealed;
        reader::salvage(&bytes, header.identity(), DATA_START, header.first_lsn, |entry| {
            if let Record::Forget { hash, segment, offset } = entry.record {
                let location = Location::checked(segment, offset);
                forgotten.extend(location.map(|location| (hash, location)));
            }
        });
        let (mut entries, summary) = (walked.hints, walked.summary);
        entries.sort_unstable();
        let (seal_lsn, seal_offset) =
            walked.seal.map_or((Lsn::ZERO, walked.end), |(lsn, offset, _)| (lsn, offset));
        self.last = seal_lsn;
        self.time_ms = self.time_ms.max(summary.time_ms_max).max(header.created_ms);
        self.report.records_scanned += walked.records;
        let hints = Hints { seal_lsn, seal_offset, summary, entries };
        self.salvaged.push(Salvaged { header, standing: Standing::Damaged, hints });
        Ok(())
    }

    /// What keeps the place of a segment of which nothing can be read. No salt is 0, so that no
    /// bytes that are found there later verify.
    fn salvage_nothing(&mut self, segment: u64, what: &'static str) {
        let header = SegmentHeader {
            store: self.superblock.store,
            segment,
            salt: 0,
            first_lsn: Lsn::ZERO,
            previous_last_lsn: Lsn::ZERO,
            created_ms: 0,
            segment_bytes: self.superblock.segment_bytes,
        };
        let (seal_lsn, summary) = (Lsn::ZERO, Summary::default());
        let hints = Hints { seal_lsn, seal_offset: DATA_START, summary, entries: Vec::new() };
        self.salvaged.push(Salvaged { header, standing: Standing::Unreadable(what), hints });
    }

    fn has_size(&self, number: u64) -> Result<bool> {
        match self.storage.open(&segment_name(number), Access::ReadPositioned) {
            Ok(file) => {
                let bytes = file.size().map_err(Error::io("read a segment"))?;
                Ok(bytes == self.superblock.segment_bytes)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("open a segment")(error)),
        }
    }

    /// The hints of a sealed segment without its file, where they name all that was in it: they end
    /// with the record that the segment behind it continues. An earlier close leaves hints that do
    /// not.
    fn hints_alone(&self, number: u64) -> Result<Option<(SegmentHeader, Hints)>> {
        let Some((file, binding)) = self.open_unbound(number)? else { return Ok(None) };
        let Some(hints) = if_usable(file.read())? else { return Ok(None) };
        let continued = match self.open_segment(number + 1) {
            Ok(Some((_, next))) => next.previous_last_lsn == hints.seal_lsn,
            Ok(None) | Err(Error::Corrupt { .. }) => {
                let next = self.open_unbound(number + 1)?;
                let first = next.map(|(file, _)| Lsn(file.preamble.summary.first_lsn));
                first == Some(hints.seal_lsn.next())
            }
            Err(error) => return Err(error),
        };
        let header = SegmentHeader {
            store: binding.store,
            segment: binding.segment,
            salt: binding.salt,
            first_lsn: Lsn(hints.summary.first_lsn),
            previous_last_lsn: Lsn::ZERO,
            created_ms: hints.summary.time_ms_min,
            segment_bytes: self.superblock.segment_bytes,
        };
        Ok(continued.then_some((header, hints)))
    }

    fn open_unbound(&self, number: u64) -> Result<Option<(HintFile, Binding)>> {
        let Superblock { store, segment_bytes, .. } = self.superblock;
        if_usable(HintFile::open_of_unknown(self.storage, store, number, segment_bytes))
    }

    /// Reads every segment that is not sealed, and goes on behind damage.
    pub(in crate::recovery) fn scan_salvaging(&mut self, tell: Tell<'_>) -> Result<Verdict> {
        let found = self.unsealed_as_found()?;
        let total = found.len() as u64;
        self.report.segments = self.segments.count() + self.salvaged.len() as u64 + total;
        for ((number, unsealed), done) in found.into_iter().zip(0..) {
            tell(Progress { phase: Phase::Scanning, done, total });
            let is_last = done + 1 == total;
            match unsealed {
                Ok((file, header)) => {
                    let place = if is_last { Place::Last } else { Place::Before };
                    if self.salvage_unsealed(file, header, place)? == Verdict::Mended {
                        return Ok(Verdict::Mended);
                    }
                }
                Err(what) => {
                    self.accept(number, Loss::Unnamed, 0, what)?;
                    self.salvage_nothing(number, what);
                    self.lost_tail = Some(number);
                    self.last = if is_last { self.checkpoint.durable_lsn } else { Lsn::ZERO };
                }
            }
        }
        tell(Progress { phase: Phase::Scanning, done: total, total });
        self.check_durable_end().map(|()| Verdict::Ended)
    }

    /// The segments above the newest sealed one, to the last that has a good header or has to be
    /// there.
    fn unsealed_as_found(&self) -> Result<Vec<(u64, Unsealed)>> {
        let mut found = Vec::new();
        let mut number = (self.checkpoint.sealed + 1).max(self.checkpoint.oldest);
        loop {
            let unsealed = match self.open_segment(number) {
                Ok(Some(opened)) => Ok(opened),
                Ok(None) => Err("the file is missing"),
                Err(Error::Corrupt { what, .. }) => Err(what),
                Err(error) => return Err(error),
            };
            if unsealed.is_err() && number > self.checkpoint.tail {
                return Ok(found);
            }
            found.push((number, unsealed));
            number += 1;
        }
    }

    fn salvage_unsealed(
        &mut self,
        file: Arc<dyn File>,
        header: SegmentHeader,
        place: Place,
    ) -> Result<Verdict> {
        let durable = self.checkpoint.durable_lsn;
        let follows = self.last == Lsn::ZERO || header.previous_last_lsn == self.last;
        if self.last == Lsn::ZERO {
            self.last = header.previous_last_lsn;
        }
        let scanned = self.scan_segment(file, header)?;
        let end = scanned.scan.end;
        self.scanned.push(scanned);
        let is_whole = match (place, end) {
            (Place::Before, end) => end == End::Sealed,
            (Place::Last, End::Bad(_)) => match self.judge(&[]) {
                Ok(Verdict::Mended) => return Ok(Verdict::Mended),
                Ok(Verdict::Ended) => self.last >= durable,
                Err(Error::Corrupt { .. }) => false,
                Err(error) => return Err(error),
            },
            (Place::Last, _) => self.last >= durable,
        };
        if follows && is_whole {
            return Ok(Verdict::Ended);
        }
        (self.report.cut, self.report.cut_bytes) = (None, 0);
        let scanned = self.scanned.pop().expect("it was pushed above");
        let what = match end {
            End::Bad(what) => what,
            _ if !follows => "the segment does not continue the one before it",
            _ => "the segment ends before what was durable",
        };
        self.accept(header.segment, Loss::Unnamed, scanned.scan.offset, what)?;
        self.salvage_rest(scanned, place);
        Ok(Verdict::Ended)
    }

    /// Takes in the records behind the first bad place of a segment that was not sealed.
    fn salvage_rest(&mut self, scanned: Scanned, place: Place) {
        let Scanned { header, file, bytes, scan, summary, hints, seal } = scanned;
        let mut told = Told { summary, hints, seal };
        let mut last = scan.last.map_or(Lsn::ZERO, |(last, _)| last);
        let least = if last == Lsn::ZERO { header.first_lsn } else { last.next() };
        let end = reader::salvage(&bytes, header.identity(), scan.offset, least, |entry| {
            last = last.max(entry.header.lsn);
            self.hear(&mut told, header.segment, entry);
        });
        self.last = match (place, told.seal) {
            (Place::Last, _) => last.max(self.checkpoint.durable_lsn),
            (Place::Before, Some(seal)) => seal.lsn,
            (Place::Before, None) => Lsn::ZERO,
        };
        self.lost_tail = Some(header.segment);
        let Told { summary, hints: mut entries, .. } = told;
        entries.sort_unstable();
        let hints = Hints { seal_lsn: last, seal_offset: end, summary, entries };
        self.salvaged.push(Salvaged { header, standing: Standing::Damaged, hints });
        self.unpromised.push((file, bytes));
    }

    /// Puts what was salvaged among the segments, and decides how long what was lost may live.
    pub(in crate::recovery) fn place_salvaged(&mut self, ttl_ms: u64, now: Reading) {
        self.date_losses(ttl_ms, now);
        self.put_salvaged();
    }

    /// The same where it was decided before.
    pub(in crate::recovery) fn put_salvaged(&mut self) {
        for Salvaged { header, standing, hints } in std::mem::take(&mut self.salvaged) {
            let (number, summary, end) = (header.segment, hints.summary, hints.seal_offset);
            self.keys += hints.entries.len() as u64;
            let is_known = self.segments.get(number).is_some();
            let hints = SegmentHints::Known(Arc::new(hints));
            self.segments.insert(Segment::new(&header, hints).in_quarantine(standing));
            if is_known {
                self.segments.seal(number, summary, end);
            } else {
                self.segments.found_sealed(number, summary, end);
            }
        }
    }

    /// A record is no younger than the segment behind its own, or than now, and lives no longer
    /// than the longest ttl that is known.
    fn date_losses(&mut self, ttl_ms: u64, now: Reading) {
        let sealed = self.segments.sealed();
        let sealed = sealed.iter().map(|(_, summary)| summary);
        let scanned = self.scanned.iter().map(|scanned| &scanned.summary);
        let salvaged = self.salvaged.iter().map(|salvaged| &salvaged.hints.summary);
        let summaries = sealed.chain(scanned).chain(salvaged).filter(|s| s.completes > 0);
        let lived = summaries.map(|s| s.expires_ms_max.saturating_sub(s.time_ms_min));
        let ttl_ms = lived.fold(ttl_ms, u64::max);
        let live = self.segments.live();
        let headers = live.iter().map(|segment| &segment.header);
        let headers = headers.chain(self.scanned.iter().map(|scanned| &scanned.header));
        let headers = headers.chain(self.salvaged.iter().map(|salvaged| &salvaged.header));
        let created: BTreeMap<u64, u64> = headers
            .filter(|header| header.created_ms > 0)
            .map(|header| (header.segment, header.created_ms))
            .collect();
        for mut entry in self.quarantine.undated() {
            let behind = created.range(entry.segment + 1..).next();
            let newest = behind.map_or(now.latest_ms.max(self.time_ms), |(_, &created)| created);
            entry.until_ms = newest.saturating_add(ttl_ms).min(MS_MAX);
            self.quarantine.insert(entry);
        }
    }

    /// Fills the index; hints that turn out to be unsound, and FORGETs that do, are damage as well.
    pub(in crate::recovery) fn fill_salvaging(
        &mut self,
        expected_keys: u64,
        ttl_ms: u64,
        now: Reading,
    ) -> Result<Vec<Index>> {
        loop {
            match self.fill(expected_keys) {
                Err(Error::Corrupt { segment, offset, what })
                    if self.may_salvage() && !self.segments.is_quarantined(segment) =>
                {
                    if self.has_sound_hints(segment)? {
                        self.accept(segment, Loss::Named, offset, what)?;
                        self.segments.quarantine(segment);
                        continue;
                    }
                    // The end of the log was found already, and is elsewhere.
                    let last = self.last;
                    self.salvage_sealed(segment, offset, what)?;
                    self.last = last;
                    self.place_salvaged(ttl_ms, now);
                }
                filled => return filled,
            }
        }
    }

    fn has_sound_hints(&self, number: u64) -> Result<bool> {
        let Some((file, header)) = self.open_segment(number)? else { return Ok(false) };
        let Some(hints) = self.open_hints(&*file, &header, Kind::Seal) else { return Ok(false) };
        Ok(if_usable(hints.read())?.is_some())
    }
}

/// Where a segment stands among those that are not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Before,
    Last,
}

/// `None` where a hint file is missing or unsound; what the device refuses to read is neither.
fn if_usable<T>(read: io::Result<T>) -> Result<Option<T>> {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.kind(), InvalidData | NotFound | UnexpectedEof) => Ok(None),
        Err(error) => Err(Error::io("read a hint file")(error)),
    }
}
