//! Any bytes, with wrong and with right checksums, as one record: a record or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oncelog::format::record::{Header, Identity};
use oncelog_fuzz::mend::{Place, mend_header, mend_record, record_bytes};

const PLACE: Place = Place { store: *b"store-uuid-bytes", segment: 3, salt: 7, offset: 8192 };

fuzz_target!(|input: &[u8]| {
    decode(input);
    let mut bytes = input.to_vec();
    mend_header(&mut bytes, PLACE);
    if let Some(header) = decode(&bytes) {
        assert_eq!(header.record_bytes(), record_bytes(&bytes), "DESIGN.md says another length");
        mend_record(&mut bytes, header.record_bytes(), PLACE);
        decode(&bytes);
    }
});

fn decode(bytes: &[u8]) -> Option<Header> {
    let identity = Identity::new(PLACE.store, PLACE.segment, PLACE.salt);
    let header = Header::decode(bytes, identity, PLACE.offset).ok()?;
    assert!(header.record_bytes() >= 48 && header.record_bytes() % 16 == 0);
    if header.decode_body(bytes).is_ok() {
        assert!(header.record_bytes() <= bytes.len());
        let elsewhere = Header::decode(bytes, identity, PLACE.offset + 16);
        assert!(elsewhere.is_err(), "the same bytes verify in another place");
    }
    Some(header)
}
