//! A stored store, damaged or forged: it opens or is refused, and never answers wrongly.
//!
//! The input is a list of edits of seven bytes. Damage alone may cost an error, never a wrong
//! response, nor one that is missing. A forged file, with right checksums, may say anything, but
//! never panic.

#![no_main]
#![expect(clippy::disallowed_methods, reason = "a store is damaged from outside")]

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use oncelog::{Background, Claim, Fingerprint, ManualClock, Reads, Scope, Status, Store};
use oncelog_fuzz::edit::{Done, EDIT_BYTES, Files, apply};

/// What a scope holds: its response, or that it is an orphan.
type Known = Vec<(String, Option<Vec<u8>>)>;

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
