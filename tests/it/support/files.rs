//! The names of the files of a store, and checksums put right behind a forgery.

use std::ops::Range;

pub(crate) fn segment_file(number: u64) -> String {
    format!("{number:016x}.seg")
}

pub(crate) fn hint_file(number: u64) -> String {
    format!("{number:016x}.idx")
}

pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// Puts the checksum of `fields` where it belongs.
pub(crate) fn reseal(bytes: &mut [u8], at: usize, seed: u32, fields: Range<usize>) {
    let sum = checksum(seed, &bytes[fields]);
    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Puts both checksums of a record of a segment right; they are bound to the store, the number and
/// the salt in the header of the segment, and to the place in it.
pub(crate) fn reseal_record(segment: &mut [u8], record: &Range<u64>) {
    let identity = xxhash_rust::xxh3::xxh3_64(&segment[16..48]);
    let place = (identity ^ record.start).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let record = &mut segment[record.start as usize..record.end as usize];
    reseal(record, 4, 0, 34..record.len());
    reseal(record, 0, (place >> 32) as u32, 4..34);
}
