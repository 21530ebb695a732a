//! Pairs, replays, misses and a mix by 1 to 256 callers at once: the rate by criterion, and behind
//! each its latency percentiles.
//!
//! A caller's latency is from the end of its operation before to the end of this one: making the
//! key and checking the result are in it, as they are in the rate. Before replays and misses are
//! timed, every stored key was replayed once.
#![expect(
    clippy::disallowed_methods,
    reason = "callers are threads, and their latencies need the time"
)]

mod common;

use std::cell::RefCell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{BUFFERED, Latencies, filled, fingerprint, is_measured, key, mix, response, scope};
use criterion::{Criterion, SamplingMode, Throughput};
use oncelog::{Claim, Durability, Fingerprint, Store};

const CALLERS: [u64; 5] = [1, 2, 8, 64, 256];
/// The keys that retries of the mix come for.
const RECENT: u64 = 1_000;
/// What each caller does at least between its start and its end.
const OPERATIONS_MIN: u64 = 200;

fn main() {
    let (keys, callers): (u64, &[u64]) =
        if is_measured() { (200_000, &CALLERS) } else { (2_000, &[1, 8]) };
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(10)
        .configure_from_args();
    for (name, durability) in [("buffered", BUFFERED), ("synced", Durability::Synced)] {
        let (store, dir) = filled(Store::options().durability(BUFFERED), keys);
        store.close().expect("the store closes");
        let store = Store::options().durability(durability).open(dir.path());
        let bench = Bench::new(store.expect("the store opens again"), keys);
        let parameters = format!("durability={name}");
        bench.group(&mut criterion, "claim+complete", &parameters, callers, |bench, _| {
            bench.pair(bench.fresh());
        });
        bench.group(&mut criterion, "mixed", &parameters, callers, Bench::mixed);
        if durability == BUFFERED {
            reads(&mut criterion, &bench, callers);
        }
    }
    criterion.final_summary();
}

fn reads(criterion: &mut Criterion, bench: &Bench, callers: &[u64]) {
    let keys = bench.stored;
    // The machine reclaims cold page cache: every record is touched once.
    (0..keys).for_each(|number| bench.replay(number));
    let parameters = format!("keys={keys}");
    bench.group(criterion, "replay", &parameters, callers, |bench, random| {
        bench.replay(random % keys);
    });
    bench.group(criterion, "miss", &parameters, callers, Bench::miss);
}

/// A store and the next fresh key.
struct Bench {
    store: Store,
    /// Keys below were stored before anything was timed.
    stored: u64,
    next: AtomicU64,
}

impl Bench {
    fn new(store: Store, stored: u64) -> Bench {
        Bench { store, stored, next: AtomicU64::new(stored) }
    }

    fn fresh(&self) -> u64 {
        // Relaxed: each key is taken once, and that is all.
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn pair(&self, number: u64) {
        match self.claim(number, fingerprint()) {
            Claim::Granted(permit) => {
                let stored = permit.complete(response(number)).expect("a response is taken");
                assert_eq!(stored.bytes(), Some(response(number)));
            }
            other => panic!("a fresh key is granted, not {other:?}"),
        }
    }

    fn claim(&self, number: u64, fingerprint: Fingerprint) -> Claim {
        self.store.claim(scope(&key(number)), fingerprint).expect("a claim works")
    }

    fn replay(&self, number: u64) {
        match self.claim(number, fingerprint()) {
            Claim::Replay(stored) => assert_eq!(stored.bytes(), Some(response(number))),
            other => panic!("a completed key is replayed, not {other:?}"),
        }
    }

    fn miss(&self, random: u64) {
        let absent = format!("absent-{random:016x}");
        assert!(self.store.lookup(scope(&absent)).expect("a lookup works").is_none());
    }

    /// 90 % fresh pairs, 8 % retries of keys that were stored last before, 2 % conflicts.
    fn mixed(&self, random: u64) {
        let known = self.stored - 1 - mix(random) % RECENT;
        match random % 100 {
            0..90 => self.pair(self.fresh()),
            90..98 => self.replay(known),
            _ => {
                let claim = self.claim(known, Fingerprint::from_bytes([8; 16]));
                assert!(matches!(claim, Claim::Conflict(_)), "another request under a known key");
            }
        }
    }

    /// An operation by each number of callers, and its latencies over all that criterion ran of it.
    fn group(
        &self,
        criterion: &mut Criterion,
        name: &str,
        parameters: &str,
        callers: &[u64],
        operation: impl Fn(&Bench, u64) + Sync,
    ) {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
        for &callers in callers {
            let (id, latencies) =
                (format!("{parameters} callers={callers}"), RefCell::new(Latencies::new()));
            group.bench_function(&id, |bencher| {
                bencher.iter_custom(|count| {
                    // Enough for each caller that starting them all does not matter.
                    let done = count.max(OPERATIONS_MIN * callers);
                    let (elapsed, found) = self.in_threads(callers, done, &operation);
                    latencies.borrow_mut().merge(&found);
                    elapsed.mul_f64(count as f64 / done as f64)
                });
            });
            latencies.borrow().print(&format!("{name}/{id}"));
        }
        group.finish();
    }

    /// The time that `callers` take for `count` operations together, and the time of each.
    fn in_threads(
        &self,
        callers: u64,
        count: u64,
        operation: &(impl Fn(&Bench, u64) + Sync),
    ) -> (Duration, Latencies) {
        let start = Barrier::new(usize::try_from(callers).expect("a few hundred"));
        let start = &start;
        let one = |caller: u64| {
            let mine = count / callers + u64::from(caller < count % callers);
            let mut latencies = Latencies::new();
            start.wait();
            let begun = Instant::now();
            let mut last = begun;
            for nth in 0..mine {
                operation(self, mix(nth ^ (caller << 40) ^ (count << 48)));
                let now = Instant::now();
                latencies.add(now - last);
                last = now;
            }
            (begun, last, latencies)
        };
        let ends: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..callers).map(|caller| scope.spawn(move || one(caller))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no caller panics")).collect()
        });
        let begun = ends.iter().map(|end| end.0).min().expect("there is a caller");
        let ended = ends.iter().map(|end| end.1).max().expect("there is a caller");
        let mut latencies = Latencies::new();
        ends.iter().for_each(|end| latencies.merge(&end.2));
        (ended - begun, latencies)
    }
}
