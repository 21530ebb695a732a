//! Log -> state: the only place that decides what a bad tail means.
//!
//! Everything is decided read-only; then the store is changed, each step durable before the next:
//! epoch > discarded segments removed > the tail rewritten, cut and sealed > a new segment with
//! the open claims > CHECKPOINT. A crash at any step leads to the same store at the next open.
//!
//! A bad record is damage if a later record, or CHECKPOINT, promises that it was durable. Else it
//! is a torn tail: what was never promised was never acknowledged as synced.

pub(crate) mod quarantine;
pub(crate) mod replay;

pub(crate) mod survey;

pub(crate) mod salvage;

pub(crate) mod settle;

pub(crate) mod view;

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{Config, Create, Progress, Reads};
use crate::error::{Error, Result};
use crate::format::checkpoint::{self, Checkpoint};
use crate::format::superblock::{self, Superblock};
use crate::format::{DecodeError, FORMAT_VERSION};
use crate::index::Index;
use crate::location::{Location, Lsn};
use crate::log::OpenClaim;
use crate::log::checkpoints::{self, Checkpoints};
use crate::log::number_of;
use crate::log::segments::{Segment, SegmentHints, Segments};
use crate::log::staging::{Maker, Writes};
use crate::log::writer::Log;
use crate::random;
use crate::recovery::quarantine::Quarantine;
use crate::recovery::survey::Survey;
use crate::scope::{HashKey, Token};
use crate::stats::Recovery;
use crate::storage::{Access, File, Storage};
use crate::time::StoreTime;

pub(crate) const SUPER: &str = "SUPER";

/// A store that is ready to be used.
pub(crate) struct Recovered<D> {
    pub(crate) log: Log<D>,
    pub(crate) hash_key: HashKey,
    pub(crate) time: StoreTime,
    pub(crate) indexes: Vec<Index>,
    pub(crate) open: Vec<OpenClaim>,
    pub(crate) report: Recovery,
    pub(crate) quarantine: Quarantine,
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
    config.check_budget(superblock.segment_bytes)?;
    let hash_key = HashKey::new(&superblock.hash_key);
    let access = match config.reads {
        Reads::Mapped => Access::ReadMapped,
        Reads::Positioned => Access::ReadPositioned,
    };
    let warnings = storage.warnings().map_err(Error::io("look at the file system"))?;
    let checkpoint = *checkpoints.current();
    let segments = Segments::new(Arc::clone(&storage), access, checkpoint.oldest);
    let (write, key) = (Access::Write, hash_key.clone());
    let mut survey = Survey::new(&*storage, write, superblock, checkpoint, key, segments);
    survey.on_damage = config.on_damage;
    survey.quarantine = Quarantine::read(&*storage, superblock.store)?;
    survey.load(tell)?;
    survey.scan(tell)?;
    let (ttl_ms, mark) = (config.ttl_ms(), survey.time_ms);
    let time = StoreTime::resume(clock, ttl_ms, mark);
    survey.place_salvaged(ttl_ms, time.read());
    let mut indexes = survey.fill_salvaging(config.expected_keys, ttl_ms, time.read())?;
    let maker = Maker {
        storage: Arc::clone(&storage),
        store: superblock.store,
        segment_bytes: superblock.segment_bytes,
        bucket_ms: config.bucket_ms(),
        disk_budget_bytes: config.disk_budget_bytes,
        writes: Writes::AtStaging,
    };
    let open: Vec<OpenClaim> = survey.replay.open.values().cloned().collect();
    let forgotten = survey.forgotten()?;
    let mended: usize = survey.mended.values().map(Vec::len).sum();
    let (log, mut report, quarantine) =
        survey.settle(maker, checkpoints, config, &time, &mut indexes)?;
    report.erasures_finished = log.finish_erasures(&forgotten)? + mended as u64;
    report.warnings = warnings;
    Ok(Some(Recovered { log, hash_key, time, indexes, open, report, quarantine }))
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
    let superblock = read_super(storage)?;
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

/// Reads SUPER.
pub(crate) fn read_super(storage: &dyn Storage) -> Result<Superblock> {
    let file = storage.open(SUPER, Access::ReadPositioned).map_err(Error::io("open SUPER"))?;
    decode_super(&*file)
}

/// What the files of a store add up to.
#[derive(Debug)]
pub(crate) struct Inspected {
    pub(crate) segments: Segments,
    /// The claims that are open, in order.
    pub(crate) open: Vec<Token>,
    pub(crate) last: Lsn,
}

/// The half of a recovery that changes nothing; a tail that is not whole is an error here.
pub(crate) fn inspect(
    storage: &Arc<dyn Storage>,
    superblock: Superblock,
    checkpoint: Checkpoint,
    tell: Tell<'_>,
) -> Result<Inspected> {
    let access = Access::ReadPositioned;
    let segments = Segments::new(Arc::clone(storage), access, checkpoint.oldest);
    let hash_key = HashKey::new(&superblock.hash_key);
    let mut survey = Survey::new(&**storage, access, superblock, checkpoint, hash_key, segments);
    survey.load(tell)?;
    survey.scan(tell)?;
    if let Some((segment, what)) = survey.report.cut {
        return Err(Error::Corrupt { segment, offset: 0, what });
    }
    for scanned in &survey.scanned {
        survey.segments.insert(Segment::new(&scanned.header, SegmentHints::Recent));
    }
    let open = survey.replay.open.keys().copied().collect();
    Ok(Inspected { segments: survey.segments, open, last: survey.last })
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

pub(in crate::recovery) fn unknown_version_or(
    corrupt: impl FnOnce(&'static str) -> Error,
) -> impl FnOnce(DecodeError) -> Error {
    move |error| match error {
        DecodeError::Version(found) => Error::Version { found, supported: FORMAT_VERSION },
        error => corrupt(error.what()),
    }
}

/// Writes a small file so that it is there whole or not at all.
pub(crate) fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<()> {
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
