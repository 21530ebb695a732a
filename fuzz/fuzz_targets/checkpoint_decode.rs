//! Any bytes as CHECKPOINT, with wrong and with right checksums: what is read is what is written,
//! and of two good slots it is the newer one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oncelog::format::checkpoint::{Checkpoint, SLOT_BYTES};
use oncelog_fuzz::mend::{file_of, mend_file};

const STORE: [u8; 16] = *b"store-uuid-bytes";

fuzz_target!(|input: &[u8]| {
    decode(input);
    let mut file = file_of(b"1clogchk", input);
    decode(&file);
    mend_file("CHECKPOINT", &mut file, STORE);
    decode(&file);
});

fn decode(bytes: &[u8]) {
    let Ok(checkpoint) = Checkpoint::decode(bytes, STORE) else { return };
    let slot = checkpoint.encode(STORE);
    assert_eq!(Checkpoint::decode(&[&slot[..], &slot[..]].concat(), STORE), Ok(checkpoint));
    let twice = |at: usize| bytes[at..at + SLOT_BYTES].repeat(2);
    for half in [twice(0), twice(SLOT_BYTES)] {
        if let Ok(alone) = Checkpoint::decode(&half, STORE) {
            assert!(alone.generation <= checkpoint.generation, "the older slot was taken");
        }
    }
}
