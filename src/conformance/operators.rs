//! What an operator asks of a store: to look, to list, to settle orphans, and to forget.

use crate::conformance::Harness;
use crate::conformance::case::{Case, Checked, KEY, PermitOf, body, ensure, is_superseded, kind};
use crate::engine::outcome::OrphanCause;
use crate::http::backend::{
    Administer, Answer, Backend, BackendError, BackendPermit, ErrorKind, Holding, Unresolved,
};
use crate::scope::{Scope, Token};

/// What a scope holds, in a word.
fn held(holding: Option<&Holding>) -> &'static str {
    match holding {
        None => "free",
        Some(Holding::InProgress(_)) => "in progress",
        Some(Holding::Completed(_)) => "completed",
        Some(Holding::Orphaned(_)) => "orphaned",
    }
}

impl<H: Harness<Backend: Administer>> Case<'_, H> {
    async fn look(&self, scope: Scope<'_>) -> Result<Option<Holding>, String> {
        self.store.look_up(scope).await.map_err(|error| error.to_string())
    }

    async fn ensure_holds(&self, scope: Scope<'_>, wanted: &str) -> Checked {
        let found = self.look(scope).await?;
        ensure(held(found.as_ref()) == wanted, format!("{} was {found:?}", scope.key))
    }

    async fn list(&self, after: Option<Token>, limit: usize) -> Result<Vec<Unresolved>, String> {
        self.store.unresolved(after, limit).await.map_err(|error| error.to_string())
    }

    async fn resolve(&self, seen: Token) -> Checked {
        let resolved = self.store.resolve(KEY, seen, b"found by hand").await;
        let resolved = resolved.map_err(|error| error.to_string())?;
        ensure(resolved.response.as_deref() == Some(b"found by hand"), "another response")
    }

    async fn complete_scope(&self, scope: Scope<'_>) -> Checked {
        let permit = self.grant_of(scope).await?;
        self.complete(&permit, &[b"response"]).await.map(drop)
    }

    async fn give_up_scope(&self, scope: Scope<'_>) -> Result<Token, String> {
        let permit = self.grant_of(scope).await?;
        let token = permit.token();
        self.give_up(permit).await?;
        Ok(token)
    }

    /// That an attempt can no longer end.
    async fn ensure_superseded(&self, permit: &PermitOf<H>) -> Checked {
        let (store, lease) = (&self.store, permit.lease());
        ensure(is_superseded(&store.complete(permit, &[b"late"]).await), "it completed")?;
        ensure(is_superseded(&store.release(permit).await), "it was released")?;
        ensure(is_superseded(&store.give_up(permit).await), "it was given up")?;
        ensure(is_superseded(&store.renew(permit, lease).await), "it was renewed")
    }
}

pub(crate) async fn what_a_scope_holds_is_told_and_never_claimed<
    H: Harness<Backend: Administer>,
>(
    case: Case<'_, H>,
) -> Checked {
    case.ensure_holds(KEY, "free").await?;
    let permit = case.grant().await?;
    match case.look(KEY).await? {
        Some(Holding::InProgress(running)) => {
            ensure(running.token == permit.token(), "another attempt runs")?;
            ensure(running.operation == permit.operation(), "another operation runs")?;
        }
        other => return Err(format!("a running claim was {other:?}")),
    }
    case.complete(&permit, &[b"head ", b"body"]).await?;
    match case.look(KEY).await? {
        Some(Holding::Completed(completed)) => {
            ensure(completed.response.as_deref() == Some(b"head body"), "another response")?;
            ensure(completed.token == permit.token(), "another attempt completed")?;
        }
        other => return Err(format!("a completed scope was {other:?}")),
    }
    case.ensure_holds(Scope { key: "import-2", ..KEY }, "free").await
}

pub(crate) async fn orphans_are_listed_in_the_order_of_their_tokens<
    H: Harness<Backend: Administer>,
>(
    case: Case<'_, H>,
) -> Checked {
    let scope = |organization, key| Scope { organization, key, ..KEY };
    let orphans = [scope("acme", "1"), scope("globex", "2"), scope("acme", "3")];
    let mut tokens = Vec::new();
    for orphan in orphans {
        tokens.push((case.give_up_scope(orphan).await?, orphan));
    }
    case.complete_scope(scope("acme", "4")).await?;
    let _running = case.grant_of(scope("acme", "5")).await?;
    tokens.sort_by_key(|(token, _)| *token);
    let mut pages = case.list(None, 2).await?;
    ensure(pages.len() == 2, format!("{} of at most 2", pages.len()))?;
    pages.extend(case.list(Some(pages[1].orphan.token), 2).await?);
    ensure(pages.len() == 3, format!("{} of 3 orphans", pages.len()))?;
    for (listed, (token, scope)) in pages.iter().zip(&tokens) {
        let Unresolved { organization, method, path, key, fingerprint, orphan } = listed;
        let named = Scope { organization, method, path, key };
        ensure(named == *scope, format!("{named:?} in the place of {scope:?}"))?;
        ensure(orphan.token == *token, "another attempt")?;
        ensure(orphan.cause == OrphanCause::Failed, format!("{:?}", orphan.cause))?;
        ensure(*fingerprint == body(), "another fingerprint")?;
    }
    ensure(case.list(Some(tokens[2].0), 2).await?.is_empty(), "there is one after the last")
}

pub(crate) async fn a_resolved_orphan_is_replayed<H: Harness<Backend: Administer>>(
    case: Case<'_, H>,
) -> Checked {
    let seen = case.give_up_scope(KEY).await?;
    case.resolve(seen).await?;
    let replayed = case.replay().await?;
    ensure(replayed.response.as_deref() == Some(b"found by hand"), "another response")?;
    ensure(case.list(None, 10).await?.is_empty(), "it is still an orphan")
}

pub(crate) async fn an_attempt_that_an_operator_resolved_completes_no_more<
    H: Harness<Backend: Administer>,
>(
    case: Case<'_, H>,
) -> Checked {
    let permit = case.grant().await?;
    case.lapse(&permit).await;
    case.resolve(permit.token()).await?;
    case.ensure_superseded(&permit).await?;
    let replayed = case.replay().await?;
    ensure(replayed.response.as_deref() == Some(b"found by hand"), "another response")
}

pub(crate) async fn an_orphan_that_an_operator_released_is_free_and_its_attempt_changes_nothing<
    H: Harness<Backend: Administer>,
>(
    case: Case<'_, H>,
) -> Checked {
    let permit = case.grant().await?;
    let (operation, token) = (permit.operation(), permit.token());
    case.lapse(&permit).await;
    let (late, released) = match case.store.release_orphan(KEY, token).await {
        // A store that sees that the attempt lives may wait for its end.
        Err(error) if error.kind() == ErrorKind::Invalid => {
            case.ensure_holds(KEY, "orphaned").await?;
            drop(permit);
            (None, case.store.release_orphan(KEY, token).await)
        }
        released => (Some(permit), released),
    };
    released.map_err(|error| error.to_string())?;
    case.ensure_holds(KEY, "free").await?;
    let next = case.grant().await?;
    ensure(next.operation() != operation, "the same operation")?;
    ensure(next.token() > token, "the token did not increase")?;
    if let Some(late) = &late {
        case.ensure_superseded(late).await?;
    }
    case.complete(&next, &[b"next"]).await?;
    let replayed = case.replay().await?;
    ensure(replayed.response.as_deref() == Some(b"next"), "another response")
}

pub(crate) async fn only_the_orphaned_attempt_that_is_named_is_settled<
    H: Harness<Backend: Administer>,
>(
    case: Case<'_, H>,
) -> Checked {
    let settle = async |seen: Token| {
        let resolved = case.store.resolve(KEY, seen, b"wrong").await;
        ensure(is_superseded(&resolved), format!("it was resolved: {resolved:?}"))?;
        let released = case.store.release_orphan(KEY, seen).await;
        ensure(is_superseded(&released), format!("it was released: {released:?}"))
    };
    let first = case.grant().await?;
    let seen = first.token();
    settle(seen).await.map_err(|seen| format!("of a running claim: {seen}"))?;
    case.ensure_holds(KEY, "in progress").await?;
    case.give_up(first).await?;
    let second = case.succeed(&case.orphan().await?).await?;
    let newest = second.token();
    case.give_up(second).await?;
    settle(seen).await.map_err(|seen| format!("of an attempt before: {seen}"))?;
    case.ensure_holds(KEY, "orphaned").await?;
    case.resolve(newest).await?;
    let released = case.store.release_orphan(KEY, newest).await;
    ensure(is_superseded(&released), format!("a completion was released: {released:?}"))?;
    case.ensure_holds(KEY, "completed").await
}

pub(crate) async fn what_is_forgotten_is_free_and_an_open_claim_is_kept<
    H: Harness<Backend: Administer>,
>(
    case: Case<'_, H>,
) -> Checked {
    let forget = async || case.store.forget(KEY).await.map_err(|error| error.to_string());
    ensure(!forget().await?, "a free scope was forgotten")?;
    let first = case.grant().await?;
    ensure(!forget().await?, "a running claim was forgotten")?;
    case.ensure_holds(KEY, "in progress").await?;
    case.give_up(first).await?;
    ensure(!forget().await?, "an orphan was forgotten")?;
    let second = case.succeed(&case.orphan().await?).await?;
    case.complete(&second, &[b"response"]).await?;
    ensure(forget().await?, "a completion was not forgotten")?;
    case.ensure_holds(KEY, "free").await?;
    ensure(!forget().await?, "it was forgotten twice")?;
    let next = case.grant().await?;
    ensure(next.token() > second.token(), "the token did not increase")?;
    ensure(next.operation() != second.operation(), "the same operation")
}

pub(crate) async fn an_organization_is_forgotten_and_no_other<H: Harness<Backend: Administer>>(
    case: Case<'_, H>,
) -> Checked {
    let scope = |organization, key| Scope { organization, key, ..KEY };
    for key in ["1", "2", "3"] {
        case.complete_scope(scope("acme", key)).await?;
    }
    // Neighbours of the name, and one whose method continues it.
    let others = ["", "acm", "acmf", "acme2", "ACME"];
    for organization in others {
        case.complete_scope(scope(organization, "1")).await?;
    }
    let neighbour = Scope { organization: "acm", method: "ePOST", ..KEY };
    case.complete_scope(neighbour).await?;
    let _running = case.grant_of(scope("acme", "4")).await?;
    case.give_up_scope(scope("acme", "5")).await?;
    let forgotten = case.store.forget_organization("acme").await;
    let forgotten = forgotten.map_err(|error| error.to_string())?;
    ensure(forgotten == 3, format!("{forgotten} of 3 responses"))?;
    for key in ["1", "2", "3"] {
        case.ensure_holds(scope("acme", key), "free").await?;
    }
    case.ensure_holds(scope("acme", "4"), "in progress").await?;
    case.ensure_holds(scope("acme", "5"), "orphaned").await?;
    for organization in others {
        case.ensure_holds(scope(organization, "1"), "completed").await?;
    }
    case.ensure_holds(neighbour, "completed").await?;
    match case.claim_as(scope("acme", "1"), body()).await? {
        Answer::Granted(_) => Ok(()),
        other => Err(format!("a forgotten scope was {}", kind(&other))),
    }
}
