//! Threads that drive an engine, each with a session of its own, and check what it answers.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::engines::{Engine, Grant, Outcome, Result, Session};
use crate::workload::{Request, Workload, ensure, mix, zipf};

/// The ranks that replays of recent keys are spread over.
const RECENT: u64 = 10_000;

/// When a run ends.
#[derive(Clone, Copy)]
pub enum Until<'a> {
    Time(Duration),
    /// So many operations of each thread.
    Count(u64),
    /// The time is over, and the work beside it is done.
    Done(Duration, &'a std::sync::atomic::AtomicBool),
}

/// What a run measured.
pub struct Run {
    pub operations: u64,
    pub elapsed: Duration,
    /// The time of each operation in nanoseconds, generator and check included.
    pub times: Vec<u32>,
    /// The first key that the run did not use.
    pub next: u64,
}

impl Run {
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }
}

/// One thread of a run.
pub struct Worker<'a> {
    session: Box<dyn Session + 'a>,
    pub workload: &'a Workload,
    pub request: Request,
    response: Vec<u8>,
    out: Vec<u8>,
    base: u64,
    threads: u64,
    thread: u64,
    fresh: u64,
    /// Keys from `kept.start` to `kept.end` were stored before the run, and are not expired.
    kept: std::ops::Range<u64>,
}

impl<'a> Worker<'a> {
    pub fn new(engine: &'a dyn Engine, workload: &'a Workload) -> Result<Worker<'a>> {
        Ok(Worker {
            session: engine.session()?,
            workload,
            request: Request::default(),
            response: Vec::new(),
            out: Vec::new(),
            base: 0,
            threads: 1,
            thread: 0,
            fresh: 0,
            kept: 0..0,
        })
    }

    /// Which of the threads this is, from 0.
    pub fn thread(&self) -> u64 {
        self.thread
    }

    fn fresh_key(&self, nth: u64) -> u64 {
        self.base + nth * self.threads + self.thread
    }

    /// Claims and completes a key that nobody used before.
    pub fn fresh_pair(&mut self) -> Result<()> {
        let nth = self.fresh_key(self.fresh);
        self.fresh += 1;
        self.pair(nth)
    }

    pub fn pair(&mut self, nth: u64) -> Result<()> {
        let grant = self.grant(nth)?;
        self.workload.response(nth, &mut self.response);
        self.session.complete(&self.request, grant, &self.response)
    }

    pub fn grant(&mut self, nth: u64) -> Result<Grant> {
        self.workload.request(nth, &mut self.request);
        match self.session.claim(&self.request, &mut self.out)? {
            Outcome::Granted(grant) => Ok(grant),
            other => Err(format!("key {nth} is fresh, and was {}", other.name()).into()),
        }
    }

    /// Reads a response that was stored, and compares it.
    pub fn replay(&mut self, nth: u64) -> Result<()> {
        self.workload.request(nth, &mut self.request);
        let outcome = self.session.replay(&self.request, &mut self.out)?;
        self.check_replay(nth, &outcome)
    }

    fn check_replay(&mut self, nth: u64, outcome: &Outcome) -> Result<()> {
        ensure(matches!(outcome, Outcome::Replay), || {
            format!("key {nth} was stored, and is {}", outcome.name())
        })?;
        self.workload.response(nth, &mut self.response);
        ensure(self.out == self.response, || format!("key {nth} replays other bytes"))
    }

    /// A replay of a kept key at random.
    pub fn random_replay(&mut self, operation: u64) -> Result<()> {
        let random = self.random(operation);
        self.replay(self.kept.start + random % (self.kept.end - self.kept.start))
    }

    /// Looks up a key that is not there.
    pub fn miss(&mut self, nth: u64) -> Result<()> {
        self.workload.request(nth, &mut self.request);
        let found = self.session.lookup(&self.request)?;
        ensure(!found, || format!("key {nth} was never stored, and is there"))
    }

    /// A retry as a server sees it: it claims, and does not know what comes.
    fn retry(&mut self, random: u64) -> Result<()> {
        let rank = zipf(random, RECENT);
        let nth = match self.fresh.checked_sub(rank + 1) {
            Some(nth) => self.fresh_key(nth),
            None => self.kept.start + random % (self.kept.end - self.kept.start),
        };
        self.workload.request(nth, &mut self.request);
        let outcome = self.session.claim(&self.request, &mut self.out)?;
        self.check_replay(nth, &outcome)
    }

    fn conflict(&mut self, random: u64) -> Result<()> {
        let nth = self.kept.start + random % (self.kept.end - self.kept.start);
        self.workload.request(nth, &mut self.request);
        self.request.fingerprint[0] ^= 1;
        let outcome = self.session.claim(&self.request, &mut self.out)?;
        ensure(matches!(outcome, Outcome::Conflict), || {
            format!("key {nth} has another fingerprint, and is {}", outcome.name())
        })
    }

    fn random(&self, operation: u64) -> u64 {
        mix(operation ^ (self.thread << 48) ^ mix(self.base))
    }

    /// 90 % fresh pairs, 8 % replays of recent keys, 2 % conflicts.
    pub fn mixed(&mut self, operation: u64) -> Result<()> {
        let random = self.random(operation);
        match random % 100 {
            0..90 => self.fresh_pair(),
            90..98 => self.retry(mix(random)),
            _ => self.conflict(mix(random)),
        }
    }

    /// A claim of the request as it stands; whether it was granted. Completes it.
    pub fn claim_request(&mut self, response: &[u8]) -> Result<Outcome> {
        let outcome = self.session.claim(&self.request, &mut self.out)?;
        if let Outcome::Granted(grant) = outcome {
            self.session.complete(&self.request, grant, response)?;
            return Ok(Outcome::Granted(Grant::Row));
        }
        Ok(outcome)
    }

    pub fn replayed(&self) -> &[u8] {
        &self.out
    }
}

/// What so many pairs ask an engine to keep: scope, fingerprint and response.
pub fn payload_bytes(workload: &Workload, from: u64, pairs: u64) -> f64 {
    /// More than enough for a mean.
    const SAMPLE: u64 = 20_000;
    let (mut request, mut response, mut bytes) = (Request::default(), Vec::new(), 0);
    let sample = pairs.clamp(1, SAMPLE);
    for nth in from..from + sample {
        workload.request(nth, &mut request);
        workload.response(nth, &mut response);
        bytes += request.key().len() + request.fingerprint.len() + response.len();
    }
    bytes as f64 / sample as f64 * pairs as f64
}

/// Who runs, over which keys.
#[derive(Clone)]
pub struct Keys {
    /// The first fresh key.
    pub next: u64,
    pub kept: std::ops::Range<u64>,
}

/// Runs an operation, which gets its number, over and over in `threads` threads.
pub fn run(
    engine: &dyn Engine,
    workload: &Workload,
    keys: &Keys,
    threads: usize,
    until: Until<'_>,
    operation: impl Fn(&mut Worker<'_>, u64) -> Result<()> + Sync,
) -> Result<Run> {
    let barrier = Barrier::new(threads);
    let (barrier, operation) = (&barrier, &operation);
    let thread = |thread: usize| -> Result<(u64, Duration, Vec<u32>)> {
        let worker = Worker::new(engine, workload);
        barrier.wait();
        let mut worker = worker?;
        (worker.base, worker.kept) = (keys.next, keys.kept.clone());
        (worker.threads, worker.thread) = (threads as u64, thread as u64);
        let (mut times, start) = (Vec::with_capacity(1 << 16), Instant::now());
        let mut last = Duration::ZERO;
        for nth in 0.. {
            // Acquire: pairs with the release of the thread that did the work beside.
            let goes_on = match until {
                Until::Time(time) => last < time,
                Until::Count(count) => nth < count,
                Until::Done(time, done) => {
                    last < time || !done.load(std::sync::atomic::Ordering::Acquire)
                }
            };
            if !goes_on {
                break;
            }
            operation(&mut worker, nth)?;
            let now = start.elapsed();
            times.push(u32::try_from((now - last).as_nanos()).unwrap_or(u32::MAX));
            last = now;
        }
        Ok((worker.fresh, last, times))
    };
    let ends = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|nth| scope.spawn(move || thread(nth))).collect();
        let joined = handles.into_iter().map(|handle| handle.join().expect("no thread panics"));
        joined.collect::<Result<Vec<_>>>()
    })?;
    let elapsed = ends.iter().map(|end| end.1).max().unwrap_or_default();
    let fresh = ends.iter().map(|end| end.0).max().unwrap_or_default();
    let times: Vec<u32> = ends.into_iter().flat_map(|end| end.2).collect();
    let next = keys.next + fresh * threads as u64;
    Ok(Run { operations: times.len() as u64, elapsed, times, next })
}

/// Stores the keys of a range, and leaves them durable.
pub fn store(
    engine: &dyn Engine,
    workload: &Workload,
    range: std::ops::Range<u64>,
    threads: usize,
) -> Result<Run> {
    let keys = Keys { next: range.start, kept: 0..0 };
    let (count, threads_count) = (range.end - range.start, threads as u64);
    let each = count.div_ceil(threads_count);
    let run = run(engine, workload, &keys, threads, Until::Count(each), |worker, _| {
        if worker.fresh_key(worker.fresh) < range.end { worker.fresh_pair() } else { Ok(()) }
    })?;
    engine.sync()?;
    Ok(run)
}

/// Of many threads that claim the same keys at once, one each is granted; the rest see it run, or
/// its response.
pub fn check(engine: &dyn Engine, workload: &Workload, from: u64) -> Result<()> {
    const KEYS: u64 = 100;
    const THREADS: usize = 4;
    let granted = std::sync::atomic::AtomicU64::new(0);
    let keys = Keys { next: from, kept: 0..0 };
    run(engine, workload, &keys, THREADS, Until::Count(KEYS), |worker, nth| {
        let mut response = Vec::new();
        worker.workload.request(from + nth, &mut worker.request);
        worker.workload.response(from + nth, &mut response);
        match worker.claim_request(&response)? {
            Outcome::Granted(_) => {
                // Relaxed: the join orders the read of the sum.
                granted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            }
            Outcome::Replay => worker.replay(from + nth),
            Outcome::InProgress => Ok(()),
            Outcome::Conflict => Err("a conflict without another fingerprint".into()),
        }
    })?;
    let granted = granted.into_inner();
    ensure(granted == KEYS, || format!("{KEYS} keys were granted {granted} times"))
}
