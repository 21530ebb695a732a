//! What it takes to open a store that was closed, and one whose process died.

mod common;

use std::path::Path;

use common::{BUFFERED, filled, is_measured};
use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use oncelog::Store;

fn main() {
    let sizes: &[u64] = if is_measured() { &[100_000, 1_000_000] } else { &[1_000] };
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("open");
    group.sampling_mode(SamplingMode::Flat);
    for &keys in sizes {
        group.throughput(Throughput::Elements(keys));
        let (store, dir) = filled(options(), keys);
        // What a kill would leave: the files as they are, and no clean end.
        store.sync().expect("the disk takes it");
        let died = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
        copy(dir.path(), died.path());
        store.close().expect("the store closes");
        group.bench_function(format!("after=close keys={keys}"), |bencher| {
            bencher.iter(|| open(dir.path(), keys).close().expect("the store closes"));
        });
        group.bench_function(format!("after=kill keys={keys}"), |bencher| {
            let restore = || {
                let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
                let dir = dir.expect("a scratch directory");
                copy(died.path(), dir.path());
                dir
            };
            let reopen = |dir: tempfile::TempDir| {
                let store = open(dir.path(), keys);
                assert!(!store.recovery().clean);
                (store, dir)
            };
            bencher.iter_batched(restore, reopen, BatchSize::PerIteration);
        });
    }
    group.finish();
    criterion.final_summary();
}

fn options() -> oncelog::Options {
    Store::options().durability(BUFFERED)
}

fn open(dir: &Path, keys: u64) -> Store {
    let store = options().open(dir).expect("the store opens");
    assert_eq!(store.recovery().responses, keys);
    store
}

fn copy(from: &Path, to: &Path) {
    for entry in from.read_dir().expect("the directory is there") {
        let entry = entry.expect("an entry of the directory");
        let target = to.join(entry.file_name());
        match std::fs::copy(entry.path(), target) {
            // The draft of a hint file got its name meanwhile; a kill finds such things too.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.expect("the disk takes a copy")),
        }
    }
}
