//! Row 9: a thirtieth of the keys expires under the mixed load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use oncelog::ManualClock;

use super::{Bench, Lane, named, setup};
use crate::drive::{self, Keys, Run, Until};
use crate::engines::{Durability, Kind, Result};
use crate::measure::{Usage, quantile_us};
use crate::report::{Better, Table};
use crate::workload::{DAY_MS, START_MS, ensure};

const BUCKETS: u64 = 30;
const THREADS: usize = 2;
/// Keys of the buckets from here on do not expire in any round.
const KEPT_FROM: u64 = 12;

pub fn run(bench: &Bench) -> Result<()> {
    ensure(bench.arguments.rounds as u64 <= KEPT_FROM - 1, || {
        format!("row 9 has at most {} rounds", KEPT_FROM - 1)
    })?;
    let mut table = Table::new("09-expiry", "Expiry of a thirtieth of the keys under mixed load")
        .note(
            "The load of row 8, buffered, 2 threads, first without expiry and then until what is \
             past is gone: whole segments by oncelog, a thousand keys at a time from an index by \
             expiry by fjall, redb, LMDB, SQLite and PostgreSQL, which keep this index in both \
             cases, and a compaction of everything with a filter by RocksDB. Redis expires by \
             itself and by its own clock: it is not in this row.",
        )
        .chart("p99.9 without", "us", Better::Lower)
        .chart("p99.9 with", "us", Better::Lower)
        .column("worst with", "ms", Better::Lower)
        .column("time to expire", "ms", Better::Lower)
        .column("CPU without, for 1,000 operations", "ms", Better::Lower)
        .column("CPU with, for 1,000 operations", "ms", Better::Lower)
        .column("written without, for an operation", "B", Better::Lower)
        .column("written with, for an operation", "B", Better::Lower);
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
            lane.engine.sync().map_err(named(lane.kind))?;
        }
    }
    table.write(&bench.arguments.out, &bench.machine)?;
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
    Ok((lane, clock))
}

fn measure(bench: &Bench, lane: &mut Lane, clock: &ManualClock, round: u64) -> Result<Vec<f64>> {
    // The last moment at which nothing more is past, then a fifth of a day after the next bucket.
    let expires_ms = START_MS + (BUCKETS + round) * DAY_MS;
    set_now(bench, clock, expires_ms - DAY_MS / 2);
    let start = Usage::now(lane.engine.server())?;
    let mut without = lane.run(bench, THREADS, |worker, nth| worker.mixed(nth))?;
    let before = Usage::now(lane.engine.server())?;
    set_now(bench, clock, expires_ms + DAY_MS / 5);
    let (mut with, took) = under_expiry(bench, lane, round)?;
    let after = Usage::now(lane.engine.server())?;
    let (idle, busy) = (before.since(start), after.since(before));
    let each = |value: f64, run: &Run| value / run.operations as f64;
    let p999 = [&mut without, &mut with].map(|run| quantile_us(&mut run.times, 0.999));
    let worst = quantile_us(&mut with.times, 1.0) / 1e3;
    Ok(vec![
        p999[0],
        p999[1],
        worst,
        took.as_secs_f64() * 1e3,
        each(idle.cpu_ms, &without) * 1e3,
        each(busy.cpu_ms, &with) * 1e3,
        each(idle.written as f64, &without),
        each(busy.written as f64, &with),
    ])
}

/// The load, for a round and until the expiry beside it is done.
fn under_expiry(bench: &Bench, lane: &mut Lane, round: u64) -> Result<(Run, Duration)> {
    let (done, time) = (AtomicBool::new(false), Duration::from_millis(bench.arguments.round_ms));
    let (engine, keys, kind) = (&*lane.engine, &lane.keys, lane.kind);
    let now_ms = bench.workload.now_ms();
    let (run, expired) = std::thread::scope(|scope| {
        let expired = scope.spawn(|| {
            let start = Instant::now();
            let removed = engine.expire(now_ms);
            // Release: pairs with the acquire of the callers, who then may end.
            done.store(true, Ordering::Release);
            removed.map(|removed| (removed, start.elapsed()))
        });
        let until = Until::Done(time, &done);
        let run = drive::run(engine, &bench.workload, keys, THREADS, until, |worker, nth| {
            worker.mixed(nth)
        });
        (run, expired.join().expect("expiry does not panic"))
    });
    let (run, (removed, took)) = (run.map_err(named(kind))?, expired.map_err(named(kind))?);
    let due = bench.arguments.keys * (round + 1) / BUCKETS - bench.arguments.keys * round / BUCKETS;
    ensure(removed.is_none_or(|removed| removed >= due), || {
        format!("{}: {removed:?} keys expired of {due}", kind.name())
    })?;
    let mut worker = drive::Worker::new(engine, &bench.workload).map_err(named(kind))?;
    worker.miss(bench.arguments.keys * round / BUCKETS).map_err(named(kind))?;
    drop(worker);
    lane.keys.next = run.next;
    Ok((run, took))
}
