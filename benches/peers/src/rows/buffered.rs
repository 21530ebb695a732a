//! Rows 1, 2, 6, 7 and 8: acknowledged once the operating system has it.

use super::{Bench, Field, Lane, losses};
use crate::drive::Worker;
use crate::engines::{Kind, Result};
use crate::measure::quantile_us;
use crate::report::{Better, Table};

pub fn run(bench: &Bench, field: &mut Field) -> Result<()> {
    let asks = |row| bench.arguments.asks_for(&[row]);
    if asks("1") {
        fresh_pairs(bench, field)?;
    }
    if asks("2") {
        fresh_pairs_in_threads(bench, field)?;
    }
    if asks("6") {
        replays(bench, field)?;
    }
    if asks("7") {
        misses(bench, field)?;
    }
    if asks("8") {
        mixed(bench, field)?;
    }
    Ok(())
}

/// Whether an engine can be read.
pub fn keeps(lane: &Lane) -> bool {
    lane.kind != Kind::Write
}

fn loaded(bench: &Bench) -> String {
    format!("{} keys are stored before, and each was read once.", bench.arguments.keys)
}

fn fresh_pairs(bench: &Bench, field: &mut Field) -> Result<()> {
    let mut table = Table::new("01-fresh-pairs", "Fresh pairs, buffered, 1 thread")
        .note("Claim of a new key, then its completion with a response; the generator is included.")
        .note(loaded(bench))
        .note(losses(bench))
        .chart("pairs", "1/s", Better::Higher)
        .column("pair, median", "us", Better::Lower)
        .column("pair, p99.9", "us", Better::Lower);
    field.rounds(
        bench,
        &mut table,
        |_| true,
        |lane| {
            let mut run = lane.run(bench, 1, |worker, _| worker.fresh_pair())?;
            let rate = run.per_second();
            Ok(vec![rate, quantile_us(&mut run.times, 0.5), quantile_us(&mut run.times, 0.999)])
        },
    )
}

fn fresh_pairs_in_threads(bench: &Bench, field: &mut Field) -> Result<()> {
    let mut table = Table::new("02-fresh-pairs-threads", "Fresh pairs, buffered, 2 and 8 threads")
        .note("As row 1, by more threads at once.")
        .note(losses(bench))
        .chart("pairs, 2 threads", "1/s", Better::Higher)
        .column("p99.9, 2 threads", "us", Better::Lower)
        .chart("pairs, 8 threads", "1/s", Better::Higher)
        .column("p99.9, 8 threads", "us", Better::Lower);
    field.rounds(
        bench,
        &mut table,
        |_| true,
        |lane| {
            let mut values = Vec::new();
            for threads in [2, 8] {
                let mut run = lane.run(bench, threads, |worker, _| worker.fresh_pair())?;
                values.extend([run.per_second(), quantile_us(&mut run.times, 0.999)]);
            }
            Ok(values)
        },
    )
}

fn replays(bench: &Bench, field: &mut Field) -> Result<()> {
    let mut table = Table::new("06-replay", "Replays, uniformly random, 1 and 2 threads")
        .note(
            "oncelog claims with the fingerprint of the request; the peers get the value and \
             decide. Each response is copied, and compared with what was stored.",
        )
        .note(loaded(bench))
        .chart("replays, 1 thread", "1/s", Better::Higher)
        .column("p99, 1 thread", "us", Better::Lower)
        .chart("replays, 2 threads", "1/s", Better::Higher);
    field.rounds(bench, &mut table, keeps, |lane| {
        let replay = |worker: &mut Worker<'_>, nth: u64| worker.random_replay(nth);
        let mut one = lane.run(bench, 1, replay)?;
        let two = lane.run(bench, 2, replay)?;
        Ok(vec![one.per_second(), quantile_us(&mut one.times, 0.99), two.per_second()])
    })
}

fn misses(bench: &Bench, field: &mut Field) -> Result<()> {
    /// Keys that no row ever stores.
    const ABSENT: u64 = 1 << 40;
    let mut table = Table::new("07-miss", "Lookups of absent keys, 1 thread")
        .note("Keys of the same form that were never stored.")
        .note(loaded(bench))
        .chart("lookups", "1/s", Better::Higher)
        .column("p99", "us", Better::Lower);
    field.rounds(bench, &mut table, keeps, |lane| {
        let mut run = lane.run(bench, 1, |worker, nth| worker.miss(ABSENT + nth))?;
        Ok(vec![run.per_second(), quantile_us(&mut run.times, 0.99)])
    })
}

fn mixed(bench: &Bench, field: &mut Field) -> Result<()> {
    let mut table = Table::new("08-mixed", "Mixed, buffered, 1 and 2 threads")
        .note(
            "90 % fresh pairs, 8 % retries of recent keys (about Zipfian over the last 10,000), \
             2 % conflicts. A retry is a claim: nobody tells the engine what comes.",
        )
        .note(losses(bench))
        .chart("operations, 1 thread", "1/s", Better::Higher)
        .column("p99.9, 1 thread", "us", Better::Lower)
        .chart("operations, 2 threads", "1/s", Better::Higher)
        .column("p99.9, 2 threads", "us", Better::Lower);
    field.rounds(bench, &mut table, keeps, |lane| {
        let mut values = Vec::new();
        for threads in [1, 2] {
            let mut run = lane.run(bench, threads, |worker, nth| worker.mixed(nth))?;
            values.extend([run.per_second(), quantile_us(&mut run.times, 0.999)]);
        }
        Ok(values)
    })
}
