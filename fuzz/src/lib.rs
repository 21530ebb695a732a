//! Makes the checksums of changed bytes right again, so that what lies behind them is tested too.
//! Written from DESIGN.md alone: the crate under test is not asked.

use xxhash_rust::xxh3::xxh3_64;

/// Where a record is: its store, segment, salt, and offset in the segment.
#[derive(Clone, Copy)]
pub struct Place {
    pub store: [u8; 16],
    pub segment: u64,
    pub salt: u64,
    pub offset: u64,
}

/// The fields of a segment header that a record's checksum is seeded with.
pub fn place(segment: &[u8], offset: u64) -> Place {
    Place {
        store: segment[16..32].try_into().expect("16 bytes"),
        segment: u64::from_le_bytes(segment[32..40].try_into().expect("8 bytes")),
        salt: u64::from_le_bytes(segment[40..48].try_into().expect("8 bytes")),
        offset,
    }
}

/// Mends the header checksum of the record that `bytes` begin with.
pub fn mend_header(bytes: &mut [u8], place: Place) {
    if bytes.len() < 34 {
        return;
    }
    let mut seed = place.store.to_vec();
    seed.extend(place.segment.to_le_bytes());
    seed.extend(place.salt.to_le_bytes());
    let mixed = (xxh3_64(&seed) ^ place.offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let sum = crc(&bytes[4..34], (mixed >> 32) as u32);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
}

/// Mends both checksums of the record of `len` bytes that `bytes` begin with.
pub fn mend_record(bytes: &mut [u8], len: usize, place: Place) {
    if (34..=bytes.len()).contains(&len) {
        let sum = crc(&bytes[34..len], 0);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        mend_header(bytes, place);
    }
}

/// Mends the checksums of what begins a file of this name: a copy, a slot, or a header.
pub fn mend_file(name: &str, bytes: &mut [u8], store: [u8; 16]) {
    let (starts, end, seed): (&[usize], usize, u32) = match name {
        "SUPER" => (&[0, 4096], 56, 0),
        "CHECKPOINT" => (&[0, 4096], 72, crc(&store, 0)),
        name if name.ends_with(".seg") => (&[0, 4096], 80, 0),
        _ => (&[0], 118, 0),
    };
    for &start in starts {
        if start + end <= bytes.len() {
            let sum = crc(&bytes[start + 16..start + end], seed);
            bytes[start + 12..start + 16].copy_from_slice(&sum.to_le_bytes());
        }
    }
    if name.ends_with(".idx") {
        for block in bytes.chunks_exact_mut(4096).skip(1) {
            let sum = xxh3_64(&block[..4080]);
            block[4080..4088].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

fn crc(bytes: &[u8], seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}
