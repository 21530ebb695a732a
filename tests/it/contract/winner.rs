//! One winner: however many callers ask at once, one runs.

use std::collections::BTreeSet;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use oncelog::{Background, Claim, Durability, Error, Options, OrphanPolicy, Store};

use crate::contract::support::{BUFFERED, World, body, claim, granted, kind, run, scope, until};

const CALLERS: usize = 16;

/// Lets every caller go at the same time and collects what they got.
fn at_once<T: Send>(callers: usize, call: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(callers);
    thread::scope(|scope| {
        let caller = |number| {
            let (barrier, call) = (&barrier, &call);
            scope.spawn(move || {
                barrier.wait();
                call(number)
            })
        };
        let threads: Vec<_> = (0..callers).map(caller).collect();
        threads.into_iter().map(|thread| thread.join().expect("no caller panics")).collect()
    })
}

fn in_every_mode(test: impl Fn(&World, Options)) {
    for durability in [Durability::Synced, BUFFERED] {
        for background in [Background::Threads, Background::Inline] {
            let world = World::new();
            test(&world, world.options().durability(durability).background(background));
        }
    }
}

#[test]
fn however_many_threads_claim_one_scope_one_is_granted() {
    in_every_mode(|world, options| {
        let store = world.open_with(options);
        for round in 0..20 {
            let key = format!("k{round}");
            let claims = at_once(CALLERS, |_| claim(&store, &key));
            let kinds: Vec<_> = claims.iter().map(Claim::kind).collect();
            let count = |kind| kinds.iter().filter(|other| **other == kind).count();
            assert_eq!((count("granted"), count("in_progress")), (1, CALLERS - 1), "{kinds:?}");
        }
        assert_eq!(store.stats().granted, 20);
    });
}

#[test]
fn sixteen_threads_over_a_thousand_scopes_get_exactly_a_thousand_grants() {
    for durability in [Durability::Synced, BUFFERED] {
        let world = World::new();
        let options = world.options().segment_bytes(64 << 20).durability(durability);
        let store = world.open_with(options.background(Background::Threads));
        let grants = at_once(CALLERS, |caller| {
            let mut grants = Vec::new();
            for step in 0..1_000 {
                // Half the callers come the other way, so that they meet everywhere.
                let number = if caller % 2 == 0 { step } else { 999 - step };
                let key = format!("k{number}");
                match claim(&store, &key) {
                    Claim::Granted(permit) => {
                        grants.push((permit.token(), permit.operation()));
                        permit.complete(key.as_bytes()).unwrap();
                    }
                    Claim::Replay(stored) => assert_eq!(stored.bytes(), Some(key.as_bytes())),
                    Claim::InProgress(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            grants
        });
        let grants: Vec<_> = grants.into_iter().flatten().collect();
        assert_eq!(grants.len(), 1_000);
        let tokens: BTreeSet<_> = grants.iter().map(|(token, _)| *token).collect();
        let operations: BTreeSet<_> = grants.iter().map(|(_, operation)| *operation).collect();
        assert_eq!((tokens.len(), operations.len()), (1_000, 1_000));
        assert_eq!(store.stats().granted, 1_000);
    }
}

#[test]
fn every_waiting_caller_gets_the_response_of_the_one_winner() {
    in_every_mode(|world, options| {
        let store = world.open_with(options);
        let runs = Mutex::new(0);
        let limit = std::time::Duration::MAX;
        at_once(CALLERS, |_| match store.claim_or_wait(scope("k"), body(), limit).unwrap() {
            Claim::Granted(permit) => {
                *runs.lock().unwrap() += 1;
                permit.complete(b"created").unwrap();
            }
            Claim::Replay(stored) => assert_eq!(stored.bytes(), Some(&b"created"[..])),
            other => panic!("{other:?}"),
        });
        assert_eq!(*runs.lock().unwrap(), 1);
    });
}

#[test]
fn releases_hand_the_scope_from_waiter_to_waiter_one_at_a_time() {
    in_every_mode(|world, options| {
        let store = world.open_with(options);
        let running = Mutex::new(0_u32);
        let limit = std::time::Duration::MAX;
        at_once(CALLERS, |_| {
            let permit = granted(store.claim_or_wait(scope("k"), body(), limit).unwrap());
            let alone = running.try_lock().expect("two callers ran at once");
            assert_eq!(permit.attempt(), 1);
            drop(alone);
            permit.release().unwrap();
        });
        until(|| kind(&store, "k") == "free");
        assert_eq!(store.stats().granted, CALLERS as u64);
    });
}

#[test]
fn of_many_who_take_an_orphan_over_one_wins_and_the_others_see_it_in_progress() {
    in_every_mode(|world, options| {
        let store = world.open_with(options);
        drop(granted(claim(&store, "k")));
        let orphans: Vec<_> =
            (0..CALLERS).map(|_| Mutex::new(store.orphan(scope("k")).unwrap())).collect();
        let claims = at_once(CALLERS, |caller| {
            let orphan = orphans[caller].lock().unwrap().take().unwrap();
            orphan.take_over().unwrap()
        });
        let kinds: Vec<_> = claims.iter().map(Claim::kind).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == "granted").count(), 1, "{kinds:?}");
        assert!(kinds.iter().all(|kind| ["granted", "in_progress"].contains(kind)), "{kinds:?}");
    });
}

#[test]
fn under_the_rerun_policy_many_claims_of_an_orphan_get_one_grant() {
    in_every_mode(|world, options| {
        let store = world.open_with(options.on_orphan(OrphanPolicy::Rerun));
        drop(granted(claim(&store, "k")));
        let claims = at_once(CALLERS, |_| claim(&store, "k"));
        let attempts: Vec<_> = claims
            .iter()
            .filter_map(|claim| match claim {
                Claim::Granted(permit) => Some(permit.attempt()),
                Claim::InProgress(_) => None,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(attempts, [2]);
    });
}

#[test]
fn one_winner_holds_for_a_scope_whose_response_has_expired() {
    let world = World::new();
    let store = world.open_with(world.options().background(Background::Threads));
    run(&store, "k", b"old");
    world.clock.advance(crate::contract::support::TTL);
    let claims = at_once(CALLERS, |_| claim(&store, "k"));
    assert_eq!(claims.iter().filter(|claim| claim.kind() == "granted").count(), 1);
}

#[test]
fn a_store_is_send_and_sync_and_its_clones_share_it() {
    fn is_shared<T: Send + Sync + Clone + 'static>() {}
    is_shared::<Store>();
    let store = Arc::new(World::new().open());
    let clone = Store::clone(&store);
    let permit = granted(claim(&store, "k"));
    assert_eq!(claim(&clone, "k").kind(), "in_progress");
    permit.complete(b"").unwrap();
    assert_eq!(claim(&clone, "k").kind(), "replay");
}

#[test]
fn what_was_acknowledged_before_a_close_in_the_middle_of_the_traffic_is_there() {
    for durability in [Durability::Synced, BUFFERED] {
        let world = World::new();
        let options = || world.options().durability(durability).background(Background::Threads);
        let store = world.open_with(options());
        let acknowledged = at_once(4, |caller| {
            let mut keys = Vec::new();
            loop {
                if caller == 0 && keys.len() == 40 {
                    store.clone().close().unwrap();
                }
                let key = format!("{caller}-{}", keys.len());
                let claimed = store.claim(scope(&key), body()).map(granted);
                match claimed.and_then(|permit| permit.complete(key.as_bytes())) {
                    Ok(_) => keys.push(key),
                    Err(Error::Closed) => return keys,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let store = world.open_with(options());
        assert!(store.recovery().clean, "{:?}", store.recovery());
        assert_eq!(acknowledged[0].len(), 40);
        for key in acknowledged.iter().flatten() {
            assert_eq!(kind(&store, key), "completed", "{key}");
        }
    }
}
