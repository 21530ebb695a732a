//! Callers of this process that wait for an attempt to end, by key.
//!
//! Who ends an attempt here wakes them at once. An attempt that ends elsewhere they find by looking
//! again, so that a wake that is missed costs time and nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::cluster::redis::link::Key;
use crate::sync::Mutex;

#[derive(Debug, Default)]
pub(crate) struct Wakes {
    // LOCK: wakes (a leaf, never held across an await)
    waiting: Mutex<HashMap<Key, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    callers: usize,
    ended: Arc<Notify>,
}

/// One caller that waits.
pub(crate) struct Wait<'w> {
    wakes: &'w Wakes,
    key: &'w Key,
    ended: Arc<Notify>,
}

impl Wakes {
    pub(crate) fn wait<'w>(&'w self, key: &'w Key) -> Wait<'w> {
        let mut waiting = self.waiting.lock();
        let entry = waiting
            .entry(key.clone())
            .or_insert_with(|| Waiting { callers: 0, ended: Arc::default() });
        entry.callers += 1;
        Wait { wakes: self, key, ended: Arc::clone(&entry.ended) }
    }

    /// Wakes all that wait for the key.
    pub(crate) fn wake(&self, key: &Key) {
        if let Some(entry) = self.waiting.lock().get(key) {
            entry.ended.notify_waiters();
        }
    }
}

impl Wait<'_> {
    /// Waits until somebody here ended the attempt, at most this long.
    pub(crate) async fn at_most(&self, limit: Duration) {
        tokio::time::timeout(limit, self.ended.notified()).await.ok();
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut waiting = self.wakes.waiting.lock();
        if let Some(entry) = waiting.get_mut(self.key) {
            entry.callers -= 1;
            if entry.callers == 0 {
                waiting.remove(self.key);
            }
        }
    }
}
