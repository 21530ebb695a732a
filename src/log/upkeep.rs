//! What keeps the log going besides its records: the close, the roll at the end of a bucket, the
//! drop of segments, the next segment's file, and hint files.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::hint::{Binding, Hints};
use crate::format::record;
use crate::format::summary::Summary;
use crate::log::commit::PoisonOnUnwind;
use crate::log::room::Room;
use crate::log::segments::SegmentHints;
use crate::log::staging::{Blocks, Placed, Sealed, Staging, Writes};
use crate::log::writer::{Log, Publish};
use crate::log::{hint_name, segment_name};
use crate::stats::{CommitLatency, SegmentInfo, SegmentState};
use crate::storage::{Access, Storage};

/// Segments that are absent from now on.
#[derive(Debug)]
pub(crate) struct Dropped {
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
    /// Their files.
    pub(crate) names: Vec<String>,
}

/// Bytes of disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskRoom {
    pub(crate) taken: u64,
    /// Kept so that every open claim can end.
    pub(crate) reserved: u64,
    /// What claims and responses may still take.
    pub(crate) headroom: u64,
}

impl<D> Log<D> {
    /// Appends a CLEAN and syncs all there is; nothing can be staged afterwards.
    pub(crate) fn close(&self, now_ms: u64, publish: Publish<'_, D>) -> Result<()> {
        {
            let mut state = self.state.lock();
            if std::mem::replace(&mut state.closed, true) {
                return Err(Error::Closed);
            }
            // What readers saw as past stays past.
            state.staging.time_ms = state.staging.time_ms.max(now_ms);
            while state.staging.allocating {
                self.prepared.wait(&mut state);
            }
        }
        let closed = self.close_staged(publish);
        self.checkpoints.lock().close();
        closed
    }

    fn close_staged(&self, publish: Publish<'_, D>) -> Result<()> {
        self.sync_staged(publish)?;
        let clean = {
            let mut state = self.state.lock();
            let appended = state.staging.append_clean(&self.maker);
            appended.inspect_err(|error| self.set_poison(error))?
        };
        self.sync_staged(publish)?;
        let (last, time_ms) = {
            let state = self.state.lock();
            (state.staging.last, state.staging.time_ms)
        };
        self.checkpoint(|checkpoint| {
            checkpoint.durable_lsn = last;
            checkpoint.time_ms = checkpoint.time_ms.max(time_ms);
        })?;
        self.hint_sealed();
        if let Some(clean) = clean {
            self.hint_tail(clean);
        }
        Ok(())
    }

    /// Writes the hints of a tail that ends with `clean`, so that the next open need not read it.
    /// Open claims have to be read from it, so there are none then.
    fn hint_tail(&self, clean: Placed) {
        let (binding, hints) = {
            let mut state = self.state.lock();
            let staging = &mut state.staging;
            if !staging.open.is_empty() {
                return;
            }
            (staging.tail.header.binding(), staging.tail.take_hints(clean))
        };
        // Without them the next open is slower, and nothing else.
        write_hints(&*self.maker.storage, binding, &hints).ok();
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
        written.inspect_err(|error| self.poison_unless_closed(error))
    }

    fn poison_unless_closed(&self, error: &Error) {
        if !matches!(error, Error::Closed) {
            self.set_poison(error);
        }
    }

    /// Seals the tail if its bucket is over, so that it can be dropped when its time comes.
    pub(crate) fn roll_past_bucket(&self, now_ms: u64, publish: Publish<'_, D>) -> Result<()> {
        {
            let mut state = self.begin(now_ms, 0, Room::Ends)?;
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
    /// The files may be removed then.
    pub(crate) fn drop_below(&self, oldest: u64, time_ms: u64) -> Result<Dropped> {
        self.check_poison()?;
        let from = self.segments.oldest();
        let written = self.checkpoints.lock().write_both(|checkpoint| {
            checkpoint.oldest = checkpoint.oldest.max(oldest);
            checkpoint.time_ms = checkpoint.time_ms.max(time_ms);
        });
        written.inspect_err(|error| self.poison_unless_closed(error))?;
        let (segments, bytes) = self.segments.drop_below(oldest);
        let names = (from..oldest).flat_map(|number| [segment_name(number), hint_name(number)]);
        Ok(Dropped { segments, bytes, names: names.collect() })
    }

    /// Writes the highest store time, so that a restart goes on from it.
    pub(crate) fn mark_time(&self, time_ms: u64) -> Result<()> {
        self.check_open()?;
        self.checkpoint(|checkpoint| checkpoint.time_ms = checkpoint.time_ms.max(time_ms))
    }

    /// Gives the tail blocks and the next segment its file, before a caller would have to. What
    /// fails is tried again by whoever needs it.
    pub(crate) fn prepare(&self) {
        self.make_ready();
        while self.allocate_ahead() {
            self.make_ready();
        }
        self.prepare_segment();
    }

    /// Writes the hint files of segments that were sealed, and gives their unused ends back. A
    /// failure harms nothing: the hints are then made at the next open. Returns the segments whose
    /// hints need no longer be kept by the shards.
    pub(crate) fn hint_sealed(&self) -> Vec<u64> {
        // Two at once would write one draft, and whoever closes would leave before the other ends.
        let _hinting = self.hinting.lock();
        let sealed = std::mem::take(&mut *self.unhinted.lock());
        let mut hinted = Vec::with_capacity(sealed.len());
        for sealed in sealed {
            self.give_back(&sealed).ok();
            let hints = SegmentHints::Memory(Arc::new(sealed.hints));
            self.segments.set_hints(sealed.segment, hints);
            hinted.push(sealed.segment);
        }
        self.write_hints_in_memory();
        hinted
    }

    /// Gives every segment whose hints are in memory its file; what fails is tried again later.
    pub(crate) fn write_hints_in_memory(&self) {
        for (binding, hints) in self.segments.hints_in_memory() {
            if write_hints(&*self.maker.storage, binding, &hints).is_err() {
                return;
            }
            self.segments.set_hints(binding.segment, SegmentHints::Written);
        }
    }

    /// Gives the blocks behind the SEAL back. The file keeps its size, since it may be mapped.
    fn give_back(&self, sealed: &Sealed) -> io::Result<()> {
        let end = sealed.hints.seal_offset + record::SEAL_BYTES;
        let unused = end.next_multiple_of(4096)..self.maker.segment_bytes;
        if unused.is_empty() {
            return Ok(());
        }
        let file = self.maker.storage.open(&segment_name(sealed.segment), Access::Write)?;
        file.discard(unused)
    }

    /// Lets the file of the tail get ready for what is appended next.
    fn make_ready(&self) {
        let (file, offset) = {
            let tail = &self.state.lock().staging.tail;
            (Arc::clone(&tail.file), tail.offset)
        };
        if self.maker.writes == Writes::AtStaging {
            file.ready(offset);
        }
    }

    /// Allocates a piece; `false` where there is none to be had.
    fn allocate_ahead(&self) -> bool {
        let begun = {
            let mut state = self.state.lock();
            let left = self.budget_left(&state.staging);
            if state.closed { None } else { state.staging.begin_blocks(left) }
        };
        let Some((file, missing)) = begun else { return false };
        let end = missing.end;
        let guard = PoisonOnUnwind::armed(|error| {
            self.set_poison(&error);
            self.state.lock().staging.end_blocks(&file, None);
            self.prepared.notify_all();
        });
        // Without room now the stager tries again, and says what is wrong.
        let allocated = file.allocate(missing);
        guard.disarm();
        let end = allocated.is_ok().then_some(end);
        self.state.lock().staging.end_blocks(&file, end);
        self.prepared.notify_all();
        end.is_some()
    }

    fn prepare_segment(&self) {
        let number = {
            let mut state = self.state.lock();
            let wanted = state.staging.prepared.is_none()
                && state.staging.tail.offset > self.maker.segment_bytes / 2
                && self.budget_left(&state.staging) > self.maker.segment_bytes / 16;
            if !wanted || state.preparing || state.closed {
                return;
            }
            state.preparing = true;
            state.staging.tail.header.segment + 1
        };
        let guard = PoisonOnUnwind::armed(|error| {
            self.set_poison(&error);
            self.state.lock().preparing = false;
            self.prepared.notify_all();
        });
        let prepared = self.maker.prepare(number, Blocks::Many, 0);
        guard.disarm();
        let mut state = self.state.lock();
        state.preparing = false;
        state.staging.prepared = prepared.ok();
        self.prepared.notify_all();
    }

    /// Bytes of disk that the segments and their hint files take, and what is ready for the next.
    fn disk_bytes(&self, staging: &Staging) -> u64 {
        self.segments.disk_bytes() + staging.disk_bytes()
    }

    /// The same without blocks that no record needs yet.
    pub(in crate::log) fn used_bytes(&self, staging: &Staging) -> u64 {
        self.segments.disk_bytes() + staging.tail.offset + staging.reserved_bytes()
    }

    /// What the background may still take of the budget.
    fn budget_left(&self, staging: &Staging) -> u64 {
        self.maker.disk_budget_bytes.saturating_sub(self.disk_bytes(staging))
    }

    /// What the store takes of the disk, keeps free in it, and may still use.
    pub(crate) fn room(&self) -> DiskRoom {
        // Where the file system does not say, the budget alone is known.
        let free = self.maker.storage.free_bytes().unwrap_or(u64::MAX);
        let state = self.state.lock();
        let staging = &state.staging;
        let (taken, used) = (self.disk_bytes(staging), self.used_bytes(staging));
        let budget_left = self.maker.disk_budget_bytes.saturating_sub(used);
        DiskRoom {
            taken,
            reserved: staging.reserved_bytes(),
            headroom: budget_left.min(free.saturating_add(taken.saturating_sub(used))),
        }
    }

    /// The number of records, bytes and batches so far.
    pub(crate) fn appended(&self) -> (u64, u64, u64) {
        let state = self.state.lock();
        (state.staging.records, state.staging.appended_bytes, state.batches)
    }

    /// How long the commits so far took.
    pub(crate) fn commit_latency(&self) -> CommitLatency {
        self.commit_times.read()
    }

    /// The live segments, oldest first.
    pub(crate) fn list_segments(&self) -> Vec<SegmentInfo> {
        // In this order: a tail that is sealed meanwhile is told as ended, and what begins after it
        // is left out.
        let (tail, summary, bytes) = {
            let tail = &self.state.lock().staging.tail;
            (tail.header.segment, tail.summary, tail.offset)
        };
        let ended = self.segments.ended();
        let live = self.segments.live();
        let listed = live.iter().filter(|segment| segment.number <= tail);
        let told = listed.map(|segment| match ended.get(&segment.number) {
            Some(ended) => segment.told(SegmentState::Sealed, &ended.summary, ended.disk_bytes),
            None if segment.number == tail => segment.told(SegmentState::Tail, &summary, bytes),
            // In quarantine, and nothing is known of what was in it.
            None => segment.told(SegmentState::Quarantined, &Summary::default(), segment.bytes),
        });
        told.collect()
    }
}

/// Writes a hint file under another name and renames it, so that a torn one is never read.
fn write_hints(storage: &dyn Storage, binding: Binding, hints: &Hints) -> io::Result<()> {
    let bytes = hints.encode(binding);
    let name = hint_name(binding.segment);
    let draft = format!("{name}.tmp");
    let file = storage.create(&draft, bytes.len() as u64)?;
    file.write_at(0, &bytes)?;
    file.sync()?;
    storage.rename(&draft, &name)?;
    storage.sync_dir()
}
