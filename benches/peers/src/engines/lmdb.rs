//! LMDB through heed: a write transaction for each claim and each completion.

use std::ops::Bound;

use heed::types::{Bytes, Unit};
use heed::{Database, Env, EnvFlags, EnvOpenOptions, WithoutTls};

use super::kv::{decide, encode, expires_ms, expiry_key};
use super::ticker::Ticker;
use super::{Durability, Engine, Grant, Outcome, Result, Session, Setup};
use crate::workload::Request;

/// Address space, not memory.
const MAP_BYTES: usize = 256 << 30;
/// Keys deleted in one transaction.
const CHUNK: usize = 1000;

pub struct Lmdb {
    claims: Database<Bytes, Bytes>,
    expiry: Option<Database<Bytes, Unit>>,
    ticker: Option<Ticker>,
    env: Env<WithoutTls>,
}

impl Lmdb {
    pub fn open(setup: &Setup) -> Result<Lmdb> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_BYTES).max_dbs(2).max_readers(1024);
        if setup.durability == Durability::Buffered {
            // SAFETY: what a power cut may do to the file is accepted, and reported.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: the directory is this engine's own, and nobody else writes to the file.
        let env = unsafe { options.open(&setup.dir)? };
        let mut write = env.write_txn()?;
        let claims = env.create_database(&mut write, Some("claims"))?;
        let expiry = match setup.expires {
            true => Some(env.create_database(&mut write, Some("expiry"))?),
            false => None,
        };
        write.commit()?;
        let ticker = (setup.durability == Durability::Buffered).then(|| {
            let env = env.clone();
            Ticker::start(move || Ok(env.force_sync()?))
        });
        Ok(Lmdb { claims, expiry, ticker, env })
    }
}

/// The version of the library, and of the crate above it.
pub fn version() -> String {
    let library = heed::lmdb_version();
    let heed = super::locked("heed").unwrap_or_default();
    format!("{}.{}.{} (heed {heed})", library.major, library.minor, library.patch)
}

impl Engine for Lmdb {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(LmdbSession { engine: self, value: Vec::new() }))
    }

    fn sync(&self) -> Result<()> {
        self.ticker.as_ref().map_or(Ok(()), Ticker::check)?;
        Ok(self.env.force_sync()?)
    }

    fn expire(&self, now_ms: u64) -> Result<Option<u64>> {
        let expiry = self.expiry.as_ref().ok_or("opened without an index by expiry")?;
        let (until, mut removed) = (expiry_key(now_ms + 1, &[]), 0);
        loop {
            let mut write = self.env.write_txn()?;
            let below = (Bound::Unbounded, Bound::Excluded(until.as_slice()));
            let past = expiry.range(&write, &below)?.take(CHUNK);
            let past = past.map(|entry| Ok(entry?.0.to_vec())).collect::<Result<Vec<_>>>()?;
            for key in &past {
                self.claims.delete(&mut write, &key[8..])?;
                expiry.delete(&mut write, key)?;
            }
            write.commit()?;
            removed += past.len() as u64;
            if past.is_empty() {
                return Ok(Some(removed));
            }
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()?;
        drop(self.ticker);
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

struct LmdbSession<'a> {
    engine: &'a Lmdb,
    value: Vec<u8>,
}

impl Session for LmdbSession<'_> {
    fn claim(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let Lmdb { claims, expiry, env, .. } = self.engine;
        let mut write = env.write_txn()?;
        if let Some(value) = claims.get(&write, request.key())?
            && let Some(outcome) = decide(value, request, out)?
        {
            return Ok(outcome);
        }
        encode(&mut self.value, request, None);
        claims.put(&mut write, request.key(), &self.value)?;
        if let Some(expiry) = expiry {
            expiry.put(&mut write, &expiry_key(request.expires_ms(), request.key()), &())?;
        }
        write.commit()?;
        Ok(Outcome::Granted(Grant::Row))
    }

    fn complete(&mut self, request: &Request, _: Grant, response: &[u8]) -> Result<()> {
        encode(&mut self.value, request, Some(response));
        let mut write = self.engine.env.write_txn()?;
        self.engine.claims.put(&mut write, request.key(), &self.value)?;
        Ok(write.commit()?)
    }

    fn replay(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let read = self.engine.env.read_txn()?;
        let value = self.engine.claims.get(&read, request.key())?.ok_or("the key is not there")?;
        decide(value, request, out)?.ok_or_else(|| "the key is past".into())
    }

    fn lookup(&mut self, request: &Request) -> Result<bool> {
        let read = self.engine.env.read_txn()?;
        let value = self.engine.claims.get(&read, request.key())?;
        let expires_ms = value.and_then(expires_ms);
        Ok(expires_ms.is_some_and(|expires_ms| expires_ms > request.now_ms))
    }
}
