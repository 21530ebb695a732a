//! What is forgotten is gone: for readers, after a crash, and from the bytes on disk.

use std::thread;

use oncelog::{Claim, Durability, Error, Fingerprint, Scope, Store};

use crate::contract::support::{
    BUFFERED, DAY, World, body, claim, granted, kind, orphaned, replay, run, scope,
};
use crate::support::disk::{SimDisk, Survival};

/// Whether any file holds these bytes.
fn holds(disk: &SimDisk, needle: &[u8]) -> bool {
    let files = disk.names().into_iter().filter_map(|name| disk.read(&name));
    files.into_iter().any(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
}

fn of<'a>(organization: &'a str, key: &'a str) -> Scope<'a> {
    Scope { organization, method: "POST", path: "/v1/things", key }
}

fn run_for(store: &Store, organization: &str, key: &str, response: &[u8]) {
    let Ok(Claim::Granted(permit)) = store.claim(of(organization, key), body()) else {
        panic!("{organization} {key} is not free")
    };
    permit.complete(response).unwrap();
}

#[test]
fn a_forgotten_response_is_gone_for_readers_and_from_every_file() {
    for durability in [Durability::Synced, BUFFERED] {
        let world = World::new();
        let store = world.open_with(world.options().durability(durability));
        let first = granted(claim(&store, "forget-this-key"));
        first.save_checkpoint(b"half of a secret").unwrap();
        first.give_up().unwrap();
        let operation = match orphaned(claim(&store, "forget-this-key")).take_over().unwrap() {
            Claim::Granted(second) => second.complete(b"the secret response").unwrap().operation(),
            other => panic!("{other:?}"),
        };
        run(&store, "kept", b"kept response");
        assert!(holds(&world.disk, b"forget-this-key") || durability == Durability::Synced);
        assert!(store.forget(scope("forget-this-key")).unwrap());
        for gone in [&b"forget-this-key"[..], b"half of a secret", b"the secret response"] {
            assert!(!holds(&world.disk, gone), "{:?} {durability:?}", str::from_utf8(gone));
        }
        assert!(!store.forget(scope("forget-this-key")).unwrap(), "twice");
        let again = granted(claim(&store, "forget-this-key"));
        assert_ne!(again.operation(), operation);
        assert_eq!(again.attempt(), 1);
        again.release().unwrap();
        assert_eq!(replay(claim(&store, "kept")).bytes(), Some(&b"kept response"[..]));
        store.close().unwrap();
        let store = world.open();
        assert_eq!((kind(&store, "forget-this-key"), kind(&store, "kept")), ("free", "completed"));
    }
}

#[test]
fn nothing_is_forgotten_by_halves_where_a_damaged_record_hides_what_led_to_it() {
    let world = World::new();
    let store = world.open();
    run(&store, "before", b"the response before");
    run(&store, "sought", b"the response sought");
    let name = "0000000000000001.seg";
    let bytes = world.disk.read(name).unwrap();
    let at = bytes.windows(19).position(|window| window == b"the response before").unwrap();
    world.disk.corrupt(name, at as u64, 1);
    let forgotten = store.forget(scope("sought"));
    assert!(matches!(forgotten, Err(Error::Corrupt { segment: 1, .. })), "{forgotten:?}");
    let forgotten = store.forget_organization("acme");
    assert!(matches!(forgotten, Err(Error::Corrupt { segment: 1, .. })), "{forgotten:?}");
    assert_eq!(replay(claim(&store, "sought")).bytes(), Some(&b"the response sought"[..]));
    world.disk.corrupt(name, at as u64, 1);
    assert_eq!(replay(claim(&store, "before")).bytes(), Some(&b"the response before"[..]));
    assert!(store.forget(scope("sought")).unwrap());
    assert_eq!(store.forget_organization("acme").unwrap(), 1);
    assert!(!holds(&world.disk, b"the response"));
}

#[test]
fn an_open_claim_an_orphan_and_a_free_scope_are_not_forgotten() {
    let world = World::new();
    let store = world.open();
    assert!(!store.forget(scope("free")).unwrap());
    let permit = granted(claim(&store, "running"));
    assert!(!store.forget(scope("running")).unwrap());
    drop(permit);
    assert!(!store.forget(scope("running")).unwrap());
    assert_eq!(kind(&store, "running"), "orphaned");
}

#[test]
fn a_claim_that_was_carried_from_segment_to_segment_leaves_no_copy_behind() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "carried-key"));
    permit.save_checkpoint(b"carried checkpoint").unwrap();
    let filler = vec![1; 4_000];
    let segments = store.stats().segments;
    for number in 0.. {
        run(&store, &format!("filler-{number}"), &filler);
        if store.stats().segments == segments + 3 {
            break;
        }
    }
    permit.complete(b"completed at last").unwrap();
    assert!(holds(&world.disk, b"carried-key"));
    assert!(store.forget(scope("carried-key")).unwrap());
    for gone in [&b"carried-key"[..], b"carried checkpoint", b"completed at last"] {
        assert!(!holds(&world.disk, gone), "{:?}", str::from_utf8(gone));
    }
}

#[test]
fn an_organization_is_forgotten_whole_and_no_other() {
    let world = World::new();
    let store = world.open();
    for number in 0..40 {
        run_for(&store, "leaves-us", &format!("l-{number}"), b"theirs to take away");
        run_for(&store, "stays", &format!("s-{number}"), &[2; 2_000]);
    }
    let Ok(Claim::Granted(open)) = store.claim(of("leaves-us", "open"), body()) else { panic!() };
    open.save_checkpoint(b"still needed").unwrap();
    let Ok(Claim::Granted(released)) = store.claim(of("leaves-us", "r"), body()) else { panic!() };
    released.release().unwrap();
    let (before, segments) = (store.stats().responses, store.stats().segments);
    assert!(segments > 1, "{segments} segments");
    assert_eq!(store.forget_organization("leaves-us").unwrap(), 40);
    assert_eq!(store.stats().responses, before - 40);
    assert!(!holds(&world.disk, b"theirs to take away") && !holds(&world.disk, b"l-17"));
    assert_eq!(store.forget_organization("leaves-us").unwrap(), 0);
    assert_eq!(store.forget_organization("unheard of").unwrap(), 0);
    drop(store);
    let store = world.open();
    for number in 0..40 {
        assert!(store.lookup(of("leaves-us", &format!("l-{number}"))).unwrap().is_none());
        let kept = store.lookup(of("stays", &format!("s-{number}"))).unwrap();
        assert!(matches!(kept, Some(oncelog::Status::Completed(_))), "{kept:?}");
    }
    let orphan = store.orphan(of("leaves-us", "open")).unwrap().expect("the open claim is kept");
    assert_eq!(orphan.info().checkpoint(), Some(&b"still needed"[..]));
    drop(open);
}

#[test]
fn an_organization_is_forgotten_by_a_store_that_was_just_opened() {
    for (durability, keys) in [(Durability::Synced, 0), (BUFFERED, 0), (Durability::Synced, 3)] {
        for closed in [true, false] {
            let world = World::new();
            let store = world.open_with(world.options().durability(durability));
            for key in 0..keys {
                run_for(&store, "leaves-us", &format!("l-{key}"), b"theirs");
            }
            if closed {
                store.close().unwrap();
            } else {
                store.sync().unwrap();
                std::mem::forget(store);
            }
            let world = world.on(world.disk.after_kill());
            let store = world.open_with(world.options().durability(durability));
            assert_eq!(store.forget_organization("leaves-us").unwrap(), keys, "closed: {closed}");
            assert!(!holds(&world.disk, b"theirs"));
        }
    }
}

#[test]
fn a_claim_that_ran_for_longer_than_its_record_can_say_leaves_no_copy_behind() {
    let world = World::new();
    // Longer than 2^32 ms, which is the longest run that a COMPLETE tells.
    let store = world.open_with(world.options().ttl(400 * DAY).bucket(DAY));
    let permit = granted(claim(&store, "slow-key"));
    let mut segments = store.stats().segments;
    for number in 0..40 {
        run(&store, &format!("filler-{number}"), &[1; 4_000]);
    }
    assert!(store.stats().segments > segments, "the first claim is in a sealed segment");
    world.clock.advance(60 * DAY);
    permit.complete(b"at last").unwrap();
    segments = store.stats().segments;
    assert!(store.forget(scope("slow-key")).unwrap());
    assert!(!holds(&world.disk, b"slow-key") && !holds(&world.disk, b"at last"));
    assert_eq!(store.stats().segments, segments);
}

/// Runs up to a crash, and says whether the response had been forgotten by then.
fn forget_until(world: &World, durability: Durability, step: u64) -> bool {
    let store = world.open_with(world.options().durability(durability));
    run(&store, "kept", b"kept response");
    run(&store, "forget-this-key", &[b's'; 3_000]);
    run(&store, "after", b"another");
    store.sync().unwrap();
    world.disk.crash_at(world.disk.steps() + step);
    store.forget(scope("forget-this-key")).is_ok()
}

#[test]
fn a_crash_at_any_write_of_an_erasure_leaves_it_undone_or_done_to_the_end() {
    let (mut undone, mut finished, mut torn) = (0, 0, 0);
    for durability in [Durability::Synced, BUFFERED] {
        for step in 0.. {
            let mut done = false;
            for seed in 0..40 {
                let world = World::new();
                done = forget_until(&world, durability, step);
                let survival = if seed == 0 { Survival::All } else { Survival::Random };
                let disk = world.disk.after_power_cut(seed, survival);
                let world = world.on(disk);
                let store = world.open_with(world.options().durability(durability));
                assert_eq!(kind(&store, "kept"), "completed", "step {step}, seed {seed}");
                assert_eq!(kind(&store, "after"), "completed", "step {step}, seed {seed}");
                let now = kind(&store, "forget-this-key");
                assert!(!done || now == "free", "step {step}, seed {seed}: {now} after the call");
                if now == "completed" {
                    let stored = replay(claim(&store, "forget-this-key"));
                    assert_eq!(stored.bytes(), Some(&[b's'; 3_000][..]));
                    undone += 1;
                } else {
                    assert_eq!(now, "free", "step {step}, seed {seed}");
                    for gone in [&b"forget-this-key"[..], &[b's'; 64]] {
                        assert!(!holds(&world.disk, gone), "step {step}, seed {seed}");
                    }
                    finished += u64::from(!done);
                    torn += store.recovery().erasures_finished;
                }
                store.close().unwrap();
                let store = world.open();
                assert_eq!(store.recovery().erasures_finished, 0, "finished once and for all");
                assert_eq!(kind(&store, "forget-this-key"), now);
            }
            if done {
                break;
            }
        }
    }
    assert!(undone > 0 && finished > 0 && torn > 0, "{undone} {finished} {torn}");
}

#[test]
fn who_replays_while_a_response_is_erased_sees_it_whole_or_not_at_all() {
    let world = World::new();
    let store = world.open();
    for round in 0..200 {
        let key = format!("k-{round}");
        run(&store, &key, &[b'r'; 2_000]);
        thread::scope(|threads| {
            let readers = [(); 3].map(|()| {
                threads.spawn(|| {
                    loop {
                        match store.lookup(scope(&key)).unwrap() {
                            Some(oncelog::Status::Completed(stored)) => {
                                assert_eq!(stored.bytes(), Some(&[b'r'; 2_000][..]));
                            }
                            None => return,
                            other => panic!("{other:?}"),
                        }
                    }
                })
            });
            assert!(store.forget(scope(&key)).unwrap());
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    }
    let other = Fingerprint::of(b"other");
    assert!(matches!(store.claim(scope("k-7"), other), Ok(Claim::Granted(_))), "free for anything");
}
