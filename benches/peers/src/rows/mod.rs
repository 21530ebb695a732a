//! The rows, in groups that share the stores they run on.

mod batch;
mod buffered;
mod expiry;
mod growth;
mod opening;
mod synced;
mod webhooks;

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Arguments;
use crate::drive::{self, Keys, Run, Until, Worker};
use crate::engines::{Durability, Engine, Error, Kind, Result, Setup};
use crate::report::Table;
use crate::workload::Workload;

pub const NAMES: [&str; 15] =
    ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "webhooks"];

/// Everything that rows share.
pub struct Bench {
    pub arguments: Arguments,
    pub kinds: Vec<Kind>,
    pub machine: Vec<String>,
    pub workload: Workload,
}

pub fn run(bench: &Bench) -> Result<()> {
    let start = Instant::now();
    buffered_and_synced(bench)?;
    if bench.arguments.asks_for(&["9"]) {
        expiry::run(bench)?;
    }
    if bench.arguments.asks_for(&["10", "11", "12"]) {
        growth::run(bench)?;
    }
    if bench.arguments.asks_for(&["13"]) {
        opening::run(bench)?;
    }
    if bench.arguments.asks_for(&["14"]) {
        batch::run(bench)?;
    }
    if bench.arguments.asks_for(&["webhooks"]) {
        webhooks::run(bench)?;
    }
    eprintln!("done in {:.0?}", start.elapsed());
    Ok(())
}

/// The stores of the buffered rows, opened again for the synced ones.
fn buffered_and_synced(bench: &Bench) -> Result<()> {
    let buffered = bench.arguments.asks_for(&["1", "2", "6", "7", "8"]);
    let synced = bench.arguments.asks_for(&["3", "4", "5"]);
    if !buffered && !synced {
        return Ok(());
    }
    let mut field = Field::open(bench, Durability::Buffered, &bench.kinds)?;
    field.preload(bench)?;
    if buffered {
        buffered::run(bench, &mut field)?;
    }
    if synced {
        field.reopen(bench, Durability::Synced)?;
        synced::run(bench, &mut field)?;
    }
    field.close()
}

/// One engine that is open, and its keys.
pub struct Lane {
    pub kind: Kind,
    pub engine: Box<dyn Engine>,
    pub keys: Keys,
    setup: Setup,
    _dir: TempDir,
}

impl Lane {
    pub fn open(bench: &Bench, kind: Kind, mut setup: Setup) -> Result<Lane> {
        let dir = scratch(bench, kind)?;
        setup.dir = dir.path().to_owned();
        let engine = kind.open(&setup).map_err(named(kind))?;
        Ok(Lane { kind, engine, keys: Keys { next: 0, kept: 0..0 }, setup, _dir: dir })
    }

    /// Runs an operation for one round, and takes note of the keys that it used.
    pub fn run(
        &mut self,
        bench: &Bench,
        threads: usize,
        operation: impl Fn(&mut Worker<'_>, u64) -> Result<()> + Sync,
    ) -> Result<Run> {
        let until = Until::Time(Duration::from_millis(bench.arguments.round_ms));
        self.run_until(bench, threads, until, operation)
    }

    pub fn run_until(
        &mut self,
        bench: &Bench,
        threads: usize,
        until: Until<'_>,
        operation: impl Fn(&mut Worker<'_>, u64) -> Result<()> + Sync,
    ) -> Result<Run> {
        let (engine, workload) = (&*self.engine, &bench.workload);
        let run = drive::run(engine, workload, &self.keys, threads, until, operation)
            .map_err(named(self.kind))?;
        self.keys.next = run.next;
        Ok(run)
    }

    fn keeps(&self) -> bool {
        !matches!(self.kind, Kind::Write | Kind::Commit)
    }

    /// Stores the first keys, and reads each once.
    fn preload(&mut self, bench: &Bench) -> Result<()> {
        let count = bench.arguments.keys;
        self.keys.next = count;
        if self.keeps() {
            let start = Instant::now();
            let range = 0..count;
            drive::store(&*self.engine, &bench.workload, range, 2).map_err(named(self.kind))?;
            eprintln!("{}: {count} keys stored in {:.1?}", self.kind.name(), start.elapsed());
            self.keys.kept = 0..count;
            drive::check(&*self.engine, &bench.workload, count).map_err(named(self.kind))?;
            self.keys.next = count + 100;
            self.warm(bench)?;
        }
        Ok(())
    }

    /// Opens the same files as another engine, or in another mode.
    fn turn(self, bench: &Bench, kind: Kind, durability: Durability) -> Result<Lane> {
        let Lane { engine, keys, mut setup, _dir, .. } = self;
        engine.close().map_err(named(kind))?;
        setup.durability = durability;
        let engine = kind.open(&setup).map_err(named(kind))?;
        let mut lane = Lane { kind, engine, keys, setup, _dir };
        lane.warm(bench)?;
        Ok(lane)
    }

    fn warm(&mut self, bench: &Bench) -> Result<()> {
        if self.keeps() {
            let kept = self.keys.kept.clone();
            let until = Until::Count(kept.end - kept.start);
            self.run_until(bench, 1, until, |worker, nth| worker.replay(kept.start + nth))?;
        }
        Ok(())
    }
}

/// The engines of a group of rows, open at once, so that their rounds can alternate.
pub struct Field {
    pub lanes: Vec<Lane>,
}

impl Field {
    pub fn open(bench: &Bench, durability: Durability, kinds: &[Kind]) -> Result<Field> {
        let grouped = [Kind::FjallGrouped, Kind::RocksdbGrouped];
        let kinds = kinds.iter().filter(|kind| !grouped.contains(kind) && **kind != Kind::Commit);
        // Room for what the rounds add; the bound has all of it ahead.
        let reserve = bench.arguments.keys + 2_000_000.min(bench.arguments.keys * 8);
        let lanes = kinds.map(|&kind| Lane::open(bench, kind, setup(durability, reserve)));
        Ok(Field { lanes: lanes.collect::<Result<_>>()? })
    }

    pub fn preload(&mut self, bench: &Bench) -> Result<()> {
        self.lanes.iter_mut().try_for_each(|lane| lane.preload(bench))
    }

    /// The same files in another mode, and what else takes part in it.
    pub fn reopen(&mut self, bench: &Bench, durability: Durability) -> Result<()> {
        let mut lanes = Vec::new();
        for lane in self.lanes.drain(..) {
            let kind = lane.kind;
            if kind != Kind::Map {
                lanes.push(lane.turn(bench, kind, durability)?);
            }
        }
        for kind in bench.kinds.iter().copied() {
            let bare = match kind {
                Kind::Commit => {
                    lanes.push(Lane::open(bench, kind, setup(durability, 0))?);
                    continue;
                }
                Kind::FjallGrouped => Kind::Fjall,
                Kind::RocksdbGrouped => Kind::Rocksdb,
                _ => continue,
            };
            // Loaded without a sync for every write, like the others.
            let mut lane = Lane::open(bench, bare, setup(Durability::Buffered, 0))?;
            lane.preload(bench)?;
            let mut lane = lane.turn(bench, kind, durability)?;
            drive::check(&*lane.engine, &bench.workload, lane.keys.next).map_err(named(kind))?;
            lane.keys.next += 100;
            lanes.push(lane);
        }
        lanes.sort_by_key(|lane| lane.kind as usize);
        self.lanes = lanes;
        Ok(())
    }

    /// Rounds of the lanes that take part, one lane after the other; a row of a table each.
    pub fn rounds(
        &mut self,
        bench: &Bench,
        table: &mut Table,
        takes_part: impl Fn(&Lane) -> bool,
        measure: impl Fn(&mut Lane) -> Result<Vec<f64>>,
    ) -> Result<()> {
        for round in 1..=bench.arguments.rounds {
            eprintln!("{}: round {round} of {}", table.title, bench.arguments.rounds);
            for lane in self.lanes.iter_mut().filter(|lane| takes_part(lane)) {
                let values = measure(lane)?;
                table.add(lane.kind, &values);
                // The next engine does not pay for what this one left to do.
                lane.engine.sync().map_err(named(lane.kind))?;
            }
        }
        table.write(&bench.arguments.out, &bench.machine)
    }

    pub fn close(self) -> Result<()> {
        let close = |lane: Lane| lane.engine.close().map_err(named(lane.kind));
        self.lanes.into_iter().try_for_each(close)
    }
}

pub fn setup(durability: Durability, reserve: u64) -> Setup {
    Setup { durability, dir: Default::default(), expires: false, reserve, clock: None }
}

/// A directory for one engine. Servers run as another user, who must get there.
pub fn scratch(bench: &Bench, kind: Kind) -> Result<TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let prefix = format!("{kind:?}-").to_lowercase();
    let dir = tempfile::Builder::new().prefix(&prefix).tempdir_in(&bench.arguments.dir)?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

/// Says of which engine an error is.
pub fn named(kind: Kind) -> impl Fn(Error) -> Error {
    move |error| format!("{}: {error}", kind.name()).into()
}

/// What acknowledged work a crash takes, for the rows without a sync for every write.
pub fn losses(bench: &Bench) -> String {
    let kinds = bench.kinds.iter().filter(|kind| !matches!(kind, Kind::Commit));
    let kinds = kinds.filter(|kind| !kind.name().contains("committer"));
    let losses: Vec<_> = kinds.map(|kind| format!("- {}: {}", kind.name(), kind.loses())).collect();
    format!("What a crash takes of what was acknowledged:\n\n{}", losses.join("\n"))
}
