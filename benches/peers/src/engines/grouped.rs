//! A peer behind a group committer: the writes of all callers become one batch and one sync.

use super::Result;
use super::commit::Committer;
use super::kv::Pairs;

/// A key-value engine that writes a batch durably, with one sync.
pub trait Batches: Pairs {
    fn write(&self, batch: &[(Vec<u8>, Vec<u8>)]) -> Result<()>;
}

pub struct Grouped<B> {
    beneath: B,
    committer: Committer<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl<B: Batches> Grouped<B> {
    pub fn new(beneath: B) -> Grouped<B> {
        Grouped { beneath, committer: Committer::new() }
    }
}

impl<B: Batches> Pairs for Grouped<B> {
    fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.beneath.get(key, see)
    }

    fn put(&self, key: &[u8], value: &[u8], _: Option<u64>) -> Result<()> {
        let pair = (key.to_vec(), value.to_vec());
        self.committer.commit(|batch| batch.push(pair), |batch| self.beneath.write(batch))
    }

    fn sync(&self) -> Result<()> {
        self.beneath.sync()
    }

    fn expire(&self, now_ms: u64) -> Result<Option<u64>> {
        self.beneath.expire(now_ms)
    }
}
