//! Makes the checksums of changed bytes right again, so that what lies behind them is tested too.
//! Written from DESIGN.md alone: the crate under test is not asked.

use xxhash_rust::xxh3::xxh3_64;

/// Where the records of a segment begin.
pub const RECORDS_START: usize = 8192;

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

/// Whether the header checksum of the record that `bytes` begin with is right.
pub fn header_verifies(bytes: &[u8], place: Place) -> bool {
    bytes.len() >= 34 && bytes[..4] == header_sum(bytes, place).to_le_bytes()
}

/// The length of the record that `bytes` begin with, as its header says it.
pub fn record_bytes(bytes: &[u8]) -> usize {
    let fixed = match (bytes[8], bytes[9] & 1) {
        (1, 1) => 55,
        (1, _) => 32,
        (2, _) => 10,
        (3, _) => 50,
        (4, _) => 9,
        (5, _) => 24,
        (7 | 8, _) => 46,
        _ => 0,
    };
    let scope = usize::from(u16::from_le_bytes([bytes[10], bytes[11]]));
    let value = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], 0]) as usize;
    (34 + fixed + scope + value).next_multiple_of(16)
}

/// Gives the record that `bytes` begin with another LSN; its checksum is to be mended.
pub fn set_lsn(bytes: &mut [u8], lsn: u64) {
    if let Some(field) = bytes.get_mut(26..34) {
        field.copy_from_slice(&lsn.to_le_bytes());
    }
}

/// Mends the header checksum of the record that `bytes` begin with.
pub fn mend_header(bytes: &mut [u8], place: Place) {
    if bytes.len() >= 34 {
        let sum = header_sum(bytes, place);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

fn header_sum(bytes: &[u8], place: Place) -> u32 {
    let mut seed = place.store.to_vec();
    seed.extend(place.segment.to_le_bytes());
    seed.extend(place.salt.to_le_bytes());
    let mixed = (xxh3_64(&seed) ^ place.offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    crc(&bytes[4..34], (mixed >> 32) as u32)
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
        "QUARANTINE" if bytes.len() >= 16 => (&[0], bytes.len(), crc(&store, 0)),
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

/// QUARANTINE with the whole entries that `entries` hold, as many as it says.
pub fn quarantine_of(entries: &[u8], store: [u8; 16]) -> Vec<u8> {
    let entries = &entries[..entries.len() / 32 * 32];
    let count = entries.len() as u64 / 32;
    let head = [&b"1clogqua"[..], &[1, 0, 0, 0, 0, 0, 0, 0], &count.to_le_bytes()].concat();
    let mut file = [&head, entries].concat();
    mend_file("QUARANTINE", &mut file, store);
    file
}

/// A file that begins with a magic, the format version and `rest`, zeros up to whole pages.
pub fn file_of(magic: &[u8; 8], rest: &[u8]) -> Vec<u8> {
    let mut file = [&magic[..], &[1, 0, 0, 0, 0, 0, 0, 0], rest].concat();
    file.resize(file.len().next_multiple_of(4096).max(8192), 0);
    file
}

fn crc(bytes: &[u8], seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}
