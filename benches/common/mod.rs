//! What the benches share: the workload, and stores that are filled with it.
#![allow(dead_code, reason = "each bench uses a part")]

use std::time::Duration;

use oncelog::{Claim, Durability, Fingerprint, Options, Scope, Store};

pub(crate) const BUFFERED: Durability = Durability::Buffered { sync_every: Duration::from_secs(1) };
const ORGANIZATION: &str = "7b0a5a5e-7a7c-4f4e-9a44-1d2f3c4b5a69";
const BODY: &[u8] = &[b'r'; 8192];

/// Spreads a counter over 64 bits.
pub(crate) fn mix(number: u64) -> u64 {
    let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// The client's key of an operation.
pub(crate) fn key(number: u64) -> String {
    format!("hubspot-contact-{number:09}-create-v1")
}

pub(crate) fn scope(key: &str) -> Scope<'_> {
    Scope { organization: ORGANIZATION, method: "POST", path: "/public/v1/contacts", key }
}

pub(crate) fn fingerprint() -> Fingerprint {
    Fingerprint::from_bytes([7; 16])
}

/// The response of an operation: median 400 bytes, p90 1.5 KB, p99 8 KB.
pub(crate) fn response(number: u64) -> &'static [u8] {
    let rank = usize::try_from(mix(number ^ 0x5eed) % 1000).expect("below 1000");
    let bytes = match rank {
        0..500 => 200 + rank * 2 / 5,
        500..900 => 400 + (rank - 500) * 11 / 4,
        900..990 => 1500 + (rank - 900) * 72,
        _ => 8000,
    };
    &BODY[..bytes]
}

/// Claims and completes a fresh key.
pub(crate) fn pair(store: &Store, number: u64) {
    match store.claim(scope(&key(number)), fingerprint()) {
        Ok(Claim::Granted(permit)) => {
            permit.complete(response(number)).expect("the store takes a response");
        }
        other => panic!("a fresh key is granted, not {other:?}"),
    }
}

/// A store with so many keys, in a directory that goes with it.
pub(crate) fn filled(options: Options, keys: u64) -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    let store = options.open(dir.path()).expect("a new store opens");
    (0..keys).for_each(|number| pair(&store, number));
    (store, dir)
}

/// As criterion sees it: `cargo test` runs every routine once, and measures nothing.
pub(crate) fn is_measured() -> bool {
    let asked = |name: &str| std::env::args().any(|arg| arg == name);
    asked("--bench") && !asked("--test")
}

pub(crate) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Counts of times in buckets that are 1/64 of a power of two wide.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    pub(crate) fn new() -> Latencies {
        Latencies(vec![0; 28 * 64])
    }

    pub(crate) fn add(&mut self, time: Duration) {
        let ns = u32::try_from(time.as_nanos()).unwrap_or(u32::MAX);
        self.0[Latencies::bucket(ns)] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    fn bucket(ns: u32) -> usize {
        let shift = (32 - ns.leading_zeros()).saturating_sub(7);
        (shift * 64 + (ns >> shift)) as usize
    }

    /// The time that so many in a thousand stay at or below, to a 64th above.
    pub(crate) fn quantile(&self, thousandths: u64) -> Duration {
        let total = self.count();
        let mut left = (total * thousandths / 1000).min(total.saturating_sub(1));
        for (bucket, &count) in (0u64..).zip(&self.0) {
            if count > left {
                let shift = (bucket / 64).saturating_sub(1);
                return Duration::from_nanos(((bucket - shift * 64 + 1) << shift) - 1);
            }
            left -= count;
        }
        Duration::ZERO
    }

    pub(crate) fn print(&self, name: &str) {
        let [p50, p99, p999] = [500, 990, 999].map(|thousandths| self.quantile(thousandths));
        let count = self.count();
        println!("{name}: p50 {p50:.1?}, p99 {p99:.1?}, p99.9 {p999:.1?} of {count} operations");
    }
}
