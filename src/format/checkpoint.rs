//! CHECKPOINT: which segments must exist, and what is promised of them. Two slots that alternate,
//! so that a torn write of one leaves the other.
//!
//! ```text
//!  0 u64 magic         8 u32 format version   12 u32 checksum over the rest, seeded by the store
//! 16 u64 generation   24 u64 oldest segment   32 u64 newest sealed segment   40 u64 tail segment
//! 48 u64 durable lsn  56 u64 epoch            64 u64 highest store time in ms
//! ```

use crate::clock::MS_MAX;
use crate::format::{DecodeError, FORMAT_VERSION, Fields, Put, checksum};
use crate::location::{Location, Lsn};

const MAGIC: u64 = u64::from_le_bytes(*b"1clogchk");
const FIELDS_BYTES: usize = 72;

/// Bytes of one slot.
pub const SLOT_BYTES: usize = 4096;
/// Bytes of the file.
pub const FILE_BYTES: usize = 2 * SLOT_BYTES;

/// What the newest slot says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Counts the writes of the file; its parity names the slot.
    pub generation: u64,
    /// Segments below were dropped.
    pub oldest: u64,
    /// Segments up to this one are sealed: they hold no open claim's only copy. 0 where none is.
    pub sealed: u64,
    /// This segment and all down to `oldest` exist; 0 before the first one.
    pub tail: u64,
    pub(crate) durable_lsn: Lsn,
    /// The number of the newest open; no record of a later one exists.
    pub epoch: u64,
    /// The highest store time known, in ms.
    pub time_ms: u64,
}

impl Checkpoint {
    /// The bytes of its slot.
    pub fn encode(&self, store: [u8; 16]) -> Vec<u8> {
        let mut slot = vec![0; SLOT_BYTES];
        Put::new(&mut slot[16..])
            .u64(self.generation)
            .u64(self.oldest)
            .u64(self.sealed)
            .u64(self.tail)
            .u64(self.durable_lsn.0)
            .u64(self.epoch)
            .u64(self.time_ms);
        let sum = checksum(seed(store), &slot[16..FIELDS_BYTES]);
        Put::new(&mut slot).u64(MAGIC).u32(FORMAT_VERSION).u32(sum);
        slot
    }

    /// Where in the file its slot is.
    pub(crate) fn slot_offset(&self) -> u64 {
        self.generation % 2 * SLOT_BYTES as u64
    }

    /// Reads each slot by itself: both of a store that is open verify.
    pub(crate) fn decode_slots(
        bytes: &[u8],
        store: [u8; 16],
    ) -> [Result<Checkpoint, DecodeError>; 2] {
        let mut slots = Fields(bytes);
        [(); 2].map(|()| decode_slot(slots.bytes(SLOT_BYTES)?, store))
    }

    /// Reads both slots and takes the newer one that verifies.
    ///
    /// # Errors
    /// `Damaged` where neither does.
    pub fn decode(bytes: &[u8], store: [u8; 16]) -> Result<Checkpoint, DecodeError> {
        let (first, second) = Fields(bytes).bytes(FILE_BYTES)?.split_at(SLOT_BYTES);
        match (decode_slot(first, store), decode_slot(second, store)) {
            (Ok(first), Ok(second)) if first.generation > second.generation => Ok(first),
            (Err(newer @ DecodeError::Version(_)), _) => Err(newer),
            (_, Ok(second)) => Ok(second),
            (_, Err(newer @ DecodeError::Version(_))) => Err(newer),
            (first, Err(_)) => first,
        }
    }
}

fn seed(store: [u8; 16]) -> u32 {
    checksum(0, &store)
}

fn decode_slot(slot: &[u8], store: [u8; 16]) -> Result<Checkpoint, DecodeError> {
    let mut fields = Fields(slot);
    if fields.u64()? != MAGIC {
        return Err(DecodeError::Damaged("not a CHECKPOINT slot"));
    }
    let (version, sum) = (fields.u32()?, fields.u32()?);
    if sum != checksum(seed(store), &slot[16..FIELDS_BYTES]) {
        return Err(DecodeError::Damaged("the checksum of CHECKPOINT does not match"));
    }
    if version != FORMAT_VERSION {
        return Err(DecodeError::Version(version));
    }
    let checkpoint = Checkpoint {
        generation: fields.u64()?,
        oldest: fields.u64()?,
        sealed: fields.u64()?,
        tail: fields.u64()?,
        durable_lsn: Lsn(fields.u64()?),
        epoch: fields.u64()?,
        time_ms: fields.u64()?,
    };
    if checkpoint.generation > 1 << 62
        || checkpoint.epoch > Lsn::EPOCH_MAX
        || !(1..Location::SEGMENTS_MAX).contains(&checkpoint.oldest)
        || checkpoint.tail >= Location::SEGMENTS_MAX
        || checkpoint.sealed > checkpoint.tail
        || (checkpoint.tail == 0 && checkpoint.oldest != 1)
        || checkpoint.durable_lsn > Lsn::HIGHEST
        || checkpoint.time_ms > MS_MAX
    {
        return Err(DecodeError::Damaged("impossible fields"));
    }
    Ok(checkpoint)
}
