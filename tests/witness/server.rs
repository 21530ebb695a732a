//! A PostgreSQL server of its own in a scratch directory, on a Unix socket, and sessions of it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::programs::{as_postgres, programs, succeed};

pub(crate) struct Postgres {
    dir: TempDir,
}

impl Postgres {
    pub(crate) fn start() -> Postgres {
        assert!(rustix::process::geteuid().is_root(), "wants root, to become the user postgres");
        let dir = tempfile::tempdir().unwrap();
        succeed(Command::new("chown").arg("postgres:").arg(dir.path()));
        let data = dir.path().join("data");
        let initdb = programs().join("initdb");
        succeed(as_postgres(&initdb).args(["--no-sync", "--auth=trust", "-D"]).arg(&data));
        let postgres = Postgres { dir };
        let options = format!("-F -h '' -k {}", postgres.dir.path().display());
        let log = postgres.dir.path().join("log");
        let mut start = as_postgres(&programs().join("pg_ctl"));
        start.args(["start", "-w", "-o", &options, "-l"]).arg(log).arg("-D").arg(&data);
        // The server keeps what it inherits, so nothing waits for the end of a pipe.
        let started = start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(started.success(), "PostgreSQL starts");
        postgres
    }

    pub(crate) fn session(&self) -> Session {
        let mut psql = Command::new(programs().join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-U", "postgres", "-h"]).arg(self.dir.path());
        let mut psql = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let asks = psql.stdin.take().unwrap();
        let tells = BufReader::new(psql.stdout.take().unwrap());
        Session { psql, asks, tells }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = as_postgres(&programs().join("pg_ctl"));
        stop.args(["stop", "-m", "immediate", "-w", "-D"]).arg(self.dir.path().join("data"));
        succeed(&mut stop);
    }
}

/// What a statement did.
#[derive(Debug, PartialEq)]
pub(crate) struct Did {
    pub(crate) state: String,
    pub(crate) changed: u64,
    pub(crate) rows: Vec<String>,
}

/// One connection.
pub(crate) struct Session {
    psql: Child,
    asks: ChildStdin,
    tells: BufReader<ChildStdout>,
}

impl Session {
    /// Sends a statement, whose answer is to be received.
    pub(crate) fn send(&mut self, statement: &str) {
        writeln!(self.asks, "{statement};\n\\echo end :SQLSTATE :ROW_COUNT").unwrap();
    }

    pub(crate) fn receive(&mut self) -> Did {
        let mut rows = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.tells.read_line(&mut line).unwrap(), 0, "psql ended");
            let line = line.trim_end_matches('\n');
            let Some(end) = line.strip_prefix("end ") else {
                rows.push(line.to_owned());
                continue;
            };
            let (state, changed) = end.split_once(' ').expect("a state and a count");
            return Did { state: state.to_owned(), changed: changed.parse().unwrap(), rows };
        }
    }

    pub(crate) fn ask(&mut self, statement: &str) -> Did {
        self.send(statement);
        self.receive()
    }

    /// The same for what cannot fail.
    pub(crate) fn must(&mut self, statement: &str) -> Did {
        let did = self.ask(statement);
        assert_eq!(did.state, "00000", "{statement}");
        did
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.psql.kill().expect("it has not been waited for");
        self.psql.wait().expect("it was started");
    }
}
