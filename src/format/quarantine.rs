//! QUARANTINE: which segments are damaged, and until when a scope that nobody knows may have been
//! in one of them. There is no such file in a sound store.
//!
//! ```text
//!  0 u64 magic   8 u32 format version   12 u32 checksum over the rest, seeded by the store
//! 16 u64 entries, then of each: u64 segment | u64 until in ms | u64 epoch | u64 kind
//! ```

use crate::clock::MS_MAX;
use crate::format::{DecodeError, FORMAT_VERSION, Fields, Put, checksum};
use crate::location::{Location, Lsn};

const MAGIC: u64 = u64::from_le_bytes(*b"1clogqua");
const HEAD_BYTES: usize = 24;
const ENTRY_BYTES: usize = 32;
/// The index tells so many segments apart.
const ENTRIES_MAX: u64 = 1 << 18;

/// The largest file that can be one.
pub const FILE_BYTES_MAX: u64 = HEAD_BYTES as u64 + ENTRIES_MAX * ENTRY_BYTES as u64;

/// What is known of a damaged segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// Its hint file names every response that was in it.
    Named,
    /// Nobody knows which scopes were in it.
    Unnamed,
}

/// One segment in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub segment: u64,
    /// Until then, in store time, what was in it may live; 0 where `Named`.
    pub until_ms: u64,
    /// The open that found it damaged.
    pub epoch: u64,
    /// What is known of it.
    pub loss: Loss,
}

/// The bytes of the file.
pub fn encode(store: [u8; 16], entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES + entries.len() * ENTRY_BYTES];
    let mut put = Put::new(&mut bytes[16..]);
    put.u64(entries.len() as u64);
    for entry in entries {
        let loss = u64::from(entry.loss == Loss::Unnamed);
        put.u64(entry.segment).u64(entry.until_ms).u64(entry.epoch).u64(loss);
    }
    let sum = checksum(checksum(0, &store), &bytes[16..]);
    Put::new(&mut bytes).u64(MAGIC).u32(FORMAT_VERSION).u32(sum);
    bytes
}

/// Reads the whole file.
///
/// # Errors
/// `Damaged` where it does not verify; `Version` where another format wrote it.
pub fn decode(bytes: &[u8], store: [u8; 16]) -> Result<Vec<Entry>, DecodeError> {
    let mut fields = Fields(bytes);
    if fields.u64()? != MAGIC {
        return Err(DecodeError::Damaged("not a QUARANTINE file"));
    }
    let (version, sum) = (fields.u32()?, fields.u32()?);
    if sum != checksum(checksum(0, &store), fields.0) {
        return Err(DecodeError::Damaged("the checksum of QUARANTINE does not match"));
    }
    if version != FORMAT_VERSION {
        return Err(DecodeError::Version(version));
    }
    let count = fields.u64()?;
    if count > ENTRIES_MAX || fields.0.len() as u64 != count * ENTRY_BYTES as u64 {
        return Err(DecodeError::Damaged("QUARANTINE has the wrong length"));
    }
    (0..count).map(|_| decode_entry(&mut fields)).collect()
}

fn decode_entry(fields: &mut Fields<'_>) -> Result<Entry, DecodeError> {
    let (segment, until_ms, epoch) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let loss = match fields.u64()? {
        0 => Loss::Named,
        1 => Loss::Unnamed,
        _ => return Err(DecodeError::Damaged("an unknown kind of loss")),
    };
    if segment >= Location::SEGMENTS_MAX || until_ms > MS_MAX || epoch > Lsn::EPOCH_MAX {
        return Err(DecodeError::Damaged("impossible fields"));
    }
    Ok(Entry { segment, until_ms, epoch, loss })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: [u8; 16] = *b"store-uuid-bytes";

    fn entries() -> [Entry; 2] {
        let named = Entry { segment: 3, until_ms: 0, epoch: 5, loss: Loss::Named };
        [named, Entry { segment: 9, until_ms: 1_700_000_000_000, epoch: 6, loss: Loss::Unnamed }]
    }

    #[test]
    fn the_bytes_of_a_quarantine_are_pinned() {
        let bytes = encode(STORE, &entries());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = concat!(
            "31636c6f67717561",
            "01000000",
            "e959b341",
            "0200000000000000",
            "0300000000000000",
            "0000000000000000",
            "0500000000000000",
            "0000000000000000",
            "0900000000000000",
            "0068e5cf8b010000",
            "0600000000000000",
            "0100000000000000",
        );
        assert_eq!(hex, golden);
        assert_eq!(decode(&bytes, STORE).unwrap(), entries());
        assert_eq!(decode(&encode(STORE, &[]), STORE).unwrap(), []);
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_refused() {
        let bytes = encode(STORE, &entries());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, STORE).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], STORE).is_err(), "length {length}");
        }
        assert!(decode(&[&bytes[..], &[0; 32]].concat(), STORE).is_err());
        assert!(decode(&bytes, [7; 16]).is_err(), "that of another store");
    }

    #[test]
    fn fields_beyond_their_range_are_refused_and_allocate_nothing() {
        let [named, unnamed] = entries();
        let beyond = [
            Entry { segment: Location::SEGMENTS_MAX, ..named },
            Entry { until_ms: MS_MAX + 1, ..unnamed },
            Entry { epoch: Lsn::EPOCH_MAX + 1, ..named },
        ];
        for entry in beyond {
            assert!(decode(&encode(STORE, &[entry]), STORE).is_err(), "{entry:?}");
        }
        let mut bytes = encode(STORE, &[]);
        bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        let sum = checksum(checksum(0, &STORE), &bytes[16..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        assert!(decode(&bytes, STORE).is_err());
    }
}
