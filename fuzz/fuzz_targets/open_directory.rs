//! A stored store, damaged or forged: it opens or is refused, and never answers wrongly.
//!
//! The input is a list of edits of seven bytes. Damage alone may cost an error, never a wrong
//! response, nor one that is missing. A forged file, with right checksums, may say anything, but
//! never panic.

#![no_main]
#![expect(clippy::disallowed_methods, reason = "a store is damaged from outside")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use oncelog::format::record::{Header, Identity};
use oncelog::{Background, Claim, Fingerprint, ManualClock, Reads, Scope, Status, Store};
use oncelog_fuzz::{Place, mend_file, mend_header, mend_record, place};

type Files = BTreeMap<String, Vec<u8>>;

/// What a scope holds: its response, or that it is an orphan.
type Known = Vec<(String, Option<Vec<u8>>)>;

const EDIT_BYTES: usize = 7;

static STORED: LazyLock<(Files, Known)> = LazyLock::new(|| {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/it/fixtures");
    let mut files = Files::new();
    for entry in Path::new(fixtures).join("v1").read_dir().expect("the fixture is stored") {
        let entry = entry.expect("the fixture can be listed");
        let name = entry.file_name().into_string().expect("names are ASCII");
        files.insert(name, std::fs::read(entry.path()).expect("the fixture can be read"));
    }
    let text = std::fs::read_to_string(Path::new(fixtures).join("v1.txt")).expect("it is stored");
    let keys = text.lines().filter_map(|line| line.split_once(": ")).map(|(key, _)| key.to_owned());
    let (_dir, store) = open(&files);
    let store = store.expect("the fixture opens");
    let known = keys.filter_map(|key| match store.lookup(scope(&key)).expect("it is sound") {
        Some(Status::Completed(stored)) => {
            Some((key, Some(stored.bytes().unwrap_or(b"").to_vec())))
        }
        Some(_) => Some((key, None)),
        None => None,
    });
    let known: Known = known.collect();
    assert!(known.len() > 50 && files.len() > 8);
    (files, known)
});

fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/v1/contacts", key }
}

fn open(files: &Files) -> (tempfile::TempDir, oncelog::Result<Store>) {
    let shared = Path::new("/dev/shm");
    let scratch = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let dir = tempfile::tempdir_in(scratch).expect("a scratch directory");
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).expect("room for the store");
    }
    let clock = ManualClock::at(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    // Positioned reads: a file that is cut under a map would be a signal, not a finding.
    let options = Store::options().clock(clock).background(Background::Inline);
    let store = options.reads(Reads::Positioned).open(dir.path());
    (dir, store)
}

/// What was done to the files.
#[derive(Default)]
struct Done {
    /// Checksums were mended, so that the files say something else.
    forged: bool,
    /// CHECKPOINT was touched: it may have gone back, and with it what is promised.
    checkpoint: bool,
}

fuzz_target!(|input: &[u8]| {
    let (stored, known) = &*STORED;
    let mut files = stored.clone();
    let mut done = Done::default();
    for edit in input.chunks_exact(EDIT_BYTES).take(16) {
        apply(&mut files, edit, &mut done);
    }
    let (dir, opened) = open(&files);
    let Ok(store) = opened else { return };
    for (key, expected) in known {
        check(&store, key, expected.as_deref(), &done);
    }
    exercise(&store);
    let _ = store.expire();
    if store.close().is_ok() {
        // What a closed store left must open again, unless a record in it was damaged before.
        let options = Store::options().background(Background::Inline);
        let _ = options.reads(Reads::Positioned).open(dir.path());
    }
});

/// An edit is: what, which file, where (2 bytes), how (3 bytes).
fn apply(files: &mut Files, edit: &[u8], done: &mut Done) {
    let names: Vec<String> = files.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let name = &names[usize::from(edit[1]) % names.len()];
    done.checkpoint |= name == "CHECKPOINT";
    let bytes = files.get_mut(name).expect("the name was just listed");
    if bytes.is_empty() {
        return;
    }
    let at = usize::from(u16::from_le_bytes([edit[2], edit[3]])) % bytes.len();
    let sector = at / 512 * 512..(at / 512 * 512 + 512).min(bytes.len());
    match edit[0] % 7 {
        0 => bytes[at] ^= edit[4].max(1),
        1 => bytes.truncate(at),
        2 => bytes[sector].fill(0),
        3 => drop(files.remove(name)),
        4 => {
            let from = usize::from(edit[4]) * 512 % bytes.len();
            let from = from..(from + sector.len()).min(bytes.len());
            bytes.copy_within(from, sector.start);
        }
        5 => {
            done.forged = true;
            forge_file(name, bytes, edit);
        }
        _ => {
            done.forged = true;
            forge_record(name, bytes, at, edit);
        }
    }
}

/// Changes a byte of the fields that begin a file, in both copies, and mends the checksums.
fn forge_file(name: &str, bytes: &mut [u8], edit: &[u8]) {
    let field = 16 + usize::from(edit[2]) % 104;
    for start in [0, 4096] {
        if name.ends_with(".idx") && start == 4096 {
            let entry = start + usize::from(edit[2]);
            if let Some(byte) = bytes.get_mut(entry) {
                *byte ^= edit[5];
            }
        } else if let Some(byte) = bytes.get_mut(start + field) {
            *byte ^= edit[4];
        }
    }
    mend_file(name, bytes, STORED.0["SUPER"][16..32].try_into().expect("16 bytes"));
}

/// Changes a byte of the record that is the last to begin at or before `at`, and mends it.
fn forge_record(name: &str, bytes: &mut [u8], at: usize, edit: &[u8]) {
    if !name.ends_with(".seg") || bytes.len() < 8192 + 34 {
        return;
    }
    let whole = place(bytes, 0);
    let identity = Identity::new(whole.store, whole.segment, whole.salt);
    let decode = |bytes: &[u8], offset: usize| {
        let rest = bytes.get(offset..).unwrap_or_default();
        let header = Header::decode(rest, identity, offset as u64).ok()?;
        Some((offset, header.record_bytes()))
    };
    let mut found = None;
    let mut offset = 8192;
    while offset <= at.max(8192)
        && let Some(record) = decode(bytes, offset)
    {
        found = Some(record);
        offset += record.1;
    }
    let Some((offset, len)) = found else { return };
    let rest = &mut bytes[offset..];
    let field =
        4 + usize::from(u16::from_le_bytes([edit[4], edit[5]])) % len.saturating_sub(4).min(120);
    if let Some(byte) = rest.get_mut(field) {
        *byte ^= edit[6].max(1);
    }
    let place = Place { offset: offset as u64, ..whole };
    mend_header(rest, place);
    if let Ok(header) = Header::decode(rest, identity, offset as u64) {
        mend_record(rest, header.record_bytes(), place);
    }
}

fn check(store: &Store, key: &str, expected: Option<&[u8]>, done: &Done) {
    let Ok(status) = store.lookup(scope(key)) else { return };
    if done.forged {
        return;
    }
    match (status, expected) {
        (Some(Status::Completed(stored)), Some(expected)) => {
            assert_eq!(stored.bytes().unwrap_or(b""), expected, "{key}");
        }
        (Some(Status::Completed(_)), None) => panic!("{key} never completed"),
        (Some(Status::InProgress(_)), _) => panic!("{key} does not run"),
        (Some(Status::Orphaned(_)), None) => {}
        (Some(Status::Orphaned(_)) | None, _) => assert!(done.checkpoint, "{key} is lost"),
    }
}

/// Uses what was opened: every answer will do.
fn exercise(store: &Store) {
    for info in store.unresolved().unwrap_or_default() {
        let _ = format!("{info:?} {} {}", info.organization(), info.key());
        let scope = Scope {
            organization: info.organization(),
            method: info.method(),
            path: info.path(),
            key: info.key(),
        };
        if let Ok(Some(orphan)) = store.orphan(scope)
            && let Ok(Claim::Granted(permit)) = orphan.take_over()
        {
            let _ = permit.save_checkpoint(b"again");
            let _ = permit.complete(b"resolved");
        }
    }
    for key in ["response-01", "response-79", "new"] {
        if let Ok(Claim::Granted(permit)) = store.claim(scope(key), Fingerprint::of(b"body")) {
            let _ = permit.complete(b"ran");
        }
    }
}
