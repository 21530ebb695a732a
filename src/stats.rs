//! What a store counts, and the snapshot that it shows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::clock;
use crate::warning::Warning;

/// A snapshot of a store, from [`Store::stats`](crate::Store::stats). Counters count since the
/// store was opened.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Responses in the index; those past their expiry count until their segment is dropped.
    pub responses: u64,
    /// Claims that are open and not orphans.
    pub in_flight: u64,
    /// Claims that are orphans now.
    pub orphans: u64,
    /// Segments on disk, prepared ones not counted.
    pub segments: u64,
    /// Bytes of disk that segments and their hint files take, blocks that are ready for the next
    /// records included.
    pub disk_bytes: u64,
    /// Bytes in the newest segment that are kept so that every open claim, orphans included, can
    /// complete without its response or be released, on a full disk too.
    pub reserved_bytes: u64,
    /// Bytes that claims and responses can still take: what the file system has free, or what
    /// [`Options::disk_budget_bytes`](crate::Options::disk_budget_bytes) leaves, whichever is
    /// less. New claims are [`Error::Full`](crate::Error::Full) somewhat before 0: a segment has a
    /// header and carries the open claims.
    pub headroom_bytes: u64,
    /// Bytes of memory that the index takes, its unused slots included.
    pub index_bytes: u64,
    /// Responses that found no room in their two lines of the index, and are kept in a tree beside
    /// it: nearly always none.
    pub index_overflow: u64,
    /// Bytes of memory for the hashes of responses whose segment has no hint file yet.
    pub recent_bytes: u64,
    /// Claims granted, take-overs included.
    pub granted: u64,
    /// Responses replayed by claims.
    pub replayed: u64,
    /// Claims that met another fingerprint.
    pub conflicts: u64,
    /// Claims that met a running operation.
    pub waits: u64,
    /// Claims refused because something was full.
    pub refused: u64,
    /// Attempts that an earlier process, or a close, left open.
    pub orphaned_crash: u64,
    /// Attempts whose permit was dropped.
    pub orphaned_dropped: u64,
    /// Attempts whose lease lapsed.
    pub orphaned_lease_lapsed: u64,
    /// Attempts that were given up.
    pub orphaned_failed: u64,
    /// Orphans that nobody resolved for a whole ttl.
    pub orphans_expired: u64,
    /// Orphans that were taken over by a further attempt.
    pub orphans_taken_over: u64,
    /// Orphans that somebody else than their permit completed. Their records say so.
    pub orphans_resolved: u64,
    /// Orphans that somebody else than their permit released. Their records say so.
    pub orphans_released: u64,
    /// When the last of those two happened, by the store's time.
    pub orphan_ended_last: Option<SystemTime>,
    /// Whether a jump of the wall clock is held back, so that nothing expires early.
    pub clock_held: bool,
    /// Segments that are kept because a response in them has no expiry: an alarm.
    pub segments_without_expiry: u64,
    /// Syncs that made a batch of records durable.
    pub commit_batches: u64,
    /// Records appended.
    pub records: u64,
    /// Bytes appended, headers and padding included.
    pub appended_bytes: u64,
    /// Bytes that the scrub has read; 0 without
    /// [`Options::scrub_bytes_per_second`](crate::Options::scrub_bytes_per_second).
    pub scrubbed_bytes: u64,
    /// How often the scrub has read all sealed segments.
    pub scrub_rounds: u64,
    /// Damaged places in live segments that the scrub knows of, at most 1,000: an alarm.
    /// [`Store::damage`](crate::Store::damage) lists them.
    pub damaged_records: u64,
    /// Segments in quarantine: an alarm. See [`OnDamage::Quarantine`](crate::OnDamage).
    pub quarantined_segments: u64,
    /// Until then, in store time, a scope that the store does not know is
    /// [`Error::Corrupt`](crate::Error::Corrupt), since it may have been in what was lost.
    pub quarantined_until: Option<SystemTime>,
}

/// How long commits took, each the write and the sync that made one batch of records durable, from
/// [`Store::commit_latency`](crate::Store::commit_latency): a histogram since the store was opened.
/// The difference of two, bucket by bucket, is the histogram of the time between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitLatency {
    counts: [u64; LATENCY_BUCKETS],
    total: Duration,
}

/// Upper bounds of 4 us, doubled up to 16.8 s, and a bucket for what took longer.
const LATENCY_BUCKETS: usize = 24;
const LATENCY_FIRST_US: u64 = 4;

impl CommitLatency {
    /// The buckets from the fastest to the slowest: the longest time that belongs into it, `None`
    /// for the last one, and how many commits took no longer than that and longer than the one
    /// before allows.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let last = LATENCY_BUCKETS - 1;
        self.counts.iter().enumerate().map(move |(bucket, &count)| {
            let longest = || Duration::from_micros(LATENCY_FIRST_US << bucket);
            ((bucket < last).then(longest), count)
        })
    }

    /// How many commits there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together.
    pub fn total(&self) -> Duration {
        self.total
    }
}

/// What a store counts of its commits: once a batch, never once a claim.
#[derive(Debug, Default)]
pub(crate) struct CommitTimes {
    counts: [Counter; LATENCY_BUCKETS],
    total_ns: Counter,
}

impl CommitTimes {
    pub(crate) fn add(&self, took: Duration) {
        let steps = clock::duration_ns(took).div_ceil(LATENCY_FIRST_US * 1000);
        // The number of doublings of the first bound that reach the time.
        let bucket = steps.max(1).next_power_of_two().trailing_zeros() as usize;
        self.counts[bucket.min(LATENCY_BUCKETS - 1)].add(1);
        self.total_ns.add(clock::duration_ns(took));
    }

    pub(crate) fn read(&self) -> CommitLatency {
        let total = Duration::from_nanos(self.total_ns.get());
        CommitLatency { counts: self.counts.each_ref().map(Counter::get), total }
    }
}

/// One segment of the log, from [`Store::segments`](crate::Store::segments). Times are store time.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its sequence number, counted from 1.
    pub segment: u64,
    /// Whether it takes records, and whether it is whole.
    pub state: SegmentState,
    /// Bytes of disk that it takes with its hint file; of the tail, those that hold records.
    pub disk_bytes: u64,
    /// Records in it.
    pub records: u64,
    /// Completions in it, those that are past their expiry or were forgotten included.
    pub responses: u64,
    /// When its first record was written.
    pub begun_at: SystemTime,
    /// When its newest record was written.
    pub newest_at: SystemTime,
    /// When the last response in it expires: `None` where it holds none. Its file goes at the first
    /// [`Store::expire`](crate::Store::expire) after that, once every older one has gone.
    pub expires_at: Option<SystemTime>,
}

/// What a segment is to the store.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// It takes the next records.
    Tail,
    /// It takes no more records.
    Sealed,
    /// It is damaged: see [`OnDamage::Quarantine`](crate::OnDamage).
    Quarantined,
}

/// One counter. `Relaxed` throughout: each is read alone, and orders nothing.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn raise(&self, to: u64) {
        self.0.fetch_max(to, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of the engine.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) granted: Counter,
    pub(crate) replayed: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) waits: Counter,
    pub(crate) refused: Counter,
    pub(crate) orphaned_crash: Counter,
    pub(crate) orphaned_dropped: Counter,
    pub(crate) orphaned_lease_lapsed: Counter,
    pub(crate) orphaned_failed: Counter,
    pub(crate) orphans_expired: Counter,
    pub(crate) orphans_taken_over: Counter,
    pub(crate) orphans_resolved: Counter,
    pub(crate) orphans_released: Counter,
    /// When an orphan was last resolved or released, in ms; 0 for never.
    pub(crate) orphan_ended_ms: Counter,
}

impl Counters {
    pub(crate) fn read_into(&self, stats: &mut Stats) {
        stats.granted = self.granted.get();
        stats.replayed = self.replayed.get();
        stats.conflicts = self.conflicts.get();
        stats.waits = self.waits.get();
        stats.refused = self.refused.get();
        stats.orphaned_crash = self.orphaned_crash.get();
        stats.orphaned_dropped = self.orphaned_dropped.get();
        stats.orphaned_lease_lapsed = self.orphaned_lease_lapsed.get();
        stats.orphaned_failed = self.orphaned_failed.get();
        stats.orphans_expired = self.orphans_expired.get();
        stats.orphans_taken_over = self.orphans_taken_over.get();
        stats.orphans_resolved = self.orphans_resolved.get();
        stats.orphans_released = self.orphans_released.get();
        let ended_ms = self.orphan_ended_ms.get();
        stats.orphan_ended_last = (ended_ms > 0).then(|| clock::from_ms(ended_ms));
    }
}

/// What opening a store found and did, from [`Store::recovery`](crate::Store::recovery).
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The store was closed, and nothing has happened to it since.
    pub clean: bool,
    /// How often the store has been opened, this time included.
    pub epoch: u64,
    /// Segments found that belong to the store.
    pub segments: u64,
    /// Of them, those read in full because they were not sealed.
    pub segments_scanned: u64,
    /// Of them, those read in full because their hint file was missing or damaged.
    pub hints_rebuilt: u64,
    /// Records read in full.
    pub records_scanned: u64,
    /// Bytes behind the last good record that were cut: a torn tail that nobody was promised.
    pub cut_bytes: u64,
    /// Why the tail was cut, and in which segment, where it was.
    pub cut: Option<(u64, &'static str)>,
    /// Segments discarded because they came after the cut.
    pub segments_discarded: u64,
    /// Responses found, expired ones included.
    pub responses: u64,
    /// Claims that an earlier process left open.
    pub orphans: u64,
    /// Records whose erasure a crash had interrupted.
    pub erasures_finished: u64,
    /// What stands in the way of the store's promises here, such as a file system in memory.
    pub warnings: Vec<Warning>,
    /// The segments that are in quarantine, those that were before this open too.
    pub quarantined: Vec<Quarantined>,
}

/// A damaged segment that the store was opened without; see
/// [`OnDamage::Quarantine`](crate::OnDamage).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its sequence number, counted from 1.
    pub segment: u64,
    /// Until then, in store time, a scope that the store does not know is
    /// [`Error::Corrupt`](crate::Error::Corrupt). `None` where the hint file names every response
    /// of the segment: those scopes alone are, until the segment expires.
    pub until: Option<SystemTime>,
}
