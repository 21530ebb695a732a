//! Group commit: one of the callers writes and syncs for all, publishes, and hands on.
//!
//! Whoever finds no commit under way leads. When it is done and new work has been staged behind
//! it, it wakes a blocking caller of the next batch to lead, else the committer thread; whoever
//! stages before that one has woken up leads instead, so that the disk need not wait for it.
//! There is no timer: a batch is what gathered while the one before it was synced.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::clock::real_monotonic;
use crate::config::Durability;
use crate::error::{Error, Result};
use crate::format::hint::Hints;
use crate::location::Lsn;
use crate::log::commit::{Batch, PoisonOnUnwind, Turn};
use crate::log::staging::{Sealed, Step};
use crate::log::writer::{Log, Publish, Staged};

impl<D> Log<D> {
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
                        Turn::Lead if self.takes_the_lead(&batch) => self.lead(publish),
                        Turn::Lead => {}
                        Turn::Done(outcome) => return outcome,
                    }
                }
            }
        }
    }

    /// Whether leadership is still to be had for those who wait for `batch`. Whoever staged in the
    /// meantime may have taken it: a thread that runs is there before one that is being woken.
    fn takes_the_lead(&self, batch: &Arc<Batch>) -> bool {
        let mut state = self.state.lock();
        let takes = !state.leading && Arc::ptr_eq(&state.batch, batch);
        state.leading |= takes;
        takes
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
            if state.leading || nothing {
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

    pub(in crate::log) fn sync_staged(&self, publish: Publish<'_, D>) -> Result<()> {
        let (batch, lead) = {
            let mut state = self.state.lock();
            let idle = state.deeds.is_empty() && !state.staging.dirty;
            if idle && !state.leading {
                return self.check_poison();
            }
            state.blocking += 1;
            let lead = !state.leading;
            state.leading = true;
            (Arc::clone(&state.batch), lead)
        };
        self.settle(Staged::Later { batch, lead }, publish)
    }

    /// Commits a batch, and those behind it that nobody else will. The caller holds leadership.
    fn lead(&self, publish: Publish<'_, D>) {
        while self.commit_batch(publish) == Next::Nobody {
            let mut state = self.state.lock();
            if state.leading || state.deeds.is_empty() {
                return;
            }
            state.leading = true;
        }
    }

    /// Writes and syncs one batch, hands on, and publishes it.
    fn commit_batch(&self, publish: Publish<'_, D>) -> Next {
        let mut work = self.take_work();
        let batch = Arc::clone(&work.batch);
        let deeds = RefCell::new(VecDeque::from(std::mem::take(&mut work.deeds)));
        let guard =
            PoisonOnUnwind::armed(|error| self.abandon(&batch, deeds.take(), publish, &error));
        let began = real_monotonic();
        let outcome = self.check_poison().and_then(|()| self.make_durable(&work));
        if outcome.is_ok() {
            self.commit_times.add(real_monotonic().saturating_sub(began));
        }
        if let Err(error) = &outcome {
            self.set_poison(error);
        }
        let next = self.hand_over(&work, &outcome);
        loop {
            let deed = deeds.borrow_mut().pop_front();
            let Some(deed) = deed else { break };
            publish(deed, outcome.clone());
        }
        work.batch.finish(outcome);
        let sealed = !work.sealed.is_empty();
        if sealed && self.poison.get().is_none() {
            self.unhinted.lock().extend(work.sealed);
        }
        if sealed {
            self.help(|helpers| helpers.upkeep_due());
        }
        if work.wants_segment {
            self.help(|helpers| helpers.blocks_due());
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
            let Hints { summary, seal_offset, .. } = sealed.hints;
            self.segments.seal(sealed.segment, summary, seal_offset);
        }
        Ok(())
    }

    /// Gives leadership up, and offers it to the next batch. Nobody leads while a batch is
    /// published: wakers are other people's code, and may come back to the store.
    fn hand_over(&self, work: &Work<D>, outcome: &Result<()>) -> Next {
        let mut state = self.state.lock();
        state.syncing_since = None;
        if outcome.is_ok() {
            state.staging.durable = work.upto;
        }
        state.leading = false;
        if state.blocking > 0 {
            state.batch.offer_lead();
            return Next::Somebody;
        }
        if let (Some(since), Durability::Buffered { sync_every }) =
            (state.staging.unsynced_since, self.durability)
        {
            // Its alarm may have gone off while this batch was under way.
            self.help(|helpers| helpers.commit_due(Some(since + sync_every / 2)));
        }
        if !state.deeds.is_empty() && self.helpers.get().is_none() {
            return Next::Nobody;
        }
        let idle = state.deeds.is_empty();
        self.help(|helpers| if idle { helpers.went_idle() } else { helpers.commit_due(None) });
        Next::Somebody
    }

    /// A panic in the middle of a commit: nothing more is acknowledged, and nobody waits for ever.
    fn abandon(&self, batch: &Batch, deeds: VecDeque<D>, publish: Publish<'_, D>, error: &Error) {
        self.set_poison(error);
        let staged = {
            let mut state = self.state.lock();
            state.leading = false;
            state.batch.finish(Err(error.clone()));
            std::mem::take(&mut state.deeds)
        };
        batch.finish(Err(error.clone()));
        for deed in deeds.into_iter().chain(staged) {
            // A second panic while the first unwinds would end the process.
            let told = AssertUnwindSafe(|| publish(deed, Err(error.clone())));
            catch_unwind(told).ok();
        }
    }
}

/// Who sees to the next batch, if there is one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Somebody,
    /// Without helpers whoever led this one goes on, once it is published.
    Nobody,
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
