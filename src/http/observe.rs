//! What the layer tells about itself: `tracing` events and, with the feature `metrics`, counters
//! and histograms. Names are stable; a scope is shown as a hash, a body never.
//!
//! | metric | kind, labels |
//! |---|---|
//! | `oncelog_http_claims_total` | counter; `answer`: as of a claim, or error |
//! | `oncelog_http_refusals_total` | counter; `code`: as in the problem document |
//! | `oncelog_http_ends_total` | counter; `end`: how a run ended |
//! | `oncelog_http_commit_seconds` | histogram; `of`: claim, complete |
//! | `oncelog_http_runs` | gauge |
//! | `oncelog_store_...` | gauges; see `record_stats` |

use std::time::Duration;

use crate::clock::real_monotonic;
use crate::http::backend::Answer;
use crate::http::problem::Code;

pub(crate) const TARGET: &str = "oncelog::http";

/// How a run ended, as the store was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Completed,
    Released,
    GivenUp,
    Superseded,
    NotRecorded,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            End::Completed => "completed",
            End::Released => "released",
            End::GivenUp => "given_up",
            End::Superseded => "superseded",
            End::NotRecorded => "not_recorded",
        }
    }
}

pub(crate) fn claimed<P, E: std::fmt::Display>(answer: &Result<Answer<P>, E>) {
    let answer = match answer {
        Ok(Answer::Granted(_)) => "granted",
        Ok(Answer::Replay(_)) => "replay",
        Ok(Answer::InProgress(_)) => "in_progress",
        Ok(Answer::Conflict(_)) => "conflict",
        Ok(Answer::Orphaned(_)) => "orphaned",
        Err(error) => {
            tracing::error!(target: TARGET, %error, "claim failed");
            "error"
        }
    };
    tracing::debug!(target: TARGET, answer, "claim answered");
    #[cfg(feature = "metrics")]
    metrics::counter!("oncelog_http_claims_total", "answer" => answer).increment(1);
}

pub(crate) fn refused(code: Code) {
    tracing::debug!(target: TARGET, code = code.as_str(), "request refused");
    #[cfg(feature = "metrics")]
    metrics::counter!("oncelog_http_refusals_total", "code" => code.as_str()).increment(1);
}

pub(crate) fn ended(end: End) {
    tracing::debug!(target: TARGET, end = end.as_str(), "attempt ended");
    #[cfg(feature = "metrics")]
    metrics::counter!("oncelog_http_ends_total", "end" => end.as_str()).increment(1);
}

/// The end of an attempt did not reach the store, which leaves an orphan.
pub(crate) fn not_recorded(what: &'static str, error: &dyn std::error::Error) {
    tracing::error!(target: TARGET, error = %error, what, "the end of an attempt was not recorded");
    ended(End::NotRecorded);
}

/// One more run, until what this returns is dropped. A count that was read before it is set would
/// be that of another moment, and of one layer alone.
pub(crate) fn running() -> Running {
    #[cfg(feature = "metrics")]
    metrics::gauge!("oncelog_http_runs").increment(1);
    Running
}

/// A run in the count of runs.
pub(crate) struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        #[cfg(feature = "metrics")]
        metrics::gauge!("oncelog_http_runs").decrement(1);
    }
}

/// What a commit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    Claim,
    Complete,
}

/// Times a commit of the store.
pub(crate) struct Timed {
    started: Duration,
}

impl Timed {
    pub(crate) fn start() -> Timed {
        Timed { started: real_monotonic() }
    }

    pub(crate) fn end(self, of: Commit) {
        let took = real_monotonic().saturating_sub(self.started);
        let of = if of == Commit::Claim { "claim" } else { "complete" };
        tracing::trace!(target: TARGET, of, micros = took.as_micros(), "committed");
        #[cfg(feature = "metrics")]
        metrics::histogram!("oncelog_http_commit_seconds", "of" => of).record(took.as_secs_f64());
    }
}

/// Publishes the counters of an embedded store as gauges, `oncelog_store_` and the name of the
/// field: call it whenever the metrics are read.
#[cfg(feature = "metrics")]
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub fn record_stats(stats: &crate::stats::Stats) {
    let batch = stats.records as f64 / stats.commit_batches.max(1) as f64;
    for (name, value) in [
        ("oncelog_store_responses", stats.responses as f64),
        ("oncelog_store_in_flight", stats.in_flight as f64),
        ("oncelog_store_orphans", stats.orphans as f64),
        ("oncelog_store_segments", stats.segments as f64),
        ("oncelog_store_disk_bytes", stats.disk_bytes as f64),
        ("oncelog_store_headroom_bytes", stats.headroom_bytes as f64),
        ("oncelog_store_reserved_bytes", stats.reserved_bytes as f64),
        ("oncelog_store_index_bytes", stats.index_bytes as f64),
        ("oncelog_store_granted", stats.granted as f64),
        ("oncelog_store_replayed", stats.replayed as f64),
        ("oncelog_store_conflicts", stats.conflicts as f64),
        ("oncelog_store_waits", stats.waits as f64),
        ("oncelog_store_refused", stats.refused as f64),
        ("oncelog_store_orphans_expired", stats.orphans_expired as f64),
        ("oncelog_store_records_per_commit", batch),
    ] {
        metrics::gauge!(name).set(value);
    }
}
