//! What is erased while it is verified or backed up is no damage, and no backup fails for it. One
//! of a store that is closed meanwhile says so.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use oncelog::{Background, Claim, Create, Error, Fingerprint, ManualClock, Phase, Scope, Store};

use crate::contract::support::{SEGMENT_BYTES, World, kind, run, scope, start};
use crate::support::disk::SimDisk;
use crate::support::intercept::{Intercept, Intercepted, Target};

/// The next erasure stands still when half of a record is overwritten.
#[derive(Debug, Default)]
struct Halfway(Mutex<Option<Pause>>);

#[derive(Debug)]
struct Pause {
    begun: Sender<()>,
    goes_on: Receiver<()>,
}

impl Intercept for Halfway {
    fn write(&self, target: Target<'_>, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let erases = bytes.get(8) == Some(&6);
        let pause = if erases { self.0.lock().unwrap().take() } else { None };
        if let Some(pause) = pause {
            target.file.write_at(offset, &bytes[..bytes.len() / 2])?;
            pause.begun.send(()).unwrap();
            pause.goes_on.recv().unwrap();
        }
        target.file.write_at(offset, bytes)
    }
}

#[test]
fn an_erasure_that_stands_still_halfway_is_no_damage() {
    let world = World::new();
    let disk = Intercepted::new(&world.disk, Halfway::default());
    let store = world.options().open_on(Arc::new(disk.clone())).unwrap();
    for number in 0..200 {
        run(&store, &format!("key-{number}"), &[7; 700]);
    }
    let (begun, begins) = channel();
    let (go_on, goes_on) = channel();
    *disk.by.0.lock().unwrap() = Some(Pause { begun, goes_on });
    std::thread::scope(|threads| {
        let erasing = threads.spawn(|| store.forget(scope("key-3")).unwrap());
        begins.recv().unwrap();
        let (ends, ended) = channel();
        let store = &store;
        let verifying = threads.spawn(move || {
            let found = store.verify().unwrap();
            ends.send(()).ok();
            found
        });
        let waited = ended.recv_timeout(Duration::from_millis(200));
        go_on.send(()).unwrap();
        let found = verifying.join().unwrap();
        assert!(found.is_clean(), "{:?}", found.damage);
        assert_eq!(waited, Err(RecvTimeoutError::Timeout), "nothing stood still");
        assert!(erasing.join().unwrap(), "nothing was erased");
    });
    assert_eq!(kind(&store, "key-3"), "free");
}

/// Stores a response of an organization.
fn store_of(store: &Store, organization: &str, key: &str) {
    let scope = Scope { organization, ..scope(key) };
    let claim = store.claim(scope, Fingerprint::of(b"body")).unwrap();
    let Claim::Granted(permit) = claim else { panic!("not granted: {claim:?}") };
    // Some of them reach over many pages.
    let times = if key.len().is_multiple_of(2) { 40 } else { 900 };
    permit.complete(&key.as_bytes().repeat(times)).unwrap();
}

#[test]
fn what_is_forgotten_meanwhile_is_no_damage_and_every_backup_verifies() {
    const ROUNDS: u64 = 40;
    const BACKUPS: u64 = 6;
    let scratch = tempfile::tempdir().unwrap();
    let options = || Store::options().segment_bytes(SEGMENT_BYTES).clock(ManualClock::at(start()));
    let store = options().open(scratch.path().join("main")).unwrap();
    for number in 0..200 {
        store_of(&store, "kept", &format!("kept-{number}"));
    }
    let (backed_up, forgotten) = (AtomicBool::new(false), AtomicU64::new(0));
    let going_on = |round| round < ROUNDS || !backed_up.load(Ordering::SeqCst);
    std::thread::scope(|threads| {
        let (going_on, forgotten, store) = (&going_on, &forgotten, &store);
        let by_key = threads.spawn(move || {
            for round in (0..).take_while(|&round| going_on(round)) {
                let keys: Vec<_> = (0..4).map(|number| format!("{round}-{number}")).collect();
                keys.iter().for_each(|key| store_of(store, "single", key));
                for key in &keys {
                    let scope = Scope { organization: "single", ..scope(key) };
                    assert!(store.forget(scope).unwrap(), "{key} was not there");
                    forgotten.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let by_organization = threads.spawn(move || {
            for round in (0..).take_while(|&round| going_on(round)) {
                for number in 0..4 {
                    store_of(store, "whole", &format!("{round}-{number}"));
                }
                assert_eq!(store.forget_organization("whole").unwrap(), 4);
                forgotten.fetch_add(4, Ordering::SeqCst);
            }
        });
        let verifier = threads.spawn(move || {
            for _ in (0..).take_while(|&round| going_on(round)) {
                let found = store.verify().unwrap();
                assert!(found.is_clean(), "{:?}", found.damage);
            }
        });
        let to = |number| scratch.path().join(format!("copy-{number}"));
        let backups: Vec<_> = (0..BACKUPS).map(|number| store.backup(to(number))).collect();
        backed_up.store(true, Ordering::SeqCst);
        for thread in [by_key, by_organization, verifier] {
            thread.join().unwrap();
        }
        let linked: u64 = backups.into_iter().map(|backup| backup.unwrap().linked).sum();
        assert!(linked > 0, "nothing was shared with the store");
    });
    assert!(forgotten.load(Ordering::SeqCst) >= 8 * ROUNDS);
    assert!(store.verify().unwrap().is_clean());
    for number in 0..BACKUPS {
        let copy = scratch.path().join(format!("copy-{number}"));
        let copy = options().create(Create::Never).open(copy).unwrap();
        let found = copy.verify().unwrap();
        assert!(found.is_clean(), "{number}: {:?}", found.damage);
        for number in 0..200 {
            let key = format!("kept-{number}");
            let kept = copy.lookup(Scope { organization: "kept", ..scope(&key) }).unwrap();
            assert!(kept.is_some(), "{key} is missing");
        }
    }
}

#[test]
fn a_store_that_is_closed_during_its_backup_is_backed_up_whole_or_said_to_be_closed() {
    for name in [None, Some("0000000000000002.seg")] {
        let world = World::new();
        let shared: Arc<OnceLock<Store>> = Arc::default();
        let (seen, disk) = (Arc::clone(&shared), world.disk.clone());
        let store = world.open_with(world.options().progress(move |progress| {
            if progress.phase == Phase::Copying
                && progress.done == 1
                && let Some(store) = seen.get()
            {
                store.clone().close().unwrap();
                // As who opens it next may.
                name.into_iter().for_each(|name| disk.remove_durably(name));
            }
        }));
        shared.set(store.clone()).ok();
        for number in 0..200 {
            run(&store, &format!("key-{number}"), &[7; 700]);
        }
        let copy = SimDisk::new();
        let backup = store.backup_on(Arc::new(copy.clone()));
        assert!(matches!(store.lookup(scope("key-3")), Err(Error::Closed)), "it is not closed");
        if name.is_some() {
            assert!(matches!(backup, Err(Error::Closed)), "{backup:?}");
            continue;
        }
        assert!(backup.unwrap().segments > 2);
        let copy = world.on(copy).open();
        assert!(copy.verify().unwrap().is_clean());
        (0..200).for_each(|number| assert_eq!(kind(&copy, &format!("key-{number}")), "completed"));
    }
}

/// The first hint file that is written stands still, and so would tell of a second one beside it.
#[derive(Debug)]
struct Hinting {
    pause: Mutex<Option<Pause>>,
    beside: Mutex<Option<Sender<String>>>,
}

impl Intercept for Hinting {
    fn sync(&self, target: Target<'_>) -> io::Result<()> {
        if target.name.ends_with(".idx.tmp") {
            let pause = self.pause.lock().unwrap().take();
            if let Some(pause) = pause {
                pause.begun.send(()).unwrap();
                pause.goes_on.recv().unwrap();
            } else if let Some(beside) = &*self.beside.lock().unwrap() {
                beside.send(target.name.to_owned()).ok();
            }
        }
        target.file.sync()
    }
}

#[test]
fn a_close_leaves_no_segment_without_hints_though_upkeep_is_writing_them() {
    let world = World::new();
    let (begun, begins) = channel();
    let (go_on, goes_on) = channel();
    let (beside, besides) = channel();
    let pause = Mutex::new(Some(Pause { begun, goes_on }));
    let disk = Intercepted::new(&world.disk, Hinting { pause, beside: Mutex::new(Some(beside)) });
    let options = || world.options().background(Background::Threads);
    let store = options().open_on(Arc::new(disk.clone())).unwrap();
    for number in 0..200 {
        run(&store, &format!("key-{number}"), &[7; 700]);
    }
    assert!(store.stats().segments > 3);
    begins.recv().unwrap();
    std::thread::scope(|threads| {
        let closing = threads.spawn(|| store.clone().close().unwrap());
        let waited = besides.recv_timeout(Duration::from_millis(200));
        *disk.by.beside.lock().unwrap() = None;
        go_on.send(()).unwrap();
        closing.join().unwrap();
        assert_eq!(waited, Err(RecvTimeoutError::Timeout), "two hint files were written at once");
    });
    let store = world.open();
    assert_eq!(store.recovery().hints_rebuilt, 0, "{:?}", store.recovery());
    assert!(store.verify().unwrap().is_clean());
}
