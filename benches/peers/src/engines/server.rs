//! The servers: found on the path, started on a directory and port of their own, ended with the
//! engine.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Result;
use crate::measure::children;

/// How long a server may take to answer, recovery included.
const START_MAX: Duration = Duration::from_secs(300);

/// A program on the path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// What a program says of its version.
pub fn version(program: &str) -> Option<String> {
    let output = Command::new(find(program)?).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A port that is free now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

pub struct Server {
    child: Mutex<Child>,
    pid: u32,
}

impl Server {
    /// Starts a server, and tries to reach it until it answers.
    pub fn start<T>(
        command: &mut Command,
        mut reach: impl FnMut() -> Result<T>,
    ) -> Result<(Server, T)> {
        let child = command.spawn()?;
        let server = Server { pid: child.id(), child: Mutex::new(child) };
        let start = Instant::now();
        loop {
            let error = match reach() {
                Ok(reached) => return Ok((server, reached)),
                Err(error) => error,
            };
            if let Some(status) = server.child.lock().try_wait()? {
                return Err(format!("the server ended by itself: {status}").into());
            }
            if start.elapsed() > START_MAX {
                return Err(format!("the server does not answer: {error}").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills the server, and waits until its children have seen it.
    pub fn crash(&self) -> Result<()> {
        let children = children(self.pid)?;
        let mut child = self.child.lock();
        child.kill()?;
        child.wait()?;
        let gone = |pid: &u32| !Path::new(&format!("/proc/{pid}")).exists();
        while !children.iter().all(gone) {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Asks the server to end, with a command or a signal that `ask` sends, and waits for it.
    pub fn stop(&self, ask: impl FnOnce() -> Result<()>) -> Result<()> {
        ask()?;
        let status = self.child.lock().wait()?;
        if status.success() { Ok(()) } else { Err(format!("the server ended: {status}").into()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut child = self.child.lock();
        // Ended before, where the engine was closed; else an error is on its way up.
        if matches!(child.try_wait(), Ok(None)) {
            child.kill().and_then(|()| child.wait()).ok();
        }
    }
}
