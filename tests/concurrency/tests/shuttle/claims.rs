//! Claims of one scope that meet.

use std::sync::Arc;
use std::time::Duration;

use oncelog::{Background, Claim, Durability, Error, Status};
use shuttle::rand::Rng;
use shuttle::thread;

use crate::caller::{Caller, Order};
use crate::explore::{Disk, LONG, explore_modes, fill, fingerprint, response, scope};
use crate::history::is_linearizable;

#[test]
fn one_of_three_callers_is_granted_and_the_others_get_its_response() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let callers: Vec<_> = (0..3u8)
            .map(|caller| {
                let store = store.clone();
                thread::spawn(move || {
                    match store.claim_or_wait(scope("k"), fingerprint(), LONG).unwrap() {
                        Claim::Granted(permit) => {
                            permit.complete(&[caller]).unwrap();
                            (1, caller)
                        }
                        Claim::Replay(stored) => (0, stored.bytes().unwrap()[0]),
                        other => panic!("{}", other.kind()),
                    }
                })
            })
            .collect();
        let answers: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        assert_eq!(answers.iter().map(|(granted, _)| granted).sum::<i32>(), 1, "{answers:?}");
        assert!(answers.iter().all(|(_, by)| *by == answers[0].1), "{answers:?}");
        store.close().unwrap();
    });
}

#[test]
fn one_of_two_callers_is_granted_a_scope_whose_response_is_past() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        fill(&store, "k", b"past");
        disk.clock.advance(Duration::from_secs(25 * 3_600));
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let store = store.clone();
                thread::spawn(move || match store.claim(scope("k"), fingerprint()).unwrap() {
                    Claim::Granted(permit) => {
                        permit.complete(b"new").unwrap();
                        1
                    }
                    Claim::InProgress(_) => 0,
                    Claim::Replay(stored) => {
                        assert_eq!(stored.bytes(), Some(&b"new"[..]));
                        0
                    }
                    other => panic!("{}", other.kind()),
                })
            })
            .collect();
        assert_eq!(callers.into_iter().map(|caller| caller.join().unwrap()).sum::<i32>(), 1);
        assert_eq!(response(&store, "k"), b"new");
        store.close().unwrap();
    });
}

#[test]
fn a_release_wakes_a_waiting_caller_who_is_granted_the_scope() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let store = store.clone();
                thread::spawn(move || {
                    let claim = store.claim_or_wait(scope("k"), fingerprint(), LONG).unwrap();
                    let Claim::Granted(permit) = claim else { panic!("{}", claim.kind()) };
                    let token = permit.token();
                    permit.release().unwrap();
                    token
                })
            })
            .collect();
        let mut tokens: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 3, "each had the scope once");
        assert!(store.lookup(scope("k")).unwrap().is_none());
        store.close().unwrap();
    });
}

#[test]
fn one_of_two_take_overs_wins_and_the_first_attempt_is_superseded() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let lease = Duration::from_secs(10);
        let options = disk.options().durability(durability).background(background).lease(lease);
        let store = disk.open_with(options);
        let Claim::Granted(first) = store.claim(scope("k"), fingerprint()).unwrap() else {
            panic!("the scope was free")
        };
        disk.clock.advance(lease);
        let late = thread::spawn(move || first.complete(b"first").map(|_| ()));
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let store = store.clone();
                thread::spawn(move || match store.orphan(scope("k")).unwrap() {
                    None => 0,
                    Some(orphan) => match orphan.take_over().unwrap() {
                        Claim::Granted(second) => {
                            second.complete(b"second").unwrap();
                            1
                        }
                        Claim::Replay(_) | Claim::InProgress(_) => 0,
                        other => panic!("{}", other.kind()),
                    },
                })
            })
            .collect();
        let taken: i32 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        let expected: &[u8] = match late.join().unwrap() {
            Ok(()) => b"first",
            Err(Error::Superseded) => b"second",
            Err(error) => panic!("{error}"),
        };
        assert_eq!(taken, i32::from(expected == b"second"), "one attempt completes");
        assert_eq!(response(&store, "k"), expected);
        store.close().unwrap();
    });
}

#[test]
fn what_three_callers_see_could_have_happened_in_some_order() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let order = Arc::new(Order::default());
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let (store, order) = (store.clone(), Arc::clone(&order));
                let seed = shuttle::rand::thread_rng().r#gen();
                thread::spawn(move || {
                    let keys = ["k".to_owned()];
                    let mut caller = Caller::new(&store, &order, &keys, seed);
                    (0..4).for_each(|_| caller.call());
                    caller.history().remove(0)
                })
            })
            .collect();
        let mut history: Vec<_> = Vec::new();
        callers.into_iter().for_each(|caller| history.extend(caller.join().unwrap()));
        assert!(is_linearizable(&history), "{history:#?}");
        store.close().unwrap();
    });
}

#[test]
fn a_close_answers_everybody_and_loses_nothing_acknowledged() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let callers: Vec<_> = ["a", "a", "b"]
            .map(|key| {
                let store = store.clone();
                thread::spawn(move || match store.claim_or_wait(scope(key), fingerprint(), LONG) {
                    Ok(Claim::Granted(permit)) => permit.complete(key.as_bytes()).is_ok(),
                    Ok(Claim::Replay(_)) => true,
                    // The close came between the other caller's claim and its completion.
                    Ok(Claim::Orphaned(_)) | Err(Error::Closed) => false,
                    Ok(other) => panic!("{}", other.kind()),
                    Err(error) => panic!("{error}"),
                })
            })
            .into();
        store.close().unwrap();
        let done: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        let reopened = disk.after_power_cut();
        for (key, done) in ["a", "a", "b"].into_iter().zip(done) {
            let found = reopened.lookup(scope(key)).unwrap();
            assert!(!done || matches!(found, Some(Status::Completed(_))), "{key}: {found:?}");
        }
    });
}

#[test]
#[should_panic(expected = "linearizable")]
fn a_store_that_grants_twice_is_found() {
    // Two stores on two disks, taken for one.
    crate::explore::explore(|| {
        let disks = [Disk::new(), Disk::new()];
        let order = Arc::new(Order::default());
        let callers: Vec<_> = disks
            .iter()
            .map(|disk| {
                let store = disk.open(Durability::Synced, Background::Inline);
                let order = Arc::clone(&order);
                thread::spawn(move || {
                    let keys = ["k".to_owned()];
                    let mut caller = Caller::new(&store, &order, &keys, 1);
                    (0..2).for_each(|_| caller.call());
                    caller.history().remove(0)
                })
            })
            .collect();
        let mut history: Vec<_> = Vec::new();
        callers.into_iter().for_each(|caller| history.extend(caller.join().unwrap()));
        assert!(is_linearizable(&history), "not linearizable: {history:?}");
    });
}
