//! What it takes to drop a day of responses: 1 of 30 buckets, whole segments at a time, and that
//! no record is written for it.

mod common;

use std::time::{Duration, SystemTime};

use common::{BUFFERED, is_measured, pair};
use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use oncelog::{Background, ManualClock, Store};

const DAY: Duration = Duration::from_secs(24 * 3600);
const DAYS: u64 = 30;

fn main() {
    let a_day: u64 = if is_measured() { 10_000 } else { 100 };
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("expire");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(a_day));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + 20_000 * DAY);
    let options = Store::options().durability(BUFFERED).background(Background::Inline);
    let store = options.clock(clock.clone()).open(dir.path()).expect("a new store opens");
    let mut number = 0;
    // A day is filled as it begins, and looked at past the grace of a bucket: so each drops one.
    let past_grace = Duration::from_secs(2 * 3600);
    let mut fill = || {
        clock.advance(DAY - past_grace);
        (0..a_day).for_each(|_| {
            pair(&store, number);
            number += 1;
        });
        clock.advance(past_grace);
    };
    (0..DAYS).for_each(|_| fill());
    group.bench_function(format!("keys={} past={a_day}", a_day * DAYS), |bencher| {
        let expire = |()| {
            let before = store.stats().appended_bytes;
            let expired = store.expire().expect("the disk lets go of a segment");
            assert_eq!(expired.responses, a_day);
            // The end of the tail's bucket; nothing that is kept is written again.
            assert!(store.stats().appended_bytes - before <= 128);
        };
        bencher.iter_batched(&mut fill, expire, BatchSize::PerIteration);
    });
    group.finish();
    criterion.final_summary();
}
