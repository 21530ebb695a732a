//! The directory: one owner at a time, damage that is never absence, and bytes that mean harm.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use oncelog::{Create, Error, Reads, Scope, Status, Store};

use crate::contract::support::{
    World, block_on, body, claim, granted, kind, other_body, replay, run, scope,
};
use crate::support::disk::SimDisk;
use crate::support::rng::Rng;

const CHILD: &str = "ONCELOG_TEST_SECOND_OPEN";

#[test]
fn a_second_open_is_already_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let second = Store::open(dir.path());
    let Err(error @ Error::AlreadyOpen { .. }) = second else { panic!("{second:?}") };
    assert!(error.is_retryable());
    let create_never = Store::options().create(Create::Never).open(dir.path());
    assert!(matches!(create_never, Err(Error::AlreadyOpen { .. })));
    run(&store, "k", b"undisturbed");
    let world = World::new();
    let _held = world.open();
    let second = world.options().open_on(Arc::new(world.disk.clone()));
    assert!(matches!(second, Err(Error::AlreadyOpen { .. })));
}

#[test]
fn a_second_open_from_another_process_is_already_open() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let opened = Store::open(dir);
        assert!(matches!(opened, Err(Error::AlreadyOpen { .. })), "{opened:?}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let name = "contract::directory::a_second_open_from_another_process_is_already_open";
    let in_child = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.args([name, "--exact"]).env(CHILD, dir.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("running 1 test"), "{said}");
        output.status.success()
    };
    assert!(in_child());
    drop(store);
    assert!(!in_child(), "the check can fail");
}

#[test]
fn an_open_that_waits_for_the_owner_begins_when_the_owner_closes() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let store = Store::open(dir.path()).unwrap();
        let hour = Duration::from_secs(3_600);
        let patient = Store::options().wait_for_owner(hour);
        let (begun, begins) = mpsc::channel();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| {
                begun.send(()).unwrap();
                patient.open(dir.path())
            });
            begins.recv().unwrap();
            // Whoever only looks is no owner, and ends no wait.
            Store::options().open_read_only(dir.path()).unwrap();
            let key = format!("{round}");
            run(&store, &key, b"by the old owner");
            let closed = Instant::now();
            store.close().unwrap();
            let store = next.join().unwrap().unwrap();
            let waited = closed.elapsed();
            assert!(waited < Duration::from_secs(60), "{waited:?} until the next owner opened");
            assert_eq!(kind(&store, &key), "completed");
        });
    }
}

#[test]
fn an_open_that_waits_in_vain_is_already_open_when_its_patience_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let patience = Duration::from_millis(60);
    let before = Instant::now();
    let second = Store::options().wait_for_owner(patience).open(dir.path());
    assert!(matches!(second, Err(Error::AlreadyOpen { .. })), "{second:?}");
    assert!(before.elapsed() >= patience, "{:?}", before.elapsed());
    run(&store, "k", b"undisturbed");
}

#[test]
fn the_directory_is_free_when_close_returns_or_the_last_handle_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let store = Store::open(dir.path()).unwrap();
        let clone = store.clone();
        drop(store);
        assert!(Store::open(dir.path()).is_err(), "a clone is a handle");
        assert_eq!(kind(&clone, "k"), if round == 0 { "free" } else { "completed" });
        if round == 0 {
            run(&clone, "k", b"created");
        }
        if round % 2 == 0 { drop(clone) } else { clone.close().unwrap() }
    }
}

#[test]
fn the_directory_is_free_after_close_while_the_process_starts_others() {
    let dir = tempfile::tempdir().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                Command::new("/bin/true").status().unwrap();
            }
        });
        // A child holds copies of all descriptors between its fork and its exec.
        let options = || Store::options().segment_bytes(64 * 1024);
        let opened = (0..100).try_for_each(|_| options().open(dir.path())?.close());
        done.store(true, Ordering::Relaxed);
        opened.unwrap();
    });
}

#[test]
fn permits_orphans_responses_and_futures_do_not_keep_a_store_open() {
    for clean in [true, false] {
        let world = World::new();
        let store = world.open();
        let stored = run(&store, "done", b"created");
        let permit = granted(claim(&store, "k"));
        drop(granted(claim(&store, "dropped")));
        let orphan = store.orphan(scope("dropped")).unwrap().unwrap();
        let claiming = store.claim_async(scope("new"), body());
        let looking = store.lookup_async(scope("done"));
        if clean {
            store.close().unwrap()
        } else {
            drop(store)
        }
        let store = world.open();
        assert!(store.recovery().clean);
        assert_eq!(stored.bytes(), Some(&b"created"[..]));
        assert!(matches!(permit.complete(b"late"), Err(Error::Closed)));
        assert!(matches!(orphan.take_over(), Err(Error::Closed)));
        assert!(matches!(block_on(claiming), Err(Error::Closed)));
        assert!(matches!(block_on(looking), Err(Error::Closed)));
        assert_eq!((kind(&store, "k"), kind(&store, "new")), ("orphaned", "free"));
    }
}

#[test]
fn close_ends_the_store_for_every_clone_and_permit() {
    let world = World::new();
    let store = world.open();
    run(&store, "done", b"created");
    let clone = store.clone();
    let mut permits = ["a", "b", "c", "d", "e"].map(|key| granted(claim(&store, key))).into_iter();
    let mut next = || permits.next().unwrap();
    store.close().unwrap();
    let closed = |outcome: Result<(), Error>| matches!(outcome, Err(Error::Closed));
    assert!(closed(clone.claim(scope("done"), body()).map(drop)));
    assert!(closed(clone.lookup(scope("done")).map(drop)));
    assert!(closed(clone.unresolved().map(drop)));
    assert!(closed(clone.orphan(scope("done")).map(drop)));
    assert!(closed(clone.expire().map(drop)));
    assert!(closed(clone.sync()));
    assert!(closed(clone.accept_clock()));
    assert!(closed(next().complete(b"").map(drop)));
    assert!(closed(next().release()));
    assert!(closed(next().give_up()));
    let permit = next();
    assert!(closed(permit.renew()) && closed(permit.save_checkpoint(b"")));
    assert!(closed(block_on(next().complete_async(b"")).map(drop)));
    assert!(closed(clone.close()));
    let store = world.open();
    assert_eq!((store.stats().orphans, kind(&store, "done")), (5, "completed"));
}

/// The keys and responses of a small store that was closed.
const HELD: [(&str, &[u8]); 4] =
    [("one", b"first"), ("two", &[0; 300]), ("three", b""), ("four", &[0xff; 900])];

/// A closed store with responses, an orphan, and a segment that was sealed.
fn closed_store(segments: usize) -> World {
    let world = World::new();
    let store = world.open();
    for (key, response) in HELD {
        run(&store, key, response);
    }
    drop(granted(claim(&store, "orphan")));
    granted(claim(&store, "released")).release().unwrap();
    for number in 0..(segments - 1) * 9 {
        run(&store, &format!("filler{number}"), &[1; 8_000]);
    }
    store.close().unwrap();
    world
}

/// Opens what is there, asks for everything, and says how it went: anything but the right answer
/// or an error is a failure.
fn is_right_or_an_error(world: &World, label: &str) -> bool {
    let asked = catch_unwind(AssertUnwindSafe(|| {
        let store = match world.options().open_on(Arc::new(world.disk.clone())) {
            Ok(store) => store,
            Err(_) => return false,
        };
        let mut all_right = true;
        for (key, response) in HELD {
            match store.lookup(scope(key)) {
                Ok(Some(Status::Completed(stored))) => {
                    assert_eq!(stored.bytes(), Some(response), "a wrong response");
                    assert_eq!(stored.fingerprint(), body());
                }
                Ok(other) => panic!("{key} was acknowledged, but shows {other:?}"),
                Err(_) => all_right = false,
            }
            match store.claim(scope(key), body()) {
                Ok(claim) => assert_eq!(claim.kind(), "replay"),
                Err(_) => all_right = false,
            }
        }
        match store.lookup(scope("orphan")) {
            Ok(Some(Status::Orphaned(info))) => assert_eq!(info.attempt(), 1),
            Ok(other) => panic!("the orphan shows {other:?}"),
            Err(_) => all_right = false,
        }
        assert!(store.lookup(scope("never")).is_ok_and(|status| status.is_none()) || !all_right);
        all_right
    }));
    asked.unwrap_or_else(|_| panic!("{label}"))
}

/// Flips bits of every byte that `chosen` picks, one at a time; returns how many flips the store
/// got over and how many it refused.
fn flip_each(world: &World, chosen: impl Fn(&str, usize, &[u8]) -> bool) -> (u64, u64) {
    let (mut mended, mut refused) = (0, 0);
    for name in world.disk.names() {
        let bytes = world.disk.read(&name).unwrap();
        for offset in (0..bytes.len()).filter(|&offset| chosen(&name, offset, &bytes)) {
            let xor = if offset % 3 == 0 { 0xff } else { 1 << (offset % 8) };
            let hurt = world.on(world.disk.after_kill());
            hurt.disk.corrupt(&name, offset as u64, xor);
            let label = format!("{name}, byte {offset} ^ {xor:#x} of {:#x}", bytes[offset]);
            if is_right_or_an_error(&hurt, &label) {
                mended += 1;
            } else {
                refused += 1;
            }
        }
    }
    (mended, refused)
}

#[test]
fn no_flipped_byte_of_a_closed_store_gives_a_wrong_response_or_an_absence_or_a_panic() {
    let world = closed_store(1);
    let (mended, refused) = flip_each(&world, |_, offset, bytes| {
        let sector = &bytes[offset / 512 * 512..][..512.min(bytes.len() - offset / 512 * 512)];
        // Of the zeros that no sector with content holds, one in each page.
        sector.iter().any(|byte| *byte != 0) || offset % 4096 == 77
    });
    println!("{mended} flips made no difference, {refused} were refused");
    assert!(mended > 0 && refused > 500, "{mended} {refused}");
}

#[test]
fn no_flipped_byte_of_a_store_with_sealed_segments_gives_a_wrong_response_or_an_absence() {
    let world = closed_store(3);
    let names = world.disk.names();
    assert!(names.iter().filter(|name| name.ends_with(".seg")).count() >= 3, "{names:?}");
    let (mended, refused) = flip_each(&world, |name, offset, _| {
        !name.ends_with(".seg") && offset < 160 || offset % 211 == 0
    });
    println!("{mended} flips made no difference, {refused} were refused");
    assert!(mended > 0 && refused > 0);
}

#[test]
fn a_damaged_response_is_corrupt_and_not_a_free_scope_in_an_open_store() {
    for reads in [Reads::Mapped, Reads::Positioned] {
        let world = World::new();
        let store = world.open_with(world.options().reads(reads));
        run(&store, "k", b"a response that rots");
        run(&store, "sound", b"sound");
        let name = world.disk.names().into_iter().find(|name| name.ends_with(".seg")).unwrap();
        let bytes = world.disk.read(&name).unwrap();
        let at = bytes.windows(4).position(|window| window == b"rots").unwrap();
        world.disk.corrupt(&name, at as u64, 0x20);
        for fingerprint in [body(), other_body()] {
            let outcome = store.claim(scope("k"), fingerprint);
            assert!(matches!(outcome, Err(Error::Corrupt { .. })), "{outcome:?}");
        }
        let outcome = store.lookup(scope("k"));
        assert!(matches!(outcome, Err(Error::Corrupt { segment: 1.., .. })), "{outcome:?}");
        assert_eq!(replay(claim(&store, "sound")).bytes(), Some(&b"sound"[..]));
        world.disk.corrupt(&name, at as u64, 0x20);
        assert_eq!(claim(&store, "k").kind(), "replay", "the byte was all");
    }
}

#[test]
fn a_missing_or_truncated_file_is_never_an_empty_store() {
    let world = closed_store(2);
    for name in world.disk.names() {
        let whole = world.disk.read(&name).unwrap();
        for left in [None, Some(0), Some(whole.len() / 2), Some(whole.len().saturating_sub(1))] {
            let hurt = world.on(world.disk.after_kill());
            match left {
                None => hurt.disk.remove_durably(&name),
                Some(left) => hurt.disk.write(&name, &whole[..left]),
            }
            is_right_or_an_error(&hurt, &format!("{name} cut to {left:?}"));
        }
    }
}

#[test]
fn files_swapped_or_taken_from_another_store_are_never_believed() {
    let (ours, theirs) = (closed_store(3), closed_store(3));
    let names = ours.disk.names();
    for name in &names {
        for from in &names {
            let foreign = theirs.disk.read(from);
            let own = ours.disk.read(from).filter(|_| from != name);
            for bytes in foreign.into_iter().chain(own) {
                let hurt = ours.on(ours.disk.after_kill());
                hurt.disk.write(name, &bytes);
                is_right_or_an_error(&hurt, &format!("{from} in the place of {name}"));
            }
        }
    }
}

#[test]
fn random_bytes_in_any_file_never_panic_or_invent_a_response() {
    let world = closed_store(2);
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let hurt = world.on(world.disk.after_kill());
        let names = world.disk.names();
        let name = &names[usize::try_from(rng.below(names.len() as u64)).unwrap()];
        let mut bytes = world.disk.read(name).unwrap();
        let len = bytes.len() as u64;
        if len == 0 {
            continue;
        }
        let start = usize::try_from(rng.below(len)).unwrap();
        let span = usize::try_from(rng.below(600)).unwrap();
        for byte in bytes.iter_mut().skip(start).take(span) {
            *byte = rng.next().to_le_bytes()[0];
        }
        hurt.disk.write(name, &bytes);
        is_right_or_an_error(&hurt, &format!("seed {seed}, {name}, {span} bytes from {start}"));
    }
}

#[test]
fn a_directory_of_garbage_under_the_names_of_a_store_is_refused() {
    let names = closed_store(2).disk.names();
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let world = World::new();
        for name in &names {
            let len = rng.below(3) * rng.below(70_000);
            let bytes: Vec<u8> = (0..len).map(|_| rng.next().to_le_bytes()[0]).collect();
            world.disk.write(name, &bytes);
        }
        let opened = catch_unwind(AssertUnwindSafe(|| {
            world.options().open_on(Arc::new(world.disk.clone())).map(drop)
        }));
        let opened = opened.unwrap_or_else(|_| panic!("seed {seed}"));
        assert!(opened.is_err(), "seed {seed}: garbage is no store");
    }
}

#[test]
fn files_that_are_not_the_stores_are_left_alone() {
    let world = closed_store(2);
    let strangers = [".nfs0001", "lost+found", "notes.txt", "zz.seg", "x.idx", "000.seg", "a.tmp"];
    for name in strangers {
        world.disk.write(name, b"not yours");
    }
    let store = world.open();
    for (key, response) in HELD {
        assert_eq!(replay(claim(&store, key)).bytes(), Some(response));
    }
    store.close().unwrap();
    for name in strangers {
        assert_eq!(world.disk.read(name).as_deref(), Some(&b"not yours"[..]), "{name}");
    }
}

#[test]
fn a_failed_open_leaves_every_file_as_it_was() {
    let world = closed_store(2);
    let segment = world.disk.names().into_iter().find(|name| name.ends_with(".seg")).unwrap();
    world.disk.corrupt(&segment, 4_096 + 64, 0xff);
    let holdings = |disk: &SimDisk| -> Vec<_> {
        disk.names().into_iter().map(|name| (disk.read(&name), name)).collect()
    };
    let before = holdings(&world.disk);
    if world.options().open_on(Arc::new(world.disk.clone())).is_err() {
        assert!(holdings(&world.disk) == before, "the open changed what it could not read");
    }
}

#[test]
fn a_newer_format_is_a_version_error_and_not_damage_or_a_fresh_store() {
    let world = closed_store(1);
    let name = world.disk.names().into_iter().find(|name| name.starts_with("SUPER")).unwrap();
    for copy in [0, 4_096] {
        // The format version is the u32 behind the magic number.
        world.disk.corrupt(&name, copy + 8, 0x40);
    }
    let opened = world.options().open_on(Arc::new(world.disk.clone()));
    assert!(matches!(opened, Err(Error::Version { .. })), "{opened:?}");
}

#[test]
fn a_worn_sector_is_an_io_error_and_not_a_free_scope() {
    let world = World::new();
    let store = world.open_with(world.options().reads(Reads::Positioned));
    run(&store, "k", b"created");
    let name = world.disk.names().into_iter().find(|name| name.ends_with(".seg")).unwrap();
    world.disk.fail_reads(&name, 0..65_536);
    assert!(matches!(store.lookup(scope("k")), Err(Error::Io { .. })));
    assert!(matches!(store.claim(scope("k"), body()), Err(Error::Io { .. })));
}

#[test]
fn hostile_scopes_and_responses_are_only_bytes() {
    let world = World::new();
    let store = world.open();
    let mut rng = Rng::new(7);
    println!("seed 7");
    let mut held = Vec::new();
    for number in 0..200_u64 {
        let len = usize::try_from(rng.below(40)).unwrap() + 1;
        let text = |rng: &mut Rng| -> String {
            (0..len).map(|_| char::from(rng.next().to_le_bytes()[0] & 0x7f)).collect()
        };
        let fields =
            [text(&mut rng), text(&mut rng), text(&mut rng), format!("{number}\0\u{202e}")];
        // Responses that look like the store's own files.
        let segment = world.disk.names().into_iter().find(|name| name.ends_with(".seg")).unwrap();
        let start = usize::try_from(rng.below(8_192)).unwrap();
        let response = world.disk.read(&segment).unwrap()[start..start + 600].to_vec();
        let [organization, method, path, key] = &fields;
        let scope = Scope { organization, method, path, key };
        granted(store.claim(scope, body()).unwrap()).complete(&response).unwrap();
        held.push((fields.clone(), response));
    }
    drop(store);
    let store = world.open();
    for ([organization, method, path, key], response) in &held {
        let scope = Scope { organization, method, path, key };
        assert_eq!(replay(store.claim(scope, body()).unwrap()).bytes(), Some(&response[..]));
    }
}
