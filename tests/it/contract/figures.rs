//! What a store tells an operator beside its counters: how long commits take, what is in its
//! segments, and whether it takes claims.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use oncelog::{Error, SegmentInfo, SegmentState, Store};

use crate::contract::support::{BUCKET, DAY, MS, TTL, World, body, run, scope, start};

fn states(segments: &[SegmentInfo]) -> Vec<SegmentState> {
    segments.iter().map(|segment| segment.state).collect()
}

/// A completion on each of three days, in segments 1, 2 and 3.
fn three_days(world: &World) -> Store {
    let store = world.open();
    for key in ["first", "second", "third"] {
        run(&store, key, b"created");
        world.clock.advance(BUCKET);
    }
    store
}

#[test]
fn each_commit_is_in_one_bucket_of_the_latency() {
    let store = World::new().open();
    assert_eq!(store.commit_latency().count(), store.stats().commit_batches);
    for key in 0..20 {
        run(&store, &format!("k{key}"), b"created");
    }
    let latency = store.commit_latency();
    assert_eq!(latency.count(), store.stats().commit_batches);
    assert_eq!(latency.buckets().map(|(_, count)| count).sum::<u64>(), latency.count());
    let bounds: Vec<_> = latency.buckets().map(|(longest, _)| longest).collect();
    let (last, others) = bounds.split_last().unwrap();
    assert_eq!((*last, others[0]), (None, Some(Duration::from_micros(4))));
    assert!(others.windows(2).all(|pair| pair[1] == pair[0].map(|bound| bound * 2)), "{bounds:?}");
    // The time is real: no commit can have taken more than all of them.
    let longest = latency.buckets().filter(|(_, count)| *count > 0).filter_map(|(bound, _)| bound);
    assert!(longest.max().unwrap() / 2 <= latency.total());
}

#[test]
fn a_commit_that_failed_is_in_no_bucket() {
    let world = World::new();
    let store = world.open();
    run(&store, "first", b"created");
    let before = store.commit_latency();
    world.disk.fail_at(world.disk.steps(), ErrorKind::Other);
    store.claim(scope("second"), body()).unwrap_err();
    assert_eq!(store.commit_latency(), before);
}

#[test]
fn segments_are_told_from_the_oldest_to_the_tail_with_what_is_in_them() {
    let world = World::new();
    let store = three_days(&world);
    let segments = store.segments();
    let (sealed, tail) = (SegmentState::Sealed, SegmentState::Tail);
    assert_eq!(states(&segments), [sealed, sealed, tail]);
    for (day, segment) in (0_u32..).zip(&segments) {
        let begun_at = start() + day * DAY;
        assert_eq!((segment.segment, segment.responses), (u64::from(day) + 1, 1));
        assert_eq!((segment.begun_at, segment.newest_at), (begun_at, begun_at));
        assert_eq!(segment.expires_at, Some(begun_at + TTL));
        // A claim and a completion at least.
        assert!(segment.records >= 2 && segment.disk_bytes > 0, "{segment:?}");
    }
    let sealed_bytes: u64 = segments[..2].iter().map(|segment| segment.disk_bytes).sum();
    assert!(sealed_bytes < store.stats().disk_bytes);
}

#[test]
fn segments_are_told_the_same_after_a_reopen() {
    let world = World::new();
    let store = three_days(&world);
    let before = store.segments();
    store.close().unwrap();
    let after = world.open().segments();
    assert_eq!(after[..2], before[..2]);
    assert_eq!(after.last().unwrap().state, SegmentState::Tail);
}

#[test]
fn a_segment_goes_at_the_first_expire_after_the_time_that_was_told() {
    let world = World::new();
    let store = three_days(&world);
    let expires_at = store.segments()[0].expires_at.unwrap();
    world.clock.advance(expires_at.duration_since(store.time()).unwrap() - MS);
    assert_eq!(store.expire().unwrap().segments, 0);
    // What is kept beyond the time for safety is less than a bucket.
    world.clock.advance(BUCKET);
    store.expire().unwrap();
    assert!(store.segments().iter().all(|segment| segment.segment > 1));
}

#[test]
fn an_empty_store_has_a_tail_that_nothing_expires_in() {
    let world = World::new();
    let segments = world.open().segments();
    assert_eq!(states(&segments), [SegmentState::Tail]);
    assert_eq!((segments[0].responses, segments[0].expires_at), (0, None));
    assert_eq!(segments[0].begun_at, start());
}

#[test]
fn a_poisoned_store_and_a_closed_one_say_so_when_they_are_asked() {
    let world = World::new();
    let store = world.options().open_on(Arc::new(world.disk.clone())).unwrap();
    store.check_open().unwrap();
    world.disk.fail_at(world.disk.steps(), ErrorKind::Other);
    store.claim(scope("k"), body()).unwrap_err();
    assert!(matches!(store.check_open(), Err(Error::Poisoned { .. })));
    store.clone().close().ok();
    assert!(matches!(store.check_open(), Err(Error::Closed)));
}
