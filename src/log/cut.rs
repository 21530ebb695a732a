//! One point of the history at which the files are whole: what a verification and a backup go by.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::format::checkpoint::Checkpoint;
use crate::format::segment::SegmentHeader;
use crate::location::Lsn;
use crate::log::room::Room;
use crate::log::staging::{Staging, Writes};
use crate::log::writer::{Log, Publish};
use crate::scope::{OperationId, Token};

/// Everything up to one record, durable.
#[derive(Debug)]
pub(crate) struct Cut {
    /// The segment that holds it; those before it are sealed.
    pub(crate) tail: SegmentHeader,
    /// The first byte behind it.
    pub(crate) offset: u64,
    pub(crate) last: Lsn,
    pub(crate) time_ms: u64,
    /// The claims that are open there, in order.
    pub(crate) open: Vec<Token>,
}

impl<D> Log<D> {
    /// The newest record that is in the files with all before it.
    pub(crate) fn written(&self) -> Lsn {
        self.written_of(&self.state.lock().staging)
    }

    fn written_of(&self, staging: &Staging) -> Lsn {
        match self.maker.writes {
            Writes::AtStaging => staging.last,
            // Nothing of this epoch is in the files yet.
            Writes::AtCommit if staging.durable.epoch() < staging.last.epoch() => staging.found,
            Writes::AtCommit => staging.durable.min(staging.last),
        }
    }

    /// The same, and the operations that are open then.
    pub(crate) fn written_and_open(&self) -> (Lsn, BTreeSet<OperationId>) {
        let staging = &self.state.lock().staging;
        let open = staging.open.values().map(|open| open.facts.operation).collect();
        (self.written_of(staging), open)
    }

    /// What CHECKPOINT says.
    pub(crate) fn checkpointed(&self) -> Checkpoint {
        *self.checkpoints.lock().current()
    }

    /// The store that the segments belong to.
    pub(crate) fn store(&self) -> [u8; 16] {
        self.maker.store
    }

    /// Makes all there is durable, with every response in a sealed segment where that can be.
    pub(crate) fn cut(&self, now_ms: u64, publish: Publish<'_, D>) -> Result<Cut> {
        let cut = {
            let mut state = self.begin(now_ms, 0, Room::Ends)?;
            // The file of the next segment must not be made twice, nor the SEAL be zeroed.
            while state.preparing || state.staging.waits_for_blocks(0, Room::Ends) {
                self.prepared.wait(&mut state);
            }
            if state.closed {
                return Err(Error::Closed);
            }
            self.check_poison()?;
            let staging = &mut state.staging;
            let summary = &staging.tail.summary;
            if summary.completes > 0 || summary.forgets > 0 {
                match staging.roll(&self.maker, &self.segments) {
                    // Without room for another segment the cut goes through this one.
                    Ok(()) | Err(Error::Full { .. }) => {}
                    Err(error) => {
                        self.set_poison(&error);
                        return Err(error);
                    }
                }
            }
            let mut open: Vec<Token> = staging.open.keys().copied().collect();
            open.sort_unstable();
            let (tail, offset) = (staging.tail.header, staging.tail.offset);
            Cut { tail, offset, last: staging.last, time_ms: staging.time_ms, open }
        };
        self.sync(publish)?;
        Ok(cut)
    }
}
