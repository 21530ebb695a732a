//! The instructions and the cache misses of a claim, a completion, a replay and a miss.
//!
//! `cargo bench --bench misses` fills a store with a million keys, opens it again under
//! `valgrind --tool=callgrind`, which simulates the caches, and writes `docs/bench/misses.md`.
//! Counted is what the calling thread does in the call alone. The simulation knows no prefetch: a
//! line that was asked for ahead counts as a miss where it is used. Warm is what the last 50,000
//! replays and 5,000 pairs before the counted ones left in the caches.
#![expect(
    clippy::disallowed_methods,
    reason = "the driver starts valgrind and writes a table, and is no part of the library"
)]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{BUFFERED, filled, fingerprint, is_measured, key, mix, response, scope};
use oncelog::{Claim, Durability, Permit, Status, Store, Stored};

/// The first level, the last level of the simulated machine: bytes, ways, bytes of a line.
const CACHES: [&str; 3] = ["--I1=32768,8,64", "--D1=32768,8,64", "--LL=33554432,16,64"];
const OPERATIONS: [&str; 4] = ["claim", "complete", "replay", "miss"];
const EVENTS: &str = "Ir,I1mr,D1mr,D1mw,ILmr,DLmr,DLmw";
/// No sync by time while the simulation runs: it is some fifty times as slow.
const LATE: Durability = Durability::Buffered { sync_every: Duration::from_secs(3600) };

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, task, dir, keys, count] = arguments.as_slice()
        && task == "counted"
    {
        let numbers = [keys, count].map(|number| number.parse().expect("a number"));
        return counted(Path::new(dir), numbers[0], numbers[1]);
    }
    let (keys, count) = if is_measured() { (1_000_000, 20_000) } else { (1_000, 100) };
    let (store, dir) = filled(Store::options().durability(BUFFERED), keys);
    store.close().expect("the store closes");
    if !is_measured() {
        return counted(dir.path(), keys, count);
    }
    let table = simulate(dir.path(), keys, count);
    println!("{table}");
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bench/misses.md");
    std::fs::write(docs, table).expect("docs/bench can be written");
}

#[inline(never)]
fn claim(store: &Store, key: &str) -> Claim {
    store.claim(scope(key), fingerprint()).expect("a claim works")
}

#[inline(never)]
fn complete(permit: Permit, response: &[u8]) -> Stored {
    permit.complete(response).expect("a response is taken")
}

#[inline(never)]
fn replay(store: &Store, key: &str) -> Claim {
    // Unlike `claim` to the compiler, which would make one function of two equal ones.
    std::hint::black_box(store).claim(scope(key), fingerprint()).expect("a claim works")
}

#[inline(never)]
fn miss(store: &Store, key: &str) -> Option<Status> {
    store.lookup(scope(key)).expect("a lookup works")
}

/// What is run under the simulation.
fn counted(dir: &Path, keys: u64, count: u64) {
    let store = Store::options().durability(LATE).open(dir).expect("the store opens again");
    let pair = |number: u64| {
        let key = key(number);
        let Claim::Granted(permit) = claim(&store, &key) else { panic!("a fresh key is granted") };
        assert_eq!(complete(permit, response(number)).bytes(), Some(response(number)));
    };
    let again = |number: u64, replay: fn(&Store, &str) -> Claim| {
        let Claim::Replay(stored) = replay(&store, &key(number)) else { panic!("it was stored") };
        assert_eq!(stored.bytes(), Some(response(number)));
    };
    // Through other functions than the counted ones.
    let uncounted =
        |store: &Store, key: &str| store.claim(scope(key), fingerprint()).expect("a claim works");
    (0..(keys / 20).max(1)).for_each(|nth| again(mix(nth) % keys, uncounted));
    (0..count / 4).for_each(|nth| common::pair(&store, keys + nth));
    (0..count).for_each(|nth| pair(keys + count + nth));
    (0..count).for_each(|nth| again(mix(nth ^ 0x5eed) % keys, replay));
    (0..count).for_each(|nth| {
        let absent = format!("absent-{:016x}", mix(nth));
        assert!(miss(&store, &absent).is_none());
    });
    store.close().expect("the store closes");
}

/// Runs `counted` under callgrind, and makes the table.
fn simulate(dir: &Path, keys: u64, count: u64) -> String {
    let out = dir.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--cache-sim=yes", "--collect-atstart=no"]);
    valgrind.args(CACHES).arg(format!("--callgrind-out-file={}", out.display()));
    for operation in OPERATIONS {
        valgrind.arg(format!("--toggle-collect=misses::{operation}"));
    }
    valgrind.arg(std::env::current_exe().expect("this program")).arg("counted").arg(dir);
    valgrind.args([keys.to_string(), count.to_string()]);
    let output = valgrind.output().expect("valgrind is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "valgrind: {}: {said}", output.status);
    let mut annotate = Command::new("callgrind_annotate");
    annotate.args(["--inclusive=yes", "--show-percs=no", "--threshold=100"]);
    let annotated = annotate.arg(format!("--show={EVENTS}")).arg(&out).output();
    let annotated = annotated.expect("callgrind_annotate comes with valgrind");
    let text = String::from_utf8_lossy(&annotated.stdout);
    let mut table = heading(keys, count);
    for operation in OPERATIONS {
        let [ir, i1, d1r, d1w, il, dlr, dlw] = costs(&text, operation);
        // Each figure of one call.
        let each = |events: u64| events as f64 / count as f64;
        assert!(ir > count, "{operation} was not counted: {text}");
        table += &format!(
            "| {operation} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |\n",
            each(ir),
            each(i1),
            each(d1r),
            each(d1w),
            each(il + dlr),
            each(dlw)
        );
    }
    table
}

fn heading(keys: u64, count: u64) -> String {
    let date = Command::new("date").args(["-u", "+%F"]).output().expect("the date");
    let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
    format!(
        "# Instructions and cache misses of a call\n\n\
         {keys} keys stored, `Buffered`, the mean of {count} calls, the calling thread alone.\n\
         Simulated by callgrind (`{}`).\n\
         It knows no prefetch: a line that was asked for ahead is a miss where it is used. A\n\
         claim is of a fresh key, a replay of a random one, a miss is a lookup of a key never\n\
         stored. Responses: 400 bytes in the median, 8 KB at 99 %.\n\n\
         Measured {date}: `cargo bench --bench misses`.\n\n\
         | call | instructions | L1 code | L1 read | L1 write | last level read | last level write \
         |\n|---|---:|---:|---:|---:|---:|---:|\n",
        CACHES.join(" "),
    )
}

/// The inclusive events of a function in what `callgrind_annotate` prints.
fn costs(annotated: &str, operation: &str) -> [u64; 7] {
    // The name ends the line, or the program's stands behind it.
    let name = format!("misses::{operation}");
    let line = annotated.lines().find(|line| {
        line.split_whitespace().any(|word| word == name || word.ends_with(&format!(":{name}")))
    });
    let line = line.unwrap_or_else(|| panic!("no {name} in:\n{annotated}"));
    let numbers = line.split_whitespace().map_while(|word| {
        // A dot stands for none.
        if word == "." { Some(0) } else { word.replace(',', "").parse().ok() }
    });
    let numbers: Vec<u64> = numbers.collect();
    numbers.try_into().unwrap_or_else(|numbers| panic!("not seven events: {numbers:?} in {line}"))
}
