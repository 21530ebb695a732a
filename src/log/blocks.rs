//! The blocks of the tail: those that the next record needs, and those ahead of it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::format::record;
use crate::log::room::{self, AHEAD_BYTES_MAX, AHEAD_BYTES_MIN, Room, SPARE_BYTES, is_full};
use crate::log::staging::{Maker, Staging, Writes};
use crate::storage::File;

/// Blocks are allocated so many bytes at a time in the background.
const PIECE_BYTES: u64 = 256 * 1024;
/// The file is made ready for what comes next after so many bytes of records.
const READY_EVERY: u64 = 128 * 1024;

impl Staging {
    /// What has to fit behind the records so that one of `bytes` may be appended.
    fn needs(&self, bytes: u64, room: Room) -> u64 {
        match room {
            Room::Grows(by) => bytes + by + self.reserved_bytes(),
            Room::Clean => bytes + self.ending_bytes + record::SEAL_BYTES,
            Room::Ends => bytes + record::SEAL_BYTES,
        }
    }

    /// Kept free behind the records.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        self.ending_bytes + SPARE_BYTES
    }

    /// Whether a record fits into the segment.
    pub(in crate::log) fn fits(&self, maker: &Maker, bytes: u64, room: Room) -> bool {
        self.tail.offset + self.needs(bytes, room) <= maker.segment_bytes
    }

    /// Gives the tail blocks for a record that fits.
    pub(crate) fn allocate(&mut self, bytes: u64, room: Room) -> io::Result<()> {
        let enough = self.tail.offset + self.needs(bytes, room);
        if enough <= self.tail.allocated {
            return Ok(());
        }
        let start = self.tail.allocated.max(self.tail.offset);
        let [enough, wish] = [enough, enough + AHEAD_BYTES_MIN].map(|end| self.block_end(end));
        self.tail.allocated = room::allocate(&*self.tail.file, start, enough, wish)?;
        Ok(())
    }

    /// Gives the tail what is kept in it, as far as that can be had.
    pub(crate) fn reserve(&mut self) -> io::Result<()> {
        match self.allocate(0, Room::Grows(0)) {
            Err(error) if is_full(&error) => Ok(()),
            allocated => allocated,
        }
    }

    /// Where the block ends that holds the byte before `end`.
    fn block_end(&self, end: u64) -> u64 {
        end.next_multiple_of(4096).min(self.tail.header.segment_bytes)
    }

    /// How far ahead of its records the tail is to have blocks.
    fn ahead(&self) -> u64 {
        (self.tail.offset / 4).clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX)
    }

    /// Whether the background is to allocate blocks soon, or to make the file ready for what comes
    /// next. Says so once.
    pub(crate) fn wants_blocks(&mut self, maker: &Maker) -> bool {
        let blocks = !self.asked_for_blocks && self.lacks_blocks(self.ahead());
        self.asked_for_blocks |= blocks;
        // What is written at the commit is written at once, and needs no window.
        let ready = maker.writes == Writes::AtStaging && self.tail.offset >= self.ready_at;
        if ready {
            self.ready_at = self.tail.offset + READY_EVERY;
        }
        blocks || ready
    }

    fn lacks_blocks(&self, ahead: u64) -> bool {
        let used = self.tail.offset + self.reserved_bytes();
        let left = self.tail.allocated.saturating_sub(used);
        left < ahead && self.tail.allocated < self.tail.header.segment_bytes
    }

    /// Begins to allocate ahead, without the lock of the log; to be ended. A piece at a time, so
    /// that who waits for blocks waits for few; at most `left` more. Allocating writes zeros: never
    /// behind the place of the next record.
    pub(crate) fn begin_blocks(&mut self, left: u64) -> Option<(Arc<dyn File>, Range<u64>)> {
        if self.allocating || !self.lacks_blocks(2 * self.ahead()) {
            return None;
        }
        let start = self.tail.allocated.max(self.tail.offset);
        let end = self.tail.offset + self.reserved_bytes() + 2 * self.ahead();
        let missing = start..self.block_end(end.min(start + PIECE_BYTES));
        if missing.end - missing.start > left {
            return None;
        }
        self.allocating = true;
        Some((Arc::clone(&self.tail.file), missing))
    }

    /// `end` is where the blocks of `file` end now, if they could be had.
    pub(crate) fn end_blocks(&mut self, file: &Arc<dyn File>, end: Option<u64>) {
        if Arc::ptr_eq(file, &self.tail.file) {
            (self.allocating, self.asked_for_blocks) = (false, false);
            self.tail.allocated = end.unwrap_or(self.tail.allocated);
        }
    }

    /// Whether a record must wait for the blocks that are being allocated.
    pub(crate) fn waits_for_blocks(&self, bytes: u64, room: Room) -> bool {
        self.allocating && self.tail.offset + self.needs(bytes, room) > self.tail.allocated
    }

    /// Bytes of disk that the unsealed files take: the tail's, and the next segment's.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.tail.allocated + self.prepared.as_ref().map_or(0, |prepared| prepared.allocated)
    }
}
