//! Keys of an adversary who knows all of this code, and has a store of his own, but not the secret
//! of the store that he attacks. What a look costs is counted in lines and records, not in time.

use crate::index::line::SLOTS;
use crate::index::{Index, SHARDS, shard_of};
use crate::location::Location;
use crate::parallel::{self, Threads};
use crate::scope::{HashKey, Scope};

/// How many keys of each kind; 1,000,000 by default, the design is for 10,000,000.
const KEYS: &str = "ONCELOG_HOSTILE_KEYS";
/// The secret of the store under attack, and those that may be guessed: none, and one's own.
const SECRET: [u8; 16] = [0x5c; 16];
const GUESSES: [[u8; 16]; 2] = [[0; 16], [0xa7; 16]];

/// What looks at an index cost.
#[derive(Debug)]
struct Cost {
    /// Lines that a look at a key that is there touches, in the mean.
    hit_lines: f64,
    /// The same of one that is not.
    miss_lines: f64,
    /// Records that a look at an absent key reads for nothing, in the mean.
    miss_reads: f64,
    /// The most records that one look reads.
    reads_max: usize,
    /// The fullest shard, in times of the mean.
    fullest: f64,
    overflow: usize,
}

impl Cost {
    /// Of `present` in an index that was opened with them, and of `absent` looked for in it.
    fn of(present: &[u64], absent: &[u64]) -> Cost {
        let mut by_shard = vec![(Vec::new(), Vec::new()); SHARDS];
        present.iter().for_each(|&hash| by_shard[shard_of(hash)].0.push(hash));
        absent.iter().for_each(|&hash| by_shard[shard_of(hash)].1.push(hash));
        let most = by_shard.iter().map(|(keys, _)| keys.len()).max().unwrap_or(0);
        let counted = parallel::for_each(SHARDS, Threads::All, |shard| {
            let (keys, others) = &by_shard[shard];
            let index = opened(shard, keys);
            let touched = |hash: &u64| u64::from(index.table.touched(*hash));
            let reads = |hash: &u64| index.candidates(*hash, 1).iter().count();
            let reads_max = keys.iter().chain(others).map(reads).max().unwrap_or(0);
            let hit_lines = keys.iter().map(touched).sum::<u64>();
            let miss_lines = others.iter().map(touched).sum::<u64>();
            let miss_reads = others.iter().map(reads).sum::<usize>();
            (hit_lines, miss_lines, miss_reads, reads_max, index.overflow.len())
        });
        let share = |sum: u64, of: &[u64]| sum as f64 / of.len() as f64;
        let miss_reads = counted.iter().map(|counted| counted.2 as u64).sum();
        Cost {
            hit_lines: share(counted.iter().map(|counted| counted.0).sum(), present),
            miss_lines: share(counted.iter().map(|counted| counted.1).sum(), absent),
            miss_reads: share(miss_reads, absent),
            reads_max: counted.iter().map(|counted| counted.3).max().unwrap_or(0),
            fullest: most as f64 * SHARDS as f64 / present.len() as f64,
            overflow: counted.iter().map(|counted| counted.4).sum(),
        }
    }

    /// Whether it is no worse than what random keys cost, but for chance.
    fn is_like(&self, random: &Cost) -> bool {
        self.hit_lines <= random.hit_lines + 0.02
            && self.miss_lines <= random.miss_lines + 0.02
            && self.miss_reads <= random.miss_reads + 0.0002
            && self.reads_max <= random.reads_max + 2
            && self.fullest <= random.fullest + 0.02
            && self.overflow <= random.overflow
    }
}

/// An index as it is opened: each key at a place of its own.
fn opened(shard: usize, hashes: &[u64]) -> Index {
    let mut index = Index::new(shard, 0, 1);
    let mut larger = index.begin_load(hashes.len() as u64);
    for (&hash, number) in hashes.iter().zip(0..) {
        larger.add(hash, place(number));
    }
    index.finish_growth(larger);
    index
}

fn place(number: u64) -> Location {
    Location::of_granule(1 + number / 100_000, 512 + number % 100_000)
}

/// The encoded scope of a key, with its number to be put in.
struct Numbered {
    scope: Vec<u8>,
    at: usize,
}

impl Numbered {
    fn new() -> Numbered {
        let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "--------" };
        let scope = scope.encode().to_vec();
        let at = scope.len() - 8;
        Numbered { scope, at }
    }

    /// The digits of a number, as a client writes them.
    fn key(&mut self, mut number: u64) -> &[u8] {
        for digit in self.scope[self.at..].iter_mut().rev() {
            let digits = b"0123456789abcdefghijklmnopqrstuv";
            *digit = digits[usize::try_from(number % 32).expect("below 32")];
            number /= 32;
        }
        &self.scope
    }
}

/// The hashes, under the secret, of keys that an adversary chose by his guess at it: all their tags
/// end alike, so that they share one spill flag a line and an eighth of the tags.
fn chosen_by(guess: &[u8; 16], secret: &[u8; 16], count: usize) -> Vec<u64> {
    let (guess, secret) = (HashKey::new(guess), HashKey::new(secret));
    let mut key = Numbered::new();
    let numbers = 0_u64..;
    let chosen = numbers.filter_map(|number| {
        let key = key.key(number);
        (guess.hash(key) & 7 == 5).then(|| secret.hash(key))
    });
    chosen.take(count).collect()
}

/// The hashes of keys that are counted, without any choice.
fn counted(secret: &[u8; 16], count: usize) -> Vec<u64> {
    let secret = HashKey::new(secret);
    let mut key = Numbered::new();
    (0..count as u64).map(|number| secret.hash(key.key(number))).collect()
}

/// Hashes that no key was chosen for.
fn random(count: usize) -> Vec<u64> {
    let mut state = 0_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (0..count).map(|_| next()).collect()
}

fn cost(mut hashes: Vec<u64>, present: usize) -> Cost {
    let absent = hashes.split_off(present);
    Cost::of(&hashes, &absent)
}

#[test]
fn keys_chosen_without_the_secret_cost_no_more_than_random_ones() {
    let keys = std::env::var(KEYS).map_or(1_000_000, |keys| keys.parse().expect("a number"));
    // A tenth more are looked for in vain.
    let all = keys + keys / 10;
    let random = cost(random(all), keys);
    println!("{keys} keys, random: {random:?}");
    let attacks = parallel::for_each(1 + GUESSES.len(), Threads::All, |attack| match attack {
        0 => counted(&SECRET, all),
        guess => chosen_by(&GUESSES[guess - 1], &SECRET, all),
    });
    for (hashes, attack) in attacks.into_iter().zip(["counted", "zero key", "another's key"]) {
        let cost = cost(hashes, keys);
        println!("{keys} keys, {attack}: {cost:?}");
        assert!(cost.is_like(&random), "{attack}: {cost:?}");
    }
}

#[test]
fn the_same_choice_with_the_secret_known_is_seen() {
    let (keys, all) = (500_000, 550_000);
    let random = cost(random(all), keys);
    let known = cost(chosen_by(&SECRET, &SECRET, all), keys);
    assert!(!known.is_like(&random), "{known:?} is taken for {random:?}");
    assert!(known.miss_lines > random.miss_lines + 0.1, "{known:?}");
    assert!(known.miss_reads > 4.0 * random.miss_reads, "{known:?}");
}

/// More keys of one tag and one pair of lines than the lines hold, at any size of the table that
/// they make it grow to.
#[test]
fn keys_of_one_tag_and_line_pair_are_found_counted_and_bounded_in_what_a_look_reads() {
    const COUNT: u64 = 20_000;
    const SHARD: usize = 9;
    // 16 bits of the line are the same, and what is neither line nor tag tells the keys apart.
    let hash_of = |number: u64| {
        let (fine, spare) = (number / 512, number % 512);
        (SHARD as u64) << 56 | 0x1234 << 40 | fine << 24 | spare << 15 | 0x0aaa
    };
    let mut index = Index::new(SHARD, 0, 1);
    for number in 0..COUNT {
        if index.publish(hash_of(number), place(number), None)
            && let Some(mut larger) = index.begin_growth()
        {
            for (hash, location) in std::mem::take(&mut larger.recent) {
                larger.add(hash, location);
            }
            index.finish_growth(larger);
        }
    }
    assert_eq!(index.len(), COUNT, "each is counted");
    let overflow = index.overflow.len();
    assert!(overflow >= usize::try_from(COUNT).unwrap() - 2 * SLOTS, "{overflow}");
    // A line and a node of the tree for each, however they were chosen.
    assert!(index.bytes() <= COUNT * 34 + 8192, "{} bytes", index.bytes());
    for number in 0..COUNT {
        let found = index.candidates(hash_of(number), 1);
        assert!(found.iter().any(|found| found == place(number)), "{number} is lost");
        assert!(found.iter().count() <= 2 * SLOTS + 1, "{number} reads {found:?}");
        assert!(index.table.touched(hash_of(number)) <= 2);
    }
    let other = hash_of(7) ^ 0x0555;
    assert_eq!(index.candidates(other, 1).iter().count(), 0, "others read nothing for it");
    index.sweep(2 + COUNT / 100_000);
    assert_eq!((index.len(), index.overflow.len()), (0, 0), "they go with their segments");
}
