//! The process under test: this binary, run again, which tells on a pipe what it was promised.
//!
//! ```text
//! O, P                                 about to open the store; progress of the open
//! C key token operation begun told     a claim was granted
//! S key begun told                     its checkpoint was saved
//! I key                                about to complete or release: the end is in doubt
//! D key begun told, R key begun told   the completion, the release was acknowledged
//! N key begun told                     the completion was, and there was no room for the response
//! E kind what                          a call failed, and how
//! . anything                           what only one job understands
//! ```
//! *begun* and *told* are microseconds of the monotonic clock, before and after the call.
//! One line is one write, far below the size up to which a pipe never tears it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};

use oncelog::Error;

use crate::limits::Limit;

/// Which job the child is for.
const JOB: &str = "ONCELOG_KERNEL_JOB";
const DIR: &str = "ONCELOG_KERNEL_DIR";

/// The body of the child process; nothing when it runs as a test among the others.
#[test]
fn child() {
    let Ok(job) = std::env::var(JOB) else { return };
    let dir = PathBuf::from(std::env::var(DIR).expect("a child has a directory"));
    match job.as_str() {
        "load" => crate::load::child(&dir),
        "stopped" => crate::stopped::child(&dir),
        "rivals" => crate::stopped::rivals(&dir),
        "address_space" => crate::limits::child(&dir, Limit::AddressSpace),
        "descriptors" => crate::limits::child(&dir, Limit::Descriptors),
        "descriptors_before_open" => crate::limits::child(&dir, Limit::DescriptorsBeforeOpen),
        #[cfg(feature = "http")]
        "network" => crate::handover::network(&dir),
        #[cfg(feature = "http")]
        "handover" => crate::handover::child(&dir),
        "script" => crate::injected::script(&dir),
        other => panic!("no such job: {other}"),
    }
}

/// This binary as a child, or a tool that runs it.
pub(crate) fn command(tool: &[&str], job: &str, dir: &Path) -> Command {
    let own = std::env::current_exe().expect("a test knows its binary");
    let mut command = match tool {
        [] => Command::new(own),
        [tool, arguments @ ..] => {
            let mut command = Command::new(tool);
            command.args(arguments).arg(own);
            command
        }
    };
    command.args(["--exact", "child::child", "--nocapture", "--test-threads=1"]);
    command.env(JOB, job).env(DIR, dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A child that runs, killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pipe: Option<BufReader<ChildStderr>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Running {
        let child = command.spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let pipe = BufReader::new(child.stderr.take().expect("it is piped"));
        Running { child, pipe: Some(pipe) }
    }

    /// The next line; none once the child has ended.
    pub(crate) fn line(&mut self) -> Option<String> {
        next_line(self.pipe.as_mut().expect("nobody took it"))
    }

    /// The lines, for a thread that reads them.
    pub(crate) fn take_pipe(&mut self) -> BufReader<ChildStderr> {
        self.pipe.take().expect("nobody took it")
    }

    /// All the lines that are left.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.line()).collect()
    }

    pub(crate) fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("it is piped")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).expect("the child was not waited for");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the child was not waited for");
    }

    /// Waits for the end of a child whose lines were read.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.child.wait().expect("the child was not waited for")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A child that has ended cannot be killed, and that is as good.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The next line of a child; none once it has ended.
pub(crate) fn next_line(pipe: &mut BufReader<ChildStderr>) -> Option<String> {
    let mut line = String::new();
    if pipe.read_line(&mut line).expect("a child tells text") == 0 {
        return None;
    }
    assert_eq!(line.pop(), Some('\n'), "a torn line: {line}");
    Some(line)
}

/// Tells the parent; standard error has no buffer, and the test harness never writes there.
pub(crate) fn tell(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("the parent listens");
}

/// Tells of a call that failed.
pub(crate) fn tell_error(what: &str, error: &Error) {
    tell(&format!("E {} {what}: {error}", kind(error)));
}

/// The name of an error's variant.
pub(crate) fn kind(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } => "Io",
        Error::Corrupt { .. } => "Corrupt",
        Error::AlreadyOpen { .. } => "AlreadyOpen",
        Error::Full { .. } => "Full",
        Error::TooLarge { .. } => "TooLarge",
        Error::Superseded => "Superseded",
        Error::Version { .. } => "Version",
        Error::Poisoned { .. } => "Poisoned",
        Error::Closed => "Closed",
        Error::Invalid { .. } => "Invalid",
        Error::Missing { .. } => "Missing",
        _ => "Unknown",
    }
}

/// Microseconds of the monotonic clock, which all processes share.
pub(crate) fn micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned());
    seconds * 1_000_000 + nanos / 1_000
}
