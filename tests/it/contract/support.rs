//! A small world to test in: a simulated disk, clocks moved by hand, an executor, and a gate that
//! holds syncs back and can be out of room.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use oncelog::{
    Background, Claim, Clock, Conflict, Durability, Fingerprint, InProgress, ManualClock, Options,
    Orphan, Permit, Scope, Status, Store, Stored,
};

use crate::support::disk::SimDisk;
use crate::support::intercept::{Intercept, Intercepted, Target};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3_600);
pub(crate) const TTL: Duration = Duration::from_secs(30 * 24 * 3_600);
pub(crate) const BUCKET: Duration = DAY;
pub(crate) const LEASE: Duration = Duration::from_secs(60);
pub(crate) const SEGMENT_BYTES: u64 = 64 * 1024;
pub(crate) const BUFFERED: Durability =
    Durability::Buffered { sync_every: Duration::from_secs(3_600) };

/// A test that waits longer than this for something to happen has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/v1/contacts", key }
}

pub(crate) fn body() -> Fingerprint {
    Fingerprint::of(b"the request")
}

pub(crate) fn other_body() -> Fingerprint {
    Fingerprint::of(b"another request")
}

/// A disk and a clock that outlive the stores opened on them.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) clock: ManualClock,
}

impl World {
    pub(crate) fn new() -> World {
        World { disk: SimDisk::new(), clock: ManualClock::at(start()) }
    }

    /// Small segments, and nothing happens between calls.
    pub(crate) fn options(&self) -> Options {
        Store::options()
            .segment_bytes(SEGMENT_BYTES)
            .ttl(TTL)
            .bucket(BUCKET)
            .lease(LEASE)
            .background(Background::Inline)
            .clock(self.clock.clone())
    }

    pub(crate) fn open(&self) -> Store {
        self.open_with(self.options())
    }

    pub(crate) fn open_with(&self, options: Options) -> Store {
        options.open_on(Arc::new(self.disk.clone())).expect("the store opens")
    }

    /// The same world on another disk.
    pub(crate) fn on(&self, disk: SimDisk) -> World {
        World { disk, clock: self.clock.clone() }
    }
}

/// The beginning of a day, and so of a bucket.
pub(crate) fn start() -> SystemTime {
    UNIX_EPOCH + 19_675 * DAY
}

pub(crate) fn claim(store: &Store, key: &str) -> Claim {
    store.claim(scope(key), body()).expect("the claim has an outcome")
}

pub(crate) fn granted(claim: Claim) -> Permit {
    let Claim::Granted(permit) = claim else { panic!("not granted: {claim:?}") };
    permit
}

pub(crate) fn replay(claim: Claim) -> Stored {
    let Claim::Replay(stored) = claim else { panic!("not replayed: {claim:?}") };
    stored
}

pub(crate) fn in_progress(claim: Claim) -> InProgress {
    let Claim::InProgress(running) = claim else { panic!("not in progress: {claim:?}") };
    running
}

pub(crate) fn conflict(claim: Claim) -> Conflict {
    let Claim::Conflict(conflict) = claim else { panic!("no conflict: {claim:?}") };
    conflict
}

pub(crate) fn orphaned(claim: Claim) -> Orphan {
    let Claim::Orphaned(orphan) = claim else { panic!("not orphaned: {claim:?}") };
    orphan
}

/// Claims and completes.
pub(crate) fn run(store: &Store, key: &str, response: &[u8]) -> Stored {
    granted(claim(store, key)).complete(response).expect("the completion is stored")
}

/// The kind of what a scope holds.
pub(crate) fn kind(store: &Store, key: &str) -> &'static str {
    match store.lookup(scope(key)).expect("a lookup has an outcome") {
        None => "free",
        Some(Status::InProgress(_)) => "in progress",
        Some(Status::Completed(_)) => "completed",
        Some(Status::Orphaned(_)) => "orphaned",
    }
}

/// Calls until it is true; other threads make it so.
pub(crate) fn until(mut is_true: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_true() {
        assert!(began.elapsed() < PATIENCE, "it never came true");
        std::thread::yield_now();
    }
}

/// A waker that counts.
#[derive(Default)]
pub(crate) struct Woken {
    count: Mutex<u64>,
    changed: Condvar,
}

impl Woken {
    pub(crate) fn new() -> Arc<Woken> {
        Arc::default()
    }

    pub(crate) fn count(&self) -> u64 {
        *lock(&self.count)
    }

    /// Waits for a wake-up beyond the first `seen`.
    pub(crate) fn wait_past(&self, seen: u64) {
        let count = lock(&self.count);
        let waited = self.changed.wait_timeout_while(count, PATIENCE, |count| *count <= seen);
        let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        assert!(!timeout.timed_out(), "the future was never woken");
    }

    pub(crate) fn poll<F: Future + Unpin>(self: &Arc<Woken>, future: &mut F) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(self));
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        *lock(&self.count) += 1;
        self.changed.notify_all();
    }
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let woken = Woken::new();
    let waker = Waker::from(Arc::clone(&woken));
    loop {
        let seen = woken.count();
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => woken.wait_past(seen),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock that counts how often it is read, and can stop whoever makes one of the readings.
#[derive(Clone)]
pub(crate) struct StallClock {
    clock: ManualClock,
    readings: Arc<AtomicU64>,
    stall: Arc<Mutex<Option<Stall>>>,
}

struct Stall {
    reading: u64,
    came: Sender<()>,
    go: Receiver<()>,
}

impl StallClock {
    pub(crate) fn new(clock: ManualClock) -> StallClock {
        StallClock { clock, readings: Arc::default(), stall: Arc::default() }
    }

    pub(crate) fn readings(&self) -> u64 {
        self.readings.load(Ordering::SeqCst)
    }

    /// Stops the reader after so many more readings: it says so, and waits to be let go.
    pub(crate) fn stall_after(&self, more: u64) -> (Receiver<()>, Sender<()>) {
        let (came, has_come) = channel();
        let (let_go, go) = channel();
        *lock(&self.stall) = Some(Stall { reading: self.readings() + more, came, go });
        (has_come, let_go)
    }
}

impl Clock for StallClock {
    fn wall(&self) -> SystemTime {
        let reading = self.readings.fetch_add(1, Ordering::SeqCst);
        let now = self.clock.wall();
        let stall = lock(&self.stall).take_if(|stall| stall.reading == reading);
        if let Some(Stall { came, go, .. }) = stall {
            came.send(()).ok();
            go.recv().ok();
        }
        now
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn moves_by_hand(&self) -> bool {
        true
    }
}

/// A simulated disk whose syncs of files can be held back, and which can be full.
pub(crate) type GateDisk = Intercepted<Gate>;

#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    blocked: usize,
    full: bool,
    /// The names of the threads that asked for room and got none.
    refused: BTreeSet<String>,
}

/// The gate is closed until this is dropped.
pub(crate) struct Held(Arc<Gate>);

impl Held {
    /// Waits until a sync has come to the gate.
    pub(crate) fn await_sync(&self) {
        let state = lock(&self.0.state);
        let waited = self.0.changed.wait_timeout_while(state, PATIENCE, |s| s.blocked == 0);
        let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(guard);
        assert!(!timeout.timed_out(), "nobody came to sync");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.0.state).closed = false;
        self.0.changed.notify_all();
    }
}

impl GateDisk {
    pub(crate) fn on(disk: &SimDisk) -> GateDisk {
        Intercepted::new(disk, Gate::default())
    }

    pub(crate) fn hold(&self) -> Held {
        lock(&self.by.state).closed = true;
        Held(Arc::clone(&self.by))
    }

    /// Nothing more can be allocated until there is room again.
    pub(crate) fn fill(&self) {
        lock(&self.by.state).full = true;
    }

    pub(crate) fn make_room(&self) {
        lock(&self.by.state).full = false;
    }

    /// Waits until this thread has been refused room.
    pub(crate) fn await_refusal_of(&self, thread: &str) {
        until(|| lock(&self.by.state).refused.contains(thread));
    }
}

impl Intercept for Gate {
    fn allocate(&self, target: Target<'_>, range: Range<u64>) -> io::Result<()> {
        let mut state = lock(&self.state);
        if state.full {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            state.refused.insert(name);
            return Err(io::ErrorKind::StorageFull.into());
        }
        drop(state);
        target.file.allocate(range)
    }

    /// Comes to the gate when it has synced: what is written while it is held there is not part
    /// of this sync.
    fn sync(&self, target: Target<'_>) -> io::Result<()> {
        let synced = target.file.sync();
        let mut state = lock(&self.state);
        state.blocked += 1;
        self.changed.notify_all();
        while state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.blocked -= 1;
        synced
    }
}
