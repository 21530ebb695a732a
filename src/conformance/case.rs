//! One case: a fresh store, and what all cases do with it.

use std::fmt;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::Harness;
use crate::http::backend::{
    Answer, Backend, BackendError, BackendPermit, Completed, ErrorKind, Orphaned,
};
use crate::scope::{Fingerprint, Scope};

/// How long the responses of a case live.
pub(crate) const TTL: Duration = Duration::from_secs(3600);
/// How long a case waits for what should come at once.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// How many callers race.
pub(crate) const CALLERS: usize = 32;

pub(crate) type Checked = Result<(), String>;

/// One case on a fresh store.
pub(crate) struct Case<'h, H: Harness> {
    pub(crate) harness: &'h H,
    pub(crate) store: H::Backend,
}

pub(crate) type PermitOf<H> = <<H as Harness>::Backend as Backend>::Permit;

pub(crate) const KEY: Scope<'_> =
    Scope { organization: "acme", method: "POST", path: "/contacts", key: "import-1" };

pub(crate) fn body() -> Fingerprint {
    Fingerprint::of(b"body")
}

/// Fails a case with what was seen.
#[expect(clippy::fn_params_excessive_bools, reason = "an assertion takes what it asserts")]
pub(crate) fn ensure(holds: bool, seen: impl fmt::Display) -> Checked {
    if holds { Ok(()) } else { Err(seen.to_string()) }
}

/// What was answered, in a word.
pub(crate) fn kind<P>(answer: &Answer<P>) -> &'static str {
    match answer {
        Answer::Granted(_) => "granted",
        Answer::Replay(_) => "replay",
        Answer::InProgress(_) => "in progress",
        Answer::Conflict(_) => "conflict",
        Answer::Orphaned(_) => "orphaned",
    }
}

pub(crate) fn is_superseded<T, E: BackendError>(told: &Result<T, E>) -> bool {
    matches!(told, Err(error) if error.kind() == ErrorKind::Superseded)
}

impl<H: Harness> Case<'_, H> {
    pub(crate) async fn claim_as(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
    ) -> Result<Answer<PermitOf<H>>, String> {
        let lease = self.harness.shortest_lease();
        self.store.claim(scope, fingerprint, lease).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn claim(&self) -> Result<Answer<PermitOf<H>>, String> {
        self.claim_as(KEY, body()).await
    }

    pub(crate) async fn grant_of(&self, scope: Scope<'_>) -> Result<PermitOf<H>, String> {
        match self.claim_as(scope, body()).await? {
            Answer::Granted(permit) => Ok(permit),
            other => Err(format!("a free scope was {}", kind(&other))),
        }
    }

    pub(crate) async fn grant(&self) -> Result<PermitOf<H>, String> {
        self.grant_of(KEY).await
    }

    pub(crate) async fn orphan(&self) -> Result<Orphaned, String> {
        match self.claim().await? {
            Answer::Orphaned(orphan) => Ok(orphan),
            other => Err(format!("an orphan was {}", kind(&other))),
        }
    }

    pub(crate) async fn replay(&self) -> Result<Completed, String> {
        match self.claim().await? {
            Answer::Replay(completed) => Ok(completed),
            other => Err(format!("a completed scope was {}", kind(&other))),
        }
    }

    pub(crate) async fn take_over(&self, seen: &Orphaned) -> Result<Answer<PermitOf<H>>, String> {
        let lease = self.harness.shortest_lease();
        let answer = self.store.take_over(KEY, body(), seen.token, lease).await;
        answer.map_err(|error| error.to_string())
    }

    pub(crate) async fn succeed(&self, seen: &Orphaned) -> Result<PermitOf<H>, String> {
        match self.take_over(seen).await? {
            Answer::Granted(permit) => Ok(permit),
            other => Err(format!("the take-over of an orphan was {}", kind(&other))),
        }
    }

    pub(crate) async fn complete(
        &self,
        permit: &PermitOf<H>,
        parts: &[&[u8]],
    ) -> Result<Completed, String> {
        self.store.complete(permit, parts).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn give_up(&self, permit: PermitOf<H>) -> Checked {
        self.store.give_up(&permit).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn release(&self, permit: &PermitOf<H>) -> Checked {
        self.store.release(permit).await.map_err(|error| error.to_string())
    }

    /// Lets the lease of a claim be over.
    pub(crate) async fn lapse(&self, permit: &PermitOf<H>) {
        self.harness.pass(permit.lease() + Duration::from_secs(1)).await;
    }

    /// Callers that wait for an attempt, each in a task of its own.
    pub(crate) async fn waiting(
        &self,
        permit: &PermitOf<H>,
    ) -> JoinSet<Result<Answer<PermitOf<H>>, String>> {
        let mut waiting = JoinSet::new();
        for _ in 0..CALLERS {
            let (store, seen) = (self.store.clone(), permit.token());
            let lease = self.harness.shortest_lease();
            waiting.spawn(async move {
                loop {
                    let answer = store.claim_after(KEY, body(), seen, lease).await;
                    let answer = answer.map_err(|error| error.to_string())?;
                    if !matches!(answer, Answer::InProgress(_)) {
                        return Ok(answer);
                    }
                }
            });
        }
        // Each has been polled once it had its turn.
        for _ in 0..CALLERS {
            tokio::task::yield_now().await;
        }
        waiting
    }
}
