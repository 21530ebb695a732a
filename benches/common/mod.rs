//! What the benches share: the workload, and stores that are filled with it.
#![allow(dead_code, reason = "each bench uses a part")]

use std::time::Duration;

use oncelog::{Claim, Durability, Fingerprint, Options, Scope, Store};

pub(crate) const BUFFERED: Durability = Durability::Buffered { sync_every: Duration::from_secs(1) };
const ORGANIZATION: &str = "7b0a5a5e-7a7c-4f4e-9a44-1d2f3c4b5a69";
const BODY: &[u8] = &[b'r'; 8192];

/// Spreads a counter over 64 bits.
pub(crate) fn mix(number: u64) -> u64 {
    let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// The client's key of an operation.
pub(crate) fn key(number: u64) -> String {
    format!("hubspot-contact-{number:09}-create-v1")
}

pub(crate) fn scope(key: &str) -> Scope<'_> {
    Scope { organization: ORGANIZATION, method: "POST", path: "/public/v1/contacts", key }
}

pub(crate) fn fingerprint() -> Fingerprint {
    Fingerprint::from_bytes([7; 16])
}

/// The response of an operation: median 400 bytes, p90 1.5 KB, p99 8 KB.
pub(crate) fn response(number: u64) -> &'static [u8] {
    let rank = usize::try_from(mix(number ^ 0x5eed) % 1000).expect("below 1000");
    let bytes = match rank {
        0..500 => 200 + rank * 2 / 5,
        500..900 => 400 + (rank - 500) * 11 / 4,
        900..990 => 1500 + (rank - 900) * 72,
        _ => 8000,
    };
    &BODY[..bytes]
}

/// Claims and completes a fresh key.
pub(crate) fn pair(store: &Store, number: u64) {
    match store.claim(scope(&key(number)), fingerprint()) {
        Ok(Claim::Granted(permit)) => {
            permit.complete(response(number)).expect("the store takes a response");
        }
        other => panic!("a fresh key is granted, not {other:?}"),
    }
}

/// A store with so many keys, in a directory that goes with it.
pub(crate) fn filled(options: Options, keys: u64) -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    let store = options.open(dir.path()).expect("a new store opens");
    (0..keys).for_each(|number| pair(&store, number));
    (store, dir)
}

/// As criterion sees it: `cargo test` runs every routine once, and measures nothing.
pub(crate) fn is_measured() -> bool {
    let asked = |name: &str| std::env::args().any(|arg| arg == name);
    asked("--bench") && !asked("--test")
}
