//! The background threads: one commits for async callers and syncs in time, one prepares and
//! drops segments. The only home of threads. A panic in one poisons the store through the log.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::real_monotonic;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::expiry::{self, Expired};
use crate::log::writer::Helpers;
use crate::sync::{Condvar, Mutex};

/// After this long without a commit the log promises that its last batch is durable.
const IDLE: Duration = Duration::from_secs(1);
/// How often an idle store writes the time down, so that a restart does not question the clock.
const MARK_EVERY: Duration = Duration::from_secs(3_600);
/// The longest that the upkeep thread sleeps.
const UPKEEP_EVERY_MAX: Duration = Duration::from_secs(600);

/// What the threads are asked to do.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    // LOCK: bell (a leaf)
    state: Mutex<Asked>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct Asked {
    commit: bool,
    /// When the next timed look is due, in real time.
    due: Option<Duration>,
    upkeep: bool,
    stop: bool,
}

impl Helpers for Bell {
    fn commit_due(&self, due: Option<Duration>) {
        let mut asked = self.state.lock();
        match due {
            None => asked.commit = true,
            Some(due) => asked.due = Some(asked.due.map_or(due, |other| other.min(due))),
        }
        drop(asked);
        self.rung.notify_all();
    }

    fn upkeep_due(&self) {
        self.state.lock().upkeep = true;
        self.rung.notify_all();
    }
}

/// The threads of one store.
#[derive(Debug)]
pub(crate) struct Workers {
    bell: Arc<Bell>,
    // LOCK: threads (a leaf)
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Starts the threads. They hold the engine weakly, so that they end with it.
    pub(crate) fn start(engine: &Arc<Engine>) -> Result<Workers> {
        let bell = Arc::new(Bell::default());
        engine.log.set_helpers(Arc::clone(&bell) as Arc<dyn Helpers>);
        let workers = Workers { bell: Arc::clone(&bell), threads: Mutex::default() };
        let (weak, rung) = (Arc::downgrade(engine), Arc::clone(&bell));
        workers.spawn("oncelog-commit", move || commit_loop(&weak, &rung))?;
        let weak = Arc::downgrade(engine);
        let upkeep = workers.spawn("oncelog-upkeep", move || upkeep_loop(&weak, &bell));
        upkeep.inspect_err(|_| workers.stop())?;
        Ok(workers)
    }

    #[expect(clippy::disallowed_methods, reason = "the only home of threads")]
    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        let builder = std::thread::Builder::new().name(name.to_owned());
        let thread = builder.spawn(run).map_err(Error::io("start a thread"))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Ends the threads and waits for them.
    pub(crate) fn stop(&self) {
        self.bell.state.lock().stop = true;
        self.bell.rung.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            // A thread that drops the last handle stops itself; it cannot wait for itself.
            if thread.thread().id() != std::thread::current().id() {
                thread.join().ok();
            }
        }
    }
}

/// Commits when asked, syncs when due, wakes callers whose lease lapsed, and promises when idle.
fn commit_loop(engine: &Weak<Engine>, bell: &Bell) {
    let mut busy = false;
    loop {
        let (commit, due) = {
            let mut asked = bell.state.lock();
            loop {
                if asked.stop {
                    return;
                }
                let now = real_monotonic();
                let due = asked.due.is_some_and(|due| due <= now);
                if asked.commit || due {
                    if due {
                        asked.due = None;
                    }
                    break (std::mem::take(&mut asked.commit), due);
                }
                let idle_at = busy.then_some(now + IDLE);
                let wake_at = asked.due.into_iter().chain(idle_at).min();
                match wake_at {
                    None => bell.rung.wait(&mut asked),
                    Some(at) => {
                        bell.rung.wait_for(&mut asked, at.saturating_sub(now));
                        let quiet = real_monotonic() >= now + IDLE && busy;
                        if quiet && !asked.commit && asked.due.is_none() {
                            break (false, false);
                        }
                    }
                }
            }
        };
        let Some(engine) = engine.upgrade() else { return };
        if commit || due {
            engine.commit_staged();
            busy = true;
        } else {
            // A failure poisons the store, which is how it is told.
            engine.promise().ok();
            busy = false;
        }
        if due
            && !engine.clock.moves_by_hand()
            && let Some(deadline) = engine.wake_lapsed()
        {
            let left = deadline.saturating_sub(engine.clock.monotonic());
            bell.commit_due(Some(real_monotonic() + left));
        }
    }
}

/// Prepares segments and writes hints when asked; expires when time has passed.
fn upkeep_loop(engine: &Weak<Engine>, bell: &Bell) {
    let Some(every) = engine.upgrade().map(|engine| upkeep_every(&engine)) else { return };
    let mut marked = real_monotonic();
    loop {
        let asked_for = {
            let mut asked = bell.state.lock();
            if !asked.stop && !asked.upkeep {
                bell.rung.wait_for(&mut asked, every);
            }
            if asked.stop {
                return;
            }
            std::mem::take(&mut asked.upkeep)
        };
        let Some(engine) = engine.upgrade() else { return };
        engine.upkeep();
        if !asked_for && !engine.clock.moves_by_hand() {
            // A failure poisons the store or leaves more on disk; the next round tries again.
            expire(&engine).ok();
            if real_monotonic().saturating_sub(marked) >= MARK_EVERY {
                marked = real_monotonic();
                engine.log.mark_time(engine.now().now_ms).ok();
            }
        }
    }
}

/// Often enough to drop a segment within a tenth of its bucket.
fn upkeep_every(engine: &Engine) -> Duration {
    (engine.config.bucket() / 10).clamp(Duration::from_millis(100), UPKEEP_EVERY_MAX)
}

/// Drops what is past: orphans, then whole segments, oldest first.
pub(crate) fn expire(engine: &Engine) -> Result<Expired> {
    engine.check_closed()?;
    let mut expired = Expired { orphans: engine.expire_orphans()?, ..Expired::default() };
    engine.roll_past_bucket()?;
    let now_ms = engine.now().now_ms;
    let sealed = engine.log.segments.sealed();
    let due = expiry::due(&sealed, now_ms, engine.config.grace_ms());
    let Some((newest, _)) = due.checked_sub(1).map(|last| sealed[last]) else {
        return Ok(expired);
    };
    let before = engine.log.segments.totals();
    let names = engine.log.drop_below(newest + 1, now_ms)?;
    let after = engine.log.segments.totals();
    expired.segments = before.0.saturating_sub(after.0);
    expired.bytes = before.1.saturating_sub(after.1);
    expired.responses = sealed[..due].iter().map(|(_, s)| u64::from(s.completes)).sum();
    for name in names {
        // A file that stays is removed at the next open: CHECKPOINT says that it is not live.
        engine.storage.remove(&name).ok();
    }
    engine.storage.sync_dir().ok();
    engine.sweep();
    Ok(expired)
}
