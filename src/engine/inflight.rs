//! The claims of one shard that have not ended, and the callers who wait for them.
//!
//! ```text
//! staged > open (running, or an orphan) > ending > gone
//! ```
//! Only whoever commits moves a claim out of staged and ending. An ending claim is in progress to
//! everyone: to a lapse and a take-over too.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use crate::format::record::Ended;
use crate::location::Location;
use crate::log::OpenClaim;
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
}

impl Entry {
    pub(crate) fn token(&self) -> Token {
        self.open.facts.token
    }

    pub(crate) fn is_orphan(&self) -> bool {
        self.state == State::Open && self.open.ended != Ended::No
    }
}

/// A hash that is already keyed and mixed.
#[derive(Default)]
pub(crate) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| hash.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

type ByHash<T> = HashMap<u64, T, BuildHasherDefault<Hashed>>;

/// The open claims of a shard. Two scopes may share a hash.
#[derive(Debug, Default)]
pub(crate) struct Inflight {
    entries: ByHash<Vec<Entry>>,
    waiting: ByHash<VecDeque<Arc<Signal>>>,
}

impl Inflight {
    pub(crate) fn find(&mut self, hash: u64, scope: &[u8]) -> Option<&mut Entry> {
        let entries = self.entries.get_mut(&hash)?;
        entries.iter_mut().find(|entry| *entry.open.facts.scope == *scope)
    }

    /// The entry of this attempt, if it is the current one of its scope.
    pub(crate) fn current(&mut self, hash: u64, token: Token) -> Option<&mut Entry> {
        self.entries.get_mut(&hash)?.iter_mut().find(|entry| entry.token() == token)
    }

    /// Puts an entry in the place of the one with its scope, if there is one.
    pub(crate) fn insert(&mut self, hash: u64, entry: Entry) {
        let entries = self.entries.entry(hash).or_default();
        entries.retain(|other| other.open.facts.scope != entry.open.facts.scope);
        entries.push(entry);
    }

    pub(crate) fn remove(&mut self, hash: u64, token: Token) -> Option<Entry> {
        let entries = self.entries.get_mut(&hash)?;
        let at = entries.iter().position(|entry| entry.token() == token)?;
        let entry = entries.swap_remove(at);
        if entries.is_empty() {
            self.entries.remove(&hash);
        }
        Some(entry)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Entry)> {
        self.entries.iter_mut().flat_map(|(&hash, list)| list.iter_mut().map(move |e| (hash, e)))
    }

    /// Adds a caller to those who wait for a scope with this hash.
    pub(crate) fn wait(&mut self, hash: u64, signal: Arc<Signal>) {
        self.waiting.entry(hash).or_default().push_back(signal);
    }

    /// The entries for which somebody waits.
    pub(crate) fn iter_awaited(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let awaited = |hash: &u64| self.entries.get(hash).into_iter().flatten();
        self.waiting.keys().flat_map(move |hash| awaited(hash).map(|entry| (*hash, entry)))
    }

    /// Removes a caller who waits no longer. One who leaves while the scope is free passes the
    /// wake-up that it may have got on to the next.
    pub(crate) fn leave(&mut self, hash: u64, signal: &Arc<Signal>) -> Option<Arc<Signal>> {
        let waiting = self.waiting.get_mut(&hash);
        if let Some(waiting) = waiting {
            waiting.retain(|other| !Arc::ptr_eq(other, signal));
            if waiting.is_empty() {
                self.waiting.remove(&hash);
            }
        }
        let free = !self.entries.contains_key(&hash);
        if free && signal.has_fired() { self.next_waiting(hash) } else { None }
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
