//! PostgreSQL over loopback: `INSERT ... ON CONFLICT` claims, prepared once a connection.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use postgres::{Client, Config, NoTls, Statement};

use super::server::{self, Server};
use super::{Durability, Engine, Grant, Outcome, Result, Session, Setup};
use crate::workload::Request;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS claims (
    scope bytea PRIMARY KEY,
    fingerprint bytea NOT NULL,
    expires_ms bigint NOT NULL,
    response bytea
)";
const EXPIRY: &str = "CREATE INDEX IF NOT EXISTS expiry ON claims (expires_ms)";
const CLAIM: &str = "INSERT INTO claims VALUES ($1, $2, $3, NULL)
    ON CONFLICT (scope) DO UPDATE
    SET fingerprint = $2, expires_ms = $3, response = NULL WHERE claims.expires_ms <= $4";
const COMPLETE: &str = "UPDATE claims SET response = $2 WHERE scope = $1";
const READ: &str = "SELECT fingerprint, expires_ms, response FROM claims WHERE scope = $1";
const FIND: &str = "SELECT 1 FROM claims WHERE scope = $1 AND expires_ms > $2";
const EXPIRE: &str = "DELETE FROM claims WHERE ctid = ANY (ARRAY
    (SELECT ctid FROM claims WHERE expires_ms <= $1 ORDER BY expires_ms LIMIT 1000))";
const USER: &str = "bench";

pub struct Postgres {
    config: Config,
    server: Server,
    data: PathBuf,
}

/// The version of the server that is installed, if it is with what starts one.
pub fn version() -> Option<String> {
    server::find("initdb")?;
    server::find("pg_ctl")?;
    let text = server::version("postgres")?;
    text.split_whitespace().nth(2).map(str::to_owned)
}

/// A command that runs as the owner of the files: the server refuses to be root.
fn command(program: &str, data: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    if let Some((user, group)) = unprivileged()? {
        command.uid(user).gid(group);
        chown(data, Some(user), Some(group))?;
    }
    command.current_dir("/");
    Ok(command)
}

/// User and group `postgres`, where this process is root.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let user = users.lines().find(|line| line.starts_with("postgres:"));
    let mut fields = user.ok_or("root needs a user `postgres`")?.split(':').skip(2);
    let mut id = || fields.next().and_then(|id| id.parse().ok()).ok_or("a broken /etc/passwd");
    Ok(Some((id()?, id()?)))
}

impl Postgres {
    pub fn open(setup: &Setup) -> Result<Postgres> {
        let data = setup.dir.join("postgres");
        std::fs::create_dir_all(&data)?;
        if !data.join("PG_VERSION").exists() {
            let mut initdb = command("initdb", &data)?;
            initdb.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "-U", USER, "-D"]);
            let output = initdb.arg(&data).output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into());
            }
        }
        let port = server::free_port()?;
        let commit = match setup.durability {
            Durability::Buffered => "off",
            Durability::Synced => "on",
        };
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).user(USER).dbname("postgres");
        let mut server = command("postgres", &data)?;
        server.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        for option in [
            "unix_socket_directories=",
            "shared_buffers=2GB",
            "max_connections=300",
            "max_wal_size=4GB",
            "checkpoint_timeout=15min",
            &format!("synchronous_commit={commit}"),
        ] {
            server.args(["-c", option]);
        }
        server.stderr(std::fs::File::create(setup.dir.join("server.log"))?);
        let (server, mut client) = Server::start(&mut server, || Ok(config.connect(NoTls)?))?;
        client.batch_execute(SCHEMA)?;
        if setup.expires {
            client.batch_execute(EXPIRY)?;
        }
        Ok(Postgres { config, server, data })
    }
}

impl Engine for Postgres {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        let mut client = self.config.connect(NoTls)?;
        let mut statement = |text| client.prepare(text);
        let (claim, complete) = (statement(CLAIM)?, statement(COMPLETE)?);
        let (read, find) = (statement(READ)?, statement(FIND)?);
        Ok(Box::new(PostgresSession { client, claim, complete, read, find }))
    }

    fn sync(&self) -> Result<()> {
        // A durable commit takes all that were not with it.
        let mut client = self.config.connect(NoTls)?;
        Ok(client.batch_execute(
            "SET synchronous_commit = on; CREATE TABLE IF NOT EXISTS synced (at bigint); \
             INSERT INTO synced VALUES (1);",
        )?)
    }

    fn expire(&self, now_ms: u64) -> Result<Option<u64>> {
        let mut client = self.config.connect(NoTls)?;
        let (now_ms, mut removed) = (i64::try_from(now_ms)?, 0);
        let expire = client.prepare(EXPIRE)?;
        loop {
            match client.execute(&expire, &[&now_ms])? {
                0 => return Ok(Some(removed)),
                found => removed += found,
            }
        }
    }

    fn server(&self) -> Option<u32> {
        Some(self.server.pid())
    }

    fn crash(&self) -> Result<()> {
        self.server.crash()
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.server.stop(|| {
            let mut stop = command("pg_ctl", &self.data)?;
            let stop = stop.args(["stop", "--no-wait", "-m", "fast", "-D"]).arg(&self.data);
            let output = stop.output()?;
            match output.status.success() {
                true => Ok(()),
                false => Err(String::from_utf8_lossy(&output.stderr).into()),
            }
        })
    }
}

struct PostgresSession {
    client: Client,
    claim: Statement,
    complete: Statement,
    read: Statement,
    find: Statement,
}

impl Session for PostgresSession {
    fn claim(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let expires_ms = i64::try_from(request.expires_ms())?;
        let now_ms = i64::try_from(request.now_ms)?;
        let (key, fingerprint) = (request.key(), request.fingerprint.as_slice());
        let inserted =
            self.client.execute(&self.claim, &[&key, &fingerprint, &expires_ms, &now_ms])?;
        if inserted == 1 {
            return Ok(Outcome::Granted(Grant::Row));
        }
        self.replay(request, out)
    }

    fn complete(&mut self, request: &Request, _: Grant, response: &[u8]) -> Result<()> {
        match self.client.execute(&self.complete, &[&request.key(), &response])? {
            1 => Ok(()),
            _ => Err("a claim is gone".into()),
        }
    }

    fn replay(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let row = self.client.query_opt(&self.read, &[&request.key()])?;
        let row = row.ok_or("the key is not there")?;
        if row.get::<_, i64>(1) <= i64::try_from(request.now_ms)? {
            return Err("the key is past".into());
        }
        if row.get::<_, &[u8]>(0) != request.fingerprint {
            return Ok(Outcome::Conflict);
        }
        let Some(response) = row.get::<_, Option<&[u8]>>(2) else {
            return Ok(Outcome::InProgress);
        };
        out.clear();
        out.extend_from_slice(response);
        Ok(Outcome::Replay)
    }

    fn lookup(&mut self, request: &Request) -> Result<bool> {
        let now_ms = i64::try_from(request.now_ms)?;
        Ok(self.client.query_opt(&self.find, &[&request.key(), &now_ms])?.is_some())
    }
}
