//! The state machine of a scope: who may run, who waits, what is replayed.
//!
//! Lock order, outermost first; a lock is never taken while one below it is held:
//!
//! | lock | guards | held over I/O |
//! |---|---|---|
//! | expiring | drops and erasures, one at a time; none while a backup takes their files | yes |
//! | shard | index and open claims of 1/256 of the scopes | never |
//! | log | the end of the log | appends in `Buffered` mode, a roll |
//! | checkpoint | the CHECKPOINT file | yes |
//! | segments | the live set | never |
//! | signal, batch, ticket, time, clock and other leaves | themselves | never |
//!
//! Records are read outside the shard's lock; its change counter tells whether to look again.

pub(crate) mod outcome;

pub(crate) mod inflight;
pub(crate) mod ticket;

pub(crate) mod admit;
pub(crate) mod erase;
pub(crate) mod finish;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::Config;
use crate::engine::inflight::{Entry, Inflight, State};
use crate::engine::ticket::Ticket;
use crate::error::{Error, Result};
use crate::format::record::Ended;
use crate::index::{Index, shard_of};
use crate::location::{Location, Lsn};
use crate::log::OpenClaim;
use crate::log::cut::Cut;
use crate::log::writer::{Log, Staged};
use crate::recovery::Recovered;
use crate::recovery::quarantine::Quarantine;
use crate::scope::{HashKey, Token};
use crate::scrub::Scrub;
use crate::stats::{Counters, Recovery, Stats};
use crate::storage::Storage;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::time::{Reading, StoreTime};

/// One store, behind every handle, permit and future.
pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) log: Log<Deed>,
    pub(crate) recovery: Recovery,
    pub(crate) quarantine: Quarantine,
    pub(crate) hash_key: HashKey,
    time: StoreTime,
    // LOCK: shard
    shards: Vec<CachePadded>,
    /// Held while segments are dropped.
    // LOCK: expiring (outermost)
    pub(crate) expiring: Mutex<()>,
    // LOCK: growing (a leaf)
    growing: Mutex<Vec<usize>>,
    counters: Counters,
    pub(crate) scrub: Scrub,
    /// Set once, before waiting callers are woken to see it.
    closed: AtomicBool,
}

struct Shard {
    index: Index,
    inflight: Inflight,
    /// Counts what a reader outside the lock would have to see again.
    changes: u64,
}

impl CachePadded {
    fn new(index: Index) -> CachePadded {
        CachePadded(Mutex::new(Shard { index, inflight: Inflight::default(), changes: 0 }))
    }
}

/// A shard on cache lines of its own.
#[repr(align(128))]
struct CachePadded(Mutex<Shard>);

/// What is to be done once a record is durable.
pub(crate) struct Deed {
    hash: u64,
    token: Token,
    act: Act,
    ticket: Option<Arc<Ticket>>,
    /// In monotonic time.
    staged_at: Duration,
}

enum Act {
    Open,
    Complete(Location),
    Release,
    Progress { ended: Ended, checkpoint: Option<Arc<[u8]>>, lsn: Lsn },
}

impl Engine {
    pub(crate) fn new(
        config: Config,
        clock: Arc<dyn Clock>,
        storage: Arc<dyn Storage>,
        recovered: Recovered<Deed>,
    ) -> Engine {
        let engine = Engine {
            config,
            clock,
            storage,
            log: recovered.log,
            recovery: recovered.report,
            quarantine: recovered.quarantine,
            hash_key: recovered.hash_key,
            time: recovered.time,
            shards: recovered.indexes.into_iter().map(CachePadded::new).collect(),
            expiring: Mutex::default(),
            growing: Mutex::default(),
            counters: Counters::default(),
            scrub: Scrub::default(),
            closed: AtomicBool::new(false),
        };
        for (number, shard) in engine.shards.iter().enumerate() {
            if shard.0.lock().index.is_asked_to_grow() {
                engine.growing.lock().push(number);
            }
        }
        for mut open in recovered.open {
            if open.ended == Ended::No {
                open.ended = Ended::Crash;
                engine.counters.orphaned_crash.add(1);
            }
            let hash = engine.hash_key.hash(&open.facts.scope);
            let entry = Entry {
                open,
                state: State::Open,
                deadline: Duration::ZERO,
                permit: false,
                replaced: None,
                alive_ms: 0,
                progress: Lsn::ZERO,
            };
            engine.shard(hash).lock().inflight.insert(hash, entry);
        }
        engine
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[shard_of(hash)].0
    }

    /// Gives a shard a larger table, unless that is under way. Where the hints cannot be read the
    /// old table goes on, and what finds no room in it is kept apart.
    fn grow(&self, shard: usize) {
        let shard_lock = &self.shards[shard].0;
        let Some(mut larger) = shard_lock.lock().index.begin_growth() else { return };
        // The list of hints is read after the recent hashes were: one of the two has each.
        let filled =
            self.log.segments.fill(shard, &self.hash_key, std::slice::from_mut(&mut larger));
        for (hash, location) in std::mem::take(&mut larger.recent) {
            larger.add(hash, location);
        }
        let index = &mut shard_lock.lock().index;
        match filled {
            Ok(()) => index.finish_growth(larger),
            Err(_) => index.give_up_growth(),
        }
    }

    /// Asks for a larger table.
    fn ask_to_grow(&self, hash: u64) {
        self.growing.lock().push(shard_of(hash));
        self.log.ask_for_upkeep();
    }

    pub(crate) fn now(&self) -> Reading {
        self.time.read()
    }

    pub(crate) fn accept_clock(&self) -> Result<()> {
        self.log.check_open()?;
        self.time.accept();
        self.log.mark_time(self.now().now_ms)
    }

    /// Waits until a staged record is durable.
    pub(crate) fn settle(&self, staged: Staged<Deed>) -> Result<()> {
        match staged {
            Staged::Now(deed) => self.publish_now(deed),
            later => return self.log.settle(later, &|deed, outcome| self.publish(deed, outcome)),
        }
        Ok(())
    }

    /// The same without waiting; the deed's ticket tells when.
    pub(crate) fn settle_later(&self, staged: Staged<Deed>) {
        match staged {
            Staged::Now(deed) => self.publish_now(deed),
            later => self.log.settle_later(later, &|deed, outcome| self.publish(deed, outcome)),
        }
    }

    /// Publishes what was acknowledged as it was staged, at the time that was read then.
    fn publish_now(&self, deed: Deed) {
        let now = deed.staged_at;
        self.publish_at(deed, Ok(()), now);
    }

    /// Commits what async callers have staged, and syncs what is due.
    pub(crate) fn commit_staged(&self) {
        self.log.commit_staged(&|deed, outcome| self.publish(deed, outcome));
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.log.sync(&|deed, outcome| self.publish(deed, outcome))?;
        self.promise()
    }

    /// Makes what was staged durable.
    fn sync_staged(&self) -> Result<()> {
        self.log.sync(&|deed, outcome| self.publish(deed, outcome))
    }

    /// Lets the log promise that its last batch is durable.
    pub(crate) fn promise(&self) -> Result<()> {
        self.log.promise(&|deed, outcome| self.publish(deed, outcome))
    }

    /// Does the work that no caller waits for.
    pub(crate) fn upkeep(&self) {
        for segment in self.log.hint_sealed() {
            self.shards.iter().for_each(|shard| shard.0.lock().index.hinted(segment));
        }
        let growing = std::mem::take(&mut *self.growing.lock());
        growing.into_iter().for_each(|shard| self.grow(shard));
    }

    /// Makes the outcome of a record visible. Only whoever commits calls this.
    fn publish(&self, deed: Deed, outcome: Result<()>) {
        self.publish_at(deed, outcome, self.clock.monotonic());
    }

    fn publish_at(&self, deed: Deed, outcome: Result<()>, now: Duration) {
        let wake = match &outcome {
            Ok(()) => self.apply(&deed, now),
            // What failed stays in doubt: nobody is told more than that.
            Err(_) => self.shard(deed.hash).lock().inflight.all_waiting(deed.hash).into(),
        };
        wake.iter().for_each(|signal| signal.fire());
        if let Some(ticket) = &deed.ticket {
            let granted = matches!(deed.act, Act::Open) && outcome.is_ok();
            let abandoned = ticket.finish(outcome);
            if abandoned && granted {
                self.release_unrun(deed.hash, deed.token);
            }
        }
    }

    /// Applies what is durable and returns who is to be woken.
    fn apply(&self, deed: &Deed, now: Duration) -> Vec<Arc<crate::sync::Signal>> {
        let (hash, token) = (deed.hash, deed.token);
        let mut shard = self.shard(hash).lock();
        shard.changes += 1;
        match &deed.act {
            Act::Open => {
                let deadline = now + self.config.lease;
                if let Some(entry) = shard.inflight.current(hash, token) {
                    (entry.state, entry.deadline) = (State::Open, deadline);
                }
                Vec::new()
            }
            Act::Complete(location) => {
                let entry = shard.inflight.remove(hash, token);
                let replaced = entry.and_then(|entry| entry.replaced);
                let grows = shard.index.publish(hash, *location, replaced);
                let waiting = shard.inflight.all_waiting(hash).into();
                drop(shard);
                if grows {
                    self.ask_to_grow(hash);
                }
                waiting
            }
            Act::Release => match shard.inflight.remove(hash, token) {
                Some(_) => shard.inflight.next_waiting(hash).into_iter().collect(),
                None => Vec::new(),
            },
            Act::Progress { ended, checkpoint, lsn } => {
                let Some(entry) = shard.inflight.current(hash, token) else { return Vec::new() };
                // Two that were staged one after the other may be published the other way round.
                let newer = *lsn > entry.progress;
                entry.progress = entry.progress.max(*lsn);
                if checkpoint.is_some() && newer {
                    entry.open.checkpoint.clone_from(checkpoint);
                }
                if *ended == Ended::No {
                    return Vec::new();
                }
                entry.state = State::Open;
                shard.inflight.all_waiting(hash).into()
            }
        }
    }

    fn count_orphaned(&self, ended: Ended) {
        match ended {
            Ended::No => {}
            Ended::Crash => self.counters.orphaned_crash.add(1),
            Ended::Dropped => self.counters.orphaned_dropped.add(1),
            Ended::LeaseLapsed => self.counters.orphaned_lease_lapsed.add(1),
            Ended::Failed => self.counters.orphaned_failed.add(1),
        }
    }

    /// Turns a claim whose lease is over into an orphan.
    fn lapse(&self, entry: &mut Entry, now: Reading) {
        let running = entry.state == State::Open && entry.open.ended == Ended::No;
        if running && now.monotonic >= entry.deadline {
            entry.open.ended = Ended::LeaseLapsed;
            entry.alive_ms = now.latest_ms;
            self.count_orphaned(Ended::LeaseLapsed);
        }
    }

    /// Whether nobody resolved an orphan for a whole ttl.
    fn is_expired(&self, entry: &Entry, now: Reading) -> bool {
        let ended_ms = entry.open.facts.attempted_ms.max(entry.alive_ms);
        let expires_ms = ended_ms.saturating_add(self.config.ttl_ms());
        now.now_ms >= expires_ms
    }

    /// Every orphan, oldest first.
    pub(crate) fn unresolved(&self) -> Result<Vec<OpenClaim>> {
        self.check_closed()?;
        let mut orphans = Vec::new();
        let now = self.now();
        for shard in &self.shards {
            for (_, entry) in shard.0.lock().inflight.iter_mut() {
                self.lapse(entry, now);
                if entry.is_orphan() && (entry.permit || !self.is_expired(entry, now)) {
                    orphans.push(entry.open.clone());
                }
            }
        }
        orphans.sort_by_key(|open| (open.facts.claimed_ms, open.facts.token));
        Ok(orphans)
    }

    /// Ends every orphan that is past its ttl.
    pub(crate) fn expire_orphans(&self) -> Result<u64> {
        let (mut expired, mut failed) = (0, None);
        for shard in &self.shards {
            let mut shard = shard.0.lock();
            let now = self.now();
            let mut past = Vec::new();
            for (hash, entry) in shard.inflight.iter_mut() {
                self.lapse(entry, now);
                if entry.is_orphan() && !entry.permit && self.is_expired(entry, now) {
                    failed = self.log.append_expiry(&entry.open.facts, now).err();
                    if failed.is_some() {
                        break;
                    }
                    past.push((hash, entry.token()));
                }
            }
            for (hash, token) in past {
                shard.inflight.remove(hash, token);
                shard.changes += 1;
                expired += 1;
            }
            if failed.is_some() {
                break;
            }
        }
        self.counters.orphans_expired.add(expired);
        if expired > 0 {
            self.log.sync(&|deed, outcome| self.publish(deed, outcome))?;
        }
        failed.map_or(Ok(expired), Err)
    }

    /// Removes what the index still says of dropped segments.
    pub(crate) fn sweep(&self) {
        let oldest = self.log.segments.oldest();
        self.shards.iter().for_each(|shard| shard.0.lock().index.sweep(oldest));
        self.log.segments.set_swept(oldest);
    }

    /// Seals the tail if its bucket is over.
    pub(crate) fn roll_past_bucket(&self) -> Result<()> {
        let now_ms = self.now().now_ms;
        self.log.roll_past_bucket(now_ms, &|deed, outcome| self.publish(deed, outcome))
    }

    /// Cuts the log where a backup is to end.
    pub(crate) fn cut(&self) -> Result<Cut> {
        self.log.cut(self.now().now_ms, &|deed, outcome| self.publish(deed, outcome))
    }

    /// Wakes every waiting caller, to look again.
    pub(crate) fn wake_all(&self) {
        for shard in &self.shards {
            let signals = shard.0.lock().inflight.drain_waiting();
            signals.iter().for_each(|signal| signal.fire());
        }
    }

    /// Wakes the waiting callers of leases that are over, and tells when the next one will be.
    pub(crate) fn wake_lapsed(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        let mut next: Option<Duration> = None;
        for shard in &self.shards {
            let mut lapsed = Vec::new();
            {
                let shard = shard.0.lock();
                for (hash, entry) in shard.inflight.iter_awaited() {
                    // One that is not durable yet gets a whole lease once it is.
                    let staged = entry.state != State::Open;
                    let due = if staged { now + self.config.lease } else { entry.deadline };
                    if due > now {
                        next = Some(next.map_or(due, |next| next.min(due)));
                    } else {
                        lapsed.push(hash);
                    }
                }
            }
            for hash in lapsed {
                let signals = self.shard(hash).lock().inflight.all_waiting(hash);
                signals.iter().for_each(|signal| signal.fire());
            }
        }
        next
    }

    pub(crate) fn check_closed(&self) -> Result<()> {
        // Pairs with the store in `close`.
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// `None` where somebody closed it before.
    pub(crate) fn close(&self) -> Option<Result<()>> {
        // Pairs with the load in `check_closed`.
        if self.closed.swap(true, Ordering::AcqRel) {
            return None;
        }
        let now_ms = self.now().now_ms;
        let closed = self.log.close(now_ms, &|deed, outcome| self.publish(deed, outcome));
        self.wake_all();
        Some(closed)
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        let now = self.now();
        for shard in &self.shards {
            let mut shard = shard.0.lock();
            stats.responses += shard.index.len();
            stats.index_bytes += shard.index.bytes();
            stats.index_overflow += shard.index.overflow();
            stats.recent_bytes += shard.index.recent_bytes();
            for (_, entry) in shard.inflight.iter_mut() {
                self.lapse(entry, now);
                if entry.is_orphan() {
                    stats.orphans += 1;
                } else {
                    stats.in_flight += 1;
                }
            }
        }
        stats.segments = self.log.segments.count();
        let room = self.log.room();
        (stats.disk_bytes, stats.reserved_bytes) = (room.taken, room.reserved);
        stats.headroom_bytes = room.headroom;
        (stats.records, stats.appended_bytes, stats.commit_batches) = self.log.appended();
        let sealed = self.log.segments.sealed();
        let unexpiring = sealed.iter().filter(|(_, s)| s.completes > 0 && s.expires_ms_max == 0);
        stats.segments_without_expiry = unexpiring.count() as u64;
        stats.clock_held = now.is_held();
        (stats.quarantined_segments, stats.quarantined_until) =
            self.quarantine.summary(self.log.segments.oldest(), now.now_ms);
        stats.scrubbed_bytes = self.scrub.bytes.get();
        stats.scrub_rounds = self.scrub.rounds.get();
        stats.damaged_records = self.scrub.places();
        self.counters.read_into(&mut stats);
        stats
    }
}

#[cfg(test)]
mod tests;
