//! Crash at every write and sync of a recorded run, reopen, compare with what was acknowledged.
//!
//! A run is a list of random steps over a simulated disk. It is cut at every call that changes the
//! disk; what a power cut leaves is drawn by seed; the store is opened again and must show what had
//! been acknowledged, or that plus the step that was cut. A store that was opened, and cut again
//! while it recovered, or just after, must show the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncelog::Durability;

use crate::support::disk::{SimDisk, Survival};
use crate::support::model::{Driver, Op, World, random_ops};
use crate::support::rng::Rng;

const BUFFERED: Durability = Durability::Buffered { sync_every: Duration::from_secs(3_600) };

/// The first seed, and how many crash points are to be covered.
fn plan() -> (u64, u64) {
    let number = |name, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    };
    (number("ONCELOG_SEED", 1), number("ONCELOG_CRASH_POINTS", 10_000))
}

/// What died, and what it must be found to hold.
struct Wreck {
    driver: Driver,
    /// The world with the step that was cut.
    cut: Option<World>,
}

fn run_until(ops: &[Op], durability: Durability, step: u64) -> Wreck {
    let disk = SimDisk::new();
    disk.crash_at(step);
    let mut driver = Driver::new(disk, durability);
    let cut = driver.run(ops);
    driver.die();
    Wreck { driver, cut }
}

/// Opens what is left and checks it; returns which of the allowed worlds it shows.
fn check(wreck: &mut Wreck, disk: SimDisk, oldest: usize, label: &str) -> World {
    let driver = &mut wreck.driver;
    driver.disk = disk;
    if let Err(error) = driver.open() {
        panic!("{label}: cannot open: {error}");
    }
    let seen = driver.observe().unwrap_or_else(|error| panic!("{label}: {error}"));
    assert!(
        driver.allows(&seen, oldest, wreck.cut.as_ref()),
        "{label}: seen {seen:#?}\nexpected {:#?}\nor with the cut step {:#?}",
        driver.visible(&driver.history[oldest]),
        wreck.cut.as_ref().map(|cut| driver.visible(cut))
    );
    seen
}

/// A claim after the crash gets a token and an operation id that were never seen before.
fn check_tokens(wreck: &mut Wreck, label: &str) {
    wreck.driver.history.push(World::new());
    let fresh = [Op::Claim(100), Op::Complete(100, 10)];
    assert!(wreck.driver.run(&fresh).is_none(), "{label}: no new claim after the crash");
}

fn crash_points(durability: Durability, seed: u64, points: &AtomicU64, wanted: u64) {
    let ops = random_ops(seed, 60);
    let whole = run_until(&ops, durability, u64::MAX);
    assert!(whole.cut.is_none(), "seed {seed}: the run fails without a crash");
    let steps = whole.driver.disk.steps();
    for step in 0..steps {
        let mut rng = Rng::new(seed << 32 | step);
        for survival in [Survival::None, Survival::All, Survival::Random] {
            let mut wreck = run_until(&ops, durability, step);
            let label = format!("seed {seed}, {durability:?}, step {step}, {survival:?}");
            let disk = wreck.driver.disk.after_power_cut(rng.next(), survival);
            let oldest = match durability {
                Durability::Synced => wreck.driver.history.len() - 1,
                Durability::Buffered { .. } => wreck.driver.durable,
            };
            // Cut the recovery too, somewhere, and what follows must not differ.
            let again = disk.clone().after_kill();
            again.crash_at(rng.below(24));
            wreck.driver.disk = again.clone();
            let opened = wreck.driver.open().is_ok();
            // The cut may have come while hint files were written, which an open does not wait for.
            let shown = if opened { wreck.driver.observe().ok() } else { None };
            wreck.driver.die();
            let disk = again.after_power_cut(rng.next(), Survival::Random);
            let seen = check(&mut wreck, disk, oldest, &label);
            if let Some(shown) = shown {
                assert_eq!(shown, seen, "{label}: the second open shows something else");
            }
            // What an open has shown, it has made durable.
            let disk = wreck.driver.disk.after_power_cut(rng.next(), Survival::None);
            wreck.driver.die();
            let still = check(&mut wreck, disk, oldest, &label);
            assert_eq!(seen, still, "{label}: what was shown was not durable");
            check_tokens(&mut wreck, &label);
            points.fetch_add(1, Ordering::Relaxed);
        }
        if points.load(Ordering::Relaxed) >= wanted {
            return;
        }
    }
}

fn sweep(durability: Durability, share: u64) {
    let (first, wanted) = plan();
    let points = AtomicU64::new(0);
    let mut seed = first;
    while points.load(Ordering::Relaxed) < wanted / share {
        crash_points(durability, seed, &points, wanted / share);
        seed += 1;
    }
    println!("{durability:?}: {} crash points, seeds {first} to {}", points.into_inner(), seed - 1);
}

#[test]
fn a_crash_at_any_write_or_sync_loses_nothing_acknowledged_when_synced() {
    sweep(Durability::Synced, 2);
}

#[test]
fn a_crash_at_any_write_or_sync_loses_at_most_an_unsynced_suffix_when_buffered() {
    sweep(BUFFERED, 2);
}

#[test]
fn a_kill_at_any_write_or_sync_loses_nothing_acknowledged_when_buffered() {
    let (seed, _) = plan();
    for seed in seed..seed + 4 {
        let ops = random_ops(seed, 60);
        let steps = run_until(&ops, BUFFERED, u64::MAX).driver.disk.steps();
        for step in 0..steps {
            let mut wreck = run_until(&ops, BUFFERED, step);
            let disk = wreck.driver.disk.after_kill();
            let newest = wreck.driver.history.len() - 1;
            check(&mut wreck, disk, newest, &format!("seed {seed}, step {step}, killed"));
        }
    }
}

#[test]
fn what_a_reopen_shows_after_a_failed_call_survives_a_power_cut() {
    let (first, _) = plan();
    let mut failed = 0;
    for (seed, durability) in [(first, Durability::Synced), (first + 1, BUFFERED)] {
        let ops = random_ops(seed, 60);
        let steps = run_until(&ops, durability, u64::MAX).driver.disk.steps();
        for step in 0..steps {
            let disk = SimDisk::new();
            disk.fail_at(step, std::io::ErrorKind::Other);
            let mut driver = Driver::new(disk, durability);
            let Some(cut) = driver.run(&ops) else { continue };
            failed += 1;
            let label = format!("seed {seed}, {durability:?}, step {step} failed");
            // The process ends, whatever else it writes on the way out.
            let disk = driver.disk.after_kill();
            driver.die();
            let newest = driver.history.len() - 1;
            let mut wreck = Wreck { driver, cut: Some(cut) };
            let seen = check(&mut wreck, disk, newest, &label);
            let disk = wreck.driver.disk.after_power_cut(step, Survival::None);
            wreck.driver.die();
            let still = check(&mut wreck, disk, newest, &label);
            assert_eq!(seen, still, "{label}: the reopen trusted pages that the disk never got");
            check_tokens(&mut wreck, &label);
        }
    }
    assert!(failed > 100, "only {failed} calls failed");
    println!("{failed} failed calls");
}
