//! Reads every live byte of a store and says what is wrong where. Changes nothing.
//!
//! A segment is known by what the store remembers of it, so that the records of one whose header is
//! damaged are checked too. What is dropped meanwhile is no damage, and what is being appended or
//! erased meanwhile is none either. One segment is in memory at a time.

use std::io;
use std::sync::Arc;

use crate::config::{Phase, Progress};
use crate::error::{Error, Result};
use crate::format::checkpoint::{self, Checkpoint, SLOT_BYTES};
use crate::format::hint::{BLOCK_BYTES, Hint, Hints, Preamble, block_offset};
use crate::format::segment::DATA_START;
use crate::format::summary::Summary;
use crate::format::superblock::{self, Superblock};
use crate::location::{Location, Lsn};
use crate::log::checkpoints;
use crate::log::segments::{Segment, Segments};
use crate::log::walk::{Bad, Pace, UNPACED, Walk, read_into, read_readable, walk};
use crate::log::{hint_name, segment_name};
use crate::parallel::{self, Threads};
use crate::recovery::SUPER;
use crate::recovery::quarantine::{self, Quarantine};
use crate::scope::HashKey;
use crate::storage::{Access, File, Storage};
use crate::sync::Mutex;

/// What [`Store::verify`](crate::Store::verify) read, and what was wrong with it.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Segments read.
    pub segments: u64,
    /// Records that verified.
    pub records: u64,
    /// Bytes read and checked: records, headers, hint files, `SUPER`, `CHECKPOINT`, and
    /// `QUARANTINE` where there is one.
    pub bytes: u64,
    /// Every place where something else stands than should, by segment.
    pub damage: Vec<Damage>,
}

impl Verification {
    /// Whether nothing is damaged.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty()
    }
}

/// One damaged place.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The sequence number of the segment, counted from 1; 0 for the files beside the segments.
    pub segment: u64,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong there, and in which file where it is not the segment's own.
    pub what: &'static str,
}

/// What is to be verified.
pub(crate) struct Subject<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) store: [u8; 16],
    pub(crate) hash_key: &'a HashKey,
    pub(crate) segments: &'a Segments,
    /// This record and all before it are in the files.
    pub(crate) written: Lsn,
    /// What CHECKPOINT says, or has said a moment ago.
    pub(crate) checkpoint: Checkpoint,
    pub(crate) quarantine: &'a Quarantine,
    /// Who erases records holds it.
    pub(crate) erasing: &'a Mutex<()>,
    /// Callers of a store that is in use want the other cores.
    pub(crate) threads: Threads,
}

/// Less than this is read before threads are worth their start.
const WORTH_THREADS_BYTES: u64 = 16 << 20;
/// So many segments are given to threads at a time; between, the caller is told of the progress.
const BATCH: usize = 8;
/// The device reads so many segments ahead of those that are checked.
const AHEAD: usize = 2;

/// Verifies SUPER and the log.
///
/// # Errors
/// `Io` where a file that is there cannot be opened; whatever else is wrong is damage.
pub(crate) fn verify(subject: &Subject<'_>, tell: &dyn Fn(Progress)) -> Result<Verification> {
    let mut found = Verification::default();
    subject.super_file(&mut found)?;
    subject.quarantine_file(&mut found)?;
    subject.log(&mut found, tell)?;
    Ok(found)
}

/// Verifies CHECKPOINT, segments and hint files.
pub(crate) fn verify_log(subject: &Subject<'_>, tell: &dyn Fn(Progress)) -> Result<Verification> {
    let mut found = Verification::default();
    subject.log(&mut found, tell)?;
    Ok(found)
}

impl Verification {
    fn note(&mut self, segment: u64, offset: u64, what: &'static str) {
        self.damage.push(Damage { segment, offset, what });
    }

    fn note_all(&mut self, segment: u64, bad: &[Bad]) {
        bad.iter().for_each(|bad| self.note(segment, bad.offset, bad.what));
    }

    /// Adds what was found in a part.
    fn add(&mut self, part: Verification) {
        self.segments += part.segments;
        self.records += part.records;
        self.bytes += part.bytes;
        self.damage.extend(part.damage);
    }
}

impl Subject<'_> {
    fn super_file(&self, found: &mut Verification) -> Result<()> {
        let Some(bytes) = self.small_file(SUPER, superblock::FILE_BYTES, found)? else {
            found.note(0, 0, "SUPER is missing");
            return Ok(());
        };
        let Ok(superblock) = Superblock::decode(&bytes) else {
            found.note(0, 0, "no copy of SUPER verifies");
            return Ok(());
        };
        let expected = superblock.encode();
        let copy_bytes = expected.len() / 2;
        let copies = bytes.chunks(copy_bytes).zip(expected.chunks(copy_bytes));
        for ((copy, expected), at) in copies.zip((0..).step_by(copy_bytes)) {
            if copy != expected {
                found.note(0, at, "a copy of SUPER does not verify");
            }
        }
        if superblock.store != self.store {
            found.note(0, 0, "SUPER is that of another store");
        }
        Ok(())
    }

    /// Nothing writes it while the store is open.
    fn quarantine_file(&self, found: &mut Verification) -> Result<()> {
        if self.quarantine.is_empty() {
            return Ok(());
        }
        let expected = self.quarantine.encode(self.store);
        match self.small_file(quarantine::NAME, expected.len(), found)? {
            None => found.note(0, 0, "QUARANTINE is missing"),
            Some(bytes) if bytes != expected => found.note(0, 0, "QUARANTINE does not verify"),
            Some(_) => {}
        }
        Ok(())
    }

    fn checkpoint_file(&self, found: &mut Verification) -> Result<()> {
        let mut damage = self.checkpoint_damage(found)?;
        // A slot may be written while it is read: damage stays as it is.
        while !damage.is_empty() {
            let again = self.checkpoint_damage(&mut Verification::default())?;
            if again == damage {
                break;
            }
            damage = again;
        }
        found.note_all(0, &damage);
        Ok(())
    }

    fn checkpoint_damage(&self, found: &mut Verification) -> Result<Vec<Bad>> {
        let bytes = self.small_file(checkpoints::NAME, checkpoint::FILE_BYTES, found)?;
        let Some(bytes) = bytes else {
            return Ok(vec![Bad { offset: 0, what: "CHECKPOINT is missing" }]);
        };
        let (mut bad, mut newest) = (Vec::new(), None);
        let slots = Checkpoint::decode_slots(&bytes, self.store);
        for ((slot, bytes), at) in
            slots.into_iter().zip(bytes.chunks(SLOT_BYTES)).zip((0..).step_by(SLOT_BYTES))
        {
            match slot {
                Ok(slot) if slot.slot_offset() == at && slot.encode(self.store) == bytes => {
                    newest = newest.max(Some(slot.generation));
                }
                _ => bad.push(Bad { offset: at, what: "a slot of CHECKPOINT does not verify" }),
            }
        }
        let newest = newest.filter(|_| bad.is_empty());
        if newest.is_some_and(|newest| newest < self.checkpoint.generation) {
            bad.push(Bad { offset: 0, what: "CHECKPOINT is older than the last one written" });
        }
        Ok(bad)
    }

    /// The bytes of a file beside the segments; one that is cut short is read as if zeros followed.
    fn small_file(
        &self,
        name: &str,
        len: usize,
        found: &mut Verification,
    ) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let (bytes, unread) = read_readable(&*file, len, UNPACED)?;
        found.note_all(0, &unread);
        found.bytes += len as u64;
        Ok(Some(bytes))
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn File>>> {
        match self.storage.open(name, Access::ReadPositioned) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open a file to verify it")(error)),
        }
    }

    fn log(&self, found: &mut Verification, tell: &dyn Fn(Progress)) -> Result<()> {
        self.checkpoint_file(found)?;
        let live = self.segments.live();
        // Read after the list: what was sealed in between is expected to end with its SEAL.
        let sealed = self.segments.sealed();
        let bytes: u64 = live.iter().map(|segment| segment.bytes).sum();
        let (threads, batch) = match self.threads {
            Threads::All if bytes >= WORTH_THREADS_BYTES => (Threads::All, BATCH),
            _ => (Threads::One, 1),
        };
        // LOCK: rooms (a leaf). Fresh memory costs the system as much as the checks take.
        let rooms = Mutex::new(Vec::new());
        let total = live.len() as u64;
        live.iter().take(AHEAD).for_each(|segment| self.read_ahead(segment));
        for (batch, first) in live.chunks(batch).zip((0..).step_by(batch)) {
            tell(Progress { phase: Phase::Verifying, done: first as u64, total });
            let parts = parallel::for_each(batch.len(), threads, |at| {
                let segment = &batch[at];
                live.iter().skip(first + at + AHEAD).take(1).for_each(|next| self.read_ahead(next));
                let summary = sealed.iter().find(|(number, _)| *number == segment.number);
                let summary = summary.map(|(_, summary)| summary);
                let mut room = rooms.lock().pop().unwrap_or_default();
                let part = self.live_segment(segment, summary, UNPACED, &mut room);
                rooms.lock().push(room);
                part
            });
            for part in parts {
                if let Some(part) = part? {
                    found.add(part);
                }
            }
        }
        tell(Progress { phase: Phase::Verifying, done: total, total });
        Ok(())
    }

    /// Lets the device begin; what is wrong with the file is found when it is read.
    fn read_ahead(&self, segment: &Segment) {
        if let Ok(Some(file)) = self.open(&segment_name(segment.number)) {
            file.will_read(0..segment.bytes);
        }
    }

    /// Verifies a segment, which is read into `room`; `None` where it was dropped since the caller
    /// learned of it.
    ///
    /// # Errors
    /// `Io` where a file that is there cannot be opened; what `pace` answers.
    pub(crate) fn live_segment(
        &self,
        segment: &Segment,
        sealed: Option<&Summary>,
        pace: Pace<'_>,
        room: &mut Vec<u8>,
    ) -> Result<Option<Verification>> {
        match self.segment(segment, sealed, pace, room) {
            Ok(part) if part.is_clean() => Ok(Some(part)),
            _ if segment.number < self.segments.oldest() => Ok(None),
            found => found.map(Some),
        }
    }

    fn segment(
        &self,
        segment: &Segment,
        sealed: Option<&Summary>,
        pace: Pace<'_>,
        room: &mut Vec<u8>,
    ) -> Result<Verification> {
        let mut found = Verification::default();
        let number = segment.number;
        let in_files = number <= self.checkpoint.tail || segment.header.first_lsn <= self.written;
        if !in_files {
            return Ok(found);
        }
        found.segments = 1;
        let Some(file) = self.open(&segment_name(number))? else {
            found.note(number, 0, "the file is missing");
            return Ok(found);
        };
        if file.size().map_err(Error::io("read a segment"))? != segment.bytes {
            found.note(number, 0, "the file has the wrong size");
            return Ok(found);
        }
        let len = usize::try_from(segment.bytes).expect("a segment is at most 64 MiB");
        room.resize(len, 0);
        let bytes = &mut room[..len];
        found.note_all(number, &read_into(&*file, bytes, pace)?);
        let expected = segment.header.encode();
        let copy_bytes = expected.len() / 2;
        let copies = bytes.chunks(copy_bytes).zip(expected.chunks(copy_bytes));
        for ((copy, expected), at) in copies.zip((0..DATA_START).step_by(copy_bytes)) {
            // That of a segment which CHECKPOINT does not know yet may be torn; an open mends it.
            if copy != expected && number <= self.checkpoint.tail {
                found.note(number, at, "a copy of the segment's header does not verify");
            }
        }
        let upto = if sealed.is_some() { Lsn::HIGHEST } else { self.written };
        let erasing = Some(self.erasing);
        let walk = walk(&*file, &segment.header, bytes, upto, self.hash_key, erasing);
        found.note_all(number, &walk.bad);
        (found.records, found.bytes) = (walk.records, walk.end);
        if let Some(sealed) = sealed
            && walk.bad.is_empty()
        {
            self.sealed_segment(segment, sealed, &walk, &mut found, pace)?;
        }
        Ok(found)
    }

    /// What a SEAL says, and the hint file, against the records of a segment without damage.
    fn sealed_segment(
        &self,
        segment: &Segment,
        sealed: &Summary,
        walk: &Walk,
        found: &mut Verification,
        pace: Pace<'_>,
    ) -> Result<()> {
        let number = segment.number;
        let Some((seal_lsn, seal_offset, summary)) = walk.seal else {
            found.note(number, walk.end, "a sealed segment without its SEAL");
            return Ok(());
        };
        if summary != *sealed || !walk.agrees_with(&summary) {
            found.note(number, seal_offset, "the SEAL does not say what the segment holds");
            return Ok(());
        }
        if !segment.has_hint_file() {
            return Ok(());
        }
        let Some(file) = self.open(&hint_name(number))? else {
            found.note(number, 0, "the hint file is missing; it is made again from the segment");
            return Ok(());
        };
        let size = file.size().map_err(Error::io("read a hint file"))?;
        let size = usize::try_from(size.min(Location::SEGMENT_BYTES_MAX)).expect("64 MiB at most");
        let (bytes, unread) = read_readable(&*file, size, pace)?;
        found.note_all(number, &unread);
        found.bytes += bytes.len() as u64;
        let differs = match erased_hints(&bytes, segment, walk) {
            Err(at) => Some(at),
            Ok(erased) => {
                let mut entries = [&walk.hints[..], &erased].concat();
                entries.sort_unstable();
                let expected = Hints { seal_lsn, seal_offset, summary, entries };
                first_difference(&bytes, &expected.encode(segment.header.binding()))
            }
        };
        if let Some(at) = differs {
            let what = "the hint file does not verify here; it is made again from the segment";
            found.note(number, at, what);
        }
        Ok(())
    }
}

/// Where the first block begins that is not as expected.
fn first_difference(bytes: &[u8], expected: &[u8]) -> Option<u64> {
    let blocks = bytes.chunks(BLOCK_BYTES).zip(expected.chunks(BLOCK_BYTES));
    let mut blocks = blocks.zip((0..).step_by(BLOCK_BYTES));
    let differs = blocks.find(|((block, expected), _)| block != expected).map(|(_, at)| at);
    let shorter = bytes.len().min(expected.len()) as u64;
    differs.or((bytes.len() != expected.len()).then_some(shorter))
}

/// The entries of a hint file whose records were erased since it was written; where they cannot be
/// read, the place that does not verify.
fn erased_hints(
    bytes: &[u8],
    segment: &Segment,
    walk: &Walk,
) -> std::result::Result<Vec<Hint>, u64> {
    let mut entries = Vec::new();
    let preamble =
        Preamble::decode(bytes, bytes.len() as u64, segment.header.binding()).map_err(|_| 0_u64)?;
    for (block, number) in bytes.chunks(BLOCK_BYTES).skip(1).zip(0..) {
        let decoded = preamble.decode_block(number, block, &mut entries);
        decoded.map_err(|_| block_offset(number))?;
    }
    entries.retain(|hint| walk.erased.binary_search(&hint.granule).is_ok());
    Ok(entries)
}
