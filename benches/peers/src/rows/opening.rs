//! Row 13: how long a store takes to open, after a close and after `kill -9`.

use tempfile::TempDir;

use super::{Bench, named, scratch};
use crate::chart::Better;
use crate::child;
use crate::engines::{Kind, Result};

/// Keys stored between two openings, which a recovery then meets.
const TAIL: u64 = 10_000;
/// Times the keys.
const SIZES: [u64; 4] = [1, 3, 10, 30];
/// What the peers are opened with at most: with ten times the keys they would fill the disk.
const PEERS_MAX: u64 = 3;

/// A store between two openings.
struct Stored {
    kind: Kind,
    dir: TempDir,
    next: u64,
    values: Vec<Vec<f64>>,
}

pub fn run(bench: &Bench) -> Result<()> {
    let (keys, rounds) = (bench.first_keys(), bench.arguments.rounds);
    let tail = TAIL.min(keys);
    let mut table = bench
        .table("13-open", "Opening, after a close and after kill -9")
        .note(format!(
            "From the call until the first key was read, in a fresh process. Before each opening \
             {tail} more keys were stored, buffered; then the process was closed, or it was \
             killed. A server is killed with all its processes, and its start is in the figure. \
             The peers are opened with at most {PEERS_MAX} times the keys. After each opening the \
             last key that was stored is read too, and one that was never stored is not there."
        ))
        .note(
            "Warm: whatever an opening reads was read or written moments before, in each engine \
             alike, since another process opened the same store, stored the keys and ended.",
        );
    for size in SIZES {
        table = table
            .chart(format!("after a close, {} keys", size * keys), "ms", Better::Lower)
            .chart(format!("after kill -9, {} keys", size * keys), "ms", Better::Lower);
    }
    let skipped = |kind: &Kind| kind.is_bound() || kind.name().contains("committer");
    let mut stores = Vec::new();
    for &kind in bench.kinds.iter().filter(|kind| !skipped(kind)) {
        let values = vec![Vec::new(); rounds];
        stores.push(Stored { kind, dir: scratch(bench, kind)?, next: 0, values });
    }
    let mut ended = Vec::new();
    for size in SIZES {
        let (go_on, end): (Vec<_>, Vec<_>) = stores
            .into_iter()
            .partition(|stored| stored.kind == Kind::Oncelog || size <= PEERS_MAX);
        stores = go_on;
        // With its directory goes the room on the disk.
        ended.extend(end.into_iter().map(|Stored { kind, values, .. }| (kind, values)));
        for stored in &mut stores {
            eprintln!("{}: {} keys to open", stored.kind.name(), size * keys);
            let to = (size * keys).max(stored.next);
            stored.open(to, "close")?;
        }
        for round in 0..rounds {
            for stored in &mut stores {
                // The end of one opening is the start of the next.
                let closed = stored.open(stored.next + tail, "kill")?;
                let killed = stored.open(stored.next + tail, "close")?;
                stored.values[round].extend([closed, killed]);
                bench.device.settle(None)?;
            }
        }
    }
    ended.extend(stores.into_iter().map(|Stored { kind, values, .. }| (kind, values)));
    ended.sort_by_key(|(kind, _)| *kind as usize);
    for round in 0..rounds {
        for (kind, values) in &mut ended {
            let mut values = std::mem::take(&mut values[round]);
            values.resize(2 * SIZES.len(), f64::NAN);
            table.add(*kind, &values);
        }
    }
    bench.write(&table)
}

impl Stored {
    /// The time of an opening; then keys are stored up to `to`.
    fn open(&mut self, to: u64, end: &str) -> Result<f64> {
        let (from, until) = (self.next.to_string(), to.to_string());
        let figures = child::start(&["open", &from, &until, end], self.kind, self.dir.path())
            .map_err(named(self.kind))?;
        self.next = to;
        let found = figures.get("open_ms").copied();
        found.ok_or_else(|| named(self.kind)("a child opened nothing".into()))
    }
}
