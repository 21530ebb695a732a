//! Bounds on what waits and runs: per key, per organization, and in all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use crate::sync::Mutex;

/// How much may wait and run in one layer. What is past a bound is answered at once: `429`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests that wait for one running first request. Default: 100.
    pub waiters_per_key: usize,
    /// Requests that wait, in all. Default: 10,000.
    pub waiters: usize,
    /// Bytes of request bodies that waiting requests hold. Default: 64 MiB.
    pub waiting_bytes: u64,
    /// Requests with a key under way in one organization, waiting ones included. Default: 1,000.
    pub per_organization: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            waiters_per_key: 100,
            waiters: 10_000,
            waiting_bytes: 64 << 20,
            per_organization: 1_000,
        }
    }
}

/// Counts what waits and runs.
#[derive(Debug, Default)]
pub(crate) struct Places {
    // LOCK: places (a leaf)
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiters: usize,
    bytes: u64,
    keys: HashMap<[u8; 32], usize>,
}

impl Places {
    /// A place to wait for the scope with this digest, if there is one.
    pub(crate) fn wait(
        self: &Arc<Places>,
        bounds: &Bounds,
        digest: [u8; 32],
        bytes: u64,
    ) -> Option<Waiting> {
        let mut counts = self.counts.lock();
        let all_bytes = counts.bytes.saturating_add(bytes);
        if counts.waiters >= bounds.waiters || all_bytes > bounds.waiting_bytes {
            return None;
        }
        join(&mut counts.keys, digest, bounds.waiters_per_key)?;
        counts.waiters += 1;
        counts.bytes = all_bytes;
        Some(Waiting { places: Arc::clone(self), digest, bytes })
    }

    /// How many places to wait are taken.
    pub(crate) fn waiting(&self) -> usize {
        self.counts.lock().waiters
    }
}

/// One waiting request.
#[derive(Debug)]
pub(crate) struct Waiting {
    places: Arc<Places>,
    digest: [u8; 32],
    bytes: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.places.counts.lock();
        counts.waiters -= 1;
        counts.bytes -= self.bytes;
        leave(&mut counts.keys, self.digest);
    }
}

/// One more of a key, if there are fewer than `bound`. Nothing is kept of a key that is refused.
fn join<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, bound: usize) -> Option<()> {
    match counts.entry(key) {
        Entry::Occupied(count) if *count.get() >= bound => return None,
        Entry::Vacant(_) if bound == 0 => return None,
        Entry::Occupied(mut count) => *count.get_mut() += 1,
        Entry::Vacant(count) => *count.insert(0) += 1,
    }
    Some(())
}

fn leave<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_holder_is_gone() {
        let places = Arc::<Places>::default();
        let bounds =
            Bounds { waiters_per_key: 1, waiters: 2, waiting_bytes: 10, per_organization: 1 };
        let first = places.wait(&bounds, [1; 32], 4).expect("an empty place");
        assert!(places.wait(&bounds, [1; 32], 4).is_none(), "the key's bound");
        assert!(places.wait(&bounds, [2; 32], 7).is_none(), "the bound of bytes");
        let second = places.wait(&bounds, [2; 32], 6).expect("another key");
        assert!(places.wait(&bounds, [3; 32], 0).is_none(), "the bound in all");
        drop((first, second));
        assert!(places.wait(&bounds, [1; 32], 10).is_some());
        assert!(places.counts.lock().keys.is_empty());
    }

    #[test]
    fn a_bound_of_zero_keeps_nothing_of_whom_it_refuses() {
        let places = Arc::<Places>::default();
        let bounds = Bounds { waiters_per_key: 0, per_organization: 0, ..Bounds::default() };
        assert!(places.wait(&bounds, [1; 32], 0).is_none());
        assert!(places.counts.lock().keys.is_empty());
    }
}
