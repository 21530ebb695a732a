//! Any bytes as QUARANTINE, with wrong and with right checksums and lengths: what is read is what
//! is written, byte for byte, and is not another store's.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oncelog::format::quarantine;
use oncelog_fuzz::mend::{mend_file, quarantine_of};

const STORE: [u8; 16] = *b"store-uuid-bytes";

fuzz_target!(|input: &[u8]| {
    decode(input);
    let mut file = input.to_vec();
    mend_file("QUARANTINE", &mut file, STORE);
    decode(&file);
    decode(&quarantine_of(input, STORE));
});

fn decode(bytes: &[u8]) {
    let Ok(entries) = quarantine::decode(bytes, STORE) else { return };
    assert_eq!(quarantine::encode(STORE, &entries), bytes, "another file says the same");
    let other = quarantine::decode(bytes, *b"another store's.");
    assert!(other.is_err(), "the list of another store");
    assert!(bytes.len() as u64 <= quarantine::FILE_BYTES_MAX);
}
