//! The live set of segments, and the one function that reads a record back.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::clock::from_ms;
use crate::error::{Error, Result};
use crate::format::DecodeError;
use crate::format::hint::{self, Binding, Hint, Hints};
use crate::format::record::{self, HEADER_BYTES, Header, Identity, Record};
use crate::format::segment::{DATA_START, SegmentHeader};
use crate::format::summary::Summary;
use crate::index::{Larger, SEGMENTS, hashes_of, shard_of};
use crate::location::Location;
use crate::log::hinted::{self, HintFile};
use crate::log::reader::{self, Entry, Scan};
use crate::log::segment_name;
use crate::scope::HashKey;
use crate::stats::{SegmentInfo, SegmentState};
use crate::storage::{Access, File, Storage};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, RwLock};

/// Maps stay far below the system's 65,530 a process, descriptors below the usual 1,024.
const MAPS_MAX: usize = 4096;
const DESCRIPTORS_MAX: usize = 256;

/// Bytes that are read of a record before its length is known: most are shorter.
const FIRST_READ: usize = 768;

/// One segment that may be read.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) identity: Identity,
    /// The size of its file.
    pub(crate) bytes: u64,
    /// What its file says of itself.
    pub(crate) header: SegmentHeader,
    standing: Standing,
    // LOCK: segment file (a leaf)
    file: Mutex<Option<Arc<dyn File>>>,
    // LOCK: segment hints (a leaf)
    hints: Mutex<SegmentHints>,
}

/// Whether a segment is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Whole,
    /// In quarantine: what of it verifies is served.
    Damaged,
    /// In quarantine, without a file that could be read, and why.
    Unreadable(&'static str),
}

/// Where the hints of a segment are.
#[derive(Clone, Debug)]
pub(crate) enum SegmentHints {
    /// It still takes records, or was sealed a moment ago: the shards know its hashes.
    Recent,
    /// In a file that is to be opened.
    Written,
    File(Arc<HintFile>),
    /// The file could not be written or read.
    Memory(Arc<Hints>),
    /// Of a segment in quarantine: what is known of it, which no file is to say.
    Known(Arc<Hints>),
}

impl Segment {
    pub(crate) fn new(header: &SegmentHeader, hints: SegmentHints) -> Segment {
        Segment {
            number: header.segment,
            identity: header.identity(),
            bytes: header.segment_bytes,
            header: *header,
            standing: Standing::Whole,
            file: Mutex::new(None),
            hints: Mutex::new(hints),
        }
    }

    /// The same segment, in quarantine.
    pub(crate) fn in_quarantine(self, standing: Standing) -> Segment {
        Segment { standing, ..self }
    }

    fn check_readable(&self, offset: u64) -> Result<()> {
        match self.standing {
            Standing::Unreadable(what) => {
                Err(Error::Corrupt { segment: self.number, offset, what })
            }
            Standing::Whole | Standing::Damaged => Ok(()),
        }
    }

    /// What an operator is told of it.
    pub(crate) fn told(
        &self,
        state: SegmentState,
        summary: &Summary,
        disk_bytes: u64,
    ) -> SegmentInfo {
        let is_whole = self.standing == Standing::Whole;
        let is_empty = summary.records == 0;
        let created_ms = self.header.created_ms;
        SegmentInfo {
            segment: self.number,
            state: if is_whole { state } else { SegmentState::Quarantined },
            disk_bytes,
            records: summary.records.into(),
            responses: summary.completes.into(),
            begun_at: from_ms(if is_empty { created_ms } else { summary.time_ms_min }),
            newest_at: from_ms(if is_empty { created_ms } else { summary.time_ms_max }),
            expires_at: (summary.expires_ms_max > 0).then(|| from_ms(summary.expires_ms_max)),
        }
    }

    /// Whether its hint file is part of the store.
    pub(crate) fn has_hint_file(&self) -> bool {
        matches!(*self.hints.lock(), SegmentHints::Written | SegmentHints::File(_))
    }
}

/// What a segment that takes no more records says of itself, and what it takes of the disk with its
/// hint file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedSegment {
    pub(crate) summary: Summary,
    pub(crate) disk_bytes: u64,
    /// Whether CHECKPOINT says so too. Until then nobody may rely on it.
    is_sealed: bool,
}

/// The segments from the oldest to the tail, and what those that have ended say of themselves.
#[derive(Debug)]
pub(crate) struct Segments {
    storage: Arc<dyn Storage>,
    access: Access,
    /// Segments below are gone for readers. `Release` when raised, `Acquire` in `oldest`.
    oldest: AtomicU64,
    /// No shard's index names a segment below. `Release` when raised, `Acquire` in `is_free`.
    swept: AtomicU64,
    // LOCK: segments
    live: RwLock<BTreeMap<u64, Arc<Segment>>>,
    // LOCK: summaries (a leaf)
    ended: Mutex<BTreeMap<u64, EndedSegment>>,
    /// What the sealed segments take of the disk. `Relaxed`: it orders nothing.
    disk_bytes: AtomicU64,
    // LOCK: open files (a leaf)
    opened: Mutex<VecDeque<u64>>,
}

impl Segments {
    pub(crate) fn new(storage: Arc<dyn Storage>, access: Access, oldest: u64) -> Segments {
        Segments {
            storage,
            access,
            oldest: AtomicU64::new(oldest),
            swept: AtomicU64::new(oldest),
            live: RwLock::default(),
            ended: Mutex::default(),
            disk_bytes: AtomicU64::new(0),
            opened: Mutex::default(),
        }
    }

    pub(crate) fn insert(&self, segment: Segment) {
        self.live.write().insert(segment.number, Arc::new(segment));
    }

    /// All of them, oldest first.
    pub(crate) fn live(&self) -> Vec<Arc<Segment>> {
        self.live.read().values().cloned().collect()
    }

    /// One of them; `None` where it was dropped.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<Segment>> {
        self.live.read().get(&number).cloned()
    }

    /// Says where the hints of a segment are from now on.
    pub(crate) fn set_hints(&self, number: u64, hints: SegmentHints) {
        if let Some(segment) = self.live.read().get(&number) {
            *segment.hints.lock() = hints;
        }
    }

    /// The same segment is in quarantine from now on; for one whose file can be read.
    pub(crate) fn quarantine(&self, number: u64) {
        let mut live = self.live.write();
        if let Some(segment) = live.get(&number) {
            let hints = segment.hints.lock().clone();
            let damaged = Segment::new(&segment.header, hints).in_quarantine(Standing::Damaged);
            live.insert(number, Arc::new(damaged));
        }
    }

    /// Whether a segment is in quarantine.
    pub(crate) fn is_quarantined(&self, number: u64) -> bool {
        self.live.read().get(&number).is_some_and(|segment| segment.standing != Standing::Whole)
    }

    /// Whether the hints of a segment are still with the shards.
    pub(crate) fn is_recent(&self, number: u64) -> bool {
        let is_recent = |s: Arc<Segment>| matches!(*s.hints.lock(), SegmentHints::Recent);
        self.get(number).is_some_and(is_recent)
    }

    /// Whether the hints of a segment that has some name a record with this hash at `location`;
    /// where they cannot be read, they may.
    pub(crate) fn may_name(&self, location: Location, hash: u64, hash_key: &HashKey) -> bool {
        let Some(segment) = self.get(location.segment()) else { return true };
        if matches!(*segment.hints.lock(), SegmentHints::Recent) {
            return true;
        }
        let mut hints = Vec::new();
        let read = self.hints_within(&segment, &(hash..=hash), hash_key, &mut hints);
        read.is_err() || hints.iter().any(|hint| u64::from(hint.granule) == location.granule())
    }

    /// The hints that no file holds.
    pub(crate) fn hints_in_memory(&self) -> Vec<(Binding, Arc<Hints>)> {
        let live = self.live.read();
        let hints = live.values().filter_map(|segment| match &*segment.hints.lock() {
            SegmentHints::Memory(hints) => Some((segment.header.binding(), Arc::clone(hints))),
            _ => None,
        });
        hints.collect()
    }

    /// Puts every response of neighbouring shards that has a hint into their tables, oldest segment
    /// first. `first` is the shard of the first table.
    pub(crate) fn fill(
        &self,
        first: usize,
        hash_key: &HashKey,
        tables: &mut [Larger],
    ) -> Result<()> {
        let hashes = *hashes_of(first).start()..=*hashes_of(first + tables.len() - 1).end();
        let live = self.live();
        let mut hints = Vec::new();
        for segment in live {
            hints.clear();
            if let Err(error) = self.hints_within(&segment, &hashes, hash_key, &mut hints) {
                // It may have been dropped, and removed, since the list was made.
                if segment.number < self.oldest() {
                    continue;
                }
                return Err(error);
            }
            let place = |hint: &Hint| Location::of_granule(segment.number, hint.granule.into());
            for hint in hints.iter().filter(|hint| !hint.forget) {
                tables[shard_of(hint.hash) - first].add(hint.hash, place(hint));
            }
            for hint in hints.iter().filter(|hint| hint.forget) {
                match self.forgotten(place(hint)) {
                    Ok(Some(forgotten)) => {
                        tables[shard_of(hint.hash) - first].remove(hint.hash, forgotten);
                    }
                    Ok(None) => {}
                    // What it named was erased before the call that wrote it returned.
                    Err(Error::Corrupt { .. }) if segment.standing != Standing::Whole => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// What the FORGET at `location` names.
    fn forgotten(&self, location: Location) -> Result<Option<Location>> {
        let Some(stored) = self.read(location)? else { return Ok(None) };
        let (segment, offset) = (location.segment(), location.offset());
        let corrupt = |error: DecodeError| Error::Corrupt { segment, offset, what: error.what() };
        match stored.record().map_err(corrupt)? {
            Record::Forget { segment, offset, .. } => Ok(Location::checked(segment, offset)),
            _ => Err(corrupt(DecodeError::Damaged("a hint names a record of another kind"))),
        }
    }

    /// The hints of one segment, in order.
    pub(crate) fn hints(&self, segment: &Segment, hash_key: &HashKey) -> Result<Vec<Hint>> {
        let mut hints = Vec::new();
        self.hints_within(segment, &(0..=u64::MAX), hash_key, &mut hints)?;
        Ok(hints)
    }

    fn hints_within(
        &self,
        segment: &Segment,
        hashes: &RangeInclusive<u64>,
        hash_key: &HashKey,
        out: &mut Vec<Hint>,
    ) -> Result<()> {
        let state = segment.hints.lock().clone();
        let file = match state {
            SegmentHints::Recent => return Ok(()),
            SegmentHints::Memory(hints) | SegmentHints::Known(hints) => {
                out.extend_from_slice(hinted::range_of(&hints, hashes));
                return Ok(());
            }
            SegmentHints::File(file) => Ok(file),
            SegmentHints::Written => self.open_hints(segment),
        };
        if let Ok(file) = file
            && file.range(hashes, out).is_ok()
        {
            return Ok(());
        }
        out.clear();
        let hints = Arc::new(self.rebuild_hints(segment, hash_key)?);
        out.extend_from_slice(hinted::range_of(&hints, hashes));
        *segment.hints.lock() = SegmentHints::Memory(hints);
        Ok(())
    }

    fn open_hints(&self, segment: &Segment) -> std::io::Result<Arc<HintFile>> {
        let (storage, binding) = (&*self.storage, segment.header.binding());
        let file = Arc::new(HintFile::open(storage, self.access, binding, segment.bytes)?);
        *segment.hints.lock() = SegmentHints::File(Arc::clone(&file));
        self.close_beyond_limit(segment.number);
        Ok(file)
    }

    fn rebuild_hints(&self, segment: &Segment, hash_key: &HashKey) -> Result<Hints> {
        let file = self.file(segment).map_err(Error::io("open a segment"))?;
        let mut bytes = vec![0; usize::try_from(DATA_START).expect("two pages")];
        file.read_at(0, &mut bytes).map_err(Error::io("read a segment header"))?;
        let header = SegmentHeader::decode(&bytes).map_err(|error| Error::Corrupt {
            segment: segment.number,
            offset: 0,
            what: error.what(),
        })?;
        let bytes = hinted::read_whole(&*file, header.segment_bytes)?;
        hinted::rebuild(&bytes, &header, hash_key).map(|(hints, _)| hints)
    }

    /// A segment ended with the SEAL at this offset: its blocks behind it are given back.
    pub(crate) fn end(&self, number: u64, summary: Summary, seal_offset: u64) {
        let disk_bytes = disk_bytes(&summary, seal_offset);
        self.disk_bytes.fetch_add(disk_bytes, Ordering::Relaxed);
        self.ended.lock().insert(number, EndedSegment { summary, disk_bytes, is_sealed: false });
    }

    /// The same segment is sealed from now on: CHECKPOINT says so.
    pub(crate) fn seal(&self, number: u64, summary: Summary, seal_offset: u64) {
        let disk_bytes = disk_bytes(&summary, seal_offset);
        self.ended.lock().insert(number, EndedSegment { summary, disk_bytes, is_sealed: true });
    }

    /// A segment was found sealed, or is sealed by whoever found it.
    pub(crate) fn found_sealed(&self, number: u64, summary: Summary, seal_offset: u64) {
        self.end(number, summary, seal_offset);
        self.seal(number, summary, seal_offset);
    }

    /// Summaries of the sealed segments, oldest first.
    pub(crate) fn sealed(&self) -> Vec<(u64, Summary)> {
        let ended = self.ended.lock();
        let sealed = ended.iter().filter(|(_, ended)| ended.is_sealed);
        sealed.map(|(&number, sealed)| (number, sealed.summary)).collect()
    }

    /// All that have ended, those that CHECKPOINT does not call sealed yet too.
    pub(crate) fn ended(&self) -> BTreeMap<u64, EndedSegment> {
        self.ended.lock().clone()
    }

    /// Bytes of disk that the sealed segments and their hint files take.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    /// Every shard was swept up to `oldest`.
    pub(crate) fn set_swept(&self, oldest: u64) {
        self.swept.fetch_max(oldest, Ordering::Release);
    }

    /// Whether the index can tell segment `number` from every other that it may name.
    pub(crate) fn is_free(&self, number: u64) -> bool {
        number - self.swept.load(Ordering::Acquire) < SEGMENTS
    }

    /// Segments below are gone.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest.load(Ordering::Acquire)
    }

    /// Makes every segment below `oldest` absent for readers. Returns how many there were, and the
    /// bytes of disk that they took.
    pub(crate) fn drop_below(&self, oldest: u64) -> (u64, u64) {
        self.oldest.fetch_max(oldest, Ordering::Release);
        let mut live = self.live.write();
        let kept = live.split_off(&oldest);
        let dropped = std::mem::replace(&mut *live, kept);
        drop(live);
        let mut ended = self.ended.lock();
        let kept = ended.split_off(&oldest);
        let gone = std::mem::replace(&mut *ended, kept);
        drop(ended);
        let bytes = gone.values().map(|ended| ended.disk_bytes).sum();
        self.disk_bytes.fetch_sub(bytes, Ordering::Relaxed);
        (dropped.len() as u64, bytes)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.live.read().len() as u64
    }

    /// Reads and verifies the record at `location`: `None` where its segment was dropped.
    pub(crate) fn read(&self, location: Location) -> Result<Option<Stored>> {
        let Some(segment) = self.live.read().get(&location.segment()).cloned() else {
            return Ok(None);
        };
        segment.check_readable(location.offset())?;
        let file = match self.file(&segment) {
            Ok(file) => file,
            Err(_) if location.segment() < self.oldest() => return Ok(None),
            Err(error) => return Err(Error::io("open a segment")(error)),
        };
        read_record(&*file, &segment, location.offset()).map(Some)
    }

    /// What the file of a live segment says of itself.
    pub(crate) fn header(&self, number: u64) -> Option<SegmentHeader> {
        self.live.read().get(&number).map(|segment| segment.header)
    }

    /// Calls back with every record of a segment; `None` where it was dropped.
    pub(crate) fn scan(&self, number: u64, each: impl FnMut(Entry<'_>)) -> Result<Option<Scan>> {
        let Some(segment) = self.live.read().get(&number).cloned() else { return Ok(None) };
        segment.check_readable(0)?;
        let file = self.file(&segment).map_err(Error::io("open a segment"))?;
        let bytes = hinted::read_whole(&*file, segment.bytes)?;
        Ok(Some(reader::scan(&bytes, segment.identity, segment.header.first_lsn, each)))
    }

    fn file(&self, segment: &Segment) -> std::io::Result<Arc<dyn File>> {
        let mut slot = segment.file.lock();
        if let Some(file) = &*slot {
            return Ok(Arc::clone(file));
        }
        let file = self.storage.open(&segment_name(segment.number), self.access)?;
        *slot = Some(Arc::clone(&file));
        drop(slot);
        self.close_beyond_limit(segment.number);
        Ok(file)
    }

    fn close_beyond_limit(&self, opened: u64) {
        let limit = if self.access == Access::ReadMapped { MAPS_MAX } else { DESCRIPTORS_MAX };
        let closing = {
            let mut queue = self.opened.lock();
            queue.push_back(opened);
            if queue.len() > limit { queue.pop_front() } else { None }
        };
        if let Some(closing) = closing.and_then(|number| self.live.read().get(&number).cloned()) {
            *closing.file.lock() = None;
            let mut hints = closing.hints.lock();
            if matches!(*hints, SegmentHints::File(_)) {
                *hints = SegmentHints::Written;
            }
        }
    }
}

/// What a segment takes of the disk, with its hint file.
fn disk_bytes(summary: &Summary, seal_offset: u64) -> u64 {
    let hints = u64::from(summary.completes) + u64::from(summary.forgets);
    (seal_offset + record::SEAL_BYTES).next_multiple_of(4096) + hint::file_bytes(hints)
}

/// A record that verified, owned.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) header: Header,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    pub(crate) fn record(&self) -> std::result::Result<Record<'_>, DecodeError> {
        self.header.parse_body(&self.bytes)
    }
}

fn read_record(file: &dyn File, segment: &Segment, offset: u64) -> Result<Stored> {
    let damaged =
        |error: DecodeError| Error::Corrupt { segment: segment.number, offset, what: error.what() };
    // One read for most records: its memory accesses overlap, where a header first and a body
    // afterwards would wait for each other.
    let mut first = [0; FIRST_READ];
    let end = segment.bytes.saturating_sub(offset).min(FIRST_READ as u64);
    let mut have = usize::try_from(end).expect("at most the first read");
    if file.read_at(offset, &mut first[..have]).is_err() {
        // What cannot be read may be the next record.
        have = have.min(HEADER_BYTES);
        file.read_at(offset, &mut first[..have]).map_err(Error::io("read a record"))?;
    }
    let header = Header::decode(&first[..have], segment.identity, offset).map_err(damaged)?;
    let len = header.record_bytes();
    if offset + len as u64 > segment.bytes {
        return Err(damaged(DecodeError::Damaged("a record beyond the end of its segment")));
    }
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&first[..len.min(have)]);
    if len > have {
        bytes.resize(len, 0);
        file.read_at(offset + have as u64, &mut bytes[have..])
            .map_err(Error::io("read a record"))?;
    }
    header.decode_body(&bytes).map_err(damaged)?;
    Ok(Stored { header, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::{Appends, DiskStorage};

    fn storage() -> (tempfile::TempDir, Arc<dyn Storage>) {
        let dir = tempfile::tempdir().unwrap();
        let storage = DiskStorage::create(dir.path(), Appends::Written).unwrap();
        (dir, Arc::new(storage))
    }

    #[test]
    fn a_number_is_free_once_no_index_names_another_that_looks_the_same() {
        let (_dir, storage) = storage();
        let segments = Segments::new(storage, Access::ReadPositioned, 7);
        assert!(segments.is_free(7 + SEGMENTS - 1));
        assert!(!segments.is_free(7 + SEGMENTS), "the index takes it for segment 7");
        segments.set_swept(8);
        assert!(segments.is_free(7 + SEGMENTS));
    }

    #[test]
    fn as_many_descriptors_stay_open_as_are_allowed() {
        let (_dir, storage) = storage();
        let segments = Segments::new(Arc::clone(&storage), Access::ReadPositioned, 1);
        let header = |segment| SegmentHeader { segment, ..SegmentHeader::sample(4096) };
        let open = |number| segments.get(number).unwrap().file.lock().is_some();
        for number in 1..=DESCRIPTORS_MAX as u64 + 1 {
            assert!(number == 1 || open(1), "segment 1 is closed for the {number}th");
            storage.create(&segment_name(number), 4096).unwrap();
            segments.insert(Segment::new(&header(number), SegmentHints::Recent));
            segments.file(&segments.get(number).unwrap()).unwrap();
        }
        assert!(!open(1) && open(2) && open(DESCRIPTORS_MAX as u64 + 1));
    }
}
