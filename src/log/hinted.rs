//! Hint files read in parts: the hashes of one shard at a time. What cannot be read is only
//! slower, since the segment itself says the same.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::DecodeError;
use crate::format::hint::{BLOCK_BYTES, Binding, Hint, Hints, Preamble, block_offset, first_hash};
use crate::format::record::Record;
use crate::format::segment::{DATA_START, SegmentHeader};
use crate::location::Location;
use crate::log::hint_name;
use crate::log::reader::{self, End};
use crate::scope::HashKey;
use crate::storage::{Access, File, Storage};

/// An open hint file.
#[derive(Debug)]
pub(crate) struct HintFile {
    file: Arc<dyn File>,
    pub(crate) preamble: Preamble,
    granules: RangeInclusive<u32>,
}

impl HintFile {
    /// Opens the hint file of a segment; an error where there is none that can be used.
    pub(crate) fn open(
        storage: &dyn Storage,
        access: Access,
        binding: Binding,
        segment_bytes: u64,
    ) -> io::Result<HintFile> {
        let (file, size, bytes) = read_preamble(storage, access, binding.segment)?;
        let preamble = Preamble::decode(&bytes, size, binding).map_err(unusable)?;
        Ok(HintFile { file, preamble, granules: granule(DATA_START)..=granule(segment_bytes - 1) })
    }

    /// Opens the hint file of a segment whose salt nobody knows, and tells it.
    pub(crate) fn open_of_unknown(
        storage: &dyn Storage,
        store: [u8; 16],
        segment: u64,
        segment_bytes: u64,
    ) -> io::Result<(HintFile, Binding)> {
        let access = Access::ReadPositioned;
        let (_, _, bytes) = read_preamble(storage, access, segment)?;
        let binding = Binding::of_file(&bytes).map_err(unusable)?;
        if (binding.store, binding.segment) != (store, segment) {
            return Err(unusable(DecodeError::Damaged("the hints of another segment")));
        }
        let file = HintFile::open(storage, access, binding, segment_bytes)?;
        Ok((file, binding))
    }

    /// All there is in it.
    pub(crate) fn read(&self) -> io::Result<Hints> {
        let Preamble { seal_lsn, seal_offset, summary, .. } = self.preamble;
        let mut entries = Vec::new();
        self.range(&(0..=u64::MAX), &mut entries)?;
        Ok(Hints { seal_lsn, seal_offset, summary, entries })
    }

    /// Adds the entries whose hash is in `hashes`, in order.
    pub(crate) fn range(
        &self,
        hashes: &RangeInclusive<u64>,
        out: &mut Vec<Hint>,
    ) -> io::Result<()> {
        let (start, blocks) = (self.block_before(*hashes.start())?, self.preamble.blocks());
        let from = out.len();
        let mut block = [0; BLOCK_BYTES];
        for number in start..blocks {
            let before = out.len();
            self.file.read_at(block_offset(number), &mut block)?;
            self.preamble.decode_block(number, &block, out).map_err(unusable)?;
            let (first, last) = (out[before].hash, out[out.len() - 1].hash);
            // The search trusted bytes that were not verified; here they are.
            let astray = number == start && start > 0 && first >= *hashes.start();
            let sorted = out[before.max(from + 1) - 1..].is_sorted();
            let placed = out[before..].iter().all(|hint| self.granules.contains(&hint.granule));
            if astray || !sorted || !placed {
                return Err(unusable(DecodeError::Damaged("hints out of order or place")));
            }
            if last > *hashes.end() {
                break;
            }
        }
        let within = out[from..].partition_point(|hint| hint.hash < *hashes.start());
        out.drain(from..from + within);
        let end = out[from..].partition_point(|hint| hint.hash <= *hashes.end());
        out.truncate(from + end);
        Ok(())
    }

    /// The last block that begins below `hash`, or the first one.
    fn block_before(&self, hash: u64) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.preamble.blocks());
        while low + 1 < high {
            let middle = low.midpoint(high);
            let mut bytes = [0; 8];
            self.file.read_at(block_offset(middle), &mut bytes)?;
            if first_hash(bytes) < hash { low = middle } else { high = middle }
        }
        Ok(low)
    }
}

/// The file, its size, and its first bytes.
fn read_preamble(
    storage: &dyn Storage,
    access: Access,
    segment: u64,
) -> io::Result<(Arc<dyn File>, u64, [u8; Preamble::BYTES])> {
    let file = storage.open(&hint_name(segment), access)?;
    let size = file.size()?;
    if size > Location::SEGMENT_BYTES_MAX {
        return Err(unusable(DecodeError::Damaged("a hint file beyond all bounds")));
    }
    let mut bytes = [0; Preamble::BYTES];
    file.read_at(0, &mut bytes)?;
    Ok((file, size, bytes))
}

/// The entries of hints in memory whose hash is in `hashes`.
pub(crate) fn range_of<'a>(hints: &'a Hints, hashes: &RangeInclusive<u64>) -> &'a [Hint] {
    let start = hints.entries.partition_point(|hint| hint.hash < *hashes.start());
    let rest = &hints.entries[start..];
    &rest[..rest.partition_point(|hint| hint.hash <= *hashes.end())]
}

/// Makes the hints of a sealed segment again, from its bytes. Also tells how many records it holds.
pub(crate) fn rebuild(
    bytes: &[u8],
    header: &SegmentHeader,
    hash_key: &HashKey,
) -> Result<(Hints, u64)> {
    let (mut entries, mut found, mut records) = (Vec::new(), None, 0);
    let scan = reader::scan(bytes, header.identity(), header.first_lsn, |entry| {
        match entry.record {
            Record::Complete(complete) => {
                entries.push(response(hash_key.hash(complete.scope), entry.offset));
            }
            Record::Forget { hash, .. } => {
                entries.push(forget(hash, entry.offset));
            }
            Record::Seal(summary) => found = Some((entry.header.lsn, entry.offset, summary)),
            _ => {}
        }
        records += 1;
    });
    let Some((seal_lsn, seal_offset, summary)) = found else {
        let what = match scan.end {
            End::Bad(what) => what,
            _ => "a sealed segment without its SEAL",
        };
        return Err(Error::Corrupt { segment: header.segment, offset: scan.offset, what });
    };
    entries.sort_unstable();
    Ok((Hints { seal_lsn, seal_offset, summary, entries }, records))
}

/// The hint of a response.
pub(crate) fn response(hash: u64, offset: u64) -> Hint {
    Hint { hash, granule: granule(offset), forget: false }
}

/// The hint of a FORGET.
pub(crate) fn forget(hash: u64, offset: u64) -> Hint {
    Hint { hash, granule: granule(offset), forget: true }
}

/// `offset` is within a segment.
pub(crate) fn granule(offset: u64) -> u32 {
    u32::try_from(offset / Location::GRANULE).expect("an offset within a segment has 22 bits")
}

pub(crate) fn read_whole(file: &dyn File, bytes: u64) -> Result<Vec<u8>> {
    let mut whole = vec![0; usize::try_from(bytes).expect("a segment is at most 64 MiB")];
    file.read_at(0, &mut whole).map_err(Error::io("read a segment"))?;
    Ok(whole)
}

fn unusable(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.what())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::summary::Summary;
    use crate::location::Lsn;
    use crate::storage::disk::{Appends, DiskStorage};

    const SEGMENT_BYTES: u64 = 1 << 20;
    const BINDING: Binding = Binding { store: [1; 16], segment: 1, salt: 7 };

    /// Hashes 10, 20, 30, ..., each of them `twins` times; more than three blocks of them.
    fn hints(twins: u64) -> Hints {
        let of = |n: u64| response(n / twins * 10 + 10, DATA_START + n * Location::GRANULE);
        let entries = (0..900).map(of).collect();
        Hints { seal_lsn: Lsn(9), seal_offset: 4096, summary: Summary::default(), entries }
    }

    #[test]
    fn a_range_of_a_hint_file_is_what_a_search_in_memory_finds_and_is_added_behind_what_was_there()
    {
        let dir = tempfile::tempdir().unwrap();
        let storage = DiskStorage::create(dir.path(), Appends::Written).unwrap();
        for twins in [1, 300] {
            let hints = hints(twins);
            let bytes = hints.encode(BINDING);
            let file = storage.create(&hint_name(1), bytes.len() as u64).unwrap();
            file.write_at(0, &bytes).unwrap();
            let access = Access::ReadPositioned;
            let file = HintFile::open(&storage, access, BINDING, SEGMENT_BYTES).unwrap();
            assert_eq!(file.read().unwrap(), hints);
            let edges = [0, 9, 10, 11, 19, 20, 2_549, 2_550, 2_551, 2_560, 2_561, 5_110, 9_001];
            for hashes in edges.iter().flat_map(|&from| edges.map(|to| from..=to)) {
                let before = response(0, DATA_START);
                let mut found = vec![before; 3];
                file.range(&hashes, &mut found).unwrap();
                let wanted = if hashes.is_empty() { &[] } else { range_of(&hints, &hashes) };
                assert_eq!(found[..3], [before; 3]);
                assert_eq!(found[3..], *wanted, "{hashes:?}, {twins} of each");
            }
        }
    }
}
