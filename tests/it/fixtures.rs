//! Stores of released formats keep opening: the files in `fixtures/v1/` were written once, and
//! `fixtures/v1.txt` says what is in them, word for word.
//!
//! `ONCELOG_WRITE_FIXTURE=1 cargo test -- the_fixture_is_written` writes both anew, which only a
//! change of the format calls for.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncelog::{Claim, Create, Error, Fingerprint, ManualClock, Scope, Status, Store};
use tempfile::TempDir;

/// What the clock showed when the fixture was written.
const WRITTEN_AT: Duration = Duration::from_secs(1_700_000_000);
/// Responses of a few sizes, enough to fill several segments.
const RESPONSES: usize = 80;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(name)
}

fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/v1/contacts", key }
}

fn fingerprint(key: &str) -> Fingerprint {
    Fingerprint::of(key.as_bytes())
}

fn response(n: usize) -> Vec<u8> {
    format!("response {n}; ").into_bytes().repeat(n * 13 % 500)
}

fn keys() -> Vec<String> {
    let named = ["hung", "given-up", "released", "omitted", "taken-over"];
    let responses = (0..RESPONSES).map(|n| format!("response-{n:02}"));
    named.map(str::to_owned).into_iter().chain(responses).collect()
}

fn open(dir: &Path) -> Result<Store, Error> {
    let clock = ManualClock::at(UNIX_EPOCH + WRITTEN_AT);
    Store::options().create(Create::Never).clock(clock).open(dir)
}

fn copy_files(from: &Path, to: &Path) {
    for entry in from.read_dir().unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "LOCK" {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn copy_of_v1() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_files(&folder("v1"), dir.path());
    dir
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// One line a key: all that a store tells of it.
fn describe(store: &Store) -> String {
    let mut text = String::new();
    for key in keys() {
        write!(text, "{key}: ").unwrap();
        match store.lookup(scope(&key)).unwrap() {
            None => writeln!(text, "free").unwrap(),
            Some(Status::Completed(stored)) => writeln!(
                text,
                "completed {} attempt {} token {} at {} until {} {:?} {}",
                stored.operation(),
                stored.attempt(),
                stored.token(),
                seconds(stored.completed_at()),
                seconds(stored.expires_at()),
                stored.kept(),
                stored.bytes().map_or("-".to_owned(), |bytes| Fingerprint::of(bytes).to_string()),
            )
            .unwrap(),
            Some(Status::Orphaned(info)) => writeln!(
                text,
                "orphaned {} attempt {} token {} since {} {:?} {}",
                info.operation(),
                info.attempt(),
                info.token(),
                seconds(info.claimed_at()),
                info.cause(),
                info.checkpoint().map_or("-", |bytes| std::str::from_utf8(bytes).unwrap()),
            )
            .unwrap(),
            Some(Status::InProgress(_)) => panic!("nothing runs in a store that was just opened"),
        }
    }
    text
}

fn described_v1() -> String {
    fs::read_to_string(folder("v1.txt")).unwrap()
}

#[test]
fn the_stored_store_opens_and_holds_what_was_put_into_it() {
    let dir = copy_of_v1();
    let store = open(dir.path()).unwrap();
    assert_eq!(describe(&store), described_v1());
    let recovery = store.recovery();
    assert!(recovery.clean && recovery.hints_rebuilt == 0, "{recovery:?}");
    assert!(recovery.segments > 3 && recovery.segments_scanned == 1, "{recovery:?}");
    for n in 0..RESPONSES {
        let key = format!("response-{n:02}");
        let claim = store.claim(scope(&key), fingerprint(&key)).unwrap();
        let Claim::Replay(stored) = claim else { panic!("{key}: {claim:?}") };
        assert_eq!(stored.bytes(), Some(&*response(n)), "{key}");
        let other = store.claim(scope(&key), fingerprint("other")).unwrap();
        assert!(matches!(other, Claim::Conflict(_)), "{key}: {other:?}");
    }
}

#[test]
fn without_its_hint_files_the_stored_store_holds_the_same() {
    let dir = copy_of_v1();
    let mut removed = 0;
    for entry in dir.path().read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "idx") {
            remove(&path);
            removed += 1;
        }
    }
    let store = open(dir.path()).unwrap();
    assert_eq!(describe(&store), described_v1());
    assert!(removed > 2 && store.recovery().hints_rebuilt == removed, "{:?}", store.recovery());
}

#[test]
fn orphans_of_the_stored_store_are_resolved_under_their_operation() {
    let dir = copy_of_v1();
    let store = open(dir.path()).unwrap();
    let before: Vec<_> = store.unresolved().unwrap().iter().map(|info| info.operation()).collect();
    assert_eq!(before.len(), 2);
    let orphan = store.orphan(scope("hung")).unwrap().unwrap();
    let (operation, token) = (orphan.info().operation(), orphan.info().token());
    assert!(before.contains(&operation));
    let Claim::Granted(permit) = orphan.take_over().unwrap() else { panic!("not granted") };
    assert_eq!((permit.operation(), permit.attempt()), (operation, 2));
    assert_eq!(permit.checkpoint(), Some(&b"step 2 of 3"[..]));
    assert!(permit.token() > token);
    permit.complete(b"done").unwrap();
}

#[test]
fn the_fixture_is_written_when_asked_for() {
    if std::env::var_os("ONCELOG_WRITE_FIXTURE").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    // The next open writes the hint files that the close cut off.
    open(dir.path()).unwrap().close().unwrap();
    let folder = folder("v1");
    fs::remove_dir_all(&folder).ok();
    fs::DirBuilder::new().recursive(true).create(&folder).unwrap();
    let store = open(dir.path()).unwrap();
    let text = describe(&store);
    store.close().unwrap();
    copy_files(dir.path(), &folder);
    write_text(&folder.with_extension("txt"), &text);
}

fn fill(dir: &Path) {
    let clock = ManualClock::at(UNIX_EPOCH + WRITTEN_AT);
    let store = Store::options().clock(clock.clone()).segment_bytes(64 * 1024).open(dir).unwrap();
    let claim = |key: &str| match store.claim(scope(key), fingerprint(key)).unwrap() {
        Claim::Granted(permit) => permit,
        claim => panic!("{key}: {claim:?}"),
    };
    let hung = claim("hung");
    hung.save_checkpoint(b"step 1 of 3").unwrap();
    hung.save_checkpoint(b"step 2 of 3").unwrap();
    claim("given-up").give_up().unwrap();
    claim("released").release().unwrap();
    claim("omitted").complete_without_response().unwrap();
    claim("taken-over").give_up().unwrap();
    let orphan = store.orphan(scope("taken-over")).unwrap().unwrap();
    let Claim::Granted(permit) = orphan.take_over().unwrap() else { panic!("not granted") };
    permit.complete(b"at the second attempt").unwrap();
    for n in 0..RESPONSES {
        claim(&format!("response-{n:02}")).complete(&response(n)).unwrap();
    }
    // Not dropped: its claim is open when the store is closed.
    store.clone().close().unwrap();
    drop(hung);
}

#[expect(clippy::disallowed_methods, reason = "a test damages a store from outside")]
fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a test writes its own fixture")]
fn write_text(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}
