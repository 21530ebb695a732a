//! Any bytes as the records of a segment: a walk over them ends, and stays within them; a store
//! whose tail they are opens or is refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oncelog::format::record::{Header, Identity};
use oncelog_fuzz::mend::{Place, RECORDS_START, mend_header, mend_record};
use oncelog_fuzz::run;

const PLACE: Place =
    Place { store: *b"store-uuid-bytes", segment: 3, salt: 7, offset: RECORDS_START as u64 };

enum Sums {
    AsTheyAre,
    Mended,
}

fuzz_target!(|input: &[u8]| {
    let mut segment = input.to_vec();
    walk(&mut segment, Sums::AsTheyAre);
    let good = walk(&mut segment, Sums::Mended);
    // What was mended is found again, record by record.
    assert_eq!(walk(&mut segment, Sums::AsTheyAre), good);
    run::tail(input);
});

/// Visits every place as a scan that looks ahead does, and counts the records that verify.
fn walk(segment: &mut [u8], sums: Sums) -> usize {
    let mend = matches!(sums, Sums::Mended);
    let identity = Identity::new(PLACE.store, PLACE.segment, PLACE.salt);
    let (mut at, mut good) = (0, 0);
    while at < segment.len() {
        let offset = (RECORDS_START + at) as u64;
        let rest = &mut segment[at..];
        let place = Place { offset, ..PLACE };
        let blank = rest.iter().take(34).all(|&byte| byte == 0);
        if mend && !blank {
            mend_header(rest, place);
            if let Ok(header) = Header::decode(rest, identity, offset) {
                mend_record(rest, header.record_bytes(), place);
            }
        }
        let decoded = Header::decode(rest, identity, offset)
            .and_then(|header| header.decode_body(rest).map(|_| header));
        match decoded {
            Ok(header) => {
                assert!(header.record_bytes() <= rest.len());
                good += 1;
                at += header.record_bytes();
            }
            Err(_) => at += 16,
        }
    }
    good
}
