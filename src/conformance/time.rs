//! Leases, expiry and crashes.

use std::time::Duration;

use crate::conformance::Harness;
use crate::conformance::case::{CALLERS, Case, Checked, KEY, TTL, body, ensure, kind};
use crate::engine::outcome::OrphanCause;
use crate::http::backend::{Answer, Backend, BackendPermit, OrphansShow, Survives, TokensOrder};
use crate::scope::Scope;

pub(crate) async fn a_lease_that_is_over_makes_an_orphan_and_a_renewed_one_does_not<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let permit = case.grant().await?;
    let lease = permit.lease();
    for _ in 0..3 {
        case.harness.pass(lease * 2 / 3).await;
        let renewed = case.store.renew(&permit, case.harness.shortest_lease()).await;
        renewed.map_err(|error| error.to_string())?;
    }
    match case.claim().await? {
        Answer::InProgress(running) if running.retry_after <= lease => {}
        Answer::InProgress(_) => return Err("retry_after is beyond the lease".into()),
        other => return Err(format!("a renewed claim was {}", kind(&other))),
    }
    case.lapse(&permit).await;
    let orphan = case.orphan().await?;
    ensure(orphan.cause == OrphanCause::LeaseLapsed, format!("{:?}", orphan.cause))
}

pub(crate) async fn a_response_is_absent_from_its_expiry_on<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let first = case.grant().await?;
    let completed = case.complete(&first, &[b"response"]).await?;
    let lives = completed.expires_at.duration_since(completed.completed_at);
    ensure(matches!(lives, Ok(TTL)), format!("it expires after {lives:?}"))?;
    case.harness.pass(TTL - Duration::from_secs(5)).await;
    case.replay().await?;
    case.harness.pass(Duration::from_secs(10)).await;
    let second = case.grant().await?;
    ensure(second.operation() != first.operation(), "the operation id came twice")
}

pub(crate) async fn a_crash_keeps_what_was_acknowledged_and_orphans_what_was_open<H: Harness>(
    mut case: Case<'_, H>,
) -> Checked {
    let promises = case.store.promises();
    if promises.survives < Survives::ProcessDeath {
        return Ok(());
    }
    let done = Scope { key: "done", ..KEY };
    let permit = case.grant_of(done).await?;
    case.complete(&permit, &[b"response"]).await?;
    let open = case.grant().await?;
    let (operation, lease) = (open.operation(), open.lease() + Duration::from_secs(1));
    case.store = case.harness.crash(case.store).await;
    match case.claim_as(done, body()).await? {
        Answer::Replay(kept) if kept.response.as_deref() == Some(b"response") => {}
        other => return Err(format!("an acknowledged completion was {}", kind(&other))),
    }
    if promises.orphans == OrphansShow::ByLease {
        case.harness.pass(lease).await;
    }
    let orphan = case.orphan().await?;
    ensure(orphan.operation == operation, "the orphan is another operation")?;
    if promises.orphans == OrphansShow::AtOnce {
        ensure(orphan.cause == OrphanCause::Crash, format!("{:?}", orphan.cause))?;
    }
    let second = case.succeed(&orphan).await?;
    ensure(second.token() > open.token(), "the token did not increase across the crash")
}

pub(crate) async fn tokens_increase_and_operation_ids_never_come_twice<H: Harness>(
    mut case: Case<'_, H>,
) -> Checked {
    let promises = case.store.promises();
    let mut operations = Vec::new();
    let mut last = None;
    for round in 0..3 {
        for number in 0..CALLERS {
            let key = format!("{round}-{number}");
            let permit = case.grant_of(Scope { key: &key, ..KEY }).await?;
            operations.push(permit.operation());
            if promises.tokens == TokensOrder::WholeStore {
                let increases = last.is_none_or(|last| permit.token() > last);
                ensure(increases, "a later claim has a smaller token")?;
                last = Some(permit.token());
            }
            ensure(permit.token().get() < 1 << 63, "a token beyond an SQL bigint")?;
            case.release(&permit).await?;
        }
        if promises.survives >= Survives::ProcessDeath {
            case.store = case.harness.crash(case.store).await;
        }
    }
    let issued = operations.len();
    operations.sort_unstable();
    operations.dedup();
    ensure(operations.len() == issued, "an operation id came twice")
}
