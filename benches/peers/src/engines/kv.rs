//! The idempotency table over a key-value engine that has no insert-if-absent: a value that holds
//! fingerprint, state, expiry and response, and locks that are striped over the keys.

use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;

use super::{Engine, Grant, Outcome, Result, Session};
use crate::workload::Request;

/// More than callers at once by far, so that two rarely meet at a stripe that waits for a sync.
const STRIPES: usize = 4096;
const HEADER_BYTES: usize = 16 + 1 + 8;
const CLAIMED: u8 = 1;
const COMPLETED: u8 = 2;

/// The value of a claim, or of a completion where there is a response.
pub fn encode(value: &mut Vec<u8>, request: &Request, response: Option<&[u8]>) {
    value.clear();
    value.extend_from_slice(&request.fingerprint);
    value.push(if response.is_some() { COMPLETED } else { CLAIMED });
    value.extend_from_slice(&request.expires_ms().to_le_bytes());
    value.extend_from_slice(response.unwrap_or_default());
}

/// What a stored value means to a request; `None` where it is past. A response goes to `out`.
pub fn decide(value: &[u8], request: &Request, out: &mut Vec<u8>) -> Result<Option<Outcome>> {
    let Some((header, response)) = value.split_at_checked(HEADER_BYTES) else {
        return Err("a value is too short".into());
    };
    let expires_ms = u64::from_le_bytes(header[17..].try_into()?);
    if expires_ms <= request.now_ms {
        return Ok(None);
    }
    if header[..16] != request.fingerprint {
        return Ok(Some(Outcome::Conflict));
    }
    if header[16] == CLAIMED {
        return Ok(Some(Outcome::InProgress));
    }
    out.clear();
    out.extend_from_slice(response);
    Ok(Some(Outcome::Replay))
}

/// The expiry of a value that was encoded here.
pub fn expires_ms(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.get(17..HEADER_BYTES)?.try_into().ok()?))
}

/// The key of the index by expiry: it sorts by time.
pub fn expiry_key(expires_ms: u64, key: &[u8]) -> Vec<u8> {
    let mut bytes = expires_ms.to_be_bytes().to_vec();
    bytes.extend_from_slice(key);
    bytes
}

/// Pairs of key and value.
pub trait Pairs: Send + Sync {
    fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;
    /// `expires_ms` is given for the index by expiry, with the first write of a key.
    fn put(&self, key: &[u8], value: &[u8], expires_ms: Option<u64>) -> Result<()>;
    fn sync(&self) -> Result<()>;
    fn expire(&self, now_ms: u64) -> Result<Option<u64>>;
}

/// The engine of a key-value engine.
pub struct Striped<P> {
    pairs: P,
    hasher: RandomState,
    stripes: Vec<Mutex<()>>,
}

impl<P: Pairs> Striped<P> {
    pub fn new(pairs: P) -> Striped<P> {
        let stripes = (0..STRIPES).map(|_| Mutex::new(())).collect();
        Striped { pairs, hasher: RandomState::new(), stripes }
    }
}

impl<P: Pairs + 'static> Engine for Striped<P> {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(StripedSession { engine: self, value: Vec::new() }))
    }

    fn sync(&self) -> Result<()> {
        self.pairs.sync()
    }

    fn expire(&self, now_ms: u64) -> Result<Option<u64>> {
        self.pairs.expire(now_ms)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.pairs.sync()
    }
}

struct StripedSession<'a, P> {
    engine: &'a Striped<P>,
    value: Vec<u8>,
}

impl<P: Pairs> StripedSession<'_, P> {
    fn look(&self, request: &Request, out: &mut Vec<u8>) -> Result<Option<Outcome>> {
        let mut outcome = None;
        self.engine.pairs.get(request.key(), &mut |value| {
            outcome = decide(value, request, out)?;
            Ok(())
        })?;
        Ok(outcome)
    }
}

impl<P: Pairs> Session for StripedSession<'_, P> {
    fn claim(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        let hash = self.engine.hasher.hash_one(request.key());
        let _stripe = self.engine.stripes[hash as usize % STRIPES].lock();
        if let Some(outcome) = self.look(request, out)? {
            return Ok(outcome);
        }
        encode(&mut self.value, request, None);
        self.engine.pairs.put(request.key(), &self.value, Some(request.expires_ms()))?;
        Ok(Outcome::Granted(Grant::Row))
    }

    fn complete(&mut self, request: &Request, _: Grant, response: &[u8]) -> Result<()> {
        encode(&mut self.value, request, Some(response));
        self.engine.pairs.put(request.key(), &self.value, None)
    }

    fn replay(&mut self, request: &Request, out: &mut Vec<u8>) -> Result<Outcome> {
        self.look(request, out)?.ok_or_else(|| "the key is not there".into())
    }

    fn lookup(&mut self, request: &Request) -> Result<bool> {
        let mut found = false;
        self.engine.pairs.get(request.key(), &mut |value| {
            found = expires_ms(value).is_some_and(|expires_ms| expires_ms > request.now_ms);
            Ok(())
        })?;
        Ok(found)
    }
}
