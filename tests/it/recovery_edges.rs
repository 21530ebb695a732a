//! What an open makes of rare ends: damage that looks like a torn tail, files that mean harm, and
//! crashes in the middle of a recovery.

use std::sync::Arc;

use oncelog::{Create, Error, OnDamage, Store};

use crate::contract::support::{
    BUCKET, DAY, SEGMENT_BYTES, TTL, World, claim, granted, kind, run, scope, start,
};
use crate::support::disk::{SimDisk, Survival};
use crate::support::files::{checksum, reseal, reseal_record, segment_file};

const FIRST_SEGMENT: &str = "0000000000000001.seg";
/// Bytes of each of the two slots of CHECKPOINT, and of each of the two headers of a segment.
const COPY_BYTES: usize = 4096;

fn try_open(world: &World, disk: &SimDisk) -> Result<Store, Error> {
    world.options().open_on(Arc::new(disk.clone()))
}

fn assert_corrupt(world: &World) {
    let opened = try_open(world, &world.disk);
    assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
}

/// Where the zeros behind the last record of the first segment begin, rounded to a record's place.
fn end_of_records(disk: &SimDisk) -> u64 {
    let bytes = disk.read(FIRST_SEGMENT).unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    (last as u64 + 1).next_multiple_of(16)
}

fn store_id(disk: &SimDisk) -> [u8; 16] {
    disk.read("SUPER").unwrap()[16..32].try_into().unwrap()
}

fn put(bytes: &mut [u8], at: usize, field: u64) {
    bytes[at..at + 8].copy_from_slice(&field.to_le_bytes());
}

/// Puts other fields into both slots of CHECKPOINT: where each is, and what it says.
fn forge_checkpoint(disk: &SimDisk, fields: &[(usize, u64)]) {
    let seed = checksum(0, &store_id(disk));
    let mut bytes = disk.read("CHECKPOINT").unwrap();
    for slot in bytes.chunks_mut(COPY_BYTES) {
        fields.iter().for_each(|&(at, field)| put(slot, at, field));
        reseal(slot, 12, seed, 16..72);
    }
    disk.write("CHECKPOINT", &bytes);
}

/// What an open finds to be corrupt.
fn corruption(world: &World) -> &'static str {
    match try_open(world, &world.disk) {
        Err(Error::Corrupt { what, .. }) => what,
        opened => panic!("not corrupt: {opened:?}"),
    }
}

#[test]
fn a_directory_of_foreign_files_is_missing_to_whoever_may_create_nothing() {
    let world = World::new();
    world.disk.write("lost+found", b"not ours");
    let options = world.options().create(Create::Never);
    let opened = options.open_on(Arc::new(world.disk.clone()));
    assert!(matches!(opened, Err(Error::Missing { .. })), "{opened:?}");
    assert_eq!(world.disk.names(), ["lost+found"]);
}

#[test]
fn a_response_bound_for_which_the_segments_on_disk_are_too_small_is_refused() {
    let world = World::new();
    world.open().close().unwrap();
    // What is said of segments counts for a new store.
    let with = |bytes: u64| {
        let bytes = u32::try_from(bytes).unwrap();
        let options = world.options().segment_bytes(1 << 24).response_bytes_max(bytes);
        options.open_on(Arc::new(world.disk.clone()))
    };
    let fits = SEGMENT_BYTES / 4 - 8 * 1024;
    let opened = with(fits + 1);
    assert!(matches!(opened, Err(Error::Invalid { .. })), "{opened:?}");
    assert!(with(fits).is_ok());
}

#[test]
fn a_segment_size_that_no_store_can_have_is_corrupt() {
    let world = World::new();
    world.open().close().unwrap();
    let sound = world.disk.read("SUPER").unwrap();
    for bytes in [0, SEGMENT_BYTES - 16, (64 << 20) + 16, u64::MAX] {
        let mut forged = sound.clone();
        for copy in forged.chunks_mut(COPY_BYTES) {
            put(copy, 48, bytes);
            reseal(copy, 12, 0, 16..56);
        }
        world.disk.write("SUPER", &forged);
        assert_eq!(corruption(&world), "SUPER names an impossible segment size", "{bytes}");
    }
    world.disk.write("SUPER", &sound);
    world.open();
}

#[test]
fn a_checkpoint_whose_tail_is_older_than_its_oldest_segment_is_corrupt() {
    let world = World::new();
    world.open().close().unwrap();
    // Oldest, sealed, tail.
    forge_checkpoint(&world.disk, &[(24, 2), (32, 0), (40, 1)]);
    assert_eq!(corruption(&world), "CHECKPOINT contradicts itself");
    forge_checkpoint(&world.disk, &[(24, 1), (32, 0), (40, 1)]);
    world.open();
}

#[test]
fn a_store_whose_epochs_are_used_up_opens_no_more_and_hands_out_no_token_twice() {
    let world = World::new();
    world.open().close().unwrap();
    forge_checkpoint(&world.disk, &[(56, (1 << 23) - 2)]);
    let store = world.open();
    run(&store, "last", b"created");
    store.close().unwrap();
    let before = world.disk.steps();
    let opened = try_open(&world, &world.disk);
    assert!(matches!(opened, Err(Error::Invalid { .. })), "{opened:?}");
    assert_eq!(world.disk.steps(), before, "a refused open changes nothing");
}

#[test]
fn the_hints_of_a_closed_tail_that_checkpoint_does_not_name_are_not_believed() {
    let closed = || {
        let world = World::new();
        let store = world.open();
        run(&store, "k", b"created");
        store.close().unwrap();
        world
    };
    let (named, unnamed) = (closed(), closed());
    forge_checkpoint(&unnamed.disk, &[(32, 0), (40, 0)]);
    let (named, unnamed) = (named.open(), unnamed.open());
    assert_eq!((kind(&named, "k"), kind(&unnamed, "k")), ("completed", "completed"));
    assert_eq!(named.recovery().records_scanned, 0);
    assert!(unnamed.recovery().records_scanned > 0);
}

#[test]
fn a_tail_that_does_not_continue_the_segment_before_it_is_corrupt_and_can_be_put_in_quarantine() {
    let world = World::new();
    let store = world.open();
    for number in 0.. {
        run(&store, &format!("key-{number}"), &[7; 700]);
        if store.stats().segments == 2 {
            break;
        }
    }
    run(&store, "in the tail", b"created");
    store.close().unwrap();
    let mut tail = world.disk.read(&segment_file(2)).unwrap();
    for copy in tail[..2 * COPY_BYTES].chunks_mut(COPY_BYTES) {
        // The last LSN of the segment before it.
        copy[56] ^= 1;
        reseal(copy, 12, 0, 16..80);
    }
    world.disk.write(&segment_file(2), &tail);
    assert_eq!(corruption(&world), "the segment does not continue the one before it");
    let store = world.open_with(world.options().on_damage(OnDamage::Quarantine));
    let quarantined = &store.recovery().quarantined;
    assert_eq!(quarantined.iter().map(|q| q.segment).collect::<Vec<_>>(), [2]);
    assert_eq!((kind(&store, "key-0"), kind(&store, "in the tail")), ("completed", "completed"));
    assert!(matches!(store.lookup(scope("never")), Err(Error::Corrupt { segment: 2, .. })));
}

#[test]
fn damage_to_a_whole_short_epoch_is_no_torn_tail() {
    let world = World::new();
    let store = world.open();
    run(&store, "first", &[7; 700]);
    store.close().unwrap();
    let store = world.open();
    assert!(store.recovery().clean);
    let from = end_of_records(&world.disk);
    run(&store, "paid", b"created");
    // The close writes CLEAN, syncs it, and dies as it writes CHECKPOINT.
    world.disk.crash_at(world.disk.steps() + 2);
    assert!(store.close().is_err());
    let world = world.on(world.disk.after_power_cut(1, Survival::None));
    let store = world.open();
    assert!(store.recovery().clean, "{:?}", store.recovery());
    assert_eq!(kind(&store, "paid"), "completed");
    let to = end_of_records(&world.disk);
    let _permit = granted(claim(&store, "next"));
    let world = world.on(world.disk.after_kill());
    for at in from..to {
        world.disk.corrupt(FIRST_SEGMENT, at, 0xff);
    }
    assert_corrupt(&world);
}

#[test]
fn a_checkpoint_cut_short_is_corrupt() {
    let world = World::new();
    world.open().close().unwrap();
    let bytes = world.disk.read("CHECKPOINT").unwrap();
    for length in [0, 100, COPY_BYTES, bytes.len() - 1] {
        world.disk.write("CHECKPOINT", &bytes[..length]);
        assert_corrupt(&world);
    }
}

#[test]
fn a_checkpoint_whose_oldest_segment_is_beyond_all_numbers_is_corrupt() {
    let world = World::new();
    world.open().close().unwrap();
    let seed = checksum(0, &store_id(&world.disk));
    let mut bytes = world.disk.read("CHECKPOINT").unwrap();
    for slot in bytes.chunks_mut(COPY_BYTES) {
        put(slot, 24, u64::MAX);
        // Nothing is sealed, there is no tail, and nothing was durable.
        slot[32..56].fill(0);
        reseal(slot, 12, seed, 16..72);
    }
    world.disk.write("CHECKPOINT", &bytes);
    world.disk.remove_durably(FIRST_SEGMENT);
    assert_corrupt(&world);
}

/// A first segment with two PROMISEs, everything in it as it should be but for their LSN.
fn forged_segment(store: [u8; 16], lsn: u64) -> Vec<u8> {
    let (number, salt) = (1_u64, 77_u64);
    let mut file = vec![0; SEGMENT_BYTES as usize];
    file[..8].copy_from_slice(b"1clogseg");
    file[8] = 1;
    file[16..32].copy_from_slice(&store);
    put(&mut file, 32, number);
    put(&mut file, 40, salt);
    put(&mut file, 48, lsn);
    put(&mut file, 72, SEGMENT_BYTES);
    reseal(&mut file, 12, 0, 16..80);
    file.copy_within(..COPY_BYTES, COPY_BYTES);
    for offset in [2 * COPY_BYTES, 2 * COPY_BYTES + 48] {
        let record = &mut file[offset..offset + 48];
        record[8] = 9;
        put(record, 26, lsn);
        reseal_record(&mut file, &(offset as u64..offset as u64 + 48));
    }
    file
}

#[test]
fn a_forged_lsn_is_corrupt_and_no_panic() {
    let world = World::new();
    world.open().close().unwrap();
    for lsn in [u64::MAX, 1 << 63] {
        world.disk.write(FIRST_SEGMENT, &forged_segment(store_id(&world.disk), lsn));
        assert_corrupt(&world);
    }
}

#[test]
fn store_time_does_not_go_back_when_a_recovery_that_makes_the_tail_anew_is_cut_short() {
    let world = World::new();
    let store = world.open();
    run(&store, "old", b"created");
    // The response is sealed away, and the tail is not worth keeping.
    world.clock.advance(BUCKET);
    store.expire().unwrap();
    // Store time passes the expiry of `old`, and only a record of the tail says so.
    world.clock.advance(TTL);
    granted(claim(&store, "k")).release().unwrap();
    assert_eq!(kind(&store, "old"), "free");
    // The wall clock is set back while the process is down.
    world.clock.set_wall(start() + 12 * DAY);
    let mut cuts = 0;
    loop {
        let disk = world.disk.after_kill();
        disk.crash_at(cuts);
        if try_open(&world, &disk).is_ok() {
            break;
        }
        let again = world.on(disk.after_power_cut(cuts, Survival::All)).open();
        assert_eq!(kind(&again, "old"), "free", "store time went back after a cut at {cuts}");
        cuts += 1;
    }
    assert!(cuts > 5, "an open has more steps than {cuts}");
}

#[test]
fn a_seal_of_the_tail_that_tells_a_later_time_tells_it_to_this_open_too() {
    let world = World::new();
    let store = world.open();
    std::mem::forget(granted(claim(&store, "k")));
    let disk = world.disk.after_kill();
    let seal = end_of_records(&disk);
    let mut bytes = disk.read(FIRST_SEGMENT).unwrap();
    let at = usize::try_from(seal).unwrap();
    let claim_lsn = u64::from_le_bytes(bytes[2 * COPY_BYTES + 26..][..8].try_into().unwrap());
    // Kind 7; behind the header the summary, whose highest time is far ahead of every record's.
    bytes[at + 8] = 7;
    put(&mut bytes, at + 26, claim_lsn + 1);
    let summary = at + 34;
    put(&mut bytes, summary, 1);
    put(&mut bytes, summary + 12, claim_lsn);
    put(&mut bytes, summary + 20, claim_lsn);
    put(&mut bytes, summary + 34, 1 << 44);
    reseal_record(&mut bytes, &(seal..seal + 80));
    disk.write(FIRST_SEGMENT, &bytes);

    let first = world.on(disk.clone()).open();
    assert_eq!(first.recovery().records_scanned, 2, "the SEAL was read");
    let shown = format!("{:?}", first.unresolved());
    let second = world.on(disk.after_kill()).open();
    assert_eq!(format!("{:?}", second.unresolved()), shown, "the second open tells another time");
    assert_eq!(shown, "Ok([])", "the orphan is long past by what the SEAL says");
}

#[test]
fn a_torn_erasure_in_a_sealed_segment_that_lost_its_hints_is_finished() {
    let mut finished = Vec::new();
    for step in 0..12 {
        let world = World::new();
        let store = world.open();
        run(&store, "forgotten", &[9; 5000]);
        for number in 0..200 {
            run(&store, &format!("key-{number}"), &[7; 500]);
        }
        assert!(store.stats().segments > 2);
        store.sync().unwrap();
        // A write that fails leaves its first half behind.
        world.disk.fail_at(world.disk.steps() + step, std::io::ErrorKind::Other);
        let forgotten = store.forget(scope("forgotten"));
        drop(store);
        let disk = world.disk.after_kill();
        for number in 1..3 {
            disk.remove_durably(&format!("{number:016x}.idx"));
        }
        let world = world.on(disk);
        let store = world.open();
        let held = kind(&store, "forgotten");
        // Before its FORGET is whole, nothing is forgotten.
        assert!(held == "free" || (step == 0 && held == "completed"), "{step}: {held}");
        assert_eq!(kind(&store, "key-0"), "completed");
        assert!(store.verify().unwrap().is_clean(), "{step}");
        if forgotten.is_err() {
            finished.push(store.recovery().erasures_finished);
        }
    }
    // One FORGET of two, its sync, a CLAIM and a COMPLETE to be erased, of which each is torn in
    // its turn, and their sync. What was torn counts as well.
    assert_eq!(finished, [1, 2, 2, 1, 1, 0]);
}

#[test]
fn drafts_of_every_kind_are_removed_at_an_open_and_foreign_names_stay() {
    let world = World::new();
    drop(world.open());
    let drafts = [
        "SUPER.tmp",
        "CHECKPOINT.tmp",
        "QUARANTINE.tmp",
        "0000000000000001.idx.tmp",
        "0000000000000001.seg.tmp",
        "0000000000000007.seg.tmp",
    ];
    let foreign = ["notes.tmp", "LOCK.tmp", "1.seg.tmp", "0000000000000001.tmp"];
    drafts.iter().chain(&foreign).for_each(|name| world.disk.write(name, b"half of"));
    let world = world.on(world.disk.after_kill());
    drop(world.open());
    let names = world.disk.names();
    let left = |name: &&str| names.iter().any(|left| left == name);
    assert_eq!(drafts.iter().filter(|name| left(name)).count(), 0, "{names:?}");
    assert_eq!(foreign.iter().filter(|name| left(name)).count(), 4, "{names:?}");
}
