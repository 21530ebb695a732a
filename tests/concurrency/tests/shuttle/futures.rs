//! Futures that are dropped at every point where they can wait.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use oncelog::{Claim, Durability, Status, Store};
use shuttle::rand::Rng;
use shuttle::{future, thread};

use crate::explore::{Disk, LONG, explore_modes, fill, fingerprint, response, scope};

/// Polls a few times, while others run, and drops it. Who polls again and again needs no waker.
fn poll_and_drop<F: Future>(future: F) -> Option<F::Output> {
    let polls = shuttle::rand::thread_rng().gen_range(0..4);
    let mut future = pin!(future);
    for _ in 0..polls {
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let std::task::Poll::Ready(output) = polled {
            return Some(output);
        }
        thread::yield_now();
    }
    None
}

#[test]
fn a_claim_whose_future_was_dropped_leaves_the_scope_to_the_next_caller() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let droppers: Vec<_> = [false, true]
            .map(|waits| {
                let store = store.clone();
                thread::spawn(move || {
                    let claim = if waits {
                        poll_and_drop(store.claim_or_wait_async(scope("k"), fingerprint()))
                    } else {
                        poll_and_drop(store.claim_async(scope("k"), fingerprint()))
                    };
                    if let Some(Claim::Granted(permit)) = claim.transpose().unwrap() {
                        permit.release().unwrap();
                    }
                })
            })
            .into();
        let next = {
            let store = store.clone();
            thread::spawn(move || {
                let claim = store.claim_or_wait(scope("k"), fingerprint(), LONG).unwrap();
                let Claim::Granted(permit) = claim else { panic!("{}", claim.kind()) };
                permit.complete(b"ran").unwrap();
            })
        };
        droppers.into_iter().for_each(|dropper| dropper.join().unwrap());
        next.join().unwrap();
        assert_eq!(response(&store, "k"), b"ran");
        assert_eq!((store.stats().in_flight, store.stats().orphans), (0, 0));
        store.close().unwrap();
    });
}

#[test]
fn a_completion_or_release_whose_future_was_dropped_happens_all_the_same() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let enders: Vec<_> = ["completed", "released"]
            .map(|key| {
                let store = store.clone();
                thread::spawn(move || {
                    let claim = store.claim(scope(key), fingerprint()).unwrap();
                    let Claim::Granted(permit) = claim else { panic!("{}", claim.kind()) };
                    if key == "completed" {
                        poll_and_drop(permit.complete_async(b"ran"));
                    } else {
                        poll_and_drop(permit.release_async());
                    }
                })
            })
            .into();
        let others = {
            let store = store.clone();
            thread::spawn(move || fill(&store, "other", b"other"))
        };
        enders.into_iter().for_each(|ender| ender.join().unwrap());
        others.join().unwrap();
        let waited = store.claim_or_wait(scope("completed"), fingerprint(), LONG).unwrap();
        assert_eq!(waited.kind(), "replay");
        let waited = store.claim_or_wait(scope("released"), fingerprint(), LONG).unwrap();
        assert_eq!(waited.kind(), "granted");
        drop(waited);
        store.close().unwrap();
    });
}

#[test]
fn a_take_over_whose_future_was_dropped_leaves_the_orphan() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        drop(store.claim(scope("k"), fingerprint()).unwrap());
        let orphan = store.orphan(scope("k")).unwrap().expect("its permit was dropped");
        // A permit that is dropped leaves the orphan too.
        let taker = thread::spawn(move || drop(poll_and_drop(orphan.take_over_async())));
        let resolver = {
            let store = store.clone();
            thread::spawn(move || resolve_when_orphaned(&store))
        };
        taker.join().unwrap();
        resolver.join().unwrap();
        assert_eq!(response(&store, "k"), b"found");
        store.close().unwrap();
    });
}

/// Waits until nobody runs the operation, then says how it ended.
fn resolve_when_orphaned(store: &Store) {
    loop {
        match store.claim_or_wait(scope("k"), fingerprint(), LONG).unwrap() {
            Claim::Orphaned(orphan) => {
                if orphan.resolve(b"found").is_ok() {
                    return;
                }
            }
            other => panic!("{}", other.kind()),
        }
    }
}

#[test]
fn tasks_that_wait_for_each_other_all_end() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let tasks: Vec<_> = (0..3)
            .map(|_| {
                let store = store.clone();
                future::spawn(async move {
                    match store.claim_or_wait_async(scope("k"), fingerprint()).await.unwrap() {
                        Claim::Granted(permit) => {
                            permit.complete_async(b"ran").await.unwrap();
                        }
                        Claim::Replay(stored) => assert_eq!(stored.bytes(), Some(&b"ran"[..])),
                        other => panic!("{}", other.kind()),
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(|task| future::block_on(task).unwrap());
        let found = store.lookup(scope("k")).unwrap();
        assert!(matches!(found, Some(Status::Completed(_))), "{found:?}");
        if durability == Durability::Synced {
            assert_eq!(response(&disk.after_power_cut(), "k"), b"ran");
        }
        store.close().unwrap();
    });
}
