//! The routes that only look: figures, segments, and orphans a page at a time.

use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::admin::alarms::{Subject, alarms};
use crate::admin::authentication::Operator;
use crate::admin::figures::figures;
use crate::admin::problem::{Code, Problem};
use crate::admin::read::{blocking, json, ms, token};
use crate::admin::{Context, Shared, saved};
use crate::clock::{Clock, SystemClock, duration_ms};
use crate::config::Durability;
use crate::engine::outcome::{OrphanCause, OrphanInfo};
use crate::stats::{CommitLatency, Recovery, SegmentState};

/// Damaged places that are told; `figures.damaged_records` counts them all.
const DAMAGE_TOLD_MAX: usize = 100;

pub(crate) async fn stats(
    State(context): State<Shared>,
    Extension(operator): Extension<Operator>,
) -> Result<Response<Body>, Problem> {
    blocking(&context, move |context| Ok(json(&stats_of(context, &operator)))).await
}

fn stats_of(context: &Context, operator: &Operator) -> Value {
    let store = &context.store;
    let (stats, recovery, durability) = (store.stats(), store.recovery(), store.durability());
    let trouble = store.check_open().err();
    let subject = Subject { stats: &stats, recovery, durability, trouble: trouble.as_ref() };
    let told = figures(&stats).into_iter().map(|figure| (figure.name.into(), figure.value.into()));
    let damage = store.damage();
    let damage = damage.iter().take(DAMAGE_TOLD_MAX).map(
        |place| json!({ "segment": place.segment, "offset": place.offset, "what": place.what }),
    );
    json!({
        "operator": operator.name(),
        "now_ms": ms(SystemClock.wall()),
        "store_time_ms": ms(store.time()),
        "open": trouble.is_none(),
        "figures": told.collect::<Map<String, Value>>(),
        "orphan_ended_last_ms": stats.orphan_ended_last.map(ms),
        "quarantined_until_ms": stats.quarantined_until.map(ms),
        "commit_latency": latency(&store.commit_latency()),
        "durability": match durability {
            Durability::Synced => "synced",
            Durability::Buffered { .. } => "buffered",
        },
        "ttl_ms": duration_ms(store.ttl()),
        "response_bytes_max": store.response_bytes_max(),
        "recovery": recovery_of(recovery),
        "damage": damage.collect::<Vec<_>>(),
        "alarms": alarms(&subject),
        "backups": context.backups.is_some(),
    })
}

fn latency(latency: &CommitLatency) -> Value {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let buckets = latency.buckets();
    let buckets =
        buckets.map(|(longest, count)| json!({ "le_us": longest.map(us), "count": count }));
    json!({
        "buckets": buckets.collect::<Vec<_>>(),
        "count": latency.count(),
        "total_us": us(latency.total()),
    })
}

fn recovery_of(recovery: &Recovery) -> Value {
    let quarantined = recovery.quarantined.iter();
    json!({
        "clean": recovery.clean,
        "epoch": recovery.epoch,
        "segments": recovery.segments,
        "segments_scanned": recovery.segments_scanned,
        "hints_rebuilt": recovery.hints_rebuilt,
        "records_scanned": recovery.records_scanned,
        "cut_bytes": recovery.cut_bytes,
        "cut": recovery.cut.map(|(segment, what)| json!({ "segment": segment, "what": what })),
        "segments_discarded": recovery.segments_discarded,
        "responses": recovery.responses,
        "orphans": recovery.orphans,
        "erasures_finished": recovery.erasures_finished,
        "warnings": recovery.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "quarantined": quarantined
            .map(|one| json!({ "segment": one.segment, "until_ms": one.until.map(ms) }))
            .collect::<Vec<_>>(),
    })
}

pub(crate) async fn segments(State(context): State<Shared>) -> Result<Response<Body>, Problem> {
    blocking(&context, |context| {
        let store = &context.store;
        let segments = store.segments();
        let segments = segments.iter().map(|segment| {
            json!({
                "segment": segment.segment,
                "state": match segment.state {
                    SegmentState::Tail => "tail",
                    SegmentState::Sealed => "sealed",
                    SegmentState::Quarantined => "quarantined",
                },
                "disk_bytes": segment.disk_bytes,
                "records": segment.records,
                "responses": segment.responses,
                "begun_at_ms": known(segment.begun_at),
                "newest_at_ms": known(segment.newest_at),
                "expires_at_ms": segment.expires_at.map(ms),
            })
        });
        let segments: Vec<Value> = segments.collect();
        Ok(json(&json!({ "store_time_ms": ms(store.time()), "segments": segments })))
    })
    .await
}

/// A segment whose file was lost has no times, which the store tells as 1970.
fn known(time: SystemTime) -> Option<u64> {
    Some(ms(time)).filter(|&ms| ms > 0)
}

/// Which orphans are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// Those with greater tokens.
    after: Option<String>,
    limit: Option<usize>,
    /// Those whose organization, method, path, key or operation has this in it, whatever the case
    /// of ASCII letters.
    search: Option<String>,
}

const ORPHANS_DEFAULT: usize = 100;
const ORPHANS_MAX: usize = 1000;

pub(crate) async fn orphans(
    State(context): State<Shared>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response<Body>, Problem> {
    let asked = asked.map_err(|error| Problem::with(Code::Invalid, error.body_text()))?.0;
    let limit = asked.limit.unwrap_or(ORPHANS_DEFAULT);
    if !(1..=ORPHANS_MAX).contains(&limit) {
        return Err(Problem::with(Code::Invalid, "limit is from 1 to 1000"));
    }
    let after = asked.after.as_deref().map(token).transpose()?;
    blocking(&context, move |context| {
        let mut orphans = context.store.unresolved()?;
        let total = orphans.len();
        if let Some(sought) = asked.search.filter(|sought| !sought.is_empty()) {
            let sought = sought.to_ascii_lowercase();
            orphans.retain(|info| has(info, &sought));
        }
        let matching = orphans.len();
        orphans.sort_unstable_by_key(OrphanInfo::token);
        let begins = orphans.partition_point(|info| Some(info.token()) <= after);
        let ends = orphans.len().min(begins + limit);
        let shown = &orphans[begins..ends];
        let next = (ends < matching).then(|| shown.last().map(|info| info.token().to_string()));
        Ok(json(&json!({
            "total": total,
            "matching": matching,
            "before": begins,
            "next": next.flatten(),
            "now_ms": ms(context.store.time()),
            "orphans": shown.iter().map(orphan).collect::<Vec<_>>(),
        })))
    })
    .await
}

fn has(info: &OrphanInfo, sought: &str) -> bool {
    let scope = info.scope();
    [scope.organization, scope.method, scope.path, scope.key]
        .iter()
        .any(|field| field.to_ascii_lowercase().contains(sought))
        || info.operation().to_string().contains(sought)
}

fn orphan(info: &OrphanInfo) -> Value {
    let scope = info.scope();
    json!({
        "token": info.token().to_string(),
        "organization": scope.organization,
        "method": scope.method,
        "path": scope.path,
        "key": scope.key,
        "operation": info.operation().to_string(),
        "fingerprint": info.fingerprint().to_string(),
        "attempt": info.attempt(),
        "cause": cause(info.cause()),
        "claimed_at_ms": ms(info.claimed_at()),
        "checkpoint_bytes": info.checkpoint().map(<[u8]>::len),
        "checkpoint_status": info.checkpoint().and_then(saved::status),
    })
}

fn cause(cause: OrphanCause) -> &'static str {
    match cause {
        OrphanCause::Crash => "crash",
        OrphanCause::Dropped => "dropped",
        OrphanCause::LeaseLapsed => "lease_lapsed",
        OrphanCause::Failed => "failed",
    }
}
