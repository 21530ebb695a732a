//! The requests and responses of every row: what a number stands for, whatever the engine.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use oncelog::Scope;

use crate::engines::Result;

pub const SEED: u64 = 0x6f6e_6365_6c6f_6721;
pub const DAY_MS: u64 = 24 * 3600 * 1000;
/// How long a response is kept.
pub const TTL_MS: u64 = 30 * DAY_MS;
/// 2026-01-01 01:00 UTC: an hour into a day, so that no bucket of a day ends amid a step.
pub const START_MS: u64 = 20_454 * DAY_MS + 3_600_000;

const ORGANIZATIONS: u64 = 5_000;
const PATHS: [&str; 6] = [
    "/v1/contacts",
    "/v1/invoices",
    "/v1/orders/lines",
    "/v1/messages",
    "/v1/payments/refunds",
    "/v1/deals",
];
const KEYS: [&str; 4] = ["hubspot-contact", "stripe-invoice", "crm-sync-deal", "import-batch"];
/// Points of the distribution of response sizes, joined by straight lines over ln(bytes).
const SIZES: [(f64, f64); 5] =
    [(0.0, 100.0), (0.5, 400.0), (0.9, 1_500.0), (0.99, 8_000.0), (1.0, 16_000.0)];
const TEXT_BYTES: usize = 1 << 20;

/// One request, in buffers that are used again.
#[derive(Default)]
pub struct Request {
    /// The four fields, with a zero byte between them: the key of the peers.
    joined: String,
    ends: [usize; 3],
    pub fingerprint: [u8; 16],
    pub now_ms: u64,
}

impl Request {
    pub fn key(&self) -> &[u8] {
        self.joined.as_bytes()
    }

    pub fn scope(&self) -> Scope<'_> {
        let [organization, method, path] = self.ends;
        Scope {
            organization: &self.joined[..organization],
            method: &self.joined[organization + 1..method],
            path: &self.joined[method + 1..path],
            key: &self.joined[path + 1..],
        }
    }

    pub fn expires_ms(&self) -> u64 {
        self.now_ms + TTL_MS
    }

    pub fn set(&mut self, organization: &str, path: &str, key: std::fmt::Arguments<'_>) {
        self.joined.clear();
        for (end, field) in [organization, "POST", path].into_iter().enumerate() {
            self.joined.push_str(field);
            self.ends[end] = self.joined.len();
            self.joined.push('\0');
        }
        self.joined.write_fmt(key).expect("a string takes everything");
    }
}

/// The generator. The same seed gives the same bytes, on every run and for every engine.
pub struct Workload {
    organizations: Vec<String>,
    /// Printable random text that responses are cut from.
    text: Vec<u8>,
    sizes: Vec<u32>,
    now_ms: AtomicU64,
}

impl Workload {
    /// Another that gives the same bytes, at the same time.
    pub fn copy(&self) -> Workload {
        let now_ms = AtomicU64::new(self.now_ms());
        let (organizations, text) = (self.organizations.clone(), self.text.clone());
        Workload { organizations, text, sizes: self.sizes.clone(), now_ms }
    }

    pub fn new() -> Workload {
        const DIGITS: &[u8; 64] =
            b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .";
        let organizations = (0..ORGANIZATIONS).map(|nth| {
            let (high, low) = (mix(SEED ^ nth), mix(mix(SEED ^ nth)));
            let mut uuid = format!("{high:016x}{low:016x}");
            [8, 13, 18, 23].into_iter().for_each(|at| uuid.insert(at, '-'));
            uuid
        });
        let text = (0..TEXT_BYTES as u64).map(|at| DIGITS[(mix(SEED + at) % 64) as usize]);
        let sizes = (0..4096).map(|step| size_at((f64::from(step) + 0.5) / 4096.0));
        Workload {
            organizations: organizations.collect(),
            text: text.collect(),
            sizes: sizes.collect(),
            now_ms: AtomicU64::new(START_MS),
        }
    }

    /// Moves the time that requests carry. Relaxed: set between runs, and a join orders it.
    pub fn set_now(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub fn request(&self, nth: u64, request: &mut Request) {
        let hash = mix(SEED ^ nth);
        let organization = &self.organizations[(hash % ORGANIZATIONS) as usize];
        let path = PATHS[(hash >> 20) as usize % PATHS.len()];
        let name = KEYS[(hash >> 30) as usize % KEYS.len()];
        request.set(organization, path, format_args!("{name}-{nth:06}-create-v1"));
        request.fingerprint[..8].copy_from_slice(&hash.to_le_bytes());
        request.fingerprint[8..].copy_from_slice(&mix(hash).to_le_bytes());
        request.now_ms = self.now_ms();
    }

    pub fn response(&self, nth: u64, response: &mut Vec<u8>) {
        let hash = mix(mix(SEED ^ nth));
        let bytes = self.sizes[(hash % 4096) as usize] as usize;
        let from = (hash >> 16) as usize % (TEXT_BYTES - 16_384);
        self.text_response(nth, bytes, from, response);
    }

    pub fn text_response(&self, nth: u64, bytes: usize, from: usize, response: &mut Vec<u8>) {
        response.clear();
        response.extend_from_slice(br#"{"id":""#);
        response.extend_from_slice(nth.to_string().as_bytes());
        response.extend_from_slice(br#"","object":"contact","text":""#);
        let rest = bytes.saturating_sub(response.len() + 2);
        response.extend_from_slice(&self.text[from..from + rest]);
        response.extend_from_slice(b"\"}");
    }
}

/// SplitMix64.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A rank from 0 to below `ranks`, about Zipfian with exponent 1.
pub fn zipf(random: u64, ranks: u64) -> u64 {
    let unit = (random >> 11) as f64 / (1u64 << 53) as f64;
    ((unit * ((ranks + 1) as f64).ln()).exp() as u64 - 1).min(ranks.saturating_sub(1))
}

fn size_at(quantile: f64) -> u32 {
    let upper = SIZES.iter().position(|&(at, _)| at > quantile).expect("a quantile is below 1");
    let ((from, low), (to, high)) = (SIZES[upper - 1], SIZES[upper]);
    let share = (quantile - from) / (to - from);
    (low.ln() + share * (high.ln() - low.ln())).exp() as u32
}

pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(what().into()) }
}

#[cfg(test)]
mod tests {
    use super::{Request, Workload, zipf};

    #[test]
    fn scopes_and_responses_have_the_stated_sizes() {
        let (workload, mut request) = (Workload::new(), Request::default());
        let mut sizes = Vec::new();
        for nth in 0..20_000 {
            workload.request(nth, &mut request);
            assert!((60..=120).contains(&request.key().len()), "{}", request.key().len());
            let mut response = Vec::new();
            workload.response(nth, &mut response);
            sizes.push(response.len());
        }
        sizes.sort_unstable();
        for (quantile, low, high) in [(0.5, 370, 430), (0.9, 1_400, 1_600), (0.99, 7_000, 9_000)] {
            let size = sizes[(quantile * 20_000.0) as usize];
            assert!((low..=high).contains(&size), "{quantile}: {size}");
        }
    }

    #[test]
    fn ranks_stay_below_their_number() {
        assert_eq!(zipf(0, 100), 0);
        assert_eq!(zipf(u64::MAX, 100), 99);
        assert_eq!(zipf(u64::MAX, 1), 0);
    }
}
