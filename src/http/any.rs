//! A backend that is chosen at run time.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::outcome::OrphanCause;
use crate::http::backend::{
    Answer, Backend, BackendError, BackendPermit, Completed, ErrorKind, Promises,
};
use crate::scope::{Fingerprint, OperationId, Scope, Token};

/// Any [`Backend`], boxed: for a store that is chosen when the program starts.
///
/// ```
/// use oncelog::http::{AnyBackend, IdempotencyLayer, Organization, Orphans};
///
/// # let dir = tempfile::tempdir()?;
/// let store = oncelog::Store::open(dir.path())?;
/// let backend = AnyBackend::new(store);
/// let layer = IdempotencyLayer::new(backend, Organization::single(), Orphans::Hold);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct AnyBackend(Arc<dyn Erased>);

impl AnyBackend {
    /// Boxes a backend.
    pub fn new<B: Backend>(backend: B) -> AnyBackend {
        AnyBackend(Arc::new(backend))
    }
}

impl fmt::Debug for AnyBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyBackend")
    }
}

/// The permit of some backend.
pub struct AnyPermit(Box<dyn ErasedPermit>);

impl fmt::Debug for AnyPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyPermit").field("token", &self.0.facts().token()).finish_non_exhaustive()
    }
}

/// The error of some backend.
#[derive(Debug)]
pub struct AnyError {
    kind: ErrorKind,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for AnyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl std::error::Error for AnyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}

impl BackendError for AnyError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

fn erase<E: BackendError>(error: E) -> AnyError {
    AnyError { kind: error.kind(), source: Box::new(error) }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, AnyError>> + Send + 'a>>;

trait ErasedPermit: Send + Sync {
    fn facts(&self) -> &dyn BackendPermit;
    fn as_any(&self) -> &dyn Any;
}

impl<P: BackendPermit> ErasedPermit for P {
    fn facts(&self) -> &dyn BackendPermit {
        self
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A backend without its types. The names differ from those of [`Backend`], which every one of
/// these also has.
trait Erased: Send + Sync {
    fn any_promises(&self) -> Promises;
    fn any_claim<'a>(
        &'a self,
        scope: Scope<'a>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Boxed<'a, Answer<AnyPermit>>;
    fn any_claim_after<'a>(
        &'a self,
        scope: Scope<'a>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Boxed<'a, Answer<AnyPermit>>;
    fn any_take_over<'a>(
        &'a self,
        scope: Scope<'a>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Boxed<'a, Answer<AnyPermit>>;
    fn any_complete<'a>(
        &'a self,
        permit: &'a AnyPermit,
        parts: &'a [&'a [u8]],
    ) -> Boxed<'a, Completed>;
    fn any_release<'a>(&'a self, permit: &'a AnyPermit) -> Boxed<'a, ()>;
    fn any_give_up<'a>(&'a self, permit: &'a AnyPermit) -> Boxed<'a, ()>;
    fn any_give_up_soon(&self, permit: &AnyPermit);
    fn any_renew<'a>(&'a self, permit: &'a AnyPermit, lease: Duration) -> Boxed<'a, ()>;
    fn any_save<'a>(&'a self, permit: &'a AnyPermit, checkpoint: &'a [u8]) -> Boxed<'a, ()>;
}

/// The permit that this backend made.
fn own<B: Backend>(permit: &AnyPermit) -> &B::Permit {
    let own = permit.0.as_any().downcast_ref();
    own.expect("a permit is given back to the backend that made it")
}

fn wrap<B: Backend>(
    answer: Result<Answer<B::Permit>, B::Error>,
) -> Result<Answer<AnyPermit>, AnyError> {
    Ok(match answer.map_err(erase)? {
        Answer::Granted(permit) => Answer::Granted(AnyPermit(Box::new(permit))),
        Answer::Replay(completed) => Answer::Replay(completed),
        Answer::InProgress(running) => Answer::InProgress(running),
        Answer::Conflict(conflict) => Answer::Conflict(conflict),
        Answer::Orphaned(orphan) => Answer::Orphaned(orphan),
    })
}

impl<B: Backend> Erased for B {
    fn any_promises(&self) -> Promises {
        self.promises()
    }

    fn any_claim<'a>(
        &'a self,
        scope: Scope<'a>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Boxed<'a, Answer<AnyPermit>> {
        Box::pin(async move { wrap::<B>(self.claim(scope, fingerprint, lease).await) })
    }

    fn any_claim_after<'a>(
        &'a self,
        scope: Scope<'a>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Boxed<'a, Answer<AnyPermit>> {
        Box::pin(async move { wrap::<B>(self.claim_after(scope, fingerprint, seen, lease).await) })
    }

    fn any_take_over<'a>(
        &'a self,
        scope: Scope<'a>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Boxed<'a, Answer<AnyPermit>> {
        Box::pin(async move { wrap::<B>(self.take_over(scope, fingerprint, seen, lease).await) })
    }

    fn any_complete<'a>(
        &'a self,
        permit: &'a AnyPermit,
        parts: &'a [&'a [u8]],
    ) -> Boxed<'a, Completed> {
        let permit = own::<B>(permit);
        Box::pin(async move { self.complete(permit, parts).await.map_err(erase) })
    }

    fn any_release<'a>(&'a self, permit: &'a AnyPermit) -> Boxed<'a, ()> {
        let permit = own::<B>(permit);
        Box::pin(async move { self.release(permit).await.map_err(erase) })
    }

    fn any_give_up<'a>(&'a self, permit: &'a AnyPermit) -> Boxed<'a, ()> {
        let permit = own::<B>(permit);
        Box::pin(async move { self.give_up(permit).await.map_err(erase) })
    }

    fn any_give_up_soon(&self, permit: &AnyPermit) {
        self.give_up_soon(own::<B>(permit));
    }

    fn any_renew<'a>(&'a self, permit: &'a AnyPermit, lease: Duration) -> Boxed<'a, ()> {
        let permit = own::<B>(permit);
        Box::pin(async move { self.renew(permit, lease).await.map_err(erase) })
    }

    fn any_save<'a>(&'a self, permit: &'a AnyPermit, checkpoint: &'a [u8]) -> Boxed<'a, ()> {
        let permit = own::<B>(permit);
        Box::pin(async move { self.save_checkpoint(permit, checkpoint).await.map_err(erase) })
    }
}

impl BackendPermit for AnyPermit {
    fn operation(&self) -> OperationId {
        self.0.facts().operation()
    }

    fn token(&self) -> Token {
        self.0.facts().token()
    }

    fn attempt(&self) -> u32 {
        self.0.facts().attempt()
    }

    fn cause(&self) -> Option<OrphanCause> {
        self.0.facts().cause()
    }

    fn checkpoint(&self) -> Option<&[u8]> {
        self.0.facts().checkpoint()
    }

    fn lease(&self) -> Duration {
        self.0.facts().lease()
    }
}

impl Backend for AnyBackend {
    type Permit = AnyPermit;
    type Error = AnyError;

    fn promises(&self) -> Promises {
        self.0.any_promises()
    }

    async fn claim(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Answer<AnyPermit>, AnyError> {
        self.0.any_claim(scope, fingerprint, lease).await
    }

    async fn claim_after(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<AnyPermit>, AnyError> {
        self.0.any_claim_after(scope, fingerprint, seen, lease).await
    }

    async fn take_over(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<AnyPermit>, AnyError> {
        self.0.any_take_over(scope, fingerprint, seen, lease).await
    }

    async fn complete(&self, permit: &AnyPermit, parts: &[&[u8]]) -> Result<Completed, AnyError> {
        self.0.any_complete(permit, parts).await
    }

    async fn release(&self, permit: &AnyPermit) -> Result<(), AnyError> {
        self.0.any_release(permit).await
    }

    async fn give_up(&self, permit: &AnyPermit) -> Result<(), AnyError> {
        self.0.any_give_up(permit).await
    }

    fn give_up_soon(&self, permit: &AnyPermit) {
        self.0.any_give_up_soon(permit);
    }

    async fn renew(&self, permit: &AnyPermit, lease: Duration) -> Result<(), AnyError> {
        self.0.any_renew(permit, lease).await
    }

    async fn save_checkpoint(&self, permit: &AnyPermit, bytes: &[u8]) -> Result<(), AnyError> {
        self.0.any_save(permit, bytes).await
    }
}
