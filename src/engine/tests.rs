//! The state machine where only its own hands reach: shards without room, tags that two scopes
//! share, and records that are published late.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use crate::clock::ManualClock;
use crate::config::{Config, Durability};
use crate::engine::admit::{Admitted, Caller, Grant};
use crate::engine::finish::By;
use crate::engine::outcome::{Answer, Keyed, Status};
use crate::engine::ticket::Ticket;
use crate::engine::{Act, Deed, Engine};
use crate::format::record::{Ended, Record};
use crate::format::segment::DATA_START;
use crate::index::shard_of;
use crate::location::{Location, Lsn};
use crate::log::{hint_name, segment_name};
use crate::recovery::recover;
use crate::scope::{Fingerprint, Scope};
use crate::storage::disk::{Appends, DiskStorage};
use crate::storage::{Access, Storage};
use crate::sync::Signal;

/// A shard begins with so many slots.
const SLOTS: usize = 576;

fn buffered() -> Config {
    let durability = Durability::Buffered { sync_every: Duration::from_secs(3_600) };
    Config { durability, segment_bytes: Config::SEGMENT_BYTES_MIN, ..Config::default() }
}

/// An engine without helpers: nothing happens between calls.
fn open(dir: &Path, config: Config) -> Engine {
    let storage: Arc<dyn Storage> =
        Arc::new(DiskStorage::create(dir, Appends::Written).expect("the directory is there"));
    let clock = Arc::new(ManualClock::at(UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    let recovered = recover(Arc::clone(&storage), &config, clock.clone(), &|_| {}).unwrap();
    Engine::new(config, clock, storage, recovered.expect("it may be created"))
}

fn keyed(engine: &Engine, key: &str) -> Keyed {
    engine.keyed(Scope { organization: "acme", method: "POST", path: "/", key }).unwrap()
}

fn admit(engine: &Engine, keyed: &Keyed, caller: &Caller<'_>) -> Admitted {
    engine.admit(keyed, Fingerprint::of(b"the request"), caller).unwrap()
}

fn granted(engine: &Engine, keyed: &Keyed) -> Grant {
    match admit(engine, keyed, &Caller::BLOCKING) {
        Admitted::Staged(grant, staged) => {
            engine.settle(staged).unwrap();
            grant
        }
        Admitted::Granted(grant) => grant,
        Admitted::Answer(answer) => panic!("not granted: {answer:?}"),
    }
}

/// Claims and completes.
fn run(engine: &Engine, keyed: &Keyed) -> Grant {
    let grant = granted(engine, keyed);
    let response = [&b"created"[..]];
    let facts = &grant.open.facts;
    let finishing = engine.complete(grant.hash, facts, By::Permit, Some(&response), None);
    engine.finish(finishing.unwrap()).unwrap();
    grant
}

fn is_completed(engine: &Engine, keyed: &Keyed) -> bool {
    matches!(engine.look_up(keyed), Ok(Some(Status::Completed(_))))
}

/// Scopes of the first shard.
fn of_one_shard(engine: &Engine) -> impl Iterator<Item = Keyed> + '_ {
    let all = (0..).map(|number| keyed(engine, &format!("key-{number}")));
    all.filter(|keyed| shard_of(keyed.hash) == 0)
}

fn overflow(engine: &Engine) -> u64 {
    engine.shards[0].0.lock().index.overflow()
}

#[test]
fn a_shard_without_room_grows_before_it_takes_another_key() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), buffered());
    let keys: Vec<Keyed> = of_one_shard(&engine).take(SLOTS + 124).collect();
    keys.iter().for_each(|keyed| drop(run(&engine, keyed)));
    assert!(overflow(&engine) < 62, "{} keys found no room", overflow(&engine));
    assert!(keys.iter().all(|keyed| is_completed(&engine, keyed)));
    // It was asked for more than once, and is made larger once.
    assert!(engine.growing.lock().len() > 1);
    engine.upkeep();
    assert!(keys.iter().all(|keyed| is_completed(&engine, keyed)));
    assert!(!engine.shards[0].0.lock().index.is_asked_to_grow());
}

#[test]
fn a_shard_that_a_recovery_filled_up_is_made_larger_by_the_first_upkeep() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes: 1 << 20, ..buffered() };
    let engine = open(dir.path(), config.clone());
    let keys: Vec<Keyed> = of_one_shard(&engine).take(SLOTS - 20).collect();
    keys.iter().for_each(|keyed| drop(run(&engine, keyed)));
    drop(engine);
    let engine = open(dir.path(), config);
    assert_eq!(*engine.growing.lock(), [0]);
    let before = engine.shards[0].0.lock().index.bytes();
    engine.upkeep();
    assert!(engine.shards[0].0.lock().index.bytes() > before);
    assert!(keys.iter().all(|keyed| is_completed(&engine, keyed)));
}

#[test]
fn a_shard_whose_hints_cannot_be_read_keeps_apart_what_finds_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), buffered());
    let keys: Vec<Keyed> = of_one_shard(&engine).take(SLOTS + 20).collect();
    let (early, late) = keys.split_at(SLOTS - 76);
    early.iter().for_each(|keyed| drop(run(&engine, keyed)));
    // From here on the hint file alone says what is in the first segment.
    engine.sync().unwrap();
    engine.upkeep();
    engine.storage.remove(&hint_name(1)).unwrap();
    let file = engine.storage.open(&segment_name(1), Access::Write).unwrap();
    let zeros = vec![0; usize::try_from(DATA_START).unwrap()];
    file.write_at(0, &zeros).unwrap();
    late.iter().for_each(|keyed| drop(run(&engine, keyed)));
    assert!(overflow(&engine) >= 20);
    assert!(keys.iter().all(|keyed| is_completed(&engine, keyed)));
}

#[test]
fn a_place_that_is_another_scope_s_or_holds_no_response_any_more_is_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), buffered());
    let theirs = keyed(&engine, "theirs");
    run(&engine, &theirs);
    let mut places = Vec::new();
    let is_of_a_claim = |record: &Record<'_>| matches!(record, Record::Claim(_));
    let scan = engine.log.segments.scan(1, |entry| {
        if is_of_a_claim(&entry.record) || matches!(entry.record, Record::Complete(_)) {
            places.push(Location::new(1, entry.offset));
        }
    });
    assert!(scan.unwrap().is_some());
    assert_eq!(places.len(), 2);
    // Its segment was dropped after the place was found.
    places.push(Location::new(9, DATA_START));
    let asked = keyed(&engine, "asked");
    for place in places {
        engine.shard(asked.hash).lock().index.publish(asked.hash, place, None);
    }
    assert!(engine.look_up(&asked).unwrap().is_none());
    assert!(!engine.forget(&asked).unwrap());
    run(&engine, &asked);
    assert!(is_completed(&engine, &asked) && is_completed(&engine, &theirs));
}

#[test]
fn a_checkpoint_that_is_published_after_a_newer_one_does_not_take_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), buffered());
    let grant = granted(&engine, &keyed(&engine, "k"));
    let token = grant.open.facts.token;
    let publish = |saved: &[u8], lsn| {
        let checkpoint = Some(Arc::from(saved));
        let act = Act::Progress { ended: Ended::No, checkpoint, lsn: Lsn(lsn) };
        let staged_at = Duration::ZERO;
        engine.publish(Deed { hash: grant.hash, token, act, ticket: None, staged_at }, Ok(()));
        let mut shard = engine.shard(grant.hash).lock();
        shard.inflight.current(grant.hash, token).unwrap().open.checkpoint.clone()
    };
    assert_eq!(publish(b"second", 9).as_deref(), Some(&b"second"[..]));
    assert_eq!(publish(b"first", 8).as_deref(), Some(&b"second"[..]));
    assert_eq!(publish(b"third", 10).as_deref(), Some(&b"third"[..]));
}

#[test]
fn whoever_waits_for_a_claim_that_is_not_durable_yet_is_not_woken_by_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), Config::default());
    let scope = keyed(&engine, "k");
    let Admitted::Staged(grant, staged) = admit(&engine, &scope, &Caller::BLOCKING) else {
        panic!("not staged")
    };
    let (ticket, signal) = (Arc::<Ticket>::default(), Arc::<Signal>::default());
    let waits = Caller::of_future(&ticket, Some(&signal));
    let answer = admit(&engine, &scope, &waits);
    assert!(matches!(answer, Admitted::Answer(Answer::InProgress(_))));
    let lease = engine.config.lease;
    assert_eq!(engine.wake_lapsed(), Some(engine.clock.monotonic() + lease));
    assert!(engine.shard(scope.hash).lock().inflight.iter_awaited().next().is_some());
    engine.settle(staged).unwrap();
    assert_eq!(engine.deadline(grant.hash, grant.open.facts.token), engine.wake_lapsed());
}

#[test]
fn a_grant_that_nobody_took_and_that_ended_since_is_left_as_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path(), buffered());
    let scope = keyed(&engine, "k");
    let grant = run(&engine, &scope);
    let records = engine.stats().records;
    engine.release_unrun(grant.hash, grant.open.facts.token);
    assert_eq!(engine.stats().records, records);
    assert!(is_completed(&engine, &scope));
}
