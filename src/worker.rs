//! The background threads: one commits for async callers and syncs in time, one makes room ahead
//! of the log, one does what no caller waits for, and one scrubs where that is asked for. The only
//! home of threads that stay. A panic while one commits, or prepares what callers wait for, poisons
//! the store through the log.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::backup::{self, Backup, Source, Target};
use crate::clock::real_monotonic;
use crate::config::Progress;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::expiry::{self, Expired};
use crate::log::number_of;
use crate::log::writer::Helpers;
use crate::parallel::Threads;
use crate::recovery::quarantine;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, thread};
use crate::verify::{self, Subject, Verification};

/// After this long without a commit the log promises that its last batch is durable.
const IDLE: Duration = Duration::from_secs(1);
/// How often an idle store writes the time down, so that a restart does not question the clock.
const MARK_EVERY: Duration = Duration::from_secs(3_600);
/// How soon a scrub that found no sealed segment looks again.
const SCRUB_AGAIN: Duration = Duration::from_secs(1);
/// The longest that the upkeep thread sleeps.
const UPKEEP_EVERY_MAX: Duration = Duration::from_secs(600);

/// What the threads are asked to do.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    // LOCK: bell (a leaf)
    state: Mutex<Asked>,
    for_commit: Condvar,
    for_blocks: Condvar,
    for_upkeep: Condvar,
    for_scrub: Condvar,
    for_start: Condvar,
    /// Something was committed since the committer last looked. `Release` by whoever committed,
    /// `Acquire` where it is taken.
    active: AtomicBool,
}

#[derive(Debug, Default)]
struct Asked {
    commit: bool,
    /// When the next timed look is due, in real time.
    due: Option<Duration>,
    blocks: bool,
    upkeep: bool,
    /// How many threads have begun.
    running: usize,
    stop: bool,
    /// When it is to be seen whether the log has gone quiet, in real time.
    quiet_at: Option<Duration>,
}

impl Helpers for Bell {
    fn commit_due(&self, due: Option<Duration>) {
        let mut asked = self.state.lock();
        match due {
            None => asked.commit = true,
            Some(due) => asked.due = Some(asked.due.map_or(due, |other| other.min(due))),
        }
        drop(asked);
        self.for_commit.notify_one();
    }

    fn blocks_due(&self) {
        self.state.lock().blocks = true;
        self.for_blocks.notify_one();
    }

    fn upkeep_due(&self) {
        self.state.lock().upkeep = true;
        self.for_upkeep.notify_one();
    }

    fn went_idle(&self) {
        // The first batch of a burst rings; those after it only say that it goes on.
        if !self.active.swap(true, Ordering::AcqRel) {
            self.state.lock().quiet_at.get_or_insert(real_monotonic() + IDLE);
            self.for_commit.notify_one();
        }
    }
}

/// Helpers who never come: what is staged waits for a caller who commits.
pub(crate) struct Absent;

impl Helpers for Absent {
    fn commit_due(&self, _: Option<Duration>) {}
    fn blocks_due(&self) {}
    fn upkeep_due(&self) {}
    fn went_idle(&self) {}
}

/// The threads of one store.
#[derive(Debug)]
pub(crate) struct Workers {
    bell: Arc<Bell>,
    // LOCK: threads (a leaf)
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Workers {
    /// Starts the threads, and returns when they run: what a thread takes from the system before
    /// it runs, it has by then, and an exhaustion that comes later cannot end the process in its
    /// start. They hold the engine weakly, so that they end with it.
    pub(crate) fn start(engine: &Arc<Engine>) -> Result<Workers> {
        let bell = Arc::new(Bell::default());
        engine.log.set_helpers(Arc::clone(&bell) as Arc<dyn Helpers>);
        let workers = Workers { bell: Arc::clone(&bell), threads: Mutex::default() };
        let (weak, rung) = (Arc::downgrade(engine), Arc::clone(&bell));
        workers.spawn("oncelog-commit", move || commit_loop(&weak, &rung))?;
        let (weak, rung) = (Arc::downgrade(engine), Arc::clone(&bell));
        let blocks = workers.spawn("oncelog-blocks", move || blocks_loop(&weak, &rung));
        blocks.inspect_err(|_| workers.stop())?;
        let weak = Arc::downgrade(engine);
        let rung = Arc::clone(&bell);
        let upkeep = workers.spawn("oncelog-upkeep", move || upkeep_loop(&weak, &rung));
        upkeep.inspect_err(|_| workers.stop())?;
        if let Some(rate) = engine.config.scrub_bytes_per_second {
            let weak = Arc::downgrade(engine);
            let scrub = workers.spawn("oncelog-scrub", move || scrub_loop(&weak, &bell, rate));
            scrub.inspect_err(|_| workers.stop())?;
        }
        workers.await_running();
        Ok(workers)
    }

    #[expect(clippy::disallowed_methods, reason = "the only home of threads")]
    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let builder = thread::Builder::new().name(name.to_owned());
        let bell = Arc::clone(&self.bell);
        let begin = move || {
            bell.state.lock().running += 1;
            bell.for_start.notify_one();
            run();
        };
        let thread = builder.spawn(begin).map_err(Error::io("start a thread"))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    fn await_running(&self) {
        let started = self.threads.lock().len();
        let mut asked = self.bell.state.lock();
        while asked.running < started {
            self.bell.for_start.wait(&mut asked);
        }
    }

    /// Ends the threads and waits for them.
    pub(crate) fn stop(&self) {
        self.bell.state.lock().stop = true;
        let Bell { for_commit, for_blocks, for_upkeep, for_scrub, .. } = &*self.bell;
        for rung in [for_commit, for_blocks, for_upkeep, for_scrub] {
            rung.notify_one();
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A thread that drops the last handle stops itself; it cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                thread.join().ok();
            }
        }
    }
}

/// What the committer is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Commit,
    /// The same, and leases may have lapsed.
    Due,
    Promise,
    Stop,
}

impl Bell {
    fn wait(&self) -> Call {
        let mut asked = self.state.lock();
        loop {
            if asked.stop {
                return Call::Stop;
            }
            let now = real_monotonic();
            if asked.due.is_some_and(|due| due <= now) {
                (asked.due, asked.commit) = (None, false);
                return Call::Due;
            }
            if std::mem::take(&mut asked.commit) {
                return Call::Commit;
            }
            if asked.quiet_at.is_some_and(|at| at <= now) {
                let goes_on = self.active.swap(false, Ordering::AcqRel);
                asked.quiet_at = goes_on.then_some(now + IDLE);
                if !goes_on {
                    return Call::Promise;
                }
            }
            match asked.due.into_iter().chain(asked.quiet_at).min() {
                None => self.for_commit.wait(&mut asked),
                Some(at) => {
                    self.for_commit.wait_for(&mut asked, at.saturating_sub(now));
                }
            }
        }
    }
}

impl Bell {
    /// Waits for so long; `Closed` at once where the threads are to end.
    fn pause(&self, time: Duration) -> Result<()> {
        let end = real_monotonic().saturating_add(time);
        let mut asked = self.state.lock();
        loop {
            if asked.stop {
                return Err(Error::Closed);
            }
            let left = end.saturating_sub(real_monotonic());
            if left.is_zero() {
                return Ok(());
            }
            self.for_scrub.wait_for(&mut asked, left);
        }
    }
}

/// Commits when asked, syncs when due, wakes callers whose lease lapsed, and promises when idle.
fn commit_loop(engine: &Weak<Engine>, bell: &Bell) {
    loop {
        let call = bell.wait();
        let Some(engine) = engine.upgrade() else { return };
        match call {
            Call::Stop => return,
            Call::Commit | Call::Due => engine.commit_staged(),
            Call::Promise => {
                // A failure poisons the store, which is how it is told.
                engine.promise().ok();
            }
        }
        if call == Call::Due
            && !engine.clock.moves_by_hand()
            && let Some(deadline) = engine.wake_lapsed()
        {
            let left = deadline.saturating_sub(engine.clock.monotonic());
            bell.commit_due(Some(real_monotonic() + left));
        }
    }
}

/// Makes room ahead of the log when asked, whatever else the store is busy with.
fn blocks_loop(engine: &Weak<Engine>, bell: &Bell) {
    loop {
        {
            let mut asked = bell.state.lock();
            while !asked.stop && !std::mem::take(&mut asked.blocks) {
                bell.for_blocks.wait(&mut asked);
            }
            if asked.stop {
                return;
            }
        }
        let Some(engine) = engine.upgrade() else { return };
        engine.log.prepare();
    }
}

/// Writes hints and lets shards grow when asked; expires when time has passed, however often it
/// is asked for something else.
fn upkeep_loop(engine: &Weak<Engine>, bell: &Bell) {
    let Some(every) = engine.upgrade().map(|engine| upkeep_every(&engine)) else { return };
    let (mut marked, mut expire_at) = (real_monotonic(), real_monotonic() + every);
    loop {
        {
            let mut asked = bell.state.lock();
            while !asked.stop && !asked.upkeep {
                let left = expire_at.saturating_sub(real_monotonic());
                if left.is_zero() || bell.for_upkeep.wait_for(&mut asked, left).timed_out() {
                    break;
                }
            }
            if asked.stop {
                return;
            }
            asked.upkeep = false;
        }
        let Some(engine) = engine.upgrade() else { return };
        engine.upkeep();
        let now = real_monotonic();
        if now < expire_at {
            continue;
        }
        expire_at = now + every;
        if !engine.clock.moves_by_hand() {
            // A failure poisons the store or leaves more on disk; the next round tries again.
            expire(&engine).ok();
            if now.saturating_sub(marked) >= MARK_EVERY {
                marked = now;
                engine.log.mark_time(engine.now().now_ms).ok();
            }
        }
    }
}

/// Verifies the sealed segments round and round: a piece of a file, then a rest of as long as the
/// piece may take.
fn scrub_loop(engine: &Weak<Engine>, bell: &Bell, bytes_per_second: u64) {
    let pace = |bytes: u64| {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second);
        bell.pause(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    };
    loop {
        let Some(engine) = engine.upgrade() else { return };
        let Ok(segments) = engine.scrub.round(&subject(&engine), &pace) else { return };
        drop(engine);
        if segments == 0 && bell.pause(SCRUB_AGAIN).is_err() {
            return;
        }
    }
}

/// Often enough to drop a segment within a tenth of its bucket.
fn upkeep_every(engine: &Engine) -> Duration {
    (engine.config.bucket() / 10).clamp(Duration::from_millis(100), UPKEEP_EVERY_MAX)
}

/// Backs the store up; see [`Store::backup`](crate::Store::backup).
pub(crate) fn backup(
    engine: &Engine,
    target: Target<'_>,
    tell: &dyn Fn(Progress),
) -> Result<Backup> {
    engine.check_closed()?;
    engine.log.check_poison()?;
    let (oldest, now_ms) = (engine.log.segments.oldest(), engine.now().now_ms);
    if let Some(segment) = engine.quarantine.first_live(oldest, now_ms) {
        let what = "it is in quarantine, and no backup would be whole";
        return Err(Error::Corrupt { segment, offset: 0, what });
    }
    let _locked = backup::begin(target)?;
    // Once the store is closed its directory may be somebody else's: what is wrong is that.
    let or_closed = |error| engine.check_closed().err().unwrap_or(error);
    let copied = {
        // No segment is dropped, and no record erased, while its file is linked or copied.
        let _expiring = engine.expiring.lock();
        let cut = engine.cut()?;
        // The hint file of the segment that was just sealed.
        engine.upkeep();
        let source = Source {
            storage: &*engine.storage,
            segments: &engine.log.segments,
            hash_key: &engine.hash_key,
            epoch: engine.log.checkpointed().epoch,
            sealed: cut.tail.segment - 1,
        };
        backup::copy(source, target, cut, tell).map_err(or_closed)?
    };
    backup::finish(target, &copied, &engine.expiring, tell)
}

/// Verifies every live byte; see [`Store::verify`](crate::Store::verify).
pub(crate) fn verify(engine: &Engine, tell: &dyn Fn(Progress)) -> Result<Verification> {
    engine.check_closed()?;
    let found = verify::verify(&subject(engine), tell)?;
    // Once the store is closed the directory may be somebody else's.
    engine.check_closed()?;
    Ok(found)
}

/// What a verification that begins now goes by.
fn subject(engine: &Engine) -> Subject<'_> {
    Subject {
        storage: &*engine.storage,
        store: engine.log.store(),
        hash_key: &engine.hash_key,
        segments: &engine.log.segments,
        written: engine.log.written(),
        checkpoint: engine.log.checkpointed(),
        quarantine: &engine.quarantine,
        erasing: &engine.expiring,
        threads: Threads::One,
    }
}

/// Drops what is past: orphans, then whole segments, oldest first.
pub(crate) fn expire(engine: &Engine) -> Result<Expired> {
    // One at a time: what is due is decided from what is live.
    let _expiring = engine.expiring.lock();
    engine.check_closed()?;
    let mut expired = Expired { orphans: engine.expire_orphans()?, ..Expired::default() };
    // Without room for the next segment what is past is dropped all the same, which makes room.
    let rolled = engine.roll_past_bucket();
    if !matches!(rolled, Ok(()) | Err(Error::Full { .. })) {
        return rolled.map(|()| expired);
    }
    let now_ms = engine.now().now_ms;
    let sealed = engine.log.segments.sealed();
    let due = expiry::due(&sealed, now_ms, engine.config.grace_ms());
    let Some((newest, _)) = due.checked_sub(1).map(|last| sealed[last]) else {
        return rolled.map(|()| expired);
    };
    let dropped = engine.log.drop_below(newest + 1, now_ms)?;
    (expired.segments, expired.bytes) = (dropped.segments, dropped.bytes);
    expired.responses = sealed[..due].iter().map(|(_, s)| u64::from(s.completes)).sum();
    for name in dropped.names {
        let number = number_of(&name, ".seg").or(number_of(&name, ".idx"));
        // A file that stays is dealt with at the next open: CHECKPOINT says that it is not live.
        if number.is_some_and(|number| engine.quarantine.has(number)) {
            quarantine::put_aside(&*engine.storage, &name).ok();
        } else {
            engine.storage.remove(&name).ok();
        }
    }
    engine.storage.sync_dir().ok();
    engine.sweep();
    Ok(expired)
}
