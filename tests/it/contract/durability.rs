//! What was acknowledged is there after a kill and after a power cut, and a failed write is final.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::task::Poll;

use oncelog::{Background, Error, OperationId, OrphanCause, Status, Store, Token};

use crate::contract::support::{
    BUFFERED, GateDisk, Woken, World, block_on, claim, granted, kind, orphaned, other_body, replay,
    run, scope,
};
use crate::support::disk::Survival;

/// What the next process finds after a power cut that spares nothing unsynced.
fn cut(world: &World) -> World {
    world.on(world.disk.after_power_cut(0, Survival::None))
}

fn killed(world: &World) -> World {
    world.on(world.disk.after_kill())
}

#[test]
fn a_claim_is_on_stable_storage_before_it_is_granted() {
    let world = World::new();
    let store = world.open();
    for number in 0..20 {
        let key = format!("k{number}");
        let permit = granted(claim(&store, &key));
        let after = cut(&world).open();
        let orphan = orphaned(claim(&after, &key));
        assert_eq!(orphan.info().token(), permit.token());
        assert_eq!(orphan.info().operation(), permit.operation());
        permit.complete(key.as_bytes()).unwrap();
        let after = cut(&world).open();
        assert_eq!(replay(claim(&after, &key)).bytes(), Some(key.as_bytes()));
    }
}

#[test]
fn a_disk_that_drops_syncs_loses_what_was_granted_which_shows_that_the_check_can_fail() {
    let world = World::new();
    let store = world.open();
    world.disk.drop_syncs(|_| true);
    let _permit = granted(claim(&store, "k"));
    assert_eq!(kind(&cut(&world).open(), "k"), "free");
}

#[test]
fn a_release_a_give_up_and_a_checkpoint_are_durable_when_they_return() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    permit.save_checkpoint(b"saved").unwrap();
    let after = cut(&world).open();
    assert_eq!(orphaned(claim(&after, "k")).info().checkpoint(), Some(&b"saved"[..]));
    permit.give_up().unwrap();
    let after = cut(&world).open();
    assert_eq!(orphaned(claim(&after, "k")).info().cause(), OrphanCause::Failed);
    orphaned(claim(&store, "k")).release().unwrap();
    assert_eq!(kind(&cut(&world).open(), "k"), "free");
}

#[test]
fn nothing_is_granted_or_replayed_before_its_sync_has_returned() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let options = world.options().background(Background::Threads);
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    let woken = Woken::new();
    let gate = disk.hold();
    let mut claiming = store.claim_async(scope("k"), crate::contract::support::body());
    assert!(woken.poll(&mut claiming).is_pending());
    gate.await_sync();
    assert!(woken.poll(&mut claiming).is_pending());
    assert_eq!(claim(&store, "k").kind(), "in_progress");
    drop(gate);
    let permit = granted(block_on(claiming).unwrap());
    let gate = disk.hold();
    let mut completing = permit.complete_async(b"created");
    gate.await_sync();
    assert!(woken.poll(&mut completing).is_pending());
    assert_eq!(claim(&store, "k").kind(), "in_progress");
    assert_eq!(kind(&store, "k"), "in progress");
    drop(gate);
    block_on(completing).unwrap();
    assert_eq!(replay(claim(&store, "k")).bytes(), Some(&b"created"[..]));
}

#[test]
fn a_buffered_store_loses_nothing_acknowledged_when_the_process_dies() {
    let world = World::new();
    let store = world.open_with(world.options().durability(BUFFERED));
    for number in 0..20 {
        let key = format!("k{number}");
        let permit = granted(claim(&store, &key));
        assert_eq!(kind(&killed(&world).open(), &key), "orphaned");
        permit.complete(key.as_bytes()).unwrap();
        let after = killed(&world).open();
        assert_eq!(replay(claim(&after, &key)).bytes(), Some(key.as_bytes()));
    }
}

/// How far each key had come: 0 unknown, 1 claimed, 2 completed.
fn progress(store: &Store, keys: usize) -> Vec<u8> {
    let seen = |number| match store.lookup(scope(&format!("k{number}"))).unwrap() {
        None => 0,
        Some(Status::Orphaned(_)) => 1,
        Some(Status::Completed(stored)) => {
            assert_eq!(stored.bytes(), Some(&[7; 700][..]));
            2
        }
        Some(Status::InProgress(running)) => panic!("{running:?}"),
    };
    (0..keys).map(seen).collect()
}

#[test]
fn a_power_cut_takes_a_suffix_of_buffered_work_and_never_a_hole_or_a_token_twice() {
    const KEYS: usize = 150;
    let world = World::new();
    let store = world.open_with(world.options().durability(BUFFERED));
    let (mut newest, mut operations) = (Token::from_bytes([0; 8]), BTreeSet::new());
    for number in 0..KEYS {
        if number == KEYS / 2 {
            store.sync().unwrap();
        }
        let permit = granted(claim(&store, &format!("k{number}")));
        assert!(permit.token() > newest && operations.insert(permit.operation()));
        newest = permit.token();
        permit.complete(&[7; 700]).unwrap();
    }
    let mut outcomes = BTreeSet::new();
    for seed in 0..60 {
        println!("seed {seed}");
        let world = world.on(world.disk.after_power_cut(seed, Survival::Random));
        let store = world.open();
        let seen = progress(&store, KEYS);
        assert!(seen[..KEYS / 2].iter().all(|seen| *seen == 2), "what was synced: {seen:?}");
        assert!(seen.windows(2).all(|pair| pair[0] == 2 || pair[1] == 0), "a hole: {seen:?}");
        outcomes.insert(seen);
        for number in 0..3 {
            let permit = granted(claim(&store, &format!("fresh{number}")));
            assert!(permit.token() > newest, "a token came twice");
            assert!(!operations.contains(&permit.operation()), "an operation came twice");
        }
    }
    assert!(outcomes.len() > 3, "the cuts must differ: {}", outcomes.len());
}

#[test]
fn a_close_and_a_sync_make_what_is_buffered_durable() {
    let world = World::new();
    let store = world.open_with(world.options().durability(BUFFERED));
    run(&store, "a", b"one");
    assert_eq!(kind(&cut(&world).open(), "a"), "free", "the check can fail");
    store.sync().unwrap();
    assert_eq!(kind(&cut(&world).open(), "a"), "completed");
    run(&store, "b", b"two");
    store.close().unwrap();
    let after = cut(&world).open();
    assert_eq!((kind(&after, "a"), kind(&after, "b")), ("completed", "completed"));
    assert!(after.recovery().clean);
}

#[test]
fn a_claim_left_open_by_an_earlier_process_is_an_orphan_at_once() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    for after in [killed(&world), cut(&world)] {
        let after = after.open();
        assert_eq!(after.recovery().orphans, 1);
        let orphan = orphaned(claim(&after, "k"));
        assert_eq!(orphan.info().cause(), OrphanCause::Crash);
        assert_eq!(orphan.info().token(), permit.token());
        assert_eq!(after.stats().orphaned_crash, 1);
        assert_eq!(granted(orphan.take_over().unwrap()).operation(), permit.operation());
    }
}

#[test]
fn a_claim_left_open_by_close_is_an_orphan_with_cause_crash() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    store.close().unwrap();
    let store = world.open();
    assert_eq!(orphaned(claim(&store, "k")).info().cause(), OrphanCause::Crash);
    // The permit of the closed store can neither end nor disturb it.
    assert!(matches!(permit.renew(), Err(Error::Closed)));
    drop(permit);
    assert_eq!(orphaned(claim(&store, "k")).info().cause(), OrphanCause::Crash);
}

#[test]
fn tokens_and_operation_ids_are_unique_and_increasing_across_restarts() {
    for durability in [oncelog::Durability::Synced, BUFFERED] {
        let mut world = World::new();
        let (mut newest, mut operations) = (0, BTreeSet::<OperationId>::new());
        for round in 0..24_u64 {
            let store = world.open_with(world.options().durability(durability));
            for number in 0..4 {
                let permit = granted(claim(&store, &format!("k{round}-{number}")));
                let token = permit.token().get();
                assert!(token > newest && token < 1 << 63, "round {round}: {token} after {newest}");
                newest = token;
                assert!(operations.insert(permit.operation()), "round {round}");
                if number % 2 == 0 {
                    permit.complete(b"done").unwrap();
                }
            }
            world = match round % 4 {
                0 => {
                    store.close().unwrap();
                    world
                }
                1 => killed(&world),
                2 => world.on(world.disk.after_power_cut(round, Survival::Random)),
                _ => cut(&world),
            };
        }
    }
}

#[test]
fn restored_copies_of_a_store_never_issue_the_same_operation_id() {
    let world = World::new();
    world.open().close().unwrap();
    let mut operations = BTreeSet::new();
    for _ in 0..20 {
        let copy = killed(&world).open();
        assert!(operations.insert(granted(claim(&copy, "k")).operation()));
    }
}

#[test]
fn a_failed_sync_poisons_and_durable_responses_are_still_served() {
    let world = World::new();
    let store = world.open();
    run(&store, "done", b"created");
    let permits = ["a", "b", "c", "d"].map(|key| granted(claim(&store, key)));
    // A commit is one write and one sync.
    world.disk.fail_at(world.disk.steps() + 1, ErrorKind::Other);
    let failed = store.claim(scope("doubt"), crate::contract::support::body());
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    let poisoned = |outcome: Result<(), Error>| matches!(outcome, Err(Error::Poisoned { .. }));
    let [a, b, c, d] = permits;
    assert!(poisoned(a.complete(b"late").map(drop)));
    assert!(poisoned(b.release()));
    assert!(poisoned(c.give_up()));
    assert!(poisoned(d.save_checkpoint(b"")));
    assert!(poisoned(store.claim(scope("new"), other_body()).map(drop)));
    assert!(poisoned(store.claim(scope("doubt"), other_body()).map(drop)));
    assert!(poisoned(store.lookup(scope("doubt")).map(drop)), "what is in doubt stays in doubt");
    assert!(poisoned(store.sync()));
    for _ in 0..2 {
        assert_eq!(replay(claim(&store, "done")).bytes(), Some(&b"created"[..]));
        assert_eq!(store.claim(scope("done"), other_body()).unwrap().kind(), "conflict");
        assert_eq!(kind(&store, "done"), "completed");
    }
    assert!(store.close().is_err());
    // Reopening is the way back, and trusts no page that the failed sync may have left.
    let store = world.open();
    assert_eq!(replay(claim(&store, "done")).bytes(), Some(&b"created"[..]));
    let shown = kind(&store, "doubt");
    assert_eq!(kind(&cut(&world).open(), "doubt"), shown, "what an open shows is durable");
    for key in ["a", "b", "c", "d"] {
        assert_eq!(orphaned(claim(&store, key)).info().attempt(), 1, "{key}");
    }
    run(&store, "new", b"works again");
}

#[test]
fn a_failed_write_is_as_final_as_a_failed_sync() {
    let world = World::new();
    let store = world.open();
    run(&store, "done", b"created");
    let permit = granted(claim(&store, "k"));
    world.disk.fail_at(world.disk.steps(), ErrorKind::StorageFull);
    assert!(matches!(permit.complete(b"doubt"), Err(Error::Io { .. })));
    let retry = store.claim(scope("k"), crate::contract::support::body());
    assert!(matches!(retry, Err(Error::Poisoned { .. })), "{retry:?}");
    assert_eq!(kind(&store, "done"), "completed");
    drop(store);
    let store = world.open();
    assert_eq!(orphaned(claim(&store, "k")).info().attempt(), 1);
}

#[test]
fn a_completion_that_failed_is_told_to_its_future_and_to_those_who_wait() {
    let world = World::new();
    let store = world.open_with(world.options());
    let permit = granted(claim(&store, "k"));
    let woken = Woken::new();
    let mut waiting = store.claim_or_wait_async(scope("k"), crate::contract::support::body());
    assert!(woken.poll(&mut waiting).is_pending());
    world.disk.fail_at(world.disk.steps() + 1, ErrorKind::Other);
    assert!(matches!(block_on(permit.complete_async(b"doubt")), Err(Error::Io { .. })));
    assert!(woken.count() > 0, "nobody waits for ever");
    let Poll::Ready(Err(Error::Poisoned { .. })) = woken.poll(&mut waiting) else {
        panic!("in doubt")
    };
}
