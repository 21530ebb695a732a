//! What an open makes of what an earlier process left half done: a roll, an erasure, a recovery.

use std::sync::Arc;

use oncelog::{Background, Claim, Error, Store};

use crate::contract::support::{
    BUCKET, BUFFERED, DAY, TTL, Woken, World, body, claim, granted, kind, orphaned, run, scope,
};
use crate::support::disk::{SimDisk, Survival};

const FIRST_HINTS: &str = "0000000000000001.idx";
const SECOND_SEGMENT: &str = "0000000000000002.seg";
const SECRET: &[u8] = b"a response that is to be erased";

fn holds_secret(disk: &SimDisk) -> bool {
    let mut files = disk.names().into_iter().filter_map(|name| disk.read(&name));
    files.any(|bytes| bytes.windows(SECRET.len()).any(|window| window == SECRET))
}

fn until_segments(store: &Store, count: u64) {
    for number in 0.. {
        if store.stats().segments >= count {
            return;
        }
        run(store, &format!("filler-{number}"), &[1; 4_000]);
    }
}

/// A store with a response to forget in a sealed segment, behind a larger one.
fn with_secret() -> (World, Store) {
    let world = World::new();
    let store = world.open();
    run(&store, "gone", &[SECRET, &[7; 3_000][..]].concat());
    until_segments(&store, 2);
    (world, store)
}

fn reopened(world: &World, disk: SimDisk) -> (World, Store) {
    let world = world.on(disk);
    let store = world.open();
    (world, store)
}

fn assert_sound(store: &Store, label: &str) {
    let found = store.verify().unwrap();
    assert!(found.is_clean(), "{label}: {found:?}");
}

#[test]
fn the_one_copy_of_a_header_that_a_power_cut_left_is_two_after_the_open() {
    let world = World::new();
    let store = world.open_with(world.options().durability(BUFFERED));
    until_segments(&store, 2);
    let disk = world.disk.after_kill();
    disk.corrupt(SECOND_SEGMENT, 4096 + 20, 1);
    let (_, store) = reopened(&world, disk);
    assert_sound(&store, "one copy of a header");
}

#[test]
fn a_seal_that_no_checkpoint_names_still_counts_what_was_erased() {
    let world = World::new();
    let store = world.open_with(world.options().durability(BUFFERED));
    run(&store, "gone", SECRET);
    assert!(store.forget(scope("gone")).unwrap());
    until_segments(&store, 2);
    let (world, store) = reopened(&world, world.disk.after_kill());
    assert_sound(&store, "a seal that no checkpoint names");
    let (_, store) = reopened(&world, world.disk.after_kill());
    assert_sound(&store, "the same once it is sealed");
}

/// Every call of a forget is made to fail once, with part of a write left behind; then the process
/// is killed. The disks, and clocks, that this leaves.
fn failed_forgets() -> Vec<World> {
    let mut left = Vec::new();
    for nth in 0.. {
        let (world, store) = with_secret();
        world.disk.fail_after(world.disk.steps() + nth, std::io::ErrorKind::Other, 100);
        if store.forget(scope("gone")).is_ok() {
            return left;
        }
        left.push(world.on(world.disk.after_kill()));
    }
    left
}

#[test]
fn an_erasure_that_was_torn_is_finished_without_the_hints_of_its_segment() {
    let worlds = failed_forgets();
    assert!(worlds.len() > 3, "an erasure has several steps");
    for (nth, world) in worlds.into_iter().enumerate() {
        world.disk.remove_durably(FIRST_HINTS);
        let (world, store) = reopened(&world, world.disk.after_kill());
        assert_sound(&store, &format!("call {nth}"));
        if kind(&store, "gone") == "free" {
            assert!(!holds_secret(&world.disk), "call {nth}: it is still there");
        }
    }
}

#[test]
fn an_erasure_whose_sync_failed_is_durable_once_the_store_is_open_again() {
    for (nth, world) in failed_forgets().into_iter().enumerate() {
        let (world, store) = reopened(&world, world.disk.after_kill());
        let free = kind(&store, "gone") == "free";
        let (world, store) = reopened(&world, world.disk.after_power_cut(0, Survival::None));
        assert_eq!(kind(&store, "gone") == "free", free, "call {nth}");
        assert!(!free || !holds_secret(&world.disk), "call {nth}: it came back");
        assert_sound(&store, &format!("call {nth}"));
    }
}

#[test]
fn an_erasure_is_finished_although_a_recovery_from_it_stopped_days_later() {
    for (nth, world) in failed_forgets().into_iter().enumerate() {
        world.clock.advance(2 * DAY);
        for step in 0..60 {
            let disk = world.disk.after_kill();
            disk.crash_at(step);
            let stopped = world.on(disk.clone()).options().open_on(Arc::new(disk.clone()));
            drop(stopped);
            let label = format!("call {nth}, step {step}");
            let (after, store) = reopened(&world, disk.after_power_cut(0, Survival::All));
            assert_sound(&store, &label);
            let free = kind(&store, "gone") == "free";
            assert!(!free || !holds_secret(&after.disk), "{label}: it is still there");
        }
    }
}

#[test]
fn an_erasure_that_was_cut_leaves_no_earlier_attempt_behind() {
    for seed in 0..200 {
        let world = World::new();
        let store = world.open();
        let first = granted(claim(&store, "gone"));
        first.give_up().unwrap();
        // The second attempt is in other sectors.
        run(&store, "between", &[2; 1_500]);
        let Claim::Granted(second) = orphaned(claim(&store, "gone")).take_over().unwrap() else {
            panic!("nobody else wants it")
        };
        second.save_checkpoint(&[3; 600]).unwrap();
        second.complete(&[SECRET, &[7; 1_000][..]].concat()).unwrap();
        world.disk.crash_at(world.disk.steps() + 2 + seed % 6);
        store.forget(scope("gone")).ok();
        let disk = world.disk.after_power_cut(seed, Survival::Random);
        let (_, store) = reopened(&world, disk);
        let kind = kind(&store, "gone");
        assert!(["free", "completed"].contains(&kind), "seed {seed}: {kind}");
    }
}

#[test]
fn a_recovery_that_stopped_before_its_directory_was_synced_can_go_on_on_a_full_disk() {
    for step in 0..40 {
        let world = World::new();
        let store = world.open();
        run(&store, "kept", b"kept");
        let _open = granted(claim(&store, "open"));
        let disk = world.disk.after_kill();
        disk.fail_at(step, std::io::ErrorKind::Other);
        drop(world.options().open_on(Arc::new(disk.clone())));
        let disk = disk.after_kill();
        disk.limit(Some(disk.taken()));
        let store = match world.on(disk.clone()).options().open_on(Arc::new(disk.clone())) {
            Ok(store) => store,
            // It has not made the blocks that it would need yet.
            Err(Error::Full { .. }) => continue,
            Err(error) => panic!("step {step}: {error}"),
        };
        assert_eq!(kind(&store, "kept"), "completed", "step {step}");
        let (_, store) = reopened(&world, disk.after_power_cut(0, Survival::None));
        assert_eq!(kind(&store, "kept"), "completed", "step {step}, after a power cut");
        assert_eq!(kind(&store, "open"), "orphaned", "step {step}, after a power cut");
    }
}

#[test]
fn what_is_staged_and_not_written_yet_is_no_damage_in_a_store_just_opened() {
    let world = World::new();
    let store = world.open();
    run(&store, "kept", b"kept");
    store.close().unwrap();
    let store = world.open_with(world.options().background(Background::Stepped));
    assert!(store.recovery().clean);
    let mut staged = store.claim_async(scope("staged"), body());
    assert!(Woken::new().poll(&mut staged).is_pending());
    assert_sound(&store, "a claim is staged");
    store.sync().unwrap();
    assert!(Woken::new().poll(&mut staged).is_ready());
}

#[test]
fn what_is_past_is_dropped_from_a_full_disk_although_the_tail_cannot_end() {
    let world = World::new();
    let store = world.open();
    until_segments(&store, 3);
    world.disk.limit(Some(world.disk.taken()));
    world.clock.advance(TTL + 2 * BUCKET);
    let dropped = store.expire().unwrap();
    assert!(dropped.segments >= 2, "{dropped:?}");
    assert_eq!(store.claim(scope("new"), body()).unwrap().kind(), "granted");
}
