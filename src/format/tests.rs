//! Golden bytes of every record and file, and what must be refused. A change of any literal here
//! is a change of the format.

use crate::format::checkpoint::{self, Checkpoint};
use crate::format::hint::{Binding, Hint, Hints};
use crate::format::record::{
    Body, Carried, Claim, Complete, Draft, Ended, Freed, Header, Identity, Record, Stamp,
};
use crate::format::segment::SegmentHeader;
use crate::format::summary::Summary;
use crate::format::superblock::{self, Superblock};
use crate::format::{DecodeError, Put};
use crate::location::Lsn;
use crate::scope::{Fingerprint, OperationId, Scope, Token};

const STORE: [u8; 16] = *b"store-uuid-bytes";
const SEGMENT: u64 = 3;
const SALT: u64 = 0x1122_3344_5566_7788;
const OFFSET: u64 = 8192;
const TIME_MS: u64 = 1_700_000_000_000;
const TTL_MS: u64 = 30 * 24 * 3_600_000;
/// The sixth record of the second open.
const LSN: u64 = 2 << 40 | 5;
const SCOPE: Scope<'_> =
    Scope { organization: "acme", method: "POST", path: "/v1/contacts", key: "import-1" };
const SUMMARY: Summary = Summary {
    records: 9,
    completes: 4,
    forgets: 1,
    first_lsn: 2 << 40,
    last_lsn: LSN,
    time_ms_min: TIME_MS - 1_000,
    time_ms_max: TIME_MS,
    expires_ms_max: TIME_MS + TTL_MS,
};

fn identity() -> Identity {
    Identity::new(STORE, SEGMENT, SALT)
}

fn operation() -> OperationId {
    OperationId::from_bytes(*b"operation-bytes!")
}

fn fingerprint() -> Fingerprint {
    Fingerprint::from_bytes(*b"fingerprint-of-1")
}

fn token() -> Token {
    Token::new(LSN)
}

fn first_claim(scope: &[u8]) -> Claim<'_> {
    Claim { operation: operation(), fingerprint: fingerprint(), scope, carried: None }
}

fn carried_claim(scope: &[u8]) -> Claim<'_> {
    let carried = Carried {
        token: Token::new(2 << 40 | 1),
        claimed_ms: TIME_MS - 9,
        attempted_ms: TIME_MS - 4,
        ended: Ended::Failed,
        cause: Ended::Crash,
        checkpoint: Some(b"step 2"),
    };
    Claim { carried: Some(carried), ..first_claim(scope) }
}

fn complete<'a>(scope: &'a [u8], response: &'a [u8]) -> Complete<'a> {
    Complete {
        token: token(),
        expires_ms: TIME_MS + TTL_MS,
        ran_ms: 250,
        operation: operation(),
        fingerprint: fingerprint(),
        scope,
        resolved: false,
        body: Body::Whole,
        response,
    }
}

/// The record as it stands at `OFFSET`; the newest durable record was the one three before.
fn write(draft: &Draft<'_>) -> Vec<u8> {
    let durable = Lsn(LSN - 3);
    let stamp =
        Stamp { identity: identity(), offset: OFFSET, lsn: Lsn(LSN), durable, time_ms: TIME_MS };
    let mut bytes = Vec::new();
    draft.write(&stamp, &mut bytes);
    bytes
}

fn read(bytes: &[u8]) -> Result<(Header, Record<'_>), DecodeError> {
    let header = Header::decode(bytes, identity(), OFFSET)?;
    Ok((header, header.decode_body(bytes)?))
}

/// Computes both checksums of a record made by hand, from the words of DESIGN.md alone.
fn sign(record: &mut [u8]) {
    let body = crc32fast::hash(&record[34..]).to_le_bytes();
    record[4..8].copy_from_slice(&body);
    let mut place = STORE.to_vec();
    place.extend(SEGMENT.to_le_bytes());
    place.extend(SALT.to_le_bytes());
    let mixed = (xxhash_rust::xxh3::xxh3_64(&place) ^ OFFSET).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut hasher = crc32fast::Hasher::new_with_initial(u32::try_from(mixed >> 32).unwrap());
    hasher.update(&record[4..34]);
    record[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// A record that no draft makes: kind, scope and value lengths, then the body.
fn by_hand(kind: u8, scope_bytes: u16, value_bytes: u32, body: &[u8]) -> Vec<u8> {
    let mut record = vec![0; (34 + body.len()).next_multiple_of(16)];
    Put::new(&mut record[8..]).u8(kind).u8(0).u16(scope_bytes).u24(value_bytes).u24(3).u16(0);
    Put::new(&mut record[20..]).u48(TIME_MS).u64(LSN).bytes(body);
    sign(&mut record);
    record
}

fn forget() -> Vec<u8> {
    let mut body = [0; 24];
    Put::new(&mut body).u64(0x0102_0304_0506_0708).u64(2).u64(8320);
    by_hand(5, 0, 0, &body)
}

/// One record of every kind.
fn records() -> Vec<(&'static str, Vec<u8>)> {
    let scope = SCOPE.encode();
    let claim = Draft::claim(&first_claim(&scope), 1, &[]);
    let carried = Draft::claim(&carried_claim(&scope), 2, &[b"step 2"]);
    let complete = Draft::complete(&complete(&scope, b""), 1, &[b"201 ", b"created"]);
    vec![
        ("CLAIM", write(&claim)),
        ("CLAIM, carried", write(&carried)),
        ("PROGRESS", write(&Draft::progress(token(), Ended::No, 1, &[b"step 2"]))),
        ("COMPLETE", write(&complete)),
        ("RELEASE", write(&Draft::release(token(), Freed::Expired, 1))),
        ("FORGET", forget()),
        ("ERASED", by_hand(6, 0, 14, &[0; 14])),
        ("SEAL", write(&Draft::seal(&SUMMARY))),
        ("CLEAN", write(&Draft::clean(&SUMMARY))),
        ("PROMISE", write(&Draft::promise())),
    ]
}

/// Sections of a name and its `dump`, parted by blank lines.
const GOLDEN: &str = include_str!("golden.txt");

/// Sixteen bytes a line, each line with its offset.
fn dump(bytes: &[u8]) -> String {
    let line = |(at, bytes): (usize, &[u8])| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}", at * 16, hex.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn assert_golden(name: &str, bytes: &[u8]) {
    let section = format!(
        "{name}
{}",
        dump(bytes)
    );
    let stored = GOLDEN
        .split(
            "

",
        )
        .any(|stored| stored.trim_end() == section);
    assert!(
        stored,
        "{name} is not the golden one but
{section}"
    );
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[test]
fn every_kind_of_record_has_its_golden_bytes() {
    for (name, bytes) in records() {
        assert_golden(name, &bytes);
    }
}

#[test]
fn who_ended_an_orphan_is_in_the_record() {
    let scope = SCOPE.encode();
    for body in [Body::Whole, Body::Omitted, Body::TooLarge, Body::NoRoom] {
        let by = |resolved| Complete { body, resolved, ..complete(&scope, b"") };
        for resolved in [false, true] {
            let written = write(&Draft::complete(&by(resolved), 1, &[]));
            assert_eq!(read(&written).unwrap().1, Record::Complete(by(resolved)));
        }
    }
    for freed in [Freed::NoEffect, Freed::Expired, Freed::Resolved] {
        let written = write(&Draft::release(token(), freed, 1));
        assert_eq!(read(&written).unwrap().1, Record::Release { token: token(), freed });
    }
}

#[test]
fn every_record_decodes_to_what_was_encoded() {
    let scope = SCOPE.encode();
    let expected = [
        Record::Claim(first_claim(&scope)),
        Record::Claim(carried_claim(&scope)),
        Record::Progress { token: token(), ended: Ended::No, checkpoint: Some(b"step 2") },
        Record::Complete(complete(&scope, b"201 created")),
        Record::Release { token: token(), freed: Freed::Expired },
        Record::Forget { hash: 0x0102_0304_0506_0708, segment: 2, offset: 8320 },
        Record::Erased,
        Record::Seal(SUMMARY),
        Record::Clean(SUMMARY),
        Record::Promise,
    ];
    let records = records();
    assert_eq!(records.len(), expected.len());
    for ((name, bytes), expected) in records.iter().zip(expected) {
        let (header, record) = read(bytes).unwrap();
        assert_eq!(record, expected, "{name}");
        assert_eq!(header.record_bytes(), bytes.len(), "{name}");
        assert_eq!((header.lsn, header.time_ms), (Lsn(LSN), TIME_MS), "{name}");
        assert_eq!(header.promise(), Lsn(LSN - 3), "{name}");
    }
}

#[test]
fn a_response_is_where_its_header_says() {
    let scope = SCOPE.encode();
    let bytes = write(&Draft::complete(&complete(&scope, b""), 1, &[b"201 created"]));
    let header = Header::decode(&bytes, identity(), OFFSET).unwrap();
    assert_eq!(&bytes[header.value_range()], b"201 created");
}

#[test]
fn an_absent_checkpoint_is_not_an_empty_one() {
    for (value, expected) in [(&[][..], None), (&[&b""[..]][..], Some(&b""[..]))] {
        let bytes = write(&Draft::progress(token(), Ended::No, 1, value));
        let (_, record) = read(&bytes).unwrap();
        assert!(matches!(record, Record::Progress { checkpoint, .. } if checkpoint == expected));
    }
}

#[test]
fn a_promise_beyond_24_bits_is_none() {
    let durable = Lsn(LSN.wrapping_sub(1 << 24));
    let stamp =
        Stamp { identity: identity(), offset: OFFSET, lsn: Lsn(LSN), durable, time_ms: TIME_MS };
    let mut bytes = Vec::new();
    Draft::promise().write(&stamp, &mut bytes);
    assert_eq!(read(&bytes).unwrap().0.promise(), Lsn::ZERO);
}

#[test]
fn the_worked_examples_of_the_design_are_the_golden_records() {
    let design = include_str!("../../DESIGN.md");
    for (name, bytes) in records() {
        if ["CLAIM", "COMPLETE"].contains(&name) {
            assert!(design.contains(&dump(&bytes)), "{name}");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_record_is_refused() {
    for (name, mut bytes) in records() {
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "{name}, bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(read(&bytes).is_ok(), "{name}");
    }
}

#[test]
fn a_record_in_another_place_is_refused() {
    let elsewhere = [
        (identity(), OFFSET + 16),
        (Identity::new(STORE, SEGMENT, SALT + 1), OFFSET),
        (Identity::new(STORE, SEGMENT + 1, SALT), OFFSET),
        (Identity::new(*b"store-uuid-other", SEGMENT, SALT), OFFSET),
    ];
    for (name, bytes) in records() {
        for (identity, offset) in elsewhere {
            let refused = Header::decode(&bytes, identity, offset);
            assert!(matches!(refused, Err(DecodeError::Damaged(_))), "{name} at {offset}");
        }
    }
}

#[test]
fn a_record_cut_anywhere_is_refused() {
    for (name, bytes) in records() {
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "{name} cut to {len}");
        }
    }
}

#[test]
fn sound_checksums_do_not_make_impossible_fields_sound() {
    let cases = [
        ("kind 0", by_hand(0, 0, 0, &[])),
        ("kind 10", by_hand(10, 0, 0, &[])),
        ("a scope beyond the bound", by_hand(9, 4103, 0, &[])),
        ("a scope beyond the buffer", by_hand(9, 4102, 0, &[])),
        ("a value beyond the buffer", by_hand(3, 0, (1 << 24) - 1, &[])),
        ("an unknown end", by_hand(2, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 5, 0])),
        ("an unknown reason", by_hand(4, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 3])),
    ];
    for (name, bytes) in cases {
        assert!(matches!(read(&bytes), Err(DecodeError::Damaged(_))), "{name}");
    }
}

#[test]
fn zeros_are_blank_and_not_damaged() {
    assert_eq!(read(&[0; 64]), Err(DecodeError::Blank));
    assert_eq!(SegmentHeader::decode(&[0; 8192]), Err(DecodeError::Blank));
}

#[test]
fn a_claim_and_its_completion_take_at_most_1_4_times_what_is_put_in() {
    let key = "k".repeat(100 - "acmePOST/v1/contacts".len());
    let scope = Scope { key: &key, ..SCOPE }.encode();
    let claim = write(&Draft::claim(&first_claim(&scope), 1, &[]));
    let complete = write(&Draft::complete(&complete(&scope, b""), 1, &[&[b'r'; 530]]));
    let appended = claim.len() + complete.len();
    let put_in = 100 + 16 + 530;
    assert_eq!((claim.len(), complete.len()), (176, 720));
    assert!(appended * 100 <= put_in * 140, "{appended} bytes for {put_in}");
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        store: STORE,
        segment: SEGMENT,
        salt: SALT,
        first_lsn: Lsn(LSN),
        previous_last_lsn: Lsn(LSN - 1),
        created_ms: TIME_MS,
        segment_bytes: 64 << 20,
    }
}

#[test]
fn a_segment_header_has_its_golden_bytes_in_two_copies() {
    let bytes = segment_header().encode();
    assert_golden("segment header", &bytes[..80]);
    assert!(is_blank(&bytes[80..4096]) && bytes[..4096] == bytes[4096..]);
    for damaged in [0, 16, 40, 79] {
        let mut bytes = bytes.clone();
        bytes[damaged] ^= 1;
        assert_eq!(SegmentHeader::decode(&bytes), Ok(segment_header()), "first copy");
        bytes[4096 + damaged] ^= 1;
        assert!(matches!(SegmentHeader::decode(&bytes), Err(DecodeError::Damaged(_))));
    }
}

fn superblock() -> Superblock {
    Superblock { store: STORE, hash_key: *b"secret-hash-key!", segment_bytes: 64 << 20 }
}

#[test]
fn super_has_its_golden_bytes_in_two_copies() {
    let bytes = superblock().encode();
    assert_eq!(bytes.len(), superblock::FILE_BYTES);
    assert_golden("SUPER", &bytes[..64]);
    assert!(is_blank(&bytes[64..4096]) && bytes[..4096] == bytes[4096..]);
    for damaged in [0, 16, 48] {
        let mut bytes = bytes.clone();
        bytes[damaged] ^= 1;
        assert_eq!(Superblock::decode(&bytes), Ok(superblock()), "first copy");
        bytes[4096 + damaged] ^= 1;
        assert!(matches!(Superblock::decode(&bytes), Err(DecodeError::Damaged(_))));
    }
}

#[test]
fn another_format_version_is_told_apart_from_damage() {
    type Decode = fn(&[u8]) -> Option<DecodeError>;
    let files: [(Vec<u8>, Decode); 2] = [
        (segment_header().encode(), |bytes| SegmentHeader::decode(bytes).err()),
        (superblock().encode(), |bytes| Superblock::decode(bytes).err()),
    ];
    for (sound, decode) in files {
        for at in [8, 4096 + 8] {
            let mut bytes = sound.clone();
            bytes[at] = 2;
            assert_eq!(decode(&bytes), None, "both copies are written as one");
        }
        let mut bytes = sound.clone();
        (bytes[8], bytes[4096 + 8]) = (2, 2);
        assert_eq!(decode(&bytes), Some(DecodeError::Version(2)));
        // Whichever of them is damaged besides, the other is believed.
        for damaged in [16, 4096 + 16] {
            let mut bytes = bytes.clone();
            bytes[damaged] ^= 1;
            assert_eq!(decode(&bytes), Some(DecodeError::Version(2)));
        }
    }
}

#[test]
fn a_time_that_no_record_can_hold_is_damage() {
    let beyond = 1 << 48;
    let header = SegmentHeader { created_ms: beyond, ..segment_header() };
    let damaged = SegmentHeader::decode(&header.encode());
    assert!(matches!(damaged, Err(DecodeError::Damaged(_))), "{damaged:?}");
    let slot = Checkpoint { time_ms: beyond, ..slot(6) }.encode(STORE);
    let damaged = Checkpoint::decode(&slot.repeat(2), STORE);
    assert!(matches!(damaged, Err(DecodeError::Damaged(_))), "{damaged:?}");
    for sound in [beyond - 1, 0] {
        let header = SegmentHeader { created_ms: sound, ..segment_header() };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
}

fn slot(generation: u64) -> Checkpoint {
    Checkpoint {
        generation,
        oldest: 1,
        sealed: 2,
        tail: SEGMENT,
        durable_lsn: Lsn(LSN),
        epoch: 2,
        time_ms: TIME_MS,
    }
}

#[test]
fn a_checkpoint_slot_has_its_golden_bytes() {
    let bytes = slot(6).encode(STORE);
    assert_eq!(bytes.len(), checkpoint::SLOT_BYTES);
    assert_golden("CHECKPOINT slot", &bytes[..80]);
    assert!(is_blank(&bytes[80..]));
    assert_eq!((slot(6).slot_offset(), slot(7).slot_offset()), (0, 4096));
}

#[test]
fn the_newer_checkpoint_slot_that_verifies_counts() {
    let file =
        |first: u64, second: u64| [slot(first).encode(STORE), slot(second).encode(STORE)].concat();
    assert_eq!(Checkpoint::decode(&file(6, 7), STORE), Ok(slot(7)));
    assert_eq!(Checkpoint::decode(&file(8, 7), STORE), Ok(slot(8)));
    let mut torn = file(8, 7);
    torn[60] ^= 1;
    assert_eq!(Checkpoint::decode(&torn, STORE), Ok(slot(7)));
    torn[4096 + 60] ^= 1;
    assert!(matches!(Checkpoint::decode(&torn, STORE), Err(DecodeError::Damaged(_))));
    let other = *b"store-uuid-other";
    assert!(matches!(Checkpoint::decode(&file(6, 7), other), Err(DecodeError::Damaged(_))));
}

const BINDING: Binding = Binding { store: STORE, segment: SEGMENT, salt: SALT };

fn hints() -> Hints {
    let complete = Hint { hash: 0x1111_2222_3333_4444, granule: 512, forget: false };
    let forget = Hint { hash: 0x5555_6666_7777_8888, granule: 523, forget: true };
    let entries = vec![complete, forget];
    Hints { seal_lsn: Lsn(LSN + 1), seal_offset: 8400, summary: SUMMARY, entries }
}

#[test]
fn a_hint_file_has_its_golden_bytes() {
    let bytes = hints().encode(BINDING);
    assert_eq!(bytes.len(), 8192);
    assert_golden("hint header", &bytes[..128]);
    assert_golden("hint entries", &bytes[4096..4128]);
    assert_golden("hint footer", &bytes[8176..]);
    assert!(is_blank(&bytes[128..4096]) && is_blank(&bytes[4128..8176]));
    assert_eq!(Hints::decode(&bytes, BINDING), Ok(hints()));
}

#[test]
fn hints_of_more_than_one_block_decode_to_what_was_encoded() {
    let entry = |hash| Hint { hash, granule: 512, forget: false };
    for count in [0, 1, 255, 256, 510, 511] {
        let hints = Hints { entries: (0..count).map(entry).collect(), ..hints() };
        assert_eq!(Hints::decode(&hints.encode(BINDING), BINDING), Ok(hints), "{count} entries");
    }
}

#[test]
fn hints_of_another_segment_or_with_a_flipped_bit_are_refused() {
    let mut bytes = hints().encode(BINDING);
    for other in [
        Binding { segment: SEGMENT + 1, ..BINDING },
        Binding { salt: SALT + 1, ..BINDING },
        Binding { store: *b"store-uuid-other", ..BINDING },
    ] {
        assert!(Hints::decode(&bytes, other).is_err());
    }
    // Zeros behind the header's fields say nothing, and are not checked.
    for at in (0..118).chain(4096..8192) {
        bytes[at] ^= 0x10;
        assert!(Hints::decode(&bytes, BINDING).is_err(), "byte {at}");
        bytes[at] ^= 0x10;
    }
}

#[test]
fn a_count_of_hints_beyond_the_file_is_refused_before_it_sizes_anything() {
    for count in [256, u64::MAX, u64::MAX / 4096] {
        let mut bytes = hints().encode(BINDING);
        Put::new(&mut bytes[64..]).u64(count);
        let sum = crc32fast::hash(&bytes[16..118]);
        Put::new(&mut bytes[12..]).u32(sum);
        assert_eq!(
            Hints::decode(&bytes, BINDING),
            Err(DecodeError::Damaged("a hint file of the wrong length")),
            "{count}"
        );
    }
}
