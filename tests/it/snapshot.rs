//! A look at a store from outside: it shows what an open would find, up to one point of the log,
//! and changes nothing, while the owner goes on.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use oncelog::storage::{Access, File, Owner, Storage as _};
use oncelog::{
    Background, Claim, Create, Durability, Entries, Error, ManualClock, Options, OrphanCause,
    Snapshot, Status, Store,
};

use crate::contract::support::{World, body, claim, granted, kind, run, scope, start};
use crate::support::disk::{SimDisk, Survival};
use crate::support::intercept::{Intercept, Intercepted, Refusing};
use crate::support::model::{self, Driver, random_ops, with_scope};
use crate::support::rng::Rng;
use crate::support::tree::copy_tree;

const BUFFERED: Durability = Durability::Buffered { sync_every: Duration::from_millis(40) };

/// A server may keep it, and ask it from any thread.
const _: fn() = || {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Snapshot>();
};

fn look(world: &World) -> Snapshot {
    world.options().open_read_only_on(Arc::new(world.disk.clone())).unwrap()
}

fn state(snapshot: &Snapshot, key: &str) -> &'static str {
    match snapshot.lookup(scope(key)).unwrap() {
        None => "free",
        Some(Status::InProgress(_)) => "in progress",
        Some(Status::Completed(_)) => "completed",
        Some(Status::Orphaned(_)) => "orphaned",
    }
}

/// All that can be compared of a status.
fn told(status: &Status) -> String {
    match status {
        Status::Completed(stored) => format!("{stored:?} {:?}", stored.bytes()),
        Status::Orphaned(info) => {
            let (checkpoint, cause) = (info.checkpoint(), info.cause());
            format!("{info:?} {cause:?} {checkpoint:?} {:?}", info.claimed_at())
        }
        Status::InProgress(running) => format!("{running:?}"),
    }
}

/// Every entry, by key; an error is one that the test fails for.
fn listed(entries: Entries<'_>) -> BTreeMap<String, String> {
    let mut listed = BTreeMap::new();
    for entry in entries {
        let entry = entry.unwrap();
        let twice = listed.insert(entry.scope().key.to_owned(), told(entry.status()));
        assert!(twice.is_none(), "{entry:?} comes twice");
    }
    listed
}

fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.read(&name).unwrap())).collect()
}

/// What a snapshot of a disk shows against what the store shows that opens on a copy of it.
fn compare(disk: &SimDisk, clock: &ManualClock, durability: Durability, label: &str) -> u64 {
    let before = files(disk);
    let looked = model::options(clock, durability).open_read_only_on(Arc::new(disk.clone()));
    assert_eq!(files(disk), before, "{label}: a look changed something");
    let opened = disk.after_kill();
    let opened = model::options(clock, durability).open_on(Arc::new(opened));
    let (snapshot, store) = match (looked, opened) {
        (Ok(snapshot), Ok(store)) => (snapshot, store),
        // A crash before there was a store.
        (Err(Error::Missing { .. }), Ok(store)) => {
            assert_eq!(store.stats().responses, 0, "{label}");
            return 0;
        }
        (looked, opened) => panic!("{label}: {looked:?}, but {opened:?}"),
    };
    assert_eq!(snapshot.owner(), Owner::Gone, "{label}");
    let mut listed = listed(snapshot.entries());
    let scan = model::options(clock, durability).scan_read_only_on(Arc::new(disk.clone())).unwrap();
    assert_eq!(self::listed(scan.entries()), listed, "{label}: the list without an index");
    let mut shown = 0;
    for key in 0..12 {
        let seen = with_scope(key, |scope| snapshot.lookup(scope)).unwrap();
        let found = with_scope(key, |scope| store.lookup(scope)).unwrap();
        let listed = with_scope(key, |scope| listed.remove(scope.key));
        assert_eq!(listed, seen.as_ref().map(told), "{label}: {key}: the list says otherwise");
        if let (Some(Status::Orphaned(info)), None) = (&seen, &found) {
            // How old an orphan may become is a matter of the options.
            let age = model_now(clock).duration_since(info.claimed_at()).unwrap();
            assert!(age >= model::TTL, "{label}: {key} is {age:?} old");
            continue;
        }
        shown += u64::from(seen.is_some());
        assert_eq!(seen.as_ref().map(told), found.as_ref().map(told), "{label}: {key}");
    }
    assert!(listed.is_empty(), "{label}: {listed:?}");
    let found = snapshot.verify().unwrap();
    assert!(found.is_clean(), "{label}: {found:?}");
    shown
}

fn model_now(clock: &ManualClock) -> SystemTime {
    oncelog::Clock::wall(clock)
}

#[test]
fn a_snapshot_shows_what_an_open_would_find_after_any_power_cut() {
    let mut shown = 0;
    for durability in [Durability::Synced, BUFFERED] {
        for seed in 1..=3 {
            let ops = random_ops(seed, 60);
            let mut whole = Driver::new(SimDisk::new(), durability);
            assert!(whole.run(&ops).is_none());
            let steps = whole.disk.steps();
            for step in (0..steps).step_by(3) {
                let disk = SimDisk::new();
                disk.crash_at(step);
                let mut driver = Driver::new(disk, durability);
                driver.run(&ops);
                driver.die();
                let mut rng = Rng::new(seed << 32 | step);
                for survival in [Survival::None, Survival::All, Survival::Random] {
                    let label = format!("seed {seed}, {durability:?}, step {step}, {survival:?}");
                    let disk = driver.disk.after_power_cut(rng.next(), survival);
                    shown += compare(&disk, &driver.clock, durability, &label);
                }
            }
        }
    }
    assert!(shown > 1000, "only {shown} scopes were compared");
}

#[test]
fn a_claim_runs_while_its_owner_lives_and_is_an_orphan_otherwise() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "running"));
    granted(claim(&store, "given up")).give_up().unwrap();
    granted(claim(&store, "released")).release().unwrap();
    run(&store, "done", b"201 created");
    let beside = look(&world);
    assert_eq!(beside.owner(), Owner::Alive);
    let states = |snapshot: &Snapshot| {
        ["running", "given up", "released", "done"].map(|key| state(snapshot, key))
    };
    assert_eq!(states(&beside), ["in progress", "orphaned", "free", "completed"]);
    let Some(Status::InProgress(seen)) = beside.lookup(scope("running")).unwrap() else { panic!() };
    assert_eq!((seen.token(), seen.operation()), (permit.token(), permit.operation()));
    let unresolved = beside.unresolved();
    assert_eq!(unresolved.iter().map(|info| info.key()).collect::<Vec<_>>(), ["given up"]);
    assert_eq!(unresolved[0].cause(), OrphanCause::Failed);
    let totals = beside.totals();
    assert_eq!((totals.responses, totals.in_flight, totals.orphans), (1, 1, 1));

    let crashed = look(&world.on(world.disk.after_kill()));
    assert_eq!(crashed.owner(), Owner::Gone);
    assert_eq!(states(&crashed), ["orphaned", "orphaned", "free", "completed"]);
    assert_eq!(crashed.unresolved()[0].cause(), OrphanCause::Crash);

    // An owner who came later runs nothing of what was open before.
    drop(store);
    drop(permit);
    let store = world.open();
    let _permit = granted(claim(&store, "new"));
    let reopened = look(&world);
    assert_eq!(reopened.owner(), Owner::Alive);
    assert_eq!(states(&reopened), ["orphaned", "orphaned", "free", "completed"]);
    assert_eq!(state(&reopened, "new"), "in progress");
    assert_eq!(reopened.totals().epoch, 2);
    // What came first still shows what it showed.
    assert_eq!(states(&beside), ["in progress", "orphaned", "free", "completed"]);
    assert_eq!(state(&beside, "new"), "free");
}

#[test]
fn what_was_dropped_or_forgotten_since_is_absent_and_no_damage() {
    let world = World::new();
    let store = world.open();
    for number in 0..300 {
        run(&store, &format!("old-{number}"), &[number as u8; 500]);
    }
    run(&store, "forgotten", b"201 created");
    assert!(store.stats().segments > 2);
    let before = look(&world);
    assert_eq!(listed(before.entries()).len(), 301);
    assert!(store.forget(scope("forgotten")).unwrap());
    assert_eq!(state(&before, "forgotten"), "free");
    assert_eq!(listed(before.entries()).len(), 300);
    assert!(before.verify().unwrap().is_clean());
    world.clock.advance(crate::contract::support::TTL + crate::contract::support::BUCKET);
    assert!(store.expire().unwrap().segments > 2);
    assert_eq!(state(&before, "old-0"), "free");
    assert_eq!(listed(before.entries()).len(), 0);
    assert!(before.verify().unwrap().is_clean());
    // One whose own clock did not move finds the files gone.
    let still = World { clock: ManualClock::at(start()), ..world.clone() };
    assert_eq!(look(&still).totals().responses, 0);
}

#[test]
fn a_segment_that_is_gone_is_absent_to_a_snapshot_whose_clock_stands_still() {
    let world = World::new();
    let store = world.open();
    for number in 0..300 {
        run(&store, &format!("old-{number}"), &[number as u8; 500]);
    }
    let still = World { clock: ManualClock::at(start()), ..world.clone() };
    let before = look(&still);
    world.clock.advance(crate::contract::support::TTL + crate::contract::support::BUCKET);
    store.expire().unwrap();
    let left = (0..300).filter(|number| state(&before, &format!("old-{number}")) != "free");
    assert_eq!(left.count(), 0);
    assert_eq!(listed(before.entries()).len(), 0);
    assert!(before.verify().unwrap().is_clean());
}

#[test]
fn a_damaged_record_is_an_error_in_its_place_and_the_others_are_listed() {
    let world = World::new();
    let store = world.open();
    for number in 0..20 {
        run(&store, &format!("key-{number}"), format!("the response {number:03}").as_bytes());
    }
    let snapshot = look(&world);
    let name = "0000000000000001.seg";
    let bytes = world.disk.read(name).unwrap();
    let at = bytes.windows(16).position(|window| window == b"the response 007").unwrap();
    world.disk.corrupt(name, at as u64, 1);
    let (listed, damaged): (Vec<_>, Vec<_>) = snapshot.entries().partition(Result::is_ok);
    assert_eq!((listed.len(), damaged.len()), (19, 1));
    assert!(matches!(damaged[0], Err(Error::Corrupt { segment: 1, .. })), "{damaged:?}");
    let asked = snapshot.lookup(scope("key-7"));
    assert!(matches!(asked, Err(Error::Corrupt { segment: 1, .. })), "{asked:?}");
    assert_eq!(state(&snapshot, "key-8"), "completed");
    let damage = snapshot.verify().unwrap().damage;
    assert_eq!((damage.len(), damage[0].segment), (1, 1));
}

#[test]
fn nothing_is_made_where_there_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    for place in [dir.path(), &missing] {
        let looked = Store::options().create(Create::IfMissing).open_read_only(place);
        assert!(matches!(looked, Err(Error::Missing { .. })), "{looked:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let disk = SimDisk::new();
    disk.write("CHECKPOINT", &[0; 8192]);
    let looked = Store::options().open_read_only_on(Arc::new(disk));
    assert!(matches!(looked, Err(Error::Corrupt { .. })), "{looked:?}");
}

#[test]
fn a_file_that_is_missing_beside_segments_is_corrupt_to_a_look() {
    for name in ["SUPER", "CHECKPOINT"] {
        let world = World::new();
        world.open().close().unwrap();
        world.disk.remove_durably(name);
        let looked = world.options().open_read_only_on(Arc::new(world.disk.clone()));
        let Err(Error::Corrupt { what, .. }) = looked else { panic!("{name}: {looked:?}") };
        assert!(what.starts_with(name) && what.contains("is missing beside"), "{what}");
    }
}

#[test]
fn a_file_that_is_gone_at_one_look_is_looked_for_again_and_one_that_is_refused_is_not() {
    let world = World::new();
    let store = world.open();
    run(&store, "done", b"created");
    store.close().unwrap();
    let looked = |name: &str, with, times| {
        let (name, access) = (name.to_owned(), Access::ReadPositioned);
        let refusing = Refusing { name, access, with, left: AtomicU64::new(times) };
        let disk = Intercepted::new(&world.disk, refusing);
        let looked = world.options().open_read_only_on(Arc::new(disk.clone()));
        (looked.map(|snapshot| state(&snapshot, "done")), disk.by.left.load(Ordering::Relaxed))
    };
    for times in [1, 2] {
        let (looked, left) = looked("SUPER", io::ErrorKind::NotFound, times);
        assert_eq!((looked.unwrap(), left), ("completed", 0));
    }
    let (gone, left) = looked("SUPER", io::ErrorKind::NotFound, 9);
    assert!(matches!(gone, Err(Error::Io { .. })), "{gone:?}");
    assert_eq!(left, 6, "what three looks in a row find is there");
    for name in ["SUPER", "CHECKPOINT"] {
        let (refused, left) = looked(name, io::ErrorKind::PermissionDenied, 9);
        assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
        assert_eq!(left, 8, "{name} is not looked for again");
    }
}

/// What a change of a file would show in: its inode, the time of its last change, and its bytes.
type Trace = (u64, (i64, i64), (i64, i64), Vec<u8>);

/// The files of a directory, and the directory itself.
fn trace_of(dir: &Path) -> BTreeMap<String, Trace> {
    let mut found = BTreeMap::new();
    let mut note = |path: &Path, bytes| {
        let data = std::fs::metadata(path).unwrap();
        let modified = (data.mtime(), data.mtime_nsec());
        let changed = (data.ctime(), data.ctime_nsec());
        let trace = (data.ino(), modified, changed, bytes);
        found.insert(path.display().to_string(), trace);
    };
    note(dir, Vec::new());
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        note(&path, std::fs::read(&path).unwrap());
    }
    found
}

#[test]
fn a_look_leaves_no_trace_in_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Store::options().segment_bytes(64 * 1024);
    let store = options().open(dir.path()).unwrap();
    for number in 0..300 {
        run(&store, &format!("key-{number}"), &[number as u8; 500]);
    }
    std::mem::forget(granted(claim(&store, "open")));
    store.close().unwrap();
    for name in ["0000000000000001.idx", "LOCK"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let before = trace_of(dir.path());
    let snapshot = options().open_read_only(dir.path()).unwrap();
    assert_eq!((snapshot.owner(), listed(snapshot.entries()).len()), (Owner::Gone, 301));
    assert!(snapshot.verify().unwrap().is_clean());
    assert_eq!(trace_of(dir.path()), before);
    options().open(dir.path()).unwrap().close().unwrap();
    assert_ne!(trace_of(dir.path()), before, "the check can fail");
}

#[test]
fn a_copy_of_a_live_directory_has_no_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (live, copy) = (dir.path().join("live"), dir.path().join("copy"));
    let store = Store::options().segment_bytes(64 * 1024).open(&live).unwrap();
    run(&store, "done", b"201 created");
    let _permit = granted(claim(&store, "open"));
    copy_tree(&live, &copy);
    let of = |dir: &Path| {
        let snapshot = Store::options().open_read_only(dir).unwrap();
        (snapshot.owner(), state(&snapshot, "done"), state(&snapshot, "open"))
    };
    assert_eq!(of(&live), (Owner::Alive, "completed", "in progress"));
    assert_eq!(of(&copy), (Owner::Gone, "completed", "orphaned"));
}

#[test]
fn who_looks_keeps_no_owner_out() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Store::options().segment_bytes(64 * 1024).background(Background::Inline);
    options().open(dir.path()).unwrap().close().unwrap();
    let done = AtomicBool::new(false);
    let looks = AtomicU64::new(0);
    std::thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let looked = options().open_read_only(dir.path());
                    looked.unwrap();
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let opened = (0..300).try_for_each(|_| options().open(dir.path())?.close());
        done.store(true, Ordering::Relaxed);
        opened.unwrap();
    });
    assert!(looks.into_inner() > 100);
}

/// A thread of the owner: completes its keys in order, and forgets some of them.
struct Line {
    name: u64,
    /// Keys below were about to be claimed.
    begun: AtomicU64,
    /// Keys below are completed; of them those that `is_forgotten` names are forgotten, but for the
    /// last.
    done: AtomicU64,
    /// When each key was complete at the earliest, in ms since the start.
    completed_ms: Vec<AtomicU64>,
}

const KEYS: u64 = 10_000;
const KEYS_A_LOOK: u64 = 100;
const TTL: Duration = Duration::from_secs(100);

fn key_of(line: u64, number: u64) -> String {
    format!("{line}-{number}")
}

fn response_of(line: u64, number: u64) -> Vec<u8> {
    let len = (number * 7919 % 1300) as usize;
    format!("{line} {number} ").into_bytes().repeat(1 + len / 8)
}

fn is_forgotten(number: u64) -> bool {
    number % 9 == 4
}

impl Line {
    fn new(name: u64) -> Line {
        let completed_ms = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
        Line { name, begun: AtomicU64::new(0), done: AtomicU64::new(0), completed_ms }
    }

    fn work(&self, store: &Store, clock: &ManualClock, looks: &AtomicU64, stop: &AtomicBool) {
        for number in 0..KEYS {
            // Nobody looks at the end of a line that is far ahead.
            while number > (looks.load(Ordering::Relaxed) + 1) * KEYS_A_LOOK {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::yield_now();
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
            self.begun.store(number + 1, Ordering::SeqCst);
            let key = key_of(self.name, number);
            let claim = store.claim(scope(&key), body()).unwrap();
            let Claim::Granted(permit) = claim else { panic!("{key}: {claim:?}") };
            let since = model_now(clock).duration_since(start()).unwrap();
            self.completed_ms[number as usize].store(since.as_millis() as u64, Ordering::SeqCst);
            permit.complete(&response_of(self.name, number)).unwrap();
            self.done.store(number + 1, Ordering::SeqCst);
            if is_forgotten(number) {
                // It may have expired meanwhile.
                store.forget(scope(&key)).unwrap();
            }
        }
    }

    /// A snapshot that was begun when `done` were done shows this line up to one point.
    fn check(&self, snapshot: &Snapshot, done: u64, now: SystemTime) -> u64 {
        let begun = self.begun.load(Ordering::SeqCst);
        let mut ended_at = None;
        let mut shown = 0;
        // Of what is long done a sample.
        let recent = done.saturating_sub(200);
        for number in (0..recent).step_by(41).chain(recent..begun.min(KEYS)) {
            let key = key_of(self.name, number);
            let status = snapshot.lookup(scope(&key));
            let status = status.unwrap_or_else(|error| panic!("{key}: {error}"));
            match status {
                Some(Status::Completed(stored)) => {
                    let whole = stored.bytes() == Some(&*response_of(self.name, number));
                    assert!(whole, "{key} has another response");
                    assert_eq!(ended_at, None, "{key} is there and one before it is not");
                    shown += 1;
                }
                Some(Status::InProgress(_)) => {
                    assert_eq!(ended_at, None, "{key} runs and one before it does not");
                    assert!(number >= done, "{key} was complete");
                    ended_at = Some(number);
                }
                None if is_forgotten(number) => {}
                None if number >= done => {
                    ended_at.get_or_insert(number);
                }
                None => {
                    let ms = self.completed_ms[number as usize].load(Ordering::SeqCst);
                    let expires = start() + Duration::from_millis(ms) + TTL;
                    assert!(expires <= now, "{key} is absent; {done} were done of {begun}");
                }
                other => panic!("{key}: {other:?}"),
            }
        }
        for number in begun..begun + 3 {
            assert_eq!(state(snapshot, &key_of(self.name, number)), "free");
        }
        shown
    }
}

fn beside_an_owner(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(start());
    let options = || -> Options {
        let options = Store::options().clock(clock.clone()).durability(durability);
        options.segment_bytes(128 * 1024).ttl(TTL).bucket(TTL / 10)
    };
    let store = options().open(dir.path()).unwrap();
    let lines = [Line::new(0), Line::new(1), Line::new(2)];
    let (stop, dropped) = (AtomicBool::new(false), AtomicU64::new(0));
    let stopping = Stopping(&stop);
    let (mut shown, mut cuts, looked) = (0, 0, AtomicU64::new(0));
    std::thread::scope(|threads| {
        for line in &lines {
            let (store, clock, looked, stop) = (&store, &clock, &looked, &stop);
            threads.spawn(move || line.work(store, clock, looked, stop));
        }
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                dropped.fetch_add(store.expire().unwrap().segments, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        let stopping = stopping;
        // So many that segments were sealed and dropped, and looked at meanwhile.
        for looks in 0..200 {
            if looks >= 50 && dropped.load(Ordering::Relaxed) >= 5 {
                break;
            }
            let done = lines.each_ref().map(|line| line.done.load(Ordering::SeqCst));
            let snapshot = options().open_read_only(dir.path());
            let snapshot = snapshot.unwrap_or_else(|error| panic!("look {looks}: {error}"));
            assert_eq!(snapshot.owner(), Owner::Alive);
            cuts += u64::from(snapshot.totals().cut.is_some());
            for (line, done) in lines.iter().zip(done) {
                shown += line.check(&snapshot, done, model_now(&clock));
            }
            if looks % 4 == 0 {
                let mut found = 0;
                for entry in snapshot.entries() {
                    entry.unwrap_or_else(|error| panic!("look {looks}: {error}"));
                    found += 1;
                }
                let scan = options().scan_read_only(dir.path()).unwrap();
                for entry in scan.entries() {
                    entry.unwrap_or_else(|error| panic!("scan {looks}: {error}"));
                }
                let totals = snapshot.totals();
                assert!(found <= totals.responses + totals.in_flight, "{found} {totals:?}");
                let verified = snapshot.verify().unwrap();
                assert!(verified.is_clean(), "look {looks}: {verified:?}");
            }
            clock.advance(TTL / 40);
            looked.store(looks + 1, Ordering::Relaxed);
        }
        drop(stopping);
    });
    let looks = looked.into_inner();
    println!("{durability:?}: {looks} looks, {shown} responses, {cuts} of a record under way");
    assert!(dropped.into_inner() > 0, "no segment was dropped meanwhile");
}

/// Stops the threads of a test, also where it fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_snapshot_beside_a_busy_synced_owner_shows_one_point_of_the_log() {
    beside_an_owner(Durability::Synced);
}

#[test]
fn a_snapshot_beside_a_busy_buffered_owner_shows_one_point_of_the_log() {
    beside_an_owner(BUFFERED);
}

#[test]
fn a_snapshot_and_the_store_agree_on_what_is_kept() {
    let world = World::new();
    let store = world.open();
    for number in 0..200 {
        run(&store, &format!("key-{number}"), &[number as u8; 300]);
    }
    let snapshot = look(&world);
    for number in 0..200 {
        let key = format!("key-{number}");
        assert_eq!(state(&snapshot, &key), kind(&store, &key));
    }
    assert_eq!(snapshot.totals().responses, store.stats().responses);
    assert_eq!(snapshot.totals().segments, store.stats().segments);
}

/// Some files, when they are opened next, are as they were before.
#[derive(Debug)]
struct Earlier(Mutex<BTreeMap<String, Vec<u8>>>);

impl Intercept for Earlier {
    fn open(&self, disk: &SimDisk, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        match self.0.lock().unwrap().remove(name) {
            Some(bytes) => Ok(Arc::new(EarlierFile(bytes))),
            None => disk.open(name, access),
        }
    }
}

/// A look at a disk that first shows a file as it was before.
fn look_after(world: &World, name: &str, bytes: Vec<u8>) -> Snapshot {
    let files = Mutex::new(BTreeMap::from([(name.to_owned(), bytes)]));
    let earlier = Intercepted::new(&world.disk, Earlier(files));
    world.options().open_read_only_on(Arc::new(earlier)).unwrap()
}

#[derive(Debug)]
struct EarlierFile(Vec<u8>);

impl File for EarlierFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let bytes = self.0.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn allocate(&self, _: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn discard(&self, _: Range<u64>) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[test]
fn a_page_read_before_its_record_was_written_is_read_again() {
    let world = World::new();
    let store = world.open();
    for number in 0..20 {
        run(&store, &format!("key-{number}"), &[7; 500]);
    }
    store.sync().unwrap();
    let name = "0000000000000001.seg";
    let mut bytes = world.disk.read(name).unwrap();
    bytes[12_288..16_384].fill(0);
    let snapshot = look_after(&world, name, bytes.clone());
    assert_eq!(listed(snapshot.entries()).len(), 20);
    // What stays as it is was not a matter of time.
    world.disk.write(name, &bytes);
    let looked = world.options().open_read_only_on(Arc::new(world.disk.clone()));
    assert!(matches!(looked, Err(Error::Corrupt { segment: 1, .. })), "{looked:?}");
}

#[test]
fn a_checkpoint_read_before_its_segments_were_dropped_is_read_again() {
    let world = World::new();
    let store = world.open();
    for number in 0..300 {
        run(&store, &format!("old-{number}"), &[7; 500]);
    }
    let before = world.disk.read("CHECKPOINT").unwrap();
    world.clock.advance(crate::contract::support::TTL + crate::contract::support::BUCKET);
    store.expire().unwrap();
    run(&store, "new", b"201 created");
    let snapshot = look_after(&world, "CHECKPOINT", before);
    assert_eq!(listed(snapshot.entries()).into_keys().collect::<Vec<_>>(), ["new"]);
}

#[test]
fn a_claim_read_before_it_was_forgotten_is_not_taken_for_an_open_one() {
    let world = World::new();
    let store = world.open();
    run(&store, "x", b"201 created");
    let name = "0000000000000001.seg";
    let before = world.disk.read(name).unwrap();
    assert!(store.forget(scope("x")).unwrap());
    let mut bytes = world.disk.read(name).unwrap();
    // The CLAIM as it was: a header, its fields and a scope of 27 bytes. Its COMPLETE is erased.
    let record = 8192..8192 + (34 + 32 + 27_usize).next_multiple_of(16);
    assert_ne!(bytes[record.clone()], before[record.clone()]);
    bytes[record.clone()].copy_from_slice(&before[record]);
    let snapshot = look_after(&world, name, bytes);
    assert_eq!((state(&snapshot, "x"), snapshot.totals().in_flight), ("free", 0));
}
