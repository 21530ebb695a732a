//! The public handle of a store, and the options that open one.

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::backup::{self, Backup, Target};
use crate::claim::{Claim, Orphan};
use crate::clock::{Clock, SystemClock, from_ms};
use crate::config::{
    Background, Config, Create, Durability, OnDamage, OrphanPolicy, Progress, Reads,
};
use crate::engine::Engine;
use crate::engine::admit::{Admitted, Caller};
use crate::engine::outcome::{Answer, OrphanInfo, Status};
use crate::error::{Error, Result};
use crate::expiry::Expired;
use crate::future::{ClaimFuture, LookupFuture, Waits};
use crate::recovery::recover;
use crate::recovery::view::Indexed;
use crate::scan::Scan;
use crate::scope::{Fingerprint, Scope};
use crate::snapshot::Snapshot;
use crate::stats::{CommitLatency, Recovery, SegmentInfo, Stats};
use crate::storage::Storage;
use crate::storage::disk::{Appends, DiskStorage, LOCK};
use crate::sync::{Mutex, Signal};
use crate::verify::{Damage, Verification};
use crate::worker::{self, Workers};

/// A handle on an open store. Clones share it; the drop of the last one closes it.
///
/// ```
/// use oncelog::{Claim, Fingerprint, Scope, Store};
///
/// # let dir = tempfile::tempdir()?;
/// let store = Store::open(dir.path())?;
/// let (method, path, key) = ("POST", "/v1/contacts", "import-1");
/// let scope = Scope { organization: "acme", method, path, key };
/// let fingerprint = Fingerprint::of(b"the request's body");
/// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
/// permit.complete(b"201 created")?;
/// let Claim::Replay(stored) = store.claim(scope, fingerprint)? else { unreachable!() };
/// assert_eq!(stored.bytes(), Some(&b"201 created"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Store(Arc<Handle>);

struct Handle {
    engine: Arc<Engine>,
    workers: Option<Workers>,
    // LOCK: directory (a leaf)
    directory: Mutex<Option<Box<dyn Any + Send + Sync>>>,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl Store {
    /// Opens the store in a directory with all defaults, creating both where there is none.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Store> {
        Options::default().open(dir)
    }

    /// A builder for everything that can be chosen.
    pub fn options() -> Options {
        Options::default()
    }

    /// Claims a scope: however many callers claim it at once, one is granted.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// assert_eq!(store.claim(scope, fingerprint)?.kind(), "in_progress");
    /// permit.release()?;
    /// assert_eq!(store.claim(scope, fingerprint)?.kind(), "granted");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` or `TooLarge` for the scope; `Full` where there is no room for another claim;
    /// `Corrupt` where the record of this scope is damaged; `Poisoned`, `Io`, `Closed`.
    pub fn claim(&self, scope: Scope<'_>, fingerprint: Fingerprint) -> Result<Claim> {
        let engine = &self.0.engine;
        let keyed = engine.keyed(scope)?;
        let caller = Caller::BLOCKING;
        let admitted = engine.admit(&keyed, fingerprint, &caller)?;
        Claim::settle(engine, admitted)
    }

    /// Claims many scopes with one commit, for importers: each gets the claim that
    /// [`Store::claim`] would have given it, in order. A scope that comes twice is in progress the
    /// second time.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// let rows = [("row-1", "Avery"), ("row-2", "Robin")];
    /// let requests = rows.map(|(key, body)| {
    ///     let scope = Scope { organization: "acme", method: "POST", path: "/contacts", key };
    ///     (scope, Fingerprint::of(body.as_bytes()))
    /// });
    /// for claim in store.claim_many(&requests) {
    ///     if let Claim::Granted(permit) = claim? {
    ///         permit.complete(b"201 created")?;
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Each answer has its own, as of [`Store::claim`]. Where the commit fails, no new claim is
    /// granted.
    pub fn claim_many(&self, requests: &[(Scope<'_>, Fingerprint)]) -> Vec<Result<Claim>> {
        let engine = &self.0.engine;
        let admitted = engine.admit_many(requests).into_iter();
        admitted.map(|answer| Claim::settle(engine, answer?)).collect()
    }

    /// Claims a scope, and where the operation runs already waits for it, for at most `limit`
    /// of the clock's monotonic time; then the answer is [`Claim::InProgress`].
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// use std::time::Duration;
    ///
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// let retry = {
    ///     let store = store.clone();
    ///     let limit = Duration::from_secs(60);
    ///     std::thread::spawn(move || store.claim_or_wait(scope, fingerprint, limit))
    /// };
    /// permit.complete(b"201 created")?;
    /// assert_eq!(retry.join().unwrap()?.kind(), "replay");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::claim`].
    pub fn claim_or_wait(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        limit: Duration,
    ) -> Result<Claim> {
        let engine = &self.0.engine;
        let keyed = engine.keyed(scope)?;
        let give_up_at = engine.clock.monotonic().saturating_add(limit);
        let mut woken: Option<Arc<Signal>> = None;
        loop {
            let signal = Arc::<Signal>::default();
            let caller = Caller { signal: Some(&signal), ..Caller::BLOCKING };
            let admitted = engine.admit(&keyed, fingerprint, &caller);
            if let Some(woken) = woken.take() {
                engine.leave(keyed.hash, &woken);
            }
            let running = match admitted? {
                Admitted::Answer(Answer::InProgress(running)) => running,
                admitted => return Claim::settle(engine, admitted),
            };
            let now = engine.clock.monotonic();
            if now >= give_up_at {
                engine.leave(keyed.hash, &signal);
                return Ok(Claim::InProgress(running));
            }
            // A claim that is not durable yet has no deadline; its lease is not over before this.
            let lapses_at = engine.deadline(keyed.hash, running.token).unwrap_or(Duration::MAX);
            let look_at = lapses_at.min(now.saturating_add(engine.config.lease));
            signal.wait_for(give_up_at.min(look_at).saturating_sub(now));
            engine.leave(keyed.hash, &signal);
            woken = Some(signal);
        }
    }

    /// [`Store::claim`] as a future, `Send + 'static`, for any executor.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// if let Claim::Granted(permit) = store.claim_async(scope, fingerprint).await? {
    ///     permit.complete_async(b"201 created").await?;
    /// }
    /// # Ok::<(), oncelog::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn claim_async(&self, scope: Scope<'_>, fingerprint: Fingerprint) -> ClaimFuture {
        ClaimFuture::claim(&self.0.engine, scope, fingerprint, Waits::No)
    }

    /// [`Store::claim_or_wait`] as a future without a limit; dropping it stops the waiting.
    pub fn claim_or_wait_async(&self, scope: Scope<'_>, fingerprint: Fingerprint) -> ClaimFuture {
        ClaimFuture::claim(&self.0.engine, scope, fingerprint, Waits::Yes)
    }

    /// What a scope holds; never claims it. `None` where it is free.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// use oncelog::Status;
    ///
    /// assert!(store.lookup(scope)?.is_none());
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// permit.complete(b"201 created")?;
    /// let Some(Status::Completed(stored)) = store.lookup(scope)? else { unreachable!() };
    /// assert_eq!(stored.bytes(), Some(&b"201 created"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Store::claim`], but for `Full`.
    pub fn lookup(&self, scope: Scope<'_>) -> Result<Option<Status>> {
        let keyed = self.0.engine.keyed(scope)?;
        self.0.engine.look_up(&keyed)
    }

    /// What many scopes hold, in order; never claims one. Faster than one [`Store::lookup`] after
    /// the other, since their memory accesses overlap.
    ///
    /// # Errors
    /// Each answer has its own, as of [`Store::lookup`].
    pub fn lookup_many(&self, scopes: &[Scope<'_>]) -> Vec<Result<Option<Status>>> {
        self.0.engine.look_up_many(scopes)
    }

    /// [`Store::lookup`] as a future.
    pub fn lookup_async(&self, scope: Scope<'_>) -> LookupFuture {
        LookupFuture::new(&self.0.engine, scope)
    }

    /// Every orphan, oldest first.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// drop(permit); // Nobody says how the operation ended.
    /// let orphans = store.unresolved()?;
    /// assert_eq!((orphans.len(), orphans[0].key()), (1, "k"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Closed`.
    pub fn unresolved(&self) -> Result<Vec<OrphanInfo>> {
        let orphans = self.0.engine.unresolved()?;
        Ok(orphans.into_iter().map(|open| OrphanInfo { open }).collect())
    }

    /// The orphan of a scope, if it is one.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// let operation = permit.operation();
    /// drop(permit);
    /// // The operation id, looked up in the caller's own database, says that it ran.
    /// let orphan = store.orphan(scope)?.expect("its permit was dropped");
    /// assert_eq!(orphan.info().operation(), operation);
    /// orphan.resolve(b"201 created")?;
    /// assert_eq!(store.claim(scope, fingerprint)?.kind(), "replay");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` or `TooLarge` for the scope; `Closed`.
    pub fn orphan(&self, scope: Scope<'_>) -> Result<Option<Orphan>> {
        let engine = &self.0.engine;
        let keyed = engine.keyed(scope)?;
        Ok(engine.orphan(&keyed)?.map(|open| Orphan::new(engine, open)))
    }

    /// Drops what is past: orphans that nobody resolved for a whole ttl, and segments in which
    /// everything is past, by unlinking them. Also runs by itself, unless the clock moves by hand.
    ///
    /// ```
    /// use oncelog::{Claim, Fingerprint, ManualClock, Scope, Store};
    /// use std::time::{Duration, SystemTime};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let clock = ManualClock::at(SystemTime::now());
    /// let store = Store::options().clock(clock.clone()).open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// permit.complete(b"201 created")?;
    /// clock.advance(Duration::from_secs(31 * 24 * 3600));
    /// assert_eq!(store.expire()?.segments, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Poisoned`, `Io`, `Closed`, `Full` where the next segment cannot be made.
    pub fn expire(&self) -> Result<Expired> {
        worker::expire(&self.0.engine)
    }

    /// Erases what is stored of a scope, so that it is as if it had never been claimed: gone for
    /// every reader, and overwritten on disk when the call returns, with the claims and checkpoints
    /// that led to it. `false` where nothing is stored, and for a claim that is open (running or an
    /// orphan: that is to be ended first).
    ///
    /// It reads the segments, of at most 64 MiB each, from the first claim to the completion. What
    /// no index names goes with its segment: claims that were released, responses that had expired
    /// and were replaced.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where damage is in the way, [`Error::Full`] where there is no room to say
    /// so in the log: the response is still there then. [`Error::Io`] and [`Error::Poisoned`]
    /// leave it in doubt; the next open finishes what had begun. [`Error::TooLarge`],
    /// [`Error::Invalid`], [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> oncelog::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// use oncelog::{Claim, Fingerprint, Scope, Store};
    ///
    /// let store = Store::open(dir.path())?;
    /// let scope = Scope { organization: "acme", method: "POST", path: "/orders", key: "k-1" };
    /// let claim = store.claim(scope, Fingerprint::of(b"body"))?;
    /// let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
    /// assert!(!store.forget(scope)?, "a claim that is open is not forgotten");
    /// permit.complete(b"created")?;
    /// assert!(store.forget(scope)?);
    /// assert!(store.lookup(scope)?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn forget(&self, scope: Scope<'_>) -> Result<bool> {
        let engine = &self.0.engine;
        engine.forget(&engine.keyed(scope)?)
    }

    /// The same for everything of an organization that had ended before the call; open claims are
    /// kept. Reads the whole store, a segment at a time. Returns how many responses there were that
    /// could still be replayed.
    ///
    /// # Errors
    /// As [`forget`](Store::forget). What was erased before the error stays erased, and another
    /// call goes on from there.
    pub fn forget_organization(&self, organization: &str) -> Result<u64> {
        self.0.engine.forget_organization(organization)
    }

    /// Makes everything acknowledged so far durable, whatever the durability mode.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// store.sync()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Poisoned`, `Io`, `Closed`.
    pub fn sync(&self) -> Result<()> {
        self.0.engine.sync()
    }

    /// Reads every live byte of the store and checks it: all segments, their hint files, `SUPER`
    /// and `CHECKPOINT`. Calls go on meanwhile; what they append or drop while this runs is no
    /// damage. One segment is in memory at a time. A poisoned store can be verified too.
    ///
    /// A damaged hint file costs no data: it is made again from its segment.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// permit.complete(b"201 created")?;
    /// let found = store.verify()?;
    /// assert!(found.is_clean(), "{:?}", found.damage);
    /// assert_eq!((found.segments, found.records), (1, 2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Io` where a file cannot be opened; `Closed`. Damage is not an error here but the answer.
    pub fn verify(&self) -> Result<Verification> {
        worker::verify(&self.0.engine, &*self.0.progress)
    }

    /// Copies the store, while it is used, to a directory that is new or empty, and verifies the
    /// copy. It opens as the store was at one instant during the call: everything acknowledged
    /// before the call is in it, and claims that were open are orphans in it.
    ///
    /// Sealed segments are hard-linked where the file system allows that, and copied where not;
    /// [`Store::expire`] waits for that. The files are synced, and readable by their owner alone. A
    /// backup that was interrupted, or that failed its verification, has no `SUPER` and opens as
    /// `Corrupt`; remove it. A directory that is new appears under its name with a file in it, so
    /// that it is never an empty one that would open as an empty store; one that was there, empty,
    /// is as it was where the machine stops before the first file is in it.
    ///
    /// # Before a backup is used in place of the store
    /// - The caller's database can know more than the backup does: what ran since is not in it and
    ///   is granted again. A hash of the scope ([`Scope::digest`]) as a unique column beside the
    ///   effect covers that; the operation id alone does not, since an operation that is claimed
    ///   again gets a new one.
    /// - Operation ids never repeat. Tokens may: those that the store issued after the backup are
    ///   issued again by the copy. Whatever fences by tokens alone must be reset.
    /// - Linked segments are the same files as the store's. What is erased in one is erased in the
    ///   other, and both stay sound. To run a backup beside the store, copy its directory first.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let (main, copy) = (dir.path().join("main"), dir.path().join("copy"));
    /// # let store = Store::open(&main)?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// permit.complete(b"201 created")?;
    /// store.backup(&copy)?;
    /// let restored = Store::open(&copy)?;
    /// assert_eq!(restored.claim(scope, fingerprint)?.kind(), "replay");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` where the directory is not empty; `Corrupt` where the store, or what was copied,
    /// is damaged, or a segment is in quarantine; `Poisoned`, `Io`, `Closed`. Nothing is removed.
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<Backup> {
        let dir = dir.as_ref();
        self.0.engine.check_closed()?;
        let storage = DiskStorage::create_with(dir, backup::MARK, backup::MARK_BYTES);
        let storage = storage.map_err(Error::io("create the directory of a backup"))?;
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let target = Target { storage: &storage, dir: Some(dir) };
        worker::backup(&self.0.engine, target, &*self.0.progress)
    }

    /// [`Store::backup`] to another [`Storage`], such as a simulated disk: every file is copied.
    ///
    /// # Errors
    /// As [`Store::backup`].
    pub fn backup_on(&self, storage: Arc<dyn Storage>) -> Result<Backup> {
        let target = Target { storage: &storage, dir: None };
        worker::backup(&self.0.engine, target, &*self.0.progress)
    }

    /// The operator's word that a jump of the wall clock is real: store time follows it at once.
    ///
    /// # Errors
    /// `Poisoned`, `Io`, `Closed`.
    pub fn accept_clock(&self) -> Result<()> {
        self.0.engine.accept_clock()
    }

    /// A snapshot of what the store holds and has counted.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let _permit = store.claim(scope, fingerprint)?;
    /// assert_eq!((store.stats().granted, store.stats().in_flight), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stats(&self) -> Stats {
        self.0.engine.stats()
    }

    /// How long the commits took since the store was opened.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let before = store.commit_latency();
    /// let _permit = store.claim(scope, fingerprint)?;
    /// let after = store.commit_latency();
    /// assert_eq!(after.count() - before.count(), 1);
    /// assert!(after.total() > before.total());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn commit_latency(&self) -> CommitLatency {
        self.0.engine.log.commit_latency()
    }

    /// The segments of the log, oldest first, and when what is in them expires. The last one is the
    /// tail.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// let stored = permit.complete(b"201 created")?;
    /// let segments = store.segments();
    /// assert_eq!((segments.len(), segments[0].responses), (1, 1));
    /// assert_eq!(segments[0].expires_at, Some(stored.expires_at()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.0.engine.log.list_segments()
    }

    /// The store's time, by which responses expire: the wall clock, but never backwards, and behind
    /// it while a jump is held ([`Stats::clock_held`]).
    pub fn time(&self) -> SystemTime {
        from_ms(self.0.engine.now().now_ms)
    }

    /// Whether the store takes new claims, as far as its files and its owner are concerned; a full
    /// disk is no error here. No I/O.
    ///
    /// # Errors
    /// `Poisoned` and `Closed`, for good.
    pub fn check_open(&self) -> Result<()> {
        self.0.engine.check_closed()?;
        self.0.engine.log.check_open()
    }

    /// What the scrub of [`Options::scrub_bytes_per_second`] knows to be damaged, by segment: at
    /// most 1,000 places of segments that are live. A damaged record is [`Error::Corrupt`] for its
    /// scope alone, and everything else goes on being served. Empty without a scrub.
    ///
    /// ```
    /// # use oncelog::Store;
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::options().scrub_bytes_per_second(1 << 20).open(dir.path())?;
    /// for damage in store.damage() {
    ///     eprintln!("segment {} at {}: {}", damage.segment, damage.offset, damage.what);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn damage(&self) -> Vec<Damage> {
        self.0.engine.scrub.damage()
    }

    /// How long a response is kept, from its completion on.
    pub fn ttl(&self) -> Duration {
        self.0.engine.config.ttl
    }

    /// When an acknowledgement is given.
    pub fn durability(&self) -> Durability {
        self.0.engine.config.durability
    }

    /// The largest response that is stored, in bytes.
    pub fn response_bytes_max(&self) -> u32 {
        self.0.engine.config.response_bytes_max()
    }

    /// What opening the store found and did.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// assert_eq!((store.recovery().epoch, store.recovery().cut), (1, None));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recovery(&self) -> &Recovery {
        &self.0.engine.recovery
    }

    /// Closes the store for every clone and permit; later calls answer `Closed`. The directory is
    /// free when this returns. Claims that are still open are orphans at the next open.
    ///
    /// ```
    /// # use oncelog::{Claim, Fingerprint, Scope, Store};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let clone = store.clone();
    /// store.close()?;
    /// assert!(matches!(clone.claim(scope, fingerprint), Err(oncelog::Error::Closed)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Closed` where it was closed before; `Poisoned` or `Io` where what was staged could not be
    /// made durable. The directory is free all the same.
    pub fn close(self) -> Result<()> {
        self.0.close()
    }
}

impl Handle {
    fn close(&self) -> Result<()> {
        // Only the caller who closes frees the directory: what it still writes belongs to it.
        let Some(closed) = self.engine.close() else { return Err(Error::Closed) };
        if let Some(workers) = &self.workers {
            workers.stop();
        }
        *self.directory.lock() = None;
        closed
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nobody is left to tell; what was acknowledged is as durable as it was said to be.
        self.close().ok();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("storage", &self.0.engine.storage).finish_non_exhaustive()
    }
}

/// What can be chosen when a store is opened. Each setter says its unit, default and range; a value
/// outside is refused by [`Options::open`].
///
/// ```
/// use oncelog::{Create, Durability, Store};
/// use std::time::Duration;
///
/// # let dir = tempfile::tempdir()?;
/// # Store::open(dir.path())?.close()?;
/// let store = Store::options()
///     .create(Create::Never)
///     .ttl(Duration::from_secs(7 * 24 * 3600))
///     .durability(Durability::Buffered { sync_every: Duration::from_millis(100) })
///     .open(dir.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "options open nothing by themselves"]
#[derive(Clone)]
pub struct Options {
    config: Config,
    clock: Arc<dyn Clock>,
    progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            config: Config::default(),
            clock: Arc::new(SystemClock),
            progress: Arc::new(|_| {}),
        }
    }
}

impl Options {
    /// Whether an empty directory becomes a store. Default: [`Create::IfMissing`].
    pub fn create(mut self, create: Create) -> Self {
        self.config.create = create;
        self
    }

    /// How long a response is kept, from its completion on. Default: 30 days; 1 second to 100
    /// years. A later change touches later completions only.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// The span of time whose responses share a segment: what expires is unlinked at most this
    /// much later. Default: ttl / 30; 10 milliseconds to the ttl.
    pub fn bucket(mut self, bucket: Duration) -> Self {
        self.config.bucket = Some(bucket);
        self
    }

    /// How long a claim may stay silent before it counts as an orphan. Guards against hangs only:
    /// a crash is known at reopen. Default: 60 seconds; 1 millisecond to 100 years.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// When an acknowledgement is given. Default: [`Durability::Synced`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// What a claim of an orphan's scope gets. Default: [`OrphanPolicy::Report`].
    pub fn on_orphan(mut self, policy: OrphanPolicy) -> Self {
        self.config.on_orphan = policy;
        self
    }

    /// How long an open waits, in real time, for whoever has the store open to close it or to die:
    /// a new process starts while the old one ends its work, and goes on the instant that the
    /// store is closed. An open blocks its thread so long. Default: zero, which is
    /// [`Error::AlreadyOpen`] at once.
    pub fn wait_for_owner(mut self, patience: Duration) -> Self {
        self.config.wait_for_owner = patience;
        self
    }

    /// The size of a segment's file, fixed when the store is created. Default and maximum: 64 MiB;
    /// a multiple of 4,096 bytes, at least 64 KiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.config.segment_bytes = bytes;
        self
    }

    /// How many bytes of disk the store may take, segments and their hint files counted: past it
    /// new claims are [`Error::Full`], and nothing else is. Responses of claims that were granted
    /// are kept, so it can be exceeded by those, and by at most 64 KiB of blocks ahead of them.
    /// Room comes back as segments expire. Default: none; at least two segments.
    pub fn disk_budget_bytes(mut self, bytes: u64) -> Self {
        self.config.disk_budget_bytes = bytes;
        self
    }

    /// How many claims of one organization may be open at once, orphans included, so that one
    /// tenant cannot take the room of all: a further claim is [`Error::Full`]. Default: no bound;
    /// at least 1. Those that an earlier process left open count too, and are kept in any number.
    pub fn open_claims_per_organization_max(mut self, claims: u32) -> Self {
        self.config.open_claims_per_organization_max = Some(claims);
        self
    }

    /// The largest response that is stored. Default: 1 MiB, or what fits into small segments; with
    /// 8 KiB more it must fit into a quarter of a segment.
    pub fn response_bytes_max(mut self, bytes: u32) -> Self {
        self.config.response_bytes_max = Some(bytes);
        self
    }

    /// How many keys will be live at once, to size the index. Default: 0, it grows as needed; at
    /// most 10,000,000,000.
    pub fn expected_keys(mut self, keys: u64) -> Self {
        self.config.expected_keys = keys;
        self
    }

    /// How records are read back. Default: [`Reads::Mapped`].
    pub fn reads(mut self, reads: Reads) -> Self {
        self.config.reads = reads;
        self
    }

    /// Who does the work that no caller waits for. Default: [`Background::Threads`].
    pub fn background(mut self, background: Background) -> Self {
        self.config.background = background;
        self
    }

    /// What to do about a segment that is damaged or missing. Default: [`OnDamage::Refuse`]. Open
    /// with it first; where the answer is [`Error::Corrupt`], try to get the file back (from a
    /// backup, from a disk that was unplugged), and keep a copy of the directory as it is.
    ///
    /// Under [`OnDamage::Quarantine`] the store opens without what cannot be read, and
    /// [`Recovery::quarantined`] lists the segments that this is about:
    ///
    /// - *A sealed segment whose file is missing or has a bad header, and whose hint file is
    ///   sound:* the hint file names every response that was in it. Those that cannot be read are
    ///   [`Error::Corrupt`] until the segment expires, and nothing else is touched.
    /// - *Any other:* its records before and behind the bad places are served. Nobody knows which
    ///   scopes stood in the bad places, so **every scope that the store does not know answers
    ///   [`Error::Corrupt`], to claims too**, until everything that may have been there is past:
    ///   [`Stats::quarantined_until`]. That is when the segment behind it was begun (or this open,
    ///   where there is none) and the ttl more, or the longest time that any response known was
    ///   kept for, where that is longer. The ttl must not have been longer than that. Meanwhile
    ///   responses are replayed, and what was claimed can be completed. A claim whose end may have
    ///   been there is an orphan, which [`OrphanPolicy::Rerun`] does not run again by itself;
    ///   [`Store::unresolved`] lists only those that are known.
    ///
    /// Which segments are in quarantine, and until when, is kept in the file `QUARANTINE`, durable
    /// before the store opens, and holds for later opens under either option; store time alone
    /// ends it. No file of such a segment is ever deleted: where it would expire it is renamed to
    /// `<name>.quarantined`, which is for the operator to remove. Meanwhile [`Store::verify`]
    /// reports the damage, and [`Store::backup`] is [`Error::Corrupt`].
    ///
    /// A damaged `SUPER`, `CHECKPOINT` or `QUARANTINE` is [`Error::Corrupt`], and what the device
    /// refuses to read is [`Error::Io`], whatever is set here.
    ///
    /// ```
    /// # use oncelog::{OnDamage, Store};
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::options().on_damage(OnDamage::Quarantine).open(dir.path())?;
    /// for quarantined in &store.recovery().quarantined {
    ///     eprintln!("segment {} until {:?}", quarantined.segment, quarantined.until);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_damage(mut self, on_damage: OnDamage) -> Self {
        self.config.on_damage = on_damage;
        self
    }

    /// Lets a thread verify the sealed segments round and round, as [`Store::verify`] would, at so
    /// many bytes a second of real time at most, so that damage is known before it is asked for:
    /// [`Stats::damaged_records`], [`Store::damage`]. It reads 1 MiB at a time and has one segment,
    /// of at most 64 MiB, in memory. Default: none; at least 1. Without effect under
    /// [`Background::Inline`].
    ///
    /// A round takes the sealed segments' bytes, divided by this: at 1 MiB a second, 3 GiB take 50
    /// minutes.
    pub fn scrub_bytes_per_second(mut self, bytes: u64) -> Self {
        self.config.scrub_bytes_per_second = Some(bytes);
        self
    }

    /// Is called, on the calling thread, while a store is opened, verified or backed up. It has to
    /// return soon and must not call the store: during a backup expiry and erasure wait for it, and
    /// a `close` from there would wait for itself.
    pub fn progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Arc::new(tell);
        self
    }

    /// Where the store reads the time. Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Opens the store in a directory.
    ///
    /// # Errors
    /// `Invalid` for an option; `Missing` under [`Create::Never`]; `AlreadyOpen` where somebody has
    /// it open, and does not close it within [`Options::wait_for_owner`]; `Version` for a newer
    /// format; `Corrupt` where what was durable is damaged, with every file untouched
    /// ([`Options::on_damage`] says what can be done about it); `Io`.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Store> {
        self.config.check()?;
        let dir = dir.as_ref();
        let appends = match self.config.durability {
            Durability::Synced => Appends::Written,
            Durability::Buffered { .. } => Appends::Mapped,
        };
        let storage = match self.config.create {
            Create::IfMissing => {
                DiskStorage::create(dir, appends).map_err(Error::io("create a directory"))?
            }
            Create::Never => return self.open_in(existing(dir, appends)?, dir),
        };
        self.open_in(Arc::new(storage), dir)
    }

    /// Opens a store on another [`Storage`], such as a simulated disk.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open_on(self, storage: Arc<dyn Storage>) -> Result<Store> {
        self.config.check()?;
        self.open_in(storage, Path::new("the storage"))
    }

    /// Looks at the store in a directory without opening it: nothing in the directory is changed
    /// and nobody is kept from it, so a store can be looked at while another process has it open,
    /// on a file system that is mounted read-only, and in a copy. See [`Snapshot`].
    ///
    /// Of the options, `clock`, `ttl`, `lease` and `progress` have a meaning here. Reads are
    /// always positioned: a device error is an `Io`.
    ///
    /// ```
    /// use oncelog::{Claim, Fingerprint, Scope, Status, Store};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// # let scope = Scope { organization: "acme", method: "POST", path: "/v1", key: "k" };
    /// # let fingerprint = Fingerprint::of(b"body");
    /// let Claim::Granted(permit) = store.claim(scope, fingerprint)? else { unreachable!() };
    /// let snapshot = Store::options().open_read_only(dir.path())?;
    /// assert!(matches!(snapshot.lookup(scope)?, Some(Status::InProgress(_))));
    /// permit.complete(b"201 created")?;
    /// let snapshot = Store::options().open_read_only(dir.path())?;
    /// assert!(matches!(snapshot.lookup(scope)?, Some(Status::Completed(_))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Missing` where the directory is not there or holds no store; `Corrupt` as of
    /// [`Options::open`], `Version`, `Invalid`, `Io`.
    pub fn open_read_only(self, dir: impl AsRef<Path>) -> Result<Snapshot> {
        let dir = dir.as_ref();
        self.look_at(existing(dir, Appends::Written)?, dir, Indexed::Yes)
    }

    /// Looks at the store in a directory as [`Options::open_read_only`] does, but without an index
    /// of its responses, so that the memory which it takes does not grow with their number: for
    /// whoever lists, verifies or copies a store. See [`Scan`].
    ///
    /// ```
    /// # use oncelog::Store;
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path().join("store"))?;
    /// let scan = Store::options().scan_read_only(dir.path().join("store"))?;
    /// assert!(scan.verify()?.is_clean());
    /// assert_eq!(scan.entries().count(), 0);
    /// scan.backup(dir.path().join("backup"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Options::open_read_only`].
    pub fn scan_read_only(self, dir: impl AsRef<Path>) -> Result<Scan> {
        let dir = dir.as_ref();
        self.look_at(existing(dir, Appends::Written)?, dir, Indexed::No).map(Scan::new)
    }

    /// [`Options::scan_read_only`] of another [`Storage`], such as a simulated disk.
    ///
    /// # Errors
    /// As [`Options::open_read_only`].
    pub fn scan_read_only_on(self, storage: Arc<dyn Storage>) -> Result<Scan> {
        self.look_at(storage, Path::new("the storage"), Indexed::No).map(Scan::new)
    }

    /// [`Options::open_read_only`] of another [`Storage`], such as a simulated disk.
    ///
    /// # Errors
    /// As [`Options::open_read_only`].
    pub fn open_read_only_on(self, storage: Arc<dyn Storage>) -> Result<Snapshot> {
        self.look_at(storage, Path::new("the storage"), Indexed::Yes)
    }

    fn look_at(self, storage: Arc<dyn Storage>, dir: &Path, indexed: Indexed) -> Result<Snapshot> {
        self.config.check()?;
        let snapshot = Snapshot::take(storage, &self.config, self.clock, indexed, self.progress)?;
        snapshot.ok_or_else(|| Error::Missing { dir: dir.to_owned() })
    }

    fn open_in(self, storage: Arc<dyn Storage>, dir: &Path) -> Result<Store> {
        let missing = || Error::Missing { dir: dir.to_owned() };
        if self.config.create == Create::Never {
            let names = storage.list().map_err(Error::io("list the directory"))?;
            if names.iter().all(|name| name == LOCK) {
                return Err(missing());
            }
        }
        let locked = storage.lock_within(self.config.wait_for_owner);
        let directory = locked.map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Error::AlreadyOpen { dir: dir.to_owned() },
            _ => Error::io("lock the directory")(error),
        })?;
        let tell = &*self.progress;
        let clock = Arc::clone(&self.clock);
        let recovered = recover(Arc::clone(&storage), &self.config, clock, tell)?;
        let recovered = recovered.ok_or_else(missing)?;
        let background = self.config.background;
        let engine = Engine::new(self.config, self.clock, storage, recovered);
        let engine = Arc::new(engine);
        let weak = Arc::downgrade(&engine);
        engine.clock.on_change(Arc::new(move || {
            if let Some(engine) = weak.upgrade() {
                engine.wake_all();
            }
        }));
        let workers = match background {
            Background::Threads => Some(Workers::start(&engine)?),
            Background::Inline => None,
            Background::Stepped => {
                engine.log.set_helpers(Arc::new(worker::Absent));
                None
            }
        };
        let directory = Mutex::new(Some(directory));
        Ok(Store(Arc::new(Handle { engine, workers, directory, progress: self.progress })))
    }
}

/// The directory, which must be there.
fn existing(dir: &Path, appends: Appends) -> Result<Arc<dyn Storage>> {
    let storage = DiskStorage::existing(dir, appends).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { dir: dir.to_owned() },
        _ => Error::io("open the directory")(error),
    })?;
    Ok(Arc::new(storage))
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("config", &self.config).finish_non_exhaustive()
    }
}
