//! The header of a segment, twice, each in a page of its own.
//!
//! ```text
//!  0 u64 magic          8 u32 format version   12 u32 checksum over the rest, seeded by nothing
//! 16 [16] store uuid   32 u64 segment          40 u64 salt
//! 48 u64 first lsn     56 u64 last lsn of the segment before
//! 64 u64 time in ms    72 u64 segment bytes    80 zeros up to 4096
//! ```

use crate::clock::MS_MAX;
use crate::format::hint::Binding;
use crate::format::record::Identity;
use crate::format::{DecodeError, FORMAT_VERSION, Fields, Put, checksum};
use crate::location::Lsn;

const MAGIC: u64 = u64::from_le_bytes(*b"1clogseg");
const COPY_BYTES: usize = 4096;
const FIELDS_BYTES: usize = 80;

/// Where the first record stands.
pub const DATA_START: u64 = HEADERS_BYTES as u64;
const HEADERS_BYTES: usize = 2 * COPY_BYTES;

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store that it belongs to.
    pub store: [u8; 16],
    /// Its number, counted from 1.
    pub segment: u64,
    /// Random, new for every life of the file.
    pub salt: u64,
    pub(crate) first_lsn: Lsn,
    pub(crate) previous_last_lsn: Lsn,
    /// Store time of its creation in ms.
    pub created_ms: u64,
    /// The size of the file.
    pub segment_bytes: u64,
}

impl SegmentHeader {
    /// The first segment of some store, for tests.
    #[cfg(test)]
    pub(crate) fn sample(segment_bytes: u64) -> SegmentHeader {
        SegmentHeader {
            store: [1; 16],
            segment: 1,
            salt: 7,
            first_lsn: Lsn(1),
            previous_last_lsn: Lsn::ZERO,
            created_ms: 5,
            segment_bytes,
        }
    }

    /// The bytes before [`DATA_START`].
    pub fn encode(&self) -> Vec<u8> {
        let mut copy = [0; COPY_BYTES];
        Put::new(&mut copy[16..])
            .bytes(&self.store)
            .u64(self.segment)
            .u64(self.salt)
            .u64(self.first_lsn.0)
            .u64(self.previous_last_lsn.0)
            .u64(self.created_ms)
            .u64(self.segment_bytes);
        let sum = checksum(0, &copy[16..FIELDS_BYTES]);
        Put::new(&mut copy).u64(MAGIC).u32(FORMAT_VERSION).u32(sum);
        copy.repeat(2)
    }

    /// Reads the first copy that verifies.
    ///
    /// # Errors
    /// `Blank` where both copies are zeros: the file was prepared and never used.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, DecodeError> {
        let bytes = Fields(bytes).bytes(HEADERS_BYTES)?;
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(DecodeError::Blank);
        }
        let (first, second) = bytes.split_at(COPY_BYTES);
        // Both copies are written as one: a version that one of them alone names is damage to it.
        match (decode_copy(first), decode_copy(second)) {
            (Ok(found), _) | (_, Ok(found)) => Ok(found),
            (Err(newer @ DecodeError::Version(_)), _) => Err(newer),
            (_, Err(error)) => Err(error),
        }
    }

    /// What binds a hint file to this segment.
    pub(crate) fn binding(&self) -> Binding {
        Binding { store: self.store, segment: self.segment, salt: self.salt }
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::new(self.store, self.segment, self.salt)
    }
}

fn decode_copy(copy: &[u8]) -> Result<SegmentHeader, DecodeError> {
    let mut fields = Fields(copy);
    if fields.u64()? != MAGIC {
        return Err(DecodeError::Damaged("not a segment header"));
    }
    let (version, sum) = (fields.u32()?, fields.u32()?);
    if sum != checksum(0, &copy[16..FIELDS_BYTES]) {
        return Err(DecodeError::Damaged("the segment header's checksum does not match"));
    }
    if version != FORMAT_VERSION {
        return Err(DecodeError::Version(version));
    }
    let header = SegmentHeader {
        store: fields.array()?,
        segment: fields.u64()?,
        salt: fields.u64()?,
        first_lsn: Lsn(fields.u64()?),
        previous_last_lsn: Lsn(fields.u64()?),
        created_ms: fields.u64()?,
        segment_bytes: fields.u64()?,
    };
    if header.first_lsn.max(header.previous_last_lsn) > Lsn::HIGHEST {
        return Err(DecodeError::Damaged("an LSN beyond the range of LSNs"));
    }
    if header.created_ms > MS_MAX {
        return Err(DecodeError::Damaged("a time beyond the range of times"));
    }
    Ok(header)
}
