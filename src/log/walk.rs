//! Reads a live segment from the front, notes its bad places, and goes on behind each of them.
//!
//! A record may be overwritten by an ERASED one of its size at any time, so that a first read can
//! see half of each. A bad place is therefore read again while nothing is erased, and for as long
//! as it changes.

use std::io;

use crate::error::Result;
use crate::format::hint::Hint;
use crate::format::record::{HEADER_BYTES, Header, Record};
use crate::format::segment::{DATA_START, SegmentHeader};
use crate::format::summary::Summary;
use crate::location::Lsn;
use crate::log::hinted::{self, granule};
use crate::log::reader;
use crate::scope::HashKey;
use crate::storage::File;
use crate::sync::Mutex;

/// Bytes that are read at a time, and of a piece that cannot be read, one by one.
const PIECE_BYTES: usize = 1024 * 1024;
const PAGE_BYTES: usize = 4096;
/// A place that still changes after so many reads is nothing that the store writes.
const READS_MAX: usize = 64;

/// A place where something else stands than should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub(crate) offset: u64,
    pub(crate) what: &'static str,
}

/// Is asked before so many bytes are read; an error ends the reading.
pub(crate) type Pace<'a> = &'a dyn Fn(u64) -> Result<()>;

/// As fast as can be.
pub(crate) const UNPACED: Pace<'static> = &|_| Ok(());

/// Reads `len` bytes of a file, as [`read_into`] does.
pub(crate) fn read_readable(
    file: &dyn File,
    len: usize,
    pace: Pace<'_>,
) -> Result<(Vec<u8>, Vec<Bad>)> {
    let mut bytes = vec![0; len];
    let unread = read_into(file, &mut bytes, pace)?;
    Ok((bytes, unread))
}

/// Fills `bytes` from the beginning of a file. What cannot be read is zeros, and is noted.
pub(crate) fn read_into(file: &dyn File, bytes: &mut [u8], pace: Pace<'_>) -> Result<Vec<Bad>> {
    let mut unread: Vec<Bad> = Vec::new();
    let mut unread_end = None;
    for (piece, start) in bytes.chunks_mut(PIECE_BYTES).zip((0_u64..).step_by(PIECE_BYTES)) {
        pace(piece.len() as u64)?;
        if file.read_at(start, piece).is_ok() {
            continue;
        }
        for (page, at) in piece.chunks_mut(PAGE_BYTES).zip((start..).step_by(PAGE_BYTES)) {
            if file.read_at(at, page).is_ok() {
                continue;
            }
            page.fill(0);
            if unread_end != Some(at) {
                unread.push(Bad { offset: at, what: "the device does not read this" });
            }
            unread_end = Some(at + page.len() as u64);
        }
    }
    Ok(unread)
}

/// What the good records of a segment add up to.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) bad: Vec<Bad>,
    pub(crate) records: u64,
    /// The first byte behind the last record that was looked at.
    pub(crate) end: u64,
    pub(crate) last: Option<Lsn>,
    pub(crate) summary: Summary,
    /// LSN, place and words of the SEAL, where there is one.
    pub(crate) seal: Option<(Lsn, u64, Summary)>,
    /// In the order of their places.
    pub(crate) hints: Vec<Hint>,
    /// The places of ERASED records, in order.
    pub(crate) erased: Vec<u32>,
}

/// Walks through `bytes`, the whole of `file`, up to the SEAL or the record `upto`, whichever comes
/// first. What is read again is put right in `bytes`. Who erases holds `erasing`; `None` where the
/// caller does.
pub(crate) fn walk(
    file: &dyn File,
    header: &SegmentHeader,
    bytes: &mut [u8],
    upto: Lsn,
    hash_key: &HashKey,
    erasing: Option<&Mutex<()>>,
) -> Walk {
    let mut walk = Walk { end: DATA_START, ..Walk::default() };
    let (mut resumed, mut reads) = (false, 0);
    while walk.expects_more(header, upto) {
        let what = match reader::next(bytes, header.identity(), walk.end) {
            Ok((found, _)) if !resumed && !walk.is_next(header, found.lsn) => {
                "a record out of sequence"
            }
            // Behind a bad place, the first record that nobody asked for.
            Ok((found, _)) if found.lsn > upto => break,
            Ok((found, record)) => {
                walk.note(&found, &record, hash_key);
                (resumed, reads) = (false, 0);
                continue;
            }
            Err(error) => error.what(),
        };
        // An erasure can stand still between two pages, and half of it look like damage that stays.
        let still = erasing.map(Mutex::lock);
        if reads < READS_MAX && reads_otherwise(file, header, bytes, walk.end).unwrap_or(false) {
            reads += 1;
            continue;
        }
        drop(still);
        walk.bad.push(Bad { offset: walk.end, what });
        let Some(next) = walk.next_good(header, bytes) else { break };
        (walk.end, resumed) = (next, true);
    }
    walk
}

impl Walk {
    fn expects_more(&self, header: &SegmentHeader, upto: Lsn) -> bool {
        self.seal.is_none() && self.last.map_or(header.first_lsn <= upto, |last| last < upto)
    }

    fn is_next(&self, header: &SegmentHeader, lsn: Lsn) -> bool {
        self.last.map_or(lsn == header.first_lsn, |last| lsn.follows(last))
    }

    fn note(&mut self, header: &Header, record: &Record<'_>, hash_key: &HashKey) {
        match record {
            Record::Complete(complete) => {
                let latest = &mut self.summary.expires_ms_max;
                *latest = complete.expires_ms.max(*latest);
                self.hints.push(hinted::response(hash_key.hash(complete.scope), self.end));
            }
            Record::Forget { hash, .. } => {
                let (hash, granule) = (*hash, granule(self.end));
                self.hints.push(Hint { hash, granule, forget: true });
            }
            Record::Seal(summary) => self.seal = Some((header.lsn, self.end, *summary)),
            Record::Erased => self.erased.push(granule(self.end)),
            _ => {}
        }
        self.summary.count(header.kind, header.lsn, header.time_ms);
        self.records += 1;
        self.last = Some(header.lsn);
        self.end += header.record_bytes() as u64;
    }

    /// The first place from here on where a later record verifies.
    fn next_good(&self, header: &SegmentHeader, bytes: &[u8]) -> Option<u64> {
        let least = self.last.map_or(header.first_lsn, Lsn::next);
        let is_later = |found: &Header| found.lsn >= least;
        reader::find_good(bytes, header.identity(), self.end, is_later).map(|(at, _)| at)
    }

    /// Whether the words of a SEAL fit what was read. An ERASED record was of any kind before.
    pub(crate) fn agrees_with(&self, seal: &Summary) -> bool {
        let (found, erased) = (&self.summary, u32::try_from(self.erased.len()).unwrap_or(u32::MAX));
        let within = |counted: u32, sealed: u32| {
            (counted..=counted.saturating_add(erased)).contains(&sealed)
        };
        within(found.completes, seal.completes)
            && within(found.forgets, seal.forgets)
            && (found.records, found.first_lsn, found.last_lsn)
                == (seal.records, seal.first_lsn, seal.last_lsn)
            && found.expires_ms_max <= seal.expires_ms_max
            && (erased > 0 || *found == *seal)
    }
}

/// Reads the record at `offset` again, and tells whether anything is different now.
fn reads_otherwise(
    file: &dyn File,
    header: &SegmentHeader,
    bytes: &mut [u8],
    offset: u64,
) -> io::Result<bool> {
    let start = usize::try_from(offset).expect("within a segment");
    let rest = &mut bytes[start..];
    let mut again = vec![0; HEADER_BYTES.min(rest.len())];
    file.read_at(offset, &mut again)?;
    // A record keeps its size when it is erased.
    if let Ok(found) = Header::decode(&again, header.identity(), offset)
        && found.record_bytes() <= rest.len()
    {
        again.resize(found.record_bytes(), 0);
        file.read_at(offset, &mut again)?;
    }
    let changed = rest[..again.len()] != *again;
    rest[..again.len()].copy_from_slice(&again);
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::{Draft, Freed, Stamp};
    use crate::scope::Token;

    const SEGMENT_BYTES: u64 = 16_384;

    fn header() -> SegmentHeader {
        SegmentHeader::sample(SEGMENT_BYTES)
    }

    /// A segment with two RELEASEs, and the offset of the second.
    fn segment() -> (Vec<u8>, usize) {
        let identity = header().identity();
        let mut bytes = vec![0; usize::try_from(DATA_START).unwrap()];
        let mut second = 0;
        for lsn in [1, 2] {
            second = bytes.len();
            let (offset, durable) = (second as u64, Lsn::ZERO);
            let stamp = Stamp { identity, offset, lsn: Lsn(lsn), durable, time_ms: 5 };
            Draft::release(Token::new(10 + lsn), Freed::NoEffect, 1).write(&stamp, &mut bytes);
        }
        bytes.resize(usize::try_from(SEGMENT_BYTES).unwrap(), 0);
        (bytes, second)
    }

    /// A file of which `sound` is what is there, seen only from the `settles`-th read on: until
    /// then each read sees something else.
    #[derive(Debug)]
    struct Unsettled {
        sound: Vec<u8>,
        settles: usize,
        reads: Mutex<usize>,
    }

    impl File for Unsettled {
        fn size(&self) -> io::Result<u64> {
            Ok(SEGMENT_BYTES)
        }

        fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let start = usize::try_from(offset).unwrap();
            let mut reads = self.reads.lock();
            *reads += 1;
            out.copy_from_slice(&self.sound[start..start + out.len()]);
            if *reads < self.settles {
                out[..8].copy_from_slice(&reads.to_le_bytes());
            }
            Ok(())
        }

        fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
            unreachable!("nothing is written")
        }

        fn allocate(&self, _: std::ops::Range<u64>) -> io::Result<()> {
            unreachable!("nothing is allocated")
        }

        fn discard(&self, _: std::ops::Range<u64>) -> io::Result<()> {
            unreachable!("nothing is given back")
        }

        fn sync(&self) -> io::Result<()> {
            unreachable!("nothing is synced")
        }
    }

    /// Walks through a segment whose first record was half of something else when it was read.
    fn walked(settles: usize) -> (Walk, usize) {
        let (sound, _) = segment();
        let mut bytes = sound.clone();
        bytes[usize::try_from(DATA_START).unwrap()] ^= 1;
        let file = Unsettled { sound, settles, reads: Mutex::default() };
        let (hash_key, erasing) = (HashKey::new(&[1; 16]), Mutex::default());
        let walk = walk(&file, &header(), &mut bytes, Lsn(2), &hash_key, Some(&erasing));
        (walk, file.reads.into_inner())
    }

    #[test]
    fn a_place_that_changes_is_read_again_until_it_stands_still() {
        for settles in [0, 1, 5, READS_MAX] {
            let (walk, _) = walked(settles);
            assert_eq!((walk.bad.len(), walk.records), (0, 2), "settled at read {settles}");
        }
    }

    #[test]
    fn a_place_that_never_stands_still_is_bad_and_what_is_behind_it_is_read() {
        let (walk, reads) = walked(usize::MAX);
        assert_eq!((walk.bad.len(), walk.records), (1, 1));
        assert_eq!(walk.bad[0].offset, DATA_START);
        assert_eq!((reads, walk.last), (READS_MAX, Some(Lsn(2))));
    }

    #[test]
    fn behind_a_bad_place_a_later_record_alone_is_gone_on_with() {
        let (mut sound, second) = segment();
        sound[usize::try_from(DATA_START).unwrap()] ^= 1;
        let stale = Walk { last: Some(Lsn(2)), end: DATA_START, ..Walk::default() };
        assert_eq!(stale.next_good(&header(), &sound), None);
        let fresh = Walk { end: DATA_START, ..Walk::default() };
        assert_eq!(fresh.next_good(&header(), &sound), Some(second as u64));
    }
}
