//! Any bytes as SUPER, with wrong and with right checksums: what is read is what is written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oncelog::format::superblock::Superblock;
use oncelog_fuzz::mend::{file_of, mend_file};

fuzz_target!(|input: &[u8]| {
    decode(input);
    let mut file = file_of(b"1clogsup", input);
    decode(&file);
    mend_file("SUPER", &mut file, [0; 16]);
    decode(&file);
});

fn decode(bytes: &[u8]) {
    if let Ok(superblock) = Superblock::decode(bytes) {
        assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
    }
}
