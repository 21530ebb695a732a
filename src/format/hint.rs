//! The hint file of a segment: where its responses are, sorted by hash, so that opening a store
//! reads 16 bytes a key instead of the records. Derived from the segment; safe to delete.
//!
//! ```text
//! header, 4096 bytes:
//!  0 u64 magic        8 u32 format version   12 u32 checksum over bytes 16..118
//! 16 [16] store uuid 32 u64 segment          40 u64 salt of the segment
//! 48 u64 lsn of the SEAL   56 u64 offset of the SEAL   64 u64 entries
//! 72 [46] summary of the segment, as in its SEAL
//! blocks of 4096 bytes: 255 entries of 16 bytes | u64 XXH3 of them | u64 number of the block
//! entry: u64 hash | u32 granule | u32 kind
//! ```

use crate::format::record::{self, Kind, Summary};
use crate::format::{DecodeError, FORMAT_VERSION, Fields, Put, checksum};
use crate::location::Lsn;

const MAGIC: u64 = u64::from_le_bytes(*b"1cloghnt");
const BLOCK_BYTES: usize = 4096;
const ENTRY_BYTES: usize = 16;
const BLOCK_ENTRIES: usize = BLOCK_BYTES / ENTRY_BYTES - 1;
const FIELDS_BYTES: usize = 118;

/// One response, or the erasure of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint {
    /// The keyed hash of the scope.
    pub hash: u64,
    /// The offset of the record in granules of 16 bytes.
    pub granule: u32,
    /// Whether it is a FORGET rather than a COMPLETE.
    pub forget: bool,
}

/// Which segment the hints belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The store.
    pub store: [u8; 16],
    /// The number of the segment.
    pub segment: u64,
    /// Its salt.
    pub salt: u64,
}

/// A hint file, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hints {
    pub(crate) seal_lsn: Lsn,
    /// Where the SEAL stands.
    pub seal_offset: u64,
    /// What the SEAL says.
    pub summary: Summary,
    /// Sorted by hash, then by place.
    pub entries: Vec<Hint>,
}

impl Hints {
    /// The bytes of the file. The entries are sorted.
    pub(crate) fn encode(&self, binding: Binding) -> Vec<u8> {
        assert!(self.entries.is_sorted(), "hints are sorted by hash");
        let mut header = [0; BLOCK_BYTES];
        let mut fields = Put::new(&mut header[16..]);
        fields.bytes(&binding.store).u64(binding.segment).u64(binding.salt);
        fields.u64(self.seal_lsn.0).u64(self.seal_offset).u64(self.entries.len() as u64);
        record::put_summary(&mut fields, &self.summary);
        let sum = checksum(0, &header[16..FIELDS_BYTES]);
        Put::new(&mut header).u64(MAGIC).u32(FORMAT_VERSION).u32(sum);
        let mut file = header.to_vec();
        for (number, entries) in self.entries.chunks(BLOCK_ENTRIES).enumerate() {
            file.extend_from_slice(&encode_block(number, entries));
        }
        file
    }

    /// Reads a hint file that belongs to `binding`.
    ///
    /// # Errors
    /// `Damaged` where anything does not match; the segment itself is then read instead.
    pub fn decode(bytes: &[u8], binding: Binding) -> Result<Hints, DecodeError> {
        let mut blocks = Fields(bytes);
        let header = blocks.bytes(BLOCK_BYTES)?;
        let mut fields = Fields(header);
        if fields.u64()? != MAGIC || fields.u32()? != FORMAT_VERSION {
            return Err(DecodeError::Damaged("not a hint file"));
        }
        if fields.u32()? != checksum(0, &header[16..FIELDS_BYTES]) {
            return Err(DecodeError::Damaged("the hint header's checksum does not match"));
        }
        let found = Binding { store: fields.array()?, segment: fields.u64()?, salt: fields.u64()? };
        if found != binding {
            return Err(DecodeError::Damaged("the hints of another segment"));
        }
        let (seal_lsn, seal_offset) = (Lsn(fields.u64()?), fields.u64()?);
        let count = fields.u64()?;
        let summary = record::summary(&mut fields)?;
        let blocks_needed = count.div_ceil(BLOCK_ENTRIES as u64);
        if blocks_needed.checked_mul(BLOCK_BYTES as u64) != Some(blocks.0.len() as u64) {
            return Err(DecodeError::Damaged("a hint file of the wrong length"));
        }
        let mut entries = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        for number in 0..blocks_needed {
            let left = usize::try_from(count).unwrap_or(usize::MAX) - entries.len();
            let block = blocks.bytes(BLOCK_BYTES)?;
            decode_block(number, block, left.min(BLOCK_ENTRIES), &mut entries)?;
        }
        if !entries.is_sorted() {
            return Err(DecodeError::Damaged("hints out of order"));
        }
        Ok(Hints { seal_lsn, seal_offset, summary, entries })
    }
}

fn encode_block(number: usize, entries: &[Hint]) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let mut fields = Put::new(&mut block);
    for entry in entries {
        let kind = if entry.forget { Kind::Forget } else { Kind::Complete };
        fields.u64(entry.hash).u32(entry.granule).u32(kind as u32);
    }
    let sum = xxhash_rust::xxh3::xxh3_64(&block[..BLOCK_ENTRIES * ENTRY_BYTES]);
    Put::new(&mut block[BLOCK_ENTRIES * ENTRY_BYTES..]).u64(sum).u64(number as u64);
    block
}

fn decode_block(
    number: u64,
    block: &[u8],
    count: usize,
    entries: &mut Vec<Hint>,
) -> Result<(), DecodeError> {
    let (body, mut footer) =
        (&block[..BLOCK_ENTRIES * ENTRY_BYTES], Fields(&block[BLOCK_ENTRIES * ENTRY_BYTES..]));
    if footer.u64()? != xxhash_rust::xxh3::xxh3_64(body) || footer.u64()? != number {
        return Err(DecodeError::Damaged("a hint block's checksum does not match"));
    }
    let mut fields = Fields(body);
    for _ in 0..count {
        let (hash, granule, kind) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let forget = match kind {
            kind if kind == Kind::Complete as u32 => false,
            kind if kind == Kind::Forget as u32 => true,
            _ => return Err(DecodeError::Damaged("an unknown kind of hint")),
        };
        entries.push(Hint { hash, granule, forget });
    }
    Ok(())
}
