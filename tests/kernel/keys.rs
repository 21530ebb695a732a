//! What parent and child know of a key without a word between them: its scope, how its claim ends,
//! and its response.

use oncelog::{Fingerprint, Scope};

use crate::rng::Rng;

pub(crate) fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/v1/contacts", key }
}

pub(crate) fn fingerprint(key: &str) -> Fingerprint {
    Fingerprint::of(key.as_bytes())
}

/// How a child ends a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Complete,
    Release,
    /// It saves a checkpoint, and keeps the claim open.
    Stay,
}

pub(crate) fn plan(key: &str) -> Plan {
    match Rng::of(key).below(100) {
        0..86 => Plan::Complete,
        86..97 => Plan::Release,
        _ => Plan::Stay,
    }
}

/// The response of a key: often short, now and then empty, up to 32 KiB.
pub(crate) fn response(key: &str) -> Vec<u8> {
    let mut rng = Rng::of(key);
    rng.next();
    let limit = [0, 64, 1 << 10, 4 << 10, 32 << 10][(rng.next() >> 32) as usize % 5];
    let bytes = rng.below(limit + 1) as usize;
    (0..bytes.div_ceil(8)).flat_map(|_| rng.next().to_le_bytes()).take(bytes).collect()
}

/// What a claim that stays open saves.
pub(crate) fn checkpoint(key: &str) -> Vec<u8> {
    format!("half of {key}").into_bytes()
}

/// A number from the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}
