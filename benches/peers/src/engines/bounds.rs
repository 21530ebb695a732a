//! Bounds: what the machine gives to somebody who does the least that a row asks for.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;

use super::commit::Committer;
use super::kv::{decide, encode, expires_ms};
use super::{Durability, Engine, Grant, Outcome, Result, Session, Setup};
use crate::workload::Request;

const SHARDS: usize = 256;

type Shard = Mutex<HashMap<Box<[u8]>, Box<[u8]>, RandomState>>;

/// A map in memory, in shards with a lock each.
pub struct Map {
    hasher: RandomState,
    shards: Vec<Shard>,
}

impl Map {
    /// With room for `reserve` keys, so that no shard doubles while it is timed.
    pub fn new(reserve: u64) -> Map {
        // Shards differ in size by a few standard deviations.
        let each = reserve as usize / SHARDS * 5 / 4;
        let hasher = RandomState::new();
        let shard = |_| Mutex::new(HashMap::with_capacity_and_hasher(each, hasher.clone()));
        Map { shards: (0..SHARDS).map(shard).collect(), hasher: RandomState::new() }
    }

    fn shard(&self, request: &Request) -> &Shard {
        &self.shards[self.hasher.hash_one(request.key()) as usize % SHARDS]
    }
}

impl Engine for Map {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(MapSession { map: self, value: Vec::new() }))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct MapSession<'a> {
    map: &'a Map,
    value: Vec<u8>,
}

impl Session for MapSession<'_> {
    fn claim(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let mut shard = self.map.shard(request).lock();
        if let Some(value) = shard.get(request.key())
            && let Some(outcome) = decide(value, request, out)?
        {
            return Ok(outcome);
        }
        encode(&mut self.value, request, None);
        shard.insert(request.key().into(), self.value.as_slice().into());
        Ok(Outcome::Granted(Grant::Row))
    }

    fn complete(&mut self, request: &Request, _: Grant, response: &[u8]) -> Result<()> {
        encode(&mut self.value, request, Some(response));
        let value = self.value.as_slice().into();
        match self.map.shard(request).lock().get_mut(request.key()) {
            Some(slot) => *slot = value,
            None => return Err("a claim is gone".into()),
        }
        Ok(())
    }

    fn replay(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let shard = self.map.shard(request).lock();
        let value = shard.get(request.key()).ok_or("the key is not there")?;
        decide(value, request, out)?.ok_or_else(|| "the key is past".into())
    }

    fn lookup(&mut self, request: &Request) -> Result<bool> {
        let shard = self.map.shard(request).lock();
        let value = shard.get(request.key()).and_then(|value| expires_ms(value));
        Ok(value.is_some_and(|expires_ms| expires_ms > request.now_ms))
    }
}

/// A file that was filled with zeros ahead, and is written round and round.
struct Zeroed {
    file: File,
    end: u64,
    sync: bool,
}

impl Zeroed {
    const FILE_BYTES: u64 = 64 << 20;

    fn open(setup: &Setup) -> Result<Zeroed> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true);
        let file = file.open(setup.dir.join("bound"))?;
        for page in 0..Self::FILE_BYTES / 65_536 {
            file.write_all_at(&[0; 65_536], page * 65_536)?;
        }
        file.sync_all()?;
        Ok(Zeroed { file, end: 0, sync: setup.durability == Durability::Synced })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.end + bytes.len() as u64 > Self::FILE_BYTES {
            self.end = 0;
        }
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        if self.sync {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// The bytes of a record: key and value.
fn record(value: &mut Vec<u8>, request: &Request, response: Option<&[u8]>) {
    encode(value, request, response);
    value.extend_from_slice(request.key());
}

/// One caller at a time writes, and syncs where the mode asks for it.
pub struct Bare(Mutex<Zeroed>);

impl Bare {
    pub fn open(setup: &Setup) -> Result<Bare> {
        Ok(Bare(Mutex::new(Zeroed::open(setup)?)))
    }
}

/// The callers of a batch share one write and one sync.
pub struct Group {
    committer: Committer<Vec<u8>>,
    file: Mutex<Zeroed>,
}

impl Group {
    pub fn open(setup: &Setup) -> Result<Group> {
        Ok(Group { committer: Committer::new(), file: Mutex::new(Zeroed::open(setup)?) })
    }
}

/// Takes the bytes of a record, and returns when they are where the mode wants them.
pub trait Writes: Send + Sync {
    fn write(&self, bytes: &[u8]) -> Result<()>;
}

impl Writes for Bare {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.0.lock().write(bytes)
    }
}

impl Writes for Group {
    fn write(&self, bytes: &[u8]) -> Result<()> {
        let gather = |batch: &mut Vec<u8>| batch.extend_from_slice(bytes);
        self.committer.commit(gather, |batch| self.file.lock().write(batch))
    }
}

/// An engine that writes, and keeps nothing.
pub struct Writing<W>(pub W);

impl<W: Writes> Engine for Writing<W> {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(WriteSession { writes: &self.0, value: Vec::new() }))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct WriteSession<'a> {
    writes: &'a dyn Writes,
    value: Vec<u8>,
}

impl Session for WriteSession<'_> {
    fn claim(&mut self, request: &Request, _: &mut Vec<u8>) -> Result<Outcome> {
        record(&mut self.value, request, None);
        self.writes.write(&self.value)?;
        Ok(Outcome::Granted(Grant::Row))
    }

    fn complete(&mut self, request: &Request, _: Grant, response: &[u8]) -> Result<()> {
        record(&mut self.value, request, Some(response));
        self.writes.write(&self.value)
    }

    fn replay(&mut self, _: &Request, _: &mut Vec<u8>) -> Result<Outcome> {
        Err("this bound only writes".into())
    }

    fn lookup(&mut self, _: &Request) -> Result<bool> {
        Err("this bound only writes".into())
    }
}
