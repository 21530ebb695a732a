//! A store that is read from front to back, and copied, beside whoever has it open.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncelog::storage::Owner;
use oncelog::{Create, Durability, Error, ManualClock, Options, OrphanCause, Scan, Status, Store};

use crate::contract::support::{
    DAY, SEGMENT_BYTES, TTL, World, claim, granted, kind, orphaned, replay, run, scope, start,
};
use crate::support::tree::copy_tree;

fn options() -> Options {
    Store::options().segment_bytes(SEGMENT_BYTES).clock(ManualClock::at(start()))
}

fn scan(dir: &Path) -> Scan {
    options().scan_read_only(dir).unwrap()
}

fn open(dir: &Path) -> Store {
    let store = options().create(Create::Never).open(dir).unwrap();
    assert!(store.verify().unwrap().is_clean());
    store
}

fn response(number: u64) -> Vec<u8> {
    format!("{number};").into_bytes().repeat(150)
}

fn keys(scan: &Scan) -> Vec<String> {
    scan.entries().map(|entry| entry.unwrap().scope().key.to_owned()).collect()
}

/// Several sealed segments, a tail, and a claim that runs.
fn filled(store: &Store) -> oncelog::Permit {
    for number in 0..200 {
        run(store, &format!("key-{number}"), &response(number));
    }
    let permit = granted(claim(store, "open"));
    permit.save_checkpoint(b"half way").unwrap();
    assert!(store.stats().segments >= 3, "{:?}", store.stats());
    permit
}

fn assert_filled(store: &Store) {
    for number in 0..200 {
        let stored = replay(claim(store, &format!("key-{number}")));
        assert_eq!(stored.bytes(), Some(&response(number)[..]));
    }
    let orphan = orphaned(claim(store, "open"));
    assert_eq!(orphan.info().checkpoint(), Some(&b"half way"[..]));
    assert_eq!(orphan.info().cause(), OrphanCause::Crash);
}

#[test]
fn a_scan_lists_what_runs_and_what_ran_and_nothing_that_was_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let _permit = filled(&store);
    assert!(store.forget(scope("key-3")).unwrap(), "in a sealed segment");
    assert!(store.forget(scope("key-199")).unwrap(), "in the tail");
    let scan = scan(dir.path());
    assert_eq!(scan.owner(), Owner::Alive);
    let left = (0..200).filter(|number| ![3, 199].contains(number));
    let wanted: Vec<String> =
        std::iter::once("open".to_owned()).chain(left.map(|n| format!("key-{n}"))).collect();
    assert_eq!(keys(&scan), wanted);
    assert!(scan.verify().unwrap().is_clean());
    // What is forgotten after the scan began is absent from then on.
    assert!(store.forget(scope("key-5")).unwrap());
    assert!(store.forget(scope("key-198")).unwrap());
    assert!(keys(&scan).iter().all(|key| key != "key-5" && key != "key-198"));
}

#[test]
fn what_a_crash_left_half_forgotten_is_not_listed() {
    let scratch = tempfile::tempdir().unwrap();
    let [main, killed] = ["main", "killed"].map(|name| scratch.path().join(name));
    let segment = "0000000000000001.seg";
    let store = options().open(&main).unwrap();
    run(&store, "kept", b"201 created");
    run(&store, "half", b"201 created");
    let before = fs::read(main.join(segment)).unwrap();
    let end = before.iter().rposition(|&byte| byte != 0).unwrap().next_multiple_of(16);
    assert!(store.forget(scope("half")).unwrap());
    copy_tree(&main, &killed);
    // As it is when the FORGET is durable and nothing is overwritten yet.
    let mut bytes = fs::read(killed.join(segment)).unwrap();
    assert_ne!(bytes[..end], before[..end], "nothing was erased");
    bytes[..end].copy_from_slice(&before[..end]);
    fs::write(killed.join(segment), bytes).unwrap();
    assert_eq!(keys(&scan(&killed)), ["kept"]);
    assert_eq!(kind(&open(&killed), "half"), "free");
}

#[test]
fn a_response_that_took_the_place_of_an_expired_one_is_listed_once() {
    let world = World::new();
    let store = world.open();
    run(&store, "k", b"first");
    world.clock.advance(TTL);
    run(&store, "k", b"second");
    let scan = world.options().scan_read_only_on(std::sync::Arc::new(world.disk.clone())).unwrap();
    let entries: Vec<_> = scan.entries().map(Result::unwrap).collect();
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    let Status::Completed(stored) = entry.status() else { panic!("{entry:?}") };
    assert_eq!(stored.bytes(), Some(&b"second"[..]));
}

#[test]
fn a_backup_beside_a_busy_owner_holds_what_was_acknowledged_before_it() {
    const ENOUGH: u64 = 300;
    let scratch = tempfile::tempdir().unwrap();
    let main = scratch.path().join("main");
    let clock = ManualClock::at(start());
    let buffered = Durability::Buffered { sync_every: Duration::from_millis(20) };
    let options = || options().clock(clock.clone()).bucket(DAY);
    let store = options().durability(buffered).open(&main).unwrap();
    let (done, goal) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let wait_for = |wanted: u64| {
        while done.load(Ordering::SeqCst) < wanted {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|threads| {
        threads.spawn(|| {
            // It rolls, erases and expires meanwhile.
            for number in 0..goal.load(Ordering::SeqCst) {
                run(&store, &format!("key-{number}"), &response(number));
                if number % 5 == 1 {
                    assert!(store.forget(scope(&format!("key-{}", number - 1))).unwrap());
                }
                if number % 50 == 0 {
                    clock.advance(DAY / 2);
                    store.expire().unwrap();
                }
                done.store(number + 1, Ordering::SeqCst);
                if number >= goal.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        for round in 0..6 {
            wait_for(done.load(Ordering::SeqCst) + ENOUGH);
            let before = done.load(Ordering::SeqCst);
            let copy = scratch.path().join(format!("copy-{round}"));
            let backup = options().scan_read_only(&main).unwrap().backup(&copy);
            let backup = backup.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(backup.linked > 0, "{backup:?}");
            let restored = options().create(Create::Never).open(&copy).unwrap();
            assert!(restored.verify().unwrap().is_clean());
            // The last before it, and not one that is being forgotten.
            let number = (before - 1) - u64::from((before - 1) % 5 == 0);
            let stored = restored.lookup(scope(&format!("key-{number}"))).unwrap();
            let Some(Status::Completed(stored)) = stored else { panic!("{number}: {stored:?}") };
            assert_eq!(stored.bytes(), Some(&response(number)[..]));
            assert!(stored.token() <= backup.upto.unwrap());
        }
        goal.store(0, Ordering::SeqCst);
    });
    assert!(store.verify().unwrap().is_clean());
}

#[test]
fn a_copy_of_a_backup_is_the_store_again_and_shares_no_file_with_it() {
    let scratch = tempfile::tempdir().unwrap();
    let [main, backup, restored] = ["main", "backup", "restored"].map(|n| scratch.path().join(n));
    let store = options().open(&main).unwrap();
    let permit = filled(&store);
    let made = scan(&main).backup(&backup).unwrap();
    assert_eq!((made.open_claims, made.upto > Some(permit.token())), (1, true), "{made:?}");
    fs::create_dir(&restored).unwrap();
    let copied = scan(&backup).copy(&restored).unwrap();
    assert_eq!((copied.records, copied.linked, copied.upto), (made.records, 0, made.upto));
    let inodes = |dir: &Path| -> Vec<u64> {
        dir.read_dir().unwrap().map(|entry| entry.unwrap().metadata().unwrap().ino()).collect()
    };
    let shared = |a: &Path, b: &Path| inodes(a).iter().any(|inode| inodes(b).contains(inode));
    assert!(shared(&main, &backup) && !shared(&backup, &restored));
    drop(permit);
    store.close().unwrap();
    assert_filled(&open(&restored));
    assert_filled(&open(&backup));
}

#[test]
fn a_copy_of_a_store_that_was_killed_holds_what_an_open_of_it_finds() {
    let scratch = tempfile::tempdir().unwrap();
    let [main, killed, copy] = ["main", "killed", "copy"].map(|n| scratch.path().join(n));
    let store = options().open(&main).unwrap();
    let _permit = filled(&store);
    copy_tree(&main, &killed);
    scan(&killed).copy(&copy).unwrap();
    assert_filled(&open(&copy));
    assert_filled(&open(&killed));
}

#[test]
fn nothing_is_copied_to_where_anything_is() {
    let scratch = tempfile::tempdir().unwrap();
    let [main, full, new] = ["main", "full", "new"].map(|n| scratch.path().join(n));
    let store = options().open(&main).unwrap();
    run(&store, "k", b"201 created");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("theirs"), b"theirs").unwrap();
    for dir in [&full, &main] {
        let refused = scan(&main).copy(dir);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    assert_eq!(full.read_dir().unwrap().count(), 1);
    // Another copy is under way, or was interrupted.
    let draft = scratch.path().join("new.tmp");
    fs::create_dir(&draft).unwrap();
    let refused = scan(&main).copy(&new);
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    assert!(draft.exists() && !new.exists());
    fs::remove_dir(&draft).unwrap();
    scan(&main).copy(&new).unwrap();
    assert!(!draft.exists());
    assert_eq!(kind(&open(&new), "k"), "completed");
}

#[test]
fn a_damaged_backup_makes_no_store_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let [main, copy] = ["main", "copy"].map(|n| scratch.path().join(n));
    let store = options().open(&main).unwrap();
    drop(filled(&store));
    store.close().unwrap();
    let segment = main.join("0000000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[20_000] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let refused = scan(&main).copy(&copy);
    assert!(matches!(refused, Err(Error::Corrupt { segment: 1, .. })), "{refused:?}");
    assert!(!copy.exists() && !scratch.path().join("copy.tmp").exists());
}

#[test]
fn all_cores_find_the_damage_that_one_finds_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let buffered = Durability::Buffered { sync_every: Duration::from_secs(3_600) };
    let options = || options().segment_bytes(1 << 20).durability(buffered);
    let store = options().open(dir.path()).unwrap();
    for number in 0..100_u32 {
        run(&store, &format!("key-{number}"), &number.to_le_bytes().repeat(60_000));
    }
    let segments = store.stats().segments;
    assert!(segments > 24, "{segments} are too few for threads");
    store.close().unwrap();
    for number in [2, 7, 8, 9, 23] {
        let path = dir.path().join(format!("{number:016x}.seg"));
        let mut bytes = fs::read(&path).unwrap();
        bytes[300_000 + number] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let store = options().open(dir.path()).unwrap();
    let (one, all) = (store.verify().unwrap(), scan(dir.path()).verify().unwrap());
    assert_eq!(one, all);
    let damaged: Vec<u64> = all.damage.iter().map(|damage| damage.segment).collect();
    assert_eq!(damaged, [2, 7, 8, 9, 23]);
}

#[test]
fn a_clock_is_checked_as_an_open_would() {
    let world = World::new();
    let store = world.open();
    run(&store, "k", b"201 created");
    drop(store);
    let scan = || {
        world.options().scan_read_only_on(std::sync::Arc::new(world.disk.clone())).unwrap().clock()
    };
    let check = scan();
    assert_eq!((check.recorded, check.clock, check.held), (Some(start()), start(), false));
    world.clock.set_wall(start() - DAY);
    let check = scan();
    assert_eq!((check.clock, check.store, check.held), (start() - DAY, start(), false));
    world.clock.set_wall(start() + TTL);
    assert_eq!((scan().store, scan().held), (start() + TTL, false));
    world.clock.set_wall(start() + TTL + Duration::from_millis(1));
    let check = scan();
    assert_eq!((check.store, check.held, check.stop_max), (start(), true, TTL));
    assert!(world.open().stats().clock_held);
}
