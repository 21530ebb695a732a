//! A store as it was at one point of its log, looked at from outside. Changes nothing.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::backup::{self, Backup, Files};
use crate::clock::{Clock, from_ms, to_ms};
use crate::config::{Config, Progress};
use crate::engine::admit::RETRY_AFTER_MAX;
use crate::engine::outcome::{InProgress, Keyed, OrphanInfo, Status, Stored};
use crate::error::{Error, Result};
use crate::format::hint::Hint;
use crate::format::record::{Ended, Record};
use crate::index::shard_of;
use crate::location::{Location, Lsn};
use crate::log::OpenClaim;
use crate::log::segments::{self, Segment};
use crate::parallel::Threads;
use crate::recovery::view::{self, Indexed, View};
use crate::scope::{self, Encoded, Scope, Token};
use crate::storage::{Owner, Storage};
use crate::sync::Mutex;
use crate::time::{Reading, StoreTime, open_bound_ms};
use crate::verify::{self, Subject, Verification};

/// A store at one point of its log, from [`Options::open_read_only`](crate::Options). It shows what
/// was in the files up to that point and nothing later, however the store goes on.
///
/// It has no lock and changes no byte, so it works beside the process that has the store open, on a
/// file system that is mounted read-only, and on a copy. What is in the memory of an owner is not
/// seen: that a permit was dropped or a lease has lapsed, and under
/// [`Durability::Synced`](crate::Durability) a batch that is being written.
///
/// **What can be known of a claim without an outcome.** It is [`Status::Orphaned`] where its permit
/// was given up, where an earlier open of the store made it, and where nobody has the store open.
/// Else it is [`Status::InProgress`]: its owner lives, or may live where that cannot be told
/// ([`Snapshot::owner`]). How old an orphan may become is not in the files; it is shown until the
/// owner ends it.
///
/// **What is gone since.** A response whose segment was dropped after the snapshot had expired, and
/// one that was forgotten is erased: both are absent. Expiry goes by the clock of the options.
///
/// It takes about nine bytes of memory a response. Opening it reads what opening the store reads.
///
/// ```
/// # use oncelog::{Claim, Fingerprint, Scope, Store};
/// # let dir = tempfile::tempdir()?;
/// # let store = Store::open(dir.path())?;
/// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
/// # let fingerprint = Fingerprint::of(b"body");
/// # let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
/// # permit.complete(b"201 created")?;
/// let snapshot = Store::options().open_read_only(dir.path())?;
/// for entry in snapshot.entries() {
///     let entry = entry?;
///     println!("{:?}: {:?}", entry.scope(), entry.status());
/// }
/// assert_eq!(snapshot.totals().responses, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Snapshot {
    storage: Arc<dyn Storage>,
    view: View,
    /// The claims without an outcome, by the hash of their scope.
    open: Vec<(u64, OpenClaim)>,
    owner: Owner,
    config: Config,
    clock: Arc<dyn Clock>,
    time: StoreTime,
    free_bytes: u64,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

/// What a [`Snapshot`] adds up to.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Responses, those past their expiry included until their segment is dropped.
    pub responses: u64,
    /// Claims that run, as far as can be told.
    pub in_flight: u64,
    /// Claims whose outcome is unknown.
    pub orphans: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of disk that segments and their hint files take, up to the newest record.
    pub disk_bytes: u64,
    /// Bytes that the file system can still take.
    pub free_bytes: u64,
    /// Segments in quarantine: an alarm. See [`OnDamage::Quarantine`](crate::OnDamage).
    pub quarantined_segments: u64,
    /// When the oldest segment was begun, in store time; `None` where there is none.
    pub oldest_at: Option<SystemTime>,
    /// The newest store time on record; `None` where the store never held a record.
    pub newest_at: Option<SystemTime>,
    /// Bytes of memory that the index of the snapshot takes.
    pub index_bytes: u64,
    /// How often the store had been opened.
    pub epoch: u64,
    /// The newest record that the snapshot shows; `None` where the store never held one.
    pub upto: Option<Token>,
    /// Where the log does not end with a whole record: in which segment, and why. Beside an owner
    /// that is a record under way, without one the torn tail of a crash, which the next open cuts.
    pub cut: Option<(u64, &'static str)>,
}

/// One scope that is not free, from [`Snapshot::entries`].
#[derive(Clone)]
pub struct Entry {
    scope: Encoded,
    status: Status,
}

impl Entry {
    /// The scope.
    pub fn scope(&self) -> Scope<'_> {
        scope::decode(&self.scope).expect("the scope of a record was checked")
    }

    /// What it holds.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// What it holds, owned.
    pub fn into_status(self) -> Status {
        self.status
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scope, status) = (self.scope(), &self.status);
        f.debug_struct("Entry").field("scope", &scope).field("status", status).finish()
    }
}

impl Snapshot {
    /// `None` where there is no store.
    pub(crate) fn take(
        storage: Arc<dyn Storage>,
        config: &Config,
        clock: Arc<dyn Clock>,
        indexed: Indexed,
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<Option<Snapshot>> {
        let (view, owner) = loop {
            let Some(view) = view::view(&storage, indexed, &*progress)? else { return Ok(None) };
            // Asked afterwards, so that a claim of an owner who came meanwhile is not an orphan.
            let owner = storage.owner().map_err(Error::io("look at the lock"))?;
            // Every open has an epoch of its own. A view of before it would take a claim that an
            // earlier process left for one that the new owner runs.
            let newest = view::read_checkpoint(&*storage, &view.superblock)?;
            if newest.is_none_or(|newest| newest.epoch == view.checkpoint.epoch) {
                break (view, owner);
            }
        };
        let hash = |open: &OpenClaim| view.hash_key.hash(&open.facts.scope);
        let mut open: Vec<_> = view.open.iter().map(|open| (hash(open), open.clone())).collect();
        open.sort_by_key(|(hash, _)| *hash);
        let time = StoreTime::resume(Arc::clone(&clock), config.ttl_ms(), view.time_ms);
        let free_bytes = storage.free_bytes().map_err(Error::io("look at the file system"))?;
        let config = config.clone();
        let whole =
            Snapshot { storage, view, open, owner, config, clock, time, free_bytes, progress };
        Ok(Some(whole))
    }

    /// Whether somebody had the store open when the snapshot was taken.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// What a scope held. `None` where it was free.
    ///
    /// # Errors
    /// `Invalid` or `TooLarge` for the scope; `Corrupt` where the record of this scope is damaged,
    /// or may have been in a segment in quarantine; `Io`.
    pub fn lookup(&self, scope: Scope<'_>) -> Result<Option<Status>> {
        let keyed = Keyed::new(scope, &self.view.hash_key)?;
        let from = self.open.partition_point(|(hash, _)| *hash < keyed.hash);
        let same_hash = self.open[from..].iter().take_while(|(hash, _)| *hash == keyed.hash);
        for (_, open) in same_hash {
            if *open.facts.scope == *keyed.encoded {
                return Ok(Some(self.status(open)));
            }
        }
        let oldest = self.view.segments.oldest();
        let candidates = self.view.indexes[shard_of(keyed.hash)].candidates(keyed.hash, oldest);
        for location in candidates.iter() {
            let Some(record) = self.read(keyed.hash, location)? else { continue };
            let stored = Stored::of_record(record, &keyed.encoded);
            if let Some(stored) = stored.filter(|stored| self.is_live(stored)) {
                return Ok(Some(Status::Completed(stored)));
            }
        }
        self.view.quarantine.check_absent(self.time.read().now_ms).map(|()| None)
    }

    /// Every claim whose outcome is unknown, oldest first.
    pub fn unresolved(&self) -> Vec<OrphanInfo> {
        let statuses = self.view.open.iter().map(|open| self.status(open));
        let mut orphans: Vec<_> = statuses
            .filter_map(|status| match status {
                Status::Orphaned(info) => Some(info),
                _ => None,
            })
            .collect();
        orphans.sort_by_key(|info| (info.open.facts.claimed_ms, info.open.facts.token));
        orphans
    }

    /// Everything that is not free: first claims without an outcome, then completed operations in
    /// the order of their completion, those past their expiry left out. Beside what the snapshot
    /// itself takes, it needs memory for the hints of one segment, 16 bytes a response, and for
    /// one record.
    ///
    /// A record that cannot be read is an error in its place; the others still come. Where a
    /// segment in quarantine may have held scopes that nobody knows, the last item is an error
    /// that names the segment: the list is not whole.
    pub fn entries(&self) -> Entries<'_> {
        Entries {
            snapshot: self,
            open: self.view.open.iter(),
            segments: self.view.segments.live().into_iter(),
            segment: 0,
            hints: Vec::new().into_iter(),
            lost: self.view.quarantine.check_absent(self.time.read().now_ms).err(),
        }
    }

    /// What it adds up to.
    pub fn totals(&self) -> Totals {
        let orphans = self.unresolved().len() as u64;
        let View { indexes, segments, report, last, .. } = &self.view;
        let live = segments.live();
        let quarantined = live.iter().filter(|segment| segments.is_quarantined(segment.number));
        Totals {
            responses: indexes.iter().map(|index| index.len()).sum(),
            in_flight: self.open.len() as u64 - orphans,
            orphans,
            segments: segments.count(),
            disk_bytes: self.view.disk_bytes,
            free_bytes: self.free_bytes,
            quarantined_segments: quarantined.count() as u64,
            oldest_at: live.first().map(|segment| from_ms(segment.header.created_ms)),
            newest_at: (self.view.time_ms > 0).then(|| from_ms(self.view.time_ms)),
            index_bytes: indexes.iter().map(|index| index.bytes()).sum(),
            epoch: report.epoch,
            upto: (*last != Lsn::ZERO).then(|| Token::new(last.0)),
            cut: report.cut,
        }
    }

    /// Reads every byte that the snapshot shows, as [`Store::verify`](crate::Store::verify) does.
    /// A large store is read on all cores, with one segment in memory for each. What seems damaged
    /// is read again, with what an owner has dropped or erased since left out.
    ///
    /// # Errors
    /// `Io` where a file that is there cannot be opened; whatever else is wrong is damage.
    pub fn verify(&self) -> Result<Verification> {
        let mut found = self.verify_view(&self.view)?;
        if found.is_clean() {
            return Ok(found);
        }
        match view::view(&self.storage, Indexed::No, &*self.progress) {
            Ok(Some(now)) => {
                let stays = self.verify_view(&now)?;
                found.damage.retain(|damage| stays.damage.contains(damage));
                Ok(found)
            }
            // The store cannot be looked at any more: what was found is no passing state.
            Ok(None) | Err(Error::Corrupt { .. }) => Ok(found),
            Err(error) => Err(error),
        }
    }

    /// See [`Scan::backup`](crate::Scan::backup).
    pub(crate) fn copy_to(&self, dir: &Path, files: Files) -> Result<Backup> {
        backup::beside_an_owner(&self.storage, dir, files, &*self.progress)
    }

    /// The newest record that it shows, and the newest store time on record, in ms.
    pub(crate) fn newest(&self) -> (Option<Token>, u64) {
        let last = self.view.last;
        ((last != Lsn::ZERO).then(|| Token::new(last.0)), self.view.time_ms)
    }

    /// What an open would make of the clock.
    pub(crate) fn reading(&self) -> Reading {
        self.time.read()
    }

    /// What the clock says, in ms.
    pub(crate) fn wall_ms(&self) -> u64 {
        to_ms(self.clock.wall())
    }

    /// How long a stop it would believe, in ms.
    pub(crate) fn stop_max_ms(&self) -> u64 {
        open_bound_ms(self.config.ttl_ms())
    }

    fn verify_view(&self, view: &View) -> Result<Verification> {
        let subject = Subject {
            storage: &*self.storage,
            store: view.superblock.store,
            hash_key: &view.hash_key,
            segments: &view.segments,
            written: view.last,
            checkpoint: view.checkpoint,
            erasing: &Mutex::new(()),
            threads: Threads::All,
            quarantine: &view.quarantine,
        };
        verify::verify(&subject, &*self.progress)
    }

    /// What an open claim is to somebody who looks from outside.
    fn status(&self, open: &OpenClaim) -> Status {
        let facts = &open.facts;
        let earlier = Lsn(facts.token.get()).epoch() < self.view.checkpoint.epoch;
        if open.ended == Ended::No && !earlier && self.owner != Owner::Gone {
            return Status::InProgress(InProgress {
                claimed_ms: facts.claimed_ms,
                retry_after: self.config.lease.min(RETRY_AFTER_MAX),
                token: facts.token,
                operation: facts.operation,
                attempt: facts.attempt,
            });
        }
        let mut open = open.clone();
        if open.ended == Ended::No {
            open.ended = Ended::Crash;
        }
        Status::Orphaned(OrphanInfo { open })
    }

    fn is_live(&self, stored: &Stored) -> bool {
        self.time.read().now_ms < stored.expires_ms
    }

    /// The record of a response; `None` where it is gone since.
    fn read(&self, hash: u64, location: Location) -> Result<Option<segments::Stored>> {
        match self.view.segments.read(location) {
            Err(error) if self.is_gone(hash, location)? => {
                // What does not verify, or is not there, was erased or dropped: no error of this.
                drop(error);
                Ok(None)
            }
            read => read,
        }
    }

    /// Whether the store no longer has a response here.
    fn is_gone(&self, hash: u64, location: Location) -> Result<bool> {
        let indexed = if self.view.indexes.is_empty() { Indexed::No } else { Indexed::Yes };
        let now = match view::view(&self.storage, indexed, &*self.progress) {
            Ok(now) => now,
            Err(Error::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(now.is_some_and(|now| !now.names(hash, location)))
    }

    /// The places of the responses of a segment, in order; nothing where it is gone since.
    fn hints_of(&self, segment: &Segment) -> Result<Vec<Hint>> {
        let mut hints = match self.view.segments.hints(segment, &self.view.hash_key) {
            Ok(hints) => hints,
            Err(error) => {
                let newest = view::read_checkpoint(&*self.storage, &self.view.superblock)?;
                let gone = newest.is_some_and(|newest| segment.number < newest.oldest);
                return if gone { Ok(Vec::new()) } else { Err(error) };
            }
        };
        hints.retain(|hint| !hint.forget);
        hints.sort_unstable_by_key(|hint| hint.granule);
        Ok(hints)
    }

    /// The response that a hint names, where it is one that counts.
    fn entry_at(&self, hint: &Hint, location: Location) -> Result<Option<Entry>> {
        if !self.view.names(hint.hash, location) {
            return Ok(None);
        }
        let Some(record) = self.read(hint.hash, location)? else { return Ok(None) };
        let scope = match record.record() {
            Ok(Record::Complete(complete)) => Encoded::from(complete.scope),
            // Erased since.
            _ => return Ok(None),
        };
        let stored = Stored::of_record(record, &scope).filter(|stored| self.is_live(stored));
        Ok(stored.map(|stored| Entry { scope, status: Status::Completed(stored) }))
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (storage, owner) = (&self.storage, &self.owner);
        f.debug_struct("Snapshot")
            .field("storage", storage)
            .field("owner", owner)
            .finish_non_exhaustive()
    }
}

/// The scopes of a [`Snapshot`] that are not free, from [`Snapshot::entries`].
#[must_use = "an iterator does nothing by itself"]
pub struct Entries<'a> {
    snapshot: &'a Snapshot,
    open: std::slice::Iter<'a, OpenClaim>,
    segments: std::vec::IntoIter<Arc<Segment>>,
    /// The segment that `hints` are of.
    segment: u64,
    hints: std::vec::IntoIter<Hint>,
    /// Why the list is not whole, until that is told.
    lost: Option<Error>,
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        if let Some(open) = self.open.next() {
            let (scope, status) = (open.facts.scope.clone(), self.snapshot.status(open));
            return Some(Ok(Entry { scope, status }));
        }
        loop {
            let Some(hint) = self.hints.next() else {
                let Some(segment) = self.segments.next() else {
                    return self.lost.take().map(Err);
                };
                match self.snapshot.hints_of(&segment) {
                    Ok(hints) => (self.segment, self.hints) = (segment.number, hints.into_iter()),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            let location = Location::of_granule(self.segment, u64::from(hint.granule));
            if let Some(entry) = self.snapshot.entry_at(&hint, location).transpose() {
                return Some(entry);
            }
        }
    }
}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("snapshot", self.snapshot).finish_non_exhaustive()
    }
}
