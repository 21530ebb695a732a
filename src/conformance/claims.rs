//! Claims, replays, conflicts, releases, and who waits for them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::conformance::Harness;
use crate::conformance::case::{CALLERS, Case, Checked, KEY, SOON, body, ensure, kind};
use crate::engine::outcome::ConflictState;
use crate::http::backend::{Answer, Backend, BackendPermit};
use crate::scope::{Fingerprint, Scope};

pub(crate) async fn one_of_many_callers_is_granted<H: Harness>(case: Case<'_, H>) -> Checked {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (store, lease) = (case.store.clone(), case.harness.shortest_lease());
        callers.spawn(async move { store.claim(KEY, body(), lease).await });
    }
    let answers = callers.join_all().await;
    let count = |sought| answers.iter().flatten().filter(|answer| kind(answer) == sought).count();
    let (granted, running) = (count("granted"), count("in progress"));
    let seen = format!("{granted} granted, {running} in progress of {CALLERS}");
    ensure((granted, running) == (1, CALLERS - 1), seen)
}

pub(crate) async fn a_completed_operation_is_replayed_byte_for_byte<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let every_byte: Vec<u8> = (0..=255).collect();
    let (empty, permit) = (Vec::new(), case.grant().await?);
    case.complete(&permit, &[b"head", &every_byte, &empty]).await?;
    let completed = case.replay().await?;
    let wanted = [&b"head"[..], &every_byte].concat();
    ensure(completed.response.as_deref() == Some(&wanted[..]), "other bytes came back")?;
    ensure(completed.operation == permit.operation(), "another operation came back")?;
    ensure(completed.token == permit.token(), "another attempt came back")
}

pub(crate) async fn another_fingerprint_is_a_conflict_in_every_state<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let other = Fingerprint::of(b"another body");
    let check = async |state: ConflictState| match case.claim_as(KEY, other).await? {
        Answer::Conflict(conflict) if conflict.state == state => Ok(()),
        Answer::Conflict(conflict) => Err(format!("{:?} for {state:?}", conflict.state)),
        answer => Err(format!("{} for {state:?}", kind(&answer))),
    };
    let permit = case.grant().await?;
    check(ConflictState::InProgress).await?;
    case.give_up(permit).await?;
    check(ConflictState::Orphaned).await?;
    let permit = case.succeed(&case.orphan().await?).await?;
    case.complete(&permit, &[b"response"]).await?;
    check(ConflictState::Completed).await
}

pub(crate) async fn the_fields_of_a_scope_never_run_into_each_other<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let _first = case.grant().await?;
    for scope in [
        Scope { organization: "acmeP", method: "OST", ..KEY },
        Scope { method: "POST/", path: "contacts", ..KEY },
        Scope { path: "/contactsi", key: "mport-1", ..KEY },
        Scope { organization: "", method: "acmePOST", ..KEY },
        Scope { key: "IMPORT-1", ..KEY },
        Scope { key: "import-1 ", ..KEY },
    ] {
        case.grant_of(scope).await?;
    }
    Ok(())
}

pub(crate) async fn a_release_frees_the_scope_for_another_operation<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let first = case.grant().await?;
    case.release(&first).await?;
    let second = case.grant().await?;
    ensure(second.operation() != first.operation(), "the operation id came twice")?;
    ensure(second.token() > first.token(), "the token did not increase")?;
    ensure(second.attempt() == 1 && second.cause().is_none(), "it is not a first attempt")
}

pub(crate) async fn a_completion_may_be_asked_for_again<H: Harness>(case: Case<'_, H>) -> Checked {
    let permit = case.grant().await?;
    let first = case.complete(&permit, &[b"response"]).await?;
    let again = case.complete(&permit, &[b"response"]).await?;
    ensure(first.completed_at == again.completed_at, "it completed twice")
}

pub(crate) async fn a_completion_lets_every_waiting_caller_go_on<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let permit = case.grant().await?;
    let waiting = case.waiting(&permit).await;
    case.complete(&permit, &[b"response"]).await?;
    let answers = timeout(SOON, waiting.join_all()).await.map_err(|_| "some still wait")?;
    for answer in answers {
        let answer = answer?;
        ensure(kind(&answer) == "replay", format!("a waiting caller was {}", kind(&answer)))?;
    }
    Ok(())
}

pub(crate) async fn a_release_lets_one_waiting_caller_run<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let permit = case.grant().await?;
    let mut waiting = case.waiting(&permit).await;
    case.release(&permit).await?;
    let next = timeout(SOON, waiting.join_next()).await.map_err(|_| "nobody was woken")?;
    let next = next.and_then(Result::ok).ok_or("a waiting caller failed")??;
    let Answer::Granted(second) = next else {
        return Err(format!("the first one woken was {}", kind(&next)));
    };
    case.complete(&second, &[b"response"]).await?;
    let others = timeout(SOON, waiting.join_all()).await.map_err(|_| "some still wait")?;
    for answer in others {
        let answer = answer?;
        ensure(kind(&answer) == "replay", format!("another one was {}", kind(&answer)))?;
    }
    Ok(())
}

pub(crate) async fn a_claim_whose_future_is_dropped_is_not_left_behind<H: Harness>(
    case: Case<'_, H>,
) -> Checked {
    let lease = case.harness.shortest_lease();
    for number in 0..CALLERS {
        let key = format!("dropped-{number}");
        let scope = Scope { key: &key, ..KEY };
        {
            let mut claim = pin!(case.store.claim(scope, body(), lease));
            // Polled once: what it has asked for may be under way.
            let polled = poll_fn(|cx| Poll::Ready(claim.as_mut().poll(cx))).await;
            if let Poll::Ready(Ok(Answer::Granted(permit))) = polled {
                case.release(&permit).await?;
            }
        }
        let again = async {
            loop {
                match case.claim_as(scope, body()).await? {
                    Answer::Granted(permit) => return Ok(permit),
                    Answer::InProgress(_) => tokio::task::yield_now().await,
                    other => return Err(format!("a dropped claim is {}", kind(&other))),
                }
            }
        };
        timeout(SOON, again).await.map_err(|_| "a dropped claim still runs")??;
    }
    Ok(())
}
