//! SUPER: what a store is, written once. Two copies, each in a page of its own.
//!
//! ```text
//!  0 u64 magic         8 u32 format version   12 u32 checksum over the rest
//! 16 [16] store uuid  32 [16] key of the index hash   48 u64 segment bytes   56 zeros up to 4096
//! ```

use crate::format::{DecodeError, FORMAT_VERSION, Fields, Put, checksum};

const MAGIC: u64 = u64::from_le_bytes(*b"1clogsup");
const COPY_BYTES: usize = 4096;
const FIELDS_BYTES: usize = 56;

/// Bytes of the file.
pub const FILE_BYTES: usize = 2 * COPY_BYTES;

/// What a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Random, drawn when the store was created.
    pub store: [u8; 16],
    /// The secret of the index hash, random, drawn when the store was created.
    pub hash_key: [u8; 16],
    /// The size of its segments.
    pub segment_bytes: u64,
}

impl Superblock {
    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = [0; COPY_BYTES];
        Put::new(&mut copy[16..]).bytes(&self.store).bytes(&self.hash_key).u64(self.segment_bytes);
        let sum = checksum(0, &copy[16..FIELDS_BYTES]);
        Put::new(&mut copy).u64(MAGIC).u32(FORMAT_VERSION).u32(sum);
        copy.repeat(2)
    }

    /// Reads the first copy that verifies.
    ///
    /// # Errors
    /// `Damaged` where neither does.
    pub fn decode(bytes: &[u8]) -> Result<Superblock, DecodeError> {
        let (first, second) = Fields(bytes).bytes(FILE_BYTES)?.split_at(COPY_BYTES);
        // Both copies are written as one: a version that one of them alone names is damage to it.
        match (decode_copy(first), decode_copy(second)) {
            (Ok(found), _) | (_, Ok(found)) => Ok(found),
            (Err(newer @ DecodeError::Version(_)), _) => Err(newer),
            (_, Err(error)) => Err(error),
        }
    }
}

fn decode_copy(copy: &[u8]) -> Result<Superblock, DecodeError> {
    let mut fields = Fields(copy);
    if fields.u64()? != MAGIC {
        return Err(DecodeError::Damaged("not a SUPER file"));
    }
    let (version, sum) = (fields.u32()?, fields.u32()?);
    if sum != checksum(0, &copy[16..FIELDS_BYTES]) {
        return Err(DecodeError::Damaged("the checksum of SUPER does not match"));
    }
    if version != FORMAT_VERSION {
        return Err(DecodeError::Version(version));
    }
    Ok(Superblock {
        store: fields.array()?,
        hash_key: fields.array()?,
        segment_bytes: fields.u64()?,
    })
}
