//! The claims of one shard that have not ended, and the callers who wait for them.
//!
//! ```text
//! staged > open (running, or an orphan) > ending > gone
//! ```
//! Only whoever commits moves a claim out of staged and ending. An ending claim is in progress to
//! everyone: to a lapse and a take-over too.

use std::collections::{VecDeque, hash_map};
use std::sync::Arc;
use std::time::Duration;

use crate::format::record::Ended;
use crate::location::{Location, Lsn};
use crate::log::OpenClaim;
use crate::numbered::ByNumber;
use crate::scope::Token;
use crate::sync::Signal;

/// How far a claim has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its CLAIM is not durable yet.
    Staged,
    /// It is durable; `OpenClaim::ended` tells a running claim from an orphan.
    Open,
    /// Its COMPLETE or RELEASE is not durable yet.
    Ending,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) open: OpenClaim,
    pub(crate) state: State,
    /// When the lease lapses, in monotonic time.
    pub(crate) deadline: Duration,
    /// A permit for it lives in this process.
    pub(crate) permit: bool,
    /// The expired response that its completion will replace.
    pub(crate) replaced: Option<Location>,
    /// When its permit was last seen alive, in store time; 0 where that says no more than the
    /// claim itself.
    pub(crate) alive_ms: u64,
    /// The newest PROGRESS that was published.
    pub(crate) progress: Lsn,
}

impl Entry {
    pub(crate) fn token(&self) -> Token {
        self.open.facts.token
    }

    pub(crate) fn is_orphan(&self) -> bool {
        self.state == State::Open && self.open.ended != Ended::No
    }
}

/// The open claims of a shard.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    entries: ByNumber<u64, Entry>,
    /// Claims of other scopes whose hash is in `entries` already; nearly always none.
    twins: Vec<(u64, Entry)>,
    waiting: ByNumber<u64, VecDeque<Arc<Signal>>>,
}

impl Inflight {
    pub(crate) fn find(&mut self, hash: u64, scope: &[u8]) -> Option<&mut Entry> {
        self.under(hash).find(|entry| *entry.open.facts.scope == *scope)
    }

    /// The entry of this attempt, if it is the current one of its scope.
    pub(crate) fn current(&mut self, hash: u64, token: Token) -> Option<&mut Entry> {
        self.under(hash).find(|entry| entry.token() == token)
    }

    fn under(&mut self, hash: u64) -> impl Iterator<Item = &mut Entry> {
        let twins = self.twins.iter_mut().filter(move |(other, _)| *other == hash);
        self.entries.get_mut(&hash).into_iter().chain(twins.map(|(_, entry)| entry))
    }

    /// Puts an entry in the place of the one with its scope, if there is one.
    pub(crate) fn insert(&mut self, hash: u64, entry: Entry) {
        if let Some(old) = self.find(hash, &entry.open.facts.scope) {
            *old = entry;
            return;
        }
        match self.entries.entry(hash) {
            hash_map::Entry::Vacant(place) => {
                place.insert(entry);
            }
            hash_map::Entry::Occupied(_) => self.twins.push((hash, entry)),
        }
    }

    pub(crate) fn remove(&mut self, hash: u64, token: Token) -> Option<Entry> {
        let twin = self.twins.iter().position(|(h, e)| *h == hash && e.token() == token);
        if let Some(twin) = twin {
            return Some(self.twins.swap_remove(twin).1);
        }
        let hash_map::Entry::Occupied(entry) = self.entries.entry(hash) else { return None };
        if entry.get().token() != token {
            return None;
        }
        let removed = entry.remove();
        if let Some(twin) = self.twins.iter().position(|(other, _)| *other == hash) {
            let (hash, twin) = self.twins.swap_remove(twin);
            self.entries.insert(hash, twin);
        }
        Some(removed)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Entry)> {
        let twins = self.twins.iter_mut().map(|(hash, entry)| (*hash, entry));
        self.entries.iter_mut().map(|(&hash, entry)| (hash, entry)).chain(twins)
    }

    /// Adds a caller to those who wait for a scope with this hash.
    pub(crate) fn wait(&mut self, hash: u64, signal: Arc<Signal>) {
        self.waiting.entry(hash).or_default().push_back(signal);
    }

    /// The entries for which somebody waits.
    pub(crate) fn iter_awaited(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let twins = self.twins.iter().map(|(hash, entry)| (hash, entry));
        let all = self.entries.iter().chain(twins).map(|(&hash, entry)| (hash, entry));
        all.filter(|(hash, _)| self.waiting.contains_key(hash))
    }

    /// Removes a caller who waits no longer. One who is not found was taken out to be woken, even
    /// if the signal has not fired yet: while the scope is free, the wake-up goes on to the next.
    pub(crate) fn leave(&mut self, hash: u64, signal: &Arc<Signal>) -> Option<Arc<Signal>> {
        let mut taken_out = true;
        if let Some(waiting) = self.waiting.get_mut(&hash) {
            let before = waiting.len();
            waiting.retain(|other| !Arc::ptr_eq(other, signal));
            taken_out = waiting.len() == before;
            if waiting.is_empty() {
                self.waiting.remove(&hash);
            }
        }
        let free = !self.entries.contains_key(&hash);
        if free && taken_out { self.next_waiting(hash) } else { None }
    }

    /// The caller who has waited longest.
    pub(crate) fn next_waiting(&mut self, hash: u64) -> Option<Arc<Signal>> {
        let waiting = self.waiting.get_mut(&hash)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&hash);
        }
        next
    }

    /// Everybody who waits for a scope with this hash.
    pub(crate) fn all_waiting(&mut self, hash: u64) -> VecDeque<Arc<Signal>> {
        self.waiting.remove(&hash).unwrap_or_default()
    }

    /// Everybody who waits.
    pub(crate) fn drain_waiting(&mut self) -> Vec<Arc<Signal>> {
        self.waiting.drain().flat_map(|(_, signals)| signals).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Facts;
    use crate::scope::{Fingerprint, OperationId, Scope};

    fn entry(token: u64) -> Entry {
        let key = format!("key-{token}");
        let scope = Scope { organization: "", method: "POST", path: "/", key: &key };
        let facts = Facts {
            scope: scope.encode(),
            fingerprint: Fingerprint::of(b""),
            operation: OperationId::from_hash([7; 16]),
            token: Token::new(token),
            attempt: 1,
            claimed_ms: 5,
            attempted_ms: 5,
            cause: Ended::No,
        };
        Entry {
            open: OpenClaim { facts: Arc::new(facts), ended: Ended::No, checkpoint: None },
            state: State::Open,
            deadline: Duration::MAX,
            permit: true,
            replaced: None,
            alive_ms: 0,
            progress: Lsn::ZERO,
        }
    }

    #[test]
    fn scopes_with_one_hash_are_kept_apart_in_whatever_order_they_end() {
        for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
            let mut inflight = Inflight::default();
            (1..=3).for_each(|token| inflight.insert(7, entry(token)));
            inflight.insert(9, entry(4));
            assert!(inflight.remove(7, Token::new(4)).is_none(), "it has another hash");
            assert!(inflight.remove(8, Token::new(1)).is_none(), "it has another hash");
            for (nth, token) in order.into_iter().enumerate() {
                let removed = inflight.remove(7, Token::new(token)).unwrap();
                assert_eq!(removed.token(), Token::new(token));
                assert!(inflight.remove(7, Token::new(token)).is_none(), "twice");
                for &left in &order[nth + 1..] {
                    let scope = &entry(left).open.facts.scope;
                    assert_eq!(inflight.find(7, scope).unwrap().token(), Token::new(left));
                    assert!(inflight.current(7, Token::new(left)).is_some());
                }
                assert_eq!(inflight.iter_mut().count(), 3 - nth);
                // Whoever was chosen and goes away passes the wake-up on once none of them is left.
                let [first, second] = [(); 2].map(|()| Arc::<Signal>::default());
                inflight.wait(7, Arc::clone(&first));
                inflight.wait(7, second);
                assert!(Arc::ptr_eq(&inflight.next_waiting(7).unwrap(), &first));
                assert_eq!(inflight.leave(7, &first).is_some(), nth == 2);
                inflight.all_waiting(7);
            }
        }
    }

    #[test]
    fn whoever_leaves_between_being_chosen_and_being_woken_passes_the_wake_up_on() {
        let mut inflight = Inflight::default();
        let [first, second] = [(); 2].map(|()| Arc::<Signal>::default());
        inflight.wait(1, Arc::clone(&first));
        inflight.wait(1, Arc::clone(&second));
        assert!(inflight.leave(1, &Arc::clone(&first)).is_none(), "nobody was chosen yet");
        inflight.wait(1, Arc::clone(&first));
        let chosen = inflight.next_waiting(1).unwrap();
        assert!(Arc::ptr_eq(&chosen, &second));
        let next = inflight.leave(1, &second).expect("the scope is free, and another waits");
        assert!(Arc::ptr_eq(&next, &first));
    }
}
