//! Any bytes as the header of a segment, with wrong and with right checksums.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oncelog::format::segment::SegmentHeader;
use oncelog_fuzz::mend::{file_of, mend_file};

fuzz_target!(|input: &[u8]| {
    decode(input);
    let mut file = file_of(b"1clogseg", input);
    decode(&file);
    mend_file("1.seg", &mut file, [0; 16]);
    decode(&file);
});

fn decode(bytes: &[u8]) {
    if let Ok(header) = SegmentHeader::decode(bytes) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
}
