//! The states of one scope: conflicts, releases, orphans, take-overs, and who may still end what.

use std::sync::Arc;

use oncelog::{Background, Claim, ConflictState, Error, OrphanCause, OrphanPolicy, Permit, Store};

use crate::contract::support::{
    GateDisk, LEASE, MS, World, block_on, body, claim, conflict, granted, in_progress, kind,
    orphaned, other_body, replay, run, scope, start,
};

/// A permit whose lease has just lapsed.
fn lapsed(world: &World, store: &Store, key: &str) -> Permit {
    let permit = granted(claim(store, key));
    world.clock.advance(LEASE);
    permit
}

fn is_superseded<T>(outcome: Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Superseded))
}

#[test]
fn a_different_fingerprint_conflicts_while_running_done_and_orphaned() {
    let world = World::new();
    let store = world.open();
    let clash = |key| conflict(store.claim(scope(key), other_body()).unwrap());
    let permit = granted(claim(&store, "k"));
    let operation = permit.operation();
    let (running, claimed_at) = (clash("k"), permit.claimed_at());
    assert_eq!(running.state(), ConflictState::InProgress);
    world.clock.advance(MS);
    permit.complete(b"done").unwrap();
    let done = clash("k");
    assert_eq!(done.state(), ConflictState::Completed);
    for conflict in [running, done] {
        assert_eq!((conflict.operation(), conflict.claimed_at()), (operation, claimed_at));
    }
    drop(granted(claim(&store, "dropped")));
    let _lapsed = lapsed(&world, &store, "lapsed");
    granted(claim(&store, "failed")).give_up().unwrap();
    for key in ["dropped", "lapsed", "failed"] {
        assert_eq!(clash(key).state(), ConflictState::Orphaned, "{key}");
    }
    assert_eq!(store.stats().conflicts, 5);
    drop(store);
    let store = world.open();
    for key in ["k", "dropped", "lapsed", "failed"] {
        assert_eq!(store.claim(scope(key), other_body()).unwrap().kind(), "conflict", "{key}");
    }
}

#[test]
fn a_different_fingerprint_conflicts_with_an_orphan_under_the_rerun_policy_too() {
    let world = World::new();
    let store = world.open_with(world.options().on_orphan(OrphanPolicy::Rerun));
    drop(granted(claim(&store, "k")));
    assert_eq!(store.claim(scope("k"), other_body()).unwrap().kind(), "conflict");
    assert_eq!(granted(claim(&store, "k")).attempt(), 2);
}

#[test]
fn a_different_fingerprint_never_waits() {
    let store = World::new().open();
    let _permit = granted(claim(&store, "k"));
    let limit = std::time::Duration::MAX;
    conflict(store.claim_or_wait(scope("k"), other_body(), limit).unwrap());
    conflict(block_on(store.claim_or_wait_async(scope("k"), other_body())).unwrap());
}

#[test]
fn a_conflict_carries_no_payload_of_the_first() {
    let store = World::new().open();
    run(&store, "secret-key", b"secret response");
    let conflict = conflict(store.claim(scope("secret-key"), other_body()).unwrap());
    let shown = format!("{conflict:?}");
    assert!(!shown.contains("secret") && !shown.contains(&body().to_string()), "{shown}");
}

#[test]
fn release_frees_the_scope_as_if_never_claimed() {
    let world = World::new();
    let mut store = world.open();
    let first = granted(claim(&store, "k"));
    let (token, operation) = (first.token(), first.operation());
    first.save_checkpoint(b"saved").unwrap();
    first.release().unwrap();
    for round in 0..2 {
        assert_eq!(kind(&store, "k"), "free", "round {round}");
        assert!(store.orphan(scope("k")).unwrap().is_none());
        assert_eq!((store.stats().in_flight, store.stats().orphans), (0, 0));
        store.close().unwrap();
        store = world.open();
    }
    let next = granted(store.claim(scope("k"), other_body()).unwrap());
    assert_eq!((next.attempt(), next.cause(), next.checkpoint()), (1, None, None));
    assert!(next.token() > token && next.operation() != operation);
}

#[test]
fn complete_stores_and_every_retry_gets_the_same() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    let (token, operation) = (permit.token(), permit.operation());
    world.clock.advance(MS);
    let stored = permit.complete(b"created").unwrap();
    assert_eq!((stored.token(), stored.operation()), (token, operation));
    assert_eq!((stored.attempt(), stored.fingerprint()), (1, body()));
    for _ in 0..3 {
        assert_eq!(replay(claim(&store, "k")), stored);
    }
    store.close().unwrap();
    assert_eq!(replay(claim(&world.open(), "k")), stored);
}

#[test]
fn a_dropped_permit_is_an_orphan_at_once_and_never_a_free_scope() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    let (token, operation) = (permit.token(), permit.operation());
    let steps = world.disk.steps();
    drop(permit);
    assert_eq!(world.disk.steps(), steps, "a drop makes no I/O");
    let orphan = orphaned(claim(&store, "k"));
    let info = orphan.info();
    assert_eq!((info.token(), info.operation(), info.attempt()), (token, operation, 1));
    assert_eq!((info.cause(), info.fingerprint()), (OrphanCause::Dropped, body()));
    let fields = (info.organization(), info.method(), info.path(), info.key());
    assert_eq!(fields, ("acme", "POST", "/v1/contacts", "k"));
    assert_eq!(kind(&store, "k"), "orphaned");
    assert_eq!((store.stats().orphaned_dropped, store.stats().orphans), (1, 1));
    drop((orphan, store));
    assert_eq!(kind(&world.open(), "k"), "orphaned");
}

#[test]
fn orphans_are_listed_oldest_first() {
    let world = World::new();
    let store = world.open();
    for key in ["c", "a", "b"] {
        drop(granted(claim(&store, key)));
        world.clock.advance(MS);
    }
    let _running = granted(claim(&store, "running"));
    let keys = |store: &Store| -> Vec<String> {
        store.unresolved().unwrap().iter().map(|info| info.key().to_owned()).collect()
    };
    assert_eq!(keys(&store), ["c", "a", "b"]);
    let again = granted(store.orphan(scope("a")).unwrap().unwrap().take_over().unwrap());
    assert_eq!(keys(&store), ["c", "b"]);
    drop(again);
    store.close().unwrap();
    assert_eq!(keys(&world.open()), ["c", "a", "b", "running"]);
}

#[test]
fn a_lapsed_lease_is_an_orphan_and_not_a_moment_earlier() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    world.clock.advance(LEASE - MS);
    assert_eq!(in_progress(claim(&store, "k")).retry_after(), MS, "never beyond the lease left");
    world.clock.advance(MS);
    assert_eq!(orphaned(claim(&store, "k")).info().cause(), OrphanCause::LeaseLapsed);
    drop(permit);
    assert_eq!(orphaned(claim(&store, "k")).info().cause(), OrphanCause::LeaseLapsed);
    assert_eq!(store.stats().orphaned_lease_lapsed, 1);
    assert_eq!(store.stats().orphaned_dropped, 0, "one attempt is an orphan once");
}

#[test]
fn a_lapsed_lease_that_nobody_took_over_still_completes() {
    let world = World::new();
    let store = world.open();
    let permit = lapsed(&world, &store, "k");
    orphaned(claim(&store, "k"));
    permit.complete(b"late").unwrap();
    assert_eq!(replay(claim(&store, "k")).bytes(), Some(&b"late"[..]));
    let released = lapsed(&world, &store, "released");
    orphaned(claim(&store, "released"));
    released.release().unwrap();
    assert_eq!(kind(&store, "released"), "free");
    let failed = lapsed(&world, &store, "failed");
    failed.give_up().unwrap();
    assert_eq!(orphaned(claim(&store, "failed")).info().cause(), OrphanCause::Failed);
}

#[test]
fn renew_extends_the_lease_without_io_and_revives_a_lapsed_one() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    let steps = world.disk.steps();
    for _ in 0..3 {
        world.clock.advance(LEASE - MS);
        permit.renew().unwrap();
        assert_eq!(kind(&store, "k"), "in progress");
    }
    world.clock.advance(LEASE);
    assert_eq!(kind(&store, "k"), "orphaned");
    permit.renew().unwrap();
    assert_eq!(kind(&store, "k"), "in progress");
    assert_eq!(world.disk.steps(), steps);
    permit.complete(b"").unwrap();
}

#[test]
fn an_orphan_release_is_invalid_while_a_lapsed_permit_lives() {
    let world = World::new();
    let store = world.open();
    let permit = lapsed(&world, &store, "k");
    let orphan = || store.orphan(scope("k")).unwrap().unwrap();
    assert!(matches!(orphan().release(), Err(Error::Invalid { .. })));
    assert!(matches!(block_on(orphan().release_async()), Err(Error::Invalid { .. })));
    assert_eq!(kind(&store, "k"), "orphaned", "nothing was changed");
    drop(permit);
    orphan().release().unwrap();
    assert_eq!(kind(&store, "k"), "free");
    assert_eq!(granted(claim(&store, "k")).attempt(), 1);
}

#[test]
fn take_over_keeps_the_operation_and_raises_attempt_and_token() {
    let world = World::new();
    let mut store = world.open();
    let first = granted(claim(&store, "k"));
    let (operation, claimed_at) = (first.operation(), first.claimed_at());
    let mut token = first.token();
    drop(first);
    for attempt in 2..6 {
        if attempt == 4 {
            store.close().unwrap();
            store = world.open();
        }
        world.clock.advance(MS);
        let permit = granted(orphaned(claim(&store, "k")).take_over().unwrap());
        assert_eq!((permit.operation(), permit.claimed_at()), (operation, claimed_at));
        assert_eq!((permit.attempt(), permit.fingerprint()), (attempt, body()));
        let cause = if attempt == 4 { OrphanCause::Crash } else { OrphanCause::Dropped };
        assert_eq!(permit.cause(), Some(cause), "attempt {attempt}");
        assert!(permit.token() > token);
        token = permit.token();
        assert_eq!(in_progress(claim(&store, "k")).attempt(), attempt);
    }
    let permit = granted(orphaned(claim(&store, "k")).take_over().unwrap());
    assert_eq!(permit.scope(), scope("k"));
    let stored = permit.complete(b"at last").unwrap();
    assert_eq!((stored.operation(), stored.attempt()), (operation, 6));
    assert_eq!(replay(claim(&store, "k")), stored);
}

#[test]
fn a_permit_whose_attempt_was_taken_over_changes_nothing() {
    let world = World::new();
    let store = world.open();
    let permits: Vec<Permit> =
        ["a", "b", "c", "d", "e", "f"].map(|key| granted(claim(&store, key))).into();
    world.clock.advance(LEASE);
    let taken: Vec<Permit> = permits
        .iter()
        .map(|permit| store.orphan(permit.scope()).unwrap().unwrap())
        .map(|orphan| granted(orphan.take_over().unwrap()))
        .collect();
    let records = store.stats().records;
    let mut permits = permits.into_iter();
    let mut next = || permits.next().unwrap();
    assert!(is_superseded(next().complete(b"late")));
    assert!(is_superseded(next().release()));
    assert!(is_superseded(next().give_up()));
    let renewing = next();
    assert!(is_superseded(renewing.renew()));
    drop(renewing);
    let saving = next();
    assert!(is_superseded(saving.save_checkpoint(b"late")));
    drop(saving);
    assert!(is_superseded(block_on(next().complete_async(b"late"))));
    assert_eq!(store.stats().records, records, "nothing was written");
    for permit in taken {
        let running = in_progress(claim(&store, permit.scope().key));
        assert_eq!((running.token(), running.attempt()), (permit.token(), 2));
        permit.complete(b"mine").unwrap();
    }
    for key in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(replay(claim(&store, key)).bytes(), Some(&b"mine"[..]));
    }
}

#[test]
fn a_permit_whose_attempt_was_resolved_changes_nothing() {
    let world = World::new();
    let store = world.open();
    let (first, second) = (granted(claim(&store, "a")), granted(claim(&store, "b")));
    world.clock.advance(LEASE);
    for key in ["a", "b"] {
        let orphan = store.orphan(scope(key)).unwrap().unwrap();
        let stored = orphan.resolve(b"found").unwrap();
        assert_eq!((stored.bytes(), stored.attempt()), (Some(&b"found"[..]), 1));
    }
    assert!(is_superseded(first.renew()) && is_superseded(first.save_checkpoint(b"")));
    assert!(is_superseded(first.complete(b"late")));
    assert!(is_superseded(second.release()));
    for store in [&store, &world.on(world.disk.after_kill()).open()] {
        for key in ["a", "b"] {
            assert_eq!(replay(claim(store, key)).bytes(), Some(&b"found"[..]));
        }
    }
}

#[test]
fn an_orphan_names_one_attempt() {
    let world = World::new();
    let store = world.open();
    drop(granted(claim(&store, "k")));
    let stale = || store.orphan(scope("k")).unwrap().unwrap();
    let orphans = [stale(), stale(), stale(), stale(), stale(), stale()];
    let [taker, late, resolver, releaser, after, gone] = orphans;
    let permit = granted(taker.take_over().unwrap());
    assert_eq!(in_progress(late.take_over().unwrap()).token(), permit.token());
    drop(permit);
    // The second attempt is an orphan too, but it is not the one that these name.
    assert!(is_superseded(resolver.resolve(b"stale")));
    assert!(is_superseded(releaser.release()));
    let Claim::Orphaned(current) = after.take_over().unwrap() else { panic!("another attempt") };
    assert_eq!(current.info().attempt(), 2);
    current.release().unwrap();
    assert!(is_superseded(gone.take_over()));
    assert_eq!(kind(&store, "k"), "free");
}

#[test]
fn an_orphan_that_somebody_completed_is_replayed_to_a_take_over() {
    let world = World::new();
    let store = world.open();
    let permit = lapsed(&world, &store, "k");
    let orphan = orphaned(claim(&store, "k"));
    let second = orphaned(claim(&store, "k"));
    permit.complete(b"late").unwrap();
    assert_eq!(replay(orphan.take_over().unwrap()).bytes(), Some(&b"late"[..]));
    assert!(is_superseded(second.resolve(b"other")));
}

#[test]
fn a_claim_whose_completion_is_being_written_is_in_progress_to_a_take_over_too() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let options = world.options().background(Background::Threads);
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    let permit = lapsed(&world, &store, "k");
    let [taker, resolver, releaser] = [(); 3].map(|()| orphaned(claim(&store, "k")));
    let gate = disk.hold();
    let completing = permit.complete_async(b"late");
    gate.await_sync();
    in_progress(claim(&store, "k"));
    assert_eq!(kind(&store, "k"), "in progress", "no retry sees it before it is durable");
    in_progress(taker.take_over().unwrap());
    assert!(is_superseded(resolver.resolve(b"other")));
    assert!(is_superseded(releaser.release()));
    assert!(store.orphan(scope("k")).unwrap().is_none());
    drop(gate);
    assert_eq!(block_on(completing).unwrap().bytes(), Some(&b"late"[..]));
    assert_eq!(replay(claim(&store, "k")).bytes(), Some(&b"late"[..]));
}

#[test]
fn a_given_up_claim_is_an_orphan_now_and_keeps_its_cause_across_a_restart() {
    let world = World::new();
    let store = world.open();
    granted(claim(&store, "k")).give_up().unwrap();
    assert_eq!(orphaned(claim(&store, "k")).info().cause(), OrphanCause::Failed);
    assert_eq!(store.stats().orphaned_failed, 1);
    let killed = world.on(world.disk.after_kill()).open();
    assert_eq!(orphaned(claim(&killed, "k")).info().cause(), OrphanCause::Failed);
    store.close().unwrap();
    let store = world.open();
    assert_eq!(store.unresolved().unwrap()[0].cause(), OrphanCause::Failed);
    let permit = granted(orphaned(claim(&store, "k")).take_over().unwrap());
    assert_eq!(permit.cause(), Some(OrphanCause::Failed));
}

#[test]
fn the_next_attempt_sees_the_checkpoint_saved_last() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    assert_eq!(permit.checkpoint(), None);
    permit.save_checkpoint(b"one").unwrap();
    permit.save_checkpoint(b"two").unwrap();
    let killed = world.on(world.disk.after_kill()).open();
    for store in [&store, &killed] {
        if store.orphan(scope("k")).unwrap().is_none() {
            in_progress(claim(store, "k"));
        }
    }
    let orphan = orphaned(claim(&killed, "k"));
    assert_eq!(orphan.info().checkpoint(), Some(&b"two"[..]));
    assert_eq!(granted(orphan.take_over().unwrap()).checkpoint(), Some(&b"two"[..]));
    drop(permit);
    let second = granted(orphaned(claim(&store, "k")).take_over().unwrap());
    assert_eq!(second.checkpoint(), Some(&b"two"[..]));
    block_on(second.save_checkpoint_async(b"")).unwrap();
    second.give_up().unwrap();
    drop(store);
    let third = granted(orphaned(claim(&world.open(), "k")).take_over().unwrap());
    assert_eq!((third.attempt(), third.checkpoint()), (3, Some(&b""[..])));
}

#[test]
fn a_checkpoint_is_kept_by_an_attempt_that_saves_none() {
    let world = World::new();
    let store = world.open();
    granted(claim(&store, "k")).save_checkpoint(b"saved").unwrap();
    for _ in 0..3 {
        drop(granted(orphaned(claim(&store, "k")).take_over().unwrap()));
    }
    store.close().unwrap();
    assert_eq!(orphaned(claim(&world.open(), "k")).info().checkpoint(), Some(&b"saved"[..]));
}

#[test]
fn under_the_rerun_policy_a_claim_of_an_orphan_takes_it_over() {
    let world = World::new();
    let options = || world.options().on_orphan(OrphanPolicy::Rerun);
    let store = world.open_with(options());
    let first = granted(claim(&store, "k"));
    let (token, operation) = (first.token(), first.operation());
    first.save_checkpoint(b"saved").unwrap();
    store.close().unwrap();
    let store = world.open_with(options());
    let second = granted(claim(&store, "k"));
    assert_eq!((second.attempt(), second.operation()), (2, operation));
    assert_eq!(
        (second.cause(), second.checkpoint()),
        (Some(OrphanCause::Crash), Some(&b"saved"[..]))
    );
    assert!(second.token() > token);
    assert!(matches!(first.complete(b""), Err(Error::Closed)));
    second.complete(b"done").unwrap();
    assert_eq!(claim(&store, "k").kind(), "replay");
}

#[test]
fn who_ended_an_orphan_and_when_is_in_the_stats() {
    let world = World::new();
    let store = world.open();
    assert_eq!(store.stats().orphan_ended_last, None);
    for key in ["taken over", "resolved", "released"] {
        drop(granted(claim(&store, key)));
    }
    let orphan = orphaned(claim(&store, "taken over"));
    granted(orphan.take_over().unwrap()).complete(b"created").unwrap();
    assert_eq!(store.stats().orphan_ended_last, None);
    world.clock.advance(MS);
    orphaned(claim(&store, "resolved")).resolve(b"found").unwrap();
    world.clock.advance(MS);
    orphaned(claim(&store, "released")).release().unwrap();
    let stats = store.stats();
    let counts = [stats.orphans_taken_over, stats.orphans_resolved, stats.orphans_released];
    assert_eq!((counts, stats.orphan_ended_last), ([1; 3], Some(start() + 2 * MS)));
}

#[test]
fn the_log_says_who_released_a_claim() {
    let world = World::new();
    let store = world.open();
    // A RELEASE ends with the token of its claim and the reason.
    let reason = |token: oncelog::Token| {
        let log = world.disk.read("0000000000000001.seg").expect("the first segment");
        let token = token.get().to_le_bytes();
        let at = log.windows(token.len()).rposition(|bytes| bytes == token).expect("a RELEASE");
        log[at + token.len()]
    };
    let permit = granted(claim(&store, "by its holder"));
    let token = permit.token();
    permit.release().unwrap();
    assert_eq!(reason(token), 0);
    let permit = granted(claim(&store, "by who found it"));
    let token = permit.token();
    drop(permit);
    orphaned(claim(&store, "by who found it")).release().unwrap();
    assert_eq!(reason(token), 2);
}
