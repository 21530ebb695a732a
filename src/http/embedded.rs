//! The embedded store as a backend of the layer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::claim::{Claim, Permit};
use crate::config::Durability;
use crate::engine::outcome::{
    Conflict, ConflictState, InProgress, OrphanCause, OrphanInfo, Status, Stored,
};
use crate::error::Error;
use crate::future::ClaimFuture;
use crate::http::backend::{
    Administer, Answer, Backend, BackendError, BackendPermit, Completed, Conflicting, ErrorKind,
    Evicts, Holding, Orphaned, OrphansShow, Promises, Running, Survives, TokensOrder, Unresolved,
};
use crate::scope::{Fingerprint, OperationId, Scope, Token};
use crate::store::Store;
use crate::sync::Mutex;

/// An attempt of the embedded store. Its claim is an orphan as soon as this is dropped.
#[derive(Debug)]
pub struct StorePermit {
    operation: OperationId,
    token: Token,
    attempt: u32,
    cause: Option<OrphanCause>,
    checkpoint: Option<Box<[u8]>>,
    lease: Duration,
    // LOCK: permit (a leaf: what ends the attempt is staged after it was let go)
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Held(Permit),
    Completed(Box<Completed>),
    Ended,
}

impl StorePermit {
    fn new(permit: Permit) -> StorePermit {
        StorePermit {
            operation: permit.operation(),
            token: permit.token(),
            attempt: permit.attempt(),
            cause: permit.cause(),
            checkpoint: permit.checkpoint().map(Box::from),
            lease: permit.lease(),
            state: Mutex::new(State::Held(permit)),
        }
    }

    /// The engine's permit, the first time.
    fn take(&self) -> Option<Permit> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Ended) {
            State::Held(permit) => Some(permit),
            other => {
                *state = other;
                None
            }
        }
    }

    fn completed(&self) -> Result<Completed, Error> {
        match &*self.state.lock() {
            State::Completed(completed) => Ok(Completed::clone(completed)),
            State::Held(_) | State::Ended => Err(Error::Superseded),
        }
    }
}

impl BackendPermit for StorePermit {
    fn operation(&self) -> OperationId {
        self.operation
    }

    fn token(&self) -> Token {
        self.token
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    fn cause(&self) -> Option<OrphanCause> {
        self.cause
    }

    fn checkpoint(&self) -> Option<&[u8]> {
        self.checkpoint.as_deref()
    }

    fn lease(&self) -> Duration {
        self.lease
    }
}

impl Backend for Store {
    type Permit = StorePermit;
    type Error = Error;

    fn promises(&self) -> Promises {
        Promises {
            orphans: OrphansShow::AtOnce,
            tokens: TokensOrder::WholeStore,
            survives: match self.durability() {
                Durability::Synced => Survives::PowerLoss,
                Durability::Buffered { .. } => Survives::ProcessDeath,
            },
            evicts: Evicts::Never,
            response_bytes_max: u64::from(self.response_bytes_max()),
        }
    }

    fn claim(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        _lease: Duration,
    ) -> impl Future<Output = Result<Answer<StorePermit>, Error>> + Send {
        Answering(self.claim_async(scope, fingerprint))
    }

    fn claim_after(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        _seen: Token,
        _lease: Duration,
    ) -> impl Future<Output = Result<Answer<StorePermit>, Error>> + Send {
        Answering(self.claim_or_wait_async(scope, fingerprint))
    }

    async fn take_over(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        _lease: Duration,
    ) -> Result<Answer<StorePermit>, Error> {
        if let Some(orphan) = self.orphan(scope)?
            && orphan.info().token() == seen
            && orphan.info().fingerprint() == fingerprint
        {
            return orphan.take_over_async().await.map(answer);
        }
        let holds = self.lookup_async(scope).await?.ok_or(Error::Superseded)?;
        Ok(match holds {
            Status::InProgress(running) => Answer::InProgress(running.into()),
            Status::Completed(stored) if stored.fingerprint() == fingerprint => {
                Answer::Replay(stored.into())
            }
            Status::Completed(stored) => Answer::Conflict(Conflicting {
                claimed_at: stored.completed_at(),
                state: ConflictState::Completed,
                operation: stored.operation(),
            }),
            Status::Orphaned(info) if info.fingerprint() == fingerprint => {
                Answer::Orphaned((&info).into())
            }
            Status::Orphaned(info) => Answer::Conflict(Conflicting {
                claimed_at: info.claimed_at(),
                state: ConflictState::Orphaned,
                operation: info.operation(),
            }),
        })
    }

    fn complete(
        &self,
        permit: &StorePermit,
        parts: &[&[u8]],
    ) -> impl Future<Output = Result<Completed, Error>> + Send {
        // Staged before the first poll, so that the parts need not live longer than the call.
        let staged = permit.take().map(|held| held.complete_parts_async(parts));
        async move {
            let Some(staged) = staged else { return permit.completed() };
            let completed = Completed::from(staged.await?);
            *permit.state.lock() = State::Completed(Box::new(completed.clone()));
            Ok(completed)
        }
    }

    async fn release(&self, permit: &StorePermit) -> Result<(), Error> {
        permit.take().ok_or(Error::Superseded)?.release_async().await
    }

    async fn give_up(&self, permit: &StorePermit) -> Result<(), Error> {
        permit.take().ok_or(Error::Superseded)?.give_up_async().await
    }

    fn give_up_soon(&self, permit: &StorePermit) {
        // Its drop makes the claim an orphan at once, without I/O.
        drop(permit.take());
    }

    async fn renew(&self, permit: &StorePermit, _lease: Duration) -> Result<(), Error> {
        match &*permit.state.lock() {
            State::Held(held) => held.renew(),
            State::Completed(_) | State::Ended => Err(Error::Superseded),
        }
    }

    async fn save_checkpoint(&self, permit: &StorePermit, bytes: &[u8]) -> Result<(), Error> {
        let saved = match &*permit.state.lock() {
            State::Held(held) => held.save_checkpoint_async(bytes),
            State::Completed(_) | State::Ended => return Err(Error::Superseded),
        };
        saved.await
    }
}

impl Administer for Store {
    async fn look_up(&self, scope: Scope<'_>) -> Result<Option<Holding>, Error> {
        Ok(self.lookup_async(scope).await?.map(|status| match status {
            Status::InProgress(running) => Holding::InProgress(running.into()),
            Status::Completed(stored) => Holding::Completed(stored.into()),
            Status::Orphaned(info) => Holding::Orphaned((&info).into()),
        }))
    }

    async fn unresolved(
        &self,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Unresolved>, Error> {
        let mut orphans = Store::unresolved(self)?;
        orphans.retain(|orphan| after.is_none_or(|after| orphan.token() > after));
        orphans.sort_by_key(OrphanInfo::token);
        Ok(orphans.iter().take(limit).map(unresolved).collect())
    }

    async fn resolve(
        &self,
        scope: Scope<'_>,
        seen: Token,
        response: &[u8],
    ) -> Result<Completed, Error> {
        let orphan = self.orphan(scope)?.filter(|orphan| orphan.info().token() == seen);
        let orphan = orphan.ok_or(Error::Superseded)?;
        orphan.resolve_async(response).await.map(Completed::from)
    }

    /// Writes to the disk on a thread that may block.
    async fn forget(&self, scope: Scope<'_>) -> Result<bool, Error> {
        let store = self.clone();
        let [organization, method, path, key] =
            [scope.organization, scope.method, scope.path, scope.key].map(str::to_owned);
        blocking(move || {
            let (organization, method) = (&*organization, &*method);
            Store::forget(&store, Scope { organization, method, path: &path, key: &key })
        })
        .await
    }

    /// Writes to the disk on a thread that may block.
    async fn forget_organization(&self, organization: &str) -> Result<u64, Error> {
        let (store, organization) = (self.clone(), organization.to_owned());
        blocking(move || Store::forget_organization(&store, &organization)).await
    }

    async fn release_orphan(&self, scope: Scope<'_>, seen: Token) -> Result<(), Error> {
        let orphan = self.orphan(scope)?.filter(|orphan| orphan.info().token() == seen);
        orphan.ok_or(Error::Superseded)?.release_async().await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and so is the server.
            Err(_) => Err(Error::Closed),
        },
    }
}

/// A claim in the words of the layer. As an `async fn` it would keep its arguments too, and every
/// request with a key moves and allocates what it takes.
struct Answering(ClaimFuture);

impl Future for Answering {
    type Output = Result<Answer<StorePermit>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|claim| claim.map(answer))
    }
}

fn answer(claim: Claim) -> Answer<StorePermit> {
    match claim {
        Claim::Granted(permit) => Answer::Granted(StorePermit::new(permit)),
        Claim::Replay(stored) => Answer::Replay(stored.into()),
        Claim::InProgress(running) => Answer::InProgress(running.into()),
        Claim::Conflict(conflict) => Answer::Conflict(conflict.into()),
        Claim::Orphaned(orphan) => Answer::Orphaned(orphan.info().into()),
    }
}

fn unresolved(info: &OrphanInfo) -> Unresolved {
    Unresolved {
        organization: info.organization().to_owned(),
        method: info.method().to_owned(),
        path: info.path().to_owned(),
        key: info.key().to_owned(),
        fingerprint: info.fingerprint(),
        orphan: info.into(),
    }
}

impl From<Stored> for Completed {
    fn from(stored: Stored) -> Completed {
        Completed {
            completed_at: stored.completed_at(),
            expires_at: stored.expires_at(),
            token: stored.token(),
            operation: stored.operation(),
            attempt: stored.attempt(),
            response: stored.into_bytes().map(Bytes::from_owner),
        }
    }
}

impl From<InProgress> for Running {
    fn from(running: InProgress) -> Running {
        Running {
            claimed_at: running.claimed_at(),
            retry_after: running.retry_after(),
            token: running.token(),
            operation: running.operation(),
            attempt: running.attempt(),
        }
    }
}

impl From<Conflict> for Conflicting {
    fn from(conflict: Conflict) -> Conflicting {
        Conflicting {
            claimed_at: conflict.claimed_at(),
            state: conflict.state(),
            operation: conflict.operation(),
        }
    }
}

impl From<&OrphanInfo> for Orphaned {
    fn from(info: &OrphanInfo) -> Orphaned {
        Orphaned {
            operation: info.operation(),
            token: info.token(),
            attempt: info.attempt(),
            cause: info.cause(),
            claimed_at: info.claimed_at(),
            checkpoint: info.checkpoint().map(Bytes::copy_from_slice),
        }
    }
}

impl BackendError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Full { .. } => ErrorKind::Full,
            Error::Superseded => ErrorKind::Superseded,
            Error::TooLarge { .. } => ErrorKind::TooLarge,
            Error::Invalid { .. } => ErrorKind::Invalid,
            Error::Corrupt { .. } => ErrorKind::Corrupt,
            Error::Io { .. }
            | Error::AlreadyOpen { .. }
            | Error::Version { .. }
            | Error::Poisoned { .. }
            | Error::Closed
            | Error::Missing { .. } => ErrorKind::Unavailable,
        }
    }
}
