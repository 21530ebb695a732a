//! What a scrub finds while the store is used, and what it must not take for damage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oncelog::{Background, Error, ManualClock, Options, Store};

use crate::contract::support::{
    BUCKET, BUFFERED, SEGMENT_BYTES, World, body, claim, kind, replay, run, scope, start, until,
};

/// Nothing waits at this rate.
const AT_ONCE: u64 = 1 << 50;
const FIRST_SEGMENT: &str = "0000000000000001.seg";

fn scrubbing(world: &World, bytes_per_second: u64) -> Options {
    world.options().background(Background::Threads).scrub_bytes_per_second(bytes_per_second)
}

/// A world whose store has two sealed segments, with `key-0` in the first.
fn filled() -> World {
    let world = World::new();
    let store = world.open();
    for number in 0..200 {
        run(&store, &format!("key-{number}"), &[number as u8; 700]);
        if store.stats().segments == 3 {
            break;
        }
    }
    assert_eq!(store.stats().segments, 3);
    store.close().unwrap();
    world
}

/// Where the response that begins with these bytes stands in the first segment.
fn place_of(world: &World, response: &[u8]) -> u64 {
    let bytes = world.disk.read(FIRST_SEGMENT).unwrap();
    bytes.windows(response.len()).position(|window| window == response).unwrap() as u64
}

/// Waits for a round that began after this call.
fn await_round(store: &Store) {
    let rounds = store.stats().scrub_rounds;
    until(|| store.stats().scrub_rounds >= rounds + 2);
}

#[test]
fn a_scrub_finds_a_flipped_bit_and_the_rest_goes_on_being_served() {
    let world = filled();
    let store = world.open_with(scrubbing(&world, AT_ONCE));
    await_round(&store);
    assert_eq!(store.damage(), []);
    let at = place_of(&world, &[7; 700]);
    world.disk.corrupt(FIRST_SEGMENT, at, 0x10);
    await_round(&store);
    let damage = store.damage();
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!((damage[0].segment, damage[0].what), (1, "the body's checksum does not match"));
    assert!(damage[0].offset < at && at < damage[0].offset + 1_024);
    assert_eq!(store.stats().damaged_records, 1);
    assert!(store.stats().scrubbed_bytes >= 2 * SEGMENT_BYTES);
    let answer = store.claim(scope("key-7"), body());
    assert!(matches!(answer, Err(Error::Corrupt { segment: 1, .. })), "{answer:?}");
    for key in ["key-6", "key-8"] {
        replay(claim(&store, key));
    }
    // What stands there is right again, and goes from the list.
    world.disk.corrupt(FIRST_SEGMENT, at, 0x10);
    await_round(&store);
    assert_eq!((store.damage(), store.stats().damaged_records), (Vec::new(), 0));
}

#[test]
fn damaged_records_are_corrupt_for_their_scopes_alone() {
    let world = World::new();
    let options = || world.options().segment_bytes(4 << 20).durability(BUFFERED);
    let store = world.open_with(options());
    let keys: Vec<String> = (0..10_000).map(|number| format!("key-{number}")).collect();
    keys.iter().for_each(|key| drop(run(&store, key, b"<response>")));
    store.close().unwrap();
    let store = world.open_with(options());
    // Sealed, and with hints.
    world.clock.advance(BUCKET);
    store.expire().unwrap();
    assert!(store.stats().segments >= 2 && world.disk.read(FIRST_SEGMENT).is_some());
    let bytes = world.disk.read(FIRST_SEGMENT).unwrap();
    let places = bytes.windows(10).enumerate().filter(|(_, window)| window == b"<response>");
    let mut damaged = 0;
    for (at, _) in places {
        world.disk.corrupt(FIRST_SEGMENT, at as u64, 1);
        damaged += 1;
    }
    let is_corrupt =
        |key: &&String| matches!(store.lookup(scope(key)), Err(Error::Corrupt { segment: 1, .. }));
    assert_eq!(keys.iter().filter(is_corrupt).count(), damaged);
    // The index has a part of each hash: some of these meet the place of another scope.
    for number in 0..600_000 {
        assert_eq!(kind(&store, &format!("other-{number}")), "free");
    }
}

#[test]
fn a_scrub_finds_no_damage_where_records_are_erased_and_segments_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(start());
    let store = Store::options()
        .segment_bytes(SEGMENT_BYTES)
        .scrub_bytes_per_second(AT_ONCE)
        .clock(clock.clone())
        .open(dir.path())
        .unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                assert_eq!(store.damage(), []);
                std::thread::yield_now();
            }
        });
        for number in 0..600_u64 {
            run(&store, &format!("key-{number}"), &[number as u8; 700]);
            if number % 3 == 0 {
                assert!(store.forget(scope(&format!("key-{}", number / 2))).is_ok());
            }
            if number % 100 == 99 {
                await_round(&store);
                clock.advance(12 * BUCKET);
                store.expire().unwrap();
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    await_round(&store);
    assert_eq!(store.damage(), []);
    assert!(store.stats().scrub_rounds > 12 && store.stats().segments > 1);
}

#[test]
fn damage_of_a_segment_that_was_dropped_is_forgotten() {
    let world = filled();
    world.disk.corrupt(FIRST_SEGMENT, place_of(&world, &[7; 700]), 1);
    let store = world.open_with(scrubbing(&world, AT_ONCE));
    until(|| store.stats().damaged_records == 1);
    world.clock.advance(31 * BUCKET);
    assert_eq!(store.expire().unwrap().segments, 3);
    assert_eq!(kind(&store, "key-7"), "free");
    until(|| store.damage().is_empty());
}

#[test]
fn a_store_closes_at_once_while_its_scrub_waits() {
    let world = filled();
    // A segment takes 2.7 seconds, and its hint file less.
    let store = world.open_with(scrubbing(&world, 24 * 1024));
    until(|| store.stats().scrubbed_bytes > SEGMENT_BYTES);
    // Now it waits for the next segment.
    let closing = Instant::now();
    store.close().unwrap();
    assert!(closing.elapsed() < Duration::from_millis(1_300), "the close waited for the scrub");
    world.open();
}

#[test]
fn a_store_closes_though_the_files_that_its_scrub_wants_are_gone() {
    let world = filled();
    let store = world.open_with(scrubbing(&world, AT_ONCE));
    await_round(&store);
    for name in world.disk.names().iter().filter(|name| !name.starts_with("0000000000000003")) {
        world.disk.remove_durably(name);
    }
    await_round(&store);
    // It ends: whether it could write what it wanted is another question.
    store.close().ok();
}

#[test]
fn a_slow_scrub_reads_no_faster_than_it_is_told() {
    let world = filled();
    let began = Instant::now();
    let store = world.open_with(scrubbing(&world, 256 * 1024));
    until(|| store.stats().scrubbed_bytes >= SEGMENT_BYTES);
    let (bytes, spent) = (store.stats().scrubbed_bytes, began.elapsed());
    let earned = spent.as_secs_f64() * 256.0 * 1024.0;
    assert!(bytes as f64 <= earned, "{bytes} bytes in {spent:?}");
}

#[test]
fn a_rate_of_nothing_is_refused() {
    let world = World::new();
    let opened = scrubbing(&world, 0).open_on(Arc::new(world.disk.clone()));
    assert!(matches!(opened, Err(Error::Invalid { .. })), "{opened:?}");
}
