//! A disk that is full to the last byte, while claims, completions and replays go on.

use std::collections::BTreeMap;

use oncelog::{Claim, Durability, Error, Fingerprint, Permit, Store};

use crate::image::{FileSystem, IMAGE_BYTES_MIN, Image};
use crate::keys::{fingerprint, response, scope};
use crate::load::{BUFFERED, options};

/// Room that is left when the load begins: a few segments.
const LEFT: u64 = 4 << 20;
const THREADS: u64 = 4;
/// Claims that are open when the disk fills up.
const HELD: u64 = 200;

#[test]
fn a_full_disk_refuses_claims_alone_and_goes_on_when_there_is_room() {
    each(|kind, durability| {
        let image = Image::new(kind, IMAGE_BYTES_MIN);
        let store = options(durability).open(image.dir("store")).unwrap();
        let done = run_until_full(&store, &image);
        let label = format!("{kind:?}, {durability:?}");
        check_done(&store, &done, &label);
        // The end of a segment may have been given back since, which is room for a few more.
        let more = |nth: u64| store.claim(scope(&format!("more-{nth}")), fingerprint("more")).err();
        let refused = (0..10_000).find_map(more);
        assert!(matches!(refused, Some(Error::Full { .. })), "{label}: {refused:?}");
        std::fs::remove_file(image.ballast()).unwrap();
        let permit =
            granted(&store, "with room").unwrap_or_else(|error| panic!("{label}: {error}"));
        permit.complete(b"it goes on").unwrap_or_else(|error| panic!("{label}: {error}"));
        check_done(&store, &done, &label);
        store.close().unwrap_or_else(|error| panic!("{label}: {error}"));
        let store = options(durability).open(image.dir("store")).unwrap();
        check_done(&store, &done, &label);
        println!("{label}: {} responses replayed on a full disk", done.len());
    });
}

#[test]
fn on_a_full_disk_every_granted_claim_ends_and_the_store_opens_again() {
    each(|kind, durability| {
        let mut image = Image::new(kind, IMAGE_BYTES_MIN);
        let label = format!("{kind:?}, {durability:?}");
        let store = options(durability).open(image.dir("store")).unwrap();
        let keys: Vec<String> = (0..HELD).map(|nth| format!("held-{nth}")).collect();
        let held: Vec<_> = keys.iter().map(|key| granted(&store, key).unwrap()).collect();
        let mut done = run_until_full(&store, &image);
        let mut open = Vec::new();
        for (key, permit) in keys.iter().zip(held) {
            let ended = match key.as_bytes().last() {
                Some(b'0') => permit.release(),
                Some(b'1') => {
                    open.push((key, permit));
                    Ok(())
                }
                _ => permit.complete(&response(key)).map(|stored| {
                    done.insert(key.clone(), stored.bytes().is_some());
                }),
            };
            ended.unwrap_or_else(|error| panic!("{label}: {key} cannot end: {error}"));
        }
        check_done(&store, &done, &label);
        store.sync().unwrap_or_else(|error| panic!("{label}: {error}"));
        image.cut_power();
        let crashed: Vec<String> = open.into_iter().map(|(key, _)| key.clone()).collect();
        drop(store);
        image.boot();
        let reopen = |when| {
            let store = options(durability).open(image.dir("store"));
            store.unwrap_or_else(|error| panic!("{label}: {when}, on a full disk: {error}"))
        };
        let store = reopen("after a crash");
        check_done(&store, &done, &label);
        for key in &crashed {
            let orphan = store.orphan(scope(key)).unwrap().expect(key);
            let released = orphan.release();
            released.unwrap_or_else(|error| panic!("{label}: {key} cannot be released: {error}"));
        }
        store.close().unwrap_or_else(|error| panic!("{label}: {error}"));
        check_done(&reopen("after a close"), &done, &label);
        println!(
            "{label}: {} claims completed, {} of them without a body, {} orphans released",
            done.len(),
            done.values().filter(|kept| !**kept).count(),
            crashed.len(),
        );
    });
}

fn each(check: impl Fn(FileSystem, Durability)) {
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        for durability in [Durability::Synced, BUFFERED] {
            check(kind, durability);
        }
    }
}

fn granted(store: &Store, key: &str) -> Result<Permit, Error> {
    match store.claim(scope(key), fingerprint(key))? {
        Claim::Granted(permit) => Ok(permit),
        other => panic!("{key} was not granted: {other:?}"),
    }
}

/// What was acknowledged: keys, and whether the response was kept.
type Done = BTreeMap<String, bool>;

/// Fills the disk up, by writing to the store, until every thread was refused a claim, and then
/// to the last byte.
fn run_until_full(store: &Store, image: &Image) -> Done {
    image.fill(LEFT);
    let done = std::thread::scope(|threads| {
        let run = |thread| move || claim_until_full(store, thread);
        let running: Vec<_> = (0..THREADS).map(|thread| threads.spawn(run(thread))).collect();
        let done = running.into_iter().flat_map(|thread| thread.join().unwrap());
        done.collect::<Done>()
    });
    image.fill(0);
    done
}

fn claim_until_full(store: &Store, thread: u64) -> Done {
    let mut done = Done::new();
    for nth in 0_u64.. {
        let key = format!("{thread}-{nth}");
        let permit = match granted(store, &key) {
            Ok(permit) => permit,
            Err(Error::Full { .. }) => break,
            Err(error) => panic!("{key}: {error}"),
        };
        let stored = permit.complete(&response(&key));
        let stored = stored.unwrap_or_else(|error| panic!("{key} cannot complete: {error}"));
        done.insert(key, stored.bytes().is_some());
    }
    done
}

/// Replays and conflicts, each once.
fn check_done(store: &Store, done: &Done, label: &str) {
    for (key, kept) in done {
        let claim = store.claim(scope(key), fingerprint(key));
        let Ok(Claim::Replay(stored)) = claim else { panic!("{label}: {key}: {claim:?}") };
        let expected = kept.then(|| response(key));
        assert_eq!(stored.bytes(), expected.as_deref(), "{label}: {key}");
        let other = store.claim(scope(key), Fingerprint::of(b"another request"));
        assert!(matches!(other, Ok(Claim::Conflict(_))), "{label}: {key}: {other:?}");
    }
}
