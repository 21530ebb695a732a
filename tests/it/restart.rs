//! What a restart costs, and what it may not change.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use oncelog::{Background, Claim, Durability, ManualClock, Phase, Store};

use crate::contract::support::{claim, replay, run};
use crate::support::disk::{SimDisk, Survival};
use crate::support::model::{fingerprint, options, with_scope};

fn clock() -> ManualClock {
    ManualClock::at(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
}

fn segments(disk: &SimDisk) -> usize {
    disk.names().iter().filter(|name| name.ends_with(".seg")).count()
}

#[test]
fn a_clean_close_does_not_seal_the_tail_and_a_restart_goes_on_in_it() {
    let (disk, clock) = (SimDisk::new(), clock());
    for key in 0..50 {
        let store = options(&clock, Durability::Synced).open_on(Arc::new(disk.clone())).unwrap();
        assert_eq!(store.recovery().clean, key > 0, "{:?}", store.recovery());
        let claim = with_scope(key, |scope| store.claim(scope, fingerprint(key))).unwrap();
        let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
        permit.complete(b"done").unwrap();
        store.close().unwrap();
    }
    assert_eq!(segments(&disk), 1);
}

#[test]
fn crashes_with_nothing_worth_keeping_do_not_use_up_segment_numbers() {
    let (mut disk, clock) = (SimDisk::new(), clock());
    for round in 0..50 {
        let store = options(&clock, Durability::Synced).open_on(Arc::new(disk.clone())).unwrap();
        let claim = with_scope(round, |scope| store.claim(scope, fingerprint(round))).unwrap();
        let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
        permit.release().unwrap();
        disk = disk.after_power_cut(round, Survival::Random);
    }
    assert_eq!(disk.names().iter().max().unwrap(), "SUPER");
    assert!(disk.names().contains(&"0000000000000001.seg".to_owned()), "{:?}", disk.names());
    assert_eq!(segments(&disk), 1);
}

#[test]
fn a_torn_tail_is_cut_and_reported_and_the_next_open_finds_nothing_to_cut() {
    let (disk, clock) = (SimDisk::new(), clock());
    let store = options(&clock, Durability::Synced).open_on(Arc::new(disk.clone())).unwrap();
    let claim = with_scope(1, |scope| store.claim(scope, fingerprint(1))).unwrap();
    let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
    permit.complete(&[7; 3_000]).unwrap();
    let disk = disk.after_kill();
    let name = "0000000000000001.seg";
    let bytes = disk.read(name).unwrap();
    let end = bytes.iter().rposition(|&byte| byte != 0).unwrap() as u64;
    // Rot in the last record, which no later promise covers, looks like a torn write.
    disk.corrupt(name, end, 0xff);
    let store = options(&clock, Durability::Synced).open_on(Arc::new(disk.clone())).unwrap();
    let report = store.recovery();
    assert_eq!(report.cut.map(|(segment, _)| segment), Some(1), "{report:?}");
    assert!(report.cut_bytes > 3_000, "{report:?}");
    assert_eq!(store.unresolved().unwrap().len(), 1, "the claim itself was durable");
    store.close().unwrap();
    let store = options(&clock, Durability::Synced).open_on(Arc::new(disk)).unwrap();
    assert_eq!(store.recovery().cut, None);
}

#[test]
fn a_bad_record_that_a_later_one_promises_is_damage_and_no_file_is_touched() {
    let (disk, clock) = (SimDisk::new(), clock());
    let store = options(&clock, Durability::Synced).open_on(Arc::new(disk.clone())).unwrap();
    for key in 0..3 {
        let claim = with_scope(key, |scope| store.claim(scope, fingerprint(key))).unwrap();
        let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
        permit.complete(&[7; 1_000]).unwrap();
    }
    let disk = disk.after_kill();
    let name = "0000000000000001.seg";
    disk.corrupt(name, 8192 + 40, 0x10);
    let before = disk.read(name);
    let opened = options(&clock, Durability::Synced).open_on(Arc::new(disk.clone()));
    let error = opened.expect_err("damage is no torn tail");
    let oncelog::Error::Corrupt { segment: 1, offset: 8192, what } = error else {
        panic!("{error:?}")
    };
    assert_eq!(what, "the body's checksum does not match");
    assert_eq!(disk.read(name), before);
    assert_eq!(disk.steps(), 0, "something was written");
}

#[test]
fn the_last_batch_is_promised_once_the_store_is_synced() {
    let (disk, clock) = (SimDisk::new(), clock());
    let store = options(&clock, Durability::Synced).open_on(Arc::new(disk.clone())).unwrap();
    let claim = with_scope(1, |scope| store.claim(scope, fingerprint(1))).unwrap();
    let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
    permit.complete(&[7; 1_000]).unwrap();
    store.sync().unwrap();
    let disk = disk.after_kill();
    disk.corrupt("0000000000000001.seg", 8192 + 176 + 500, 0x10);
    let opened = options(&clock, Durability::Synced).open_on(Arc::new(disk));
    assert!(matches!(opened.err(), Some(oncelog::Error::Corrupt { segment: 1, .. })));
}

#[test]
fn an_open_reports_its_progress_to_the_end_of_each_phase() {
    let (disk, clock) = (SimDisk::new(), clock());
    let store = options(&clock, Durability::Synced).open_on(Arc::new(disk.clone())).unwrap();
    for key in 0..40 {
        let claim = with_scope(key, |scope| store.claim(scope, fingerprint(key))).unwrap();
        let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
        permit.complete(&[7; 5_000]).unwrap();
    }
    store.close().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let options = options(&clock, Durability::Synced)
        .progress(move |progress| tell.lock().unwrap().push(progress));
    let store = options.open_on(Arc::new(disk)).unwrap();
    let told = told.lock().unwrap();
    for phase in [Phase::Loading, Phase::Scanning] {
        let of_phase: Vec<_> = told.iter().filter(|progress| progress.phase == phase).collect();
        assert!(of_phase.is_sorted_by_key(|progress| progress.done), "{told:?}");
        let last = of_phase.last().unwrap();
        assert!(last.done == last.total && last.total > 0, "{told:?}");
    }
    assert_eq!(store.recovery().segments, store.stats().segments);
}

#[test]
fn a_store_takes_little_of_the_disk_before_it_is_used_and_no_more_than_it_needs_afterwards() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let on_disk = || {
        let entries = dir.path().read_dir().unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum::<u64>()
    };
    let clock = clock();
    let options = || Store::options().clock(clock.clone()).ttl(Duration::from_secs(3_000));
    let store = options().open(dir.path()).unwrap();
    assert!(on_disk() <= 20 << 20, "{} bytes for nothing", on_disk());
    for key in 0..20 {
        let claim = with_scope(key, |scope| store.claim(scope, fingerprint(key))).unwrap();
        let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
        permit.complete(&[7; 100_000]).unwrap();
        clock.advance(Duration::from_secs(100));
    }
    store.close().unwrap();
    let files = dir.path().read_dir().unwrap().count() as u64;
    assert!(files > 40, "a segment and its hints for every bucket");
    // Headers, hints and rounding, two pages a file; and what is ahead of the tail.
    let limit = 20 * 100_000 + files * 2 * 4096 + (300 << 10);
    assert!(on_disk() <= limit, "{} bytes, expected at most {limit}", on_disk());
}

fn complete(store: &Store, keys: std::ops::Range<u64>) {
    for key in keys {
        let claim = with_scope(key, |scope| store.claim(scope, fingerprint(key))).unwrap();
        let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
        permit.complete(&[7; 300]).unwrap();
    }
}

fn all_replay(store: &Store, keys: std::ops::Range<u64>) {
    for key in keys {
        let claim = with_scope(key, |scope| store.claim(scope, fingerprint(key))).unwrap();
        assert!(matches!(claim, Claim::Replay(_)), "{key}: {claim:?}");
    }
}

#[test]
fn a_clean_close_leaves_nothing_to_scan() {
    let (disk, clock) = (SimDisk::new(), clock());
    let open = |disk: &SimDisk| {
        options(&clock, Durability::Synced).open_on(Arc::new(disk.clone())).unwrap()
    };
    let store = open(&disk);
    complete(&store, 0..30);
    store.close().unwrap();
    let store = open(&disk);
    let recovery = store.recovery();
    assert_eq!((recovery.records_scanned, recovery.responses), (0, 30), "{recovery:?}");
    assert!(recovery.clean, "{recovery:?}");
    all_replay(&store, 0..30);
    // What comes behind is not in the hints of that close.
    complete(&store, 30..40);
    let disk = disk.after_kill();
    drop(store);
    let store = open(&disk);
    assert!(store.recovery().records_scanned > 30, "{:?}", store.recovery());
    all_replay(&store, 0..40);
    // An open claim has to be read from its record.
    let claim = with_scope(99, |scope| store.claim(scope, fingerprint(99))).unwrap();
    let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
    store.close().unwrap();
    drop(permit);
    let store = open(&disk);
    assert_eq!(store.recovery().orphans, 1);
    all_replay(&store, 0..40);
}

#[test]
fn hints_from_a_close_are_not_those_of_the_segment_that_was_sealed_later() {
    let (disk, clock) = (SimDisk::new(), clock());
    let open = || options(&clock, Durability::Synced).open_on(Arc::new(disk.clone())).unwrap();
    let hints = "0000000000000001.idx";
    let store = open();
    complete(&store, 0..10);
    store.close().unwrap();
    let early = disk.read(hints).unwrap();
    let store = open();
    complete(&store, 10..2_000);
    assert!(store.stats().segments > 1, "{:?}", store.stats());
    store.close().unwrap();
    assert_ne!(disk.read(hints).unwrap(), early);
    // A crash between the seal and its hints leaves those of the close.
    disk.write(hints, &early);
    let store = open();
    assert_eq!(store.recovery().hints_rebuilt, 1, "{:?}", store.recovery());
    all_replay(&store, 0..2_000);
}

#[test]
fn a_store_that_is_large_enough_for_all_cores_opens_with_every_response() {
    // A shard of 256 keys, by the mean and three standard deviations, is worth a thread.
    const KEYS: u64 = 214 * 256 + 200;
    let dir = tempfile::tempdir().unwrap();
    let buffered = Durability::Buffered { sync_every: Duration::from_secs(3_600) };
    let open = || {
        let options = Store::options().durability(buffered).background(Background::Inline);
        options.open(dir.path()).unwrap()
    };
    let store = open();
    let key = |number| format!("key-{number}");
    for number in 0..KEYS {
        run(&store, &key(number), &number.to_le_bytes());
    }
    store.close().unwrap();
    let store = open();
    assert_eq!((store.recovery().responses, store.stats().responses), (KEYS, KEYS));
    for number in 0..KEYS {
        assert_eq!(replay(claim(&store, &key(number))).bytes(), Some(&number.to_le_bytes()[..]));
    }
    assert_eq!(store.stats().index_overflow, 0);
}
