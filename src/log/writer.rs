//! The log as the engine sees it: records are staged here, under the lock of the log.
//!
//! The log does not know what a record means to the engine: each comes with a deed, which goes
//! to the publisher once the record is durable, or once that is known to fail.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use crate::clock::real_monotonic;
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::format::record::{self, Body, CHECKPOINT_BYTES_MAX, Complete, Draft, Ended, Freed};
use crate::location::{Location, Lsn};
use crate::log::checkpoints::Checkpoints;
use crate::log::commit::Batch;
use crate::log::room::{Room, carried_bytes, ending_bytes};
use crate::log::segments::Segments;
use crate::log::staging::{Maker, Placed, Sealed, Staging};
use crate::log::{Facts, OpenClaim};
use crate::scope::{Fingerprint, OperationId, OperationKey, Token};
use crate::stats::CommitTimes;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::time::Reading;

/// What the log calls when it needs somebody to lead, or to prepare the next segment.
pub(crate) trait Helpers: Send + Sync {
    /// Staged records wait for a leader, or for a sync after `due` of real time.
    fn commit_due(&self, due: Option<Duration>);
    /// The tail needs blocks, or the next segment its file.
    fn blocks_due(&self);
    /// A segment was sealed, or a shard wants to grow.
    fn upkeep_due(&self);
    /// A batch was committed, and nothing is staged behind it.
    fn went_idle(&self);
}

/// Takes a deed once the fate of its record is known.
pub(crate) type Publish<'a, D> = &'a dyn Fn(D, Result<()>);

pub(crate) struct Log<D> {
    pub(in crate::log) maker: Maker,
    pub(in crate::log) durability: Durability,
    pub(crate) segments: Segments,
    pub(in crate::log) operations: OperationKey,
    // LOCK: log
    pub(in crate::log) state: Mutex<State<D>>,
    pub(in crate::log) prepared: Condvar,
    // LOCK: checkpoint (taken by the leader and by expiry, never under the log's)
    pub(in crate::log) checkpoints: Mutex<Checkpoints>,
    pub(in crate::log) poison: OnceLock<Arc<str>>,
    // LOCK: hints to write (a leaf)
    pub(in crate::log) unhinted: Mutex<Vec<Sealed>>,
    // LOCK: hinting (taken by upkeep, a backup and the close, under none but expiring)
    pub(in crate::log) hinting: Mutex<()>,
    pub(in crate::log) helpers: OnceLock<Arc<dyn Helpers>>,
    pub(in crate::log) commit_times: CommitTimes,
}

pub(in crate::log) struct State<D> {
    pub(in crate::log) staging: Staging,
    pub(in crate::log) deeds: Vec<D>,
    pub(in crate::log) batch: Arc<Batch>,
    /// Callers of this batch that wait in their own thread.
    pub(in crate::log) blocking: usize,
    pub(in crate::log) leading: bool,
    /// When the oldest record of the sync under way was staged, in real time.
    pub(in crate::log) syncing_since: Option<Duration>,
    pub(in crate::log) closed: bool,
    /// Somebody is making the file of the next segment, without the lock.
    pub(in crate::log) preparing: bool,
    pub(in crate::log) batches: u64,
}

/// How the stager will wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Blocking,
    Async,
    /// Nobody waits yet: who staged many will sync them all.
    Many,
}

/// A record that was staged.
#[must_use]
pub(crate) enum Staged<D> {
    /// Acknowledged already; the caller publishes.
    Now(D),
    /// The leader of the batch publishes; the caller leads where `lead` says so.
    Later { batch: Arc<Batch>, lead: bool },
}

/// A claim that begins, or an orphan that is taken over.
pub(crate) struct NewClaim<'a> {
    pub(crate) scope: &'a [u8],
    pub(crate) fingerprint: Fingerprint,
    /// The attempt that this one replaces.
    pub(crate) previous: Option<&'a OpenClaim>,
}

/// A completion, its response in parts.
pub(crate) struct NewComplete<'a> {
    pub(crate) complete: Complete<'a>,
    pub(crate) attempt: u16,
    pub(crate) parts: &'a [&'a [u8]],
    /// The hash of its scope, for the hint file.
    pub(crate) hash: u64,
}

impl NewClaim<'_> {
    /// All but the times, the token, and for a first attempt the operation, which the LSN decides.
    fn facts(&self) -> Facts {
        let previous = self.previous.map(|open| (open.ended, &*open.facts));
        let (cause, first) = previous.map_or((Ended::No, None), |(end, facts)| (end, Some(facts)));
        Facts {
            scope: self.scope.into(),
            fingerprint: self.fingerprint,
            operation: first.map_or(OperationId::from_bytes([0; 16]), |facts| facts.operation),
            token: Token::new(0),
            attempt: first.map_or(1, |facts| facts.attempt.saturating_add(1)),
            claimed_ms: first.map_or(0, |facts| facts.claimed_ms),
            attempted_ms: 0,
            cause,
        }
    }
}

impl<D> Log<D> {
    pub(crate) fn new(
        maker: Maker,
        durability: Durability,
        segments: Segments,
        operations: OperationKey,
        staging: Staging,
        checkpoints: Checkpoints,
    ) -> Log<D> {
        let state = State {
            staging,
            deeds: Vec::new(),
            batch: Arc::default(),
            blocking: 0,
            leading: false,
            syncing_since: None,
            closed: false,
            preparing: false,
            batches: 0,
        };
        Log {
            maker,
            durability,
            segments,
            operations,
            state: Mutex::new(state),
            prepared: Condvar::new(),
            checkpoints: Mutex::new(checkpoints),
            poison: OnceLock::new(),
            unhinted: Mutex::default(),
            hinting: Mutex::default(),
            helpers: OnceLock::new(),
            commit_times: CommitTimes::default(),
        }
    }

    /// Names who helps; without helpers the callers do everything themselves.
    pub(crate) fn set_helpers(&self, helpers: Arc<dyn Helpers>) {
        self.helpers.set(helpers).ok();
    }

    /// Why nothing can be appended, if that is so.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.state.lock().closed {
            return Err(Error::Closed);
        }
        self.check_poison()
    }

    pub(crate) fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            Some(cause) => Err(Error::Poisoned { cause: Arc::clone(cause) }),
            None => Ok(()),
        }
    }

    /// Stages a CLAIM; the deed is made from what the log decides about it.
    pub(crate) fn stage_claim(
        &self,
        new: &NewClaim<'_>,
        now: Reading,
        wait: Wait,
        deed: impl FnOnce(&Arc<Facts>) -> D,
    ) -> Result<(OpenClaim, Staged<D>)> {
        let checkpoint_bytes = if new.previous.is_some() { CHECKPOINT_BYTES_MAX } else { 0 };
        let bytes = record::carried_bytes(new.scope.len(), checkpoint_bytes);
        // Allocated before the lock; the times are set under it.
        let mut facts = Arc::new(new.facts());
        let kept = if new.previous.is_some() { 0 } else { ending_bytes(new.scope.len()) };
        let room = Room::Grows(kept);
        let mut state = self.begin(now.now_ms, bytes, room)?;
        let staging = &mut state.staging;
        // An orphan's time counts from the latest that could be true, as a response's does.
        let attempted_ms = now.latest_ms.max(staging.time_ms);
        let times = Arc::get_mut(&mut facts).expect("nobody else has the facts yet");
        times.attempted_ms = attempted_ms;
        if new.previous.is_none() {
            times.claimed_ms = staging.time_ms;
        }
        let mut open = OpenClaim { facts, ended: Ended::No, checkpoint: None };
        let mut freed = 0;
        if let Some(previous) = new.previous {
            // What was saved last, published or not.
            let newest = staging.open.get(&previous.facts.token).unwrap_or(previous);
            open.checkpoint.clone_from(&newest.checkpoint);
            freed = carried_bytes(newest);
        }
        if staging.carry_bytes + carried_bytes(&open) - freed > self.maker.segment_bytes / 4 {
            return Err(Error::Full { what: "open claims take a quarter of a segment" });
        }
        if let (None, Some(organizations)) = (new.previous, &staging.organizations) {
            organizations.check(new.scope)?;
        }
        let taken = carried_bytes(&open) + kept;
        if self.used_bytes(staging) + taken > self.maker.disk_budget_bytes {
            return Err(Error::Full { what: "disk_budget_bytes" });
        }
        let parts = open.checkpoint.as_deref().map(|bytes| [bytes]);
        let value = parts.as_ref().map_or(&[][..], |parts| &parts[..]);
        let mut claim = open.carried();
        // A record that begins an operation says its times in its header, where that is enough.
        if new.previous.is_none() && attempted_ms == staging.time_ms {
            claim.carried = None;
        }
        let has_token = claim.carried.is_some();
        let mut draft = Draft::claim(&claim, open.facts.attempt, value);
        let mut operation = open.facts.operation;
        let placed =
            self.append(&mut state.staging, now.now_ms, room, &mut draft, |draft, lsn| {
                if has_token {
                    draft.set_token(Token::new(lsn.0));
                }
                if new.previous.is_none() {
                    operation = self.operations.operation(lsn.0);
                    draft.set_operation(operation);
                }
            })?;
        let facts = Arc::get_mut(&mut open.facts).expect("nobody else has the facts yet");
        (facts.token, facts.operation) = (Token::new(placed.lsn.0), operation);
        let facts = Arc::clone(&open.facts);
        if let Some(previous) = new.previous {
            state.staging.remove_open(previous.facts.token);
        }
        state.staging.insert_open(open.clone());
        let deed = deed(&facts);
        Ok((open, self.staged(&mut state, deed, now.real, wait)))
    }

    /// Stages a COMPLETE.
    pub(crate) fn stage_complete(
        &self,
        new: &NewComplete<'_>,
        now: Reading,
        wait: Wait,
        deed: impl FnOnce(Location) -> D,
    ) -> Result<Staged<D>> {
        let complete = &new.complete;
        let mut draft = Draft::complete(complete, new.attempt, new.parts);
        let room = if complete.body == Body::Whole { Room::Grows(0) } else { Room::Ends };
        let mut state = self.begin(now.now_ms, draft.record_bytes() as u64, room)?;
        let placed = self.append(&mut state.staging, now.now_ms, room, &mut draft, |_, _| {})?;
        state.staging.remove_open(complete.token);
        state.staging.hint(new.hash, placed.location, complete.expires_ms);
        Ok(self.staged(&mut state, deed(placed.location), now.real, wait))
    }

    /// Stages the RELEASE of a claim.
    pub(crate) fn stage_release(
        &self,
        facts: &Facts,
        freed: Freed,
        now: Reading,
        wait: Wait,
        deed: D,
    ) -> Result<Staged<D>> {
        let mut draft = Draft::release(facts.token, freed, facts.attempt);
        let mut state = self.begin(now.now_ms, draft.record_bytes() as u64, Room::Ends)?;
        self.append(&mut state.staging, now.now_ms, Room::Ends, &mut draft, |_, _| {})?;
        state.staging.remove_open(facts.token);
        Ok(self.staged(&mut state, deed, now.real, wait))
    }

    /// Appends the RELEASE of an orphan that is past its ttl. Nobody waits for it: a record behind
    /// it is durable only after it, and without it the orphan expires again.
    pub(crate) fn append_expiry(&self, facts: &Facts, now: Reading) -> Result<()> {
        let mut draft = Draft::release(facts.token, Freed::Expired, facts.attempt);
        let mut state = self.begin(now.now_ms, draft.record_bytes() as u64, Room::Ends)?;
        self.append(&mut state.staging, now.now_ms, Room::Ends, &mut draft, |_, _| {})?;
        state.staging.remove_open(facts.token);
        if let Durability::Buffered { sync_every } = self.durability {
            self.note_unsynced(&mut state, now.real, sync_every);
        }
        Ok(())
    }

    /// Stages a checkpoint of a claim, or the news that it was given up.
    pub(crate) fn stage_progress(
        &self,
        mut open: OpenClaim,
        saved: Option<&[u8]>,
        now: Reading,
        wait: Wait,
        deed: impl FnOnce(Lsn) -> D,
    ) -> Result<Staged<D>> {
        let parts = saved.map(|bytes| [bytes]);
        let value = parts.as_ref().map_or(&[][..], |parts| &parts[..]);
        let facts = Arc::clone(&open.facts);
        let mut draft = Draft::progress(facts.token, open.ended, facts.attempt, value);
        let room = Room::Grows(0);
        let mut state = self.begin(now.now_ms, draft.record_bytes() as u64, room)?;
        let newest = state.staging.open.get(&facts.token);
        let before = newest.map_or(0, carried_bytes);
        if saved.is_none() {
            // A checkpoint may have been staged that is not published yet.
            open.checkpoint = newest.and_then(|newest| newest.checkpoint.clone());
        }
        let carry = state.staging.carry_bytes - before + carried_bytes(&open);
        if saved.is_some() && carry > self.maker.segment_bytes / 4 {
            return Err(Error::Full { what: "open claims take a quarter of a segment" });
        }
        let placed = self.append(&mut state.staging, now.now_ms, room, &mut draft, |_, _| {})?;
        state.staging.insert_open(open);
        Ok(self.staged(&mut state, deed(placed.lsn), now.real, wait))
    }

    /// Takes the lock to stage at most so many bytes.
    pub(in crate::log) fn begin(
        &self,
        now_ms: u64,
        bytes: u64,
        room: Room,
    ) -> Result<MutexGuard<'_, State<D>>> {
        let mut state = self.state.lock();
        state.staging.time_ms = state.staging.time_ms.max(now_ms);
        // The file of the next segment must not be made twice, nor blocks be zeroed again.
        while state.preparing && state.staging.may_roll(&self.maker)
            || state.staging.waits_for_blocks(bytes, room)
        {
            self.prepared.wait(&mut state);
        }
        if state.closed {
            return Err(Error::Closed);
        }
        self.check_poison()?;
        Ok(state)
    }

    pub(in crate::log) fn append(
        &self,
        staging: &mut Staging,
        now_ms: u64,
        room: Room,
        draft: &mut Draft<'_>,
        finish: impl FnOnce(&mut Draft<'_>, Lsn),
    ) -> Result<Placed> {
        let placed = staging.append(&self.maker, &self.segments, now_ms, room, draft, finish);
        if staging.wants_blocks(&self.maker) {
            self.help(|helpers| helpers.blocks_due());
        }
        if let Err(error @ Error::Io { .. }) = &placed {
            self.set_poison(error);
        }
        placed
    }

    /// Decides who acknowledges a record that was just appended.
    fn staged(&self, state: &mut State<D>, deed: D, now: Duration, wait: Wait) -> Staged<D> {
        if let Durability::Buffered { sync_every } = self.durability {
            let since = self.note_unsynced(state, now, sync_every);
            let oldest = state.syncing_since.unwrap_or(since);
            let overdue = now.saturating_sub(oldest) > sync_every;
            // Without a committer the caller syncs at half time, as the committer would.
            let unhelped =
                self.helpers.get().is_none() && now.saturating_sub(oldest) > sync_every / 2;
            if !overdue && !unhelped {
                return Staged::Now(deed);
            }
        }
        state.deeds.push(deed);
        let unhelped = self.helpers.get().is_none();
        let lead = match wait {
            Wait::Blocking => !state.leading,
            Wait::Async => !state.leading && unhelped,
            Wait::Many => false,
        };
        if lead {
            state.leading = true;
        } else if wait == Wait::Async && !state.leading {
            self.help(|helpers| helpers.commit_due(None));
        }
        if wait == Wait::Blocking {
            state.blocking += 1;
        }
        Staged::Later { batch: Arc::clone(&state.batch), lead }
    }

    /// When the oldest record that no sync has taken up was staged.
    pub(in crate::log) fn note_unsynced(
        &self,
        state: &mut State<D>,
        now: Duration,
        every: Duration,
    ) -> Duration {
        *state.staging.unsynced_since.get_or_insert_with(|| {
            self.help(|helpers| helpers.commit_due(Some(now + every / 2)));
            now
        })
    }

    /// Asks the committer to look at the leases of waiting callers after this much real time.
    pub(crate) fn look_again_in(&self, left: Duration) {
        self.help(|helpers| helpers.commit_due(Some(real_monotonic() + left)));
    }

    /// Asks for upkeep soon.
    pub(crate) fn ask_for_upkeep(&self) {
        self.help(|helpers| helpers.upkeep_due());
    }

    pub(in crate::log) fn help(&self, call: impl FnOnce(&dyn Helpers)) {
        if let Some(helpers) = self.helpers.get() {
            call(&**helpers);
        }
    }

    pub(in crate::log) fn set_poison(&self, error: &Error) {
        self.poison.get_or_init(|| error.to_string().into());
    }
}
