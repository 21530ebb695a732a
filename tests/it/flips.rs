//! Every byte of a small store, flipped, one at a time: a scope gets its right answer or an error,
//! never a wrong response and never its absence.
//!
//! All that is asked for was synced and promised, so that no damage to it can be taken for a torn
//! tail.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncelog::{Error, OrphanInfo, Status, Store};

use crate::contract::support::{World, claim, granted, run, scope};
use crate::support::disk::SimDisk;

/// Every n-th byte is flipped: all of them by default, but for a build that is not optimized, which
/// takes ten times as long.
const STRIDE: &str = "ONCELOG_FLIP_STRIDE";
const STRIDE_DEFAULT: usize = if cfg!(debug_assertions) { 97 } else { 1 };
/// One bit, by the place, and where something is written all bits too.
const FLIPS: [fn(u64) -> u8; 2] = [|at| 1 << (at % 8), |_| 0xff];

/// What a scope has to answer, where it does not answer `Corrupt`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holds {
    Free,
    Completed(Option<Vec<u8>>),
    Orphaned { operation: String, attempt: u32, checkpoint: Option<Vec<u8>> },
}

impl Holds {
    fn of(status: Option<Status>) -> Holds {
        match status {
            None => Holds::Free,
            Some(Status::Completed(stored)) => Holds::Completed(stored.bytes().map(Vec::from)),
            Some(Status::Orphaned(info)) => Holds::of_orphan(&info),
            Some(Status::InProgress(running)) => panic!("nobody runs it: {running:?}"),
        }
    }

    fn of_orphan(info: &OrphanInfo) -> Holds {
        let checkpoint = info.checkpoint().map(Vec::from);
        Holds::Orphaned {
            operation: info.operation().to_string(),
            attempt: info.attempt(),
            checkpoint,
        }
    }
}

/// A store that nobody has open, and what it holds.
struct Sample {
    world: World,
    expected: BTreeMap<String, Holds>,
}

#[derive(Default)]
struct Counts {
    flips: AtomicU64,
    /// The store refused to open.
    refused: AtomicU64,
    /// It opened, and a scope was `Corrupt`.
    corrupt: AtomicU64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (flips, refused, corrupt) = (get(&self.flips), get(&self.refused), get(&self.corrupt));
        write!(f, "{flips} flips: {refused} opens refused, {corrupt} stores with corrupt scopes")
    }
}

/// Completed, released and forgotten claims of every size.
fn fill(store: &Store) {
    for number in 0..12_usize {
        run(store, &format!("completed-{number}"), &vec![number as u8; number * number * 9]);
    }
    granted(claim(store, "without")).complete_without_response().unwrap();
    granted(claim(store, "released")).release().unwrap();
}

fn forget_one(store: &Store) {
    run(store, "forgotten", b"to be erased");
    assert!(store.forget(scope("forgotten")).unwrap());
}

/// A claim that runs, one that was given up, and one that was taken over, with checkpoints.
fn leave_open(store: &Store) {
    let permit = granted(claim(store, "running"));
    permit.save_checkpoint(b"half way").unwrap();
    std::mem::forget(permit);
    granted(claim(store, "given-up")).give_up().unwrap();
    let permit = granted(claim(store, "again"));
    permit.save_checkpoint(b"a first attempt").unwrap();
    permit.give_up().unwrap();
    let orphan = store.orphan(scope("again")).unwrap().unwrap();
    std::mem::forget(granted(orphan.take_over().unwrap()));
}

/// Asks a store for everything, damaged scopes apart.
fn ask(
    store: &Store,
    keys: impl Iterator<Item = String>,
) -> BTreeMap<String, Result<Holds, Error>> {
    keys.map(|key| {
        let held = store.lookup(scope(&key)).map(Holds::of);
        (key, held)
    })
    .collect()
}

impl Sample {
    /// Takes what a store, opened on a copy, answers before any damage.
    fn new(world: World) -> Sample {
        let numbered = (0..12).map(|number| format!("completed-{number}"));
        let named = ["without", "released", "forgotten", "running", "given-up", "again", "never"];
        let keys = numbered.chain(named.map(String::from));
        let store = world.on(world.disk.after_kill()).open();
        let expected = ask(&store, keys).into_iter().map(|(key, held)| (key, held.unwrap()));
        let expected: BTreeMap<_, _> = expected.collect();
        for number in 0..12_usize {
            let response = vec![number as u8; number * number * 9];
            assert_eq!(expected[&format!("completed-{number}")], Holds::Completed(Some(response)));
        }
        assert_eq!(expected["without"], Holds::Completed(None));
        for free in ["released", "forgotten", "never"] {
            assert_eq!(expected[free], Holds::Free);
        }
        Sample { world, expected }
    }

    /// Closed, with claims open: the next open reads the tail in full.
    fn closed() -> Sample {
        let world = World::new();
        let store = world.open();
        fill(&store);
        forget_one(&store);
        leave_open(&store);
        store.close().unwrap();
        Sample::new(world)
    }

    /// Closed, with nothing open and nothing forgotten: the next open believes the hints.
    fn hinted() -> Sample {
        let world = World::new();
        let store = world.open();
        fill(&store);
        store.close().unwrap();
        let sample = Sample::new(world);
        assert!(sample.world.disk.names().iter().any(|name| name.ends_with(".idx")));
        sample
    }

    /// Killed after a sync.
    fn killed() -> Sample {
        let world = World::new();
        let store = world.open();
        fill(&store);
        forget_one(&store);
        leave_open(&store);
        store.sync().unwrap();
        Sample::new(world.on(world.disk.after_kill()))
    }

    /// Sealed by the open after a crash, with its claims carried.
    fn sealed() -> Sample {
        let killed = Sample::killed();
        let store = killed.world.open();
        run(&store, "later", b"201 created");
        store.sync().unwrap();
        assert_eq!(store.stats().segments, 2);
        Sample::new(killed.world.on(killed.world.disk.after_kill()))
    }

    /// Flips one byte of a copy and asks.
    fn flip(&self, file: &str, at: u64, xor: u8, counts: &Counts) {
        let place = || format!("byte {at} of {file}, xor {xor:#x}");
        let world = self.world.on(self.world.disk.after_kill());
        world.disk.corrupt(file, at, xor);
        counts.flips.fetch_add(1, Ordering::Relaxed);
        let asked = catch_unwind(AssertUnwindSafe(|| {
            let opened = world.options().open_on(Arc::new(world.disk.clone()));
            opened.map(|store| ask(&store, self.expected.keys().cloned()))
        }));
        let answers = match asked.unwrap_or_else(|_| panic!("a panic: {}", place())) {
            Ok(answers) => answers,
            Err(error) => {
                let known = matches!(error, Error::Corrupt { .. }) || is_version(file, at, &error);
                assert!(known, "{}: {error}", place());
                counts.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        let mut corrupt = false;
        for (key, answer) in answers {
            match answer {
                Err(Error::Corrupt { .. }) => corrupt = true,
                answer => assert_eq!(answer.unwrap(), self.expected[&key], "{key}: {}", place()),
            }
        }
        counts.corrupt.fetch_add(u64::from(corrupt), Ordering::Relaxed);
    }

    /// Flips every byte of every file, in turn, on all cores.
    fn flip_all(&self) -> Counts {
        let stride = std::env::var(STRIDE).map_or(STRIDE_DEFAULT, |text| text.parse().unwrap());
        let counts = Counts::default();
        let mut places = Vec::new();
        for name in self.world.disk.names() {
            let bytes = self.world.disk.read(&name).unwrap();
            for at in (0..bytes.len()).step_by(stride) {
                let blank = bytes[at / 16 * 16..].iter().take(16).all(|&byte| byte == 0);
                places.push((name.clone(), at as u64, if blank { 1 } else { FLIPS.len() }));
            }
        }
        let threads = std::thread::available_parallelism().unwrap().get();
        std::thread::scope(|scope| {
            for part in places.chunks(places.len().div_ceil(threads)) {
                let counts = &counts;
                scope.spawn(move || {
                    for (name, at, flips) in part {
                        let flips = FLIPS.iter().take(*flips);
                        flips.for_each(|xor| self.flip(name, *at, xor(*at), counts));
                    }
                });
            }
        });
        counts
    }
}

/// A slot of CHECKPOINT that says it is of another version cannot be told from one that is.
fn is_version(file: &str, at: u64, error: &Error) -> bool {
    file == "CHECKPOINT" && (8..12).contains(&(at % 4096)) && matches!(error, Error::Version { .. })
}

#[test]
fn no_flipped_byte_of_a_closed_store_is_an_absence_or_a_wrong_response() {
    println!("{}", Sample::closed().flip_all());
}

#[test]
fn no_flipped_byte_of_a_store_opened_by_its_hints_is_an_absence_or_a_wrong_response() {
    println!("{}", Sample::hinted().flip_all());
}

#[test]
fn no_flipped_byte_of_a_killed_store_is_an_absence_or_a_wrong_response() {
    println!("{}", Sample::killed().flip_all());
}

#[test]
fn no_flipped_byte_of_a_sealed_segment_is_an_absence_or_a_wrong_response() {
    println!("{}", Sample::sealed().flip_all());
}

#[test]
fn a_record_that_is_gone_without_a_trace_is_seen() {
    let sample = Sample::killed();
    let store = sample.world.on(sample.world.disk.after_kill()).open();
    assert!(store.forget(scope("completed-3")).unwrap());
    drop(store);
    let lost = Sample { world: sample.world.on(SimDisk::new()), ..sample };
    let counts = Counts::default();
    lost.world.open().close().unwrap();
    let seen = catch_unwind(AssertUnwindSafe(|| lost.flip("SUPER", 5000, 1, &counts)));
    assert!(seen.is_err(), "an absence passed");
}
