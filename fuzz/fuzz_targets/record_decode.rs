//! Any bytes, with wrong and with right checksums, through every decoder: an answer or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oncelog::format::checkpoint::Checkpoint;
use oncelog::format::hint::{Binding, Hints};
use oncelog::format::record::{Header, Identity};
use oncelog::format::segment::SegmentHeader;
use oncelog::format::superblock::Superblock;
use oncelog_fuzz::{Place, mend_file, mend_header, mend_record};

const STORE: [u8; 16] = *b"store-uuid-bytes";
const PLACE: Place = Place { store: STORE, segment: 3, salt: 7, offset: 8192 };

fuzz_target!(|input: &[u8]| {
    record(input);
    let mut bytes = input.to_vec();
    mend_header(&mut bytes, PLACE);
    if let Some(header) = record(&bytes) {
        mend_record(&mut bytes, header.record_bytes(), PLACE);
        record(&bytes);
    }
    // The magic and version bytes of each file, then the fuzzer's; zeros up to a whole number of
    // pages.
    for (name, magic) in [
        ("SUPER", b"1clogsup"),
        ("CHECKPOINT", b"1clogchk"),
        ("1.seg", b"1clogseg"),
        ("1.idx", b"1cloghnt"),
    ] {
        let mut file = [&magic[..], &[1, 0, 0, 0, 0, 0, 0, 0], input].concat();
        file.resize(file.len().next_multiple_of(4096).max(8192), 0);
        files(&file);
        mend_file(name, &mut file, STORE);
        files(&file);
    }
});

fn record(bytes: &[u8]) -> Option<Header> {
    let identity = Identity::new(PLACE.store, PLACE.segment, PLACE.salt);
    let header = Header::decode(bytes, identity, PLACE.offset).ok()?;
    assert!(header.record_bytes() >= 48 && header.record_bytes() % 16 == 0);
    if header.decode_body(bytes).is_ok() {
        assert!(header.record_bytes() <= bytes.len());
    }
    Some(header)
}

fn files(bytes: &[u8]) {
    let _ = Superblock::decode(bytes);
    let _ = Checkpoint::decode(bytes, STORE);
    let _ = SegmentHeader::decode(bytes);
    let mut binding = Binding { store: STORE, segment: 0, salt: 0 };
    if bytes.len() > 48 {
        binding.store.copy_from_slice(&bytes[16..32]);
        binding.segment = u64::from_le_bytes(bytes[32..40].try_into().expect("8 bytes"));
        binding.salt = u64::from_le_bytes(bytes[40..48].try_into().expect("8 bytes"));
    }
    if let Ok(hints) = Hints::decode(bytes, binding) {
        assert!(hints.entries.is_sorted() && hints.entries.len() * 16 <= bytes.len());
    }
}
