//! SQLite with a write-ahead log: one connection that writes, one for each thread that reads.

use std::path::PathBuf;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::{CACHE_BYTES, Durability, Engine, Grant, Outcome, Result, Session, Setup};
use crate::workload::Request;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS claims (
    scope BLOB PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    response BLOB
)";
const EXPIRY: &str = "CREATE INDEX IF NOT EXISTS expiry ON claims (expires_ms)";
const CLAIM: &str = "INSERT INTO claims VALUES (?1, ?2, ?3, NULL)
    ON CONFLICT (scope) DO UPDATE
    SET fingerprint = ?2, expires_ms = ?3, response = NULL WHERE expires_ms <= ?4";
const COMPLETE: &str = "UPDATE claims SET response = ?2 WHERE scope = ?1";
const READ: &str = "SELECT fingerprint, expires_ms, response FROM claims WHERE scope = ?1";
const FIND: &str = "SELECT 1 FROM claims WHERE scope = ?1 AND expires_ms > ?2";
/// Rows deleted in one transaction.
const EXPIRE: &str = "DELETE FROM claims WHERE rowid IN
    (SELECT rowid FROM claims WHERE expires_ms <= ?1 ORDER BY expires_ms LIMIT 1000)";

pub struct Sqlite {
    path: PathBuf,
    durability: Durability,
    writer: Mutex<Connection>,
}

impl Sqlite {
    pub fn open(setup: &Setup) -> Result<Sqlite> {
        let path = setup.dir.join("claims.sqlite");
        let writer = connect(&path, setup.durability)?;
        writer.execute_batch(SCHEMA)?;
        if setup.expires {
            writer.execute_batch(EXPIRY)?;
        }
        Ok(Sqlite { path, durability: setup.durability, writer: Mutex::new(writer) })
    }
}

fn connect(path: &std::path::Path, durability: Durability) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(60))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let synchronous = match durability {
        Durability::Buffered => "NORMAL",
        Durability::Synced => "FULL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "mmap_size", CACHE_BYTES as i64)?;
    // Negative: in KiB. The pages of readers come from the map.
    connection.pragma_update(None, "cache_size", -65_536)?;
    Ok(connection)
}

impl Engine for Sqlite {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        let reader = connect(&self.path, self.durability)?;
        Ok(Box::new(SqliteSession { engine: self, reader }))
    }

    fn sync(&self) -> Result<()> {
        let writer = self.writer.lock();
        Ok(writer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?)
    }

    fn expire(&self, now_ms: u64) -> Result<Option<u64>> {
        let (now_ms, mut removed) = (i64::try_from(now_ms)?, 0);
        loop {
            let writer = self.writer.lock();
            let found = writer.prepare_cached(EXPIRE)?.execute([now_ms])?;
            removed += found as u64;
            if found == 0 {
                return Ok(Some(removed));
            }
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.writer.into_inner().close().map_err(|(_, error)| error.into())
    }
}

struct SqliteSession<'a> {
    engine: &'a Sqlite,
    reader: Connection,
}

impl Session for SqliteSession<'_> {
    fn claim(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let (expires, now) = (i64::try_from(request.expires_ms())?, i64::try_from(request.now_ms)?);
        let writer = self.engine.writer.lock();
        let mut claim = writer.prepare_cached(CLAIM)?;
        if claim.execute(params![request.key(), request.fingerprint, expires, now])? == 1 {
            return Ok(Outcome::Granted(Grant::Row));
        }
        read(&writer, request, out)
    }

    fn complete(&mut self, request: &Request, _: Grant, response: &[u8]) -> Result<()> {
        let writer = self.engine.writer.lock();
        match writer.prepare_cached(COMPLETE)?.execute(params![request.key(), response])? {
            1 => Ok(()),
            _ => Err("a claim is gone".into()),
        }
    }

    fn replay(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        read(&self.reader, request, out)
    }

    fn lookup(&mut self, request: &Request) -> Result<bool> {
        let mut find = self.reader.prepare_cached(FIND)?;
        let now = i64::try_from(request.now_ms)?;
        Ok(find.query_row(params![request.key(), now], |_| Ok(())).optional()?.is_some())
    }
}

fn read(connection: &Connection, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
    let mut read = connection.prepare_cached(READ)?;
    let mut rows = read.query([request.key()])?;
    let row = rows.next()?.ok_or("the key is not there")?;
    if row.get::<_, i64>(1)? <= i64::try_from(request.now_ms)? {
        return Err("the key is past".into());
    }
    if row.get_ref(0)?.as_blob()? != request.fingerprint {
        return Ok(Outcome::Conflict);
    }
    let Some(response) = row.get_ref(2)?.as_blob_or_null()? else {
        return Ok(Outcome::InProgress);
    };
    out.clear();
    out.extend_from_slice(response);
    Ok(Outcome::Replay)
}
