//! The half of a recovery that only reads, beside an owner who may append, roll, expire and erase
//! meanwhile.
//!
//! What is read ends at one LSN: sealed segments are whole, and the others are read from the front
//! up to a record that is followed by none. A page of the log can be read before a record was
//! written there, and the next page after the next record was: then a promise covers what seems to
//! be missing. A file can be gone that CHECKPOINT named. Neither is there at the next look, which
//! begins later; damage is.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::hint::Hints;
use crate::format::segment::SegmentHeader;
use crate::format::superblock::Superblock;
use crate::index::{Index, shard_of};
use crate::location::{Location, Lsn};
use crate::log::OpenClaim;
use crate::log::checkpoints::{self, Checkpoints};
use crate::log::number_of;
use crate::log::segments::{Segment, SegmentHints, Segments};
use crate::recovery::quarantine::Quarantine;
use crate::recovery::survey::Survey;
use crate::recovery::{SUPER, Tell, read_super};
use crate::scope::{HashKey, Token};
use crate::stats::Recovery;
use crate::storage::{Access, Storage};

/// What three looks in a row find is there.
const AGREEING: usize = 3;
/// An owner who is never caught at rest in so many looks is none.
const LOOKS_MAX: usize = 100;

/// Whether a look makes an index of the responses, which takes memory for each of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Indexed {
    Yes,
    No,
}

/// A store as it was at one LSN.
pub(crate) struct View {
    pub(crate) superblock: Superblock,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) hash_key: HashKey,
    pub(crate) segments: Segments,
    /// Empty without an index.
    pub(crate) indexes: Vec<Index>,
    /// What FORGETs of segments that are not sealed name.
    pub(crate) forgotten: BTreeSet<Location>,
    /// The segment in which the log ends, and the first byte behind its last record; `None` before
    /// the first segment.
    pub(crate) tail: Option<(SegmentHeader, u64)>,
    /// What the segments and their hint files take of the disk, prepared blocks apart.
    pub(crate) disk_bytes: u64,
    /// In the order of their tokens.
    pub(crate) open: Vec<OpenClaim>,
    pub(crate) last: Lsn,
    /// The highest store time on record, in ms.
    pub(crate) time_ms: u64,
    pub(crate) report: Recovery,
    pub(crate) quarantine: Quarantine,
}

impl View {
    /// Whether the response at `location` is one that counts.
    pub(crate) fn names(&self, hash: u64, location: Location) -> bool {
        let oldest = self.segments.oldest();
        if self.indexes.is_empty() {
            // A response that another took the place of had expired before.
            return location.segment() >= oldest && !self.forgotten.contains(&location);
        }
        let candidates = self.indexes[shard_of(hash)].candidates(hash, oldest);
        candidates.iter().any(|candidate| candidate == location)
    }
}

/// What one look found that the next may not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passing {
    Damaged {
        segment: u64,
        offset: u64,
        what: &'static str,
    },
    Gone,
    /// A claim that is open although something of its scope was forgotten: its completion may
    /// have been erased after the claim was read, or it is a later claim.
    Forgotten(Token),
}

/// Looks at the store in `storage`; `None` where there is none.
pub(crate) fn view(
    storage: &Arc<dyn Storage>,
    indexed: Indexed,
    tell: Tell<'_>,
) -> Result<Option<View>> {
    let (mut seen, mut agreeing) = (None, 0);
    for _ in 0..LOOKS_MAX {
        let looked = look(storage, indexed, tell);
        let passing = match &looked {
            Ok(None) => return Ok(None),
            Ok(Some((_, forgotten))) => forgotten.map(Passing::Forgotten),
            Err(error) => passing(error),
        };
        agreeing = if passing == seen { agreeing + 1 } else { 1 };
        seen = passing;
        if passing.is_none() || agreeing == AGREEING {
            return looked.map(|found| found.map(|(view, _)| view));
        }
    }
    let what = "the files changed with each look at them";
    Err(Error::Corrupt { segment: 0, offset: 0, what })
}

/// What the newest slot of CHECKPOINT says; `None` where there is no such file.
pub(crate) fn read_checkpoint(
    storage: &dyn Storage,
    superblock: &Superblock,
) -> Result<Option<Checkpoint>> {
    let file = match storage.open(checkpoints::NAME, Access::ReadPositioned) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open CHECKPOINT")(error)),
    };
    Ok(Some(*Checkpoints::read(file, superblock.store)?.current()))
}

/// Whether an error may be of what an owner was doing at that moment.
fn passing(error: &Error) -> Option<Passing> {
    match error {
        &Error::Corrupt { segment, offset, what } => {
            Some(Passing::Damaged { segment, offset, what })
        }
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Some(Passing::Gone)
        }
        _ => None,
    }
}

/// One look, and a claim that may not be open, where there is one.
fn look(
    storage: &Arc<dyn Storage>,
    indexed: Indexed,
    tell: Tell<'_>,
) -> Result<Option<(View, Option<Token>)>> {
    let names = storage.list().map_err(Error::io("list the directory"))?;
    let has = |name: &str| names.iter().any(|other| other == name);
    let has_segments = names.iter().any(|name| number_of(name, ".seg").is_some());
    let corrupt = |what| Err(Error::Corrupt { segment: 0, offset: 0, what });
    if !has(SUPER) {
        if has_segments || has(checkpoints::NAME) {
            return corrupt("SUPER is missing beside the other files of a store");
        }
        return Ok(None);
    }
    let superblock = read_super(&**storage)?;
    let checkpoint = match read_checkpoint(&**storage, &superblock)? {
        Some(checkpoint) => checkpoint,
        None if has_segments => return corrupt("CHECKPOINT is missing beside segments"),
        // A store is made in this order: it is none yet.
        None => return Ok(None),
    };
    let access = Access::ReadPositioned;
    let hash_key = HashKey::new(&superblock.hash_key);
    let segments = Segments::new(Arc::clone(storage), access, checkpoint.oldest);
    let key = hash_key.clone();
    let mut survey = Survey::new(&**storage, access, superblock, checkpoint, key, segments);
    survey.quarantine = Quarantine::read(&**storage, superblock.store)?;
    survey.load(tell)?;
    survey.scan(tell)?;
    survey.put_salvaged();
    let indexes = match indexed {
        Indexed::Yes => survey.fill(0)?,
        Indexed::No => Vec::new(),
    };
    let mut open: Vec<OpenClaim> = survey.replay.open.values().cloned().collect();
    open.sort_by_key(|open| open.facts.token);
    let in_doubt = open.iter().find(|open| {
        let hash = hash_key.hash(&open.facts.scope);
        survey.replay.forgotten.iter().any(|(forgotten, _)| *forgotten == hash)
    });
    let in_doubt = in_doubt.map(|open| open.facts.token);
    let forgotten = survey.replay.forgotten.iter().map(|(_, location)| *location).collect();
    let tail = survey.scanned.last().map(|scanned| (scanned.header, scanned.scan.offset));
    let scanned_bytes: u64 = survey.scanned.iter().map(|scanned| scanned.scan.offset).sum();
    let disk_bytes = survey.segments.disk_bytes() + scanned_bytes;
    for scanned in std::mem::take(&mut survey.scanned) {
        let mut entries = scanned.hints;
        entries.sort_unstable();
        // It is not sealed, so nothing asks for its end.
        let (seal_lsn, seal_offset) = (survey.last, scanned.scan.offset);
        let hints = Hints { seal_lsn, seal_offset, summary: scanned.summary, entries };
        let hints = SegmentHints::Memory(Arc::new(hints));
        survey.segments.insert(Segment::new(&scanned.header, hints));
    }
    let Survey { segments, last, time_ms, mut report, quarantine, .. } = survey;
    report.epoch = checkpoint.epoch;
    report.orphans = open.len() as u64;
    let view = View {
        superblock,
        checkpoint,
        hash_key,
        segments,
        indexes,
        forgotten,
        tail,
        disk_bytes,
        open,
        last,
        time_ms,
        report,
        quarantine,
    };
    Ok(Some((view, in_doubt)))
}
