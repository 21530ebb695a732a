//! Row 16: the system calls of a store that has nothing to do, as `strace` sees them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Bench, named, scratch};
use crate::chart::Better;
use crate::child;
use crate::engines::server::find;
use crate::engines::{Kind, Result};
use crate::measure::children;
use crate::workload::ensure;

/// After this an engine has nothing left to do.
const SETTLE: Duration = Duration::from_secs(5);
/// What is seen this long after `strace` began is its own doing: it interrupts calls to attach.
const ATTACH_S: f64 = 1.0;
const MODES: [&str; 2] = ["buffered", "synced"];

struct Idle {
    kind: Kind,
    child: Child,
    strace: Option<Child>,
    trace: std::path::PathBuf,
    _dir: TempDir,
}

pub fn run(bench: &Bench) -> Result<()> {
    ensure(find("strace").is_some(), || "row 16 needs strace".into())?;
    let seconds = bench.arguments.idle_s;
    let mut table = bench
        .table("16-idle", "System calls of a store with nothing to do")
        .note(format!(
            "1,000 keys are stored in a process of its own; {} s later `strace -f` counts for \
             {seconds} s the calls that any of its threads begins, and those of a server's \
             processes. The main thread waits in one call for its input. All engines idle at the \
             same time; one run, no rounds. Afterwards a key is read, and the store is closed.",
            SETTLE.as_secs()
        ))
        .note(
            "Buffered, some peers leave it to their caller to sync: the calls of that timer, ten a \
             second, are in their figure.",
        )
        .chart("calls, buffered", "", Better::Lower)
        .chart("calls, synced", "", Better::Lower);
    let skipped = |kind: &Kind| kind.is_bound() || kind.name().contains("committer");
    let kinds: Vec<_> = bench.kinds.iter().copied().filter(|kind| !skipped(kind)).collect();
    let mut stores = Vec::new();
    for &kind in &kinds {
        for mode in MODES {
            stores.push(Idle::start(bench, kind, mode).map_err(named(kind))?);
        }
    }
    std::thread::sleep(SETTLE);
    for idle in &mut stores {
        idle.attach(seconds).map_err(named(idle.kind))?;
    }
    let mut counts = Vec::new();
    for idle in stores {
        let kind = idle.kind;
        counts.push(idle.count().map_err(named(kind))? as f64);
    }
    for (&kind, counts) in kinds.iter().zip(counts.chunks(MODES.len())) {
        table.add(kind, counts);
    }
    bench.write(&table)
}

impl Idle {
    fn start(bench: &Bench, kind: Kind, mode: &str) -> Result<Idle> {
        let dir = scratch(bench, kind)?;
        let store = dir.path().join("store");
        std::fs::create_dir(&store)?;
        let mut child = child::spawn(&["idle", mode], kind, &store)?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("a child without output")?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure(line.trim() == child::READY, || format!("a child said {line:?}"))?;
        let trace = dir.path().join("trace");
        Ok(Idle { kind, child, strace: None, trace, _dir: dir })
    }

    /// The processes of a store, a server's included, as they are now.
    fn family(&self) -> Result<Vec<u32>> {
        let mut family = vec![self.child.id()];
        let mut next = 0;
        while let Some(&pid) = family.get(next) {
            family.extend(children(pid)?);
            next += 1;
        }
        Ok(family)
    }

    fn attach(&mut self, seconds: u64) -> Result<()> {
        let mut strace = Command::new("timeout");
        strace.args(["--signal=INT", &(seconds + 1).to_string(), "strace", "-f", "-ttt", "-o"]);
        strace.arg(&self.trace);
        for pid in self.family()? {
            strace.args(["-p", &pid.to_string()]);
        }
        let errors = std::fs::File::create(self.trace.with_extension("errors"))?;
        self.strace = Some(strace.stdout(Stdio::null()).stderr(errors).spawn()?);
        Ok(())
    }

    fn count(mut self) -> Result<u64> {
        let mut strace = self.strace.take().ok_or("never attached")?;
        let status = strace.wait()?;
        // What `timeout` says when it sent the signal.
        let errors = std::fs::read_to_string(self.trace.with_extension("errors"))?;
        ensure(status.code() == Some(124), || format!("strace: {status}: {errors}"))?;
        ensure(errors.contains("attached"), || format!("strace did not attach: {errors}"))?;
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure(status.success(), || format!("an idle child: {status}"))?;
        Ok(begun(&std::fs::read_to_string(&self.trace)?))
    }
}

/// The calls that begin in a trace of `strace -f -ttt`, those of attaching and detaching apart.
fn begun(trace: &str) -> u64 {
    let lines = trace.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (_, time) = (words.next()?, words.next()?.parse::<f64>().ok()?);
        Some((time, words.next()?, line))
    });
    let lines: Vec<_> = lines.collect();
    let Some(start) = lines.first().map(|line| line.0) else { return 0 };
    let own = |line: &str| line.contains("resumed>") || line.contains("<detached ...>");
    let calls = lines
        .iter()
        .filter(|(time, call, line)| *time > start + ATTACH_S && call.contains('(') && !own(line));
    calls.count() as u64
}

#[cfg(test)]
mod tests {
    use super::begun;

    #[test]
    fn calls_are_counted_where_they_begin_and_attaching_is_not_one() {
        let trace = "\
7 100.1 read(0,  <unfinished ...>
8 100.2 restart_syscall(<... resuming interrupted futex ...> <unfinished ...>
9 102.0 futex(0x7f, FUTEX_WAIT, 1, NULL <unfinished ...>
9 103.0 <... futex resumed>) = -1 ETIMEDOUT
9 103.1 fdatasync(3) = 0
9 103.2 --- SIGINT {si_signo=SIGINT} ---
9 104.0 futex(0x7f, FUTEX_WAIT, 1, NULL <detached ...>
";
        assert_eq!(begun(trace), 2);
        assert_eq!(begun(""), 0);
    }
}
