//! Any bytes as a hint file, with wrong and with right checksums: what is read is sorted, is not
//! more than the file holds, and is what is written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oncelog::format::hint::{Binding, Hints};
use oncelog_fuzz::mend::{file_of, mend_file};

fuzz_target!(|input: &[u8]| {
    decode(input);
    let mut file = file_of(b"1cloghnt", input);
    decode(&file);
    mend_file("1.idx", &mut file, [0; 16]);
    decode(&file);
    // The number of entries that fill the blocks there are, else nearly none gets so far.
    let entries = (file.len() / 4096 - 1) as u64 * 255;
    file[64..72].copy_from_slice(&entries.to_le_bytes());
    mend_file("1.idx", &mut file, [0; 16]);
    decode(&file);
});

fn decode(bytes: &[u8]) {
    let Some(names) = bytes.get(16..48) else { return };
    let number = |at: usize| u64::from_le_bytes(names[at..at + 8].try_into().expect("8 bytes"));
    let store = names[..16].try_into().expect("16 bytes");
    let binding = Binding { store, segment: number(16), salt: number(24) };
    let Ok(hints) = Hints::decode(bytes, binding) else { return };
    assert!(hints.entries.is_sorted() && hints.entries.len() * 16 <= bytes.len());
    assert_eq!(Hints::decode(&hints.encode(binding), binding).as_ref(), Ok(&hints));
    let other = Binding { salt: binding.salt ^ 1, ..binding };
    assert!(Hints::decode(bytes, other).is_err(), "the hints of another segment");
}
