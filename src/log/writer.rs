//! Group commit: callers stage, one of them writes and syncs for all, and publishes.
//!
//! Whoever finds no commit under way leads. When it is done and new work has been staged behind
//! it, it hands leadership to a blocking caller of the next batch, else to the committer thread.
//! There is no timer: a batch is what gathered while the one before it was synced.
//!
//! The log does not know what a record means to the engine: each comes with a deed, which goes
//! to the publisher once the record is durable, or once that is known to fail.

use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use crate::clock::real_monotonic;
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::hint::{Binding, Hints};
use crate::format::record::{Complete, Draft, Ended, Freed};
use crate::location::{Location, Lsn};
use crate::log::checkpoints::Checkpoints;
use crate::log::commit::{Batch, PoisonOnUnwind, Turn};
use crate::log::segments::Segments;
use crate::log::staging::{Maker, Placed, Sealed, Staging, Step, carried_bytes};
use crate::log::{Facts, OpenClaim, hint_name, segment_name};
use crate::scope::{Fingerprint, OperationId, OperationKey, Token};
use crate::storage::Storage;
use crate::sync::{Condvar, Mutex, MutexGuard};

/// What the log calls when it needs somebody to lead, or to prepare the next segment.
pub(crate) trait Helpers: Send + Sync {
    /// Staged records wait for a leader, or for a sync after `due` of real time.
    fn commit_due(&self, due: Option<Duration>);
    /// The tail is half full, or a segment was sealed.
    fn upkeep_due(&self);
}

/// Takes a deed once the fate of its record is known.
pub(crate) type Publish<'a, D> = &'a dyn Fn(D, Result<()>);

pub(crate) struct Log<D> {
    maker: Maker,
    durability: Durability,
    pub(crate) segments: Segments,
    operations: OperationKey,
    // LOCK: log
    state: Mutex<State<D>>,
    prepared: Condvar,
    // LOCK: checkpoint (taken by the leader and by expiry, never under the log's)
    checkpoints: Mutex<Checkpoints>,
    poison: OnceLock<Arc<str>>,
    // LOCK: hints to write (a leaf)
    unhinted: Mutex<Vec<Sealed>>,
    helpers: OnceLock<Arc<dyn Helpers>>,
}

struct State<D> {
    staging: Staging,
    deeds: Vec<D>,
    batch: Arc<Batch>,
    /// Callers of this batch that wait in their own thread.
    blocking: usize,
    leading: bool,
    /// When the oldest record of the sync under way was staged, in real time.
    syncing_since: Option<Duration>,
    closed: bool,
    /// Somebody is making the file of the next segment, without the lock.
    preparing: bool,
    batches: u64,
}

/// How the stager will wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Blocking,
    Async,
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

impl NewClaim<'_> {
    /// All but the token, and for a first attempt the operation, which the LSN decides.
    fn facts(&self, now_ms: u64) -> Facts {
        let previous = self.previous.map(|open| (open.ended, &*open.facts));
        let (cause, first) = previous.map_or((Ended::No, None), |(end, facts)| (end, Some(facts)));
        Facts {
            scope: self.scope.into(),
            fingerprint: self.fingerprint,
            operation: first.map_or(OperationId::from_bytes([0; 16]), |facts| facts.operation),
            token: Token::new(0),
            attempt: first.map_or(1, |facts| facts.attempt.saturating_add(1)),
            claimed_ms: first.map_or(now_ms, |facts| facts.claimed_ms),
            attempted_ms: now_ms,
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
            helpers: OnceLock::new(),
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
        now_ms: u64,
        wait: Wait,
        deed: impl FnOnce(&Arc<Facts>) -> D,
    ) -> Result<(Arc<Facts>, Staged<D>)> {
        let mut state = self.begin(now_ms)?;
        let staging = &mut state.staging;
        let mut open = OpenClaim {
            facts: Arc::new(new.facts(staging.time_ms)),
            ended: Ended::No,
            checkpoint: new.previous.and_then(|previous| previous.checkpoint.clone()),
        };
        let freed = new.previous.map_or(0, carried_bytes);
        if staging.carry_bytes + carried_bytes(&open) - freed > self.maker.segment_bytes / 4 {
            return Err(Error::Full { what: "open claims take a quarter of a segment" });
        }
        let parts = open.checkpoint.as_deref().map(|bytes| [bytes]);
        let value = parts.as_ref().map_or(&[][..], |parts| &parts[..]);
        let mut claim = open.carried();
        if new.previous.is_none() {
            claim.carried = None;
        }
        let mut draft = Draft::claim(&claim, open.facts.attempt, value);
        let mut operation = open.facts.operation;
        let placed = self.append(&mut state.staging, now_ms, &mut draft, |draft, lsn| {
            if new.previous.is_some() {
                draft.set_token(Token::new(lsn.0));
            } else {
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
        state.staging.insert_open(open);
        let deed = deed(&facts);
        Ok((facts, self.staged(&mut state, deed, wait)))
    }

    /// Stages a COMPLETE with its response in parts.
    pub(crate) fn stage_complete(
        &self,
        complete: &Complete<'_>,
        attempt: u16,
        parts: &[&[u8]],
        hash: u64,
        now_ms: u64,
        wait: Wait,
        deed: impl FnOnce(Location) -> D,
    ) -> Result<Staged<D>> {
        let mut draft = Draft::complete(complete, attempt, parts);
        let mut state = self.begin(now_ms)?;
        let placed = self.append(&mut state.staging, now_ms, &mut draft, |_, _| {})?;
        state.staging.remove_open(complete.token);
        state.staging.hint(hash, placed.location, complete.expires_ms);
        Ok(self.staged(&mut state, deed(placed.location), wait))
    }

    /// Stages the RELEASE of a claim.
    pub(crate) fn stage_release(
        &self,
        facts: &Facts,
        freed: Freed,
        now_ms: u64,
        wait: Wait,
        deed: D,
    ) -> Result<Staged<D>> {
        let mut draft = Draft::release(facts.token, freed, facts.attempt);
        let mut state = self.begin(now_ms)?;
        self.append(&mut state.staging, now_ms, &mut draft, |_, _| {})?;
        state.staging.remove_open(facts.token);
        Ok(self.staged(&mut state, deed, wait))
    }

    /// Appends the RELEASE of an orphan that is past its ttl. Nobody waits for it: a record behind
    /// it is durable only after it, and without it the orphan expires again.
    pub(crate) fn append_expiry(&self, facts: &Facts, now_ms: u64) -> Result<()> {
        let mut draft = Draft::release(facts.token, Freed::Expired, facts.attempt);
        let mut state = self.begin(now_ms)?;
        self.append(&mut state.staging, now_ms, &mut draft, |_, _| {})?;
        state.staging.remove_open(facts.token);
        if let Durability::Buffered { sync_every } = self.durability {
            self.note_unsynced(&mut state, real_monotonic(), sync_every);
        }
        Ok(())
    }

    /// Stages a checkpoint of a claim, or the news that it was given up.
    pub(crate) fn stage_progress(
        &self,
        open: OpenClaim,
        saved: Option<&[u8]>,
        now_ms: u64,
        wait: Wait,
        deed: D,
    ) -> Result<Staged<D>> {
        let parts = saved.map(|bytes| [bytes]);
        let value = parts.as_ref().map_or(&[][..], |parts| &parts[..]);
        let facts = Arc::clone(&open.facts);
        let mut draft = Draft::progress(facts.token, open.ended, facts.attempt, value);
        let mut state = self.begin(now_ms)?;
        let before = state.staging.open.get(&facts.token).map_or(0, carried_bytes);
        let carry = state.staging.carry_bytes - before + carried_bytes(&open);
        if saved.is_some() && carry > self.maker.segment_bytes / 4 {
            return Err(Error::Full { what: "open claims take a quarter of a segment" });
        }
        self.append(&mut state.staging, now_ms, &mut draft, |_, _| {})?;
        state.staging.insert_open(open);
        Ok(self.staged(&mut state, deed, wait))
    }

    fn begin(&self, now_ms: u64) -> Result<MutexGuard<'_, State<D>>> {
        let mut state = self.state.lock();
        state.staging.time_ms = state.staging.time_ms.max(now_ms);
        // The file of the next segment must not be made twice.
        while state.preparing && state.staging.may_roll(&self.maker) {
            self.prepared.wait(&mut state);
        }
        if state.closed {
            return Err(Error::Closed);
        }
        self.check_poison()?;
        Ok(state)
    }

    fn append(
        &self,
        staging: &mut Staging,
        now_ms: u64,
        draft: &mut Draft<'_>,
        finish: impl FnOnce(&mut Draft<'_>, Lsn),
    ) -> Result<Placed> {
        let placed = staging.append(&self.maker, &self.segments, now_ms, draft, finish);
        if let Err(error @ Error::Io { .. }) = &placed {
            self.set_poison(error);
        }
        placed
    }

    /// Decides who acknowledges a record that was just appended.
    fn staged(&self, state: &mut State<D>, deed: D, wait: Wait) -> Staged<D> {
        if let Durability::Buffered { sync_every } = self.durability {
            let now = real_monotonic();
            let since = self.note_unsynced(state, now, sync_every);
            let oldest = state.syncing_since.unwrap_or(since);
            let overdue = now.saturating_sub(oldest) > sync_every;
            // Without a committer the caller syncs at half time, as the committer would.
            let unhelped = self.helpers.get().is_none() && now - oldest > sync_every / 2;
            if !overdue && !unhelped {
                return Staged::Now(deed);
            }
        }
        state.deeds.push(deed);
        let lead = !state.leading && (wait == Wait::Blocking || self.helpers.get().is_none());
        if lead {
            state.leading = true;
        } else if !state.leading {
            self.help(|helpers| helpers.commit_due(None));
        }
        if wait == Wait::Blocking {
            state.blocking += 1;
        }
        Staged::Later { batch: Arc::clone(&state.batch), lead }
    }

    /// When the oldest record that no sync has taken up was staged.
    fn note_unsynced(&self, state: &mut State<D>, now: Duration, every: Duration) -> Duration {
        *state.staging.unsynced_since.get_or_insert_with(|| {
            self.help(|helpers| helpers.commit_due(Some(now + every / 2)));
            now
        })
    }

    /// Asks the committer to look at the leases of waiting callers after this much real time.
    pub(crate) fn look_again_in(&self, left: Duration) {
        self.help(|helpers| helpers.commit_due(Some(real_monotonic() + left)));
    }

    fn help(&self, call: impl FnOnce(&dyn Helpers)) {
        if let Some(helpers) = self.helpers.get() {
            call(&**helpers);
        }
    }

    /// Waits until the record is durable, leading the commit where that falls to the caller.
    pub(crate) fn settle(&self, staged: Staged<D>, publish: Publish<'_, D>) -> Result<()> {
        match staged {
            Staged::Now(deed) => {
                publish(deed, Ok(()));
                Ok(())
            }
            Staged::Later { batch, lead } => {
                if lead {
                    self.lead(publish);
                }
                loop {
                    match batch.wait() {
                        Turn::Lead => self.lead(publish),
                        Turn::Done(outcome) => return outcome,
                    }
                }
            }
        }
    }

    /// The same for a caller who does not wait.
    pub(crate) fn settle_later(&self, staged: Staged<D>, publish: Publish<'_, D>) {
        match staged {
            Staged::Now(deed) => publish(deed, Ok(())),
            Staged::Later { lead: true, .. } => self.lead(publish),
            Staged::Later { lead: false, .. } => {}
        }
    }

    /// Commits what is staged, if nobody else is about to; for the committer.
    pub(crate) fn commit_staged(&self, publish: Publish<'_, D>) {
        {
            let mut state = self.state.lock();
            let nothing = state.deeds.is_empty() && !state.staging.dirty;
            if state.leading || nothing || self.poison.get().is_some() {
                return;
            }
            state.leading = true;
        }
        self.lead(publish);
    }

    /// Makes everything staged so far durable.
    pub(crate) fn sync(&self, publish: Publish<'_, D>) -> Result<()> {
        self.check_open()?;
        self.sync_staged(publish)
    }

    fn sync_staged(&self, publish: Publish<'_, D>) -> Result<()> {
        let (batch, lead) = {
            let mut state = self.state.lock();
            self.check_poison()?;
            let idle = state.deeds.is_empty() && !state.staging.dirty;
            if idle && !state.leading {
                return Ok(());
            }
            state.blocking += 1;
            let lead = !state.leading;
            state.leading = true;
            (Arc::clone(&state.batch), lead)
        };
        self.settle(Staged::Later { batch, lead }, publish)
    }

    /// Commits batch after batch until somebody else leads or nothing is staged. The caller holds
    /// leadership.
    fn lead(&self, publish: Publish<'_, D>) {
        while self.commit_batch(publish) == Next::Again {}
    }

    /// Writes and syncs one batch, hands on, and publishes it.
    fn commit_batch(&self, publish: Publish<'_, D>) -> Next {
        let work = self.take_work();
        let batch = Arc::clone(&work.batch);
        let guard = PoisonOnUnwind::armed(|error| self.abandon(&batch, &error));
        let outcome = self.check_poison().and_then(|()| self.make_durable(&work));
        if let Err(error) = &outcome {
            self.set_poison(error);
        }
        let next = self.hand_over(&work, outcome.is_ok());
        for deed in work.deeds {
            publish(deed, outcome.clone());
        }
        work.batch.finish(outcome);
        let sealed = !work.sealed.is_empty();
        if sealed && self.poison.get().is_none() {
            self.unhinted.lock().extend(work.sealed);
        }
        if sealed || work.wants_segment {
            self.help(|helpers| helpers.upkeep_due());
        }
        guard.disarm();
        next
    }

    fn take_work(&self) -> Work<D> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let staging = &mut state.staging;
        if std::mem::take(&mut staging.dirty) {
            staging.steps.push(Step::Sync(Arc::clone(&staging.tail.file)));
        }
        state.syncing_since = staging.unsynced_since.take();
        state.blocking = 0;
        state.batches += 1;
        Work {
            steps: std::mem::take(&mut staging.steps),
            sealed: std::mem::take(&mut staging.sealed),
            deeds: std::mem::take(&mut state.deeds),
            batch: std::mem::take(&mut state.batch),
            upto: staging.last,
            tail: staging.tail.header.segment,
            time_ms: staging.time_ms,
            wants_segment: staging.prepared.is_none()
                && staging.tail.offset > self.maker.segment_bytes / 2,
        }
    }

    /// Everything in the order of its LSNs: nothing in N + 1 is synced, and CHECKPOINT does not
    /// call N sealed, before what comes first is durable.
    fn make_durable(&self, work: &Work<D>) -> Result<()> {
        self.write_and_sync(work)?;
        self.checkpoint_sealed(work)
    }

    fn write_and_sync(&self, work: &Work<D>) -> Result<()> {
        for step in &work.steps {
            match step {
                Step::Write { file, offset, bytes } => {
                    file.write_at(*offset, bytes).map_err(Error::io("write records"))?;
                }
                Step::Sync(file) => file.sync().map_err(Error::io("sync records"))?,
            }
        }
        Ok(())
    }

    fn checkpoint_sealed(&self, work: &Work<D>) -> Result<()> {
        let Some(newest) = work.sealed.last() else { return Ok(()) };
        self.checkpoints.lock().write(|checkpoint| {
            (checkpoint.sealed, checkpoint.tail) = (newest.segment, work.tail);
            checkpoint.durable_lsn = work.upto;
            checkpoint.time_ms = checkpoint.time_ms.max(work.time_ms);
        })?;
        for sealed in &work.sealed {
            self.segments.seal(sealed.segment, sealed.hints.summary);
        }
        Ok(())
    }

    /// Gives leadership to the next batch. After a failure the caller keeps it, to fail that
    /// batch too.
    fn hand_over(&self, work: &Work<D>, durable: bool) -> Next {
        let mut state = self.state.lock();
        state.syncing_since = None;
        if durable {
            state.staging.durable = work.upto;
        }
        if !durable && !(state.deeds.is_empty() && state.blocking == 0) {
            return Next::Again;
        }
        if state.blocking > 0 {
            state.batch.hand_over();
            return Next::Other;
        }
        if !state.deeds.is_empty() && self.helpers.get().is_none() {
            return Next::Again;
        }
        state.leading = false;
        if !state.deeds.is_empty() {
            self.help(|helpers| helpers.commit_due(None));
        }
        Next::Other
    }

    /// A panic in the middle of a commit: nothing more is acknowledged, and nobody waits for ever.
    fn abandon(&self, batch: &Batch, error: &Error) {
        self.set_poison(error);
        let mut state = self.state.lock();
        state.leading = false;
        state.batch.finish(Err(error.clone()));
        batch.finish(Err(error.clone()));
    }

    /// Appends a CLEAN and syncs all there is; nothing can be staged afterwards.
    pub(crate) fn close(&self, publish: Publish<'_, D>) -> Result<()> {
        {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.closed, true) {
                return Err(Error::Closed);
            }
        }
        self.sync_staged(publish)?;
        {
            let mut state = self.state.lock();
            let appended = state.staging.append_clean(&self.maker);
            if let Err(error) = &appended {
                self.set_poison(error);
            }
            appended?;
        }
        self.sync_staged(publish)?;
        let (last, time_ms) = {
            let state = self.state.lock();
            (state.staging.last, state.staging.time_ms)
        };
        self.checkpoint(|checkpoint| {
            checkpoint.durable_lsn = last;
            checkpoint.time_ms = checkpoint.time_ms.max(time_ms);
        })
    }

    /// Appends a record that promises everything before it, unless the newest record does.
    pub(crate) fn promise(&self, publish: Publish<'_, D>) -> Result<()> {
        {
            let mut state = self.state.lock();
            let idle = !state.leading && state.deeds.is_empty() && !state.staging.dirty;
            if !idle || state.closed || self.poison.get().is_some() {
                return Ok(());
            }
            let appended = state.staging.append_promise(&self.maker);
            if let Err(error) = &appended {
                self.set_poison(error);
            }
            appended?;
        }
        self.sync_staged(publish)
    }

    /// Writes one slot of CHECKPOINT; a failure poisons.
    fn checkpoint(&self, change: impl FnOnce(&mut Checkpoint)) -> Result<()> {
        let written = self.checkpoints.lock().write(change);
        written.inspect_err(|error| self.set_poison(error))
    }

    /// Seals the tail if its bucket is over, so that it can be dropped when its time comes.
    pub(crate) fn roll_past_bucket(&self, now_ms: u64, publish: Publish<'_, D>) -> Result<()> {
        {
            let mut state = self.begin(now_ms)?;
            if !state.staging.bucket_is_over(&self.maker) {
                return Ok(());
            }
            let rolled = state.staging.roll(&self.maker, &self.segments);
            if let Err(error @ Error::Io { .. }) = &rolled {
                self.set_poison(error);
            }
            rolled?;
        }
        self.sync(publish)
    }

    /// Makes the segments below `oldest` absent: first on disk in both slots, then for readers.
    /// Returns the names of the files that may now be removed.
    pub(crate) fn drop_below(&self, oldest: u64, time_ms: u64) -> Result<Vec<String>> {
        self.check_poison()?;
        let from = self.segments.oldest();
        let written = self.checkpoints.lock().write_both(|checkpoint| {
            checkpoint.oldest = oldest;
            checkpoint.time_ms = checkpoint.time_ms.max(time_ms);
        });
        written.inspect_err(|error| self.set_poison(error))?;
        self.segments.drop_below(oldest);
        Ok((from..oldest).flat_map(|number| [segment_name(number), hint_name(number)]).collect())
    }

    /// Writes the highest store time, so that a restart goes on from it.
    pub(crate) fn mark_time(&self, time_ms: u64) -> Result<()> {
        self.check_open()?;
        self.checkpoint(|checkpoint| checkpoint.time_ms = checkpoint.time_ms.max(time_ms))
    }

    /// Makes the file of the next segment, and the hint files of sealed ones. A failure to do so
    /// harms nothing: the segment is then made when it is needed, the hints at the next open.
    pub(crate) fn upkeep(&self) {
        self.prepare_segment();
        let sealed = std::mem::take(&mut *self.unhinted.lock());
        for sealed in sealed {
            let binding =
                Binding { store: self.maker.store, segment: sealed.segment, salt: sealed.salt };
            if write_hints(&*self.maker.storage, binding, &sealed.hints).is_err() {
                return;
            }
        }
    }

    fn prepare_segment(&self) {
        let number = {
            let mut state = self.state.lock();
            let wanted = state.staging.prepared.is_none()
                && state.staging.tail.offset > self.maker.segment_bytes / 2;
            if !wanted || state.preparing || state.closed {
                return;
            }
            state.preparing = true;
            state.staging.tail.header.segment + 1
        };
        let prepared = self.maker.prepare(number);
        let mut state = self.state.lock();
        state.preparing = false;
        state.staging.prepared = prepared.ok();
        self.prepared.notify_all();
    }

    /// The number of records, bytes and batches so far.
    pub(crate) fn appended(&self) -> (u64, u64, u64) {
        let state = self.state.lock();
        (state.staging.records, state.staging.appended_bytes, state.batches)
    }

    fn set_poison(&self, error: &Error) {
        self.poison.get_or_init(|| error.to_string().into());
    }
}

/// Writes a hint file under another name and renames it, so that a torn one is never read.
pub(crate) fn write_hints(
    storage: &dyn Storage,
    binding: Binding,
    hints: &Hints,
) -> std::io::Result<()> {
    let bytes = hints.encode(binding);
    let name = hint_name(binding.segment);
    let draft = format!("{name}.tmp");
    let file = storage.create(&draft, bytes.len() as u64)?;
    file.write_at(0, &bytes)?;
    file.sync()?;
    storage.rename(&draft, &name)?;
    storage.sync_dir()
}

/// Who commits after this batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Again,
    Other,
}

struct Work<D> {
    steps: Vec<Step>,
    sealed: Vec<Sealed>,
    deeds: Vec<D>,
    batch: Arc<Batch>,
    upto: Lsn,
    tail: u64,
    time_ms: u64,
    wants_segment: bool,
}
