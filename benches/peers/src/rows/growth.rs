//! Rows 10, 11 and 12: a store that grows to ten times its size, in a process of its own.

use super::{Bench, named, scratch};
use crate::child;
use crate::engines::{Kind, Result};
use crate::report::{Better, Table};

pub fn run(bench: &Bench) -> Result<()> {
    let from = bench.arguments.growth_keys.unwrap_or(bench.arguments.keys);
    let to = from * 10;
    let how = format!(
        "From {from} to {to} keys by fresh pairs, buffered, 1 thread, each engine alone in a \
         process of its own; one run, no rounds."
    );
    let mut times = Table::new("10-growth", "Growth to ten times the keys")
        .note(&how)
        .note("The map is not reserved: what it shows at its worst is a shard that doubles.")
        .chart("p99.99", "us", Better::Lower)
        .column("p99.9", "us", Better::Lower)
        .column("worst", "ms", Better::Lower)
        .chart("pairs", "1/s", Better::Higher);
    let mut memory = Table::new("11-memory", "Memory for a key while a store grows")
        .note(&how)
        .note(
            "Anonymous memory above what the process had before it opened the engine, over the \
             live keys, in 40 samples; shared memory of a server counts too, the page cache does \
             not. What an engine was given as a cache (2 GiB) is in it as far as it is filled. \
             Index is what `Stats::index_bytes` says.",
        )
        .column("index, mean", "B", Better::Lower)
        .column("index, most", "B", Better::Lower)
        .chart("memory, mean", "B", Better::Lower)
        .column("memory, most", "B", Better::Lower)
        .column("memory, at the end", "B", Better::Lower);
    let mut space = Table::new("12-written", "Written to the device, and kept on disk")
        .note(&how)
        .note(
            "Over the payload: scope, fingerprint and response, once. `write_bytes` of \
             `/proc/<pid>/io`, and the blocks of the files after the store was closed. Rows 3 and \
             4 have the same for synced pairs.",
        )
        .chart("written over payload", "times", Better::Lower)
        .chart("kept over payload", "times", Better::Lower);
    let skipped = |kind: &Kind| {
        matches!(kind, Kind::Write | Kind::Commit) || kind.name().contains("committer")
    };
    for &kind in bench.kinds.iter().filter(|kind| !skipped(kind)) {
        eprintln!("{}: grows from {from} to {to} keys", kind.name());
        let dir = scratch(bench, kind)?;
        let task = ["grow", &from.to_string(), &to.to_string()];
        let figures = child::start(&task, kind, dir.path()).map_err(named(kind))?;
        let get = |name: &str| figures.get(name).copied().unwrap_or(f64::NAN);
        let worst = get("worst_us") / 1e3;
        times.add(kind, &[get("p9999_us"), get("p999_us"), worst, get("pairs_per_second")]);
        let index = [get("index_mean"), get("index_max")];
        let [mean, max, end] = ["memory_mean", "memory_max", "memory_end"].map(get);
        memory.add(kind, &[index[0], index[1], mean, max, end]);
        if kind != Kind::Map {
            space.add(kind, &[get("written"), get("disk")]);
        }
    }
    for (row, table) in [("10", times), ("11", memory), ("12", space)] {
        if bench.arguments.asks_for(&[row]) {
            table.write(&bench.arguments.out, &bench.machine)?;
        }
    }
    Ok(())
}
