//! The hand-over of commits, and what is durable when a call returns.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use oncelog::{Background, Claim, Durability, Store};
use shuttle::{future, thread};

use crate::explore::{Disk, LONG, explore, explore_modes, fill, fingerprint, response, scope};

#[test]
fn every_blocking_and_async_caller_is_answered_whoever_leads() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let blocking: Vec<_> = ["a", "b"]
            .map(|key| {
                let store = store.clone();
                thread::spawn(move || fill(&store, key, key.as_bytes()))
            })
            .into();
        let asynchronous: Vec<_> = ["c", "d"]
            .map(|key| {
                let store = store.clone();
                future::spawn(async move {
                    let claim = store.claim_async(scope(key), fingerprint()).await.unwrap();
                    let Claim::Granted(permit) = claim else { panic!("{}", claim.kind()) };
                    permit.complete_async(key.as_bytes()).await.unwrap();
                })
            })
            .into();
        let syncing = {
            let store = store.clone();
            thread::spawn(move || store.sync().unwrap())
        };
        blocking.into_iter().for_each(|caller| caller.join().unwrap());
        asynchronous.into_iter().for_each(|task| future::block_on(task).unwrap());
        syncing.join().unwrap();
        let reopened = match durability {
            Durability::Synced => disk.after_power_cut(),
            Durability::Buffered { .. } => disk.after_kill(),
        };
        for key in ["a", "b", "c", "d"] {
            assert_eq!(response(&store, key), key.as_bytes());
            assert_eq!(response(&reopened, key), key.as_bytes());
        }
        store.close().unwrap();
    });
}

#[test]
fn what_is_granted_or_seen_is_durable_at_that_instant() {
    explore(|| {
        let disk = Disk::new();
        let store = disk.open(Durability::Synced, Background::Threads);
        let other = {
            let store = store.clone();
            thread::spawn(move || fill(&store, "other", b"other"))
        };
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (store, disk) = (store.clone(), disk.clone());
                thread::spawn(move || grant_or_replay(&store, &disk))
            })
            .collect();
        other.join().unwrap();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        store.close().unwrap();
    });
}

fn grant_or_replay(store: &Store, disk: &Disk) {
    match store.claim_or_wait(scope("k"), fingerprint(), LONG).unwrap() {
        Claim::Granted(permit) => {
            let durable = disk.after_power_cut();
            assert!(durable.orphan(scope("k")).unwrap().is_some(), "granted, not durable");
            permit.complete(b"k").unwrap();
        }
        Claim::Replay(_) => {
            assert_eq!(response(&disk.after_power_cut(), "k"), b"k", "seen, not durable");
        }
        other => panic!("{}", other.kind()),
    }
}

#[test]
fn a_failed_sync_answers_everybody_and_acknowledges_nothing_in_doubt() {
    explore(|| {
        let disk = Disk::new();
        let store = disk.open(Durability::Synced, Background::Threads);
        fill(&store, "before", b"before");
        let step = disk.sim.steps() + 1 + shuttle::rand::RngCore::next_u64(&mut rng()) % 5;
        disk.sim.fail_at(step, std::io::ErrorKind::Other);
        let callers: Vec<_> = ["a", "b", "c"]
            .map(|key| {
                let store = store.clone();
                thread::spawn(move || match store.claim(scope(key), fingerprint()) {
                    Ok(Claim::Granted(permit)) => permit.complete(key.as_bytes()).is_ok(),
                    Ok(other) => panic!("{}", other.kind()),
                    Err(_) => false,
                })
            })
            .into();
        let done: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        assert_eq!(response(&store, "before"), b"before");
        let reopened = disk.after_power_cut();
        for (key, _) in ["a", "b", "c"].into_iter().zip(done).filter(|(_, done)| *done) {
            assert_eq!(response(&reopened, key), key.as_bytes());
        }
        drop(store);
    });
}

fn rng() -> shuttle::rand::rngs::ThreadRng {
    shuttle::rand::thread_rng()
}

#[test]
#[should_panic(expected = "a power cut is no damage")]
fn a_disk_that_forgets_what_was_synced_is_found() {
    explore(|| {
        let disk = Disk::new();
        let store = disk.open(Durability::Synced, Background::Threads);
        disk.sim.drop_syncs(|name| name.ends_with(".seg"));
        let caller = {
            let store = store.clone();
            thread::spawn(move || fill(&store, "k", b"k"))
        };
        caller.join().unwrap();
        store.close().unwrap();
        response(&disk.after_power_cut(), "k");
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_caller_who_is_never_woken_is_found() {
    /// Forgets who is to be woken.
    struct Deaf(AtomicBool);
    impl Wake for Deaf {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    explore(|| {
        let disk = Disk::new();
        let store = disk.open(Durability::Synced, Background::Threads);
        let mut claim = store.claim_async(scope("k"), fingerprint());
        let claimed = future::block_on(std::future::poll_fn(|_| {
            let waker = Waker::from(Arc::new(Deaf(AtomicBool::new(false))));
            Pin::new(&mut claim).poll(&mut Context::from_waker(&waker))
        }));
        panic!("it was told of {claimed:?}");
    });
}
