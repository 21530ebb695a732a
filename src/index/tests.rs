//! The index against a slow twin under random churn, and the corners that it was lost in.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::line::SLOTS;
use crate::index::{FULL_AT, GROW_AT, Index, Larger, SEGMENTS, SHARDS};
use crate::location::Location;

/// A small generator (splitmix64): a seed gives the same operations again.
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[usize::try_from(self.below(among.len() as u64)).unwrap()]
    }
}

/// A response and its hash.
type Held = (u64, Location);

/// Where the hints of a segment are, as seen by a growth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hints {
    /// The index alone knows them.
    Recent,
    /// In a file, of which the index was not told yet.
    Written,
    Told,
}

#[derive(Clone, Copy)]
enum Entry {
    Response(Held),
    Forget(Held),
}

struct Segment {
    entries: Vec<Entry>,
    hints: Hints,
}

/// A growth under way.
struct Growing {
    larger: Larger,
    /// The segments that are still to be read, newest first, once they were listed.
    left: Option<Vec<u64>>,
    /// What the growth brings back if it is finished: superseded before it began.
    superseded: BTreeSet<Held>,
}

/// What a run came across.
#[derive(Debug, Default)]
struct Seen {
    finished: u64,
    given_up: u64,
    sweeps_while_growing: u64,
    load_max: f64,
    overflow_max: usize,
}

/// How a run differs from others.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    expected_keys: u64,
    first_segment: u64,
    removes: bool,
    /// More equal hashes than two lines have slots.
    bursts: bool,
}

/// An index, a log beneath it, and the twin.
struct Churn {
    plan: Plan,
    random: Random,
    index: Index,
    log: BTreeMap<u64, Segment>,
    tail: u64,
    granule: u64,
    oldest: u64,
    swept: u64,
    growing: Option<Growing>,
    /// The live responses, those of dropped segments included until the sweep.
    twin: BTreeSet<Held>,
    /// The same, to pick from; what is not in the twin any more is skipped.
    keys: Vec<Held>,
    superseded: BTreeSet<Held>,
    /// Superseded ones that a growth brought back from the hints.
    back: BTreeSet<Held>,
    seen: Seen,
}

const SHARD: usize = 77;
const PER_SEGMENT: usize = 150;
const KEYS_MAX: u64 = 5_000;

impl Churn {
    fn new(plan: Plan) -> Churn {
        println!("seed {}", plan.seed);
        let first = plan.first_segment;
        Churn {
            plan,
            random: Random(plan.seed),
            index: Index::new(SHARD, plan.expected_keys, first),
            log: BTreeMap::from([(first, Segment { entries: vec![], hints: Hints::Recent })]),
            tail: first,
            granule: 512,
            oldest: first,
            swept: first,
            growing: None,
            twin: BTreeSet::new(),
            keys: Vec::new(),
            superseded: BTreeSet::new(),
            back: BTreeSet::new(),
            seen: Seen::default(),
        }
    }

    fn run(&mut self, steps: u64) {
        // Long enough for the tables of many sizes, and for several lifetimes at each.
        let phase = (steps / 6).max(10_000);
        for step in 0..steps {
            // Between a third and all of the keys that there may be.
            let target = KEYS_MAX / 3 * (1 + (step / phase) % 3);
            self.step(target);
            if step % 8_192 == 0 {
                self.check_all();
            }
        }
        self.finish();
        self.check_all();
    }

    fn step(&mut self, target: u64) {
        match self.random.below(100) {
            0..60 => {
                let hash = self.new_hash();
                self.publish(hash, None);
            }
            60..75 => {
                if let Some((hash, location)) = self.live() {
                    self.publish(hash, Some(location));
                }
            }
            75..77 => {
                if let Some((hash, _)) = self.live() {
                    self.publish(hash, None);
                }
            }
            77..79 => {
                // The same tag and line, another key: these bits are in neither.
                if let Some((hash, _)) = self.live() {
                    let other = hash ^ ((1 + self.random.below(511)) << 15);
                    self.publish(other, None);
                }
            }
            79..83 if self.plan.removes => self.remove(),
            83..86 => self.hint(),
            86 if self.twin.len() as u64 > target => self.drop_oldest(),
            87 if self.swept < self.oldest => self.sweep(),
            88 if self.plan.bursts && self.random.below(100) == 0 => self.burst(),
            // A slow growth lets the old table fill up.
            90..92 => self.begin_growth(),
            92..100 => self.go_on_growing(),
            _ => {}
        }
        if let Some((hash, _)) = self.live() {
            self.check(hash);
        }
        let absent = self.new_hash();
        self.check(absent);
        let load = self.index.table.used() as f64 / self.index.table.slots() as f64;
        self.seen.load_max = self.seen.load_max.max(load);
        self.seen.overflow_max = self.seen.overflow_max.max(self.index.overflow.len());
    }

    fn new_hash(&mut self) -> u64 {
        (SHARD as u64) << 56 | self.random.number() >> 8
    }

    fn live(&mut self) -> Option<Held> {
        if self.keys.is_empty() {
            return None;
        }
        let held = self.random.pick(&self.keys);
        let live = held.1.segment() >= self.oldest && self.twin.contains(&held);
        live.then_some(held)
    }

    /// The next place in the log.
    fn append(&mut self, entry: impl Fn(Location) -> Entry) -> Location {
        if self.log[&self.tail].entries.len() == PER_SEGMENT {
            self.tail += 1;
            assert!(self.tail < self.swept + SEGMENTS);
            self.log.insert(self.tail, Segment { entries: vec![], hints: Hints::Recent });
            self.granule = 512;
        }
        let location = Location::of_granule(self.tail, self.granule);
        self.granule += 1 + self.random.below(20_000);
        self.log.get_mut(&self.tail).unwrap().entries.push(entry(location));
        location
    }

    fn publish(&mut self, hash: u64, replaced: Option<Location>) {
        let location = self.append(|location| Entry::Response((hash, location)));
        self.index.publish(hash, location, replaced);
        self.twin.insert((hash, location));
        self.keys.push((hash, location));
        if let Some(replaced) = replaced {
            assert!(self.twin.remove(&(hash, replaced)));
            self.superseded.insert((hash, replaced));
        }
    }

    fn remove(&mut self) {
        let Some(held) = self.live() else { return };
        self.append(|_| Entry::Forget(held));
        self.index.remove(held.0, held.1);
        self.twin.remove(&held);
    }

    fn burst(&mut self) {
        let hash = self.new_hash();
        for _ in 0..3 * SLOTS {
            self.publish(hash, None);
            self.check(hash);
        }
    }

    /// Writes the hints of a sealed segment, or tells the index of it.
    fn hint(&mut self) {
        let mut sealed = self.log.range_mut(..self.tail);
        let Some((&number, segment)) = sealed.find(|(_, s)| s.hints != Hints::Told) else {
            return;
        };
        if segment.hints == Hints::Recent {
            segment.hints = Hints::Written;
        } else {
            segment.hints = Hints::Told;
            self.index.hinted(number);
        }
    }

    fn drop_oldest(&mut self) {
        let segments = self.tail - self.oldest;
        self.oldest += 1 + self.random.below(1 + segments / 4);
        self.oldest = self.oldest.min(self.tail);
    }

    fn sweep(&mut self) {
        let oldest = self.oldest;
        self.index.sweep(oldest);
        self.swept = oldest;
        self.seen.sweeps_while_growing += u64::from(self.growing.is_some());
        for set in [&mut self.twin, &mut self.superseded, &mut self.back] {
            set.retain(|(_, location)| location.segment() >= oldest);
        }
        self.keys.retain(|held| self.twin.contains(held));
        if self.growing.is_none() {
            self.log = self.log.split_off(&oldest);
        }
    }

    fn begin_growth(&mut self) {
        let Some(larger) = self.index.begin_growth() else { return };
        assert!(self.growing.is_none());
        assert!(larger.table.lines() > self.index.table.lines());
        let superseded = self.superseded.clone();
        self.growing = Some(Growing { larger, left: None, superseded });
    }

    /// Reads one more segment; the list of them is made after the growth began.
    fn go_on_growing(&mut self) {
        let Some(growing) = &mut self.growing else { return };
        let left = growing.left.get_or_insert_with(|| self.log.keys().rev().copied().collect());
        let Some(number) = left.pop() else { return self.end_growth() };
        let segment = &self.log[&number];
        if segment.hints == Hints::Recent {
            return;
        }
        for &entry in &segment.entries {
            if let Entry::Response((hash, location)) = entry {
                growing.larger.add(hash, location);
            }
        }
        for &entry in &segment.entries {
            if let Entry::Forget((hash, location)) = entry {
                growing.larger.remove(hash, location);
            }
        }
    }

    fn end_growth(&mut self) {
        let Some(mut growing) = self.growing.take() else { return };
        if self.random.below(4) == 0 {
            self.index.give_up_growth();
            self.seen.given_up += 1;
        } else {
            for (hash, location) in std::mem::take(&mut growing.larger.recent) {
                growing.larger.add(hash, location);
            }
            self.index.finish_growth(growing.larger);
            self.back = growing.superseded;
            self.back.retain(|(_, location)| location.segment() >= self.swept);
            self.seen.finished += 1;
        }
        self.log = self.log.split_off(&self.swept);
        self.check_all();
    }

    fn finish(&mut self) {
        while self.growing.is_some() {
            self.go_on_growing();
        }
        self.drop_oldest();
        self.sweep();
    }

    /// A candidate that is missing is an execution too many.
    fn check(&self, hash: u64) -> BTreeSet<Location> {
        let listed: Vec<_> = self.index.candidates(hash, self.oldest).iter().collect();
        let found: BTreeSet<_> = listed.iter().copied().collect();
        assert_eq!(found.len(), listed.len(), "{hash:x}: one place twice");
        for &(_, location) in self.twin.range((hash, Location::LOWEST)..=(hash, Location::HIGHEST))
        {
            let live = location.segment() >= self.oldest;
            assert_eq!(found.contains(&location), live, "{hash:x} at {location:?}");
        }
        for location in &found {
            assert!((self.oldest..=self.tail).contains(&location.segment()), "{location:?}");
        }
        found
    }

    fn check_all(&self) {
        let held = || self.twin.iter().chain(&self.back);
        let owners: BTreeMap<Location, u64> = held().map(|&(hash, at)| (at, hash)).collect();
        for &(hash, _) in held() {
            for location in self.check(hash) {
                let owner = owners.get(&location);
                assert!(owner.is_some(), "{hash:x}: {location:?} was removed or never there");
                let tag = |hash: u64| hash & 0x7fff;
                assert_eq!(owner.map(|&owner| tag(owner)), Some(tag(hash)));
            }
        }
        assert_eq!(self.index.len(), held().count() as u64);
    }
}

fn operations() -> u64 {
    let given = std::env::var("ONCELOG_INDEX_OPS").ok().and_then(|given| given.parse().ok());
    given.unwrap_or(if cfg!(debug_assertions) { 200_000 } else { 3_000_000 })
}

/// Runs one plan after the other; `runs` is how many share the operations.
fn churn(plans: &[Plan], runs: u64) -> Seen {
    let mut all = Seen::default();
    for &plan in plans {
        let mut churn = Churn::new(plan);
        churn.run(operations() / runs);
        let seen = churn.seen;
        println!("{seen:?}");
        all.finished += seen.finished;
        all.given_up += seen.given_up;
        all.sweeps_while_growing += seen.sweeps_while_growing;
        all.load_max = all.load_max.max(seen.load_max);
        all.overflow_max = all.overflow_max.max(seen.overflow_max);
    }
    assert!(all.finished > 0 && all.given_up > 0 && all.sweeps_while_growing > 0, "{all:?}");
    assert!(all.load_max * 1000.0 > FULL_AT as f64, "{all:?}");
    assert!(all.overflow_max > 0, "{all:?}");
    all
}

const PLAN: Plan =
    Plan { seed: 1, expected_keys: 0, first_segment: SEGMENTS - 5, removes: false, bursts: false };

#[test]
fn churn_loses_no_response() {
    let sized = Plan { seed: 2, expected_keys: 1500 * SHARDS as u64, ..PLAN };
    let late = Plan { seed: 3, first_segment: (1 << 20) * SEGMENTS - 40, ..PLAN };
    churn(&[PLAN, sized, late], 6);
}

#[test]
fn churn_with_removed_responses_brings_none_of_them_back() {
    let removes = Plan { seed: 4, removes: true, ..PLAN };
    let late = Plan { seed: 5, first_segment: 7 * SEGMENTS - 1, ..removes };
    churn(&[removes, late], 6);
}

#[test]
fn churn_with_equal_hashes_loses_no_response() {
    let seen = churn(&[Plan { seed: 6, bursts: true, ..PLAN }], 6);
    assert!(seen.overflow_max > SLOTS, "{seen:?}");
}

/// Spreads a counter over the hashes of a shard.
pub(in crate::index) fn hash(shard: usize, number: u64) -> u64 {
    (shard as u64) << 56 | Random(number.wrapping_mul(0x1234_5678_9abc_def1)).number() >> 8
}

pub(in crate::index) fn location(number: u64) -> Location {
    Location::of_granule(1 + number / 1000, 512 + 4 * (number % 1000))
}

/// Finishes a growth for which the hints are `hinted`.
fn finish(index: &mut Index, mut larger: Larger, hinted: &[Held]) {
    for &(hash, location) in hinted {
        larger.add(hash, location);
    }
    for (hash, location) in std::mem::take(&mut larger.recent) {
        larger.add(hash, location);
    }
    index.finish_growth(larger);
}

/// Publishes until a larger table is wanted.
fn until_wanted(index: &mut Index, mut number: u64) -> Vec<Held> {
    let mut held = Vec::new();
    loop {
        held.push((hash(0, number), location(number)));
        let (hash, location) = held[held.len() - 1];
        if index.publish(hash, location, None) {
            return held;
        }
        assert!(index.len() * 1000 < (index.table.slots() * GROW_AT) as u64 + 1000, "never asked");
        number += 1;
    }
}

#[test]
fn a_growth_that_a_sweep_made_needless_is_asked_for_again() {
    let mut index = Index::new(0, 0, 1);
    until_wanted(&mut index, 0);
    index.sweep(100);
    assert!(index.begin_growth().is_none());
    until_wanted(&mut index, 200_000);
}

#[test]
fn a_growth_that_was_given_up_is_asked_for_by_the_next_key() {
    let mut index = Index::new(0, 0, 1);
    let held = until_wanted(&mut index, 0);
    assert!(index.begin_growth().is_some());
    assert!(index.begin_growth().is_none(), "one at a time");
    index.give_up_growth();
    assert!(index.publish(hash(0, 9_000), location(9_000), None));
    assert_eq!(index.len(), held.len() as u64 + 1);
}

#[test]
fn a_response_removed_while_the_table_grows_stays_removed() {
    for of_growth in [false, true] {
        let mut index = Index::new(0, 0, 1);
        let held = until_wanted(&mut index, 0);
        let larger = index.begin_growth().unwrap();
        let later = (hash(0, 9_000), location(9_000));
        index.publish(later.0, later.1, None);
        let (hash, location) = if of_growth { later } else { held[3] };
        index.remove(hash, location);
        finish(&mut index, larger, &[]);
        assert!(index.candidates(hash, 1).is_empty());
    }
}

#[test]
fn a_response_removed_before_the_table_grows_stays_removed() {
    let mut index = Index::new(0, 0, 1);
    let held = until_wanted(&mut index, 0);
    index.hinted(1);
    index.remove(held[3].0, held[3].1);
    let larger = index.begin_growth();
    // One was removed: the next one asks again.
    let larger = larger.unwrap_or_else(|| {
        index.publish(hash(0, 9_000), location(9_000), None);
        index.begin_growth().unwrap()
    });
    // The FORGET is in the tail, which has no hints yet.
    finish(&mut index, larger, &held);
    assert!(index.candidates(held[3].0, 1).is_empty());
}

#[test]
fn a_replacement_that_is_hinted_while_the_table_grows_is_held_once() {
    let mut index = Index::new(0, 0, 1);
    let mut held = until_wanted(&mut index, 0);
    let larger = index.begin_growth().unwrap();
    let (hash, before) = held[3];
    let after = location(9_000);
    index.publish(hash, after, Some(before));
    held.push((hash, after));
    finish(&mut index, larger, &held);
    assert_eq!(index.candidates(hash, 1).iter().collect::<Vec<_>>(), [after]);
    assert_eq!(index.len(), held.len() as u64 - 1);
}

#[test]
fn equal_hashes_beyond_both_lines_do_not_make_the_table_grow_without_end() {
    let mut index = Index::new(0, 0, 1);
    let mut held = Vec::new();
    for number in 0..100 {
        held.push((5, location(number)));
        if index.publish(5, location(number), None) {
            let larger = index.begin_growth().unwrap();
            finish(&mut index, larger, &held);
        }
    }
    assert_eq!(index.candidates(5, 1).iter().count(), held.len());
    assert!(index.table.lines() < 100, "{} lines for {} keys", index.table.lines(), held.len());
}

#[test]
fn a_segment_number_used_again_while_the_table_grows_loses_nothing() {
    let mut index = Index::new(0, 0, 1);
    until_wanted(&mut index, 0);
    let larger = index.begin_growth().unwrap();
    index.sweep(3);
    let (hash, again) = (hash(0, 9_000), Location::of_granule(1 + SEGMENTS, 512));
    index.publish(hash, again, None);
    finish(&mut index, larger, &[]);
    assert_eq!(index.candidates(hash, 3).iter().collect::<Vec<_>>(), [again]);
}

#[test]
fn a_response_published_after_its_segment_was_swept_is_no_candidate_later() {
    let mut index = Index::new(0, 0, 1);
    index.sweep(5);
    index.publish(7, location(0), None);
    assert!(index.candidates(7, 5).is_empty());
    assert_eq!((index.len(), index.recent.len()), (0, 0));
}
