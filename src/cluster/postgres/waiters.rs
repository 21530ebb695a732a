//! Callers of this process that wait for an attempt, so that its end in this process wakes them.
//! An end elsewhere is found by asking.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::sync::Mutex;

type Digest = [u8; 32];

#[derive(Debug, Default)]
pub(crate) struct Waiters {
    // LOCK: waiters (a leaf)
    waiting: Mutex<HashMap<Digest, (usize, Arc<Notify>)>>,
}

impl Waiters {
    /// Counts one more who waits, until the guard is dropped.
    pub(crate) fn join(self: &Arc<Self>, digest: Digest) -> Waiting {
        let mut waiting = self.waiting.lock();
        let (count, ended) = waiting.entry(digest).or_default();
        *count += 1;
        Waiting { waiters: Arc::clone(self), digest, ended: Arc::clone(ended) }
    }

    pub(crate) fn wake(&self, digest: &Digest) {
        if let Some((_, ended)) = self.waiting.lock().get(digest) {
            ended.notify_waiters();
        }
    }
}

/// One who waits.
pub(crate) struct Waiting {
    waiters: Arc<Waiters>,
    digest: Digest,
    pub(crate) ended: Arc<Notify>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.waiters.waiting.lock();
        if let Some((count, _)) = waiting.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.digest);
            }
        }
    }
}
