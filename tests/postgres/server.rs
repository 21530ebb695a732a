//! PostgreSQL servers in scratch directories, on Unix sockets: started, killed, paused, promoted.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use oncelog::cluster::{PostgresOptions, PostgresStore};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::programs::{as_postgres, programs, succeed};

/// A server, which stops when it is dropped.
pub(crate) struct Server {
    dir: TempDir,
    data: PathBuf,
}

/// What the tests do not wait for a disk for: none of them cuts the power.
const NO_SYNC: &str = "-c fsync=off";

impl Server {
    /// A server for the tests that need nothing of it but to be there: one for all that run.
    pub(crate) fn shared() -> Arc<Server> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start(NO_SYNC));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    pub(crate) fn start(options: &str) -> Server {
        let dir = scratch();
        let data = dir.path().join("data");
        let server = Server { dir, data };
        server.init();
        server.run(options);
        server
    }

    fn init(&self) {
        let initdb = programs().join("initdb");
        succeed(as_postgres(&initdb).args(["--no-sync", "--auth=trust", "-D"]).arg(&self.data));
    }

    /// A standby of `primary` that streams from it, and is named in its settings by `name`.
    pub(crate) fn standby_of(primary: &Server, name: &str, options: &str) -> Server {
        let dir = scratch();
        let data = dir.path().join("data");
        let server = Server { dir, data };
        server.follow(primary, name);
        server.run(options);
        server
    }

    /// Makes this server, which does not run, a standby anew.
    pub(crate) fn follow(&self, primary: &Server, name: &str) {
        succeed(Command::new("rm").arg("-rf").arg(&self.data));
        let from = format!("{} application_name={name}", primary.url());
        let mut backup = as_postgres(&programs().join("pg_basebackup"));
        backup.args(["--no-sync", "-R", "-c", "fast", "-X", "stream", "-d", &from, "-D"]);
        succeed(backup.arg(&self.data));
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn run(&self, options: &str) {
        let options =
            format!("-h '' -k {} -c max_connections=200 {options}", self.dir.path().display());
        let log = self.dir.path().join("log");
        let mut start = as_postgres(&programs().join("pg_ctl"));
        start.args(["start", "-w", "-o", &options, "-l"]).arg(&log).arg("-D").arg(&self.data);
        // The server keeps what it inherits, so nothing waits for the end of a pipe.
        let started = start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(started.success(), "{}", read(&log));
    }

    pub(crate) fn promote(&self) {
        let mut promote = as_postgres(&programs().join("pg_ctl"));
        succeed(promote.args(["promote", "-w", "-D"]).arg(&self.data));
    }

    /// The whole server at once, as a power cut that spares the disk: the kernel is still there.
    pub(crate) fn kill(&self) {
        let postmaster = self.postmaster();
        self.pause();
        for pid in children(postmaster).into_iter().chain([postmaster]) {
            kill_process(pid, Signal::KILL).ok();
        }
        while Path::new(&format!("/proc/{}", postmaster.as_raw_nonzero())).exists() {
            std::thread::yield_now();
        }
    }

    /// Stops every process of the server where it is: first the one that starts the others.
    pub(crate) fn pause(&self) {
        let postmaster = self.postmaster();
        kill_process(postmaster, Signal::STOP).unwrap();
        let stat = format!("/proc/{}/stat", postmaster.as_raw_nonzero());
        while !read(Path::new(&stat)).contains(") T ") {
            std::thread::yield_now();
        }
        for pid in children(postmaster) {
            kill_process(pid, Signal::STOP).ok();
        }
    }

    /// Lets them go on.
    pub(crate) fn go_on(&self) {
        let postmaster = self.postmaster();
        for pid in children(postmaster).into_iter().chain([postmaster]) {
            kill_process(pid, Signal::CONT).ok();
        }
    }

    fn postmaster(&self) -> Pid {
        let file = read(&self.data.join("postmaster.pid"));
        let pid = file.lines().next().expect("its first line").parse().expect("a process id");
        Pid::from_raw(pid).expect("a process id is not 0")
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        read(&self.dir.path().join("log"))
    }

    pub(crate) fn url(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.dir.path().display())
    }

    /// A connection outside of any pool.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await;
        let (client, connection) = connected.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs statements.
    pub(crate) async fn sql(&self, statements: &str) {
        self.client().await.batch_execute(statements).await.unwrap();
    }

    /// The first column of the first row, as text.
    pub(crate) async fn tell(&self, statement: &str) -> String {
        let told = self.client().await.simple_query(statement).await.unwrap();
        let row = told.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        row.unwrap_or_default().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            // A test that failed may have left it paused, where it would never stop.
            self.go_on();
            let mut stop = as_postgres(&programs().join("pg_ctl"));
            // One that was killed does not run any more, which is as well.
            stop.args(["stop", "-m", "immediate", "-w", "-D"]).arg(&self.data).output().ok();
        }
    }
}

fn scratch() -> TempDir {
    assert!(rustix::process::geteuid().is_root(), "wants root, to become the user postgres");
    let dir = tempfile::tempdir().unwrap();
    succeed(Command::new("chown").arg("postgres:").arg(dir.path()));
    dir
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn children(of: Pid) -> Vec<Pid> {
    let of = of.as_raw_nonzero();
    let pids = read(Path::new(&format!("/proc/{of}/task/{of}/children")));
    pids.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// A schema that no other test has.
pub(crate) fn fresh_schema() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("store_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) const TTL: Duration = Duration::from_secs(3600);

pub(crate) fn options(schema: &str) -> PostgresOptions {
    PostgresStore::options().schema(schema).ttl(TTL).connections(8)
}

/// Puts the clock of a store forward by `seconds`, from the real time on.
pub(crate) async fn shift(server: &Server, schema: &str, seconds: u64) {
    server
        .sql(&format!(
            "CREATE OR REPLACE FUNCTION {schema}.now() RETURNS timestamptz LANGUAGE sql STABLE
             RETURN pg_catalog.statement_timestamp() + '{seconds} seconds'::interval"
        ))
        .await;
}

/// Opens the next generation of a store.
pub(crate) async fn rotate(server: &Server, schema: &str) {
    server
        .sql(&format!(
            "SELECT {schema}.rotate(generation) FROM {schema}.generation WHERE closed_at IS NULL"
        ))
        .await;
}
