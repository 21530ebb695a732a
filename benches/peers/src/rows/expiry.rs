//! Row 9: a thirtieth of the keys expires under the mixed load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use oncelog::ManualClock;

use super::{Bench, Lane, named, setup};
use crate::chart::Better;
use crate::drive::{self, Keys, Run, Until};
use crate::engines::{Durability, Kind, Result};
use crate::measure::{cpu_ms, quantile_us, thread_usage};
use crate::workload::{DAY_MS, START_MS, ensure};

const BUCKETS: u64 = 30;
const THREADS: usize = 2;
/// Keys of the buckets from here on do not expire in any round.
const KEPT_FROM: u64 = 12;

pub fn run(bench: &Bench) -> Result<()> {
    ensure((bench.arguments.rounds as u64) < KEPT_FROM, || {
        format!("row 9 has at most {} rounds", KEPT_FROM - 1)
    })?;
    let mut table = bench
        .table("09-expiry", "Expiry of a thirtieth of the keys under mixed load")
        .note(format!(
            "{} keys, spread evenly over 30 days. The load of row 8, buffered, 2 threads, first \
             without expiry and then until what is past is gone: whole segments by oncelog, a \
             thousand keys at a time from an index by expiry by fjall, redb, LMDB, SQLite and \
             PostgreSQL, which keep this index in both cases, and a compaction of everything with \
             a filter by RocksDB. Redis expires by itself and by its own clock: it is not in this \
             row. Warm is what was stored last; nothing is read beforehand.",
            bench.arguments.keys
        ))
        .note(
            "CPU and bytes of the thread that expires are the kernel's for that thread (for bytes \
             the pages that it dirtied); a server's work is not in them. The CPU and the bytes \
             more are of the whole process and its server, and of the device: what the operations \
             of the second run took above the same number in the first. They can be below zero, \
             and are as exact as the load is even.",
        )
        .chart("p99.9 without", "us", Better::Lower)
        .chart("p99.9 with", "us", Better::Lower)
        .column("worst without", "ms", Better::Lower)
        .column("worst with", "ms", Better::Lower)
        .column("time to expire", "ms", Better::Lower)
        .column("CPU of the thread", "ms", Better::Lower)
        .column("CPU more", "ms", Better::Lower)
        .column("written by the thread", "KiB", Better::Lower)
        .column("written more", "MiB", Better::Lower);
    let skipped =
        |kind: &Kind| kind.is_bound() || *kind == Kind::Redis || kind.name().contains("committer");
    let mut lanes = Vec::new();
    for &kind in bench.kinds.iter().filter(|kind| !skipped(kind)) {
        lanes.push(loaded(bench, kind)?);
    }
    for round in 0..bench.arguments.rounds as u64 {
        eprintln!("{}: round {} of {}", table.title, round + 1, bench.arguments.rounds);
        for (lane, clock) in &mut lanes {
            let values = measure(bench, lane, clock, round)?;
            table.add(lane.kind, &values);
            lane.settle(bench)?;
        }
    }
    bench.write(&table)?;
    for (lane, _) in lanes {
        lane.engine.close().map_err(named(lane.kind))?;
    }
    Ok(())
}

/// Moves the time of the requests, and of oncelog.
fn set_now(bench: &Bench, clock: &ManualClock, now_ms: u64) {
    use oncelog::Clock;
    let wall = UNIX_EPOCH + Duration::from_millis(now_ms);
    clock.advance(wall.duration_since(clock.wall()).unwrap_or_default());
    bench.workload.set_now(now_ms);
}

/// An engine with its keys spread evenly over as many days.
fn loaded(bench: &Bench, kind: Kind) -> Result<(Lane, ManualClock)> {
    let clock = ManualClock::at(UNIX_EPOCH + Duration::from_millis(START_MS));
    let mut setup = setup(Durability::Buffered, 0);
    (setup.expires, setup.clock) = (true, Some(clock.clone()));
    let mut lane = Lane::open(bench, kind, setup)?;
    let (keys, start) = (bench.arguments.keys, Instant::now());
    for bucket in 0..BUCKETS {
        set_now(bench, &clock, START_MS + bucket * DAY_MS);
        let range = keys * bucket / BUCKETS..keys * (bucket + 1) / BUCKETS;
        drive::store(&*lane.engine, &bench.workload, range, THREADS).map_err(named(kind))?;
    }
    lane.keys = Keys { next: keys, kept: keys * KEPT_FROM / BUCKETS..keys };
    eprintln!("{}: {keys} keys stored in {:.1?}", kind.name(), start.elapsed());
    lane.settle(bench)?;
    Ok((lane, clock))
}

fn measure(bench: &Bench, lane: &mut Lane, clock: &ManualClock, round: u64) -> Result<Vec<f64>> {
    // The last moment at which nothing more is past, then a fifth of a day after the next bucket.
    let expires_ms = START_MS + (BUCKETS + round) * DAY_MS;
    set_now(bench, clock, expires_ms - DAY_MS / 2);
    let server = lane.engine.server();
    let start = cpu_ms(server)?;
    let mixed = |lane: &mut Lane| lane.run(bench, THREADS, |worker, nth| worker.mixed(nth));
    let (mut without, idle) = lane.watched(bench, mixed)?;
    let before = cpu_ms(server)?;
    set_now(bench, clock, expires_ms + DAY_MS / 5);
    let mut expiry = None;
    let (mut with, busy) = lane.watched(bench, |lane| {
        let (run, found) = under_expiry(bench, lane, round)?;
        expiry = Some(found);
        Ok(run)
    })?;
    let after = cpu_ms(server)?;
    let expiry = expiry.ok_or("a run without an expiry")?;
    let share = with.operations as f64 / without.operations as f64;
    let [calm, loaded] = [&mut without, &mut with]
        .map(|run| [quantile_us(&mut run.times, 0.999), quantile_us(&mut run.times, 1.0) / 1e3]);
    let own = |value: f64| if server.is_some() { f64::NAN } else { value };
    Ok(vec![
        calm[0],
        loaded[0],
        calm[1],
        loaded[1],
        expiry.took.as_secs_f64() * 1e3,
        own(expiry.cpu_ms),
        after - before - (before - start) * share,
        own(expiry.dirtied as f64 / 1024.0),
        (busy.device - idle.device * share) / f64::from(1 << 20),
    ])
}

/// What it took to expire.
struct Expiry {
    took: Duration,
    /// Of the thread that asked for it.
    cpu_ms: f64,
    dirtied: u64,
}

/// The load, for a round and until the expiry beside it is done.
fn under_expiry(bench: &Bench, lane: &mut Lane, round: u64) -> Result<(Run, Expiry)> {
    let (done, time) = (AtomicBool::new(false), Duration::from_millis(bench.arguments.round_ms));
    let (engine, keys, kind) = (&*lane.engine, &lane.keys, lane.kind);
    let now_ms = bench.workload.now_ms();
    let (run, expired) = std::thread::scope(|scope| {
        let expired = scope.spawn(|| {
            let (start, before) = (Instant::now(), thread_usage()?);
            let removed = engine.expire(now_ms);
            let (took, after) = (start.elapsed(), thread_usage()?);
            // Release: pairs with the acquire of the callers, who then may end.
            done.store(true, Ordering::Release);
            let (cpu_ms, dirtied) = (after.0 - before.0, after.1 - before.1);
            Ok((removed?, Expiry { took, cpu_ms, dirtied }))
        });
        let until = Until::Done(time, &done);
        let run = drive::run(engine, &bench.workload, keys, THREADS, until, |worker, nth| {
            worker.mixed(nth)
        });
        (run, expired.join().expect("expiry does not panic"))
    });
    let (run, (removed, expiry)) = (run.map_err(named(kind))?, expired.map_err(named(kind))?);
    let due = bench.arguments.keys * (round + 1) / BUCKETS - bench.arguments.keys * round / BUCKETS;
    ensure(removed.is_none_or(|removed| removed >= due), || {
        format!("{}: {removed:?} keys expired of {due}", kind.name())
    })?;
    let mut worker = drive::Worker::new(engine, &bench.workload).map_err(named(kind))?;
    worker.miss(bench.arguments.keys * round / BUCKETS).map_err(named(kind))?;
    drop(worker);
    lane.keys.next = run.next;
    Ok((run, expiry))
}
