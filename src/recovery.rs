//! Log -> state: the only file that decides what a bad tail means.
//!
//! Everything is decided read-only; then the store is changed, each step durable before the next:
//! epoch > discarded segments removed > the tail rewritten, cut and sealed > a new segment with
//! the open claims > CHECKPOINT. A crash at any step leads to the same store at the next open.
//!
//! A bad record is damage if a later record, or CHECKPOINT, promises that it was durable. Else it
//! is a torn tail: what was never promised was never acknowledged as synced.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{Config, Create, Durability, Phase, Progress, Reads};
use crate::error::{Error, Result};
use crate::format::DecodeError;
use crate::format::checkpoint::{self, Checkpoint};
use crate::format::hint::{Binding, Hint, Hints};
use crate::format::record::{Claim, Complete, Draft, Ended, Header, Kind, Record, Stamp, Summary};
use crate::format::segment::{DATA_START, SegmentHeader};
use crate::format::superblock::{self, Superblock};
use crate::location::{Location, Lsn};
use crate::log::checkpoints::{self, Checkpoints};
use crate::log::reader::{self, Beyond, End, Scan};
use crate::log::segments::{Segment, Segments};
use crate::log::staging::{Maker, Placed, Prepared, Staging, Tail, Writes};
use crate::log::writer::{Log, write_hints};
use crate::log::{Facts, OpenClaim, hint_name, number_of, segment_name};
use crate::random;
use crate::scope::{HashKey, OperationId, OperationKey, Token};
use crate::stats::Recovery;
use crate::storage::{Access, File, Storage};
use crate::time::StoreTime;

const SUPER: &str = "SUPER";

/// A store that is ready to be used.
pub(crate) struct Recovered<D> {
    pub(crate) log: Log<D>,
    pub(crate) hash_key: HashKey,
    pub(crate) time: StoreTime,
    pub(crate) responses: Vec<(u64, Location)>,
    pub(crate) open: Vec<OpenClaim>,
    pub(crate) report: Recovery,
}

/// What is told of progress.
pub(crate) type Tell<'a> = &'a dyn Fn(Progress);

/// Opens the store in `storage`, creating it where there is none and that is allowed. `None`
/// where it is not allowed.
pub(crate) fn recover<D>(
    storage: Arc<dyn Storage>,
    config: &Config,
    clock: Arc<dyn Clock>,
    tell: Tell<'_>,
) -> Result<Option<Recovered<D>>> {
    let Some((superblock, checkpoints)) = read_or_create(&*storage, config)? else {
        return Ok(None);
    };
    if config.response_bytes_max.is_some_and(|bytes| {
        u64::from(bytes) + Config::RECORD_BYTES_EXTRA > superblock.segment_bytes / 4
    }) {
        let what = "response_bytes_max + 8 KiB must fit into a quarter of the store's segments";
        return Err(Error::Invalid { what });
    }
    let hash_key = HashKey::new(&superblock.hash_key);
    let mut found = Found::new(&*storage, superblock, *checkpoints.current(), hash_key.clone());
    found.load(tell)?;
    found.scan(tell)?;
    let mark = found.time_ms;
    let time = StoreTime::resume(clock, config.ttl_ms(), mark);
    let maker = Maker {
        storage: Arc::clone(&storage),
        store: superblock.store,
        segment_bytes: superblock.segment_bytes,
        bucket_ms: config.bucket_ms(),
        writes: Writes::AtStaging,
    };
    let (log, report) = found.settle(maker, checkpoints, config, &time)?;
    let responses = found.replay.responses.into_iter().collect();
    let open = found.replay.open.into_values().collect();
    Ok(Some(Recovered { log, hash_key, time, responses, open, report }))
}

/// Reads SUPER and CHECKPOINT, or makes them: SUPER first, so that a crash in between leaves a
/// directory that is plainly a store without segments.
fn read_or_create(
    storage: &dyn Storage,
    config: &Config,
) -> Result<Option<(Superblock, Checkpoints)>> {
    let names = storage.list().map_err(Error::io("list the directory"))?;
    let has = |name: &str| names.iter().any(|other| other == name);
    let has_segments = names.iter().any(|name| number_of(name, ".seg").is_some());
    let corrupt = |what| Err(Error::Corrupt { segment: 0, offset: 0, what });
    if !has(SUPER) {
        if has_segments || has(checkpoints::NAME) {
            return corrupt("SUPER is missing beside the other files of a store");
        }
        if config.create == Create::Never {
            return Ok(None);
        }
        let superblock = Superblock {
            store: random::bytes().map_err(Error::io("draw a store uuid"))?,
            hash_key: random::bytes().map_err(Error::io("draw a hash key"))?,
            segment_bytes: config.segment_bytes,
        };
        replace(storage, SUPER, &superblock.encode())?;
    }
    let file = storage.open(SUPER, Access::ReadPositioned).map_err(Error::io("open SUPER"))?;
    let superblock = decode_super(&*file)?;
    if !has(checkpoints::NAME) {
        if has_segments {
            return corrupt("CHECKPOINT is missing beside segments");
        }
        let mut slots = Checkpoint { oldest: 1, ..Checkpoint::default() }.encode(superblock.store);
        let second = Checkpoint { oldest: 1, generation: 1, ..Checkpoint::default() };
        slots.extend(second.encode(superblock.store));
        debug_assert_eq!(slots.len(), checkpoint::FILE_BYTES);
        replace(storage, checkpoints::NAME, &slots)?;
    }
    let file =
        storage.open(checkpoints::NAME, Access::Write).map_err(Error::io("open CHECKPOINT"))?;
    Ok(Some((superblock, Checkpoints::read(file, superblock.store)?)))
}

fn decode_super(file: &dyn File) -> Result<Superblock> {
    let mut bytes = vec![0; superblock::FILE_BYTES];
    let corrupt = |what| Error::Corrupt { segment: 0, offset: 0, what };
    if file.size().map_err(Error::io("read SUPER"))? < bytes.len() as u64 {
        return Err(corrupt("SUPER is cut short"));
    }
    file.read_at(0, &mut bytes).map_err(Error::io("read SUPER"))?;
    let superblock = Superblock::decode(&bytes).map_err(unknown_version_or(corrupt))?;
    let sizes = Config::SEGMENT_BYTES_MIN..=Location::SEGMENT_BYTES_MAX;
    if !sizes.contains(&superblock.segment_bytes) {
        return Err(corrupt("SUPER names an impossible segment size"));
    }
    Ok(superblock)
}

fn unknown_version_or(
    corrupt: impl FnOnce(&'static str) -> Error,
) -> impl FnOnce(DecodeError) -> Error {
    move |error| match error {
        DecodeError::Version(found) => {
            Error::Version { found, supported: crate::format::FORMAT_VERSION }
        }
        error => corrupt(error.what()),
    }
}

/// Writes a small file so that it is there whole or not at all.
fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<()> {
    let draft = format!("{name}.tmp");
    let write = || {
        let file = storage.create(&draft, bytes.len() as u64)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        storage.rename(&draft, name)?;
        storage.sync_dir()
    };
    write().map_err(Error::io("write a new file of the store"))
}

/// A segment that was read in full.
struct Scanned {
    header: SegmentHeader,
    file: Arc<dyn File>,
    bytes: Vec<u8>,
    scan: Scan,
    summary: Summary,
    hints: Vec<Hint>,
    /// Its SEAL, where it has one.
    seal: Option<Placed>,
}

/// What the records of unsealed segments add up to.
#[derive(Default)]
struct Replay {
    open: BTreeMap<Token, OpenClaim>,
    /// The token that stands for each open operation.
    operations: HashMap<OperationId, Token>,
    /// Claims that ended: a CLAIM of theirs that comes later is void.
    ended: BTreeSet<Token>,
    responses: BTreeSet<(u64, Location)>,
}

struct Found<'a> {
    storage: &'a dyn Storage,
    superblock: Superblock,
    checkpoint: Checkpoint,
    hash_key: HashKey,
    sealed: Vec<(SegmentHeader, Summary)>,
    scanned: Vec<Scanned>,
    replay: Replay,
    /// Hint files to write again.
    rebuilt: Vec<(Binding, Hints)>,
    /// Segments behind the cut.
    discarded: Vec<u64>,
    time_ms: u64,
    last: Lsn,
    report: Recovery,
}

impl<'a> Found<'a> {
    fn new(
        storage: &'a dyn Storage,
        superblock: Superblock,
        checkpoint: Checkpoint,
        hash_key: HashKey,
    ) -> Found<'a> {
        Found {
            storage,
            superblock,
            checkpoint,
            hash_key,
            sealed: Vec::new(),
            scanned: Vec::new(),
            replay: Replay::default(),
            rebuilt: Vec::new(),
            discarded: Vec::new(),
            time_ms: checkpoint.time_ms,
            last: Lsn::ZERO,
            report: Recovery { epoch: checkpoint.epoch + 1, ..Recovery::default() },
        }
    }

    /// Loads every sealed segment, by its hints where they are sound.
    fn load(&mut self, tell: Tell<'_>) -> Result<()> {
        let Checkpoint { oldest, sealed, tail, .. } = self.checkpoint;
        if oldest == 0 || sealed > tail || (tail != 0 && oldest > tail) {
            let what = "CHECKPOINT contradicts itself";
            return Err(Error::Corrupt { segment: 0, offset: 0, what });
        }
        let total = (sealed + 1).saturating_sub(oldest);
        for number in oldest..=sealed {
            tell(Progress { phase: Phase::Loading, done: number - oldest, total });
            let (file, header) = self.open_segment(number)?.ok_or(Error::Corrupt {
                segment: number,
                offset: 0,
                what: "the file is missing",
            })?;
            let hints = match self.read_hints(&header) {
                Some(hints) => hints,
                None => self.rebuild_hints(&*file, &header)?,
            };
            self.apply_hints(&*file, &header, &hints)?;
            self.time_ms = self.time_ms.max(hints.summary.time_ms_max);
            self.last = hints.seal_lsn;
            self.sealed.push((header, hints.summary));
        }
        tell(Progress { phase: Phase::Loading, done: total, total });
        Ok(())
    }

    /// The file of a segment and its header; `None` where there is no such file.
    fn open_segment(&self, number: u64) -> Result<Option<(Arc<dyn File>, SegmentHeader)>> {
        let file = match self.storage.open(&segment_name(number), Access::Write) {
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

    fn binding(&self, header: &SegmentHeader) -> Binding {
        Binding { store: header.store, segment: header.segment, salt: header.salt }
    }

    /// Hints that cannot be read are only slower: the segment itself is read instead.
    fn read_hints(&self, header: &SegmentHeader) -> Option<Hints> {
        let file = self.storage.open(&hint_name(header.segment), Access::ReadPositioned).ok()?;
        let size = file.size().ok().filter(|&size| size <= Location::SEGMENT_BYTES_MAX)?;
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        file.read_at(0, &mut bytes).ok()?;
        Hints::decode(&bytes, self.binding(header)).ok()
    }

    fn rebuild_hints(&mut self, file: &dyn File, header: &SegmentHeader) -> Result<Hints> {
        let bytes = read_whole(file, self.superblock.segment_bytes)?;
        let (mut entries, mut found) = (Vec::new(), None);
        let scan = reader::scan(&bytes, header.identity(), header.first_lsn, |entry| {
            match entry.record {
                Record::Complete(complete) => {
                    entries.push(hint(&self.hash_key, &complete, entry.offset));
                }
                Record::Forget { hash, .. } => {
                    let granule = granule(entry.offset);
                    entries.push(Hint { hash, granule, forget: true });
                }
                Record::Seal(summary) => found = Some((entry.header.lsn, entry.offset, summary)),
                _ => {}
            }
            self.report.records_scanned += 1;
        });
        let Some((seal_lsn, seal_offset, summary)) = found else {
            let what = match scan.end {
                End::Bad(what) => what,
                _ => "a sealed segment without its SEAL",
            };
            return Err(Error::Corrupt { segment: header.segment, offset: scan.offset, what });
        };
        entries.sort_unstable();
        let hints = Hints { seal_lsn, seal_offset, summary, entries };
        self.rebuilt.push((self.binding(header), hints.clone()));
        self.report.hints_rebuilt += 1;
        Ok(hints)
    }

    fn apply_hints(
        &mut self,
        file: &dyn File,
        header: &SegmentHeader,
        hints: &Hints,
    ) -> Result<()> {
        for entry in &hints.entries {
            let offset = u64::from(entry.granule) * Location::GRANULE;
            if offset >= self.superblock.segment_bytes {
                let what = "a hint points beyond its segment";
                return Err(Error::Corrupt { segment: header.segment, offset, what });
            }
            if entry.forget {
                self.apply_forget(file, header, offset)?;
            } else {
                let location = Location::new(header.segment, offset);
                self.replay.responses.insert((entry.hash, location));
            }
        }
        Ok(())
    }

    /// Removes the response that the FORGET at `offset` names.
    fn apply_forget(&mut self, file: &dyn File, header: &SegmentHeader, offset: u64) -> Result<()> {
        let mut bytes = [0; 64];
        file.read_at(offset, &mut bytes).map_err(Error::io("read a record"))?;
        let corrupt = |error: DecodeError| Error::Corrupt {
            segment: header.segment,
            offset,
            what: error.what(),
        };
        let record = Header::decode(&bytes, header.identity(), offset).map_err(corrupt)?;
        let body = record.decode_body(&bytes).map_err(corrupt)?;
        if let Record::Forget { hash, segment, offset } = body {
            self.replay.forget(hash, segment, offset);
        }
        Ok(())
    }

    /// Reads every segment that is not sealed, finds the end of the log, and replays up to it.
    fn scan(&mut self, tell: Tell<'_>) -> Result<()> {
        let mut segments = self.unsealed()?;
        let total = segments.len() as u64;
        self.report.segments = self.sealed.len() as u64 + total;
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
            let scanned = self.scan_segment(file, header)?;
            let ends = segments.is_empty() && scanned.scan.end == End::Blank;
            let goes_on = scanned.scan.end == End::Sealed;
            self.scanned.push(scanned);
            if !ends && !goes_on {
                self.judge(&segments)?;
                self.discarded = segments.iter().map(|(_, header)| header.segment).collect();
                break;
            }
        }
        tell(Progress { phase: Phase::Scanning, done: total, total });
        self.check_durable_end()
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

    fn scan_segment(&mut self, file: Arc<dyn File>, header: SegmentHeader) -> Result<Scanned> {
        let bytes = read_whole(&*file, self.superblock.segment_bytes)?;
        let (mut summary, mut hints, mut seal) = (Summary::default(), Vec::new(), None);
        let scan = reader::scan(&bytes, header.identity(), header.first_lsn, |entry| {
            let location = Location::new(header.segment, entry.offset);
            self.time_ms = self.time_ms.max(entry.header.time_ms);
            self.report.records_scanned += 1;
            summary.count(entry.header.kind, entry.header.lsn, entry.header.time_ms);
            match &entry.record {
                Record::Complete(complete) => {
                    summary.expires_ms_max = summary.expires_ms_max.max(complete.expires_ms);
                    hints.push(hint(&self.hash_key, complete, entry.offset));
                }
                Record::Forget { hash, .. } => {
                    hints.push(Hint { hash: *hash, granule: granule(entry.offset), forget: true });
                }
                Record::Seal(_) => seal = Some(Placed { lsn: entry.header.lsn, location }),
                _ => {}
            }
            self.replay.apply(&self.hash_key, location, &entry.header, entry.record);
        });
        self.report.segments_scanned += 1;
        if let Some((last, _)) = scan.last {
            self.last = last;
        }
        Ok(Scanned { header, file, bytes, scan, summary, hints, seal })
    }

    /// Whether the bad spot at the end of the newest scanned segment is damage.
    fn judge(&mut self, later: &[(Arc<dyn File>, SegmentHeader)]) -> Result<()> {
        let Some(Scanned { header, bytes, scan, .. }) = self.scanned.last() else {
            return Ok(());
        };
        let mut beyond = Beyond::default();
        reader::look_ahead(bytes, header.identity(), scan.offset, &mut beyond);
        for (file, header) in later {
            let bytes = read_whole(&**file, self.superblock.segment_bytes)?;
            reader::look_ahead(&bytes, header.identity(), DATA_START, &mut beyond);
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
        Ok(())
    }

    /// The log must reach at least as far as CHECKPOINT says that it was durable.
    fn check_durable_end(&self) -> Result<()> {
        if self.last >= self.checkpoint.durable_lsn {
            return Ok(());
        }
        let (segment, offset) = match self.scanned.last() {
            Some(scanned) => (scanned.header.segment, scanned.scan.offset),
            None => (0, 0),
        };
        let what = "the log ends before what CHECKPOINT says was durable";
        Err(Error::Corrupt { segment, offset, what })
    }

    /// Changes the store to what was decided, and makes the log that goes on from there.
    fn settle<D>(
        &mut self,
        mut maker: Maker,
        mut checkpoints: Checkpoints,
        config: &Config,
        time: &StoreTime,
    ) -> Result<(Log<D>, Recovery)> {
        let epoch = self.checkpoint.epoch + 1;
        if epoch > Lsn::EPOCH_MAX {
            let what = "the store was opened more often than token numbers allow";
            return Err(Error::Invalid { what });
        }
        let adoptable = self.adoptable();
        let remade = if adoptable { None } else { self.worthless_tail().map(|tail| tail.header) };
        checkpoints.write_both(|checkpoint| {
            checkpoint.epoch = epoch;
            if let Some(header) = remade {
                checkpoint.durable_lsn = checkpoint.durable_lsn.min(header.previous_last_lsn);
            }
        })?;
        self.remove_strays()?;
        self.rewrite_unpromised()?;
        let next = Lsn::first_of(epoch);
        let now_ms = time.read().now_ms;
        let mut staging = if adoptable {
            self.adopt(next, now_ms)
        } else {
            self.go_on(&maker, &mut checkpoints, next, now_ms)?
        };
        staging.durable = staging.next.before();
        staging.steps.clear();
        maker.writes = match config.durability {
            Durability::Synced => Writes::AtCommit,
            Durability::Buffered { .. } => Writes::AtStaging,
        };
        for (binding, hints) in &self.rebuilt {
            // Without hints the next open is slower, and nothing else.
            if write_hints(self.storage, *binding, hints).is_err() {
                break;
            }
        }
        let access = match config.reads {
            Reads::Mapped => Access::ReadMapped,
            Reads::Positioned => Access::ReadPositioned,
        };
        let oldest = self.checkpoint.oldest;
        let segments = Segments::new(Arc::clone(&maker.storage), access, oldest);
        let bytes = maker.segment_bytes;
        let insert = |header: &SegmentHeader| {
            segments.insert(Segment::new(header.segment, header.identity(), bytes));
        };
        for (header, summary) in &self.sealed {
            insert(header);
            segments.seal(header.segment, *summary);
        }
        insert(&staging.tail.header);
        self.report.responses = self.replay.responses.len() as u64;
        self.report.orphans = self.replay.open.len() as u64;
        let secret = random::bytes().map_err(Error::io("draw a secret for operation ids"))?;
        let operations = OperationKey::new(&secret);
        let log = Log::new(maker, config.durability, segments, operations, staging, checkpoints);
        Ok((log, self.report.clone()))
    }

    /// Removes what is not part of the store: dropped segments, drafts, prepared files, and
    /// whatever lies behind the cut.
    fn remove_strays(&mut self) -> Result<()> {
        let newest = self.scanned.last().map_or(self.checkpoint.sealed, |s| s.header.segment);
        let live = self.checkpoint.oldest..=newest;
        let mut removed = false;
        for name in self.storage.list().map_err(Error::io("list the directory"))? {
            let number = number_of(&name, ".seg").or(number_of(&name, ".idx"));
            let draft = name.strip_suffix(".tmp").is_some_and(|name| {
                name == SUPER
                    || name == checkpoints::NAME
                    || number_of(name, ".idx").is_some()
                    || number_of(name, ".seg").is_some()
            });
            if draft || number.is_some_and(|number| !live.contains(&number)) {
                self.storage.remove(&name).map_err(Error::io("remove a discarded file"))?;
                removed = true;
            }
        }
        self.report.segments_discarded = self.discarded.len() as u64;
        if removed {
            self.storage.sync_dir().map_err(Error::io("sync the directory"))?;
        }
        Ok(())
    }

    /// Writes again what no promise covers, zeros the cut, and syncs: after a failed sync the page
    /// cache can hold bytes, marked clean, that the disk never got.
    fn rewrite_unpromised(&mut self) -> Result<()> {
        let promises = self.scanned.iter().map(|scanned| scanned.scan.promise);
        let promised = promises.fold(self.checkpoint.durable_lsn, Lsn::max);
        for scanned in &self.scanned {
            let end = usize::try_from(scanned.scan.offset).expect("within a segment");
            let mut first = None;
            let identity = scanned.header.identity();
            reader::scan(&scanned.bytes, identity, scanned.header.first_lsn, |entry| {
                if entry.header.lsn > promised {
                    first.get_or_insert(entry.offset);
                }
            });
            if let Some(first) = first {
                let start = usize::try_from(first).expect("within a segment");
                let file = &scanned.file;
                file.write_at(first, &scanned.bytes[start..end])
                    .map_err(Error::io("rewrite the tail"))?;
            }
            let used = usize::try_from(used_bytes(&scanned.bytes)).expect("within a segment");
            if used > end && scanned.scan.end != End::Sealed {
                let zeros = vec![0; used - end];
                scanned
                    .file
                    .write_at(scanned.scan.offset, &zeros)
                    .map_err(Error::io("cut the tail"))?;
            }
            scanned.file.sync().map_err(Error::io("sync the tail"))?;
        }
        Ok(())
    }

    /// A tail that ends with a CLEAN can take more records.
    fn adoptable(&self) -> bool {
        let [tail] = &self.scanned[..] else { return false };
        self.report.cut.is_none() && matches!(tail.scan.last, Some((_, Kind::Clean)))
    }

    /// Goes on in the tail as it is.
    fn adopt(&mut self, next: Lsn, now_ms: u64) -> Staging {
        let tail = self.scanned.pop().expect("an adoptable tail was scanned");
        self.report.clean = true;
        let offset = tail.scan.offset;
        let tail = Tail {
            header: tail.header,
            file: tail.file,
            offset,
            allocated: offset.next_multiple_of(4096),
            summary: tail.summary,
            hints: tail.hints,
        };
        self.staging(tail, next, now_ms)
    }

    fn staging(&self, tail: Tail, next: Lsn, now_ms: u64) -> Staging {
        let mut staging = Staging {
            tail,
            last: self.last,
            next,
            durable: next.before(),
            time_ms: now_ms,
            open: BTreeMap::new(),
            carry_bytes: 0,
            steps: Vec::new(),
            dirty: false,
            sealed: Vec::new(),
            prepared: None,
            unsynced_since: None,
            promised: true,
            records: 0,
            appended_bytes: 0,
        };
        self.replay.open.values().for_each(|claim| staging.insert_open(claim.clone()));
        staging
    }

    /// Seals what was scanned and goes on in a new segment that begins with the open claims.
    fn go_on(
        &mut self,
        maker: &Maker,
        checkpoints: &mut Checkpoints,
        mut next: Lsn,
        now_ms: u64,
    ) -> Result<Staging> {
        let number = if let Some(worthless) = self.worthless_tail() {
            let header = worthless.header;
            self.scanned.pop();
            self.last = header.previous_last_lsn;
            header.segment
        } else {
            let newest = self.scanned.last().map(|scanned| scanned.header.segment);
            newest.map_or(self.checkpoint.oldest.max(self.checkpoint.sealed + 1), |last| last + 1)
        };
        if let Some(tail) = self.scanned.last_mut()
            && tail.seal.is_none()
        {
            let placed = seal(tail, next, now_ms)?;
            tail.seal = Some(placed);
            (self.last, next) = (placed.lsn, next.next());
        }
        self.hint_scanned();
        let header = SegmentHeader {
            store: maker.store,
            segment: number,
            salt: random::number().map_err(Error::io("draw a salt"))?,
            first_lsn: next,
            previous_last_lsn: self.last,
            created_ms: now_ms,
            segment_bytes: maker.segment_bytes,
        };
        let tail = new_tail(maker, header)?;
        let mut staging = self.staging(tail, next, now_ms);
        staging.carry(maker)?;
        staging.tail.file.sync().map_err(Error::io("sync a new segment"))?;
        staging.dirty = false;
        checkpoints.write(|checkpoint| {
            (checkpoint.sealed, checkpoint.tail) = (number - 1, number);
            checkpoint.durable_lsn = staging.last;
            checkpoint.time_ms = checkpoint.time_ms.max(now_ms);
        })?;
        Ok(staging)
    }

    /// A tail from which nothing is worth keeping is made anew under its own number, so that a
    /// process that restarts all the time does not use the numbers up.
    fn worthless_tail(&self) -> Option<&Scanned> {
        let tail = self.scanned.last()?;
        if tail.scan.last.is_none() {
            return Some(tail);
        }
        // A release in the tail may end a claim of a segment before it that is not sealed either.
        let alone = self.scanned.len() == 1 && self.replay.open.is_empty();
        let empty = tail.summary.completes == 0 && tail.summary.forgets == 0;
        (alone && empty && tail.seal.is_none()).then_some(tail)
    }

    /// The scanned segments are sealed now; they get their hint files.
    fn hint_scanned(&mut self) {
        for mut scanned in std::mem::take(&mut self.scanned) {
            scanned.hints.sort_unstable();
            let seal = scanned.seal.expect("every scanned segment was sealed");
            let hints = Hints {
                seal_lsn: seal.lsn,
                seal_offset: seal.location.offset(),
                summary: scanned.summary,
                entries: scanned.hints,
            };
            self.rebuilt.push((self.binding(&scanned.header), hints));
            self.sealed.push((scanned.header, scanned.summary));
        }
    }
}

/// A segment with a synced header, under its final name, that no crash leaves half made.
fn new_tail(maker: &Maker, header: SegmentHeader) -> Result<Tail> {
    let name = segment_name(header.segment);
    let draft = format!("{name}.tmp");
    let make = || {
        let file = maker.storage.create(&draft, maker.segment_bytes)?;
        let prepared = Prepared { segment: header.segment, file, allocated: 0 };
        let prepared = prepared.with_first_blocks(maker.segment_bytes)?;
        prepared.file.write_at(0, &header.encode())?;
        prepared.file.sync()?;
        maker.storage.rename(&draft, &name)?;
        maker.storage.sync_dir()?;
        Ok(prepared)
    };
    let prepared = make().map_err(Error::io("create a segment"))?;
    Ok(Tail {
        header,
        file: prepared.file,
        offset: DATA_START,
        allocated: prepared.allocated,
        summary: Summary::default(),
        hints: Vec::new(),
    })
}

/// Appends the SEAL for which every segment keeps room.
fn seal(tail: &Scanned, lsn: Lsn, time_ms: u64) -> Result<Placed> {
    let offset = tail.scan.offset;
    let stamp =
        Stamp { identity: tail.header.identity(), offset, lsn, durable: lsn.before(), time_ms };
    let mut bytes = Vec::new();
    Draft::seal(&tail.summary).write(&stamp, &mut bytes);
    tail.file.write_at(offset, &bytes).map_err(Error::io("seal the tail"))?;
    tail.file.sync().map_err(Error::io("sync the tail"))?;
    Ok(Placed { lsn, location: Location::new(tail.header.segment, offset) })
}

impl Replay {
    fn apply(&mut self, hash_key: &HashKey, at: Location, header: &Header, record: Record<'_>) {
        match record {
            Record::Claim(claim) => self.claim(header, &claim),
            Record::Progress { token, ended, checkpoint } => {
                if let Some(open) = self.open.get_mut(&token) {
                    if ended != Ended::No {
                        open.ended = ended;
                    }
                    if let Some(checkpoint) = checkpoint {
                        open.checkpoint = Some(checkpoint.into());
                    }
                }
            }
            Record::Complete(complete) => {
                self.end(complete.token);
                self.responses.insert((hash_key.hash(complete.scope), at));
            }
            Record::Release { token, .. } => self.end(token),
            Record::Forget { hash, segment, offset } => self.forget(hash, segment, offset),
            Record::Erased | Record::Seal(_) | Record::Clean(_) | Record::Promise => {}
        }
    }

    fn claim(&mut self, header: &Header, claim: &Claim<'_>) {
        let carried = claim.carried;
        let token = carried.map_or(Token::new(header.lsn.0), |carried| carried.token);
        if self.ended.contains(&token) {
            return;
        }
        let facts = Facts {
            scope: claim.scope.into(),
            fingerprint: claim.fingerprint,
            operation: claim.operation,
            token,
            attempt: header.attempt,
            claimed_ms: carried.map_or(header.time_ms, |carried| carried.claimed_ms),
            attempted_ms: carried.map_or(header.time_ms, |carried| carried.attempted_ms),
            cause: carried.map_or(Ended::No, |carried| carried.cause),
        };
        // A later attempt takes the place of the one before it.
        if let Some(before) = self.operations.insert(claim.operation, token)
            && before != token
        {
            self.open.remove(&before);
            self.ended.insert(before);
        }
        let open = OpenClaim {
            facts: Arc::new(facts),
            ended: carried.map_or(Ended::No, |carried| carried.ended),
            checkpoint: carried.and_then(|carried| carried.checkpoint).map(Arc::from),
        };
        self.open.insert(token, open);
    }

    fn end(&mut self, token: Token) {
        self.ended.insert(token);
        if let Some(open) = self.open.remove(&token) {
            self.operations.remove(&open.facts.operation);
        }
    }

    fn forget(&mut self, hash: u64, segment: u64, offset: u64) {
        let addressable = offset < Location::SEGMENT_BYTES_MAX
            && offset.is_multiple_of(Location::GRANULE)
            && segment < 1 << 42;
        if addressable {
            self.responses.remove(&(hash, Location::new(segment, offset)));
        }
    }
}

fn hint(hash_key: &HashKey, complete: &Complete<'_>, offset: u64) -> Hint {
    Hint { hash: hash_key.hash(complete.scope), granule: granule(offset), forget: false }
}

fn granule(offset: u64) -> u32 {
    u32::try_from(offset / Location::GRANULE).expect("an offset within a segment has 22 bits")
}

fn read_whole(file: &dyn File, bytes: u64) -> Result<Vec<u8>> {
    let mut whole = vec![0; usize::try_from(bytes).expect("a segment is at most 64 MiB")];
    file.read_at(0, &mut whole).map_err(Error::io("read a segment"))?;
    Ok(whole)
}

/// Everything behind this offset is zeros.
fn used_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at as u64 + 1)
}
