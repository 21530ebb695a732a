//! The bars on the memory of the index, and on how its shards grow.

use crate::index::tests::{hash, location};
use crate::index::{Index, SHARDS};

/// A shard with `keys` published, each segment hinted when it is full.
struct Grown {
    index: Index,
    shard: usize,
    keys: u64,
}

impl Grown {
    fn new(shard: usize, expected_keys: u64) -> Grown {
        Grown { index: Index::new(shard, expected_keys, 1), shard, keys: 0 }
    }

    /// Publishes one more and grows where that is wanted: whether it was.
    fn publish(&mut self) -> bool {
        let wanted = self.index.publish(hash(self.shard, self.keys), location(self.keys), None);
        self.keys += 1;
        if self.keys.is_multiple_of(1000) {
            self.index.hinted(location(self.keys - 1).segment());
        }
        if wanted {
            let mut larger = self.index.begin_growth().unwrap();
            for number in 0..self.keys / 1000 * 1000 {
                larger.add(hash(self.shard, number), location(number));
            }
            for (hash, location) in std::mem::take(&mut larger.recent) {
                larger.add(hash, location);
            }
            self.index.finish_growth(larger);
            assert_eq!(self.index.len(), self.keys);
        }
        wanted
    }
}

/// Every so manieth shard: all of them take minutes without optimization.
fn sample(every: usize) -> impl Iterator<Item = usize> {
    let every = if cfg!(debug_assertions) { 4 * every } else { every };
    (0..SHARDS).step_by(every)
}

const FEW: u64 = 1_000_000 / SHARDS as u64;
const MANY: u64 = 10_000_000 / SHARDS as u64;

#[test]
fn growth_from_1_to_10_million_keys_takes_8_7_bytes_a_key() {
    let mut shards: Vec<_> = sample(16).map(|shard| Grown::new(shard, 0)).collect();
    // Averaged over the keys and over their logarithm; the worst of the store and of one shard.
    let (mut sum, mut sum_log, mut weight_log) = (0.0, 0.0, 0.0);
    let (mut worst, mut worst_shard) = (0.0f64, 0.0f64);
    for keys in 1..=MANY {
        let mut bytes = 0;
        for shard in &mut shards {
            shard.publish();
            bytes += shard.index.bytes();
            if keys >= FEW {
                worst_shard = worst_shard.max(shard.index.bytes() as f64 / keys as f64);
            }
        }
        if keys >= FEW {
            let each = bytes as f64 / (keys * shards.len() as u64) as f64;
            (sum, worst) = (sum + each, worst.max(each));
            (sum_log, weight_log) = (sum_log + each / keys as f64, weight_log + 1.0 / keys as f64);
        }
    }
    let (mean, mean_log) = (sum / (MANY - FEW + 1) as f64, sum_log / weight_log);
    println!("{mean:.3} a key, {mean_log:.3} by logarithm; worst {worst:.3}, {worst_shard:.3}");
    assert!(mean <= 8.7 && mean_log <= 8.7, "{mean} and {mean_log} bytes a key");
    assert!(worst <= 9.2 && worst_shard <= 9.2, "at worst {worst}, {worst_shard} in one shard");
}

#[test]
fn a_table_sized_for_its_keys_takes_7_8_bytes_a_key_and_does_not_grow() {
    for keys in [FEW, MANY] {
        for shard in sample(64) {
            let mut grown = Grown::new(shard, keys * SHARDS as u64);
            let mut wanted = 0;
            while grown.keys < keys {
                wanted += u32::from(grown.publish());
            }
            let each = grown.index.bytes() as f64 / keys as f64;
            println!("shard {shard}: {each:.3} bytes a key of {keys}");
            assert!(each <= 7.8, "shard {shard} of {keys} keys: {each} bytes a key");
            // A shard that is larger than most.
            while grown.keys < keys + 3 * keys.isqrt() {
                wanted += u32::from(grown.publish());
            }
            assert_eq!((wanted, grown.index.overflow.len()), (0, 0));
        }
    }
}

#[test]
fn shards_grow_one_after_the_other() {
    let (mut grows, mut shards) = (Vec::new(), 0);
    for shard in sample(1) {
        shards += 1;
        let mut grown = Grown::new(shard, 0);
        // The table that the shard has at so many keys.
        let mut larger = grown.index.begin_load(FEW);
        while grown.keys < FEW / 1000 * 1000 {
            larger.add(hash(shard, grown.keys), location(grown.keys));
            grown.keys += 1;
        }
        grown.index.finish_growth(larger);
        while grown.keys < FEW + FEW / 4 {
            if grown.publish() {
                grows.push(grown.keys);
            }
        }
    }
    grows.sort_unstable();
    assert!(grows.len() >= shards, "each shard grows at least once");
    let together = |&from: &u64| {
        grows.iter().filter(|&&at| at >= from && (at as f64) < from as f64 * 1.002).count()
    };
    let most = grows.iter().map(together).max().unwrap();
    println!("{most} of {shards} shards want to grow within 0.2 %");
    assert!(most * 20 <= shards, "{most} of {shards} shards want to grow within 0.2 %");
}
