//! The half of recovery that changes the store, each step durable before the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{Config, Durability};
use crate::error::{Error, Result};
use crate::format::hint::Hints;
use crate::format::record::{Draft, Kind, Record, SEAL_BYTES, Stamp};
use crate::format::segment::{DATA_START, SegmentHeader};
use crate::format::summary::Summary;
use crate::index::Index;
use crate::location::{Location, Lsn};
use crate::log::checkpoints::{self, Checkpoints};
use crate::log::reader::{self, End};
use crate::log::room::{Room, SPARE_BYTES, carried_bytes, ending_bytes, full_or, is_full};
use crate::log::segments::{Segment, SegmentHints};
use crate::log::staging::{Blocks, Maker, Placed, Prepared, Staging, Tail, Writes};
use crate::log::writer::Log;
use crate::log::{OpenClaim, number_of, segment_name, token_of};
use crate::numbered::ByNumber;
use crate::random;
use crate::recovery::quarantine::{self, Quarantine};
use crate::recovery::survey::{Scanned, Survey, used_bytes};
use crate::recovery::{self, SUPER};
use crate::scope::OperationKey;
use crate::stats::Recovery;
use crate::time::StoreTime;

impl Survey<'_> {
    /// Changes the store to what was decided, and makes the log that goes on from there.
    pub(in crate::recovery) fn settle<D>(
        mut self,
        mut maker: Maker,
        mut checkpoints: Checkpoints,
        config: &Config,
        time: &StoreTime,
        indexes: &mut [Index],
    ) -> Result<(Log<D>, Recovery, Quarantine)> {
        let epoch = self.checkpoint.epoch + 1;
        if epoch > Lsn::EPOCH_MAX {
            let what = "the store was opened more often than token numbers allow";
            return Err(Error::Invalid { what });
        }
        // Before anything that says that the store goes on without them.
        if self.fresh {
            self.write_quarantine()?;
        }
        // Names that an earlier open made may never have been synced.
        self.storage.sync_dir().map_err(Error::io("sync the directory"))?;
        let adoptable = self.adoptable();
        let remade = if adoptable { None } else { self.worthless_tail().map(|tail| tail.header) };
        checkpoints.write_both(|checkpoint| {
            checkpoint.epoch = epoch;
            if let Some(header) = remade {
                checkpoint.durable_lsn = checkpoint.durable_lsn.min(header.previous_last_lsn);
            }
        })?;
        self.write_mended()?;
        self.remove_strays()?;
        let now_ms = time.read().now_ms;
        self.prune_quarantine(now_ms)?;
        self.rewrite_unpromised()?;
        let next = Lsn::first_of(epoch);
        let mut staging = if adoptable {
            let last = self.last;
            // What was read back is durable by now, and the epochs behind it cannot say so.
            checkpoints.write(|checkpoint| checkpoint.durable_lsn = last)?;
            self.adopt(next, now_ms)?
        } else {
            self.go_on(&maker, &mut checkpoints, next, now_ms, indexes)?
        };
        staging.durable = staging.next.before();
        staging.found = staging.last;
        staging.steps.clear();
        if let Some(max) = config.open_claims_per_organization_max {
            staging.bound_organizations(max);
        }
        maker.writes = match config.durability {
            Durability::Synced => Writes::AtCommit,
            Durability::Buffered { .. } => Writes::AtStaging,
        };
        self.segments.insert(Segment::new(&staging.tail.header, SegmentHints::Recent));
        self.report.orphans = self.replay.open.len() as u64;
        let secret = random::bytes().map_err(Error::io("draw a secret for operation ids"))?;
        let operations = OperationKey::new(&secret);
        let segments = self.segments;
        let log = Log::new(maker, config.durability, segments, operations, staging, checkpoints);
        // Without hint files the next open is slower, and nothing else.
        log.write_hints_in_memory();
        Ok((log, self.report, self.quarantine))
    }

    fn write_quarantine(&self) -> Result<()> {
        let bytes = self.quarantine.encode(self.superblock.store);
        recovery::replace(self.storage, quarantine::NAME, &bytes)
    }

    /// Takes from the list what is over; the files of those segments were put aside.
    fn prune_quarantine(&mut self, now_ms: u64) -> Result<()> {
        let oldest = self.checkpoint.oldest;
        if self.quarantine.prune(oldest, now_ms) {
            if self.quarantine.is_empty() {
                let removed = self.storage.remove(quarantine::NAME);
                removed
                    .and_then(|()| self.storage.sync_dir())
                    .map_err(Error::io("remove QUARANTINE"))?;
            } else {
                self.write_quarantine()?;
            }
        }
        self.report.quarantined = self.quarantine.report(oldest, now_ms);
        Ok(())
    }

    /// The newest segment that is not sealed.
    fn newest(&self) -> Option<u64> {
        self.scanned.last().map(|scanned| scanned.header.segment).max(self.lost_tail)
    }

    /// Puts the records in place whose erasure a crash tore.
    fn write_mended(&self) -> Result<()> {
        for scanned in &self.scanned {
            let Some(mended) = self.mended.get(&scanned.header.segment) else { continue };
            let write = |(offset, erased): &(u64, Vec<u8>)| scanned.file.write_at(*offset, erased);
            let written = mended.iter().try_for_each(write).and_then(|()| scanned.file.sync());
            written.map_err(Error::io("finish an erasure"))?;
        }
        Ok(())
    }

    /// Removes what is not part of the store: dropped segments, drafts, prepared files, and
    /// whatever lies behind the cut.
    fn remove_strays(&mut self) -> Result<()> {
        let newest = self.newest().unwrap_or(self.checkpoint.sealed);
        let live = self.checkpoint.oldest..=newest;
        let mut removed = false;
        for name in self.storage.list().map_err(Error::io("list the directory"))? {
            let number = number_of(&name, ".seg").or(number_of(&name, ".idx"));
            let draft = name.strip_suffix(".tmp").is_some_and(|name| {
                name == SUPER
                    || name == checkpoints::NAME
                    || name == quarantine::NAME
                    || number_of(name, ".idx").is_some()
                    || number_of(name, ".seg").is_some()
            });
            let is_over = number.is_some_and(|number| !live.contains(&number));
            if is_over && number.is_some_and(|number| self.quarantine.has(number)) {
                let aside = quarantine::put_aside(self.storage, &name);
                aside.map_err(Error::io("put a file in quarantine aside"))?;
                removed = true;
            } else if draft || is_over {
                self.storage.remove(&name).map_err(Error::io("remove a discarded file"))?;
                removed = true;
            }
        }
        self.report.segments_discarded = self.discarded.len() as u64;
        if removed {
            self.storage.sync_dir().map_err(Error::io("sync the directory"))?;
        }
        Ok(())
    }

    /// Writes again what no promise covers, zeros the cut, and syncs: after a failed sync the page
    /// cache can hold bytes, marked clean, that the disk never got.
    fn rewrite_unpromised(&mut self) -> Result<()> {
        for (file, bytes) in &self.unpromised {
            // The same bytes, damaged ones too: nothing of the evidence is changed.
            let used = usize::try_from(used_bytes(bytes)).expect("within a segment");
            let written = file.write_at(0, &bytes[..used]).and_then(|()| file.sync());
            written.map_err(Error::io("rewrite the tail"))?;
        }
        let promises = self.scanned.iter().map(|scanned| scanned.scan.promise);
        let promised = promises.fold(self.checkpoint.durable_lsn, Lsn::max);
        for scanned in &self.scanned {
            let end = usize::try_from(scanned.scan.offset).expect("within a segment");
            let mut first = None;
            let identity = scanned.header.identity();
            reader::scan(&scanned.bytes, identity, scanned.header.first_lsn, |entry| {
                if entry.header.lsn > promised {
                    first.get_or_insert(entry.offset);
                }
            });
            if scanned.header.segment > self.checkpoint.tail {
                // CHECKPOINT names a tail only once its header is durable. A power cut may have
                // left one of its two copies.
                let header = scanned.header.encode();
                scanned.file.write_at(0, &header).map_err(Error::io("rewrite a header"))?;
            }
            if let Some(first) = first {
                let start = usize::try_from(first).expect("within a segment");
                let file = &scanned.file;
                file.write_at(first, &scanned.bytes[start..end])
                    .map_err(Error::io("rewrite the tail"))?;
            }
            if scanned.scan.end != End::Sealed {
                // To the end of the page in any case: after a failed sync these zeros, too, can be
                // in the page cache alone, and the log may go on here.
                let used = usize::try_from(used_bytes(&scanned.bytes)).expect("within a segment");
                let zeros = vec![0; used.max(end.next_multiple_of(4096)) - end];
                scanned
                    .file
                    .write_at(scanned.scan.offset, &zeros)
                    .map_err(Error::io("cut the tail"))?;
            }
            scanned.file.sync().map_err(Error::io("sync the tail"))?;
        }
        // Nor is its name, where an earlier process stopped before it had synced the directory.
        if self.scanned.iter().any(|scanned| scanned.header.segment > self.checkpoint.tail) {
            self.storage.sync_dir().map_err(Error::io("sync the directory"))?;
        }
        Ok(())
    }

    /// A tail that ends with a CLEAN can take more records.
    fn adoptable(&self) -> bool {
        let [tail] = &self.scanned[..] else { return false };
        let alone = self.report.cut.is_none() && self.lost_tail.is_none();
        alone && matches!(tail.scan.last, Some((_, Kind::Clean)))
    }

    /// Goes on in the tail as it is.
    fn adopt(&mut self, next: Lsn, now_ms: u64) -> Result<Staging> {
        let tail = self.scanned.pop().expect("an adoptable tail was scanned");
        self.report.clean = true;
        let mut staging = self.staging(tail.into_tail(), next, now_ms);
        staging.clean = true;
        staging.reserve().map_err(Error::io("allocate the tail"))?;
        Ok(staging)
    }

    fn staging(&self, tail: Tail, next: Lsn, now_ms: u64) -> Staging {
        let mut staging = Staging {
            tail,
            last: self.last,
            found: self.last,
            next,
            durable: next.before(),
            time_ms: now_ms,
            open: ByNumber::default(),
            record: Vec::new(),
            carry_bytes: 0,
            ending_bytes: 0,
            organizations: None,
            steps: Vec::new(),
            dirty: false,
            sealed: Vec::new(),
            prepared: None,
            asked_for_blocks: false,
            allocating: false,
            ready_at: 0,
            unsynced_since: None,
            promised: true,
            clean: false,
            records: 0,
            appended_bytes: 0,
        };
        self.replay.open.values().for_each(|claim| staging.insert_open(claim.clone()));
        staging
    }

    /// Seals what was scanned and goes on in a new segment that begins with the open claims.
    fn go_on(
        &mut self,
        maker: &Maker,
        checkpoints: &mut Checkpoints,
        mut next: Lsn,
        now_ms: u64,
        indexes: &mut [Index],
    ) -> Result<Staging> {
        let worthless = self.worthless_tail().map(|tail| tail.header);
        let number = match (worthless, self.newest()) {
            (Some(header), _) => header.segment,
            (None, Some(last)) => last + 1,
            (None, None) => self.checkpoint.oldest.max(self.checkpoint.sealed + 1),
        };
        let name = format!("{}.tmp", segment_name(number));
        let draft = match maker.create(&name, number, Blocks::Few, self.kept_bytes()) {
            Err(error) if is_full(&error) => {
                // What it has taken is needed elsewhere.
                self.storage.remove(&name).ok();
                return self.stay(maker, checkpoints, next, now_ms, indexes);
            }
            draft => draft.map_err(Error::io("create a segment"))?,
        };
        if let Some(header) = worthless {
            self.scanned.pop();
            self.last = header.previous_last_lsn;
        }
        if let Some(tail) = self.scanned.last_mut()
            && tail.seal.is_none()
        {
            let placed = seal(tail, next, now_ms)?;
            tail.seal = Some(placed);
            (self.last, next) = (placed.lsn, next.next());
        }
        self.hint_scanned(indexes);
        let header = SegmentHeader {
            store: maker.store,
            segment: number,
            salt: random::number().map_err(Error::io("draw a salt"))?,
            first_lsn: next,
            previous_last_lsn: self.last,
            created_ms: now_ms,
            segment_bytes: maker.segment_bytes,
        };
        let tail = publish_draft(maker, &name, draft, header)?;
        let mut staging = self.staging(tail, next, now_ms);
        staging.carry(maker)?;
        staging.tail.file.sync().map_err(Error::io("sync a new segment"))?;
        staging.dirty = false;
        checkpoint_tail(checkpoints, &staging, now_ms)?;
        Ok(staging)
    }

    /// What a new tail needs for the open claims: to carry them, and to end them.
    fn kept_bytes(&self) -> u64 {
        let open = self.replay.open.values();
        let kept = open.map(|open| carried_bytes(open) + ending_bytes(open.facts.scope.len()));
        kept.sum::<u64>() + SPARE_BYTES
    }

    /// Goes on in the newest segment, where the disk has no room for another. The claims that it
    /// does not repeat are carried into it: a crash in the middle of a roll leaves the blocks for
    /// that. A CLEAN as its last record lets a later epoch follow.
    fn stay(
        &mut self,
        maker: &Maker,
        checkpoints: &mut Checkpoints,
        next_epoch: Lsn,
        now_ms: u64,
        indexes: &mut [Index],
    ) -> Result<Staging> {
        // Nor behind one that is in quarantine: what stands there is not to be written over.
        let newest = self.scanned.pop().filter(|_| self.lost_tail.is_none());
        let Some(tail) = newest.filter(|tail| tail.seal.is_none()) else {
            return Err(Error::Full { what: "the file system: not even the next segment fits" });
        };
        self.hint_scanned(indexes);
        let mut repeated = BTreeSet::new();
        reader::scan(&tail.bytes, tail.header.identity(), tail.header.first_lsn, |entry| {
            if let Record::Claim(claim) = entry.record {
                repeated.insert(token_of(&entry.header, &claim));
            }
        });
        let missing = self.replay.open.values();
        let missing = missing.filter(|open| !repeated.contains(&open.facts.token));
        let missing: Vec<OpenClaim> = missing.cloned().collect();
        let next = match tail.scan.last {
            None => tail.header.first_lsn,
            Some((_, Kind::Clean)) => next_epoch,
            Some((last, _)) => last.next(),
        };
        let ends_clean = matches!(tail.scan.last, Some((_, Kind::Clean)));
        let mut staging = self.staging(tail.into_tail(), next, now_ms);
        staging.clean = ends_clean;
        let bytes = missing.iter().map(carried_bytes).sum::<u64>() + SEAL_BYTES;
        staging.allocate(bytes, Room::Ends).map_err(full_or("allocate the tail"))?;
        staging.carry_some(maker, missing)?;
        // Behind a CLEAN this epoch has begun already.
        if !ends_clean {
            let clean = Draft::clean(&staging.tail.summary);
            staging.push(maker, &clean)?;
        }
        staging.tail.file.sync().map_err(Error::io("sync the tail"))?;
        staging.dirty = false;
        staging.next = staging.next.max(next_epoch);
        checkpoint_tail(checkpoints, &staging, now_ms)?;
        staging.reserve().map_err(Error::io("allocate the tail"))?;
        Ok(staging)
    }

    /// A tail from which nothing is worth keeping is made anew under its own number, so that a
    /// process that restarts all the time does not use the numbers up.
    fn worthless_tail(&self) -> Option<&Scanned> {
        let tail = self.scanned.last()?;
        if tail.scan.last.is_none() {
            return Some(tail);
        }
        // A release in the tail may end a claim of a segment before it that is not sealed either.
        let alone = self.scanned.len() == 1 && self.lost_tail.is_none();
        let alone = alone && self.replay.open.is_empty();
        let empty = tail.summary.completes == 0 && tail.summary.forgets == 0;
        (alone && empty && tail.seal.is_none()).then_some(tail)
    }

    /// The scanned segments are sealed now; they get their hint files.
    fn hint_scanned(&mut self, indexes: &mut [Index]) {
        for mut scanned in std::mem::take(&mut self.scanned) {
            scanned.hints.sort_unstable();
            let seal = scanned.seal.expect("every scanned segment was sealed");
            let hints = Hints {
                seal_lsn: seal.lsn,
                seal_offset: seal.location.offset(),
                summary: scanned.summary,
                entries: scanned.hints,
            };
            let hints = SegmentHints::Memory(Arc::new(hints));
            self.segments.insert(Segment::new(&scanned.header, hints));
            let (number, seal_offset) = (scanned.header.segment, seal.location.offset());
            self.segments.found_sealed(number, scanned.summary, seal_offset);
            indexes.iter_mut().for_each(|index| index.hinted(scanned.header.segment));
        }
    }
}

impl Scanned {
    /// The tail that goes on behind its last record.
    fn into_tail(self) -> Tail {
        Tail {
            header: self.header,
            file: self.file,
            offset: self.scan.offset,
            allocated: self.scan.offset.next_multiple_of(4096),
            summary: self.summary,
            hints: self.hints,
        }
    }
}

/// Gives a draft its synced header and its final name, so that no crash leaves it half made.
fn publish_draft(
    maker: &Maker,
    draft: &str,
    prepared: Prepared,
    header: SegmentHeader,
) -> Result<Tail> {
    let publish = || {
        prepared.file.write_at(0, &header.encode())?;
        prepared.file.sync()?;
        maker.storage.rename(draft, &segment_name(header.segment))?;
        maker.storage.sync_dir()
    };
    publish().map_err(Error::io("create a segment"))?;
    Ok(Tail {
        header,
        file: prepared.file,
        offset: DATA_START,
        allocated: prepared.allocated,
        summary: Summary::default(),
        hints: Vec::new(),
    })
}

/// Says in CHECKPOINT that this is the tail, durable to its last record.
fn checkpoint_tail(checkpoints: &mut Checkpoints, staging: &Staging, now_ms: u64) -> Result<()> {
    let number = staging.tail.header.segment;
    checkpoints.write(|checkpoint| {
        (checkpoint.sealed, checkpoint.tail) = (number - 1, number);
        checkpoint.durable_lsn = staging.last;
        checkpoint.time_ms = checkpoint.time_ms.max(now_ms);
    })
}

/// Appends the SEAL for which every segment keeps room.
fn seal(tail: &Scanned, lsn: Lsn, time_ms: u64) -> Result<Placed> {
    let offset = tail.scan.offset;
    let stamp =
        Stamp { identity: tail.header.identity(), offset, lsn, durable: lsn.before(), time_ms };
    let mut bytes = Vec::new();
    Draft::seal(&tail.summary).write(&stamp, &mut bytes);
    tail.file.write_at(offset, &bytes).map_err(Error::io("seal the tail"))?;
    tail.file.sync().map_err(Error::io("sync the tail"))?;
    Ok(Placed { lsn, location: Location::new(tail.header.segment, offset) })
}
