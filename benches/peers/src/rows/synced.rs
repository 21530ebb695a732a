//! Rows 3, 4 and 5: acknowledged once the disk has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oncelog::{Claim, Fingerprint, Store};

use super::{Bench, Field, Lane, named};
use crate::chart::{Better, Role};
use crate::drive::Run;
use crate::engines::{Kind, Result};
use crate::measure::quantile_us;
use crate::workload::{Request, Workload};

const GROUPED: [Kind; 3] = [Kind::Commit, Kind::FjallGrouped, Kind::RocksdbGrouped];

pub fn run(bench: &Bench, field: &mut Field) -> Result<()> {
    let asks = |row| bench.arguments.asks_for(&[row]);
    if asks("3") {
        alone(bench, field)?;
    }
    if asks("4") {
        shared(bench, field)?;
    }
    if asks("5") && field.lanes.iter().any(|lane| lane.kind == Kind::Oncelog) {
        tasks(bench, field)?;
    }
    Ok(())
}

/// How to read the columns of what was written.
const WRITTEN: &str = "Written is what the block device was written, the journal of the file \
                       system included, from a quiet device until everything was synced and \
                       the engine had nothing left to do; of it, the zeros that oncelog writes \
                       ahead of its log. A sync writes whole blocks of 4 KiB, however little is \
                       new in them.";

fn alone(bench: &Bench, field: &mut Field) -> Result<()> {
    let mut table = bench
        .table("03-synced-alone", "Pairs, synced, 1 thread")
        .note(
            "A claim on the disk, then its completion on the disk. The bound writes and syncs \
             the same bytes twice, in a file that was filled with zeros ahead.",
        )
        .note(WRITTEN)
        .note("Warm: every stored key was read once, in each engine alike, after it was opened.")
        .chart("pair, median", "us", Better::Lower)
        .chart("pair, p99", "us", Better::Lower)
        .column("pairs", "1/s", Better::Higher)
        .column("written", "times the payload", Better::Lower)
        .column("of it zeros ahead", "times the payload", Better::Lower);
    field.rounds(
        bench,
        &mut table,
        |lane| !GROUPED.contains(&lane.kind),
        |lane| {
            let pairs = |lane: &mut Lane| lane.run(bench, 1, |worker, _| worker.fresh_pair());
            let (mut run, written) = lane.watched(bench, pairs)?;
            let median = quantile_us(&mut run.times, 0.5);
            let p99 = quantile_us(&mut run.times, 0.99);
            let over = [written.device, written.prepared].map(|bytes| bytes / written.payload);
            Ok(vec![median, p99, run.per_second(), over[0], over[1]])
        },
    )?;
    bench.write(&table)
}

fn shared(bench: &Bench, field: &mut Field) -> Result<()> {
    const THREADS: [usize; 3] = [8, 64, 256];
    /// The threads whose bytes are reported.
    const WATCHED: usize = 64;
    let mut table = bench
        .table("04-synced-threads", "Pairs, synced, 8, 64 and 256 threads")
        .note(
            "The bound is group commit of the same bytes and nothing else. A peer with a group \
             committer has one written by hand before it: one batch and one sync for all callers \
             that wait.",
        )
        .note(WRITTEN)
        .note("Warm: every stored key was read once, in each engine alike, after it was opened.");
    for threads in THREADS {
        table = table.chart(format!("pairs, {threads} threads"), "1/s", Better::Higher).column(
            format!("p99.9, {threads} threads"),
            "ms",
            Better::Lower,
        );
    }
    let mut table = table
        .column(format!("written, {WATCHED} threads"), "times the payload", Better::Lower)
        .column("of it zeros ahead", "times the payload", Better::Lower);
    field.rounds(
        bench,
        &mut table,
        |_| true,
        |lane| {
            let (mut values, mut over) = (Vec::new(), [f64::NAN; 2]);
            for threads in THREADS {
                let pairs =
                    |lane: &mut Lane| lane.run(bench, threads, |worker, _| worker.fresh_pair());
                let mut run = match threads {
                    WATCHED => {
                        let (run, written) = lane.watched(bench, pairs)?;
                        over = [written.device, written.prepared];
                        over = over.map(|bytes| bytes / written.payload);
                        run
                    }
                    _ => pairs(lane)?,
                };
                values.extend([run.per_second(), quantile_us(&mut run.times, 0.999) / 1e3]);
            }
            values.extend(over);
            Ok(values)
        },
    )?;
    bench.write(&table)
}

fn tasks(bench: &Bench, field: &mut Field) -> Result<()> {
    const THREADS: &str = "oncelog, 256 threads";
    let mut table = bench
        .table("05-synced-tasks", "Pairs, synced, async tasks")
        .note(
            "Tokio with 2 worker threads. Beside it the same store called by 256 threads, as in \
             row 4, to which the ratios are.",
        )
        .reference(THREADS)
        .chart("pairs", "1/s", Better::Higher)
        .column("p99.9", "ms", Better::Lower);
    let time = Duration::from_millis(bench.arguments.round_ms);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    let values = |run: &mut Run| [run.per_second(), quantile_us(&mut run.times, 0.999) / 1e3];
    for round in 1..=bench.arguments.rounds {
        eprintln!("{}: round {round} of {}", table.title, bench.arguments.rounds);
        for lane in &mut field.lanes {
            if lane.kind == Kind::Commit {
                let mut run = lane.run(bench, 256, |worker, _| worker.fresh_pair())?;
                let name = "bound: group commit, 256 threads";
                table.add_line(name, Role::Bound, &values(&mut run));
            }
            let Some(store) = lane.engine.store().cloned() else { continue };
            let mut run = lane.run(bench, 256, |worker, _| worker.fresh_pair())?;
            table.add_line(THREADS, Role::Peer, &values(&mut run));
            for tasks in [256, 4096] {
                let from = lane.keys.next;
                let mut run = runtime
                    .block_on(async_pairs(&store, &bench.workload, from, tasks, time))
                    .map_err(named(lane.kind))?;
                lane.keys.next = run.next;
                table.add_line(&format!("oncelog, {tasks} tasks"), Role::Ours, &values(&mut run));
            }
            lane.settle(bench)?;
        }
    }
    bench.write(&table)
}

/// Fresh pairs by tasks that each take the next key.
async fn async_pairs(
    store: &Store,
    workload: &Workload,
    from: u64,
    tasks: usize,
    time: Duration,
) -> Result<Run> {
    let next = Arc::new(AtomicU64::new(from));
    let workload = Arc::new(workload.copy());
    let start = Instant::now();
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            let (store, next) = (store.clone(), Arc::clone(&next));
            let workload = Arc::clone(&workload);
            tokio::spawn(async move {
                let (mut request, mut response) = (Request::default(), Vec::new());
                let (mut times, mut last) = (Vec::new(), start.elapsed());
                while last < time {
                    // Relaxed: each key is taken once, and that is all.
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    workload.request(nth, &mut request);
                    let fingerprint = Fingerprint::from_bytes(request.fingerprint);
                    let claim = store.claim_async(request.scope(), fingerprint).await?;
                    let Claim::Granted(permit) = claim else {
                        return Err(format!("key {nth} is fresh, and was {}", claim.kind()).into());
                    };
                    workload.response(nth, &mut response);
                    permit.complete_async(&response).await?;
                    let now = start.elapsed();
                    times.push(u32::try_from((now - last).as_nanos()).unwrap_or(u32::MAX));
                    last = now;
                }
                Result::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for handle in handles {
        times.extend(handle.await??);
    }
    let (elapsed, next) = (start.elapsed(), next.load(Ordering::Relaxed));
    Ok(Run { operations: times.len() as u64, elapsed, times, next })
}
