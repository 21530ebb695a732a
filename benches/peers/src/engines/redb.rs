//! redb: a write transaction for each claim and each completion.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::kv::{decide, encode, expires_ms, expiry_key};
use super::ticker::Ticker;
use super::{CACHE_BYTES, Durability, Engine, Grant, Outcome, Result, Session, Setup};
use crate::workload::Request;

const CLAIMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("claims");
const EXPIRY: TableDefinition<'_, &[u8], ()> = TableDefinition::new("expiry");
/// Keys deleted in one transaction.
const CHUNK: usize = 1000;

pub struct Redb {
    durability: redb::Durability,
    expires: bool,
    ticker: Option<Ticker>,
    /// Something was committed that no sync has taken along: an idle store is not written.
    unsynced: Arc<AtomicBool>,
    database: Arc<Database>,
}

impl Redb {
    pub fn open(setup: &Setup) -> Result<Redb> {
        let mut builder = Database::builder();
        builder.set_cache_size(usize::try_from(CACHE_BYTES)?);
        let database = Arc::new(builder.create(setup.dir.join("claims.redb"))?);
        let write = database.begin_write()?;
        write.open_table(CLAIMS)?;
        write.open_table(EXPIRY)?;
        write.commit()?;
        let unsynced = Arc::<AtomicBool>::default();
        let ticker = (setup.durability == Durability::Buffered).then(|| {
            let (database, unsynced) = (Arc::clone(&database), Arc::clone(&unsynced));
            // Acquire: pairs with the release behind a commit, which this sync then covers.
            Ticker::start(move || match unsynced.swap(false, Ordering::Acquire) {
                true => Ok(database.begin_write()?.commit()?),
                false => Ok(()),
            })
        });
        let durability = match setup.durability {
            Durability::Buffered => redb::Durability::None,
            Durability::Synced => redb::Durability::Immediate,
        };
        Ok(Redb { durability, expires: setup.expires, ticker, unsynced, database })
    }

    fn begin(&self) -> Result<redb::WriteTransaction> {
        let mut write = self.database.begin_write()?;
        write.set_durability(self.durability)?;
        Ok(write)
    }

    fn commit(&self, write: redb::WriteTransaction) -> Result<()> {
        write.commit()?;
        // Release: pairs with the acquire of the ticker.
        self.unsynced.store(true, Ordering::Release);
        Ok(())
    }
}

impl Engine for Redb {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(RedbSession { engine: self, value: Vec::new() }))
    }

    fn sync(&self) -> Result<()> {
        self.ticker.as_ref().map_or(Ok(()), Ticker::check)?;
        Ok(self.database.begin_write()?.commit()?)
    }

    fn expire(&self, now_ms: u64) -> Result<Option<u64>> {
        let (until, mut removed) = (expiry_key(now_ms + 1, &[]), 0);
        loop {
            let write = self.begin()?;
            let mut found = 0;
            {
                let (mut claims, mut expiry) =
                    (write.open_table(CLAIMS)?, write.open_table(EXPIRY)?);
                let past = expiry.range(..until.as_slice())?.take(CHUNK);
                let past = past.map(|entry| Ok(entry?.0.value().to_vec()));
                for key in past.collect::<Result<Vec<_>>>()? {
                    claims.remove(&key[8..])?;
                    expiry.remove(key.as_slice())?;
                    found += 1;
                }
            }
            self.commit(write)?;
            removed += found;
            if found == 0 {
                return Ok(Some(removed));
            }
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.sync()
    }
}

struct RedbSession<'a> {
    engine: &'a Redb,
    value: Vec<u8>,
}

impl Session for RedbSession<'_> {
    fn claim(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let write = self.engine.begin()?;
        let mut claims = write.open_table(CLAIMS)?;
        let held = match claims.get(request.key())? {
            Some(value) => decide(value.value(), request, out)?,
            None => None,
        };
        if let Some(outcome) = held {
            drop(claims);
            write.abort()?;
            return Ok(outcome);
        }
        encode(&mut self.value, request, None);
        claims.insert(request.key(), self.value.as_slice())?;
        drop(claims);
        if self.engine.expires {
            let key = expiry_key(request.expires_ms(), request.key());
            write.open_table(EXPIRY)?.insert(key.as_slice(), ())?;
        }
        self.engine.commit(write)?;
        Ok(Outcome::Granted(Grant::Row))
    }

    fn complete(&mut self, request: &Request, _: Grant, response: &[u8]) -> Result<()> {
        encode(&mut self.value, request, Some(response));
        let write = self.engine.begin()?;
        write.open_table(CLAIMS)?.insert(request.key(), self.value.as_slice())?;
        self.engine.commit(write)
    }

    fn replay(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let claims = self.engine.database.begin_read()?.open_table(CLAIMS)?;
        let value = claims.get(request.key())?.ok_or("the key is not there")?;
        decide(value.value(), request, out)?.ok_or_else(|| "the key is past".into())
    }

    fn lookup(&mut self, request: &Request) -> Result<bool> {
        let claims = self.engine.database.begin_read()?.open_table(CLAIMS)?;
        let value = claims.get(request.key())?;
        let expires_ms = value.and_then(|value| expires_ms(value.value()));
        Ok(expires_ms.is_some_and(|expires_ms| expires_ms > request.now_ms))
    }
}
