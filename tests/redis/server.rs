//! A Redis server of its own in a scratch directory, on a port of loopback.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult, Value};
use tempfile::TempDir;

/// How long anything may take that comes by itself.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Looks until something is there.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "no {what} within {SOON:?}");
        std::thread::yield_now();
    }
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Stands for the directory of a server in front of its command.
const DIR: &str = "DIR";

pub(crate) struct Server {
    process: Option<Child>,
    host: String,
    port: u16,
    /// In front of the server's own command: how to get into another network.
    inside: Vec<String>,
    settings: Vec<String>,
    dir: TempDir,
}

impl Server {
    /// Starts a server with settings beyond those of all, as `name value` words.
    pub(crate) fn start(settings: &[&str]) -> Server {
        Server::start_in(&[], "127.0.0.1", free_port(), settings)
    }

    /// The same with its files on 4 MiB of a file system of its own, half of which is taken by a
    /// file that can be removed.
    pub(crate) fn start_on_a_small_disk(settings: &[&str]) -> Server {
        const MOUNT: &str = "mount -t tmpfs -o size=4m tmpfs \"$0\" && \
             head -c 2097152 /dev/zero >\"$0/room\" && cd \"$0\" && exec \"$@\"";
        let inside = ["unshare", "--mount", "sh", "-c", MOUNT, DIR];
        Server::start_in(&inside, "127.0.0.1", free_port(), settings)
    }

    pub(crate) fn make_room(&self) {
        let pid = self.process.as_ref().expect("it runs").id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &pid, "rm"]).arg(self.dir.path().join("room"));
        assert!(command.status().unwrap().success());
    }

    pub(crate) fn start_in(inside: &[&str], host: &str, port: u16, settings: &[&str]) -> Server {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let mut server = Server {
            process: None,
            host: host.to_owned(),
            port,
            inside: owned(inside),
            settings: owned(settings),
            dir: tempfile::tempdir().unwrap(),
        };
        server.launch();
        server
    }

    /// Starts the process, in the directory that is there.
    pub(crate) fn launch(&mut self) {
        let dir = self.dir.path().to_str().expect("a plain name");
        let inside = self.inside.iter().map(|word| if word == DIR { dir } else { word });
        let mut words: Vec<String> = inside.map(str::to_owned).collect();
        // The kernel ends the server with the test, however that ends.
        words.extend(["setpriv", "--pdeathsig", "KILL", "redis-server"].map(str::to_owned));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.args(["--port", &self.port.to_string(), "--bind", &self.host]);
        command.args(["--protected-mode", "no", "--save", "", "--loglevel", "warning"]);
        command.arg("--dir").arg(self.dir.path()).args(["--logfile", "log"]);
        for setting in self.settings.chunks(2) {
            command.arg(format!("--{}", setting[0])).arg(&setting[1]);
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        self.process = Some(process.expect("Debian's redis-server and util-linux are installed"));
        wait_for("server", || {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert_eq!(ended, None, "redis-server starts: {}", self.log());
            self.try_ask::<String>(&["PING"]).ok()
        });
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    pub(crate) fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut connection)
    }

    /// Asks a server that is there.
    pub(crate) fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let told = self.try_ask(words);
        told.unwrap_or_else(|error| panic!("{words:?} on {}: {error}", self.port))
    }

    /// Makes all keys look as if this time had passed since they were written. All that the store
    /// knows of time is what a key has left, so that this is what passing time does.
    pub(crate) fn pass(&self, time: Duration) {
        self.pass_for("*", time);
    }

    /// The same for the keys that match a pattern.
    pub(crate) fn pass_for(&self, pattern: &str, time: Duration) {
        const SCRIPT: &str = "for _, key in ipairs(redis.call('KEYS', ARGV[2])) do
            redis.call('PEXPIRE', key, redis.call('PTTL', key) - ARGV[1]) end";
        let ms = time.as_millis().to_string();
        self.ask::<Value>(&["EVAL", SCRIPT, "0", &ms, pattern]);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let process = self.process.as_ref().expect("it runs");
        let pid = rustix::process::Pid::from_child(process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops the server from doing anything, until it is resumed.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it has not been waited for");
            process.wait().expect("it was started");
        }
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
