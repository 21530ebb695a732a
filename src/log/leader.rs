//! Group commit: one of the callers writes and syncs for all, publishes, and hands on.
//!
//! Whoever finds no commit under way leads. When it is done and new work has been staged behind
//! it, it hands leadership to a blocking caller of the next batch, else to the committer thread.
//! There is no timer: a batch is what gathered while the one before it was synced.

use std::sync::Arc;

use crate::error::{Error, Result};
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
        let next = self.hand_over(&work, &outcome);
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
    fn hand_over(&self, work: &Work<D>, outcome: &Result<()>) -> Next {
        let mut state = self.state.lock();
        state.syncing_since = None;
        let idle = state.deeds.is_empty() && state.blocking == 0;
        if outcome.is_ok() {
            state.staging.durable = work.upto;
        } else if !idle {
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
        let idle = state.deeds.is_empty();
        self.help(|helpers| if idle { helpers.went_idle() } else { helpers.commit_due(None) });
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
