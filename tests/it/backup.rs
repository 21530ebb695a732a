//! What a backup holds, what it may cost the store, and what is left where it fails.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use oncelog::{
    Background, Create, Durability, Error, ManualClock, Options, OrphanCause, Phase, Status, Store,
};

use crate::contract::support::{
    BUCKET, GateDisk, SEGMENT_BYTES, TTL, World, body, claim, granted, kind, orphaned, replay, run,
    scope, start,
};
use crate::support::disk::{SimDisk, Survival};
use crate::support::intercept::{Intercept, Intercepted, Target};

fn options() -> Options {
    Store::options().segment_bytes(SEGMENT_BYTES).clock(ManualClock::at(start()))
}

fn open_copy(dir: &Path) -> Store {
    let store = options().create(Create::Never).open(dir).expect("a backup opens as a store");
    let found = store.verify().unwrap();
    assert!(found.is_clean(), "{:?}", found.damage);
    store
}

fn response(writer: u64, number: u64) -> Vec<u8> {
    format!("{writer}:{number};").into_bytes().repeat(120)
}

/// Sealed segments, a tail, one open claim.
fn filled(store: &Store) {
    for number in 0..200 {
        run(store, &format!("key-{number}"), &response(0, number));
    }
    granted(claim(store, "open")).save_checkpoint(b"half way").unwrap();
    assert!(store.stats().segments >= 3, "{:?}", store.stats());
}

fn assert_filled(store: &Store) {
    for number in 0..200 {
        let stored = replay(claim(store, &format!("key-{number}")));
        assert_eq!(stored.bytes(), Some(&response(0, number)[..]));
    }
    let orphan = orphaned(claim(store, "open"));
    assert_eq!(orphan.info().checkpoint(), Some(&b"half way"[..]));
}

/// Four threads write, at least so much before the backup and after it.
fn back_up_under_load(durability: Durability) {
    const WRITERS: u64 = 4;
    const ENOUGH: u64 = 100;
    let scratch = tempfile::tempdir().unwrap();
    let (main, copy) = (scratch.path().join("main"), scratch.path().join("copy"));
    let store = options().durability(durability).open(&main).unwrap();
    let acknowledged: [AtomicU64; WRITERS as usize] = Default::default();
    let goal = AtomicU64::new(u64::MAX);
    let at_least = |wanted: u64| {
        while acknowledged.iter().any(|count| count.load(Ordering::SeqCst) < wanted) {
            std::thread::yield_now();
        }
    };
    let (before, backup) = std::thread::scope(|threads| {
        for (writer, count) in (0..).zip(&acknowledged) {
            let (store, goal) = (store.clone(), &goal);
            threads.spawn(move || {
                for number in 0.. {
                    if number >= goal.load(Ordering::SeqCst) {
                        break;
                    }
                    run(&store, &format!("{writer}-{number}"), &response(writer, number));
                    count.store(number + 1, Ordering::SeqCst);
                }
            });
        }
        at_least(ENOUGH);
        let before = [0, 1, 2, 3].map(|n: usize| acknowledged[n].load(Ordering::SeqCst));
        let backup = store.backup(&copy);
        let after = acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).max();
        goal.store(after.unwrap() + ENOUGH, Ordering::SeqCst);
        (before, backup)
    });
    let backup = backup.unwrap();
    assert_eq!((backup.linked, backup.copied), (backup.segments - 1, 1));
    let restored = open_copy(&copy);
    let mut later = 0;
    for (writer, before) in (0..).zip(before) {
        let all = acknowledged[writer as usize].load(Ordering::SeqCst);
        let mut ended = false;
        for number in 0..all {
            let key = format!("{writer}-{number}");
            match restored.lookup(scope(&key)).unwrap() {
                Some(Status::Completed(stored)) => {
                    assert!(!ended, "{key} is there, and one before it is not");
                    assert_eq!(stored.bytes(), Some(&response(writer, number)[..]));
                    assert!(stored.token() <= backup.upto.unwrap());
                }
                // Each writer has at most one claim open.
                other => {
                    assert!(number >= before, "{key} was acknowledged before: {other:?}");
                    let orphan = matches!(other, Some(Status::Orphaned(_)));
                    assert!(other.is_none() || orphan && !ended, "{key}: {other:?}");
                    ended = true;
                    later += 1;
                }
            }
        }
    }
    assert!(later > 0, "nothing was written while the backup was made");
    assert_eq!(restored.stats().orphans, backup.open_claims);
    // Both go on, each by itself.
    run(&restored, "only in the copy", b"1");
    run(&store, "only in the main store", b"2");
    assert_eq!(kind(&store, "only in the copy"), "free");
    assert_eq!(kind(&restored, "only in the main store"), "free");
    assert!(store.verify().unwrap().is_clean());
}

#[test]
fn a_backup_under_load_holds_all_that_was_acknowledged_before_it_when_synced() {
    back_up_under_load(Durability::Synced);
}

#[test]
fn a_backup_under_load_holds_all_that_was_acknowledged_before_it_when_buffered() {
    back_up_under_load(Durability::Buffered { sync_every: Duration::from_millis(20) });
}

#[test]
fn claims_that_are_open_are_orphans_in_the_backup_and_go_on_in_the_store() {
    let scratch = tempfile::tempdir().unwrap();
    let store = options().open(scratch.path().join("main")).unwrap();
    run(&store, "done", b"201 created");
    let permit = granted(claim(&store, "running"));
    permit.save_checkpoint(b"half way").unwrap();
    let copy = scratch.path().join("copy");
    let backup = store.backup(&copy).unwrap();
    assert_eq!(backup.open_claims, 1);
    assert!(backup.upto.unwrap() > permit.token());
    let restored = open_copy(&copy);
    let orphan = orphaned(claim(&restored, "running"));
    assert_eq!(orphan.info().cause(), OrphanCause::Crash);
    assert_eq!(orphan.info().operation(), permit.operation());
    assert_eq!(orphan.info().token(), permit.token());
    assert_eq!(orphan.info().checkpoint(), Some(&b"half way"[..]));
    permit.complete(b"201 created").unwrap();
    assert_eq!(kind(&store, "running"), "completed");
    assert_eq!(kind(&restored, "running"), "orphaned");
}

#[test]
fn a_restored_backup_never_repeats_an_operation_id() {
    let scratch = tempfile::tempdir().unwrap();
    let store = options().open(scratch.path().join("main")).unwrap();
    let copy = scratch.path().join("copy");
    store.backup(&copy).unwrap();
    let restored = open_copy(&copy);
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..20 {
        let key = format!("key-{number}");
        for store in [&store, &restored] {
            assert!(seen.insert(granted(claim(store, &key)).operation()), "it came twice");
        }
    }
}

#[test]
fn a_backup_of_a_store_that_holds_nothing_opens_empty() {
    let scratch = tempfile::tempdir().unwrap();
    let store = options().open(scratch.path().join("main")).unwrap();
    let copy = scratch.path().join("copy");
    let backup = store.backup(&copy).unwrap();
    assert_eq!((backup.segments, backup.records, backup.upto), (1, 0, None));
    let restored = open_copy(&copy);
    assert_eq!(granted(claim(&restored, "first")).attempt(), 1);
    // A backup of a backup, and one of a store that was only opened.
    let again = scratch.path().join("again");
    restored.backup(&again).unwrap();
    assert_eq!(kind(&open_copy(&again), "first"), "orphaned");
}

#[test]
fn a_directory_that_holds_anything_is_refused_and_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let store = options().open(scratch.path().join("main")).unwrap();
    run(&store, "k", b"201 created");
    let copy = scratch.path().join("copy");
    store.backup(&copy).unwrap();
    let listing = |dir: &Path| {
        let entries = dir.read_dir().unwrap().map(|entry| entry.unwrap());
        let mut names: Vec<_> =
            entries.map(|entry| (entry.file_name(), entry.metadata().unwrap().ino())).collect();
        names.sort();
        names
    };
    let before = listing(&copy);
    for dir in [&copy, &scratch.path().join("main")] {
        let refused = store.backup(dir);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    assert_eq!(listing(&copy), before);
    assert_eq!(kind(&open_copy(&copy), "k"), "completed");
    // An empty one is as good as none.
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    store.backup(&empty).unwrap();
    assert_eq!(kind(&open_copy(&empty), "k"), "completed");
}

#[test]
fn the_directory_of_a_backup_is_never_seen_empty() {
    use rustix::fs::inotify;
    let scratch = tempfile::tempdir().unwrap();
    let (main, copy) = (scratch.path().join("main"), scratch.path().join("copy"));
    let store = options().open(main).unwrap();
    run(&store, "k", b"201 created");
    // As a crash leaves it, with nothing in it or with the first file.
    fs::create_dir(scratch.path().join("copy.tmp")).unwrap();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let names = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, scratch.path(), names).unwrap();
    store.backup(scratch.path().join("copy/")).unwrap();
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    let event = events.next().unwrap();
    let moved = event.events().contains(inotify::ReadFlags::MOVED_TO);
    assert!(moved && event.file_name() == Some(c"copy"), "{event:?}");
    assert!(events.next().is_err(), "more than one name appeared");
    assert_eq!(kind(&open_copy(&copy), "k"), "completed");
}

#[test]
fn what_a_backup_leaves_that_ends_at_once_is_refused_by_an_open_and_taken_by_another_backup() {
    let scratch = tempfile::tempdir().unwrap();
    let store = options().open(scratch.path().join("main")).unwrap();
    run(&store, "k", b"201 created");
    let copy = scratch.path().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("CHECKPOINT"), [0; 8192]).unwrap();
    let opened = options().open(&copy);
    assert!(matches!(opened, Err(Error::Corrupt { segment: 0, .. })), "{opened:?}");
    store.backup(&copy).unwrap();
    assert_eq!(kind(&open_copy(&copy), "k"), "completed");
    // A draft that holds anything else is somebody's.
    let theirs = scratch.path().join("other.tmp").join("theirs");
    fs::create_dir(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, b"1").unwrap();
    let refused = store.backup(scratch.path().join("other"));
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    assert!(theirs.exists() && !scratch.path().join("other").exists());
}

#[test]
fn a_backup_is_readable_by_its_owner_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let store = options().open(scratch.path().join("main")).unwrap();
    filled(&store);
    let copy = scratch.path().join("copy");
    store.backup(&copy).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&copy), 0o700);
    for entry in copy.read_dir().unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
}

#[test]
fn what_expires_during_a_backup_is_dropped_after_it() {
    let scratch = tempfile::tempdir().unwrap();
    let (main, copy) = (scratch.path().join("main"), scratch.path().join("copy"));
    let clock = ManualClock::at(start());
    let shared: Arc<OnceLock<Store>> = Arc::default();
    let (seen, moved) = (Arc::clone(&shared), clock.clone());
    let expiry: Arc<Mutex<Option<std::thread::JoinHandle<u64>>>> = Arc::default();
    let started = Arc::clone(&expiry);
    let store = options()
        .clock(clock.clone())
        .progress(move |progress| {
            if progress.phase != Phase::Copying || progress.done != 0 {
                return;
            }
            let Some(store) = seen.get().cloned() else { return };
            moved.advance(TTL + 2 * BUCKET);
            let (begins, begun) = channel();
            let (ends, ended) = channel();
            let thread = std::thread::spawn(move || {
                begins.send(()).unwrap();
                let segments = store.expire().unwrap().segments;
                ends.send(()).ok();
                segments
            });
            begun.recv().unwrap();
            let waited = ended.recv_timeout(Duration::from_millis(200));
            assert_eq!(waited, Err(RecvTimeoutError::Timeout), "an expiry did not wait");
            *started.lock().unwrap() = Some(thread);
        })
        .open(&main)
        .unwrap();
    shared.set(store.clone()).ok();
    filled(&store);
    let segments = store.stats().segments;
    let backup = store.backup(&copy).unwrap();
    let thread = expiry.lock().unwrap().take().unwrap();
    assert!(thread.join().unwrap() >= segments, "nothing was dropped");
    assert_eq!(kind(&store, "key-0"), "free");
    assert_eq!(backup.segments, segments + 1, "the backup has every segment, and a tail");
    assert_filled(&open_copy(&copy));
}

#[test]
fn where_files_cannot_be_linked_they_are_copied() {
    let world = World::new();
    let store = world.open();
    filled(&store);
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    let backup = store.backup(&copy).unwrap();
    assert_eq!((backup.linked, backup.copied), (0, backup.segments));
    let restored = open_copy(&copy);
    assert_eq!(restored.recovery().orphans, 1);
    assert_filled(&restored);
    let disk = SimDisk::new();
    assert_eq!(store.backup_on(Arc::new(disk.clone())).unwrap().linked, 0);
    assert_filled(&world.on(disk).open());
}

#[test]
fn a_backup_takes_the_hint_files_along() {
    let world = World::new();
    let store = world.open();
    filled(&store);
    let disk = SimDisk::new();
    store.backup_on(Arc::new(disk.clone())).unwrap();
    let restored = world.on(disk).open();
    assert_eq!(restored.recovery().hints_rebuilt, 0);
    assert_filled(&restored);
}

#[test]
fn a_backup_without_room_for_another_segment_goes_through_the_tail() {
    let world = World::new();
    let gate = GateDisk::on(&world.disk);
    let store = world.options().open_on(Arc::new(gate.clone())).unwrap();
    filled(&store);
    let segments = store.stats().segments;
    gate.fill();
    let disk = SimDisk::new();
    let backup = store.backup_on(Arc::new(disk.clone())).unwrap();
    assert_eq!(backup.segments, segments);
    assert_filled(&world.on(disk).open());
    gate.make_room();
    run(&store, "after", b"201 created");
}

#[test]
fn a_poisoned_or_closed_store_is_not_backed_up() {
    let world = World::new();
    let store = world.open();
    world.disk.fail_at(world.disk.steps() + 1, io::ErrorKind::Other);
    assert!(store.claim(scope("k"), body()).is_err());
    let disk = SimDisk::new();
    let refused = store.backup_on(Arc::new(disk.clone()));
    assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
    let clone = store.clone();
    store.close().ok();
    let refused = clone.backup_on(Arc::new(disk.clone()));
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    assert!(disk.names().is_empty());
}

#[test]
fn a_backup_that_a_power_cut_interrupts_never_opens_as_an_empty_or_partial_store() {
    let world = World::new();
    let store = world.open();
    filled(&store);
    let (mut cuts, mut whole, mut refused) = (0, 0, 0);
    loop {
        let disk = SimDisk::new();
        disk.crash_at(cuts);
        if store.backup_on(Arc::new(disk.clone())).is_ok() {
            break;
        }
        for survival in [Survival::None, Survival::Random, Survival::All] {
            let left = disk.after_power_cut(cuts, survival);
            if left.names().is_empty() {
                assert!(cuts < 3, "nothing is left of a backup of {cuts} steps");
                continue;
            }
            let copy = world.on(left);
            match copy.options().open_on(Arc::new(copy.disk.clone())) {
                Ok(store) => {
                    assert_filled(&store);
                    whole += 1;
                }
                Err(Error::Corrupt { segment: 0, .. }) => refused += 1,
                Err(other) => panic!("cut at {cuts}, {survival:?}: {other:?}"),
            }
        }
        cuts += 1;
        assert!(cuts < 200, "no backup succeeds");
    }
    assert!(cuts > 20 && refused > 40 && whole > 0, "{cuts} {refused} {whole}");
    // The store itself is none the worse.
    assert_filled(&store);
    assert!(store.verify().unwrap().is_clean());
}

#[test]
fn a_store_with_a_damaged_record_is_not_backed_up_as_if_it_were_sound() {
    for name in ["0000000000000001.seg", "0000000000000002.seg"] {
        let world = World::new();
        let store = world.open();
        filled(&store);
        world.disk.corrupt(name, 9_000, 1);
        let disk = SimDisk::new();
        let failed = store.backup_on(Arc::new(disk.clone()));
        assert!(matches!(failed, Err(Error::Corrupt { segment, .. }) if segment > 0), "{failed:?}");
        assert!(!disk.names().contains(&"SUPER".to_owned()));
    }
}

/// What goes wrong on the way into a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// Links are said to be made, and are not.
    NoLinks,
    /// What is linked differs in one byte of the last record but one.
    OtherBytes,
    /// What is linked as a hint file is that of another segment.
    OtherHints,
    /// The claims that the roll carried do not reach the tail of the backup.
    NoCarry,
    /// CHECKPOINT stays as it was at the beginning.
    NoCheckpoint,
    /// Bytes that nobody wrote stand behind the last record of the backup.
    BytesBehind,
}

impl Intercept for Fault {
    fn link(&self, disk: &SimDisk, name: &str, to: &Path) -> io::Result<bool> {
        let read = |name: &str| disk.read(name).ok_or(io::ErrorKind::NotFound);
        let mut bytes = match self {
            Fault::NoLinks => return Ok(true),
            Fault::OtherHints if name.ends_with("2.idx") => read("0000000000000001.idx")?,
            _ => read(name)?,
        };
        if *self == Fault::OtherBytes && name.ends_with("2.seg") {
            bytes[40_000] ^= 1;
        }
        fs::write(to, bytes)?;
        Ok(true)
    }

    /// What is written to a part of a file is forgotten.
    fn write(&self, target: Target<'_>, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let forgotten_from = match self {
            Fault::NoCarry if target.name.ends_with("2.seg") => 8_192,
            Fault::NoCheckpoint if target.name.starts_with("CHECKPOINT") => 0,
            _ => u64::MAX,
        };
        let kept = u64::saturating_sub(forgotten_from, offset).min(bytes.len() as u64);
        target.file.write_at(offset, &bytes[..kept as usize])
    }

    fn sync(&self, target: Target<'_>) -> io::Result<()> {
        if *self == Fault::BytesBehind && target.name.ends_with("2.seg") {
            let mut bytes = vec![0; target.file.size()? as usize];
            target.file.read_at(0, &mut bytes)?;
            let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            target.file.write_at(end.next_multiple_of(16) as u64, &[0xa5; 16])?;
        }
        target.file.sync()
    }
}

fn backed_up_with(fault: Fault) -> (Result<oncelog::Backup, Error>, tempfile::TempDir, PathBuf) {
    let world = World::new();
    let disk = Intercepted::new(&world.disk, fault);
    let store = world.options().open_on(Arc::new(disk)).unwrap();
    filled(&store);
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    (store.backup(&copy), scratch, copy)
}

#[test]
fn a_backup_finds_what_went_wrong_with_its_links() {
    let (backup, _scratch, copy) = backed_up_with(Fault::Nothing);
    assert_eq!(backup.unwrap().copied, 1);
    assert_filled(&open_copy(&copy));
    let segments = [(Fault::NoLinks, 1), (Fault::OtherBytes, 2)];
    for (fault, expected) in segments {
        let (backup, _scratch, copy) = backed_up_with(fault);
        let Err(Error::Corrupt { segment, .. }) = backup else { panic!("{fault:?}: {backup:?}") };
        assert_eq!(segment, expected, "{fault:?}");
        assert!(!copy.join("SUPER").exists(), "{fault:?}");
        let opened = options().open(&copy);
        assert!(matches!(opened, Err(Error::Corrupt { segment: 0, .. })), "{opened:?}");
    }
    // Hint files are derived: another one's are not used, and cost an open some time.
    let (backup, _scratch, copy) = backed_up_with(Fault::OtherHints);
    backup.unwrap();
    assert_eq!(options().open(&copy).unwrap().recovery().hints_rebuilt, 1);
}

#[test]
fn a_backup_finds_what_did_not_reach_its_directory() {
    for fault in [Fault::NoCarry, Fault::NoCheckpoint, Fault::BytesBehind] {
        let world = World::new();
        let store = world.open();
        granted(claim(&store, "open")).save_checkpoint(b"half way").unwrap();
        run(&store, "done", b"201 created");
        let disk = SimDisk::new();
        let target = Intercepted::new(&disk, fault);
        let failed = store.backup_on(Arc::new(target));
        assert!(matches!(failed, Err(Error::Corrupt { .. })), "{fault:?}: {failed:?}");
        assert!(!disk.names().contains(&"SUPER".to_owned()));
    }
}

#[test]
fn a_backup_does_not_open_while_it_is_made() {
    let world = World::new();
    let tried: Arc<Mutex<Vec<bool>>> = Arc::default();
    let disk = SimDisk::new();
    let (seen, target) = (Arc::clone(&tried), disk.clone());
    let store = world.open_with(world.options().progress(move |progress| {
        if matches!(progress.phase, Phase::Copying) || target.names().len() > 2 {
            let options = Store::options().background(Background::Inline);
            let opened = options.open_on(Arc::new(target.clone()));
            seen.lock().unwrap().push(matches!(opened, Err(Error::AlreadyOpen { .. })));
        }
    }));
    filled(&store);
    store.backup_on(Arc::new(disk)).unwrap();
    let tried = tried.lock().unwrap();
    assert!(tried.len() > 4 && tried.iter().all(|refused| *refused), "{tried:?}");
}

#[test]
fn what_is_erased_after_a_backup_leaves_the_backup_sound() {
    let scratch = tempfile::tempdir().unwrap();
    let store = options().open(scratch.path().join("main")).unwrap();
    filled(&store);
    let copy = scratch.path().join("copy");
    assert!(store.backup(&copy).unwrap().linked > 0);
    assert!(store.forget(scope("key-3")).unwrap());
    assert!(store.verify().unwrap().is_clean());
    let restored = open_copy(&copy);
    assert_eq!(kind(&restored, "key-3"), "free");
    assert_eq!(replay(claim(&restored, "key-4")).bytes(), Some(&response(0, 4)[..]));
}
