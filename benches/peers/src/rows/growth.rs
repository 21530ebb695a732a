//! Rows 10 and 11: a store that grows to ten times its size, in a process of its own.

use std::collections::HashMap;

use super::{Bench, named, scratch};
use crate::chart::{Better, Role};
use crate::child;
use crate::engines::{Kind, Result};
use crate::report::Table;

/// The name of a store that was told its keys ahead.
const SIZED: &str = "oncelog, sized by `expected_keys`";

pub fn run(bench: &Bench) -> Result<()> {
    let from = bench.first_keys();
    let to = from * 10;
    let how = format!(
        "From {from} to {to} keys by fresh pairs, buffered, 1 thread, each engine alone in a \
         process of its own; one run, no rounds. Warm is what was stored last; nothing is read."
    );
    let mut times = bench
        .table("10-growth", "Growth to ten times the keys")
        .note(&how)
        .note(
            "The map is not reserved: what it shows at its worst is a shard that doubles. The \
             largest step is how much larger the index became, at most, while a thousandth of the \
             keys was added: a shard of oncelog's 256 that grows makes it 0.05 % larger.",
        )
        .chart("p99.99", "us", Better::Lower)
        .column("p99.9", "us", Better::Lower)
        .chart("worst", "ms", Better::Lower)
        .column("pairs", "1/s", Better::Higher)
        .column("largest step of the index", "%", Better::Lower);
    let mut memory = bench
        .table("11-memory", "Memory for a key while a store grows")
        .note(&how)
        .note(
            "Anonymous memory above what the process had before it opened the engine, over the \
             live keys, in 1,000 samples; shared memory of a server counts too, the page cache \
             does not. What an engine was given as a cache (2 GiB) is in it as far as it is \
             filled. Index is what `Stats::index_bytes` says.",
        )
        .column("index, mean", "B", Better::Lower)
        .column("index, most", "B", Better::Lower)
        .chart("memory, mean", "B", Better::Lower)
        .column("memory, most", "B", Better::Lower)
        .column("memory, at the end", "B", Better::Lower);
    let skipped = |kind: &Kind| {
        matches!(kind, Kind::Write | Kind::Commit) || kind.name().contains("committer")
    };
    for &kind in bench.kinds.iter().filter(|kind| !skipped(kind)) {
        let figures = grow(bench, kind, from, to, 0)?;
        let role = if kind.is_bound() { Role::Bound } else { Role::Peer };
        let role = if kind == Kind::Oncelog { Role::Ours } else { role };
        add(&mut times, &mut memory, kind.name(), role, &figures);
        if kind == Kind::Oncelog {
            let figures = grow(bench, kind, from, to, to)?;
            add(&mut times, &mut memory, SIZED, Role::Ours, &figures);
        }
    }
    for (row, table) in [("10", times), ("11", memory)] {
        if bench.arguments.asks_for(&[row]) {
            bench.write(&table)?;
        }
    }
    Ok(())
}

fn grow(
    bench: &Bench,
    kind: Kind,
    from: u64,
    to: u64,
    reserve: u64,
) -> Result<HashMap<String, f64>> {
    eprintln!("{}: grows from {from} to {to} keys, sized for {reserve}", kind.name());
    let dir = scratch(bench, kind)?;
    let task = ["grow", &from.to_string(), &to.to_string(), &reserve.to_string()];
    let figures = child::start(&task, kind, dir.path()).map_err(named(kind))?;
    drop(dir);
    bench.device.settle(None)?;
    Ok(figures)
}

fn add(
    times: &mut Table,
    memory: &mut Table,
    name: &str,
    role: Role,
    figures: &HashMap<String, f64>,
) {
    let get = |name: &str| figures.get(name).copied().unwrap_or(f64::NAN);
    let worst = get("worst_us") / 1e3;
    let step = get("index_step");
    times.add_line(
        name,
        role,
        &[get("p9999_us"), get("p999_us"), worst, get("pairs_per_second"), step],
    );
    let index = [get("index_mean"), get("index_max")];
    let [mean, max, end] = ["memory_mean", "memory_max", "memory_end"].map(get);
    memory.add_line(name, role, &[index[0], index[1], mean, max, end]);
}
