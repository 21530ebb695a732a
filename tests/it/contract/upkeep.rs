//! What a store does between calls, and beside them: it expires, it promises what is durable when
//! it has gone quiet, and a full disk or a close in between harms nothing that was granted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use oncelog::{Background, Claim, Durability, Error, Options, Permit, Store};

use crate::contract::support::{
    BUCKET, DAY, GateDisk, MS, PATIENCE, SEGMENT_BYTES, StallClock, TTL, World, body, claim,
    granted, kind, orphaned, run, scope, until,
};
use crate::support::disk::SimDisk;

/// Buffered, and synced every so often by the committer.
const OFTEN: Durability = Durability::Buffered { sync_every: Duration::from_millis(100) };

/// A store with larger segments, of which the disk gives a part at first.
fn on_gate(options: Options) -> (Store, GateDisk) {
    let disk = GateDisk::on(&SimDisk::new());
    let options = options.segment_bytes(1 << 20);
    (options.open_on(Arc::new(disk.clone())).expect("the store opens"), disk)
}

/// Takes an early claim, then lets the disk be full and uses up what the log has of it, to the
/// last record that may take some.
fn filled(store: &Store, disk: &GateDisk) -> Permit {
    let held = granted(claim(store, "held"));
    disk.fill();
    let refused = (0..).map(|n| store.claim(scope(&format!("k{n}")), body()));
    let refused = refused.into_iter().find(|claimed| !matches!(claimed, Ok(Claim::Granted(_))));
    assert!(matches!(refused, Some(Err(Error::Full { .. }))), "{refused:?}");
    let refused = (0..).find_map(|_| held.save_checkpoint(&[]).err());
    assert!(matches!(refused, Some(Error::Full { .. })), "{refused:?}");
    held
}

fn oldest_segment(disk: &SimDisk) -> u64 {
    let bytes = disk.read("CHECKPOINT").unwrap();
    let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    // Of two slots the one of the higher generation counts.
    if field(16) > field(4096 + 16) { field(24) } else { field(4096 + 24) }
}

#[test]
fn an_orphan_from_a_held_time_is_kept_for_its_ttl_when_the_jump_is_accepted() {
    let world = World::new();
    let store = world.open();
    run(&store, "old", b"created");
    store.close().unwrap();
    // Down for sixty days, which the store cannot know to be true.
    world.clock.advance(60 * DAY);
    let store = world.open();
    assert!(store.stats().clock_held);
    let permit = granted(claim(&store, "k"));
    let operation = permit.operation();
    drop(permit);
    world.clock.advance(Duration::from_secs(3_601));
    assert!(!store.stats().clock_held);
    assert_eq!(orphaned(claim(&store, "k")).info().operation(), operation);
    run(&store, "later", b"created");
    store.close().unwrap();
    let store = world.open();
    assert!(!store.stats().clock_held);
    assert_eq!(orphaned(claim(&store, "k")).info().operation(), operation);
    world.clock.advance(TTL);
    assert_eq!(kind(&store, "k"), "free");
}

#[test]
fn an_expire_under_way_when_the_store_closes_writes_nothing_afterwards() {
    let world = World::new();
    // The last reading says what is due, the one before it whether a bucket has ended.
    for from_the_end in [1, 2] {
        let world = world.on(SimDisk::new());
        let clock = StallClock::new(world.clock.clone());
        let store = world.open_with(world.options().clock(clock.clone()));
        let before = clock.readings();
        store.expire().unwrap();
        let readings = clock.readings() - before;
        run(&store, "a", b"created");
        world.clock.advance(BUCKET);
        run(&store, "b", b"created");
        world.clock.advance(TTL + BUCKET);
        run(&store, "c", b"created");
        let (has_come, let_go) = clock.stall_after(readings - from_the_end);
        let other = store.clone();
        let expiring = thread::spawn(move || other.expire());
        has_come.recv_timeout(PATIENCE).unwrap();
        store.close().unwrap();
        let next = world.open();
        let (steps, names) = (world.disk.steps(), world.disk.names());
        let_go.send(()).unwrap();
        let late = expiring.join().unwrap();
        assert!(matches!(late, Err(Error::Closed)), "{from_the_end}: {late:?}");
        assert_eq!((world.disk.steps(), world.disk.names()), (steps, names), "{from_the_end}");
        drop(next);
    }
}

#[test]
fn expires_at_once_never_bring_a_dropped_segment_back() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let options = world.options().ttl(400 * DAY);
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    for number in 0..400 {
        run(&store, &format!("k{number}"), b"created");
        world.clock.advance(BUCKET);
    }
    let highest = AtomicU64::new(0);
    thread::scope(|threads| {
        let expire_all = || {
            while highest.load(Ordering::SeqCst) < 400 {
                world.clock.advance(BUCKET);
                store.expire().unwrap();
                let before = highest.load(Ordering::SeqCst);
                let oldest = oldest_segment(&world.disk);
                highest.fetch_max(oldest, Ordering::SeqCst);
                assert!(oldest >= before, "{before} was the oldest, and then {oldest}");
            }
        };
        let expiring = [0; 6].map(|_| threads.spawn(expire_all));
        // Whoever syncs CHECKPOINT takes long, so that the others crowd behind.
        while expiring.iter().any(|thread| !thread.is_finished()) {
            let held = disk.hold();
            thread::yield_now();
            drop(held);
        }
    });
    drop(store);
    world.open();
}

#[test]
fn expiry_runs_by_itself_while_the_store_is_busy() {
    let disk = SimDisk::new();
    let options = Store::options().segment_bytes(SEGMENT_BYTES);
    let options = options.ttl(Duration::from_secs(1)).bucket(10 * MS);
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    let first = "0000000000000001.seg".to_owned();
    let began = Instant::now();
    for number in 0.. {
        run(&store, &format!("k{number}"), &[1; 300]);
        if !disk.names().contains(&first) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "nothing was dropped under load");
    }
}

#[test]
fn a_sync_of_a_full_disk_poisons_nothing() {
    let (store, disk) = on_gate(World::new().options());
    let held = filled(&store, &disk);
    store.sync().unwrap();
    disk.make_room();
    held.complete(b"created").unwrap();
}

#[test]
fn a_store_that_goes_quiet_on_a_full_disk_is_not_poisoned() {
    let (store, disk) = on_gate(Store::options().durability(OFTEN));
    let held = filled(&store, &disk);
    // Once nothing happens any more, the committer asks for room for its promise.
    disk.await_refusal_of("oncelog-commit");
    disk.make_room();
    held.complete(b"created").unwrap();
}

#[test]
fn a_bucket_that_ends_on_a_full_disk_refuses_no_completion_that_fits() {
    let world = World::new();
    let (store, disk) = on_gate(world.options());
    run(&store, "first", b"created");
    let permit = granted(claim(&store, "held"));
    disk.fill();
    world.clock.advance(BUCKET);
    permit.complete(b"created").unwrap();
    assert_eq!(kind(&store, "held"), "completed");
}

/// Runs a scope and waits for the one record by which a quiet log promises its last batch.
fn promises_by_itself(durability: Durability, kept_open: &[&str]) {
    let store = World::new().open_with(Store::options().durability(durability));
    let _open: Vec<Permit> = kept_open.iter().map(|key| granted(claim(&store, key))).collect();
    run(&store, "k", b"created");
    let before = store.stats().records;
    until(|| store.stats().records > before);
    assert_eq!(store.stats().records, before + 1);
}

#[test]
fn a_quiet_buffered_log_promises_its_last_batch_with_a_claim_open_too() {
    promises_by_itself(OFTEN, &[]);
    promises_by_itself(OFTEN, &["open"]);
}

#[test]
fn a_quiet_synced_log_promises_its_last_batch() {
    promises_by_itself(Durability::Synced, &[]);
}

#[test]
fn the_next_segment_is_made_once_and_before_it_is_needed() {
    let world = World::new();
    let store = world.open_with(world.options().background(Background::Threads));
    world.disk.record_trace();
    let made = || {
        let trace = world.disk.trace();
        trace.iter().filter(|step| step.starts_with("create 0000000000000002.seg")).count()
    };
    let eight_kib = vec![7; 8_000];
    // How full the segment is depends on how many batches the records came in; two of these are
    // never half of it, and five always are more.
    for key in ["1", "2", "3", "4", "5"] {
        assert!(made() == 0 || key > "3", "before {key}");
        run(&store, key, &eight_kib);
    }
    until(|| made() == 1);
    assert_eq!(store.stats().segments, 1);
    for key in ["6", "7", "8", "9"] {
        run(&store, key, &eight_kib);
    }
    assert_eq!((store.stats().segments, made()), (2, 1));
}

#[test]
fn blocks_are_allocated_a_little_ahead_of_the_records() {
    let world = World::new();
    let options = world.options().segment_bytes(4 << 20).background(Background::Threads);
    world.disk.record_trace();
    let store = world.open_with(options);
    // The end of what was allocated: "allocate NAME START+BYTES".
    let end_of = |step: &String| {
        let (start, bytes) =
            step.strip_prefix("allocate 0000000000000001.seg ")?.split_once('+')?;
        Some(start.parse::<u64>().unwrap() + bytes.parse::<u64>().unwrap())
    };
    let allocated = || world.disk.trace().iter().filter_map(end_of).max().unwrap_or(0);
    let first = allocated();
    for key in ["1", "2", "3", "4", "5"] {
        run(&store, key, &[7; 8_000]);
    }
    let written = 8_192 + 5 * 8_000;
    until(|| allocated() > written + (64 << 10));
    assert!(first < allocated() && allocated() < written + (192 << 10), "{}", allocated());
}
