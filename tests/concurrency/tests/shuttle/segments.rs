//! Rolls, drops and the growth of the index, against everything.

use std::time::Duration;

use oncelog::{Claim, Status};
use shuttle::thread;

use crate::explore::{Disk, explore_modes, fill, fingerprint, response, scope};

/// Eight of these fill a segment.
const BIG: usize = 8 * 1024;

#[test]
fn records_that_meet_the_end_of_a_segment_are_neither_lost_nor_doubled() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let Claim::Granted(carried) = store.claim(scope("open"), fingerprint()).unwrap() else {
            panic!("the scope was free")
        };
        let writers: Vec<_> = ["a", "b"]
            .map(|writer| {
                let store = store.clone();
                thread::spawn(move || {
                    for number in 0..5u8 {
                        fill(&store, &format!("{writer}{number}"), &[number; BIG]);
                    }
                })
            })
            .into();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert!(store.stats().segments > 1, "nothing was rolled");
        store.sync().unwrap();
        let reopened = disk.after_power_cut();
        for store in [&store, &reopened] {
            for writer in ["a", "b"] {
                for number in 0..5u8 {
                    assert_eq!(response(store, &format!("{writer}{number}")), [number; BIG]);
                }
            }
        }
        let orphan = reopened.orphan(scope("open")).unwrap().expect("it was carried");
        assert_eq!(orphan.info().token(), carried.token());
        carried.complete(b"at last").unwrap();
        store.close().unwrap();
    });
}

#[test]
fn a_lookup_that_meets_a_drop_finds_what_lives_and_nothing_else() {
    explore_modes(|durability, background| {
        let disk = Disk::new();
        let store = disk.open(durability, background);
        fill(&store, "old", b"old");
        disk.clock.advance(Duration::from_secs(13 * 3_600));
        fill(&store, "young", b"young");
        // Past the ttl of `old` and its grace, not of `young`.
        disk.clock.advance(Duration::from_secs(12 * 3_600));
        let dropper = {
            let store = store.clone();
            thread::spawn(move || store.expire().unwrap().segments)
        };
        let reader = {
            let store = store.clone();
            thread::spawn(move || {
                if let Some(Status::Completed(stored)) = store.lookup(scope("old")).unwrap() {
                    assert_eq!(stored.bytes(), Some(&b"again"[..]), "it is past");
                }
                let found = store.lookup(scope("young")).unwrap();
                let Some(Status::Completed(stored)) = found else { panic!("{found:?}") };
                assert_eq!(stored.bytes(), Some(&b"young"[..]));
            })
        };
        let claimer = {
            let store = store.clone();
            thread::spawn(move || fill(&store, "old", b"again"))
        };
        reader.join().unwrap();
        claimer.join().unwrap();
        // What was not sealed yet when the dropper looked is dropped once it is.
        store.sync().unwrap();
        let dropped = dropper.join().unwrap() + store.expire().unwrap().segments;
        assert_eq!(dropped, 1, "`old` and nothing else");
        assert_eq!(response(&store, "old"), b"again");
        assert_eq!(response(&store, "young"), b"young");
        store.close().unwrap();
    });
}

#[test]
fn an_index_that_grows_meanwhile_finds_every_response() {
    explore_modes(|durability, background| {
        // Two shards of 18 slots each: they grow while the last keys come.
        const BEFORE: usize = 30;
        let disk = Disk::new();
        let store = disk.open(durability, background);
        let keys: Vec<String> = (0..BEFORE).map(|key| format!("before {key}")).collect();
        let requests: Vec<_> = keys.iter().map(|key| (scope(key), fingerprint())).collect();
        for claim in store.claim_many(&requests) {
            let Claim::Granted(permit) = claim.unwrap() else { panic!("a free scope") };
            permit.complete(b"before").unwrap();
        }
        let writers: Vec<_> = ["a", "b"]
            .map(|writer| {
                let store = store.clone();
                thread::spawn(move || {
                    for number in 0..4 {
                        let key = format!("{writer}{number}");
                        fill(&store, &key, key.as_bytes());
                    }
                })
            })
            .into();
        let reader = {
            let (store, keys) = (store.clone(), keys.clone());
            thread::spawn(move || {
                for key in keys.iter().step_by(5) {
                    assert_eq!(response(&store, key), b"before");
                }
            })
        };
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        reader.join().unwrap();
        for key in &keys {
            assert_eq!(response(&store, key), b"before");
        }
        for key in ["a", "b"].iter().flat_map(|w| (0..4).map(move |n| format!("{w}{n}"))) {
            assert_eq!(response(&store, &key), key.as_bytes());
        }
        assert_eq!(store.stats().responses, BEFORE as u64 + 8);
        store.close().unwrap();
    });
}
