//! Rows 1, 2, 6, 7 and 8: acknowledged once the operating system has it.

use super::{Bench, Field, Lane, losses};
use crate::chart::Better;
use crate::drive::Worker;
use crate::engines::Result;
use crate::measure::quantile_us;
use crate::report::Table;

/// The rows that read come first, while every store holds the same keys.
pub fn run(bench: &Bench, field: &mut Field) -> Result<()> {
    let asks = |row| bench.arguments.asks_for(&[row]);
    if asks("6") || asks("7") {
        field.warm(bench)?;
        let mut tables = Reads::new(bench);
        read(bench, field, &mut tables)?;
        tables.write(bench)?;
    }
    if asks("1") {
        fresh_pairs(bench, field)?;
    }
    if asks("2") {
        fresh_pairs_in_threads(bench, field)?;
    }
    if asks("8") {
        mixed(bench, field)?;
    }
    Ok(())
}

/// Rows 6 and 7 where the stores of all engines at once would not fit into memory.
pub fn read_in_turn(bench: &Bench) -> Result<()> {
    let mut tables = Reads::new(bench);
    for &kind in &bench.kinds {
        let mut field = Field::filled(bench, &[kind])?;
        field.warm(bench)?;
        read(bench, &mut field, &mut tables)?;
        field.close()?;
    }
    tables.write(bench)
}

struct Reads {
    replays: Table,
    misses: Table,
}

impl Reads {
    fn new(bench: &Bench) -> Reads {
        let how = format!(
            "{} keys are stored. Warm is every engine alike: before the first round each key was \
             replayed once, by 2 threads{}.",
            bench.arguments.keys,
            match bench.arguments.in_turn {
                true => "; one engine was open at a time, for all its rounds",
                false => "",
            }
        );
        let replays = bench
            .table("06-replay", "Replays, uniformly random, 1 and 2 threads")
            .note(
                "oncelog claims with the fingerprint of the request; the peers get the value and \
                 decide. Each response is copied, and compared with what was stored.",
            )
            .note(&how)
            .chart("replays, 1 thread", "1/s", Better::Higher)
            .column("p99, 1 thread", "us", Better::Lower)
            .chart("replays, 2 threads", "1/s", Better::Higher)
            .column("p99, 2 threads", "us", Better::Lower);
        let misses = bench
            .table("07-miss", "Lookups of absent keys, 1 and 2 threads")
            .note("Keys of the same form that were never stored.")
            .note(&how)
            .chart("lookups, 1 thread", "1/s", Better::Higher)
            .column("p99, 1 thread", "us", Better::Lower)
            .chart("lookups, 2 threads", "1/s", Better::Higher)
            .column("p99, 2 threads", "us", Better::Lower);
        Reads { replays, misses }
    }

    fn write(&self, bench: &Bench) -> Result<()> {
        for (row, table) in [("6", &self.replays), ("7", &self.misses)] {
            if bench.arguments.asks_for(&[row]) {
                bench.write(table)?;
            }
        }
        Ok(())
    }
}

fn read(bench: &Bench, field: &mut Field, tables: &mut Reads) -> Result<()> {
    /// Keys that no row ever stores, a block for each thread.
    const ABSENT: u64 = 1 << 40;
    let in_threads = |lane: &mut Lane, operation: fn(&mut Worker<'_>, u64) -> Result<()>| {
        let mut values = Vec::new();
        for threads in [1, 2] {
            let mut run = lane.run(bench, threads, operation)?;
            values.extend([run.per_second(), quantile_us(&mut run.times, 0.99)]);
        }
        Ok(values)
    };
    if bench.arguments.asks_for(&["6"]) {
        field.rounds(bench, &mut tables.replays, Lane::keeps, |lane| {
            in_threads(lane, |worker, nth| worker.random_replay(nth))
        })?;
    }
    if bench.arguments.asks_for(&["7"]) {
        field.rounds(bench, &mut tables.misses, Lane::keeps, |lane| {
            in_threads(lane, |worker, nth| {
                let block = ABSENT + (worker.thread() << 32);
                worker.miss(block + nth)
            })
        })?;
    }
    Ok(())
}

/// What the rows that write say of the start.
fn loaded(bench: &Bench) -> String {
    format!(
        "{} keys are stored before; a store that rounds made {:.0} million larger is filled anew, \
         so that every engine stays near that size. The map is reserved ahead: it does not double \
         while it is timed. Between two engines everything is synced, and what an engine still \
         does in the background is waited for.",
        bench.arguments.keys,
        super::field::ROOM as f64 / 1e6,
    )
}

fn fresh_pairs(bench: &Bench, field: &mut Field) -> Result<()> {
    let mut table = bench
        .table("01-fresh-pairs", "Fresh pairs, buffered, 1 thread")
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
            lane.make_room(bench)?;
            let mut run = lane.run(bench, 1, |worker, _| worker.fresh_pair())?;
            let rate = run.per_second();
            Ok(vec![rate, quantile_us(&mut run.times, 0.5), quantile_us(&mut run.times, 0.999)])
        },
    )?;
    bench.write(&table)
}

fn fresh_pairs_in_threads(bench: &Bench, field: &mut Field) -> Result<()> {
    const THREADS: [usize; 3] = [1, 2, 8];
    let mut table = bench
        .table("02-fresh-pairs-threads", "Fresh pairs, buffered, 1, 2 and 8 threads")
        .note("As row 1, by more threads at once, on the cores that the machine has.")
        .note(loaded(bench))
        .note(losses(bench));
    for threads in THREADS {
        let plural = if threads == 1 { "" } else { "s" };
        table = table
            .chart(format!("pairs, {threads} thread{plural}"), "1/s", Better::Higher)
            .column(format!("p99.9, {threads} thread{plural}"), "us", Better::Lower);
    }
    field.rounds(
        bench,
        &mut table,
        |_| true,
        |lane| {
            let mut values = Vec::new();
            for threads in THREADS {
                lane.make_room(bench)?;
                let mut run = lane.run(bench, threads, |worker, _| worker.fresh_pair())?;
                values.extend([run.per_second(), quantile_us(&mut run.times, 0.999)]);
            }
            Ok(values)
        },
    )?;
    bench.write(&table)
}

fn mixed(bench: &Bench, field: &mut Field) -> Result<()> {
    let mut table = bench
        .table("08-mixed", "Mixed, buffered, 1 and 2 threads")
        .note(
            "90 % fresh pairs, 8 % retries of recent keys (about Zipfian over the last 10,000), \
             2 % conflicts. A retry is a claim: nobody tells the engine what comes.",
        )
        .note(loaded(bench))
        .note(losses(bench))
        .chart("operations, 1 thread", "1/s", Better::Higher)
        .column("p99.9, 1 thread", "us", Better::Lower)
        .chart("operations, 2 threads", "1/s", Better::Higher)
        .column("p99.9, 2 threads", "us", Better::Lower);
    field.rounds(bench, &mut table, Lane::keeps, |lane| {
        let mut values = Vec::new();
        for threads in [1, 2] {
            lane.make_room(bench)?;
            let mut run = lane.run(bench, threads, |worker, nth| worker.mixed(nth))?;
            values.extend([run.per_second(), quantile_us(&mut run.times, 0.999)]);
        }
        Ok(values)
    })?;
    bench.write(&table)
}
