//! Row 13: how long a store takes to open, after a close and after `kill -9`.

use super::{Bench, named, scratch};
use crate::child;
use crate::engines::{Kind, Result};
use crate::report::{Better, Table};

/// Keys stored between two openings, which a recovery then meets.
const TAIL: u64 = 10_000;
const SIZES: [u64; 3] = [1, 3, 10];

pub fn run(bench: &Bench) -> Result<()> {
    let keys = bench.arguments.growth_keys.unwrap_or(bench.arguments.keys);
    let tail = TAIL.min(keys);
    let mut table =
        Table::new("13-open", "Opening, after a close and after kill -9").note(format!(
            "From the call until the first key was read, in a fresh process; the page cache is \
             warm. Before each opening {tail} more keys were stored, buffered; then the process \
             was closed, or it was killed. A server is killed with all its processes, and its \
             start is in the figure."
        ));
    for size in SIZES {
        table = table
            .chart(format!("after a close, {} keys", size * keys), "ms", Better::Lower)
            .chart(format!("after kill -9, {} keys", size * keys), "ms", Better::Lower);
    }
    let skipped = |kind: &Kind| kind.is_bound() || kind.name().contains("committer");
    let mut stores = Vec::new();
    for &kind in bench.kinds.iter().filter(|kind| !skipped(kind)) {
        stores.push((kind, scratch(bench, kind)?, 0));
    }
    let mut values = vec![vec![Vec::new(); stores.len()]; bench.arguments.rounds];
    for size in SIZES {
        for (kind, dir, next) in &mut stores {
            eprintln!("{}: {} keys to open", kind.name(), size * keys);
            let to = (size * keys).max(*next);
            open(*kind, dir.path(), *next..to, "close")?;
            *next = to;
        }
        for round in &mut values {
            for ((kind, dir, next), values) in stores.iter_mut().zip(round) {
                // The end of one opening is the start of the next.
                let closed = open(*kind, dir.path(), *next..*next + tail, "kill")?;
                let killed = open(*kind, dir.path(), *next + tail..*next + 2 * tail, "close")?;
                *next += 2 * tail;
                values.extend([closed, killed]);
            }
        }
    }
    for round in &values {
        for ((kind, ..), values) in stores.iter().zip(round) {
            table.add(*kind, values);
        }
    }
    table.write(&bench.arguments.out, &bench.machine)
}

fn open(kind: Kind, dir: &std::path::Path, keys: std::ops::Range<u64>, end: &str) -> Result<f64> {
    let (from, to) = (keys.start.to_string(), keys.end.to_string());
    let figures = child::start(&["open", &from, &to, end], kind, dir).map_err(named(kind))?;
    figures.get("open_ms").copied().ok_or_else(|| named(kind)("a child opened nothing".into()))
}
