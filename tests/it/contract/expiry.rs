//! Expiry and time: exact for readers, wholesale for the disk, and late rather than early.

use std::time::{Duration, SystemTime};

use oncelog::{Clock, Create, Expired, Status, Store};

use crate::contract::support::{
    BUCKET, DAY, LEASE, MS, SEGMENT_BYTES, TTL, World, body, claim, granted, in_progress, kind,
    orphaned, other_body, replay, run, scope, start,
};

/// A second ttl that no bucket or grace reaches.
const LONG_AFTER: Duration = Duration::from_secs(3 * 24 * 3_600);

fn expires_at(store: &Store, key: &str) -> SystemTime {
    let Some(Status::Completed(stored)) = store.lookup(scope(key)).unwrap() else {
        panic!("not completed")
    };
    stored.expires_at()
}

fn segment_names(world: &World) -> Vec<String> {
    world.disk.names().into_iter().filter(|name| name.ends_with(".seg")).collect()
}

/// Fills several segments with `count` responses and returns their keys.
fn fill(store: &Store, prefix: &str, count: usize) -> Vec<String> {
    let keys: Vec<String> = (0..count).map(|number| format!("{prefix}{number}")).collect();
    for key in &keys {
        run(store, key, &[7; 5_000]);
    }
    keys
}

#[test]
fn a_response_is_absent_from_the_instant_it_expires() {
    let world = World::new();
    let store = world.open();
    world.clock.advance(MS);
    let stored = run(&store, "k", b"created");
    assert_eq!(stored.completed_at(), start() + MS);
    assert_eq!(stored.expires_at(), start() + MS + TTL);
    world.clock.advance(TTL - MS);
    assert_eq!(replay(claim(&store, "k")), stored);
    assert_eq!(store.claim(scope("k"), other_body()).unwrap().kind(), "conflict");
    world.clock.advance(MS);
    assert_eq!(kind(&store, "k"), "free");
    let permit = granted(store.claim(scope("k"), other_body()).unwrap());
    assert_eq!(permit.attempt(), 1);
    assert_ne!(permit.operation(), stored.operation());
    permit.complete(b"again").unwrap();
    let again = replay(store.claim(scope("k"), other_body()).unwrap());
    assert_eq!(again.bytes(), Some(&b"again"[..]));
}

#[test]
fn an_expiry_is_fixed_at_completion_and_not_at_the_claim() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    world.clock.advance(LEASE / 2);
    let expires = permit.complete(b"created").unwrap().expires_at();
    assert_eq!(expires, start() + LEASE / 2 + TTL);
    store.close().unwrap();
    let shorter = world.open_with(world.options().ttl(10 * DAY));
    assert_eq!(expires_at(&shorter, "k"), expires, "a later ttl touches later completions only");
    assert_eq!(run(&shorter, "late", b"").expires_at(), start() + LEASE / 2 + 10 * DAY);
    shorter.close().unwrap();
    world.clock.advance(11 * DAY);
    let store = world.open();
    store.expire().unwrap();
    assert_eq!((kind(&store, "k"), kind(&store, "late")), ("completed", "free"));
}

#[test]
fn an_expired_response_stays_absent_after_a_restart_and_an_expired_scope_can_run_again() {
    let world = World::new();
    let store = world.open();
    run(&store, "a", b"old");
    run(&store, "b", b"old");
    world.clock.advance(TTL);
    run(&store, "b", b"new");
    let killed = world.on(world.disk.after_kill()).open();
    store.close().unwrap();
    for store in [killed, world.open()] {
        assert_eq!(kind(&store, "a"), "free");
        assert_eq!(replay(claim(&store, "b")).bytes(), Some(&b"new"[..]));
    }
}

#[test]
fn whole_segments_are_unlinked_once_everything_in_them_is_past() {
    let world = World::new();
    let store = world.open();
    let keys = fill(&store, "k", 60);
    let before = segment_names(&world);
    assert!(before.len() > 4, "{before:?}");
    assert_eq!(store.expire().unwrap(), Expired::default());
    world.clock.advance(TTL - MS);
    store.expire().unwrap();
    for key in &keys {
        assert_eq!(kind(&store, key), "completed", "nothing goes before its time");
    }
    world.clock.advance(LONG_AFTER);
    let disk_bytes = store.stats().disk_bytes;
    let expired = store.expire().unwrap();
    assert_eq!(expired.responses, 60);
    assert!(expired.segments >= before.len() as u64 - 1, "{expired:?} of {before:?}");
    // A segment's, as far as it has records, and its hint file's.
    let bytes = expired.segments * 4_096..=expired.segments * (SEGMENT_BYTES + 2 * 4_096);
    assert!(bytes.contains(&expired.bytes), "{expired:?}");
    assert!(store.stats().disk_bytes < disk_bytes && store.stats().responses == 0);
    let left = segment_names(&world);
    let gone = before.iter().filter(|name| !left.contains(name)).count();
    assert!(gone >= before.len() - 1, "{left:?} is left of {before:?}");
    let killed = world.on(world.disk.after_kill()).open();
    assert!(keys.iter().all(|key| kind(&killed, key) == "free"));
    store.close().unwrap();
    let store = world.open();
    assert!(keys.iter().all(|key| kind(&store, key) == "free"));
}

#[test]
fn a_segment_stays_while_anything_in_it_is_alive() {
    let world = World::new();
    let store = world.open();
    run(&store, "early", b"one");
    world.clock.advance(BUCKET / 2);
    run(&store, "late", b"two");
    world.clock.advance(TTL - MS);
    let expired = store.expire().unwrap();
    assert_eq!((expired.segments, expired.responses), (0, 0));
    assert_eq!((kind(&store, "early"), kind(&store, "late")), ("free", "completed"));
    world.clock.advance(LONG_AFTER);
    assert_eq!(store.expire().unwrap().responses, 2);
}

#[test]
fn an_open_claim_outlives_the_segment_that_it_began_in() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "open"));
    permit.save_checkpoint(b"saved").unwrap();
    let (token, operation) = (permit.token(), permit.operation());
    fill(&store, "k", 60);
    world.clock.advance(TTL + LONG_AFTER);
    permit.renew().unwrap();
    assert!(store.expire().unwrap().segments > 4);
    let running = in_progress(claim(&store, "open"));
    assert_eq!((running.token(), running.operation()), (token, operation));
    permit.complete(b"after all").unwrap();
    for store in [world.on(world.disk.after_kill()).open(), store] {
        let stored = replay(claim(&store, "open"));
        assert_eq!((stored.bytes(), stored.token()), (Some(&b"after all"[..]), token));
    }
}

#[test]
fn an_orphan_past_ttl_is_gone_and_counted() {
    let world = World::new();
    let store = world.open();
    let operation = {
        let permit = granted(claim(&store, "k"));
        drop(granted(claim(&store, "other")));
        permit.operation()
    };
    world.clock.advance(TTL - MS);
    assert_eq!(store.expire().unwrap().orphans, 0);
    assert_eq!((kind(&store, "k"), store.unresolved().unwrap().len()), ("orphaned", 2));
    world.clock.advance(MS);
    assert_eq!((kind(&store, "k"), store.unresolved().unwrap().len()), ("free", 0));
    // Either a claim meets it or an expire does; each is counted.
    let permit = granted(store.claim(scope("k"), other_body()).unwrap());
    assert_eq!((permit.attempt(), permit.cause(), permit.checkpoint()), (1, None, None));
    assert_ne!(permit.operation(), operation);
    assert_eq!(store.stats().orphans_expired, 1);
    assert_eq!(store.expire().unwrap().orphans, 1);
    assert_eq!((store.stats().orphans_expired, store.stats().orphans), (2, 0));
    permit.complete(b"").unwrap();
    store.close().unwrap();
    assert_eq!(kind(&world.open(), "other"), "free");
}

#[test]
fn an_orphan_is_past_ttl_after_its_last_attempt_and_not_its_first() {
    let world = World::new();
    let store = world.open();
    drop(granted(claim(&store, "k")));
    world.clock.advance(TTL / 2);
    drop(granted(orphaned(claim(&store, "k")).take_over().unwrap()));
    world.clock.advance(TTL - MS);
    assert_eq!(store.expire().unwrap().orphans, 0);
    store.close().unwrap();
    let store = world.open();
    assert_eq!(orphaned(claim(&store, "k")).info().attempt(), 2);
    world.clock.advance(MS);
    assert_eq!(store.expire().unwrap().orphans, 1);
    assert_eq!(kind(&store, "k"), "free");
}

#[test]
fn a_forward_jump_of_the_clock_expires_nothing_until_accepted() {
    let world = World::new();
    let store = world.open();
    run(&store, "k", b"created");
    drop(granted(claim(&store, "orphan")));
    world.clock.set_wall(start() + 400 * DAY);
    assert_eq!(kind(&store, "k"), "completed");
    assert_eq!(store.expire().unwrap(), Expired::default());
    assert_eq!(claim(&store, "k").kind(), "replay");
    assert_eq!(kind(&store, "orphan"), "orphaned");
    assert!(store.stats().clock_held, "the doubt is told");
    store.accept_clock().unwrap();
    assert!(!store.stats().clock_held);
    assert_eq!((kind(&store, "k"), kind(&store, "orphan")), ("free", "free"));
    let expired = store.expire().unwrap();
    assert_eq!((expired.orphans, expired.responses), (1, 1));
}

#[test]
fn a_jump_that_the_monotonic_clock_confirms_is_no_jump() {
    let world = World::new();
    let store = world.open();
    run(&store, "k", b"created");
    world.clock.advance(400 * DAY);
    assert!(!store.stats().clock_held);
    assert_eq!(kind(&store, "k"), "free");
}

#[test]
fn what_completes_while_a_jump_is_held_is_not_expired_early_when_it_is_accepted() {
    let world = World::new();
    let store = world.open();
    world.clock.set_wall(start() + 400 * DAY);
    let stored = run(&store, "k", b"created");
    assert!(stored.completed_at() < start() + DAY, "store time is not the jump's");
    store.accept_clock().unwrap();
    assert_eq!(kind(&store, "k"), "completed");
    world.clock.advance(TTL - MS);
    assert_eq!(kind(&store, "k"), "completed", "it had its whole ttl");
    world.clock.advance(MS);
    assert_eq!(kind(&store, "k"), "free");
}

#[test]
fn an_accepted_jump_is_still_accepted_after_a_restart_and_a_held_one_still_held() {
    let world = World::new();
    let store = world.open();
    run(&store, "k", b"created");
    world.clock.set_wall(start() + 400 * DAY);
    let killed = world.on(world.disk.after_kill()).open();
    assert!(killed.stats().clock_held, "a year is no holiday");
    assert_eq!(kind(&killed, "k"), "completed");
    store.accept_clock().unwrap();
    let after = world.on(world.disk.after_kill()).open();
    assert!(!after.stats().clock_held);
    assert_eq!(kind(&after, "k"), "free");
}

#[test]
fn store_time_never_goes_back_and_that_is_persisted() {
    let world = World::new();
    let mut store = world.open();
    world.clock.advance(10 * DAY);
    let first = run(&store, "first", b"");
    world.clock.set_wall(start());
    for key in ["second", "third"] {
        let stored = run(&store, key, b"");
        assert!(stored.completed_at() >= first.completed_at(), "{key}");
        assert_eq!(
            granted(claim(&store, &format!("{key}-claim"))).claimed_at(),
            start() + 10 * DAY
        );
        store.close().unwrap();
        store = world.open();
    }
    let killed = world.on(world.disk.after_kill()).open();
    assert!(run(&killed, "fourth", b"").completed_at() >= first.completed_at());
}

#[test]
fn leases_run_on_the_monotonic_clock() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    world.clock.set_wall(start() + 400 * DAY);
    assert_eq!(kind(&store, "k"), "in progress", "a jump lapses no lease");
    world.clock.set_wall(start() - DAY);
    world.clock.advance(LEASE - MS);
    assert_eq!(kind(&store, "k"), "in progress");
    world.clock.advance(MS);
    assert_eq!(kind(&store, "k"), "orphaned", "nor does one keep it");
    permit.complete(b"").unwrap();
    assert!(world.clock.wall() < start());
}

#[test]
fn expiry_goes_on_across_generations_and_never_touches_what_lives() {
    let world = World::new();
    let mut store = world.open();
    let mut generations: Vec<Vec<String>> = Vec::new();
    for generation in 0..40 {
        generations.push(fill(&store, &format!("g{generation}-"), 4));
        world.clock.advance(2 * BUCKET);
        store.expire().unwrap();
        if generation % 7 == 3 {
            store.close().unwrap();
            store = world.open();
        }
        for (born, keys) in generations.iter().enumerate() {
            let age = 2 * BUCKET * u32::try_from(generation + 1 - born).unwrap();
            let expected = if age < TTL { "completed" } else { "free" };
            assert!(keys.iter().all(|key| kind(&store, key) == expected), "{born} at {generation}");
        }
    }
    assert!(segment_names(&world).len() < 30, "{:?}", segment_names(&world));
    assert_eq!(store.claim(scope("g0-0"), body()).unwrap().kind(), "granted");
}

#[test]
fn a_store_whose_every_response_was_dropped_opens_after_a_kill_and_reuses_no_token() {
    let world = World::new();
    let store = world.open();
    let newest = run(&store, "k", b"created").token();
    world.clock.advance(TTL + LONG_AFTER);
    assert_eq!(store.expire().unwrap().segments, 1);
    for _ in 0..3 {
        let after = world.on(world.disk.after_kill()).open();
        assert_eq!(kind(&after, "k"), "free");
        assert!(granted(claim(&after, "k")).token() > newest);
        after.close().unwrap();
    }
}

#[test]
fn on_a_real_disk_the_files_of_past_segments_are_gone_and_the_rest_replays() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new();
    let names = || -> Vec<_> {
        let entries = dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        entries.filter(|name| name.to_string_lossy().ends_with(".seg")).collect()
    };
    let store = world.options().open(dir.path()).unwrap();
    fill(&store, "old", 60);
    let before = names();
    world.clock.advance(TTL / 2);
    let young = fill(&store, "young", 20);
    world.clock.advance(TTL / 2 + LONG_AFTER);
    let expired = store.expire().unwrap();
    assert_eq!(expired.responses, 60);
    let left = names();
    assert!(before.len() > 4 && before.iter().all(|name| !left.contains(name)), "{left:?}");
    store.close().unwrap();
    let store = world.options().create(Create::Never).open(dir.path()).unwrap();
    for key in &young {
        assert_eq!(replay(claim(&store, key)).bytes(), Some(&[7; 5_000][..]));
    }
    assert_eq!(kind(&store, "old0"), "free");
}

#[test]
fn a_run_that_began_beside_an_expired_response_outlives_its_drop() {
    let world = World::new();
    let store = world.open();
    run(&store, "k", b"old");
    world.clock.advance(TTL);
    let permit = granted(claim(&store, "k"));
    world.clock.advance(LONG_AFTER);
    permit.renew().unwrap();
    assert_eq!(store.expire().unwrap().responses, 1);
    permit.complete(b"new").unwrap();
    for store in [world.on(world.disk.after_kill()).open(), store] {
        assert_eq!(replay(claim(&store, "k")).bytes(), Some(&b"new"[..]));
        assert_eq!(store.stats().responses, 1);
    }
}

#[test]
fn a_jump_that_lasts_an_hour_of_monotonic_time_is_accepted() {
    let world = World::new();
    let store = world.open();
    run(&store, "k", b"created");
    world.clock.set_wall(start() + 400 * DAY);
    assert!(store.stats().clock_held);
    let hour = Duration::from_secs(3_600);
    world.clock.advance(hour - MS);
    assert_eq!((store.stats().clock_held, kind(&store, "k")), (true, "completed"));
    world.clock.advance(MS);
    assert_eq!((store.stats().clock_held, kind(&store, "k")), (false, "free"));
}

#[test]
fn every_view_of_an_orphan_agrees_while_a_lapsed_permit_lives_past_its_ttl() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    world.clock.advance(TTL);
    let views = || {
        let listed = store.unresolved().unwrap().len() == 1;
        let found = store.orphan(scope("k")).unwrap().is_some();
        (kind(&store, "k") == "orphaned", listed, found, store.stats().orphans == 1)
    };
    let (looked, listed, found, counted) = views();
    assert!([listed, found, counted] == [looked; 3], "{:?}", views());
    permit.complete(b"very late").unwrap();
    assert_eq!(kind(&store, "k"), "completed");
}

#[test]
fn a_store_works_at_the_beginning_of_time() {
    let world = World { clock: oncelog::ManualClock::at(SystemTime::UNIX_EPOCH), ..World::new() };
    let store = world.open();
    run(&store, "k", b"created");
    store.close().unwrap();
    let store = world.open();
    assert_eq!(claim(&store, "k").kind(), "replay");
    world.clock.advance(TTL);
    assert_eq!(kind(&store, "k"), "free");
    world.clock.advance(LONG_AFTER);
    assert_eq!(store.expire().unwrap().responses, 1);
}
