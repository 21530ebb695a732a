//! What a snapshot shows of a store that was opened without a segment: never an absence where the
//! store itself would not answer one, and nothing is changed by the look.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncelog::storage::Owner;
use oncelog::{Error, Snapshot};

use crate::contract::support::{DAY, MS, TTL, World, scope};
use crate::quarantine::{
    Filled, LIST, answer_of, damage_response, missing, move_to, open_without, quarantining,
    until_of,
};
use crate::support::disk::SimDisk;
use crate::support::files::{hint_file, segment_file};

fn look(world: &World) -> Snapshot {
    world.options().open_read_only_on(Arc::new(world.disk.clone())).unwrap()
}

fn shown(filled: &Filled, snapshot: &Snapshot) -> BTreeMap<String, String> {
    filled.answers_of(|key| answer_of(key, snapshot.lookup(scope(key))))
}

/// The keys that are listed, and how many errors are in each segment.
fn listed(snapshot: &Snapshot) -> (Vec<String>, BTreeMap<u64, usize>) {
    let (mut keys, mut errors) = (Vec::new(), BTreeMap::new());
    for entry in snapshot.entries() {
        match entry {
            Ok(entry) => keys.push(entry.scope().key.to_owned()),
            Err(Error::Corrupt { segment, .. }) => *errors.entry(segment).or_default() += 1,
            Err(error) => panic!("{error}"),
        }
    }
    keys.sort();
    (keys, errors)
}

fn files(disk: &SimDisk) -> BTreeMap<String, Option<Vec<u8>>> {
    disk.names().into_iter().map(|name| (name.clone(), disk.read(&name))).collect()
}

/// The keys that have an answer other than this one, and are not free.
fn known_but(answers: &BTreeMap<String, String>, lost: &str) -> Vec<String> {
    let known = answers.iter().filter(|(_, answer)| *answer != lost && *answer != "free");
    known.map(|(key, _)| key.clone()).collect()
}

#[test]
fn a_snapshot_accepts_no_damage_that_no_open_has_accepted() {
    let filled = Filled::new();
    missing(&filled.world, 1);
    for options in [filled.world.options(), quarantining(&filled.world)] {
        let looked = options.open_read_only_on(Arc::new(filled.world.disk.clone()));
        assert!(matches!(looked, Err(Error::Corrupt { segment: 1, .. })), "{looked:?}");
    }
}

#[test]
fn scopes_of_a_missing_segment_with_sound_hints_are_corrupt_in_a_snapshot() {
    let filled = Filled::new();
    filled.world.disk.remove_durably(&segment_file(1));
    let store = open_without(&filled.world);
    let answers = filled.answers(&store);
    let lost = filled.keys_in(1).count();
    assert_eq!(answers.values().filter(|answer| *answer == "corrupt 1").count(), lost);
    assert_eq!(answers["never"], "free");
    for owner in [Owner::Alive, Owner::Gone] {
        let before = files(&filled.world.disk);
        let snapshot = look(&filled.world);
        assert_eq!(snapshot.owner(), owner);
        let mut expected = answers.clone();
        if owner == Owner::Gone {
            assert_eq!(expected["open"], "orphaned");
        }
        expected.retain(|_, answer| answer != "free");
        let mut seen = shown(&filled, &snapshot);
        seen.retain(|_, answer| answer != "free");
        assert_eq!(seen, expected);
        // Each lost response is an error in its place.
        let expected = (known_but(&answers, "corrupt 1"), BTreeMap::from([(1, lost)]));
        assert_eq!(listed(&snapshot), expected);
        let found = snapshot.verify().unwrap();
        let damage: Vec<_> = found.damage.iter().map(|d| (d.segment, d.what)).collect();
        assert_eq!(damage, [(1, "the file is missing")]);
        assert_eq!(files(&filled.world.disk), before, "a look changed something");
        if owner == Owner::Alive {
            store.clone().close().unwrap();
        }
    }
}

#[test]
fn no_scope_is_absent_in_a_snapshot_while_it_may_have_been_in_a_lost_segment() {
    let filled = Filled::new();
    missing(&filled.world, 1);
    filled.world.disk.remove_durably(&hint_file(1));
    let store = open_without(&filled.world);
    let until = until_of(&store, 1).unwrap();
    let answers = filled.answers(&store);
    assert_eq!(answers["never"], "corrupt 1");
    store.close().unwrap();
    let snapshot = look(&filled.world);
    assert_eq!(shown(&filled, &snapshot), answers);
    // Nobody knows what is missing from the list: it ends with one error that says so.
    let expected = (known_but(&answers, "corrupt 1"), BTreeMap::from([(1, 1)]));
    assert_eq!(listed(&snapshot), expected);
    let found = snapshot.verify().unwrap();
    assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
    assert_eq!((found.damage[0].segment, found.damage[0].what), (1, "the file is missing"));
    // The snapshot goes by the same time as the store, to the millisecond.
    let absent = |snapshot: &Snapshot| answer_of("never", snapshot.lookup(scope("never")));
    move_to(&filled.world, until - MS);
    assert_eq!(absent(&snapshot), "corrupt 1");
    assert_eq!(listed(&snapshot).1, BTreeMap::from([(1, 1)]));
    filled.world.clock.advance(MS);
    assert_eq!(absent(&snapshot), "free");
    assert_eq!(listed(&snapshot).1, BTreeMap::new());
}

#[test]
fn a_record_lost_from_a_quarantined_segment_is_corrupt_in_a_snapshot_and_its_neighbours_are_not() {
    let filled = Filled::new();
    let lost = filled.key_in(1).to_owned();
    damage_response(&filled, &lost);
    filled.world.disk.remove_durably(&hint_file(1));
    let store = open_without(&filled.world);
    let answers = filled.answers(&store);
    let corrupt = |answers: &BTreeMap<String, String>| -> Vec<String> {
        let corrupt = answers.iter().filter(|(_, answer)| *answer == "corrupt 1");
        corrupt.map(|(key, _)| key.clone()).collect()
    };
    assert_eq!(corrupt(&answers), [lost, "never".to_owned()]);
    store.close().unwrap();
    let snapshot = look(&filled.world);
    assert_eq!(shown(&filled, &snapshot), answers);
    assert_eq!(listed(&snapshot).0, known_but(&answers, "corrupt 1"));
    assert!(snapshot.verify().unwrap().damage.iter().all(|damage| damage.segment == 1));
    assert!(!snapshot.verify().unwrap().is_clean());
}

#[test]
fn a_snapshot_refuses_a_list_that_does_not_verify() {
    let filled = Filled::new();
    missing(&filled.world, 1);
    open_without(&filled.world).close().unwrap();
    let bytes = filled.world.disk.read(LIST).unwrap().len() as u64;
    for at in 0..bytes {
        filled.world.disk.corrupt(LIST, at, 1);
        let looked = filled.world.options().open_read_only_on(Arc::new(filled.world.disk.clone()));
        assert!(looked.is_err(), "byte {at} of the list");
        filled.world.disk.corrupt(LIST, at, 1);
    }
    look(&filled.world);
}

#[test]
fn a_snapshot_after_the_quarantine_has_ended_is_whole() {
    let filled = Filled::new();
    missing(&filled.world, 1);
    let store = open_without(&filled.world);
    move_to(&filled.world, oncelog::Clock::wall(&filled.world.clock) + TTL + 2 * DAY);
    store.expire().unwrap();
    store.close().unwrap();
    let snapshot = look(&filled.world);
    assert!(snapshot.verify().unwrap().is_clean());
    assert_eq!(listed(&snapshot).1, BTreeMap::new());
    assert!(snapshot.lookup(scope("never")).unwrap().is_none());
}
