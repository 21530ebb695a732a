//! Orphans, take-overs, and attempts thought dead that go on.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::Harness;
use crate::conformance::case::{CALLERS, Case, Checked, KEY, body, ensure, is_superseded, kind};
use crate::engine::outcome::OrphanCause;
use crate::http::backend::{Answer, Backend, BackendPermit, OrphansShow};
use crate::scope::Scope;

pub(crate) async fn an_attempt_given_up_is_an_orphan_with_cause_failed<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let permit = case.grant().await?;
    let (operation, token) = (permit.operation(), permit.token());
    case.give_up(permit).await?;
    let orphan = case.orphan().await?;
    ensure(orphan.cause == OrphanCause::Failed, format!("{:?}", orphan.cause))?;
    ensure((orphan.operation, orphan.token, orphan.attempt) == (operation, token, 1), "not its own")
}

pub(crate) async fn a_dropped_permit_leaves_an_orphan_never_a_free_scope<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let permit = case.grant().await?;
    let lease = permit.lease() + Duration::from_secs(1);
    drop(permit);
    if case.store.promises().orphans == OrphansShow::ByLease {
        match case.claim().await? {
            Answer::InProgress(_) | Answer::Orphaned(_) => {}
            other => return Err(format!("a dropped permit was {}", kind(&other))),
        }
        case.harness.pass(lease).await;
    }
    case.orphan().await.map(drop)
}

pub(crate) async fn a_take_over_is_the_next_attempt_of_the_same_operation<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let first = case.grant().await?;
    let (operation, token) = (first.operation(), first.token());
    case.give_up(first).await?;
    let second = case.succeed(&case.orphan().await?).await?;
    ensure(second.operation() == operation, "another operation")?;
    ensure(second.token() > token, "the token did not increase")?;
    ensure(second.attempt() == 2, format!("attempt {}", second.attempt()))?;
    ensure(second.cause() == Some(OrphanCause::Failed), format!("{:?}", second.cause()))
}

pub(crate) async fn one_of_many_take_overs_is_granted<H: Harness>(case: Case<'_, H>) -> Checked {
    let first = case.grant().await?;
    case.give_up(first).await?;
    let seen = case.orphan().await?.token;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (store, lease) = (case.store.clone(), case.harness.shortest_lease());
        callers.spawn(async move { store.take_over(KEY, body(), seen, lease).await });
    }
    let answers = callers.join_all().await;
    let granted = answers.iter().flatten().filter(|answer| kind(answer) == "granted").count();
    ensure(granted == 1, format!("{granted} of {CALLERS} were granted"))
}

pub(crate) async fn a_take_over_names_the_attempt_that_it_replaces<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let first = case.grant().await?;
    case.give_up(first).await?;
    let seen = case.orphan().await?;
    let second = case.succeed(&seen).await?;
    // It runs now, so nobody replaces it by naming the first.
    match case.take_over(&seen).await? {
        Answer::InProgress(_) => {}
        other => return Err(format!("a running attempt was {}", kind(&other))),
    }
    case.give_up(second).await?;
    match case.take_over(&seen).await? {
        Answer::Orphaned(orphan) if orphan.attempt == 2 => Ok(()),
        other => Err(format!("the second attempt was {} by the first's name", kind(&other))),
    }
}

pub(crate) async fn a_superseded_attempt_changes_nothing<H: Harness>(case: Case<'_, H>) -> Checked {
    let first = case.grant().await?;
    case.lapse(&first).await;
    let second = case.succeed(&case.orphan().await?).await?;
    let (store, lease) = (&case.store, case.harness.shortest_lease());
    ensure(is_superseded(&store.renew(&first, lease).await), "renew")?;
    ensure(is_superseded(&store.save_checkpoint(&first, b"late").await), "save_checkpoint")?;
    ensure(is_superseded(&store.complete(&first, &[b"late"]).await), "complete")?;
    case.complete(&second, &[b"the second's"]).await?;
    let kept = case.replay().await?;
    ensure(kept.response.as_deref() == Some(b"the second's"), "the zombie's response is there")?;

    let scope = Scope { key: "import-2", ..KEY };
    for deed in ["release", "give up"] {
        let first = case.grant_of(scope).await?;
        case.lapse(&first).await;
        let seen = first.token();
        let answer = store.take_over(scope, body(), seen, lease).await;
        let Ok(Answer::Granted(second)) = answer else { return Err("no take-over".into()) };
        let told = match deed {
            "release" => store.release(&first).await,
            _ => store.give_up(&first).await,
        };
        ensure(is_superseded(&told), deed)?;
        match case.claim_as(scope, body()).await? {
            Answer::InProgress(_) => {}
            other => return Err(format!("after a late {deed} it is {}", kind(&other))),
        }
        case.release(&second).await?;
    }
    Ok(())
}

pub(crate) async fn the_newest_checkpoint_is_shown_to_the_next_attempt<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let first = case.grant().await?;
    ensure(first.checkpoint().is_none(), "a first attempt has a checkpoint")?;
    for saved in [&b"one"[..], b"two"] {
        let told = case.store.save_checkpoint(&first, saved).await;
        told.map_err(|error| error.to_string())?;
    }
    case.give_up(first).await?;
    let orphan = case.orphan().await?;
    ensure(orphan.checkpoint.as_deref() == Some(b"two"), "not with the orphan")?;
    let second = case.succeed(&orphan).await?;
    ensure(second.checkpoint() == Some(b"two"), "not with the next attempt")
}

pub(crate) async fn a_lapsed_attempt_that_nobody_took_over_still_completes<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let permit = case.grant().await?;
    case.lapse(&permit).await;
    case.orphan().await?;
    case.complete(&permit, &[b"late, but alone"]).await?;
    case.replay().await.map(drop)
}
