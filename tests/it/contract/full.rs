//! A disk without room, a budget, and a bound on one tenant: new claims are refused, and nothing
//! else is. Every granted claim, orphans included, completes, at worst without its response, or is
//! released; and the store opens again without one byte of room.

use std::collections::BTreeMap;

use oncelog::{Claim, Durability, Error, Permit, Scope, Store};

use crate::contract::support::{
    BUCKET, BUFFERED, SEGMENT_BYTES, TTL, World, body, claim, granted, kind, other_body, replay,
    run, scope,
};
use crate::support::disk::{SimDisk, Survival};

/// Pairs that a store has taken when the disk fills up: enough for some segments.
const PAIRS: usize = 50;

/// What was acknowledged: keys, and whether the response was kept.
type Done = BTreeMap<String, bool>;

fn response(key: &str) -> Vec<u8> {
    key.bytes().cycle().take(900 + 37 * key.len()).collect()
}

fn is_full<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Full { .. }))
}

/// Claims that are open when the disk is full, one of them with a checkpoint.
struct Held(Vec<(String, Permit)>);

impl Held {
    fn take(store: &Store) -> Held {
        let held = |nth| {
            let key = format!("held{nth}");
            let permit = granted(claim(store, &key));
            (key, permit)
        };
        let held: Vec<_> = (0..8).map(held).collect();
        held[7].1.save_checkpoint(&[7; 500]).unwrap();
        Held(held)
    }

    /// Ends all but the last two, each in a way of its own.
    fn end_most(&mut self, store: &Store, done: &mut Done) {
        for (nth, (key, permit)) in self.0.drain(..6).enumerate() {
            match nth {
                0 => permit.release().unwrap(),
                1 => {
                    permit.complete_without_response().unwrap();
                    done.insert(key, false);
                }
                2 | 3 => {
                    drop(permit);
                    let orphan = store.orphan(scope(&key)).unwrap().expect("it was dropped");
                    if nth == 2 {
                        orphan.release().unwrap();
                    } else {
                        let stored = orphan.resolve(&response(&key)).unwrap();
                        done.insert(key, stored.bytes().is_some());
                    }
                }
                _ => {
                    let stored = permit.complete(&response(&key)).unwrap();
                    done.insert(key, stored.bytes().is_some());
                }
            }
        }
    }
}

/// Claims and completes until a claim is refused.
fn until_full(store: &Store, done: &mut Done) {
    loop {
        let key = format!("k{}", done.len());
        match store.claim(scope(&key), body()) {
            Ok(claim) => {
                let stored = granted(claim).complete(&response(&key)).unwrap();
                done.insert(key, stored.bytes().is_some());
            }
            Err(Error::Full { .. }) => return,
            Err(error) => panic!("{key}: {error}"),
        }
        assert!(done.len() < 2_000, "it is never full");
    }
}

fn check(store: &Store, done: &Done) {
    for (key, kept) in done {
        let stored = replay(claim(store, key));
        assert_eq!(stored.bytes(), kept.then(|| response(key)).as_deref(), "{key}");
        assert_eq!(store.claim(scope(key), other_body()).unwrap().kind(), "conflict", "{key}");
    }
}

/// The two that were open at the crash are orphans, and the one has its checkpoint.
fn check_crashed(store: &Store) {
    for (key, saved) in [("held6", None), ("held7", Some(&[7; 500][..]))] {
        let orphan = store.orphan(scope(key)).unwrap().expect(key);
        assert_eq!(orphan.info().checkpoint(), saved, "{key}");
    }
}

/// A store that took so many pairs before the disk was full to the last page, and the claims that
/// it has open.
fn full_store(world: &World, durability: Durability, pairs: usize) -> (Store, Held, Done) {
    let store = world.open_with(world.options().durability(durability));
    let (held, mut done) = (Held::take(&store), Done::new());
    for _ in 0..pairs {
        let key = format!("k{}", done.len());
        run(&store, &key, &response(&key));
        done.insert(key, true);
    }
    world.disk.limit(Some(world.disk.taken()));
    until_full(&store, &mut done);
    (store, held, done)
}

/// The same disk, as the next process finds it, as full as it was.
fn after_kill(world: &World) -> World {
    world.on(world.disk.after_kill())
}

#[test]
fn on_a_full_disk_claims_alone_are_refused_and_every_granted_claim_ends() {
    for durability in [Durability::Synced, BUFFERED] {
        for pairs in 0..PAIRS {
            for bucket_ends in [false, true] {
                let world = World::new();
                let (store, mut held, mut done) = full_store(&world, durability, pairs);
                assert_eq!(claim(&store, "held0").kind(), "in_progress");
                if bucket_ends {
                    world.clock.advance(BUCKET);
                }
                check(&store, &done);
                assert!(store.stats().reserved_bytes > 0 && store.stats().refused > 0);
                held.end_most(&store, &mut done);
                check(&store, &done);
                assert_eq!(kind(&store, "held0"), "free");
                world.disk.limit(None);
                run(&store, "room again", b"created");
                check(&store, &done);
            }
        }
    }
}

#[test]
fn a_store_opens_on_a_full_disk_after_a_crash_and_after_a_close() {
    for durability in [Durability::Synced, BUFFERED] {
        for pairs in 0..PAIRS {
            let mut world = World::new();
            let (store, mut held, mut done) = full_store(&world, durability, pairs);
            held.end_most(&store, &mut done);
            // Killed again and again, with nothing done in between.
            let mut stores = vec![store];
            for _ in 0..3 {
                world = after_kill(&world);
                let store = world.open_with(world.options().durability(durability));
                check_crashed(&store);
                check(&store, &done);
                stores.push(store);
            }
            let store = stores.pop().unwrap();
            store.orphan(scope("held6")).unwrap().unwrap().release().unwrap();
            world = after_kill(&world);
            let next = world.open_with(world.options().durability(durability));
            assert_eq!(kind(&next, "held6"), "free", "{pairs}");
            let orphan = next.orphan(scope("held7")).unwrap().unwrap();
            let resolved = orphan.resolve(&response("held7")).unwrap();
            done.insert("held7".to_owned(), resolved.bytes().is_some());
            next.close().unwrap();
            for _ in 0..2 {
                let store = world.open_with(world.options().durability(durability));
                check(&store, &done);
                store.close().unwrap();
            }
            world.disk.limit(None);
            run(&world.open(), "room again", b"created");
        }
    }
}

#[test]
fn a_crash_at_any_step_of_an_open_on_a_full_disk_loses_nothing() {
    let mut points = 0;
    for pairs in (0..PAIRS).step_by(3) {
        let world = World::new();
        let (store, mut held, mut done) = full_store(&world, Durability::Synced, pairs);
        held.end_most(&store, &mut done);
        let crashed = |seed| -> SimDisk {
            let disk = world.disk.after_power_cut(seed, Survival::Random);
            // What a crash gives back, such as blocks of a name that was not durable, is taken.
            disk.limit(Some(disk.taken()));
            disk
        };
        for seed in 0..4 {
            let steps = {
                let world = world.on(crashed(seed));
                let store = world.open();
                check_crashed(&store);
                check(&store, &done);
                world.disk.steps()
            };
            for step in 0..steps {
                let disk = crashed(seed);
                disk.crash_at(step);
                let broken = world.options().open_on(std::sync::Arc::new(disk.clone()));
                drop(broken);
                for next in [disk.after_kill(), disk.after_power_cut(step, Survival::Random)] {
                    let world = world.on(next);
                    let store = world.open();
                    check_crashed(&store);
                    check(&store, &done);
                    points += 1;
                }
            }
        }
        drop(store);
    }
    assert!(points >= 1_000, "{points} crash points");
    println!("{points} crash points of opens on a full disk");
}

#[test]
fn past_the_budget_claims_alone_are_refused_until_a_segment_expires() {
    let budget = 4 * SEGMENT_BYTES;
    for durability in [Durability::Synced, BUFFERED] {
        let world = World::new();
        let options = || world.options().durability(durability).disk_budget_bytes(budget);
        let store = world.open_with(options());
        let (mut held, mut done) = (Held::take(&store), Done::new());
        assert!(store.stats().headroom_bytes > 2 * SEGMENT_BYTES);
        until_full(&store, &mut done);
        let stats = store.stats();
        assert!(stats.disk_bytes > budget - SEGMENT_BYTES, "{stats:?}");
        assert!(stats.disk_bytes <= budget + 64 * 1024, "{stats:?}");
        assert!(stats.headroom_bytes < 4_096, "{stats:?}");
        check(&store, &done);
        held.end_most(&store, &mut done);
        check(&store, &done);
        drop(store);
        let store = world.on(world.disk.after_kill()).open_with(options());
        check(&store, &done);
        check_crashed(&store);
        world.clock.advance(TTL + 2 * BUCKET);
        assert!(store.expire().unwrap().segments > 0);
        run(&store, "room again", b"created");
        assert!(store.stats().headroom_bytes > 2 * SEGMENT_BYTES, "{:?}", store.stats());
    }
}

#[test]
fn disk_bytes_are_those_that_the_files_take() {
    let world = World::new();
    let store = world.open();
    for n in 0..200 {
        let key = format!("k{n}");
        run(&store, &key, &response(&key));
    }
    store.close().unwrap();
    let store = world.open();
    let disk = || {
        let fixed = ["SUPER", "CHECKPOINT"].map(|name| world.disk.read(name).unwrap().len());
        world.disk.taken() - fixed.iter().sum::<usize>().next_multiple_of(4096) as u64
    };
    // But for what the process before left ready in the newest segment, and that one's hints.
    let bytes = store.stats().disk_bytes;
    assert!((bytes..=bytes + SEGMENT_BYTES + 8_192).contains(&disk()), "{bytes}, {}", disk());
    assert!(bytes > 4 * SEGMENT_BYTES);
    world.clock.advance(TTL + 2 * BUCKET);
    let expired = store.expire().unwrap();
    assert!(expired.bytes > 4 * SEGMENT_BYTES, "{expired:?}");
    assert_eq!(store.stats().disk_bytes, disk());
}

#[test]
fn one_organization_cannot_have_more_claims_open_than_its_bound() {
    let world = World::new();
    let options = || world.options().open_claims_per_organization_max(3);
    let of = |organization, key| Scope { organization, ..scope(key) };
    let store = world.open_with(options());
    run(&store, "done", b"created");
    let mut permits: Vec<_> = ["a", "b", "c"].map(|key| granted(claim(&store, key))).into();
    let refused = store.claim(scope("d"), body());
    assert!(is_full(&refused), "{refused:?}");
    assert_eq!(claim(&store, "done").kind(), "replay");
    assert_eq!(claim(&store, "a").kind(), "in_progress");
    let others = store.claim(of("others", "d"), body()).unwrap();
    assert_eq!(others.kind(), "granted");
    permits.pop().unwrap().release().unwrap();
    permits.push(granted(claim(&store, "d")));
    // An orphan counts, and can be taken over.
    drop(permits.pop().unwrap());
    assert!(is_full(&store.claim(scope("e"), body())));
    let Claim::Orphaned(orphan) = claim(&store, "d") else { panic!("it was dropped") };
    permits.push(granted(orphan.take_over().unwrap()));
    assert!(is_full(&store.claim(scope("e"), body())));
    // So do those of an earlier process.
    let world = world.on(world.disk.after_kill());
    let next = world.open_with(world.options().open_claims_per_organization_max(3));
    assert!(is_full(&next.claim(scope("e"), body())));
    for key in ["a", "b", "d"] {
        next.orphan(scope(key)).unwrap().expect(key).resolve(b"found").unwrap();
    }
    granted(claim(&next, "e")).complete(b"created").unwrap();
    let (store, next) = (store.stats().refused, next.stats().refused);
    assert_eq!((store, next), (3, 1));
}

#[test]
fn a_budget_of_less_than_two_segments_and_a_bound_of_no_claims_are_invalid() {
    let world = World::new();
    let bad = [
        world.options().disk_budget_bytes(2 * SEGMENT_BYTES - 1),
        world.options().open_claims_per_organization_max(0),
    ];
    for options in bad {
        let refused = options.open_on(std::sync::Arc::new(world.disk.clone()));
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    assert!(world.disk.names().is_empty());
}
