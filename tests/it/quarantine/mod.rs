//! What a store answers that was opened without a damaged or missing segment, for how long, and
//! that no crash on the way makes it answer anything else.

mod look;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncelog::storage::Access;
use oncelog::{Claim, Error, OnDamage, Options, OrphanPolicy, Status, Store};

use crate::contract::support::{
    BUCKET, BUFFERED, DAY, MS, SEGMENT_BYTES, TTL, World, body, claim, granted, kind, orphaned,
    replay, run, scope,
};
use crate::support::disk::{SimDisk, Survival};
use crate::support::files::{hint_file, segment_file};
use crate::support::intercept::{Intercepted, Refusing};
use crate::support::rng::Rng;

const DATA_START: u64 = 8_192;
const LIST: &str = "QUARANTINE";

fn quarantining(world: &World) -> Options {
    world.options().on_damage(OnDamage::Quarantine)
}

/// Opens the store under either option, without whatever is damaged.
fn open_without(world: &World) -> Store {
    let refused = world.options().open_on(Arc::new(world.disk.clone()));
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    world.open_with(quarantining(world))
}

/// A response that can be found in a file.
fn response(key: &str) -> Vec<u8> {
    let mut bytes = format!("<response of {key}>").into_bytes();
    bytes.resize(700, b'.');
    bytes
}

/// Runs `prefix-0`, `prefix-1`, ... until there are so many segments.
fn fill_up_to(store: &Store, segments: u64, prefix: &str, response: impl Fn(&str) -> Vec<u8>) {
    for number in 0.. {
        let key = format!("{prefix}-{number}");
        run(store, &key, &response(&key));
        if store.stats().segments == segments {
            return;
        }
    }
}

/// A store of two sealed segments and a tail, and which key is in which.
struct Filled {
    world: World,
    keys: BTreeMap<String, u64>,
}

impl Filled {
    /// It was killed, and has an orphan whose claim was carried into the tail.
    fn new() -> Filled {
        let world = World::new();
        let store = world.open();
        drop(granted(claim(&store, "open")));
        let mut keys = Vec::new();
        for number in 0.. {
            let key = format!("key-{number:03}");
            run(&store, &key, &response(&key));
            keys.push(key);
            if number % 10 == 0 {
                // Each segment has a time of its own.
                world.clock.advance(MS);
            }
            if store.stats().segments == 3 && number % 16 == 0 {
                break;
            }
        }
        // The close writes the hint files, and the tail goes on.
        store.close().unwrap();
        let store = world.open();
        assert!(store.recovery().clean);
        for number in 0..6 {
            let key = format!("tail-{number}");
            run(&store, &key, &response(&key));
            keys.push(key);
        }
        store.sync().unwrap();
        let world = world.on(world.disk.after_kill());
        drop(store);
        let keys = keys.into_iter().map(|key| (key.clone(), segment_of(&world, &key))).collect();
        let filled = Filled { world, keys };
        assert!((1..=3).all(|number| filled.keys_in(number).count() > 3));
        filled
    }

    fn keys_in(&self, segment: u64) -> impl Iterator<Item = &str> {
        self.keys.iter().filter(move |(_, at)| **at == segment).map(|(key, _)| &**key)
    }

    /// A key in the middle of a segment.
    fn key_in(&self, segment: u64) -> &str {
        self.keys_in(segment).nth(2).unwrap()
    }

    /// What every key, the orphan and a key that never was answer.
    fn answers(&self, store: &Store) -> BTreeMap<String, String> {
        self.answers_of(|key| answer(store, key))
    }

    fn answers_of(&self, answer: impl Fn(&str) -> String) -> BTreeMap<String, String> {
        let keys = self.keys.keys().map(|key| &**key).chain(["open", "never"]);
        keys.map(|key| (key.to_owned(), answer(key))).collect()
    }

    /// What they answered when all was well.
    fn sound(&self) -> BTreeMap<String, String> {
        self.answers(&self.world.on(self.world.disk.after_kill()).open())
    }

    /// The same with another answer for some.
    fn sound_but(&self, is: impl Fn(&str) -> bool, answer: &str) -> BTreeMap<String, String> {
        let mut answers = self.sound();
        let others = answers.iter_mut().filter(|(key, _)| is(key));
        others.for_each(|(_, found)| answer.clone_into(found));
        answers
    }
}

fn segment_of(world: &World, key: &str) -> u64 {
    let sought = format!("<response of {key}>");
    (1..=3).find(|&number| place_in(world, number, sought.as_bytes()).is_some()).unwrap()
}

fn place_in(world: &World, segment: u64, sought: &[u8]) -> Option<u64> {
    let bytes = world.disk.read(&segment_file(segment)).unwrap();
    bytes.windows(sought.len()).position(|window| window == sought).map(|at| at as u64)
}

/// Flips a bit of the response of a key.
fn damage_response(filled: &Filled, key: &str) {
    let segment = filled.keys[key];
    let sought = format!("<response of {key}>");
    let at = place_in(&filled.world, segment, sought.as_bytes()).unwrap();
    filled.world.disk.corrupt(&segment_file(segment), at + 20, 1);
}

fn damage_range(world: &World, segment: u64, range: Range<u64>) {
    range.for_each(|at| world.disk.corrupt(&segment_file(segment), at, 0xa5));
}

fn answer(store: &Store, key: &str) -> String {
    answer_of(key, store.lookup(scope(key)))
}

fn answer_of(key: &str, looked: Result<Option<Status>, Error>) -> String {
    match looked {
        Ok(None) => "free".to_owned(),
        Ok(Some(Status::Completed(stored))) if stored.bytes() == Some(&response(key)) => {
            "completed".to_owned()
        }
        Ok(Some(Status::Orphaned(_))) => "orphaned".to_owned(),
        Err(Error::Corrupt { segment, .. }) => format!("corrupt {segment}"),
        other => panic!("{key}: {other:?}"),
    }
}

/// Each call that could say that a scope is absent says that it may have been in this segment.
fn assert_in_doubt(store: &Store, key: &str, segment: u64) {
    let expected = |error: Error| {
        assert!(matches!(error, Error::Corrupt { segment: s, .. } if s == segment), "{error:?}");
    };
    expected(store.claim(scope(key), body()).unwrap_err());
    expected(store.claim_or_wait(scope(key), body(), MS).unwrap_err());
    expected(store.claim_many(&[(scope(key), body())]).remove(0).unwrap_err());
    expected(store.lookup(scope(key)).unwrap_err());
    expected(store.lookup_many(&[scope(key)]).remove(0).unwrap_err());
    expected(store.orphan(scope(key)).unwrap_err());
    expected(store.forget(scope(key)).unwrap_err());
}

fn until_of(store: &Store, segment: u64) -> Option<SystemTime> {
    let quarantined = &store.recovery().quarantined;
    quarantined.iter().find(|q| q.segment == segment).expect("it is in quarantine").until
}

/// The time that the header of a segment says it was made.
fn created(world: &World, segment: u64) -> SystemTime {
    let bytes = world.disk.read(&segment_file(segment)).unwrap();
    UNIX_EPOCH + Duration::from_millis(u64::from_le_bytes(bytes[64..72].try_into().unwrap()))
}

fn move_to(world: &World, time: SystemTime) {
    let now = oncelog::Clock::wall(&world.clock);
    world.clock.advance(time.duration_since(now).unwrap());
}

#[test]
fn a_missing_segment_with_sound_hints_is_corrupt_for_its_own_scopes_alone() {
    let filled = Filled::new();
    let expected = filled.sound_but(|key| filled.keys.get(key) == Some(&1), "corrupt 1");
    filled.world.disk.remove_durably(&segment_file(1));
    let store = open_without(&filled.world);
    assert_eq!(filled.answers(&store), expected);
    assert_eq!(until_of(&store, 1), None);
    assert_eq!((store.stats().quarantined_segments, store.stats().quarantined_until), (1, None));
    let lost = filled.key_in(1);
    assert_in_doubt_of_claims(&store, lost);
    granted(claim(&store, "new")).complete(&response("new")).unwrap();
    store.close().unwrap();
    // It opens from now on, and says the same.
    let store = filled.world.open();
    assert_eq!(filled.answers(&store), expected);
    assert_eq!(answer(&store, "new"), "completed");
    assert_eq!(store.recovery().quarantined.len(), 1);
}

fn assert_in_doubt_of_claims(store: &Store, key: &str) {
    for answer in [
        store.claim(scope(key), body()).err(),
        store.claim_many(&[(scope(key), body())]).remove(0).err(),
        store.lookup_many(&[scope(key)]).remove(0).err(),
        store.forget(scope(key)).err(),
    ] {
        assert!(matches!(answer, Some(Error::Corrupt { segment: 1, .. })), "{answer:?}");
    }
}

#[test]
fn two_missing_neighbours_with_sound_hints_are_corrupt_for_their_own_scopes_alone() {
    let filled = Filled::new();
    let mut expected = filled.sound_but(|key| filled.keys.get(key) == Some(&1), "corrupt 1");
    for key in filled.keys_in(2) {
        expected.insert(key.to_owned(), "corrupt 2".to_owned());
    }
    filled.world.disk.remove_durably(&segment_file(1));
    filled.world.disk.remove_durably(&segment_file(2));
    let store = open_without(&filled.world);
    assert_eq!(filled.answers(&store), expected);
}

#[test]
fn a_segment_with_a_bad_header_is_served_by_its_hints() {
    let filled = Filled::new();
    let expected = filled.sound();
    damage_range(&filled.world, 1, 0..DATA_START);
    let store = open_without(&filled.world);
    assert_eq!(filled.answers(&store), expected);
    assert_eq!((until_of(&store, 1), store.stats().quarantined_segments), (None, 1));
}

#[test]
fn a_segment_cut_short_is_corrupt_for_its_own_scopes_alone() {
    let filled = Filled::new();
    let expected = filled.sound_but(|key| filled.keys.get(key) == Some(&1), "corrupt 1");
    let mut bytes = filled.world.disk.read(&segment_file(1)).unwrap();
    bytes.truncate(SEGMENT_BYTES as usize / 2);
    filled.world.disk.write(&segment_file(1), &bytes);
    let store = open_without(&filled.world);
    assert_eq!(filled.answers(&store), expected);
}

#[test]
fn the_hints_of_an_earlier_close_do_not_stand_for_a_missing_segment() {
    let world = World::new();
    let store = world.open();
    run(&store, "early", b"created");
    store.close().unwrap();
    let early = world.disk.read(&hint_file(1)).unwrap();
    let store = world.open();
    fill_up_to(&store, 2, "late", |_| vec![7; 700]);
    store.close().unwrap();
    world.disk.remove_durably(&segment_file(1));
    world.disk.write(&hint_file(1), &early);
    let store = open_without(&world);
    assert_in_doubt(&store, "late-0", 1);
    assert!(until_of(&store, 1).is_some());
}

#[test]
fn behind_a_bad_place_without_hints_records_are_served_and_no_scope_is_absent() {
    let filled = Filled::new();
    let lost = filled.key_in(1).to_owned();
    let expected = filled.sound_but(|key| key == lost || key == "never", "corrupt 1");
    let until = created(&filled.world, 2) + TTL;
    damage_response(&filled, &lost);
    filled.world.disk.remove_durably(&hint_file(1));
    let store = open_without(&filled.world);
    assert_eq!(filled.answers(&store), expected);
    assert_in_doubt(&store, &lost, 1);
    assert_in_doubt(&store, "never", 1);
    assert_eq!(store.stats().quarantined_until, until_of(&store, 1));
    // At least as long as the promise, and not much longer.
    let found = until_of(&store, 1).unwrap();
    assert!((until..until + BUCKET).contains(&found), "{found:?}, not {until:?}");
    // What was claimed before can end.
    let Claim::Granted(permit) = orphaned(claim(&store, "open")).take_over().unwrap() else {
        panic!("the orphan was not granted")
    };
    permit.complete(&response("open")).unwrap();
    store.close().unwrap();
    let store = filled.world.open();
    assert_eq!(
        (answer(&store, "open"), answer(&store, "never")),
        ("completed".into(), "corrupt 1".into())
    );
    move_to(&filled.world, found - MS);
    assert_in_doubt(&store, "never", 1);
    filled.world.clock.advance(MS);
    assert_eq!(store.stats().quarantined_until, None);
    run(&store, "never", b"created");
    run(&store, &lost, b"created");
}

#[test]
fn absence_is_in_doubt_for_the_longest_ttl_that_any_response_shows() {
    let world = World::new();
    let store = world.open_with(world.options().ttl(3 * TTL));
    run(&store, "long", b"created");
    store.close().unwrap();
    let store = world.open();
    fill_up_to(&store, 3, "key", |_| vec![7; 700]);
    store.close().unwrap();
    // Not in the segment that says so.
    world.disk.remove_durably(&segment_file(2));
    world.disk.remove_durably(&hint_file(2));
    let store = open_without(&world);
    let until = until_of(&store, 2).unwrap();
    assert!(until >= created(&world, 3) + 3 * TTL);
    assert_in_doubt(&store, "never", 2);
}

#[test]
fn a_damaged_tail_is_replayed_around_and_the_log_goes_on_in_a_new_segment() {
    let filled = Filled::new();
    let lost = "tail-2";
    damage_response(&filled, lost);
    let before = filled.world.disk.read(&segment_file(3)).unwrap();
    let store = open_without(&filled.world);
    let mut answers = filled.answers(&store);
    // Its claim stands, and nobody knows how it ended.
    assert_eq!(answers.remove(lost).unwrap(), "orphaned");
    assert_eq!(answers.remove("never").unwrap(), "corrupt 3");
    assert_eq!(answers.remove("open").unwrap(), "orphaned");
    assert!(answers.values().all(|answer| answer == "completed"), "{answers:?}");
    assert_in_doubt(&store, "never", 3);
    assert_eq!(filled.world.disk.read(&segment_file(3)).unwrap(), before, "the evidence");
    orphaned(claim(&store, lost)).resolve(&response(lost)).unwrap();
    let store = {
        store.close().unwrap();
        filled.world.open()
    };
    assert_eq!(
        (answer(&store, lost), answer(&store, "open")),
        ("completed".into(), "orphaned".into())
    );
    assert_in_doubt(&store, "never", 3);
}

#[test]
fn an_operation_whose_completion_may_be_lost_is_not_run_again_by_itself() {
    let filled = Filled::new();
    damage_response(&filled, "tail-2");
    let options = || quarantining(&filled.world).on_orphan(OrphanPolicy::Rerun);
    let store = filled.world.open_with(options());
    let orphan = orphaned(claim(&store, "tail-2"));
    let Claim::Granted(permit) = orphan.take_over().unwrap() else { panic!("not granted") };
    // One that began later is.
    drop(permit);
    assert_eq!(claim(&store, "tail-2").kind(), "granted");
}

#[test]
fn a_tail_that_ends_before_what_was_durable_is_in_quarantine() {
    let world = World::new();
    let store = world.open();
    for key in ["first", "second", "third"] {
        run(&store, key, &response(key));
    }
    store.close().unwrap();
    let mut bytes = world.disk.read(&segment_file(1)).unwrap();
    let end = place_in(&world, 1, b"<response of second>").unwrap() as usize;
    bytes[end..].fill(0);
    world.disk.write(&segment_file(1), &bytes);
    let store = open_without(&world);
    assert_eq!(answer(&store, "first"), "completed");
    assert_eq!(answer(&store, "second"), "orphaned");
    assert_in_doubt(&store, "third", 1);
    store.close().unwrap();
    let store = world.open();
    assert_eq!(
        (answer(&store, "first"), answer(&store, "second")),
        ("completed".into(), "orphaned".into())
    );
    assert_in_doubt(&store, "third", 1);
}

#[test]
fn a_missing_tail_leaves_what_is_sealed() {
    for hit in [missing, headless] {
        let filled = Filled::new();
        hit(&filled.world, 3);
        let store = open_without(&filled.world);
        for key in filled.keys_in(1).chain(filled.keys_in(2)) {
            replay(claim(&store, key));
        }
        for key in filled.keys_in(3).chain(["open", "never"]) {
            assert_in_doubt(&store, key, 3);
        }
        let now = oncelog::Clock::wall(&filled.world.clock);
        assert!(until_of(&store, 3).unwrap() >= now + TTL);
        store.close().unwrap();
        let store = filled.world.open();
        assert_in_doubt(&store, "never", 3);
        move_to(&filled.world, until_of(&store, 3).unwrap());
        run(&store, "never", b"created");
        store.close().unwrap();
        assert_eq!(kind(&filled.world.open(), "never"), "completed");
    }
}

fn missing(world: &World, segment: u64) {
    world.disk.remove_durably(&segment_file(segment));
}

fn headless(world: &World, segment: u64) {
    damage_range(world, segment, 0..DATA_START);
}

#[test]
fn a_sound_store_is_opened_as_ever() {
    let filled = Filled::new();
    let expected = filled.sound();
    let store = filled.world.open_with(quarantining(&filled.world));
    assert_eq!(filled.answers(&store), expected);
    assert_eq!((store.recovery().quarantined.len(), store.stats().quarantined_segments), (0, 0));
    assert!(filled.world.disk.read(LIST).is_none());
}

#[test]
fn a_torn_tail_is_cut_and_not_put_in_quarantine() {
    let world = World::new();
    let store = world.open();
    for number in 0..5 {
        run(&store, &format!("key-{number}"), b"created");
    }
    for seed in 0..30 {
        let torn = world.on(world.disk.after_power_cut(seed, Survival::Random));
        let store = torn.open_with(quarantining(&torn));
        assert_eq!(store.recovery().quarantined, [], "seed {seed}");
    }
}

#[test]
fn a_list_that_is_damaged_is_corrupt_under_either_option() {
    let filled = Filled::new();
    missing(&filled.world, 1);
    open_without(&filled.world).close().unwrap();
    let length = filled.world.disk.read(LIST).unwrap().len() as u64;
    for at in 0..length {
        let world = filled.world.on(filled.world.disk.after_kill());
        world.disk.corrupt(LIST, at, 1);
        for options in [world.options(), quarantining(&world)] {
            let opened = options.open_on(Arc::new(world.disk.clone()));
            assert!(matches!(opened, Err(Error::Corrupt { .. } | Error::Version { .. })), "{at}");
        }
    }
}

#[test]
fn damage_that_was_not_accepted_is_refused_beside_one_that_was() {
    let filled = Filled::new();
    missing(&filled.world, 1);
    open_without(&filled.world).close().unwrap();
    // The hints named all that was lost; without them nobody does.
    let world = filled.world.on(filled.world.disk.after_kill());
    world.disk.remove_durably(&hint_file(1));
    assert_in_doubt(&open_without(&world), "never", 1);
    missing(&filled.world, 2);
    assert_eq!(open_without(&filled.world).recovery().quarantined.len(), 2);
}

#[test]
fn bad_blocks_of_a_hint_file_beside_a_bad_record_leave_absence_in_doubt() {
    let filled = Filled::new();
    let lost = filled.key_in(1).to_owned();
    let expected = filled.sound_but(|key| key == lost || key == "never", "corrupt 1");
    damage_response(&filled, &lost);
    // The header of the hint file is sound.
    filled.world.disk.corrupt(&hint_file(1), 4_096 + 100, 1);
    let store = open_without(&filled.world);
    assert_eq!(filled.answers(&store), expected);
    store.close().unwrap();
    let store = filled.world.open();
    assert_eq!(filled.answers(&store), expected);
    assert!(until_of(&store, 1).is_some());
}

#[test]
fn a_damaged_forget_in_a_sealed_segment_costs_no_scope() {
    let world = World::new();
    let store = world.open();
    run(&store, "forgotten", &response("forgotten"));
    assert!(store.forget(scope("forgotten")).unwrap());
    fill_up_to(&store, 2, "key", response);
    store.close().unwrap();
    // Kind 5, at the place of a record whose fields name its own segment.
    let bytes = world.disk.read(&segment_file(1)).unwrap();
    let forgets = (DATA_START as usize..30_000)
        .step_by(16)
        .filter(|&at| bytes[at + 8] == 5 && bytes[at + 42..at + 50] == 1_u64.to_le_bytes());
    let forgets: Vec<usize> = forgets.collect();
    assert_eq!(forgets.len(), 2, "one for the claim, one for the completion");
    forgets.iter().for_each(|&at| world.disk.corrupt(&segment_file(1), at as u64 + 40, 1));
    let store = open_without(&world);
    assert_eq!(
        (answer(&store, "forgotten"), answer(&store, "key-3")),
        ("free".into(), "completed".into())
    );
    assert_eq!((until_of(&store, 1), store.stats().quarantined_segments), (None, 1));
    store.close().unwrap();
    let store = world.open();
    assert_eq!(
        (answer(&store, "forgotten"), answer(&store, "key-3")),
        ("free".into(), "completed".into())
    );
}

#[test]
fn a_verification_reports_what_is_in_quarantine_and_a_backup_is_refused() {
    let filled = Filled::new();
    missing(&filled.world, 1);
    let store = open_without(&filled.world);
    let found = store.verify().unwrap();
    assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
    assert_eq!((found.damage[0].segment, found.damage[0].what), (1, "the file is missing"));
    let length = filled.world.disk.read(LIST).unwrap().len() as u64;
    for at in (0..length).step_by(7) {
        filled.world.disk.corrupt(LIST, at, 1);
        assert_eq!(store.verify().unwrap().damage.len(), 2, "byte {at} of the list");
        filled.world.disk.corrupt(LIST, at, 1);
    }
    let target = SimDisk::new();
    let backup = store.backup_on(Arc::new(target.clone()));
    assert!(matches!(backup, Err(Error::Corrupt { segment: 1, .. })), "{backup:?}");
    assert!(target.names().is_empty());
    move_to(&filled.world, oncelog::Clock::wall(&filled.world.clock) + TTL + 2 * DAY);
    store.expire().unwrap();
    assert!(store.verify().unwrap().is_clean());
    store.backup_on(Arc::new(target)).unwrap();
}

#[test]
fn files_in_quarantine_are_put_aside_when_they_expire_and_the_list_ends() {
    let filled = Filled::new();
    damage_response(&filled, filled.key_in(1));
    filled.world.disk.remove_durably(&hint_file(1));
    headless(&filled.world, 2);
    let evidence = [1, 2].map(|number| filled.world.disk.read(&segment_file(number)).unwrap());
    let store = open_without(&filled.world);
    assert_eq!(store.stats().quarantined_segments, 2);
    move_to(&filled.world, oncelog::Clock::wall(&filled.world.clock) + TTL + 2 * DAY);
    assert!(store.expire().unwrap().segments >= 2);
    assert_eq!((store.stats().quarantined_segments, store.stats().quarantined_until), (0, None));
    let check = |disk: &SimDisk| {
        for (number, evidence) in (1..).zip(&evidence) {
            assert!(disk.read(&segment_file(number)).is_none());
            let aside = format!("{}.quarantined", segment_file(number));
            assert_eq!(disk.read(&aside).as_ref(), Some(evidence));
        }
        assert!(disk.read(&format!("{}.quarantined", hint_file(2))).is_some());
    };
    check(&filled.world.disk);
    store.close().unwrap();
    let store = filled.world.open();
    check(&filled.world.disk);
    assert_eq!(store.recovery().quarantined, []);
    assert!(filled.world.disk.read(LIST).is_none(), "the list goes with its last entry");
    assert_eq!(store.verify().unwrap().damage, []);
}

#[test]
fn a_crash_between_the_drop_of_a_segment_and_its_rename_deletes_no_evidence() {
    let filled = Filled::new();
    headless(&filled.world, 1);
    let evidence = filled.world.disk.read(&segment_file(1)).unwrap();
    let store = open_without(&filled.world);
    move_to(&filled.world, oncelog::Clock::wall(&filled.world.clock) + TTL + 2 * DAY);
    let from = filled.world.disk.steps();
    store.expire().unwrap();
    let to = filled.world.disk.steps();
    drop(store);
    for step in from..to {
        let filled = Filled::new();
        headless(&filled.world, 1);
        let evidence_here = filled.world.disk.read(&segment_file(1)).unwrap();
        assert_eq!(evidence_here.len(), evidence.len());
        let store = open_without(&filled.world);
        move_to(&filled.world, oncelog::Clock::wall(&filled.world.clock) + TTL + 2 * DAY);
        filled.world.disk.crash_at(step);
        store.expire().ok();
        drop(store);
        for survival in [Survival::None, Survival::All] {
            let after = filled.world.on(filled.world.disk.after_power_cut(step, survival));
            after.open().close().unwrap();
            let aside = format!("{}.quarantined", segment_file(1));
            let kept = after.disk.read(&segment_file(1)).or(after.disk.read(&aside));
            assert_eq!(kept.as_ref(), Some(&evidence_here), "step {step}, {survival:?}");
        }
    }
}

#[test]
fn what_is_shown_of_a_damaged_tail_is_on_the_disk() {
    let world = World::new();
    let store = world.open_with(world.options().durability(BUFFERED));
    for key in ["first", "second", "third"] {
        run(&store, key, &response(key));
    }
    store.sync().unwrap();
    run(&store, "late", &response("late"));
    // Killed: what was written since the sync is in the page cache alone.
    let world = world.on(world.disk.after_kill());
    drop(store);
    let at = place_in(&world, 1, b"<response of second>").unwrap();
    world.disk.corrupt(&segment_file(1), at + 20, 1);
    assert_eq!(answer(&open_without(&world), "late"), "completed");
    let world = world.on(world.disk.after_power_cut(1, Survival::None));
    let store = world.open();
    for key in ["first", "late"] {
        assert_eq!(answer(&store, key), "completed", "{key}");
    }
    assert_in_doubt(&store, "never", 1);
}

/// A way to lose something.
type Hit = (&'static str, fn(&Filled));

const HITS: &[Hit] = &[
    ("a sealed segment is missing", |filled| missing(&filled.world, 1)),
    ("a sealed segment is missing without hints", |filled| {
        missing(&filled.world, 2);
        filled.world.disk.remove_durably(&hint_file(2));
    }),
    ("a sealed record and the hints", |filled| {
        damage_response(filled, filled.key_in(2));
        filled.world.disk.remove_durably(&hint_file(2));
    }),
    ("a record of the tail", |filled| damage_response(filled, "tail-1")),
    ("a block of hints and a record", |filled| {
        damage_response(filled, filled.key_in(1));
        filled.world.disk.corrupt(&hint_file(1), 4_096 + 100, 1);
    }),
    ("the tail is missing", |filled| missing(&filled.world, 3)),
    ("the header of the tail, and a sealed record", |filled| {
        headless(&filled.world, 3);
        damage_response(filled, filled.key_in(1));
        filled.world.disk.remove_durably(&hint_file(1));
    }),
];

#[test]
fn a_crash_at_any_step_of_a_quarantining_open_leads_to_the_same_store() {
    for (label, hit) in HITS {
        let filled = Filled::new();
        hit(&filled);
        let on = |disk: SimDisk| filled.world.on(disk);
        let shown = |store: &Store| {
            (filled.answers(store), store.recovery().quarantined.clone(), store.stats().orphans)
        };
        let expected = shown(&open_without(&on(filled.world.disk.after_kill())));
        let mut step = 0;
        loop {
            let disk = filled.world.disk.after_kill();
            let from = disk.steps();
            disk.crash_at(from + step);
            let world = on(disk.clone());
            let opened = quarantining(&world).open_on(Arc::new(disk.clone()));
            let is_whole = opened.is_ok();
            drop(opened);
            let wrecks = [Survival::None, Survival::All, Survival::Random]
                .map(|survival| disk.after_power_cut(step, survival));
            for (nth, wreck) in wrecks.into_iter().chain([disk.after_kill()]).enumerate() {
                let world = on(wreck);
                let label = format!("{label}: step {step}, wreck {nth}");
                // Once the list is there, it needs no word of the operator; and once the open has
                // returned, the list is there.
                let listed = world.disk.read(LIST).is_some();
                assert!(listed || !is_whole, "{label}: opened before it was durable");
                let options = if listed { world.options() } else { quarantining(&world) };
                let store = options.open_on(Arc::new(world.disk.clone()));
                let store = store.unwrap_or_else(|error| panic!("{label}: {error}"));
                assert_eq!(shown(&store), expected, "{label}");
                let cut = on(world.disk.after_power_cut(step, Survival::None));
                drop(store);
                assert_eq!(shown(&cut.open()), expected, "{label}: what was shown is not durable");
            }
            if is_whole {
                break;
            }
            step += 1;
        }
        assert!(step > 5, "{label}: an open has more steps than {step}");
    }
}

/// Flips, zeroes, cuts short or removes something of the segments and their hint files.
fn damage_anything(world: &World, rng: &mut Rng) -> String {
    let files = world.disk.names().into_iter();
    let files: Vec<_> = files.filter(|n| n.ends_with(".seg") || n.ends_with(".idx")).collect();
    let name = &files[rng.below(files.len() as u64) as usize];
    let mut bytes = world.disk.read(name).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(1, |at| at + 1) as u64;
    let start = rng.below(used) as usize;
    let width = 1 << rng.below(15);
    let end = (start + 1 + rng.below(width) as usize).min(bytes.len());
    match rng.below(8) {
        0 => {
            world.disk.remove_durably(name);
            return format!("{name} removed");
        }
        1 => bytes.truncate(start),
        2 => bytes[..DATA_START.min(used) as usize].fill(0),
        3 => bytes[start..end].fill(0),
        _ => bytes[start..end].iter_mut().for_each(|byte| *byte ^= rng.next() as u8 | 1),
    }
    world.disk.write(name, &bytes);
    format!("{name} {start}..{end}")
}

#[test]
fn no_damage_to_segments_and_hints_makes_a_known_scope_absent() {
    let filled = Filled::new();
    // CHECKPOINT names the last record as durable, so that no loss looks like a torn tail.
    filled.world.open().close().unwrap();
    let (mut in_doubt, mut lost) = (0, 0);
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let world = filled.world.on(filled.world.disk.after_kill());
        let hits = (0..1 + rng.below(4)).map(|_| damage_anything(&world, &mut rng));
        let label = format!("seed {seed}: {:?}", Vec::from_iter(hits));
        let store = quarantining(&world).open_on(Arc::new(world.disk.clone()));
        let store = store.unwrap_or_else(|error| panic!("{label}: {error}"));
        let answers = filled.answers(&store);
        for (key, answer) in &answers {
            assert!(answer != "free" || key == "never", "{label}: {key} is absent");
            lost += u64::from(answer.starts_with("corrupt"));
        }
        in_doubt += u64::from(answers["never"] != "free");
        store.close().unwrap();
        let store = world.options().open_on(Arc::new(world.disk.clone()));
        let store = store.unwrap_or_else(|error| panic!("{label}: opened again: {error}"));
        assert_eq!(filled.answers(&store), answers, "{label}: opened again");
        store.verify().unwrap();
    }
    assert!(in_doubt > 50 && in_doubt < 350 && lost > 1_000, "{in_doubt} in doubt, {lost} lost");
}

#[test]
fn what_is_damaged_beside_a_quarantine_is_refused_and_named() {
    let filled = Filled::new();
    damage_range(&filled.world, 1, 0..DATA_START);
    let store = open_without(&filled.world);
    for key in ["a", "b"] {
        run(&store, key, b"created");
    }
    store.sync().unwrap();
    let world = filled.world.on(filled.world.disk.after_kill());
    let tail = (1..).take_while(|&number| world.disk.read(&segment_file(number)).is_some()).last();
    let tail = tail.expect("there are segments");
    world.disk.corrupt(&segment_file(tail), DATA_START + 40, 0x10);
    let refused = world.options().open_on(Arc::new(world.disk.clone()));
    let Err(Error::Corrupt { segment, offset: DATA_START, what }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((segment, what), (tail, "the body's checksum does not match"));
}

#[test]
fn a_lost_segment_that_was_dropped_is_in_doubt_at_the_next_open_too() {
    let filled = Filled::new();
    filled.world.disk.remove_durably(&segment_file(1));
    filled.world.disk.remove_durably(&hint_file(1));
    let store = open_without(&filled.world);
    let until = until_of(&store, 1).expect("nobody knows what was in it");
    let dropped = store.expire().unwrap();
    assert_eq!(dropped.segments, 1, "{dropped:?}");
    store.close().unwrap();
    let store = filled.world.open();
    assert_eq!(until_of(&store, 1), Some(until));
    assert_eq!(answer(&store, "never seen"), "corrupt 1");
    assert!(matches!(store.claim(scope("never seen"), body()), Err(Error::Corrupt { .. })));
}

/// Opens the store where the device refuses to open a file for reading.
fn open_refusing(world: &World, name: &str) -> Result<Store, Error> {
    let refusing = Refusing {
        name: name.to_owned(),
        access: Access::ReadPositioned,
        with: io::ErrorKind::PermissionDenied,
        left: AtomicU64::new(u64::MAX),
    };
    quarantining(world).open_on(Arc::new(Intercepted::new(&world.disk, refusing)))
}

#[test]
fn what_the_device_refuses_to_open_is_an_error_and_is_taken_for_neither_absent_nor_damaged() {
    let filled = Filled::new();
    let refused = open_refusing(&filled.world, LIST);
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    headless(&filled.world, 1);
    let world = filled.world.on(filled.world.disk.after_kill());
    let refused = open_refusing(&world, &segment_file(1));
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    assert!(world.disk.read(LIST).is_none());
}

#[test]
fn a_list_beyond_all_bounds_is_corrupt_before_it_is_read() {
    let filled = Filled::new();
    // Room for each segment that the index tells apart, and one byte.
    let bytes = 24 + (1 << 18) * 32;
    for (more, found) in [(0, "not a QUARANTINE file"), (1, "QUARANTINE is beyond all bounds")] {
        filled.world.disk.write(LIST, &vec![0; bytes + more]);
        let opened = quarantining(&filled.world).open_on(Arc::new(filled.world.disk.clone()));
        let Err(Error::Corrupt { what, .. }) = opened else { panic!("{opened:?}") };
        assert_eq!(what, found);
    }
}

#[test]
fn a_loss_that_is_over_leaves_the_list_and_one_that_is_not_stays_in_it() {
    let filled = Filled::new();
    for number in [1, 2] {
        missing(&filled.world, number);
    }
    filled.world.disk.remove_durably(&hint_file(1));
    let store = open_without(&filled.world);
    let until = until_of(&store, 1).expect("nobody knows what was in it");
    assert_eq!(until_of(&store, 2), None);
    assert_eq!(store.expire().unwrap().segments, 1);
    let listed = filled.world.disk.read(LIST).unwrap().len();
    move_to(&filled.world, until);
    store.close().unwrap();
    for _ in 0..2 {
        let store = filled.world.open();
        let quarantined = store.recovery().quarantined.iter().map(|q| q.segment);
        assert_eq!(quarantined.collect::<Vec<_>>(), [2]);
        assert_eq!(filled.world.disk.read(LIST).unwrap().len(), listed - 32);
        store.close().unwrap();
    }
}

#[test]
fn an_erasure_of_which_a_damaged_segment_tells_is_finished() {
    let world = World::new();
    let store = world.open();
    run(&store, "forgotten", &response("forgotten"));
    let before = world.disk.read(&segment_file(1)).unwrap();
    let end = before.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    assert!(store.forget(scope("forgotten")).unwrap());
    fill_up_to(&store, 2, "key", response);
    store.close().unwrap();
    // The disk has the FORGETs, and lost what was written over the records.
    let start = DATA_START as usize;
    world.disk.overwrite(&segment_file(1), DATA_START, &before[start..end]);
    let at = place_in(&world, 1, b"<response of key-3>").unwrap();
    world.disk.corrupt(&segment_file(1), at + 20, 1);
    world.disk.remove_durably(&hint_file(1));
    let store = open_without(&world);
    assert_eq!(store.recovery().erasures_finished, 2, "the claim and the completion");
    assert_eq!(place_in(&world, 1, b"<response of forgotten>"), None);
    assert_eq!(answer(&store, "forgotten"), "corrupt 1");
    assert_eq!(
        (answer(&store, "key-3"), answer(&store, "key-4")),
        ("corrupt 1".into(), "completed".into())
    );
}
