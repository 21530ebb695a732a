//! What a claim, a completion, a replay and a miss cost, beside the least that the disk asks for.
//!
//! The bounds write the same bytes with the same number of syncs and do nothing else. After the
//! groups of criterion, when no name was asked for, the ratios to the bounds are measured in
//! alternating rounds, so that both sides see the same disk.
#![expect(
    clippy::disallowed_methods,
    reason = "the bounds need bare files, threads and the time, and no part of the library"
)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use oncelog::{Claim, Durability, Fingerprint, Permit, Scope, Store};
use tempfile::TempDir;

const THREADS: usize = 64;
/// What a CLAIM of these scopes takes in the log; `record_bytes` checks it.
const CLAIM_BYTES: usize = 176;
const RESPONSE: &[u8] = &[b'r'; 256];
const BUFFERED: Durability = Durability::Buffered { sync_every: Duration::from_millis(50) };

fn main() {
    // As criterion sees it: `cargo test` runs every routine once, and measures nothing.
    let asked = |name: &str| std::env::args().any(|arg| arg == name);
    let measured = asked("--bench") && !asked("--test");
    let keys = if measured { 100_000 } else { 1_000 };
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .sample_size(10)
        .configure_from_args();
    single_claims(&mut criterion);
    shared_commits(&mut criterion);
    buffered_pairs(&mut criterion);
    lookups(&mut criterion, keys);
    criterion.final_summary();
    if std::env::args().skip(1).eq(["--bench"]) {
        claim_ratio();
        pair_ratio();
    }
}

fn single_claims(criterion: &mut Criterion) {
    let bench = Bench::new(Durability::Synced);
    let mut group = criterion.benchmark_group("claim");
    group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
    group.bench_function("durability=synced threads=1", |bencher| {
        bencher.iter_custom(|count| bench.claims(count).iter().sum());
    });
    group.finish();
    let bound = GroupCommit::new();
    let mut group = criterion.benchmark_group("bound");
    group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
    group.bench_function(format!("pwrite+fdatasync bytes={CLAIM_BYTES} threads=1"), |bencher| {
        bencher.iter_custom(|count| bound.writes(count).iter().sum());
    });
    group.finish();
}

fn shared_commits(criterion: &mut Criterion) {
    let bench = Bench::new(Durability::Synced);
    let mut group = criterion.benchmark_group("claim+complete");
    group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
    group.bench_function(format!("durability=synced threads={THREADS}"), |bencher| {
        bencher.iter_custom(|count| in_threads(THREADS, count, || bench.pair()));
    });
    group.finish();
    let bound = GroupCommit::new();
    let records = record_bytes();
    let mut group = criterion.benchmark_group("bound");
    group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
    group.bench_function(format!("group-commit threads={THREADS}"), |bencher| {
        bencher.iter_custom(|count| in_threads(THREADS, count, || bound.pair(records)));
    });
    group.finish();
}

fn buffered_pairs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("claim+complete");
    group.throughput(Throughput::Elements(1));
    for threads in [1, 2] {
        let bench = Bench::new(BUFFERED);
        group.bench_function(format!("durability=buffered threads={threads}"), |bencher| {
            bencher.iter_custom(|count| in_threads(threads, count, || bench.pair()));
        });
    }
    group.finish();
}

fn lookups(criterion: &mut Criterion, keys: u64) {
    let bench = Bench::new(BUFFERED);
    (0..keys).for_each(|_| bench.pair());
    // A step that is prime to the number of keys visits all of them, in no order of the log.
    let mut steps = (0..).map(|step: u64| step * 7_919 % keys);
    let mut next = || steps.next().expect("there is always a next step");
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("keys={keys}"), |bencher| {
        bencher.iter(|| match bench.claim(next()) {
            Claim::Replay(stored) => assert_eq!(stored.bytes(), Some(RESPONSE)),
            other => panic!("no replay: {other:?}"),
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("miss (lookup)");
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("keys={keys}"), |bencher| {
        bencher.iter(|| {
            let key = key(keys + next());
            assert!(bench.store.lookup(scope(&key)).expect("a lookup works").is_none());
        });
    });
    group.finish();
}

/// The median of a durable claim, over that of one write and one sync. The rounds are short: a disk
/// changes its pace within seconds.
fn claim_ratio() {
    let (bench, bound) = (Bench::new(Durability::Synced), GroupCommit::new());
    let (mut claims, mut writes, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..70 {
        let (round, bare) = (bench.claims(30), bound.writes(30));
        ratios.push(median(&round).as_secs_f64() / median(&bare).as_secs_f64());
        claims.extend(round);
        writes.extend(bare);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let (claim, write) = (median(&claims), median(&writes));
    println!(
        "medians: claim {claim:?}, pwrite+fdatasync {write:?}, quartiles by round {:.2} to {:.2}; \
         fastest tenths: {:?}, {:?}",
        ratios[ratios.len() / 4],
        ratios[ratios.len() * 3 / 4],
        quantile(&claims, 10),
        quantile(&writes, 10),
    );
    println!("ratio claim/bound = {:.2} (bar 1.2)", claim.as_secs_f64() / write.as_secs_f64());
}

/// Pairs per second of the store, over those of bare commits that are shared.
fn pair_ratio() {
    const ROUND: Duration = Duration::from_secs(2);
    let (bench, bound) = (Bench::new(Durability::Synced), GroupCommit::new());
    let records = record_bytes();
    let (mut pairs, mut commits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let round = per_second(ROUND, || bench.pair());
        let bare = per_second(ROUND, || bound.pair(records));
        ratios.push(round / bare);
        pairs.push(round);
        commits.push(bare);
    }
    let (pair, commit) = (mean(&pairs), mean(&commits));
    println!(
        "claim+complete/durability=synced threads={THREADS}: {pair:.0} ops/s, \
         bound/group-commit threads={THREADS}: {commit:.0} ops/s; by round {ratios:.2?}"
    );
    println!("ratio = {:.2} (bar 0.7)", pair / commit);
}

fn median(times: &[Duration]) -> Duration {
    quantile(times, 2)
}

/// The time that one in `parts` stays below.
fn quantile(times: &[Duration], parts: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / parts]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The time that `threads` take for `count` operations together.
fn in_threads(threads: usize, count: u64, operation: impl Fn() + Sync) -> Duration {
    let (left, barrier) = (AtomicU64::new(count), Barrier::new(threads + 1));
    // Relaxed: each operation is taken once, and that is all.
    let take = |left: u64| left.checked_sub(1);
    std::thread::scope(|scope| {
        let (left, barrier, operation) = (&left, &barrier, &operation);
        for _ in 0..threads {
            scope.spawn(move || {
                barrier.wait();
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    operation();
                }
                barrier.wait();
            });
        }
        barrier.wait();
        let start = Instant::now();
        barrier.wait();
        start.elapsed()
    })
}

/// How often a second `THREADS` threads do the operation.
fn per_second(time: Duration, operation: impl Fn() + Sync) -> f64 {
    let (done, start) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while start.elapsed() < time {
                    operation();
                    // Relaxed: the join orders the read of the sum.
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner() as f64 / start.elapsed().as_secs_f64()
}

fn scratch() -> TempDir {
    // Beside the target directory: a real disk, where `/tmp` may be memory.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory can be made")
}

fn key(nth: u64) -> String {
    format!("order-{nth:034}")
}

fn scope(key: &str) -> Scope<'_> {
    let path = "/v1/organizations/contacts";
    Scope { organization: "org_0123456789abcdef", method: "POST", path, key }
}

/// The bytes of a CLAIM and of a COMPLETE, as a store counts them.
fn record_bytes() -> [usize; 2] {
    let bench = Bench::new(BUFFERED);
    let appended = || bench.store.stats().appended_bytes;
    let start = appended();
    let permit = granted(bench.claim(0));
    let claimed = appended();
    permit.complete(RESPONSE).expect("a granted claim completes");
    let records = [claimed - start, appended() - claimed];
    let records = records.map(|bytes| usize::try_from(bytes).expect("a record is small"));
    assert_eq!(records[0], CLAIM_BYTES, "the bound of a claim writes as much as a claim");
    records
}

fn granted(claim: Claim) -> Permit {
    match claim {
        Claim::Granted(permit) => permit,
        other => panic!("not granted: {other:?}"),
    }
}

/// A store, and the next fresh key.
struct Bench {
    store: Store,
    fingerprint: Fingerprint,
    next: AtomicU64,
    _dir: TempDir,
}

impl Bench {
    fn new(durability: Durability) -> Bench {
        let dir = scratch();
        let store = Store::options().durability(durability).open(dir.path());
        Bench {
            store: store.expect("a fresh directory opens"),
            fingerprint: Fingerprint::of(b"the request's body"),
            next: AtomicU64::new(0),
            _dir: dir,
        }
    }

    fn claim(&self, nth: u64) -> Claim {
        self.store.claim(scope(&key(nth)), self.fingerprint).expect("a claim works")
    }

    fn claim_fresh(&self) -> Permit {
        // Relaxed: each key is taken once, and that is all.
        granted(self.claim(self.next.fetch_add(1, Ordering::Relaxed)))
    }

    fn pair(&self) {
        let stored = self.claim_fresh().complete(RESPONSE).expect("a granted claim completes");
        assert_eq!(stored.bytes(), Some(RESPONSE));
    }

    /// The times of durable claims of fresh keys. They are released together, untimed.
    fn claims(&self, count: u64) -> Vec<Duration> {
        let (mut times, mut permits) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let start = Instant::now();
            let permit = self.claim_fresh();
            times.push(start.elapsed());
            permits.push(permit);
        }
        // A release is staged at its call; the sync waits for all of them.
        permits.into_iter().for_each(|permit| drop(permit.release_async()));
        self.store.sync().expect("a store syncs");
        times
    }
}

/// Threads that share the syncs of one prepared file, and nothing else that a store does.
struct GroupCommit {
    file: File,
    batch: Mutex<Batch>,
    /// One for the batch that gathers and one for the batch that is synced, by its number.
    done: [Condvar; 2],
    _dir: TempDir,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// The number of the batch that gathers.
    number: u64,
    /// All batches below are durable.
    durable: u64,
    offset: u64,
    leading: bool,
}

impl GroupCommit {
    /// As large as a segment, and written round and round.
    const FILE_BYTES: u64 = 64 << 20;

    fn new() -> GroupCommit {
        let dir = scratch();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(dir.path().join("bound"));
        let file = file.expect("a fresh file can be made");
        for page in 0..Self::FILE_BYTES / 4096 {
            file.write_all_at(&[0; 4096], page * 4096).expect("the disk has room");
        }
        file.sync_all().expect("the file syncs");
        GroupCommit { file, batch: Mutex::default(), done: Default::default(), _dir: dir }
    }

    /// Returns when the record is durable: as the leader of its batch, or woken by the leader.
    fn commit(&self, record: &[u8]) {
        let lock = || self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = lock();
        batch.bytes.extend_from_slice(record);
        let mine = batch.number;
        let [even, odd] = &self.done;
        let (own, next) = if mine.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        while batch.durable <= mine {
            if batch.leading {
                batch = own.wait(batch).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let bytes = std::mem::take(&mut batch.bytes);
            let fits = batch.offset + bytes.len() as u64 <= Self::FILE_BYTES;
            let offset = if fits { batch.offset } else { 0 };
            batch.offset = offset + bytes.len() as u64;
            (batch.leading, batch.number) = (true, mine + 1);
            drop(batch);
            self.file.write_all_at(&bytes, offset).expect("the file was allocated");
            self.file.sync_data().expect("the file syncs");
            batch = lock();
            (batch.leading, batch.durable) = (false, mine + 1);
            own.notify_all();
            next.notify_one();
        }
    }

    fn pair(&self, records: [usize; 2]) {
        const RECORD: [u8; 1024] = [b'b'; 1024];
        records.iter().for_each(|&bytes| self.commit(&RECORD[..bytes]));
    }

    /// The times of single writes, each with its sync.
    fn writes(&self, count: u64) -> Vec<Duration> {
        let record = [b'b'; CLAIM_BYTES];
        let mut offset = self.batch.lock().unwrap_or_else(PoisonError::into_inner).offset;
        let mut times = Vec::new();
        for _ in 0..count {
            if offset + CLAIM_BYTES as u64 > Self::FILE_BYTES {
                offset = 0;
            }
            let start = Instant::now();
            self.file.write_all_at(&record, offset).expect("the file was allocated");
            self.file.sync_data().expect("the file syncs");
            times.push(start.elapsed());
            offset += CLAIM_BYTES as u64;
        }
        self.batch.lock().unwrap_or_else(PoisonError::into_inner).offset = offset;
        times
    }
}
