//! The hint file of a segment: where its responses are, sorted by hash, so that opening a store
//! reads 16 bytes a key instead of the records. Derived from the segment; safe to delete. That of a
//! tail which a close left behind ends with a CLEAN where others have their SEAL.
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

use crate::format::record::Kind;
use crate::format::summary::{self, Summary};
use crate::format::{DecodeError, FORMAT_VERSION, Fields, Put, checksum};
use crate::location::Lsn;

const MAGIC: u64 = u64::from_le_bytes(*b"1cloghnt");
pub(crate) const BLOCK_BYTES: usize = 4096;
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

impl Binding {
    /// What the start of a hint file says that it belongs to; not verified.
    pub(crate) fn of_file(bytes: &[u8]) -> Result<Binding, DecodeError> {
        let mut fields = Fields(bytes);
        fields.bytes(16)?;
        Ok(Binding { store: fields.array()?, segment: fields.u64()?, salt: fields.u64()? })
    }
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

/// What a hint file says of itself before its entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Preamble {
    pub(crate) seal_lsn: Lsn,
    pub(crate) seal_offset: u64,
    pub(crate) summary: Summary,
    pub(crate) entries: u64,
}

impl Preamble {
    pub(crate) const BYTES: usize = FIELDS_BYTES;

    /// Reads the start of a hint file of `file_bytes` that belongs to `binding`.
    pub(crate) fn decode(
        bytes: &[u8],
        file_bytes: u64,
        binding: Binding,
    ) -> Result<Preamble, DecodeError> {
        let mut fields = Fields(Fields(bytes).bytes(FIELDS_BYTES)?);
        if fields.u64()? != MAGIC || fields.u32()? != FORMAT_VERSION {
            return Err(DecodeError::Damaged("not a hint file"));
        }
        if fields.u32()? != checksum(0, fields.0) {
            return Err(DecodeError::Damaged("the hint header's checksum does not match"));
        }
        let found = Binding { store: fields.array()?, segment: fields.u64()?, salt: fields.u64()? };
        if found != binding {
            return Err(DecodeError::Damaged("the hints of another segment"));
        }
        let (seal_lsn, seal_offset) = (Lsn(fields.u64()?), fields.u64()?);
        let entries = fields.u64()?;
        let summary = summary::read(&mut fields)?;
        let preamble = Preamble { seal_lsn, seal_offset, summary, entries };
        let blocks = preamble.blocks().checked_add(1);
        if blocks.and_then(|blocks| blocks.checked_mul(BLOCK_BYTES as u64)) != Some(file_bytes) {
            return Err(DecodeError::Damaged("a hint file of the wrong length"));
        }
        Ok(preamble)
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.entries.div_ceil(BLOCK_ENTRIES as u64)
    }

    /// How many entries a block holds.
    fn entries_in(&self, block: u64) -> usize {
        let left = self.entries - block * BLOCK_ENTRIES as u64;
        usize::try_from(left).map_or(BLOCK_ENTRIES, |left| left.min(BLOCK_ENTRIES))
    }

    /// Adds the entries of a block that is whole and in order.
    pub(crate) fn decode_block(
        &self,
        number: u64,
        block: &[u8],
        entries: &mut Vec<Hint>,
    ) -> Result<(), DecodeError> {
        decode_block(number, block, self.entries_in(number), entries)
    }
}

/// The size of a file with so many entries.
pub(crate) fn file_bytes(entries: u64) -> u64 {
    block_offset(entries.div_ceil(BLOCK_ENTRIES as u64))
}

/// Where a block stands in its file.
pub(crate) fn block_offset(number: u64) -> u64 {
    (number + 1) * BLOCK_BYTES as u64
}

/// The hash of the first entry of a block that begins with these bytes, unverified.
pub(crate) fn first_hash(block: [u8; 8]) -> u64 {
    u64::from_le_bytes(block)
}

impl Hints {
    /// The bytes of the file. The entries are sorted.
    pub fn encode(&self, binding: Binding) -> Vec<u8> {
        assert!(self.entries.is_sorted(), "hints are sorted by hash");
        let mut header = [0; BLOCK_BYTES];
        let mut fields = Put::new(&mut header[16..]);
        fields.bytes(&binding.store).u64(binding.segment).u64(binding.salt);
        fields.u64(self.seal_lsn.0).u64(self.seal_offset).u64(self.entries.len() as u64);
        summary::put(&mut fields, &self.summary);
        let sum = checksum(0, &header[16..FIELDS_BYTES]);
        Put::new(&mut header).u64(MAGIC).u32(FORMAT_VERSION).u32(sum);
        let mut file = header.to_vec();
        for (number, entries) in self.entries.chunks(BLOCK_ENTRIES).enumerate() {
            file.extend_from_slice(&encode_block(number, entries));
        }
        file
    }

    /// Reads a whole hint file that belongs to `binding`. The store reads it in parts.
    ///
    /// # Errors
    /// `Damaged` where anything does not match; the segment itself is then read instead.
    #[cfg(any(test, fuzzing))]
    pub fn decode(bytes: &[u8], binding: Binding) -> Result<Hints, DecodeError> {
        let preamble = Preamble::decode(bytes, bytes.len() as u64, binding)?;
        let mut blocks = Fields(bytes);
        blocks.bytes(BLOCK_BYTES)?;
        let mut entries = Vec::with_capacity(usize::try_from(preamble.entries).unwrap_or(0));
        for number in 0..preamble.blocks() {
            preamble.decode_block(number, blocks.bytes(BLOCK_BYTES)?, &mut entries)?;
        }
        if !entries.is_sorted() {
            return Err(DecodeError::Damaged("hints out of order"));
        }
        let Preamble { seal_lsn, seal_offset, summary, .. } = preamble;
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
