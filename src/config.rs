//! What a store is told when it opens, and the only gate that checks it.

use std::time::Duration;

use crate::clock::duration_ms;
use crate::error::{Error, Result};
use crate::location::Location;

/// When an acknowledgement is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After the record is on stable storage. Nothing acknowledged is lost, by kill or power cut.
    Synced,
    /// After the record is in the page cache. Nothing acknowledged is lost when the process dies,
    /// at any instruction; a power cut takes at most the acknowledgements of the last
    /// `sync_every`, always a suffix, and never makes a token or operation id come twice.
    Buffered {
        /// From 1 ms to 1 hour. The sync starts at half of it in the background, and callers wait
        /// rather than let the time grow.
        sync_every: Duration,
    },
}

/// What [`Store::claim`](crate::Store::claim) answers for an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanPolicy {
    /// [`Claim::Orphaned`](crate::Claim::Orphaned): the caller decides.
    Report,
    /// The caller takes it over: at least once after a crash.
    Rerun,
}

/// Whether an empty directory becomes a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// The directory and the store are created where there is none.
    IfMissing,
    /// A directory without a store is [`Error::Missing`]: a volume that was not mounted must not
    /// open empty.
    Never,
}

/// How records are read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Through read-only maps: no system call a replay. A device error arrives as a signal.
    Mapped,
    /// By positioned reads: a device error is [`Error::Io`].
    Positioned,
}

/// What [`Options::open`](crate::Options::open) does about a segment that is damaged or missing.
/// See [`Options::on_damage`](crate::Options::on_damage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Nothing: the open is [`Error::Corrupt`], and every file stays as it is.
    Refuse,
    /// The segment is put in quarantine, and the store opens without what cannot be read of it.
    Quarantine,
}

/// Who does the work that no caller waits for.
#[expect(clippy::manual_non_exhaustive, reason = "the hidden one is for tests, which name it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Threads: one commits for async callers and syncs, one allocates, one writes hints and drops
    /// segments, and one scrubs where that is asked for.
    Threads,
    /// The calls themselves, before they return. Nothing happens between calls, which makes a run
    /// repeatable; a future then blocks the thread that polls it while it commits.
    Inline,
    /// As `Inline`, but what futures stage waits for the next call that commits, so that a test
    /// decides which records share a batch.
    #[doc(hidden)]
    Stepped,
}

/// A step of a long call, reported to [`Options::progress`](crate::Options::progress).
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Segments done.
    pub done: u64,
    /// Segments in all.
    pub total: u64,
}

/// What a long-running call is doing.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the hints of sealed segments, or the segments themselves where a hint is missing.
    Loading,
    /// Reading the segments that were not sealed, in full.
    Scanning,
    /// Reading and checking every segment, for [`Store::verify`](crate::Store::verify), or for the
    /// check that ends a [`Store::backup`](crate::Store::backup).
    Verifying,
    /// Linking or copying segments, for [`Store::backup`](crate::Store::backup).
    Copying,
}

/// Every option, checked.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) create: Create,
    pub(crate) wait_for_owner: Duration,
    pub(crate) ttl: Duration,
    pub(crate) bucket: Option<Duration>,
    pub(crate) lease: Duration,
    pub(crate) durability: Durability,
    pub(crate) on_orphan: OrphanPolicy,
    pub(crate) segment_bytes: u64,
    pub(crate) disk_budget_bytes: u64,
    pub(crate) open_claims_per_organization_max: Option<u32>,
    pub(crate) response_bytes_max: Option<u32>,
    pub(crate) expected_keys: u64,
    pub(crate) reads: Reads,
    pub(crate) background: Background,
    pub(crate) scrub_bytes_per_second: Option<u64>,
    pub(crate) on_damage: OnDamage,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            create: Create::IfMissing,
            wait_for_owner: Duration::ZERO,
            ttl: Duration::from_secs(30 * 24 * 3600),
            bucket: None,
            lease: Duration::from_secs(60),
            durability: Durability::Synced,
            on_orphan: OrphanPolicy::Report,
            segment_bytes: Location::SEGMENT_BYTES_MAX,
            disk_budget_bytes: u64::MAX,
            open_claims_per_organization_max: None,
            response_bytes_max: None,
            expected_keys: 0,
            reads: Reads::Mapped,
            background: Background::Threads,
            scrub_bytes_per_second: None,
            on_damage: OnDamage::Refuse,
        }
    }
}

impl Config {
    pub(crate) const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
    /// A record may take this much beside its response in the same quarter of a segment.
    pub(crate) const RECORD_BYTES_EXTRA: u64 = 8 * 1024;
    const BUCKET_MIN: Duration = Duration::from_millis(10);
    const YEARS_100: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    const EXPECTED_KEYS_MAX: u64 = 10_000_000_000;

    /// The first option that can never work, if there is one.
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |what| Err(Error::Invalid { what });
        let second = Duration::from_secs(1);
        if !(second..=Self::YEARS_100).contains(&self.ttl) {
            return invalid("ttl must be from 1 second to 100 years");
        }
        if self.bucket.is_some_and(|bucket| !(Self::BUCKET_MIN..=self.ttl).contains(&bucket)) {
            return invalid("bucket must be from 10 milliseconds to the ttl");
        }
        let ms = Duration::from_millis(1);
        if !(ms..=Self::YEARS_100).contains(&self.lease) {
            return invalid("lease must be from 1 millisecond to 100 years");
        }
        if let Durability::Buffered { sync_every } = self.durability
            && !(ms..=Duration::from_secs(3600)).contains(&sync_every)
        {
            return invalid("sync_every must be from 1 millisecond to 1 hour");
        }
        let sizes = Self::SEGMENT_BYTES_MIN..=Location::SEGMENT_BYTES_MAX;
        if !sizes.contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4096) {
            return invalid("segment_bytes must be a multiple of 4096 from 64 KiB to 64 MiB");
        }
        self.check_budget(self.segment_bytes)?;
        if self.scrub_bytes_per_second == Some(0) {
            return invalid("scrub_bytes_per_second must be at least 1");
        }
        if self.open_claims_per_organization_max == Some(0) {
            return invalid("open_claims_per_organization_max must be at least 1");
        }
        if self.response_bytes_max.is_some_and(|bytes| bytes > self.response_bytes_limit()) {
            return invalid("response_bytes_max + 8 KiB must fit into a quarter of segment_bytes");
        }
        if self.expected_keys > Self::EXPECTED_KEYS_MAX {
            return invalid("expected_keys must be at most 10,000,000,000");
        }
        Ok(())
    }

    /// Below that nothing could be claimed until the one segment that there is has expired.
    pub(crate) fn check_budget(&self, segment_bytes: u64) -> Result<()> {
        if self.disk_budget_bytes < 2 * segment_bytes {
            let what = "disk_budget_bytes must be at least two segments";
            return Err(Error::Invalid { what });
        }
        Ok(())
    }

    pub(crate) fn bucket(&self) -> Duration {
        self.bucket.unwrap_or(self.ttl / 30)
    }

    pub(crate) fn response_bytes_max(&self) -> u32 {
        self.response_bytes_max.unwrap_or_else(|| self.response_bytes_limit().min(1 << 20))
    }

    /// What fits into a quarter of a segment, so that carried claims and bodies never fill one.
    fn response_bytes_limit(&self) -> u32 {
        u32::try_from(self.segment_bytes / 4 - Self::RECORD_BYTES_EXTRA).unwrap_or(u32::MAX)
    }

    pub(crate) fn ttl_ms(&self) -> u64 {
        duration_ms(self.ttl)
    }

    pub(crate) fn bucket_ms(&self) -> u64 {
        duration_ms(self.bucket()).max(1)
    }

    /// How long after the last expiry a segment is kept, against small clock differences.
    pub(crate) fn grace_ms(&self) -> u64 {
        (self.bucket_ms() / 10).min(3_600_000)
    }
}
