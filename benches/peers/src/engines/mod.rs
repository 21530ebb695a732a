//! What is measured: the engines, behind one trait, each used as its documentation advises.

pub mod bounds;
pub mod commit;
pub mod fjall;
pub mod grouped;
pub mod kv;
pub mod lmdb;
pub mod oncelog;
pub mod postgres;
pub mod redb;
pub mod redis;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
pub mod server;
pub mod sqlite;
pub mod ticker;

use std::path::PathBuf;
use std::time::Duration;

use crate::workload::Request;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;

/// How often what is buffered is synced, where an engine lets that be chosen.
pub const SYNC_EVERY: Duration = Duration::from_millis(100);
/// The cache of every engine that has one of its own.
pub const CACHE_BYTES: u64 = 2 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged once the operating system has it.
    Buffered,
    /// Acknowledged once the disk has it.
    Synced,
}

/// How an engine is opened.
#[derive(Clone)]
pub struct Setup {
    pub durability: Durability,
    pub dir: PathBuf,
    /// Whether a peer keeps an index by expiry, from which it deletes.
    pub expires: bool,
    /// Keys to make room for ahead; 0 to grow.
    pub reserve: u64,
    /// The time of oncelog, where the row moves it.
    pub clock: Option<::oncelog::ManualClock>,
}

/// The answer to a claim. The response of a replay is in the buffer of the call.
pub enum Outcome {
    Granted(Grant),
    Replay,
    InProgress,
    Conflict,
}

impl Outcome {
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Granted(_) => "granted",
            Outcome::Replay => "a replay",
            Outcome::InProgress => "in progress",
            Outcome::Conflict => "a conflict",
        }
    }
}

/// What a caller holds until it completes.
pub enum Grant {
    /// A row that says so.
    Row,
    Permit(::oncelog::Permit),
}

/// An open engine.
pub trait Engine: Send + Sync {
    /// What one thread uses: a connection, where there are some.
    fn session(&self) -> Result<Box<dyn Session + '_>>;

    /// Makes everything durable and lets background work settle; never timed.
    fn sync(&self) -> Result<()>;

    /// Deletes what is past, and says how much that was, if the engine can say.
    fn expire(&self, now_ms: u64) -> Result<Option<u64>> {
        let _ = now_ms;
        Err("this engine is not run with expiry".into())
    }

    /// Bytes of the index, where the engine holds one in memory and says how large it is.
    fn index_bytes(&self) -> Option<u64> {
        None
    }

    /// Bytes of zeros that were written ahead of the log so far, where an engine does so.
    fn prepared_bytes(&self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// The store beneath, for the rows that call it by itself.
    fn store(&self) -> Option<&::oncelog::Store> {
        None
    }

    /// The process of the server, where there is one.
    fn server(&self) -> Option<u32> {
        None
    }

    /// Kills the server, where there is one, and leaves its files as they are.
    fn crash(&self) -> Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()>;
}

/// The calls of one thread.
pub trait Session {
    /// Insert if absent, atomically and as durable as the engine was opened to be.
    fn claim(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome>;

    /// Writes the response of a claim that was granted.
    fn complete(&mut self, request: &Request, grant: Grant, response: &[u8]) -> Result<()>;

    /// Reads a response into `out`; a peer need not be ready to write for this.
    fn replay(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome>;

    /// Whether the key is there.
    fn lookup(&mut self, request: &Request) -> Result<bool>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Bound: a sharded map in memory, nothing durable
    Map,
    /// Bound: the bytes of a pair written to a file, in two writes, by one caller at a time
    Write,
    /// Bound: group commit of the same bytes, and nothing else
    Commit,
    Fjall,
    FjallGrouped,
    Redb,
    Lmdb,
    Sqlite,
    Rocksdb,
    RocksdbGrouped,
    Redis,
    Postgres,
    Oncelog,
}

impl Kind {
    /// As the tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Map => "bound: map in memory",
            Kind::Write => "bound: bare writes",
            Kind::Commit => "bound: group commit",
            Kind::Fjall => "fjall",
            Kind::FjallGrouped => "fjall, group committer",
            Kind::Redb => "redb",
            Kind::Lmdb => "LMDB",
            Kind::Sqlite => "SQLite",
            Kind::Rocksdb => "RocksDB",
            Kind::RocksdbGrouped => "RocksDB, group committer",
            Kind::Redis => "Redis",
            Kind::Postgres => "PostgreSQL",
            Kind::Oncelog => "oncelog",
        }
    }

    pub fn is_bound(self) -> bool {
        matches!(self, Kind::Map | Kind::Write | Kind::Commit)
    }

    /// The crate in Cargo.lock, or the server, whose version is reported.
    pub fn version(self) -> Option<String> {
        match self {
            Kind::Map | Kind::Write | Kind::Commit => None,
            Kind::Fjall | Kind::FjallGrouped => locked("fjall"),
            Kind::Redb => locked("redb"),
            Kind::Lmdb => Some(lmdb::version()),
            Kind::Sqlite => Some(rusqlite::version().to_owned()),
            Kind::Rocksdb | Kind::RocksdbGrouped => {
                // The version of the library stands behind that of its crate.
                let crates = locked("librocksdb-sys")?;
                let (_, library) = crates.split_once('+')?;
                Some(format!("{library} (rocksdb {})", locked("rocksdb")?))
            }
            Kind::Redis => redis::version(),
            Kind::Postgres => postgres::version(),
            Kind::Oncelog => locked("oncelog"),
        }
    }

    /// What is lost of acknowledged work, in the mode without a sync for every write.
    pub fn loses(self) -> &'static str {
        match self {
            Kind::Map => "everything, when the process ends",
            Kind::Write => "power cut: what the kernel has not written back, some 30 s",
            Kind::Commit => "nothing",
            Kind::Fjall | Kind::Rocksdb => "kill: nothing; power cut: about 100 ms (a timer)",
            Kind::FjallGrouped | Kind::RocksdbGrouped => "nothing",
            Kind::Redb => "kill or power cut: about 100 ms (`Durability::None`, a timer)",
            Kind::Lmdb => {
                "kill: nothing; power cut: about 100 ms, or the file where the file system \
                 reorders writes (`MDB_NOSYNC`, a timer)"
            }
            Kind::Sqlite => "kill: nothing; power cut: since the last checkpoint (NORMAL)",
            Kind::Redis => "kill: nothing; power cut: about 1 s (`appendfsync everysec`)",
            Kind::Postgres => "kill or power cut: up to 600 ms (`synchronous_commit = off`)",
            Kind::Oncelog => "kill: nothing; power cut: at most 100 ms, always a suffix",
        }
    }

    /// Why it cannot be run here, if it cannot.
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Kind::Rocksdb | Kind::RocksdbGrouped if !cfg!(feature = "rocksdb") => {
                Some("not built (feature `rocksdb`)")
            }
            Kind::Redis | Kind::Postgres if self.version().is_none() => Some("not installed"),
            _ => None,
        }
    }

    pub fn open(self, setup: &Setup) -> Result<Box<dyn Engine>> {
        std::fs::create_dir_all(&setup.dir)?;
        Ok(match self {
            Kind::Map => Box::new(bounds::Map::new(setup.reserve)),
            Kind::Write => Box::new(bounds::Writing(bounds::Bare::open(setup)?)),
            Kind::Commit => Box::new(bounds::Writing(bounds::Group::open(setup)?)),
            Kind::Fjall => Box::new(kv::Striped::new(fjall::Fjall::open(setup)?)),
            Kind::FjallGrouped => {
                Box::new(kv::Striped::new(grouped::Grouped::new(fjall::Fjall::open(setup)?)))
            }
            Kind::Redb => Box::new(redb::Redb::open(setup)?),
            Kind::Lmdb => Box::new(lmdb::Lmdb::open(setup)?),
            Kind::Sqlite => Box::new(sqlite::Sqlite::open(setup)?),
            #[cfg(feature = "rocksdb")]
            Kind::Rocksdb => Box::new(kv::Striped::new(rocksdb::Rocks::open(setup)?)),
            #[cfg(feature = "rocksdb")]
            Kind::RocksdbGrouped => {
                Box::new(kv::Striped::new(grouped::Grouped::new(rocksdb::Rocks::open(setup)?)))
            }
            #[cfg(not(feature = "rocksdb"))]
            Kind::Rocksdb | Kind::RocksdbGrouped => return Err("RocksDB was not built".into()),
            Kind::Redis => Box::new(redis::Redis::open(setup)?),
            Kind::Postgres => Box::new(postgres::Postgres::open(setup)?),
            Kind::Oncelog => Box::new(oncelog::Oncelog::open(setup)?),
        })
    }
}

/// The version of a package that this binary was built with.
fn locked(package: &str) -> Option<String> {
    let lock = include_str!("../../Cargo.lock");
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split_once('"').map(|(version, _)| version.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::{Durability, Kind, Setup};
    use crate::drive;
    use crate::workload::Workload;

    #[test]
    fn every_engine_grants_once_and_replays_the_same_bytes() {
        let workload = Workload::new();
        for kind in Kind::value_variants().iter().filter(|kind| kind.missing().is_none()) {
            if matches!(kind, Kind::Write | Kind::Commit) {
                continue;
            }
            for durability in [Durability::Buffered, Durability::Synced] {
                let dir = tempfile::tempdir().unwrap();
                let setup = Setup {
                    durability,
                    dir: dir.path().to_owned(),
                    expires: false,
                    reserve: 0,
                    clock: None,
                };
                let engine = kind.open(&setup).unwrap();
                drive::check(&*engine, &workload, 0).unwrap();
                engine.close().unwrap();
                if *kind != Kind::Map {
                    let engine = kind.open(&setup).unwrap();
                    let mut worker = drive::Worker::new(&*engine, &workload).unwrap();
                    (0..100).for_each(|nth| worker.replay(nth).unwrap());
                    worker.miss(100).unwrap();
                }
            }
        }
    }
}
