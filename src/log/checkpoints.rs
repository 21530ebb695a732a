//! The CHECKPOINT file: two slots written in turn, each synced before the next step relies on it.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::checkpoint::{Checkpoint, FILE_BYTES};
use crate::storage::File;

/// The name of the file.
pub(crate) const NAME: &str = "CHECKPOINT";

#[derive(Debug)]
pub(crate) struct Checkpoints {
    file: Arc<dyn File>,
    store: [u8; 16],
    current: Checkpoint,
    /// The directory may belong to somebody else by now.
    closed: bool,
}

impl Checkpoints {
    /// Reads the newest slot.
    pub(crate) fn read(file: Arc<dyn File>, store: [u8; 16]) -> Result<Checkpoints> {
        let mut bytes = vec![0; FILE_BYTES];
        if file.size().map_err(Error::io("read CHECKPOINT"))? < bytes.len() as u64 {
            return Err(Error::Corrupt { segment: 0, offset: 0, what: "CHECKPOINT is cut short" });
        }
        file.read_at(0, &mut bytes).map_err(Error::io("read CHECKPOINT"))?;
        match Checkpoint::decode(&bytes, store) {
            Ok(current) => Ok(Checkpoints { file, store, current, closed: false }),
            Err(error) => Err(Error::Corrupt { segment: 0, offset: 0, what: error.what() }),
        }
    }

    pub(crate) fn current(&self) -> &Checkpoint {
        &self.current
    }

    /// Nothing is written any more.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Writes the changed checkpoint to the older slot and syncs it.
    pub(crate) fn write(&mut self, change: impl FnOnce(&mut Checkpoint)) -> Result<()> {
        if self.closed {
            return Err(Error::Closed);
        }
        let mut next = self.current;
        change(&mut next);
        next.generation = self.current.generation + 1;
        let slot = next.encode(self.store);
        self.file.write_at(next.slot_offset(), &slot).map_err(Error::io("write CHECKPOINT"))?;
        self.file.sync().map_err(Error::io("sync CHECKPOINT"))?;
        self.current = next;
        Ok(())
    }

    /// Writes it to both slots, one after the other, so that no older one can be read again.
    pub(crate) fn write_both(&mut self, change: impl FnOnce(&mut Checkpoint)) -> Result<()> {
        self.write(change)?;
        self.write(|_| {})
    }
}
