//! The end of the log: gives records their LSN and place, rolls from segment to segment, and
//! remembers what is open. Everything here runs under the lock of the log.
//!
//! A roll is one step: SEAL as the last record of N, and every open claim carried as the first
//! records of N + 1, with no other record between. So a sealed segment never holds the only copy
//! of an open claim.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::hint::{Hint, Hints};
use crate::format::record::{Draft, Kind, Stamp};
use crate::format::segment::{DATA_START, SegmentHeader};
use crate::format::summary::Summary;
use crate::location::{Location, Lsn};
use crate::log::organizations::Organizations;
use crate::log::room::{
    self, AHEAD_BYTES_MAX, AHEAD_BYTES_MIN, Room, carried_bytes, ending_of, full_or, is_full,
};
use crate::log::segments::{Segment, SegmentHints, Segments};
use crate::log::{OpenClaim, hinted, segment_name};
use crate::numbered::ByNumber;
use crate::random;
use crate::scope::Token;
use crate::storage::{File, Storage};

/// One step on the way to durability; they are done in order.
#[derive(Debug)]
pub(crate) enum Step {
    Write { file: Arc<dyn File>, offset: u64, bytes: Vec<u8> },
    Sync(Arc<dyn File>),
}

/// A segment that was sealed, until its CHECKPOINT and hint file are written.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) segment: u64,
    pub(crate) hints: Hints,
}

/// The segment that takes records.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn File>,
    /// Where the next record goes.
    pub(crate) offset: u64,
    /// Blocks exist up to here.
    pub(crate) allocated: u64,
    pub(crate) summary: Summary,
    pub(crate) hints: Vec<Hint>,
}

/// Whether records reach the file when they are staged or when they are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    AtStaging,
    AtCommit,
}

/// What the log needs to make segments.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) store: [u8; 16],
    pub(crate) segment_bytes: u64,
    pub(crate) bucket_ms: u64,
    /// Past it no claim is taken.
    pub(crate) disk_budget_bytes: u64,
    pub(crate) writes: Writes,
}

impl Maker {
    /// A file with the name of a segment and no header, whose name is durable, with blocks for so
    /// many bytes of records at least.
    pub(crate) fn prepare(&self, segment: u64, blocks: Blocks, bytes: u64) -> io::Result<Prepared> {
        let name = segment_name(segment);
        let make = || {
            let prepared = self.create(&name, segment, blocks, bytes)?;
            prepared.file.sync()?;
            self.storage.sync_dir()?;
            Ok(prepared)
        };
        make().inspect_err(|_| {
            // On a full disk it would keep blocks from those who need them. An open removes it too.
            self.storage.remove(&name).ok();
        })
    }

    /// The same under another name, and not durable.
    pub(crate) fn create(
        &self,
        name: &str,
        segment: u64,
        blocks: Blocks,
        bytes: u64,
    ) -> io::Result<Prepared> {
        let ahead = match blocks {
            Blocks::Few => AHEAD_BYTES_MIN,
            Blocks::Many => (self.segment_bytes / 16).clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX),
        };
        let file = self.storage.create(name, self.segment_bytes)?;
        let [enough, wish] = [bytes, bytes.max(ahead)]
            .map(|bytes| (DATA_START + bytes).next_multiple_of(4096).min(self.segment_bytes));
        let allocated = room::allocate(&*file, 0, enough, wish)?;
        Ok(Prepared { segment, file, allocated })
    }
}

/// How much of a segment gets blocks before it takes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocks {
    /// For a store that may be small.
    Few,
    /// For a store that filled half a segment.
    Many,
}

/// A segment's file before it has a header.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) segment: u64,
    pub(crate) file: Arc<dyn File>,
    pub(crate) allocated: u64,
}

impl Prepared {
    /// Makes sure of blocks for `bytes` of records.
    fn allocate(&mut self, bytes: u64) -> Result<()> {
        let end = (DATA_START + bytes).next_multiple_of(4096);
        if end > self.allocated {
            let missing = self.allocated..end;
            self.file.allocate(missing).map_err(full_or("allocate a segment"))?;
            self.allocated = end;
        }
        Ok(())
    }
}

/// The state of the log under its lock.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(crate) tail: Tail,
    /// The newest record staged.
    pub(crate) last: Lsn,
    /// The newest record that was there once the store was open.
    pub(crate) found: Lsn,
    /// What the next record gets.
    pub(crate) next: Lsn,
    /// The newest record durable.
    pub(crate) durable: Lsn,
    pub(crate) time_ms: u64,
    pub(crate) open: ByNumber<Token, OpenClaim>,
    /// What a roll would carry.
    pub(crate) carry_bytes: u64,
    /// Kept for the ends of the open claims.
    pub(crate) ending_bytes: u64,
    pub(crate) organizations: Option<Organizations>,
    /// Where a record is put together before it is written.
    pub(crate) record: Vec<u8>,
    pub(crate) steps: Vec<Step>,
    /// The tail has records that no step syncs yet.
    pub(crate) dirty: bool,
    pub(crate) sealed: Vec<Sealed>,
    pub(crate) prepared: Option<Prepared>,
    /// Blocks were asked for, and are being allocated without the lock.
    pub(crate) asked_for_blocks: bool,
    pub(crate) allocating: bool,
    /// From this offset on the file is to be made ready again.
    pub(crate) ready_at: u64,
    /// When the oldest record that no sync has taken up was staged, in real time.
    pub(crate) unsynced_since: Option<Duration>,
    /// The newest record is one that only promises, or there is none since the open.
    pub(crate) promised: bool,
    /// The newest record of the tail is a CLEAN.
    pub(crate) clean: bool,
    pub(crate) records: u64,
    pub(crate) appended_bytes: u64,
}

/// A record that was staged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) lsn: Lsn,
    pub(crate) location: Location,
}

impl Staging {
    /// Gives a record its LSN and place. `finish` fills in what only the LSN decides.
    pub(crate) fn append(
        &mut self,
        maker: &Maker,
        segments: &Segments,
        time_ms: u64,
        room: Room,
        draft: &mut Draft<'_>,
        finish: impl FnOnce(&mut Draft<'_>, Lsn),
    ) -> Result<Placed> {
        self.time_ms = self.time_ms.max(time_ms);
        let bytes = draft.record_bytes() as u64;
        if self.bucket_is_over(maker) || !self.fits(maker, bytes, room) {
            match self.roll(maker, segments) {
                // A bucket that ends later is no reason to refuse what fits.
                Err(Error::Full { .. }) if self.fits(maker, bytes, room) => {}
                rolled => rolled?,
            }
        }
        if !self.fits(maker, bytes, room) {
            return Err(Error::Full { what: "the record does not fit beside the open claims" });
        }
        self.allocate(bytes, room).map_err(full_or("allocate the tail"))?;
        finish(draft, self.next);
        self.push(maker, draft)
    }

    /// Whether the tail holds records of a bucket that is past.
    pub(crate) fn bucket_is_over(&self, maker: &Maker) -> bool {
        self.tail.summary.completes > 0
            && self.time_ms / maker.bucket_ms > self.tail.summary.time_ms_min / maker.bucket_ms
    }

    /// Whether the next record might need the next segment.
    pub(crate) fn may_roll(&self, maker: &Maker) -> bool {
        self.bucket_is_over(maker) || !self.fits(maker, maker.segment_bytes / 4, Room::Grows(0))
    }

    /// Says that the store was closed here, where there is room to say it.
    pub(crate) fn append_clean(&mut self, maker: &Maker) -> Result<Option<Placed>> {
        let draft = Draft::clean(&self.tail.summary);
        let placed = self.append_if_room(maker, &draft, Room::Grows(0))?;
        if placed.is_some() || self.clean {
            return Ok(placed);
        }
        self.append_if_room(maker, &draft, Room::Clean)
    }

    /// Promises everything before it, unless the newest record does so.
    pub(crate) fn append_promise(&mut self, maker: &Maker) -> Result<()> {
        if self.promised {
            return Ok(());
        }
        self.append_if_room(maker, &Draft::promise(), Room::Grows(0)).map(|_| ())
    }

    fn append_if_room(
        &mut self,
        maker: &Maker,
        draft: &Draft<'_>,
        room: Room,
    ) -> Result<Option<Placed>> {
        let bytes = draft.record_bytes() as u64;
        if !self.fits(maker, bytes, room) || self.waits_for_blocks(bytes, room) {
            return Ok(None);
        }
        match self.allocate(bytes, room) {
            // Such a record is worth having, and nothing is lost without it.
            Err(error) if is_full(&error) => return Ok(None),
            allocated => allocated.map_err(Error::io("allocate the tail"))?,
        }
        self.push(maker, draft).map(Some)
    }

    /// Appends a record that has its blocks.
    pub(crate) fn push(&mut self, maker: &Maker, draft: &Draft<'_>) -> Result<Placed> {
        let (lsn, offset) = (self.next, self.tail.offset);
        let stamp = Stamp {
            identity: self.tail.header.identity(),
            offset,
            lsn,
            durable: self.durable,
            time_ms: self.time_ms,
        };
        let bytes = draft.record_bytes() as u64;
        match maker.writes {
            Writes::AtCommit => draft.write(&stamp, self.write_step(offset)),
            Writes::AtStaging => {
                self.record.clear();
                draft.write(&stamp, &mut self.record);
                let file = &self.tail.file;
                file.write_at(offset, &self.record).map_err(Error::io("append a record"))?;
            }
        }
        self.tail.offset += bytes;
        self.tail.summary.count(draft.kind(), lsn, self.time_ms);
        (self.last, self.next) = (lsn, lsn.next());
        self.promised = matches!(draft.kind(), Kind::Promise | Kind::Clean);
        self.clean = draft.kind() == Kind::Clean;
        self.dirty = true;
        self.records += 1;
        self.appended_bytes += bytes;
        Ok(Placed { lsn, location: Location::new(self.tail.header.segment, offset) })
    }

    /// The bytes of the step that ends at `offset` of the tail.
    fn write_step(&mut self, offset: u64) -> &mut Vec<u8> {
        let goes_on = matches!(self.steps.last(), Some(Step::Write { offset: start, bytes, file })
            if start + bytes.len() as u64 == offset && Arc::ptr_eq(file, &self.tail.file));
        if !goes_on {
            let file = Arc::clone(&self.tail.file);
            self.steps.push(Step::Write { file, offset, bytes: Vec::new() });
        }
        match self.steps.last_mut() {
            Some(Step::Write { bytes, .. }) => bytes,
            _ => unreachable!("a write step was just pushed"),
        }
    }

    /// Remembers where a response went, for the hint file.
    pub(crate) fn hint(&mut self, hash: u64, location: Location, expires_ms: u64) {
        self.tail.hints.push(hinted::response(hash, location.offset()));
        let summary = &mut self.tail.summary;
        summary.expires_ms_max = summary.expires_ms_max.max(expires_ms);
    }

    /// The same for a FORGET.
    pub(crate) fn hint_forget(&mut self, hash: u64, location: Location) {
        self.tail.hints.push(hinted::forget(hash, location.offset()));
    }

    /// Seals the tail and goes on in the next segment.
    pub(crate) fn roll(&mut self, maker: &Maker, segments: &Segments) -> Result<()> {
        let number = self.tail.header.segment + 1;
        if number >= Location::SEGMENTS_MAX || !segments.is_free(number) {
            return Err(Error::Full { what: "segment numbers: 2^18 live at once, 2^42 in all" });
        }
        let prepared = self.take_prepared(maker, number)?;
        let salt = random::number().map_err(Error::io("draw a salt"))?;
        let seal = self.push(maker, &Draft::seal(&self.tail.summary))?;
        let header = SegmentHeader {
            store: maker.store,
            segment: number,
            salt,
            first_lsn: self.next,
            previous_last_lsn: seal.lsn,
            created_ms: self.time_ms,
            segment_bytes: maker.segment_bytes,
        };
        segments.end(self.tail.header.segment, self.tail.summary, seal.location.offset());
        self.steps.push(Step::Sync(Arc::clone(&self.tail.file)));
        let sealed = self.start_segment(maker, &header, prepared)?;
        self.sealed.push(sealed.into_sealed(seal));
        segments.insert(Segment::new(&header, SegmentHints::Recent));
        self.carry(maker)
    }

    /// The file of the next segment, with blocks for all that is to be carried and kept.
    fn take_prepared(&mut self, maker: &Maker, number: u64) -> Result<Prepared> {
        let bytes = self.carry_bytes + self.reserved_bytes();
        let mut prepared = match self.prepared.take() {
            Some(prepared) if prepared.segment == number => prepared,
            _ => {
                let prepared = maker.prepare(number, Blocks::Few, bytes);
                prepared.map_err(full_or("prepare a segment"))?
            }
        };
        match prepared.allocate(bytes) {
            Ok(()) => Ok(prepared),
            Err(error) => {
                self.prepared = Some(prepared);
                Err(error)
            }
        }
    }

    /// Repeats every open claim in the tail, which has its blocks.
    pub(crate) fn carry(&mut self, maker: &Maker) -> Result<()> {
        let open: Vec<OpenClaim> = self.open.values().cloned().collect();
        self.carry_some(maker, open)
    }

    /// The same for some of them.
    pub(crate) fn carry_some(&mut self, maker: &Maker, mut open: Vec<OpenClaim>) -> Result<()> {
        open.sort_unstable_by_key(|claim| claim.facts.token);
        for claim in open {
            let checkpoint = claim.checkpoint.as_deref().map(|bytes| [bytes]);
            let value = checkpoint.as_ref().map_or(&[][..], |parts| &parts[..]);
            self.push(maker, &Draft::claim(&claim.carried(), claim.facts.attempt, value))?;
        }
        Ok(())
    }

    /// Makes the prepared file the tail.
    fn start_segment(
        &mut self,
        maker: &Maker,
        header: &SegmentHeader,
        prepared: Prepared,
    ) -> Result<Tail> {
        let file = prepared.file;
        match maker.writes {
            Writes::AtCommit => {
                let write =
                    Step::Write { file: Arc::clone(&file), offset: 0, bytes: header.encode() };
                self.steps.extend([write, Step::Sync(Arc::clone(&file))]);
            }
            Writes::AtStaging => {
                // Synced with the records behind it: without it they are no segment, and no worse.
                file.write_at(0, &header.encode()).map_err(Error::io("write a segment header"))?;
            }
        }
        let next = Tail {
            header: *header,
            file,
            offset: DATA_START,
            allocated: prepared.allocated,
            summary: Summary::default(),
            hints: Vec::new(),
        };
        (self.allocating, self.asked_for_blocks, self.dirty) = (false, false, true);
        self.ready_at = 0;
        Ok(std::mem::replace(&mut self.tail, next))
    }

    /// Counts the open claims of each organization from now on.
    pub(crate) fn bound_organizations(&mut self, max: u32) {
        let mut organizations = Organizations::new(max);
        self.open.values().for_each(|open| organizations.add(&open.facts.scope));
        self.organizations = Some(organizations);
    }

    pub(crate) fn insert_open(&mut self, claim: OpenClaim) {
        self.carry_bytes += carried_bytes(&claim);
        self.ending_bytes += ending_of(&claim);
        if let Some(organizations) = &mut self.organizations {
            organizations.add(&claim.facts.scope);
        }
        if let Some(old) = self.open.insert(claim.facts.token, claim) {
            self.let_go(&old);
        }
    }

    pub(crate) fn remove_open(&mut self, token: Token) {
        if let Some(old) = self.open.remove(&token) {
            self.let_go(&old);
        }
    }

    fn let_go(&mut self, old: &OpenClaim) {
        self.carry_bytes -= carried_bytes(old);
        self.ending_bytes -= ending_of(old);
        if let Some(organizations) = &mut self.organizations {
            organizations.remove(&old.facts.scope);
        }
    }
}

impl Tail {
    fn into_sealed(mut self, seal: Placed) -> Sealed {
        Sealed { segment: self.header.segment, hints: self.take_hints(seal) }
    }

    /// What the hint file of this segment says; its last record is a SEAL, or a CLEAN.
    pub(crate) fn take_hints(&mut self, end: Placed) -> Hints {
        let mut entries = std::mem::take(&mut self.hints);
        entries.sort_unstable();
        let (seal_lsn, seal_offset) = (end.lsn, end.location.offset());
        Hints { seal_lsn, seal_offset, summary: self.summary, entries }
    }
}
