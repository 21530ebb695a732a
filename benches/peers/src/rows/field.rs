//! Engines that are open at once, filled alike, so that their rounds can alternate.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Bench, named, scratch, setup};
use crate::drive::{self, Keys, Run, Until, Worker, payload_bytes};
use crate::engines::{Durability, Engine, Kind, Result, Setup};
use crate::measure::{Quiet, dirtied};
use crate::report::Table;

/// Keys that rounds may add before a store is filled anew, so that no engine is measured with many
/// times the keys of another because it is faster. Engines that can are sized for this.
pub const ROOM: u64 = 3_000_000;

/// What the device may be written for a byte that an engine dirtied, and besides.
const JOURNAL: f64 = 4.0;
const NOISE_BYTES: f64 = 4e6;

/// One engine that is open, and its keys.
pub struct Lane {
    pub kind: Kind,
    pub engine: Box<dyn Engine>,
    pub keys: Keys,
    /// What the filling wrote.
    pub filled: Option<Written>,
    setup: Setup,
    dir: TempDir,
}

/// What one engine wrote over some time.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// To the device; NaN where it was not alone.
    pub device: f64,
    /// Of zeros ahead of a log; NaN where an engine does no such thing.
    pub prepared: f64,
    /// What it was asked to keep.
    pub payload: f64,
}

impl Lane {
    pub fn open(bench: &Bench, kind: Kind, mut setup: Setup) -> Result<Lane> {
        let dir = scratch(bench, kind)?;
        setup.dir = dir.path().to_owned();
        let engine = kind.open(&setup).map_err(named(kind))?;
        let keys = Keys { next: 0, kept: 0..0 };
        Ok(Lane { kind, engine, keys, filled: None, setup, dir })
    }

    /// Opens an engine, and stores the first keys in it.
    fn filled(bench: &Bench, kind: Kind) -> Result<Lane> {
        let reserve = bench.arguments.keys + ROOM;
        let mut lane = Lane::open(bench, kind, setup(Durability::Buffered, reserve))?;
        lane.fill(bench)?;
        Ok(lane)
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

    /// Runs fresh pairs, and says what they wrote until all of it was on the device. Nothing else
    /// writes there meanwhile: every other engine is idle, and what it had left to do was waited
    /// for.
    pub fn watched(
        &mut self,
        bench: &Bench,
        run: impl FnOnce(&mut Lane) -> Result<Run>,
    ) -> Result<(Run, Written)> {
        let prepared = |lane: &Lane| Result::Ok(lane.engine.prepared_bytes()?.unwrap_or(f64::NAN));
        let quiet = bench.device.settle(self.engine.server())?;
        let (from, prepared_before) = (self.keys.next, prepared(self)?);
        let server = self.engine.server();
        let (before, dirtied_before) = (bench.device.written()?, dirtied(server)?);
        let run = run(self)?;
        self.engine.sync().map_err(named(self.kind))?;
        let quiet = [quiet, bench.device.settle(server)?];
        let written = (bench.device.written()? - before) as f64;
        let dirtied = dirtied(server)?.saturating_sub(dirtied_before) as f64;
        // The journal of the file system writes along, a few blocks for a sync; more than that is
        // somebody else's.
        let own = quiet == [Quiet::Yes; 2] && written <= JOURNAL * dirtied + NOISE_BYTES;
        let device = if own { written } else { f64::NAN };
        let payload = payload_bytes(&bench.workload, from, run.operations);
        let prepared = prepared(self)? - prepared_before;
        Ok((run, Written { device, prepared, payload }))
    }

    /// Whether an engine can be read.
    pub fn keeps(&self) -> bool {
        !matches!(self.kind, Kind::Write | Kind::Commit)
    }

    fn fill(&mut self, bench: &Bench) -> Result<()> {
        let count = bench.arguments.keys;
        self.keys = Keys { next: count, kept: 0..0 };
        if !self.keeps() {
            return Ok(());
        }
        let start = Instant::now();
        let (_, written) = self.watched(bench, |lane| {
            lane.keys.next = 0;
            drive::store(&*lane.engine, &bench.workload, 0..count, 2).map_err(named(lane.kind))
        })?;
        eprintln!("{}: {count} keys stored in {:.1?}", self.kind.name(), start.elapsed());
        // Against the keys, whatever the run counted.
        let payload = payload_bytes(&bench.workload, 0, count);
        self.filled = Some(Written { payload, ..written });
        self.keys = Keys { next: count, kept: 0..count };
        drive::check(&*self.engine, &bench.workload, count).map_err(named(self.kind))?;
        self.keys.next = count + 100;
        Ok(())
    }

    /// Fills the store anew where a round may need more room than it has left. Never timed.
    pub fn make_room(&mut self, bench: &Bench) -> Result<()> {
        // More pairs than an engine, and than the map, gets done in a millisecond.
        let per_ms = if self.kind == Kind::Map { 1_500 } else { 500 };
        let end = bench.arguments.keys + ROOM;
        if !self.keeps() || self.keys.next + bench.arguments.round_ms * per_ms <= end {
            return Ok(());
        }
        let fresh = scratch(bench, self.kind)?;
        self.setup.dir = fresh.path().to_owned();
        // The old one goes first: both do not fit into memory everywhere.
        let none: Box<dyn Engine> = Kind::Map.open(&setup(Durability::Buffered, 0))?;
        std::mem::replace(&mut self.engine, none).close().map_err(named(self.kind))?;
        self.dir = fresh;
        self.engine = self.kind.open(&self.setup).map_err(named(self.kind))?;
        self.fill(bench)?;
        self.settle(bench)
    }

    /// Opens the same files as another engine, or in another mode.
    fn turn(self, kind: Kind, durability: Durability) -> Result<Lane> {
        let Lane { engine, keys, filled, mut setup, dir, .. } = self;
        engine.close().map_err(named(kind))?;
        setup.durability = durability;
        let engine = kind.open(&setup).map_err(named(kind))?;
        Ok(Lane { kind, engine, keys, filled, setup, dir })
    }

    /// Reads every key once: what rows take for warm.
    pub fn warm(&mut self, bench: &Bench) -> Result<()> {
        /// As many as the machine that the bars are for has cores.
        const THREADS: u64 = 2;
        if self.keeps() {
            let (kept, start) = (self.keys.kept.clone(), Instant::now());
            let each = (kept.end - kept.start).div_ceil(THREADS);
            self.run_until(bench, 2, Until::Count(each), |worker, nth| {
                let nth = kept.start + nth * THREADS + worker.thread();
                if nth < kept.end { worker.replay(nth) } else { Ok(()) }
            })?;
            eprintln!("{}: every key read in {:.1?}", self.kind.name(), start.elapsed());
        }
        Ok(())
    }

    /// Waits until the engine has nothing left to do, so that the next one does not pay for it.
    pub fn settle(&self, bench: &Bench) -> Result<()> {
        self.engine.sync().map_err(named(self.kind))?;
        bench.device.settle(self.engine.server())?;
        Ok(())
    }

    pub fn durability(&self) -> Durability {
        self.setup.durability
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}

/// The engines of a group of rows.
pub struct Field {
    pub lanes: Vec<Lane>,
}

impl Field {
    /// One engine after the other is opened, filled, and left to settle.
    pub fn filled(bench: &Bench, kinds: &[Kind]) -> Result<Field> {
        let grouped = [Kind::FjallGrouped, Kind::RocksdbGrouped];
        let kinds = kinds.iter().filter(|kind| !grouped.contains(kind) && **kind != Kind::Commit);
        let mut lanes = Vec::new();
        for &kind in kinds {
            let lane = Lane::filled(bench, kind)?;
            lane.settle(bench)?;
            lanes.push(lane);
        }
        Ok(Field { lanes })
    }

    pub fn warm(&mut self, bench: &Bench) -> Result<()> {
        self.lanes.iter_mut().try_for_each(|lane| lane.warm(bench))
    }

    /// The same files in another mode, and what else takes part in it.
    pub fn reopen_synced(&mut self, bench: &Bench) -> Result<()> {
        let synced = Durability::Synced;
        let mut lanes = Vec::new();
        for lane in self.lanes.drain(..) {
            let kind = lane.kind;
            if kind != Kind::Map {
                lanes.push(lane.turn(kind, synced)?);
            }
        }
        for kind in bench.kinds.iter().copied() {
            let bare = match kind {
                Kind::Commit => {
                    lanes.push(Lane::open(bench, kind, setup(synced, 0))?);
                    continue;
                }
                Kind::FjallGrouped => Kind::Fjall,
                Kind::RocksdbGrouped => Kind::Rocksdb,
                _ => continue,
            };
            // Filled without a sync for every write, like the others.
            let mut lane = Lane::filled(bench, bare)?.turn(kind, synced)?;
            drive::check(&*lane.engine, &bench.workload, lane.keys.next).map_err(named(kind))?;
            lane.keys.next += 100;
            lanes.push(lane);
        }
        lanes.sort_by_key(|lane| lane.kind as usize);
        self.lanes = lanes;
        self.warm(bench)?;
        self.lanes.iter().try_for_each(|lane| lane.settle(bench))
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
                lane.settle(bench)?;
            }
        }
        Ok(())
    }

    pub fn close(self) -> Result<()> {
        let close = |lane: Lane| lane.engine.close().map_err(named(lane.kind));
        self.lanes.into_iter().try_for_each(close)
    }
}
