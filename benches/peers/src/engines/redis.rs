//! Redis over loopback with an append-only file: `SET NX GET` claims, `SET XX` completes, and the
//! expiry is its own.

use redis::{Client, Connection};

use super::kv::{decide, encode, expires_ms};
use super::server::{self, Server};
use super::{Durability, Engine, Grant, Outcome, Result, Session, Setup};
use crate::workload::{Request, TTL_MS};

pub struct Redis {
    client: Client,
    server: Server,
}

/// The version of the server that is installed, if one is.
pub fn version() -> Option<String> {
    let text = server::version("redis-server")?;
    text.split_whitespace().find_map(|word| word.strip_prefix("v=")).map(str::to_owned)
}

impl Redis {
    pub fn open(setup: &Setup) -> Result<Redis> {
        let port = server::free_port()?;
        let client = Client::open(format!("redis://127.0.0.1:{port}"))?;
        let fsync = match setup.durability {
            Durability::Buffered => "everysec",
            Durability::Synced => "always",
        };
        let mut command = std::process::Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]);
        command.arg(&setup.dir).args(["--appendonly", "yes", "--appendfsync", fsync]);
        command.args(["--save", "", "--maxclients", "1000"]);
        command.stdout(std::fs::File::create(setup.dir.join("server.log"))?);
        let (server, _) = Server::start(&mut command, || {
            let mut connection = client.get_connection()?;
            // Refused while the file is loaded.
            Ok(redis::cmd("DBSIZE").query::<u64>(&mut connection)?)
        })?;
        Ok(Redis { client, server })
    }
}

impl Engine for Redis {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        let connection = self.client.get_connection()?;
        Ok(Box::new(RedisSession { connection, value: Vec::new() }))
    }

    fn sync(&self) -> Result<()> {
        // WAITAOF came with 7.2; a second and a sync pass under `everysec`.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        Ok(())
    }

    fn server(&self) -> Option<u32> {
        Some(self.server.pid())
    }

    fn crash(&self) -> Result<()> {
        self.server.crash()
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.server.stop(|| {
            let mut connection = self.client.get_connection()?;
            // The connection ends without an answer.
            redis::cmd("SHUTDOWN").query::<()>(&mut connection).ok();
            Ok(())
        })
    }
}

struct RedisSession {
    connection: Connection,
    value: Vec<u8>,
}

impl Session for RedisSession {
    fn claim(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        encode(&mut self.value, request, None);
        let mut set = redis::cmd("SET");
        set.arg(request.key()).arg(&self.value[..]).arg("NX").arg("GET").arg("PX").arg(TTL_MS);
        match set.query::<Option<Vec<u8>>>(&mut self.connection)? {
            None => Ok(Outcome::Granted(Grant::Row)),
            Some(value) => decide(&value, request, out)?.ok_or_else(|| "the key is past".into()),
        }
    }

    fn complete(&mut self, request: &Request, _: Grant, response: &[u8]) -> Result<()> {
        encode(&mut self.value, request, Some(response));
        let mut set = redis::cmd("SET");
        set.arg(request.key()).arg(&self.value[..]).arg("XX").arg("PX").arg(TTL_MS);
        match set.query::<Option<String>>(&mut self.connection)? {
            Some(_) => Ok(()),
            None => Err("a claim is gone".into()),
        }
    }

    fn replay(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let mut get = redis::cmd("GET");
        let value = get.arg(request.key()).query::<Option<Vec<u8>>>(&mut self.connection)?;
        let value = value.ok_or("the key is not there")?;
        decide(&value, request, out)?.ok_or_else(|| "the key is past".into())
    }

    fn lookup(&mut self, request: &Request) -> Result<bool> {
        let mut get = redis::cmd("GET");
        let value = get.arg(request.key()).query::<Option<Vec<u8>>>(&mut self.connection)?;
        Ok(value.and_then(|value| expires_ms(&value)).is_some_and(|ms| ms > request.now_ms))
    }
}
