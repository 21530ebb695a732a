//! What parent and child know of a key without a word between them: its scope, how its claim ends,
//! and its response.

use oncelog::{Fingerprint, Scope};

/// A small generator of numbers; the same seed gives the same run.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A generator that both processes make of a key.
fn rng_of(key: &str) -> Rng {
    let seed = key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Rng::new(seed)
}

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
    match rng_of(key).below(100) {
        0..86 => Plan::Complete,
        86..97 => Plan::Release,
        _ => Plan::Stay,
    }
}

/// The response of a key: often short, now and then empty, up to 32 KiB.
pub(crate) fn response(key: &str) -> Vec<u8> {
    let mut rng = rng_of(key);
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
