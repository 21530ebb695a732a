//! What a verification finds, and what it must not take for damage.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use oncelog::{Damage, Durability, Error, ManualClock, Phase, Store};

use crate::contract::support::{
    BUCKET, MS, SEGMENT_BYTES, TTL, World, body, claim, granted, kind, replay, run, scope, start,
};
use crate::support::disk::Survival;
use crate::support::files::{hint_file, reseal_record, segment_file};
use crate::support::intercept::{Intercept, Intercepted, Target};

const PAGE: u64 = 4096;
const DATA_START: u64 = 2 * PAGE;

/// Offset and size of each record of a sound segment.
fn records(bytes: &[u8]) -> Vec<Range<u64>> {
    let (mut at, mut found) = (DATA_START as usize, Vec::new());
    while at + 34 <= bytes.len() && bytes[at + 8] != 0 {
        let header = &bytes[at..at + 34];
        let fixed = match (header[8], header[9]) {
            (1, 0) => 32,
            (1, _) => 55,
            (2, _) => 10,
            (3, _) => 50,
            (4, _) => 9,
            (7 | 8, _) => 46,
            (9, _) => 0,
            other => panic!("an unknown kind of record: {other:?}"),
        };
        let scope = usize::from(u16::from_le_bytes([header[10], header[11]]));
        let value = u32::from_le_bytes([header[12], header[13], header[14], 0]) as usize;
        let end = (at + 34 + fixed + scope + value).next_multiple_of(16);
        found.push(at as u64..end as u64);
        at = end;
    }
    found
}

/// A store of two sealed segments with hint files, and a tail with responses, an orphan and a claim
/// that was carried.
fn filled(world: &World) -> Store {
    let store = world.open();
    let permit = granted(claim(&store, "carried"));
    permit.save_checkpoint(b"half way").unwrap();
    drop(permit);
    for number in 0..200 {
        run(&store, &format!("key-{number}"), &vec![number as u8; 400]);
        if store.stats().segments == 3 {
            break;
        }
    }
    store.close().unwrap();
    // Opening seals nothing that is needed here; it writes what hint files are missing.
    let store = world.open();
    run(&store, "last", b"201 created");
    assert!(store.stats().segments >= 3);
    store
}

fn assert_clean(store: &Store) {
    let found = store.verify().unwrap();
    assert!(found.is_clean(), "{:?}", found.damage);
    assert_eq!(found.segments, store.stats().segments);
}

fn damage(store: &Store) -> Vec<(u64, u64)> {
    let places = |damage: &Damage| (damage.segment, damage.offset);
    store.verify().unwrap().damage.iter().map(places).collect()
}

/// Where the damage is when the byte at `at` is not what it should be, if it is part of the store.
fn place_of(records: &[Range<u64>], at: u64) -> Option<u64> {
    match at {
        0..DATA_START => Some(at / PAGE * PAGE),
        _ => records.iter().find(|record| record.contains(&at)).map(|record| record.start),
    }
}

#[test]
fn every_flipped_byte_is_found_where_it_is() {
    let world = World::new();
    let store = filled(&world);
    assert_clean(&store);
    let mut kinds = [0; 10];
    let mut tried = 0;
    let mut flip = |file: &str, at: u64, expected: &[(u64, u64)]| {
        world.disk.corrupt(file, at, 0x10);
        assert_eq!(damage(&store), expected, "byte {at} of {file}");
        world.disk.corrupt(file, at, 0x10);
        tried += 1;
    };
    let segments = store.stats().segments;
    for number in 1..=segments {
        let name = segment_file(number);
        let bytes = world.disk.read(&name).unwrap();
        let records = records(&bytes);
        // Every kind of record, each of its fields; elsewhere a sample.
        for record in &records {
            let kind = usize::from(bytes[record.start as usize + 8]);
            kinds[kind] += 1;
            if kinds[kind] <= 2 {
                for at in (record.start..record.start + 34).chain([record.end - 1]) {
                    flip(&name, at, &[(number, record.start)]);
                }
            }
        }
        for at in (0..SEGMENT_BYTES).step_by(1009) {
            let place = place_of(&records, at).map(|offset| (number, offset));
            flip(&name, at, &Vec::from_iter(place));
        }
    }
    for kind in [1, 2, 3, 7, 8] {
        assert!(kinds[kind] > 0, "no record of kind {kind} was tried");
    }
    for number in 1..segments {
        let name = hint_file(number);
        let bytes = world.disk.read(&name).unwrap().len() as u64;
        for at in (0..bytes).step_by(251) {
            flip(&name, at, &[(number, at / PAGE * PAGE)]);
        }
    }
    for name in ["SUPER", "CHECKPOINT"] {
        for at in (0..12).chain((12..2 * PAGE).step_by(251)) {
            flip(name, at, &[(0, at / PAGE * PAGE)]);
        }
    }
    assert!(tried > 500, "{tried}");
    assert_clean(&store);
}

#[test]
fn damage_says_in_which_file_it_is_and_the_rest_is_read_on() {
    let world = World::new();
    let store = filled(&world);
    let all = store.verify().unwrap().records;
    let records = records(&world.disk.read(&segment_file(1)).unwrap());
    world.disk.corrupt(&segment_file(1), records[5].start + 40, 1);
    world.disk.corrupt(&segment_file(1), records[9].start, 1);
    world.disk.corrupt(&hint_file(2), PAGE + 3, 1);
    world.disk.corrupt("CHECKPOINT", 30, 1);
    let found = store.verify().unwrap();
    assert_eq!(found.records, all - 2, "the records between and behind are read");
    let said: Vec<String> = found
        .damage
        .iter()
        .map(|damage| format!("{}@{}: {}", damage.segment, damage.offset, damage.what))
        .collect();
    let wanted = [
        "0@0: a slot of CHECKPOINT does not verify".to_owned(),
        format!("1@{}: the body's checksum does not match", records[5].start),
        format!("1@{}: the header's checksum does not match", records[9].start),
        "2@4096: the hint file does not verify here; it is made again from the segment".to_owned(),
    ];
    assert_eq!(said, wanted);
}

#[test]
fn a_file_that_is_missing_or_of_an_earlier_time_is_damage() {
    let world = World::new();
    let store = filled(&world);
    let older = world.disk.read("CHECKPOINT").unwrap();
    store.accept_clock().unwrap();
    let what = |store: &Store| {
        let found = store.verify().unwrap();
        let [damage] = &found.damage[..] else { panic!("not one damage: {found:?}") };
        (damage.segment, damage.what)
    };
    let newer = world.disk.read("CHECKPOINT").unwrap();
    world.disk.write("CHECKPOINT", &older);
    assert_eq!(what(&store), (0, "CHECKPOINT is older than the last one written"));
    world.disk.write("CHECKPOINT", &newer);
    for (name, segment) in [(segment_file(1), 1), (hint_file(1), 1), ("SUPER".to_owned(), 0)] {
        let bytes = world.disk.read(&name).unwrap();
        world.disk.remove_durably(&name);
        let (number, text) = what(&store);
        assert!(number == segment && text.contains("missing"), "{name}: {text}");
        world.disk.write(&name, &bytes);
    }
    let mut bytes = world.disk.read(&segment_file(2)).unwrap();
    bytes.truncate(SEGMENT_BYTES as usize / 2);
    world.disk.write(&segment_file(2), &bytes);
    assert_eq!(what(&store), (2, "the file has the wrong size"));
}

#[test]
fn what_the_device_does_not_read_is_damage_and_the_rest_is_read_on() {
    let world = World::new();
    let store = filled(&world);
    let all = store.verify().unwrap().records;
    world.disk.fail_reads(&segment_file(1), 5 * PAGE..7 * PAGE);
    let found = store.verify().unwrap();
    assert_eq!(found.damage[0].offset, 5 * PAGE);
    assert_eq!(found.damage[0].what, "the device does not read this");
    assert!(found.records < all && found.records > all - 30, "{} of {all}", found.records);
}

#[test]
fn a_poisoned_store_can_be_verified() {
    let world = World::new();
    let store = filled(&world);
    world.disk.fail_at(world.disk.steps() + 1, io::ErrorKind::Other);
    let failed = store.claim(scope("x"), body());
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    assert!(matches!(store.sync(), Err(Error::Poisoned { .. })));
    assert_clean(&store);
    world.disk.corrupt(&segment_file(1), DATA_START, 1);
    assert_eq!(damage(&store), [(1, DATA_START)]);
}

#[test]
fn a_closed_store_is_not_verified() {
    let world = World::new();
    let store = filled(&world);
    let clone = store.clone();
    store.close().unwrap();
    assert!(matches!(clone.verify(), Err(Error::Closed)));
}

#[test]
fn a_segment_that_is_dropped_while_it_is_verified_is_no_damage() {
    let world = World::new();
    let shared: Arc<OnceLock<Store>> = Arc::default();
    let (seen, drops) = (Arc::clone(&shared), Arc::new(AtomicU64::new(0)));
    let (dropped, clock) = (Arc::clone(&drops), world.clock.clone());
    filled(&world).close().unwrap();
    let options = world.options().progress(move |progress| {
        if progress.phase == Phase::Verifying
            && progress.done == 0
            && let Some(store) = seen.get()
        {
            clock.advance(TTL + 2 * BUCKET);
            dropped.store(store.expire().unwrap().segments, Ordering::SeqCst);
        }
    });
    let store = world.open_with(options);
    shared.set(store.clone()).ok();
    let found = store.verify().unwrap();
    assert!(found.is_clean(), "{:?}", found.damage);
    assert!(drops.load(Ordering::SeqCst) >= 2, "nothing was dropped meanwhile");
}

#[test]
fn the_progress_of_a_verification_is_told() {
    let world = World::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    filled(&world).close().unwrap();
    let store = world.open_with(world.options().progress(move |progress| {
        if progress.phase == Phase::Verifying {
            heard.lock().unwrap().push((progress.done, progress.total));
        }
    }));
    store.verify().unwrap();
    let total = store.stats().segments;
    assert_eq!(*told.lock().unwrap(), Vec::from_iter((0..=total).map(|done| (done, total))));
}

/// The first reads of one byte of a file bring another one.
#[derive(Debug)]
struct Flicker {
    name: String,
    at: u64,
    reads: AtomicU64,
}

impl Intercept for Flicker {
    fn read(&self, target: Target<'_>, offset: u64, out: &mut [u8]) -> io::Result<()> {
        target.file.read_at(offset, out)?;
        let inside = (offset..offset + out.len() as u64).contains(&self.at);
        if inside && target.name == self.name {
            let before = self.reads.load(Ordering::SeqCst);
            self.reads.store(before.saturating_sub(1), Ordering::SeqCst);
            // Another byte at each read: the place is still being written.
            out[(self.at - offset) as usize] ^= before as u8;
        }
        Ok(())
    }
}

#[test]
fn a_record_that_changes_while_it_is_read_is_read_again() {
    let world = World::new();
    filled(&world).close().unwrap();
    let records = records(&world.disk.read(&segment_file(1)).unwrap());
    // In the header of one record, and in the body of another.
    for at in [records[4].start + 12, records[7].start + 60] {
        let flicker = Flicker { name: segment_file(1), at, reads: AtomicU64::new(0) };
        let disk = Intercepted::new(&world.disk.after_kill(), flicker);
        let store = world.options().open_on(Arc::new(disk.clone())).unwrap();
        disk.by.reads.store(3, Ordering::SeqCst);
        assert_clean(&store);
        assert_eq!(disk.by.reads.load(Ordering::SeqCst), 0, "it was not read again");
    }
}

/// Overwrites a record of the first segment with an ERASED one of its size.
fn erase(world: &World, record: &Range<u64>) {
    let name = segment_file(1);
    let mut bytes = world.disk.read(&name).unwrap();
    let (start, end) = (record.start as usize, record.end as usize);
    let lsn_and_time = bytes[start + 20..start + 34].to_vec();
    let erased = &mut bytes[start..end];
    erased.fill(0);
    erased[8] = 6;
    let value = (end - start - 34) as u32;
    erased[12..15].copy_from_slice(&value.to_le_bytes()[..3]);
    erased[20..34].copy_from_slice(&lsn_and_time);
    reseal_record(&mut bytes, record);
    world.disk.write(&name, &bytes);
}

#[test]
fn an_erased_record_is_no_damage_though_seal_and_hints_still_count_it() {
    let world = World::new();
    let store = filled(&world);
    let name = segment_file(1);
    let bytes = world.disk.read(&name).unwrap();
    let complete =
        |record: &&Range<u64>| bytes[record.start as usize + 8] == 3 && record.start > 20_000;
    let record = records(&bytes).iter().find(complete).unwrap().clone();
    erase(&world, &record);
    assert_clean(&store);
    // The rest of the segment is still held against its SEAL and hints.
    world.disk.corrupt(&name, record.start + 40, 1);
    assert_eq!(damage(&store), [(1, record.start)]);
    world.disk.corrupt(&name, record.start + 40, 1);
    world.disk.corrupt(&hint_file(1), PAGE + 8, 1);
    assert_eq!(damage(&store), [(1, PAGE)]);
}

#[test]
fn a_seal_that_counts_other_records_than_there_are_is_damage() {
    // What a store wrote down of one segment, and the same segment with a record erased that was
    // never there: nothing but the counts tells.
    let world = World::new();
    let store = filled(&world);
    let bytes = world.disk.read(&segment_file(1)).unwrap();
    let records = records(&bytes);
    let seal = records.last().unwrap();
    assert_eq!(bytes[seal.start as usize + 8], 7);
    let mut forged = bytes.clone();
    // One COMPLETE more than there are.
    forged[seal.start as usize + 34 + 4] += 1;
    reseal_record(&mut forged, seal);
    world.disk.write(&segment_file(1), &forged);
    assert_eq!(damage(&store), [(1, seal.start)]);
}

#[test]
fn a_new_store_verifies() {
    let world = World::new();
    let store = world.open();
    let found = store.verify().unwrap();
    assert!(found.is_clean() && found.segments == 1 && found.records == 0, "{found:?}");
    world.disk.corrupt(&segment_file(1), 100, 1);
    assert_eq!(damage(&store), [(1, 0)], "the header of an empty tail is durable");
}

#[test]
fn a_store_that_was_killed_and_cut_verifies_once_it_is_open() {
    let world = World::new();
    let store = filled(&world);
    for kill in 0..6 {
        run(&store, &format!("kill-{kill}"), b"200");
    }
    for seed in 0..20 {
        let again = world.on(world.disk.after_power_cut(seed, Survival::Random));
        let store = again.open();
        assert_clean(&store);
        run(&store, "after", b"200");
        assert_clean(&store);
        store.close().unwrap();
        assert_clean(&again.open());
    }
}

/// Four threads fill segments while the store is verified again and again.
fn verify_under_load(durability: Durability) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(start());
    let store = Store::options()
        .segment_bytes(SEGMENT_BYTES)
        .durability(durability)
        .clock(clock.clone())
        .open(dir.path())
        .unwrap();
    let done = AtomicBool::new(false);
    let verified = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (store, clock) = (store.clone(), clock.clone());
                scope.spawn(move || {
                    for number in 0..150 {
                        let key = format!("{writer}-{number}");
                        run(&store, &key, &vec![writer; 700]);
                        if number % 50 == 49 {
                            clock.advance(12 * BUCKET);
                            store.expire().unwrap();
                        }
                    }
                })
            })
            .collect();
        let verifier = scope.spawn(|| {
            let mut times = 0;
            while times == 0 || !done.load(Ordering::SeqCst) {
                let found = store.verify().unwrap();
                assert!(found.is_clean(), "{:?}", found.damage);
                times += 1;
            }
            times
        });
        let joined: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::SeqCst);
        joined.into_iter().for_each(|joined| joined.unwrap());
        verifier.join().unwrap()
    });
    assert!(verified > 0);
    assert_clean(&store);
}

#[test]
fn a_healthy_store_is_clean_under_load_when_synced() {
    verify_under_load(Durability::Synced);
}

#[test]
fn a_healthy_store_is_clean_under_load_when_buffered() {
    verify_under_load(Durability::Buffered { sync_every: Duration::from_millis(5) + MS });
}

#[test]
fn verification_changes_nothing() {
    let world = World::new();
    let store = filled(&world);
    let (steps, names) = (world.disk.steps(), world.disk.names());
    store.verify().unwrap();
    assert_eq!((world.disk.steps(), world.disk.names()), (steps, names));
    assert_eq!(kind(&store, "last"), "completed");
    assert_eq!(replay(claim(&store, "last")).bytes(), Some(&b"201 created"[..]));
}
