//! A seeded world around the whole engine: a disk that fails and lies, clocks that jump, callers
//! in any order, lives that end anywhere. `cargo test --test sim`.
//!
//! `ONCELOG_SIM_SEEDS` is how many seeds are run, `ONCELOG_SIM_FROM` the first of them, and
//! `ONCELOG_SIM_SEED` runs one and prints what happened. Threads that really run at once are in
//! `tests/concurrency/`, whose scheduler is seeded too.
#![expect(
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    clippy::fn_params_excessive_bools,
    reason = "a step of a test that fails fails the test; tests stage files and threads themselves"
)]

mod calls;
mod claims;
mod damage;
#[path = "../it/support/disk.rs"]
mod disk;
mod episode;
mod life;
mod model;
#[expect(dead_code, reason = "shared with tests that draw from a key")]
#[path = "../it/support/rng.rs"]
mod rng;
mod twin;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use life::Counts;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = number("ONCELOG_SIM_SEED") {
        return replay(seed);
    }
    let first = number("ONCELOG_SIM_FROM").unwrap_or(1);
    let seeds = number("ONCELOG_SIM_SEEDS").unwrap_or(1_000);
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let (start, total) = (Instant::now(), Mutex::new(Counts::default()));
    let run = || {
        while failed.lock().unwrap().is_empty() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| episode::run(seed, false))) {
                Ok((counts, _)) => total.lock().unwrap().add(&counts),
                Err(_) => failed.lock().unwrap().push(seed),
            }
            let done = seed - first + 1;
            if done.is_multiple_of(seeds.div_ceil(20)) {
                let rate = done as f64 / start.elapsed().as_secs_f64();
                println!("{done} seeds, {rate:.0} a second, {:?}", total.lock().unwrap());
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(run)));
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "run each again: ONCELOG_SIM_SEED=N cargo test --test sim: {failed:?}"
    );
    let rate = seeds as f64 / start.elapsed().as_secs_f64();
    println!(
        "seeds {first} to {}: {rate:.0} a second, {:?}",
        first + seeds - 1,
        total.into_inner()
    );
}

/// Runs one seed and prints what happened, also where it fails.
fn replay(seed: u64) {
    let (counts, _) = episode::run(seed, true);
    println!("{counts:?}");
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in 1..40 {
        assert_eq!(episode::run(seed, true).1, episode::run(seed, true).1, "seed {seed}");
    }
}
