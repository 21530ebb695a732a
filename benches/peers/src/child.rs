//! Tasks that need a process of their own: one whose memory is an engine's alone, or that is
//! killed. Each prints a line with a name and a figure for everything it measured.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use clap::{Subcommand, ValueEnum};

use crate::drive::{self, Keys, Until, Worker};
use crate::engines::{Durability, Kind, Result, Setup};
use crate::measure::memory_bytes;
use crate::workload::Workload;

#[derive(Clone, Subcommand)]
#[command(hide = true)]
pub enum Task {
    /// Stores keys one after the other, and takes samples
    #[command(hide = true)]
    Grow {
        kind: Kind,
        dir: PathBuf,
        from: u64,
        to: u64,
        /// Keys to make room for ahead
        reserve: u64,
    },
    /// Opens a store, reads a key, stores some, and ends or waits to be killed
    #[command(hide = true)]
    Open { kind: Kind, dir: PathBuf, from: u64, to: u64, end: End },
    /// Stores a few keys, and has nothing to do until its input ends
    #[command(hide = true)]
    Idle { kind: Kind, dir: PathBuf, mode: Mode },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Buffered,
    Synced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum End {
    Close,
    Kill,
}

/// What a child says when it waits.
pub const READY: &str = "ready";
/// Samples while a store grows.
const STEPS: u64 = 1000;

/// This program, for a task.
pub fn spawn(task: &[&str], kind: Kind, dir: &Path) -> Result<Child> {
    let kind = kind.to_possible_value().ok_or("an engine without a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(task[0]).arg(kind.get_name()).arg(dir).args(&task[1..]);
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

/// Runs this program for a task, and reads what it measured. Kills it where the task waits for it.
pub fn start(task: &[&str], kind: Kind, dir: &Path) -> Result<HashMap<String, f64>> {
    let mut child = spawn(task, kind, dir)?;
    let stdout = child.stdout.take().ok_or("a child without output")?;
    let (mut figures, mut killed) = (HashMap::new(), false);
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line == READY {
            child.kill()?;
            killed = true;
        } else if let Some((name, value)) = line.split_once(' ') {
            figures.insert(name.to_owned(), value.parse()?);
        }
    }
    let status = child.wait()?;
    if status.success() || killed { Ok(figures) } else { Err(format!("a child: {status}").into()) }
}

pub fn run(task: &Task) -> Result<()> {
    match task {
        Task::Grow { kind, dir, from, to, reserve } => {
            grow(*kind, &Setup { reserve: *reserve, ..setup(dir) }, *from, *to)
        }
        Task::Open { kind, dir, from, to, end } => open(*kind, dir, *from..*to, *end),
        Task::Idle { kind, dir, mode } => idle(*kind, dir, *mode),
    }
}

fn setup(dir: &Path) -> Setup {
    let dir = dir.to_owned();
    Setup { durability: Durability::Buffered, dir, expires: false, reserve: 0, clock: None }
}

fn grow(kind: Kind, setup: &Setup, from: u64, to: u64) -> Result<()> {
    let workload = Workload::new();
    let memory = memory_bytes(None)?;
    let engine = kind.open(setup)?;
    let server = engine.server();
    // The memory that a server has before it holds a key is not memory for keys.
    let memory = if server.is_some() { memory_bytes(server)? } else { memory };
    drive::store(&*engine, &workload, 0..from, 1)?;
    let (mut times, mut elapsed) = (Histogram::new(), 0.0);
    let (mut index, mut resident) = (Vec::new(), Vec::new());
    let mut index_bytes = vec![engine.index_bytes()];
    for step in 0..STEPS {
        let next = from + (to - from) * step / STEPS;
        let end = from + (to - from) * (step + 1) / STEPS;
        let (keys, until) = (Keys { next, kept: 0..0 }, Until::Count(end - next));
        let run =
            drive::run(&*engine, &workload, &keys, 1, until, |worker, _| worker.fresh_pair())?;
        elapsed += run.elapsed.as_secs_f64();
        run.times.iter().for_each(|&ns| times.add(ns));
        drop(run);
        index_bytes.push(engine.index_bytes());
        if let Some(bytes) = engine.index_bytes() {
            index.push(bytes as f64 / end as f64);
        }
        resident.push(memory_bytes(server)?.saturating_sub(memory) as f64 / end as f64);
    }
    engine.sync()?;
    let mut worker = Worker::new(&*engine, &workload)?;
    [0, from, to - 1].into_iter().try_for_each(|nth| worker.replay(nth))?;
    drop(worker);
    engine.close()?;
    println!("pairs_per_second {}", (to - from) as f64 / elapsed);
    for (name, quantile) in [("p999_us", 0.999), ("p9999_us", 0.9999), ("worst_us", 1.0)] {
        println!("{name} {}", times.quantile_us(quantile));
    }
    let max = |values: &[f64]| values.iter().copied().fold(f64::NAN, f64::max);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    // In all of the steps together the index grew by so much, in one of them at most by so much.
    let grown: Vec<f64> = index_bytes
        .windows(2)
        .filter_map(|pair| Some(pair[1]? as f64 / pair[0]? as f64 - 1.0))
        .collect();
    println!("index_step {}", max(&grown) * 100.0);
    println!("index_max {}", max(&index));
    println!("index_mean {}", mean(&index));
    println!("memory_max {}", max(&resident));
    println!("memory_mean {}", mean(&resident));
    println!("memory_end {}", resident.last().copied().unwrap_or(f64::NAN));
    Ok(())
}

fn open(kind: Kind, dir: &Path, keys: std::ops::Range<u64>, end: End) -> Result<()> {
    let workload = Workload::new();
    let start = Instant::now();
    let engine = kind.open(&setup(dir))?;
    if keys.start > 0 {
        Worker::new(&*engine, &workload)?.replay(0)?;
    }
    println!("open_ms {}", start.elapsed().as_secs_f64() * 1e3);
    if keys.start > 0 {
        let mut worker = Worker::new(&*engine, &workload)?;
        worker.replay(keys.start - 1)?;
        worker.miss(keys.end)?;
    }
    if !keys.is_empty() {
        drive::store(&*engine, &workload, keys, 1)?;
    }
    if end == End::Close {
        return engine.close();
    }
    engine.crash()?;
    println!("{READY}");
    // Until the parent kills this process, or ends itself.
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn idle(kind: Kind, dir: &Path, mode: Mode) -> Result<()> {
    const KEYS: u64 = 1_000;
    let durability = match mode {
        Mode::Buffered => Durability::Buffered,
        Mode::Synced => Durability::Synced,
    };
    let workload = Workload::new();
    let engine = kind.open(&Setup { durability, ..setup(dir) })?;
    drive::store(&*engine, &workload, 0..KEYS, 1)?;
    println!("{READY}");
    // One call, which returns when the parent has counted.
    std::io::stdin().read_line(&mut String::new())?;
    Worker::new(&*engine, &workload)?.replay(KEYS - 1)?;
    engine.close()
}

/// Counts of times in buckets that are 1/64 of a power of two wide: many times in little memory.
struct Histogram(Vec<u64>);

impl Histogram {
    fn new() -> Histogram {
        Histogram(vec![0; 27 * 64 + 64])
    }

    fn bucket(ns: u32) -> usize {
        let shift = (32 - ns.leading_zeros()).saturating_sub(7);
        (shift as usize) * 64 + (ns >> shift) as usize
    }

    /// The largest time of a bucket.
    fn top(bucket: usize) -> f64 {
        let shift = (bucket / 64).saturating_sub(1);
        let high = bucket - shift * 64;
        ((high + 1) as f64) * (1u64 << shift) as f64 - 1.0
    }

    fn add(&mut self, ns: u32) {
        self.0[Self::bucket(ns)] += 1;
    }

    fn quantile_us(&self, quantile: f64) -> f64 {
        let count: u64 = self.0.iter().sum();
        let mut left = ((count as f64 * quantile) as u64).min(count.saturating_sub(1));
        for (bucket, &times) in self.0.iter().enumerate() {
            if times > left {
                return Self::top(bucket) / 1e3;
            }
            left -= times;
        }
        f64::NAN
    }
}

#[cfg(test)]
mod tests {
    use super::Histogram;

    #[test]
    fn a_histogram_is_right_to_a_64th() {
        for ns in [0, 1, 63, 64, 127, 128, 1000, 123_456, 1 << 30, u32::MAX] {
            let mut times = Histogram::new();
            times.add(ns);
            let found = times.quantile_us(0.5) * 1e3;
            assert!(found >= f64::from(ns) && found <= f64::from(ns) * 65.0 / 64.0 + 1.0, "{ns}");
        }
    }
}
