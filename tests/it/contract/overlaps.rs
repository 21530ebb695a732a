//! What is under way when something else comes in between: a close beside a close, a wait or a
//! sync, a take-over beside a checkpoint, an attempt that outlasts its ttl, upkeep beside commits.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, SystemTime};

use oncelog::{Background, Clock, Durability, Error, ManualClock, Reads, Store};

use crate::contract::support::{
    BUCKET, BUFFERED, GateDisk, LEASE, PATIENCE, StallClock, TTL, Woken, World, block_on, body,
    claim, granted, in_progress, kind, orphaned, run, scope, until,
};
use crate::support::disk::Survival;
use crate::support::intercept::{Intercept, Intercepted, Target};

/// A clock that counts how often one thread of the store looks at it.
#[derive(Clone)]
struct WatchedClock {
    clock: ManualClock,
    thread: &'static str,
    looks: Arc<AtomicU64>,
}

impl WatchedClock {
    fn of(world: &World, thread: &'static str) -> WatchedClock {
        WatchedClock { clock: world.clock.clone(), thread, looks: Arc::default() }
    }

    fn looks(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    fn note(&self) {
        if thread::current().name() == Some(self.thread) {
            self.looks.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Clock for WatchedClock {
    fn wall(&self) -> SystemTime {
        self.note();
        self.clock.wall()
    }

    fn monotonic(&self) -> Duration {
        self.note();
        self.clock.monotonic()
    }

    /// So that the store does by itself what is due.
    fn moves_by_hand(&self) -> bool {
        self.note();
        false
    }
}

#[test]
fn a_second_close_frees_no_directory_that_the_first_still_writes_to() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let store = world.options().open_on(Arc::new(disk.clone())).unwrap();
    run(&store, "k", b"created");
    let other = store.clone();
    let held = disk.hold();
    let first = thread::spawn(move || store.close());
    held.await_sync();
    let second = thread::spawn(move || other.close());
    until(|| second.is_finished());
    assert!(matches!(second.join().unwrap(), Err(Error::Closed)));
    let opened = world.options().open_on(Arc::new(world.disk.clone()));
    assert!(matches!(opened, Err(Error::AlreadyOpen { .. })), "two owners: {opened:?}");
    drop(held);
    first.join().unwrap().unwrap();
    assert_eq!(kind(&world.open(), "k"), "completed");
}

#[test]
fn what_is_buffered_while_a_sync_is_under_way_is_synced_by_itself_too() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let clock = WatchedClock::of(&world, "oncelog-commit");
    let buffered = Durability::Buffered { sync_every: Duration::from_secs(1) };
    let options = world.options().background(Background::Threads).durability(buffered);
    let store = options.clock(clock.clone()).open_on(Arc::new(disk.clone())).unwrap();
    let held = disk.hold();
    run(&store, "first", b"created");
    let other = store.clone();
    let syncing = thread::spawn(move || other.sync());
    held.await_sync();
    run(&store, "k", b"created");
    // The committer's alarm goes off, while somebody else commits.
    let before = clock.looks();
    until(|| clock.looks() > before);
    drop(held);
    syncing.join().unwrap().unwrap();
    let cut = || world.on(world.disk.after_power_cut(1, Survival::None));
    until(|| kind(&cut().open(), "k") == "completed");
}

#[test]
fn a_sync_with_nothing_to_add_waits_for_the_one_under_way() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let options = world.options().durability(BUFFERED);
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    run(&store, "k", b"created");
    let held = disk.hold();
    let [first, second] = [store.clone(), store];
    let first = thread::spawn(move || first.sync());
    held.await_sync();
    let second = thread::spawn(move || second.sync());
    for _ in 0..100_000 {
        assert!(!second.is_finished(), "it is not synced yet");
        thread::yield_now();
    }
    drop(held);
    for syncing in [first, second] {
        syncing.join().unwrap().unwrap();
    }
}

#[test]
fn a_checkpoint_that_is_being_written_at_a_take_over_comes_with_the_next_attempt() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let options = world.options().background(Background::Threads);
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    let permit = granted(claim(&store, "k"));
    let held = disk.hold();
    let saved = permit.save_checkpoint_async(b"charged");
    held.await_sync();
    drop(permit);
    let mut next = orphaned(claim(&store, "k")).take_over_async();
    assert!(Woken::new().poll(&mut next).is_pending());
    drop(held);
    block_on(saved).unwrap();
    let permit = granted(block_on(next).unwrap());
    assert_eq!(permit.checkpoint(), Some(&b"charged"[..]), "it was acknowledged");
}

#[test]
fn one_who_asks_before_a_close_and_would_wait_after_it_is_told() {
    let world = World::new();
    let clock = StallClock::new(world.clock.clone());
    let store = world.open_with(world.options().clock(clock.clone()));
    run(&store, "k", b"expired");
    world.clock.advance(TTL + BUCKET);
    let mut future = store.claim_or_wait_async(scope("k"), body());
    let (has_come, let_go) = clock.stall_after(0);
    let polling = thread::spawn(move || Woken::new().poll(&mut future));
    // It knows that the store is open, and not yet what the scope holds.
    has_come.recv_timeout(PATIENCE).unwrap();
    let _permit = granted(claim(&store, "k"));
    store.close().unwrap();
    let_go.send(()).unwrap();
    let polled = polling.join().unwrap();
    assert!(matches!(polled, Poll::Ready(Err(Error::Closed))), "{polled:?}");
}

#[test]
fn a_permit_dropped_after_longer_than_the_ttl_leaves_an_orphan_and_never_a_free_scope() {
    let world = World::new();
    let minute = Duration::from_secs(60);
    let store = world.open_with(world.options().ttl(2 * minute).bucket(minute));
    let permit = granted(claim(&store, "k"));
    for _ in 0..5 {
        world.clock.advance(LEASE / 2);
        permit.renew().unwrap();
    }
    let operation = permit.operation();
    drop(permit);
    assert_eq!(orphaned(claim(&store, "k")).info().operation(), operation);
}

#[test]
fn upkeep_for_the_sake_of_commits_does_not_expire_before_that_is_due() {
    let world = World::new();
    let clock = WatchedClock::of(&world, "oncelog-upkeep");
    let options = world.options().background(Background::Threads).clock(clock.clone());
    let store = world.open_with(options);
    let mut keys = 0..;
    // The upkeep thread alone writes the hints of a sealed segment.
    until(|| {
        let key = format!("k{}", keys.next().unwrap());
        let permit = granted(block_on(store.claim_async(scope(&key), body())).unwrap());
        block_on(permit.complete_async(&[1; 1_000])).unwrap();
        world.disk.names().contains(&"0000000000000004.idx".to_owned())
    });
    assert_eq!(clock.looks(), 0, "none is due for ten minutes");
}

type Deed = Box<dyn FnOnce(&mut [u8]) + Send>;

/// What is done at the end of the next read of a segment, and to what was read.
#[derive(Default)]
struct Meanwhile(Mutex<Option<Deed>>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Intercept for Meanwhile {
    fn read(&self, target: Target<'_>, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let is_of_segment = target.name.ends_with(".seg");
        let deed = if is_of_segment { self.0.lock().unwrap().take() } else { None };
        target.file.read_at(offset, out)?;
        deed.into_iter().for_each(|deed| deed(out));
        Ok(())
    }
}

/// A store in which the response of `k` has expired, on a disk that can be held up.
fn with_an_expired_response() -> (Store, Intercepted<Meanwhile>) {
    let world = World::new();
    let disk = Intercepted::new(&world.disk, Meanwhile::default());
    let options = world.options().reads(Reads::Positioned);
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    run(&store, "k", b"created");
    world.clock.advance(TTL);
    (store, disk)
}

#[test]
fn a_scope_that_another_claims_while_its_expired_response_is_read_is_in_progress() {
    // Read whole, and while somebody overwrites it.
    for is_whole in [true, false] {
        let (store, disk) = with_an_expired_response();
        let (tell, told) = channel();
        let other = store.clone();
        *disk.by.0.lock().unwrap() = Some(Box::new(move |read| {
            tell.send(granted(claim(&other, "k"))).unwrap();
            if !is_whole {
                read.fill(0);
            }
        }));
        let running = in_progress(claim(&store, "k"));
        let winner = told.try_recv().expect("the other had its turn");
        assert_eq!(running.token(), winner.token());
        winner.complete(b"created again").unwrap();
        assert_eq!(kind(&store, "k"), "completed");
    }
}

#[test]
fn a_scope_that_another_claims_while_it_is_looked_for_to_be_forgotten_is_not_forgotten() {
    let (store, disk) = with_an_expired_response();
    let (tell, told) = channel();
    let other = store.clone();
    *disk.by.0.lock().unwrap() = Some(Box::new(move |_| {
        tell.send(granted(claim(&other, "k"))).unwrap();
    }));
    assert!(!store.forget(scope("k")).unwrap());
    told.try_recv().expect("the other had its turn").complete(b"created again").unwrap();
    assert_eq!(kind(&store, "k"), "completed");
}
