//! The read-only half of recovery: loads what is sealed, scans what is not, finds the end of the
//! log, and judges a bad spot. Nothing is changed here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::{OnDamage, Phase, Progress};
use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::hint::{Hint, Hints, Preamble};
use crate::format::record::{self, Header, Kind, Record};
use crate::format::segment::{DATA_START, SegmentHeader};
use crate::format::summary::Summary;
use crate::format::superblock::Superblock;
use crate::index::{Index, SHARDS, shard_of};
use crate::location::{Location, Lsn};
use crate::log::erasure::{mend, mend_torn};
use crate::log::hinted::{self, HintFile, read_whole};
use crate::log::reader::{self, Beyond, End, Entry, Scan};
use crate::log::segment_name;
use crate::log::segments::{Segment, SegmentHints, Segments, Standing};
use crate::log::staging::Placed;
use crate::parallel::{self, Threads};
use crate::recovery::quarantine::Quarantine;
use crate::recovery::replay::Replay;
use crate::recovery::{Tell, unknown_version_or};
use crate::scope::HashKey;
use crate::stats::Recovery;
use crate::storage::{Access, File, Storage};

/// From so many keys a shard on, filling the index is worth more than one thread.
const KEYS_WORTH_A_THREAD: u64 = 256;

/// No erasure takes longer, from its FORGET on.
const ERASURE_MS_MAX: u64 = 3_600_000;

/// How a look at the unsealed segments ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::recovery) enum Verdict {
    Ended,
    /// A torn erasure was completed in memory; the look is to be taken again.
    Mended,
}

/// A segment that was read in full.
pub(in crate::recovery) struct Scanned {
    pub(in crate::recovery) header: SegmentHeader,
    pub(in crate::recovery) file: Arc<dyn File>,
    pub(in crate::recovery) bytes: Vec<u8>,
    pub(in crate::recovery) scan: Scan,
    pub(in crate::recovery) summary: Summary,
    pub(in crate::recovery) hints: Vec<Hint>,
    /// Its SEAL, where it has one.
    pub(in crate::recovery) seal: Option<Placed>,
}

/// What the records of one segment add up to.
#[derive(Default)]
pub(in crate::recovery) struct Told {
    pub(in crate::recovery) summary: Summary,
    pub(in crate::recovery) hints: Vec<Hint>,
    pub(in crate::recovery) seal: Option<Placed>,
}

/// What was found.
pub(in crate::recovery) struct Survey<'a> {
    pub(in crate::recovery) storage: &'a dyn Storage,
    /// How segments are opened that are not sealed, or not known to be.
    access: Access,
    pub(in crate::recovery) superblock: Superblock,
    pub(in crate::recovery) checkpoint: Checkpoint,
    pub(in crate::recovery) hash_key: HashKey,
    /// The sealed segments.
    pub(in crate::recovery) segments: Segments,
    /// How many entries their hints have.
    pub(in crate::recovery) keys: u64,
    pub(in crate::recovery) scanned: Vec<Scanned>,
    pub(in crate::recovery) replay: Replay,
    /// Segments behind the cut.
    pub(in crate::recovery) discarded: Vec<u64>,
    /// What an erasure tore and is to be written in its place, by segment.
    pub(in crate::recovery) mended: BTreeMap<u64, Vec<(u64, Vec<u8>)>>,
    pub(in crate::recovery) time_ms: u64,
    pub(in crate::recovery) last: Lsn,
    pub(in crate::recovery) report: Recovery,
    pub(in crate::recovery) on_damage: OnDamage,
    /// What was in quarantine before this open, and what is to be.
    pub(in crate::recovery) quarantine: Quarantine,
    /// Something was put in quarantine by this open.
    pub(in crate::recovery) fresh: bool,
    pub(in crate::recovery) salvaged: Vec<Salvaged>,
    /// The newest segment in quarantine that was not sealed.
    pub(in crate::recovery) lost_tail: Option<u64>,
    /// Files and bytes of such segments: they may not be on the disk.
    pub(in crate::recovery) unpromised: Vec<(Arc<dyn File>, Vec<u8>)>,
    /// What FORGETs of sealed segments in quarantine name.
    pub(in crate::recovery) forgotten_in_sealed: Vec<(u64, Location)>,
}

/// What could be read of a segment in quarantine.
pub(in crate::recovery) struct Salvaged {
    /// Put together from what is known, where the file does not say it.
    pub(in crate::recovery) header: SegmentHeader,
    pub(in crate::recovery) standing: Standing,
    /// Sorted.
    pub(in crate::recovery) hints: Hints,
}

impl<'a> Survey<'a> {
    pub(in crate::recovery) fn new(
        storage: &'a dyn Storage,
        access: Access,
        superblock: Superblock,
        checkpoint: Checkpoint,
        hash_key: HashKey,
        segments: Segments,
    ) -> Survey<'a> {
        Survey {
            storage,
            access,
            superblock,
            checkpoint,
            hash_key,
            segments,
            keys: 0,
            scanned: Vec::new(),
            replay: Replay::default(),
            discarded: Vec::new(),
            mended: BTreeMap::new(),
            time_ms: checkpoint.time_ms,
            last: Lsn::ZERO,
            report: Recovery { epoch: checkpoint.epoch + 1, ..Recovery::default() },
            on_damage: OnDamage::Refuse,
            quarantine: Quarantine::default(),
            fresh: false,
            salvaged: Vec::new(),
            lost_tail: None,
            unpromised: Vec::new(),
            forgotten_in_sealed: Vec::new(),
        }
    }

    /// Loads every sealed segment, by its hints where they are sound.
    pub(in crate::recovery) fn load(&mut self, tell: Tell<'_>) -> Result<()> {
        let Checkpoint { oldest, sealed, tail, .. } = self.checkpoint;
        if tail != 0 && oldest > tail {
            let what = "CHECKPOINT contradicts itself";
            return Err(Error::Corrupt { segment: 0, offset: 0, what });
        }
        let total = (sealed + 1).saturating_sub(oldest);
        for number in oldest..=sealed {
            tell(Progress { phase: Phase::Loading, done: number - oldest, total });
            match self.load_segment(number) {
                Err(Error::Corrupt { offset, what, .. }) => {
                    self.salvage_sealed(number, offset, what)?;
                }
                loaded => loaded?,
            }
        }
        tell(Progress { phase: Phase::Loading, done: total, total });
        Ok(())
    }

    fn load_segment(&mut self, number: u64) -> Result<()> {
        let missing = Error::Corrupt { segment: number, offset: 0, what: "the file is missing" };
        let (file, header) = self.open_segment(number)?.ok_or(missing)?;
        let hints = self.open_hints(&*file, &header, Kind::Seal);
        let (hints, seal, summary, keys) = match hints.map(|hints| hints.preamble) {
            Some(Preamble { seal_lsn, seal_offset, summary, entries }) => {
                (SegmentHints::Written, (seal_lsn, seal_offset), summary, entries)
            }
            None => {
                let (hints, records) = self.rebuild_hints(&*file, &header)?;
                self.report.records_scanned += records;
                let (seal, summary) = ((hints.seal_lsn, hints.seal_offset), hints.summary);
                let keys = hints.entries.len() as u64;
                (SegmentHints::Memory(Arc::new(hints)), seal, summary, keys)
            }
        };
        self.time_ms = self.time_ms.max(summary.time_ms_max);
        self.last = seal.0;
        self.keys += keys;
        self.segments.insert(Segment::new(&header, hints));
        self.segments.found_sealed(number, summary, seal.1);
        Ok(())
    }

    /// The hints of a sealed segment, from its records. One among them that an erasure tore is
    /// completed in memory.
    fn rebuild_hints(&self, file: &dyn File, header: &SegmentHeader) -> Result<(Hints, u64)> {
        let mut bytes = read_whole(file, header.segment_bytes)?;
        let rebuilt = hinted::rebuild(&bytes, header, &self.hash_key);
        if !matches!(rebuilt, Err(Error::Corrupt { .. })) {
            return rebuilt;
        }
        let mut named = BTreeSet::new();
        // A FORGET comes behind what it names.
        let mut next = header.segment;
        while let Ok(Some((file, header_of))) = self.open_segment(next) {
            let places = forgotten_in(&*file, &header_of)?.into_iter().map(|(_, place)| place);
            named.extend(places.filter(|place| place.segment() == header.segment));
            next += 1;
        }
        let named = named.into_iter().map(|place| place.offset()).collect();
        if mend(&mut bytes, header, &named).is_empty() {
            return rebuilt;
        }
        hinted::rebuild(&bytes, header, &self.hash_key)
    }

    /// The file of a segment and its header; `None` where there is no such file.
    pub(in crate::recovery) fn open_segment(
        &self,
        number: u64,
    ) -> Result<Option<(Arc<dyn File>, SegmentHeader)>> {
        let file = match self.storage.open(&segment_name(number), self.access) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open a segment")(error)),
        };
        let corrupt = |what| Error::Corrupt { segment: number, offset: 0, what };
        if file.size().map_err(Error::io("read a segment"))? != self.superblock.segment_bytes {
            return Err(corrupt("the file has the wrong size"));
        }
        let mut bytes = vec![0; usize::try_from(DATA_START).expect("two pages")];
        file.read_at(0, &mut bytes).map_err(Error::io("read a segment header"))?;
        let header = SegmentHeader::decode(&bytes).map_err(unknown_version_or(corrupt))?;
        let ours = (self.superblock.store, number, self.superblock.segment_bytes);
        if (header.store, header.segment, header.segment_bytes) != ours {
            return Err(corrupt("the header is that of another segment"));
        }
        Ok(Some((file, header)))
    }

    /// The hint file of a segment that ends with a record of this kind, if it can be used. One
    /// that was written when the segment still took records says less than the segment.
    pub(in crate::recovery) fn open_hints(
        &self,
        file: &dyn File,
        header: &SegmentHeader,
        end: Kind,
    ) -> Option<HintFile> {
        let (access, binding) = (Access::ReadPositioned, header.binding());
        let hints = HintFile::open(self.storage, access, binding, header.segment_bytes).ok()?;
        let Preamble { seal_lsn, seal_offset, .. } = hints.preamble;
        let mut bytes = vec![0; usize::try_from(record::SEAL_BYTES).ok()?];
        file.read_at(seal_offset, &mut bytes).ok()?;
        let found = Header::decode(&bytes, header.identity(), seal_offset).ok()?;
        found.decode_body(&bytes).ok()?;
        ((found.kind, found.lsn) == (end, seal_lsn)).then_some(hints)
    }

    /// The tail without its records, where the store was closed with no claim open: its hints say
    /// all. CHECKPOINT names that CLEAN as durable, and nothing was opened since.
    fn closed_tail(&self, file: &Arc<dyn File>, header: &SegmentHeader) -> Option<Scanned> {
        let Checkpoint { durable_lsn, epoch, tail, .. } = self.checkpoint;
        if durable_lsn.epoch() != epoch || header.segment > tail {
            return None;
        }
        let hints = self.open_hints(&**file, header, Kind::Clean)?;
        let Preamble { seal_lsn, seal_offset, summary, .. } = hints.preamble;
        let mut entries = Vec::new();
        hints.range(&(0..=u64::MAX), &mut entries).ok()?;
        // What a FORGET names is said in its record alone.
        if seal_lsn != durable_lsn || entries.iter().any(|hint| hint.forget) {
            return None;
        }
        let scan = Scan {
            end: End::Blank,
            offset: seal_offset + record::SEAL_BYTES,
            last: Some((seal_lsn, Kind::Clean)),
            promise: seal_lsn,
        };
        let (header, file) = (*header, Arc::clone(file));
        Some(Scanned { header, file, bytes: Vec::new(), scan, summary, hints: entries, seal: None })
    }

    /// Takes the tail from its hints, if that is possible.
    fn adopt_closed_tail(&mut self, segments: &[(Arc<dyn File>, SegmentHeader)]) -> bool {
        let [(file, header)] = segments else { return false };
        if self.last != Lsn::ZERO && header.previous_last_lsn != self.last {
            return false;
        }
        let Some(tail) = self.closed_tail(file, header) else { return false };
        let responses = tail
            .hints
            .iter()
            .map(|hint| (hint.hash, Location::of_granule(header.segment, u64::from(hint.granule))));
        self.replay.responses.extend(responses);
        self.time_ms = self.time_ms.max(header.created_ms).max(tail.summary.time_ms_max);
        self.last = self.checkpoint.durable_lsn;
        self.scanned.push(tail);
        true
    }

    /// Fills the shards of the index: with what the hints of sealed segments name, and what was
    /// scanned since.
    pub(in crate::recovery) fn fill(&mut self, expected_keys: u64) -> Result<Vec<Index>> {
        let oldest = self.checkpoint.oldest;
        let mean = (self.keys + self.replay.responses.len() as u64) / SHARDS as u64;
        let keys = mean + 3 * mean.isqrt();
        // A small store is read once, a large one shard by shard on all cores.
        let (pieces, threads) =
            if keys < KEYS_WORTH_A_THREAD { (1, Threads::One) } else { (SHARDS, Threads::All) };
        let (segments, hash_key) = (&self.segments, &self.hash_key);
        let filled = parallel::for_each(pieces, threads, |piece| {
            let first = piece * (SHARDS / pieces);
            let shards = first..first + SHARDS / pieces;
            let mut indexes: Vec<_> =
                shards.map(|shard| Index::new(shard, expected_keys, oldest)).collect();
            let mut tables: Vec<_> = indexes.iter_mut().map(|i| i.begin_load(keys)).collect();
            segments.fill(first, hash_key, &mut tables)?;
            for (index, table) in indexes.iter_mut().zip(tables) {
                index.finish_growth(table);
            }
            Ok(indexes)
        });
        let mut indexes = filled
            .into_iter()
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
        for &(hash, location) in &self.replay.responses {
            indexes[shard_of(hash)].publish(hash, location, None);
        }
        for &(hash, location) in &self.replay.forgotten {
            indexes[shard_of(hash)].remove(hash, location);
        }
        self.report.responses = indexes.iter().map(Index::len).sum();
        self.report.hints_rebuilt = self.segments.hints_in_memory().len() as u64;
        Ok(indexes)
    }

    /// Reads every segment that is not sealed, finds the end of the log, and replays up to it.
    pub(in crate::recovery) fn scan(&mut self, tell: Tell<'_>) -> Result<()> {
        let loaded = (self.last, self.time_ms, self.report.clone());
        let salvaged = self.salvaged.len();
        let mut salvages = false;
        loop {
            let looked = if salvages {
                self.scan_salvaging(tell)
            } else {
                self.scan_once(tell).and_then(|verdict| match verdict {
                    Verdict::Mended => Ok(Verdict::Mended),
                    Verdict::Ended => self.check_durable_end().map(|()| Verdict::Ended),
                })
            };
            match looked {
                Ok(Verdict::Ended) => {
                    self.replay.end_forgotten();
                    return Ok(());
                }
                Ok(Verdict::Mended) => {}
                Err(Error::Corrupt { .. }) if !salvages && self.may_salvage() => salvages = true,
                Err(error) => return Err(error),
            }
            (self.last, self.time_ms, self.report) = loaded.clone();
            (self.replay, self.scanned) = (Replay::default(), Vec::new());
            self.discarded.clear();
            self.salvaged.truncate(salvaged);
            (self.lost_tail, self.unpromised) = (None, Vec::new());
        }
    }

    fn scan_once(&mut self, tell: Tell<'_>) -> Result<Verdict> {
        let mut segments = self.unsealed()?;
        let total = segments.len() as u64;
        self.report.segments = self.segments.count() + total;
        if self.adopt_closed_tail(&segments) {
            segments.clear();
        }
        let mut done = 0;
        while !segments.is_empty() {
            tell(Progress { phase: Phase::Scanning, done, total });
            done += 1;
            let (file, header) = segments.remove(0);
            let follows = header.previous_last_lsn == self.last || self.last == Lsn::ZERO;
            if !follows {
                let what = "the segment does not continue the one before it";
                return Err(Error::Corrupt { segment: header.segment, offset: 0, what });
            }
            if self.last == Lsn::ZERO {
                // Everything before it was dropped; only its header still tells how far that went.
                self.last = header.previous_last_lsn;
            }
            let scanned = self.scan_segment(file, header)?;
            let ends = segments.is_empty() && scanned.scan.end == End::Blank;
            let goes_on = scanned.scan.end == End::Sealed;
            self.scanned.push(scanned);
            if !ends && !goes_on {
                if self.judge(&segments)? == Verdict::Mended {
                    return Ok(Verdict::Mended);
                }
                self.discarded = segments.iter().map(|(_, header)| header.segment).collect();
                break;
            }
        }
        tell(Progress { phase: Phase::Scanning, done: total, total });
        Ok(Verdict::Ended)
    }

    /// The segments above the newest sealed one, up to the last that has a good header.
    fn unsealed(&self) -> Result<Vec<(Arc<dyn File>, SegmentHeader)>> {
        let Checkpoint { oldest, sealed, tail, .. } = self.checkpoint;
        let mut segments = Vec::new();
        let mut number = (sealed + 1).max(oldest);
        loop {
            match self.open_segment(number) {
                Ok(Some(found)) => segments.push(found),
                Ok(None) if number <= tail => {
                    let what = "the file is missing";
                    return Err(Error::Corrupt { segment: number, offset: 0, what });
                }
                Err(error) if number <= tail || !matches!(error, Error::Corrupt { .. }) => {
                    return Err(error);
                }
                Ok(None) | Err(_) => return Ok(segments),
            }
            number += 1;
        }
    }

    pub(in crate::recovery) fn scan_segment(
        &mut self,
        file: Arc<dyn File>,
        header: SegmentHeader,
    ) -> Result<Scanned> {
        let mut bytes = read_whole(&*file, self.superblock.segment_bytes)?;
        for (offset, erased) in self.mended.get(&header.segment).into_iter().flatten() {
            let start = usize::try_from(*offset).expect("within a segment");
            bytes[start..start + erased.len()].copy_from_slice(erased);
        }
        let mut told = Told::default();
        let scan = reader::scan(&bytes, header.identity(), header.first_lsn, |entry| {
            self.hear(&mut told, header.segment, entry);
        });
        self.time_ms = self.time_ms.max(header.created_ms);
        self.report.segments_scanned += 1;
        if let Some((last, _)) = scan.last {
            self.last = last;
        }
        let Told { summary, hints, seal } = told;
        Ok(Scanned { header, file, bytes, scan, summary, hints, seal })
    }

    /// Takes in one record of a segment that was not sealed.
    pub(in crate::recovery) fn hear(&mut self, told: &mut Told, segment: u64, entry: Entry<'_>) {
        let Told { summary, hints, seal } = told;
        let location = Location::new(segment, entry.offset);
        self.time_ms = self.time_ms.max(entry.header.time_ms);
        self.report.records_scanned += 1;
        summary.count(entry.header.kind, entry.header.lsn, entry.header.time_ms);
        match &entry.record {
            Record::Complete(complete) => {
                summary.expires_ms_max = summary.expires_ms_max.max(complete.expires_ms);
                let hash = self.hash_key.hash(complete.scope);
                hints.push(hinted::response(hash, entry.offset));
            }
            Record::Forget { hash, .. } => {
                hints.push(hinted::forget(*hash, entry.offset));
            }
            Record::Seal(said) => {
                *seal = Some(Placed { lsn: entry.header.lsn, location });
                // It still counts what was erased since. The next open takes its times from here.
                *summary = *said;
                self.time_ms = self.time_ms.max(said.time_ms_max);
            }
            _ => {}
        }
        self.replay.apply(&self.hash_key, location, &entry.header, entry.record);
    }

    /// Whether the bad spot at the end of the newest scanned segment is damage, or what an erasure
    /// left half done.
    pub(in crate::recovery) fn judge(
        &mut self,
        later: &[(Arc<dyn File>, SegmentHeader)],
    ) -> Result<Verdict> {
        let scanned = self.scanned.last();
        let Scanned { header, bytes, scan, .. } =
            scanned.expect("a segment is scanned, then judged");
        // Behind a CLEAN comes a later epoch. What is of its own was cut before it was written, by
        // zeros that the disk may not have if their sync failed.
        let least = match scan.last {
            Some((last, Kind::Clean)) => Lsn::first_of(last.epoch() + 1),
            _ => Lsn::ZERO,
        };
        let mut beyond = Beyond::default();
        reader::look_ahead(bytes, header.identity(), scan.offset, least, &mut beyond);
        let mut behind = Vec::with_capacity(later.len());
        for (file, header) in later {
            let bytes = read_whole(&**file, self.superblock.segment_bytes)?;
            reader::look_ahead(&bytes, header.identity(), DATA_START, least, &mut beyond);
            behind.push((bytes, header));
        }
        let mended = mend_torn(bytes, header, scan.offset, behind, &beyond);
        if !mended.is_empty() {
            self.mended.entry(header.segment).or_default().extend(mended);
            return Ok(Verdict::Mended);
        }
        let missing = match (scan.last, beyond.lowest) {
            (None, _) => header.first_lsn,
            // Behind a CLEAN comes the first record of a later epoch.
            (Some((_, Kind::Clean)), Some(lowest)) => Lsn::first_of(lowest.epoch()),
            (Some((last, _)), _) => last.next(),
        };
        let what = match scan.end {
            End::Bad(what) => what,
            _ => "the segment ends without its SEAL",
        };
        if beyond.promise >= missing {
            return Err(Error::Corrupt { segment: header.segment, offset: scan.offset, what });
        }
        self.report.cut = Some((header.segment, what));
        self.report.cut_bytes = used_bytes(bytes).saturating_sub(scan.offset);
        Ok(Verdict::Ended)
    }

    /// Every place whose erasure may not have come to its end: what the unsealed segments forget,
    /// and what sealed ones do that took records shortly before the store was last in use. What
    /// recoveries add that come to no end, perhaps days later, are open claims and SEALs alone.
    pub(in crate::recovery) fn forgotten(&self) -> Result<Vec<(u64, Location)>> {
        let mut forgotten = [&self.replay.forgotten[..], &self.forgotten_in_sealed].concat();
        let sealed = self.segments.sealed();
        let all = sealed.iter().map(|(_, summary)| summary);
        let all = all.chain(self.scanned.iter().map(|scanned| &scanned.summary));
        let in_use = all.filter(|summary| summary.completes > 0 || summary.forgets > 0);
        let used_ms = in_use.map(|summary| summary.time_ms_max).max().unwrap_or_default();
        for (number, summary) in sealed {
            let is_recent = summary.time_ms_max + ERASURE_MS_MAX >= used_ms;
            // What those in quarantine still say is known already.
            let is_whole = !self.segments.is_quarantined(number);
            if is_whole && is_recent && summary.forgets > 0 {
                // Also those behind a record that an erasure tore.
                if let Some((file, header)) = self.open_segment(number)? {
                    forgotten.extend(forgotten_in(&*file, &header)?);
                }
            }
        }
        Ok(forgotten)
    }

    /// The log must reach at least as far as CHECKPOINT says that it was durable.
    pub(in crate::recovery) fn check_durable_end(&self) -> Result<()> {
        let too_new = self.last.epoch() > self.checkpoint.epoch;
        if self.last >= self.checkpoint.durable_lsn && !too_new {
            return Ok(());
        }
        let (segment, offset) = match self.scanned.last() {
            Some(scanned) => (scanned.header.segment, scanned.scan.offset),
            None => (0, 0),
        };
        let what = if too_new {
            "the log is of a later epoch than CHECKPOINT says there was"
        } else {
            "the log ends before what CHECKPOINT says was durable"
        };
        Err(Error::Corrupt { segment, offset, what })
    }
}

/// What the FORGETs of a segment name, wherever one verifies.
fn forgotten_in(file: &dyn File, header: &SegmentHeader) -> Result<Vec<(u64, Location)>> {
    let bytes = read_whole(file, header.segment_bytes)?;
    let mut found = Beyond::default();
    reader::look_ahead(&bytes, header.identity(), DATA_START, Lsn::ZERO, &mut found);
    Ok(found.forgotten)
}

/// Everything behind this offset is zeros.
pub(in crate::recovery) fn used_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at as u64 + 1)
}
