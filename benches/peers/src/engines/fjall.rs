//! fjall: one keyspace for the claims, one for their expiry where it is asked for.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::grouped::Batches;
use super::kv::{Pairs, expiry_key};
use super::ticker::Ticker;
use super::{CACHE_BYTES, Durability, Result, Setup};

/// Keys deleted in one batch.
const CHUNK: usize = 1000;

pub struct Fjall {
    durability: Durability,
    claims: Keyspace,
    expiry: Option<Keyspace>,
    ticker: Option<Ticker>,
    database: Database,
}

impl Fjall {
    pub fn open(setup: &Setup) -> Result<Fjall> {
        let database = Database::builder(&setup.dir).cache_size(CACHE_BYTES).open()?;
        let claims = database.keyspace("claims", KeyspaceCreateOptions::default)?;
        let expiry = match setup.expires {
            true => Some(database.keyspace("expiry", KeyspaceCreateOptions::default)?),
            false => None,
        };
        let ticker = (setup.durability == Durability::Buffered).then(|| {
            let database = database.clone();
            Ticker::start(move || Ok(database.persist(PersistMode::SyncData)?))
        });
        Ok(Fjall { durability: setup.durability, claims, expiry, ticker, database })
    }
}

impl Pairs for Fjall {
    fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.claims.get(key)?.map_or(Ok(()), |value| see(&value))
    }

    fn put(&self, key: &[u8], value: &[u8], expires_ms: Option<u64>) -> Result<()> {
        match (&self.expiry, expires_ms) {
            (Some(expiry), Some(expires_ms)) => {
                let mut batch = self.database.batch();
                batch.insert(&self.claims, key, value);
                batch.insert(expiry, expiry_key(expires_ms, key), []);
                batch.commit()?;
            }
            _ => self.claims.insert(key, value)?,
        }
        match self.durability {
            Durability::Buffered => Ok(()),
            Durability::Synced => Ok(self.database.persist(PersistMode::SyncData)?),
        }
    }

    fn sync(&self) -> Result<()> {
        self.ticker.as_ref().map_or(Ok(()), Ticker::check)?;
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    fn expire(&self, now_ms: u64) -> Result<Option<u64>> {
        let expiry = self.expiry.as_ref().ok_or("opened without an index by expiry")?;
        let mut removed = 0;
        loop {
            let mut batch = self.database.batch();
            let past = expiry.range(..expiry_key(now_ms + 1, &[])).take(CHUNK);
            let mut found = 0;
            for entry in past {
                let key = entry.key()?;
                batch.remove(&self.claims, &key[8..]);
                batch.remove(expiry, key);
                found += 1;
            }
            if found == 0 {
                return Ok(Some(removed));
            }
            batch.commit()?;
            removed += found;
        }
    }
}

impl Batches for Fjall {
    fn write(&self, batch: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut writes = self.database.batch().durability(Some(PersistMode::SyncData));
        batch.iter().for_each(|(key, value)| {
            writes.insert(&self.claims, key.as_slice(), value.as_slice());
        });
        Ok(writes.commit()?)
    }
}
