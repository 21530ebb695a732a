//! How many allocations and system calls a call makes, counted by the allocator of this binary.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop at once")]
#![expect(clippy::cast_possible_truncation, reason = "a few thousand calls")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use oncelog::{Claim, Durability, Fingerprint, Permit, Scope, Store};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator that counts")]
// SAFETY: every call goes to the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CALLS: u64 = 20_000;
/// What grows now and then (the index, its recent hashes, the in-flight map), a call.
const AMORTISED: f64 = 0.1;
/// Replays that met a shard while it grew and so looked twice, a call.
const LOOKED_TWICE: f64 = 0.001;

/// Calls `call` for every key and returns the allocations of one call, on average.
fn allocations(mut call: impl FnMut(&str)) -> f64 {
    let keys: Vec<String> = (0..CALLS).map(|key| format!("contact-{key:06}-create-v1")).collect();
    let before = COUNT.get();
    keys.iter().for_each(|key| call(key));
    (COUNT.get() - before) as f64 / CALLS as f64
}

fn scope(key: &str) -> Scope<'_> {
    let organization = "7b0a5a5e-7a7c-4f4e-9a44-1d2f3c4b5a69";
    Scope { organization, method: "POST", path: "/public/v1/contacts", key }
}

fn granted(claim: oncelog::Result<Claim>) -> Permit {
    match claim {
        Ok(Claim::Granted(permit)) => permit,
        other => panic!("{other:?}"),
    }
}

/// System calls of this thread that read or write.
fn reads_and_writes() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let counts = io.lines().filter(|line| line.starts_with("sysc"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_claim_a_completion_and_a_replay_make_one_allocation_each_and_a_replay_no_system_call() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let durability = Durability::Buffered { sync_every: Duration::from_secs(1) };
    let store = Store::options().durability(durability).open(dir.path()).unwrap();
    let fingerprint = Fingerprint::of(b"body");
    let mut permits = Vec::with_capacity(CALLS as usize);
    let claim = allocations(|key| permits.push(granted(store.claim(scope(key), fingerprint))));
    assert!(claim <= 1.0 + AMORTISED, "{claim} allocations a claim");
    let mut permits = permits.into_iter();
    let complete = allocations(|_| {
        permits.next().unwrap().complete(&[b'r'; 400]).unwrap();
    });
    assert!(complete <= 1.0 + AMORTISED, "{complete} allocations a completion");
    let replay = |key: &str| match store.claim(scope(key), fingerprint) {
        Ok(Claim::Replay(stored)) => assert_eq!(stored.bytes().map(<[u8]>::len), Some(400)),
        other => panic!("{other:?}"),
    };
    // Maps the segments.
    allocations(replay);
    let before = reads_and_writes();
    let replayed = allocations(replay);
    let made = reads_and_writes() - before;
    assert!(replayed <= 1.0 + LOOKED_TWICE, "{replayed} allocations a replay");
    assert!(made <= 4, "{made} reads and writes beside those of the count itself");
    let miss = allocations(|key| {
        let absent = Scope { method: "PATCH", ..scope(key) };
        assert!(store.lookup(absent).unwrap().is_none());
    });
    assert!(miss <= 0.001, "{miss} allocations a miss");
    println!("allocations: claim {claim}, complete {complete}, replay {replayed}, miss {miss}");
}
