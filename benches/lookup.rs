//! Replays and misses, one by one and many at once.

mod common;

use std::hint::black_box;

use common::{BUFFERED, filled, fingerprint, is_measured, key, mix, response, scope};
use criterion::{Criterion, Throughput};
use oncelog::{Claim, Status, Store};

const BATCH: u64 = 1_000;

fn main() {
    let keys = if is_measured() { 1_000_000 } else { 1_000 };
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let (store, _dir) = filled(Store::options().durability(BUFFERED), keys);
    store.sync().expect("the disk takes it");
    // The machine reclaims cold page cache: every record is touched once.
    (0..keys).for_each(|number| replay(&store, number));
    one_by_one(&mut criterion, &store, keys);
    many_at_once(&mut criterion, &store, keys);
    criterion.final_summary();
}

fn replay(store: &Store, number: u64) {
    match store.claim(scope(&key(number)), fingerprint()) {
        Ok(Claim::Replay(stored)) => assert_eq!(stored.bytes(), Some(response(number))),
        other => panic!("a completed key is replayed, not {other:?}"),
    }
}

fn absent(number: u64) -> String {
    format!("absent-{number:016x}")
}

fn one_by_one(criterion: &mut Criterion, store: &Store, keys: u64) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(1));
    let mut number = 0;
    group.bench_function(format!("replay/keys={keys}"), |bencher| {
        bencher.iter(|| {
            number += 1;
            replay(store, mix(number) % keys);
        });
    });
    group.bench_function(format!("miss/keys={keys}"), |bencher| {
        bencher.iter(|| {
            number += 1;
            let found = store.lookup(scope(&absent(mix(number)))).expect("an absent key");
            assert!(found.is_none());
        });
    });
    group.finish();
}

fn many_at_once(criterion: &mut Criterion, store: &Store, keys: u64) {
    let mut group = criterion.benchmark_group("lookup_many");
    group.throughput(Throughput::Elements(BATCH));
    let mut batch = 0;
    group.bench_function(format!("miss/keys={keys} batch={BATCH}"), |bencher| {
        bencher.iter(|| {
            batch += 1;
            let names: Vec<_> = (0..BATCH).map(|n| absent(mix(batch * BATCH + n))).collect();
            let scopes: Vec<_> = names.iter().map(|name| scope(name)).collect();
            let found = store.lookup_many(&scopes);
            assert!(found.iter().all(|found| matches!(found, Ok(None))));
            black_box(found);
        });
    });
    group.bench_function(format!("hit/keys={keys} batch={BATCH}"), |bencher| {
        bencher.iter(|| {
            batch += 1;
            let names: Vec<_> = (0..BATCH).map(|n| key(mix(batch * BATCH + n) % keys)).collect();
            let scopes: Vec<_> = names.iter().map(|name| scope(name)).collect();
            let found = store.lookup_many(&scopes);
            let completed = |found: &_| matches!(found, Ok(Some(Status::Completed(_))));
            assert!(found.iter().all(completed));
            black_box(found);
        });
    });
    group.finish();
}
