//! The table of what is counted: a name in JSON, a name for Prometheus, and a help line for each
//! figure, so that the two forms never differ.

use crate::stats::Stats;

/// Whether a figure only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Counted since the store was opened.
    Counter,
    /// How much there is now.
    Gauge,
}

/// One number of a store.
pub(crate) struct Figure {
    /// Its name in JSON, which is that of the field.
    pub(crate) name: &'static str,
    /// Its name for Prometheus; figures of one name stand together, told apart by a label.
    pub(crate) metric: &'static str,
    pub(crate) label: Option<(&'static str, &'static str)>,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    pub(crate) value: u64,
}

struct Metric {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

const CLAIMS: Metric = Metric {
    name: "oncelog_store_claims_total",
    kind: Kind::Counter,
    help: "Claims by what they were answered.",
};
const ORPHANED: Metric = Metric {
    name: "oncelog_store_orphaned_total",
    kind: Kind::Counter,
    help: "Attempts that became orphans, by cause.",
};
const ENDED: Metric = Metric {
    name: "oncelog_store_orphans_ended_total",
    kind: Kind::Counter,
    help: "Orphans that ended, by what ended them.",
};

impl Metric {
    fn of(&self, name: &'static str, label: (&'static str, &'static str), value: u64) -> Figure {
        let Metric { name: metric, kind, help } = *self;
        Figure { name, metric, label: Some(label), kind, help, value }
    }
}

fn counter(name: &'static str, metric: &'static str, help: &'static str, value: u64) -> Figure {
    Figure { name, metric, label: None, kind: Kind::Counter, help, value }
}

fn gauge(name: &'static str, metric: &'static str, help: &'static str, value: u64) -> Figure {
    Figure { name, metric, label: None, kind: Kind::Gauge, help, value }
}

/// All of them, figures of one metric together.
pub(crate) fn figures(stats: &Stats) -> Vec<Figure> {
    let mut figures = claims(stats);
    figures.extend(gauges(stats));
    figures.extend(work(stats));
    figures.extend(alarms(stats));
    figures
}

fn claims(stats: &Stats) -> Vec<Figure> {
    vec![
        CLAIMS.of("granted", ("answer", "granted"), stats.granted),
        CLAIMS.of("replayed", ("answer", "replay"), stats.replayed),
        CLAIMS.of("conflicts", ("answer", "conflict"), stats.conflicts),
        CLAIMS.of("waits", ("answer", "in_progress"), stats.waits),
        CLAIMS.of("refused", ("answer", "refused"), stats.refused),
        ORPHANED.of("orphaned_crash", ("cause", "crash"), stats.orphaned_crash),
        ORPHANED.of("orphaned_dropped", ("cause", "dropped"), stats.orphaned_dropped),
        ORPHANED.of(
            "orphaned_lease_lapsed",
            ("cause", "lease_lapsed"),
            stats.orphaned_lease_lapsed,
        ),
        ORPHANED.of("orphaned_failed", ("cause", "failed"), stats.orphaned_failed),
        ENDED.of("orphans_expired", ("by", "expiry"), stats.orphans_expired),
        ENDED.of("orphans_taken_over", ("by", "take_over"), stats.orphans_taken_over),
        ENDED.of("orphans_resolved", ("by", "resolve"), stats.orphans_resolved),
        ENDED.of("orphans_released", ("by", "release"), stats.orphans_released),
    ]
}

fn gauges(stats: &Stats) -> Vec<Figure> {
    vec![
        gauge(
            "responses",
            "oncelog_store_responses",
            "Responses that are kept, those past their expiry included.",
            stats.responses,
        ),
        gauge("in_flight", "oncelog_store_in_flight", "Claims that run now.", stats.in_flight),
        gauge(
            "orphans",
            "oncelog_store_orphans",
            "Claims whose outcome is unknown.",
            stats.orphans,
        ),
        gauge("segments", "oncelog_store_segments", "Segments on disk.", stats.segments),
        gauge(
            "disk_bytes",
            "oncelog_store_disk_bytes",
            "Bytes of disk that the store takes.",
            stats.disk_bytes,
        ),
        gauge(
            "reserved_bytes",
            "oncelog_store_reserved_bytes",
            "Bytes kept so that every open claim can end.",
            stats.reserved_bytes,
        ),
        gauge(
            "headroom_bytes",
            "oncelog_store_headroom_bytes",
            "Bytes that can still be taken; below 64 KiB new claims are refused.",
            stats.headroom_bytes,
        ),
        gauge(
            "index_bytes",
            "oncelog_store_index_bytes",
            "Bytes of memory of the index.",
            stats.index_bytes,
        ),
        gauge(
            "index_overflow",
            "oncelog_store_index_overflow",
            "Responses that found no room in their lines of the index.",
            stats.index_overflow,
        ),
        gauge(
            "recent_bytes",
            "oncelog_store_recent_bytes",
            "Bytes of memory for responses whose segment has no hint file yet.",
            stats.recent_bytes,
        ),
    ]
}

fn work(stats: &Stats) -> Vec<Figure> {
    vec![
        counter(
            "commit_batches",
            "oncelog_store_commit_batches_total",
            "Batches of records that were committed, failures included.",
            stats.commit_batches,
        ),
        counter("records", "oncelog_store_records_total", "Records appended.", stats.records),
        counter(
            "appended_bytes",
            "oncelog_store_appended_bytes_total",
            "Bytes appended.",
            stats.appended_bytes,
        ),
        counter(
            "scrubbed_bytes",
            "oncelog_store_scrubbed_bytes_total",
            "Bytes that the scrub has read.",
            stats.scrubbed_bytes,
        ),
        counter(
            "scrub_rounds",
            "oncelog_store_scrub_rounds_total",
            "How often the scrub has read all sealed segments.",
            stats.scrub_rounds,
        ),
    ]
}

fn alarms(stats: &Stats) -> Vec<Figure> {
    vec![
        gauge(
            "clock_held",
            "oncelog_store_clock_held",
            "Whether a jump of the clock is held back, 0 or 1.",
            stats.clock_held.into(),
        ),
        gauge(
            "segments_without_expiry",
            "oncelog_store_segments_without_expiry",
            "Segments that are kept because a response in them has no expiry.",
            stats.segments_without_expiry,
        ),
        gauge(
            "damaged_records",
            "oncelog_store_damaged_records",
            "Damaged places that the scrub knows of.",
            stats.damaged_records,
        ),
        gauge(
            "quarantined_segments",
            "oncelog_store_quarantined_segments",
            "Segments in quarantine.",
            stats.quarantined_segments,
        ),
    ]
}
