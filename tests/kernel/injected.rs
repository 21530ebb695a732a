//! Every call that changes files fails once, and from some call on for ever: `strace` injects EIO
//! and ENOSPC into the n-th of each kind, for every n of a short script.
//!
//! The script's process is told of each failure as `Full`, `Io` or `Poisoned`; a store that is not
//! merely `Full` is opened again, which must work once the failure is over. Afterwards the power is
//! cut, before the parent opens the store or after it has: what was acknowledged is there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use oncelog::{Background, Claim, Durability, Error, ManualClock, Options, Permit, Store};

use crate::child::{self, Running, kind, tell, tell_error};
use crate::image::{FileSystem, IMAGE_BYTES_MIN, Image};
use crate::keys::{fingerprint, number, response, scope};
use crate::ledger::{Allowed, Ledger};
use crate::load::{MODE, claim_and_end, durability, name};
use crate::rng::Rng;

const BACKGROUND: &str = "ONCELOG_KERNEL_BACKGROUND";
const CALLS: &[&str] =
    &["fdatasync", "fsync", "pwrite64", "fallocate", "ftruncate", "rename", "unlink"];
/// The error, and whether every later call fails too.
const FAILURES: &[(&str, &str)] = &[("EIO", ""), ("EIO", "+"), ("ENOSPC", "")];

const TTL: Duration = Duration::from_secs(30_000);
const BUCKET: Duration = Duration::from_secs(1_000);
/// The script's keys begin here, when those before it are past.
const LATER: Duration = Duration::from_secs(1_700_040_000);
const OPENS_MAX: u64 = 3;

/// Nothing that is synced later than the script runs.
const BUFFERED: Durability = Durability::Buffered { sync_every: Duration::from_secs(3_600) };

#[test]
fn every_failing_call_of_synced_callers_loses_nothing_acknowledged() {
    every_call(Durability::Synced, "inline", 1);
}

#[test]
fn every_failing_call_of_synced_threads_loses_nothing_acknowledged() {
    // Which thread makes which call differs from run to run: a share of them will do.
    every_call(Durability::Synced, "threads", 4);
}

#[test]
fn every_failing_call_of_buffered_callers_loses_nothing_acknowledged() {
    every_call(BUFFERED, "inline", 1);
}

fn every_call(durability: Durability, background: &'static str, step: u64) {
    let step = number("ONCELOG_INJECT_STEP", step);
    let image = Image::new(FileSystem::Ext4, IMAGE_BYTES_MIN);
    let mut job = Job { image, durability, background, runs: 0, errors: BTreeMap::new() };
    let (lines, failed) = job.run(&[], 0).unwrap_or_else(|error| panic!("no fault: {error}"));
    assert!(!failed && lines.iter().all(|line| !line.starts_with('E')), "{lines:?}");
    let mut hit = BTreeMap::<&str, u64>::new();
    for call in CALLS {
        for (error, when) in FAILURES {
            let mut nth = 1;
            while job.inject(call, error, nth, when) {
                *hit.entry(call).or_default() += 1;
                nth += step;
            }
        }
    }
    for needed in ["fdatasync", "fsync", "pwrite64", "fallocate", "rename", "unlink"] {
        assert!(hit.contains_key(needed), "no {needed} was made to fail: {hit:?}");
    }
    println!(
        "{background}, {}: {} runs with a failing call, {hit:?}; answers: {:?}",
        name(durability),
        job.runs,
        job.errors
    );
}

struct Job {
    image: Image,
    durability: Durability,
    background: &'static str,
    runs: u64,
    errors: BTreeMap<String, u64>,
}

impl Job {
    /// Runs the script with one kind of call failing; `false` where it makes fewer calls.
    fn inject(&mut self, call: &str, error: &str, nth: u64, when: &str) -> bool {
        let label = format!("{call} {nth}{when} {error}, {:?}", self.durability);
        let inject = format!("inject={call}:error={error}:when={nth}{when}");
        let log = self.image.log();
        let log = log.to_str().expect("scratch paths are text").to_owned();
        let trace = format!("trace={call}");
        let tool = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", &log, "-e", "signal=none"];
        let tool = [&tool[..], &["-e", &trace, "-e", &inject]].concat();
        let answer = self.run(&tool, nth);
        let (lines, failed) = answer.unwrap_or_else(|error| panic!("{label}: {error}"));
        if !failed {
            assert!(lines.iter().all(|line| !line.starts_with('E')), "{label}: {lines:?}");
            return false;
        }
        self.runs += 1;
        let ended = lines.iter().any(|line| line == ". end");
        assert!(ended || when == "+", "{label}: the failure is over, the script is not: {lines:?}");
        for line in lines.iter().filter_map(|line| line.strip_prefix("E ")) {
            let kind = line.split(' ').next().expect("a line has words");
            assert!(matches!(kind, "Io" | "Full" | "Poisoned"), "{label}: {line}");
            *self.errors.entry(kind.to_owned()).or_default() += 1;
        }
        let refused = |line: &&String| line.starts_with(". after") && !line.ends_with("Poisoned");
        assert_eq!(lines.iter().find(refused), None, "{label}: a failed write was not final");
        true
    }

    /// Runs the script and holds the store to what it told; the lines, and whether a call failed.
    fn run(&mut self, tool: &[&str], nth: u64) -> Result<(Vec<String>, bool), String> {
        let dir = self.image.dir("store");
        let log = self.image.log();
        std::fs::write(&log, "").unwrap();
        let mut command = child::command(tool, "script", &dir);
        command.env(MODE, name(self.durability)).env(BACKGROUND, self.background);
        let mut child = Running::start(command);
        let lines = child.lines();
        let status = child.end();
        if !status.success() {
            return Err(format!("{status}: {lines:#?}"));
        }
        let mut ledger = Ledger::default();
        for line in &lines {
            ledger.hear(line)?;
        }
        // What was acknowledged is durable by itself, not by what the next open does; and what the
        // next open shows is durable, whatever it found in the page cache.
        let synced = self.durability == Durability::Synced;
        let cut_first = synced && nth.is_multiple_of(2);
        if cut_first {
            self.image.cut_power();
            self.image.boot();
        }
        let mut store = self.open(&dir)?;
        ledger.check_fresh(&store, Allowed::Nothing)?;
        if !cut_first {
            self.image.cut_power();
            drop(store);
            self.image.boot();
            store = self.open(&dir)?;
            ledger.check_all(&store).map_err(|error| format!("shown before the cut: {error}"))?;
        }
        store.close().map_err(|error| error.to_string())?;
        std::fs::remove_dir_all(&dir).unwrap();
        let log = std::fs::read_to_string(&log).unwrap();
        if log.contains("strace:") {
            return Err(log);
        }
        Ok((lines, log.contains("(INJECTED)")))
    }

    fn open(&self, dir: &Path) -> Result<Store, String> {
        let clock = ManualClock::at(UNIX_EPOCH + LATER + 4 * BUCKET);
        let options = options(&clock, self.durability).background(Background::Inline);
        options.open(dir).map_err(|error| format!("open: {error}"))
    }
}

fn options(clock: &ManualClock, durability: Durability) -> Options {
    let options = Store::options().clock(clock.clone()).durability(durability);
    options.ttl(TTL).bucket(BUCKET).segment_bytes(256 << 10).response_bytes_max(40 << 10)
}

/// The child: a short life of a store, with segments that are sealed, dropped and hinted.
pub(crate) fn script(dir: &Path) {
    let background = match std::env::var(BACKGROUND).as_deref() {
        Ok("inline") => Background::Inline,
        Ok("threads") => Background::Threads,
        other => panic!("no such background: {other:?}"),
    };
    let durability = if durability() == Durability::Synced { Durability::Synced } else { BUFFERED };
    let clock = ManualClock::at(UNIX_EPOCH + LATER - 2 * TTL);
    let options = options(&clock, durability).background(background);
    let mut script = Script { dir, options, store: None, kept: Vec::new(), gave_up: false };
    for nth in 0..2 {
        let key = format!("old-{nth}");
        script.step(&key, |store| match store.claim(scope(&key), fingerprint(&key))? {
            Claim::Granted(permit) => permit.complete(&response(&key)).map(|_| None),
            other => panic!("{key} was not granted: {other:?}"),
        });
        clock.advance(BUCKET);
    }
    clock.advance(2 * TTL - 2 * BUCKET);
    for nth in 0..14 {
        if nth % 7 == 0 {
            script.step("expire", |store| store.expire().map(|_| None));
        }
        let key = format!("new-{nth}");
        script.step(&key, |store| claim_and_end(store, &key));
        if nth == 6 {
            clock.advance(BUCKET);
        }
        if nth == 9 {
            script.close();
        }
    }
    script.step("sync", |store| store.sync().map(|()| None));
    if !script.gave_up {
        tell(". end");
    }
    // What is not closed is left as a crash would leave it.
    if Rng::new(u64::from(std::process::id())).below(2) == 0 {
        script.close();
    } else {
        std::process::exit(0);
    }
}

struct Script<'a> {
    dir: &'a Path,
    options: Options,
    store: Option<Store>,
    kept: Vec<Permit>,
    gave_up: bool,
}

impl Script<'_> {
    /// One call, and what follows from its failure.
    fn step(&mut self, what: &str, call: impl FnOnce(&Store) -> Result<Option<Permit>, Error>) {
        if self.store.is_none() {
            self.open();
        }
        let Some(store) = &self.store else { return };
        let error = match call(store) {
            Ok(permit) => return self.kept.extend(permit),
            Err(error) => error,
        };
        tell_error(what, &error);
        if matches!(error, Error::Full { .. }) {
            return;
        }
        if what != "expire" {
            let probe = store.claim(scope("probe"), fingerprint("probe"));
            let answer = probe.as_ref().map_or_else(kind, Claim::kind);
            tell(&format!(". after {}: {answer}", kind(&error)));
        }
        self.close();
    }

    fn open(&mut self) {
        for _ in 0..OPENS_MAX {
            match self.options.clone().open(self.dir) {
                Ok(store) => return self.store = Some(store),
                Err(error) => tell_error("open", &error),
            }
        }
        self.gave_up = true;
    }

    fn close(&mut self) {
        self.kept.clear();
        if let Some(Err(error)) = self.store.take().map(Store::close) {
            tell_error("close", &error);
        }
    }
}
