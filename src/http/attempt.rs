//! What the handler sees of its attempt: who it is, what came before, and what it may tell.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Response;

use crate::engine::outcome::OrphanCause;
use crate::http::backend::{Backend, BackendError, BackendPermit, ErrorKind};
use crate::http::encoding::{BodyKept, encode_head};
use crate::http::held::Held;
use crate::http::policy::Policy;
use crate::scope::{OperationId, Token};

/// An attempt of an operation, in the extensions of the request that runs it.
///
/// A handler that writes [`Attempt::operation`], unique, in the transaction of its effect, together
/// with [`Attempt::encode`] of its response, makes the effect happen exactly once: the module's
/// page on [exactly once](crate::http#exactly-once) shows the statements.
///
/// Asking for the operation id, the token or a child key, or saving a checkpoint, says that an
/// effect may follow: a failure afterwards is in doubt. So is one while a clone of this is alive,
/// in a task that the handler started, say: it may yet ask.
#[derive(Clone)]
pub struct Attempt {
    held: Arc<dyn AnyHeld>,
    /// Whoever has a clone may yet ask.
    _reach: Arc<()>,
}

impl Attempt {
    pub(crate) fn new<B: Backend>(held: Arc<Held<B>>) -> Attempt {
        let reach = Arc::clone(&held.reach);
        Attempt { held, _reach: reach }
    }

    /// The operation: the same for every attempt of one claim, never issued twice.
    pub fn operation(&self) -> OperationId {
        self.held.asked();
        self.held.permit().operation()
    }

    /// The fencing token of this attempt: greater than that of any attempt before it.
    pub fn token(&self) -> Token {
        self.held.asked();
        self.held.permit().token()
    }

    /// The number of this attempt, counted from 1.
    pub fn attempt(&self) -> u32 {
        self.held.permit().attempt()
    }

    /// Why the attempt before this one ended; `None` on the first.
    pub fn cause(&self) -> Option<OrphanCause> {
        self.held.permit().cause()
    }

    /// What an earlier attempt saved last.
    pub fn checkpoint(&self) -> Option<&[u8]> {
        self.held.permit().checkpoint()
    }

    /// A key for a call that the handler makes to another service: the same for every attempt,
    /// another for every name, and no hint at the client's key.
    pub fn child_key(&self, name: &str) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("oncelog 2026-11 child key v1");
        hasher.update(&self.operation().to_bytes());
        hasher.update(name.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        OperationId::from_hash(bytes).to_string()
    }

    /// Saves a recovery point of at most 64 KiB, which a later attempt gets to see; durable when
    /// it returns.
    ///
    /// # Errors
    /// [`AttemptError`]: too large, superseded, or no answer of the store.
    pub async fn save_checkpoint(&self, checkpoint: &[u8]) -> Result<(), AttemptError> {
        self.held.asked();
        self.held.save(checkpoint).await
    }

    /// The handler's word that the operation had no effect, whatever its response says: no attempt
    /// of it had one, and none will. The key is free again.
    pub fn no_effect(&self) {
        self.held.say_no_effect();
    }

    /// A response as it is stored, with the headers that this route keeps: to be saved in the
    /// transaction of the effect, for [`Testimony::Happened`](crate::http::Testimony::Happened).
    pub fn encode<T: AsRef<[u8]>>(&self, response: &Response<T>) -> Vec<u8> {
        let kept = self.held.policy().rules().kept_headers(response.headers());
        let trailers = std::iter::empty();
        let mut bytes = encode_head(response.status(), kept, trailers, BodyKept::Whole);
        bytes.extend_from_slice(response.body().as_ref());
        bytes
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("operation", &self.held.permit().operation())
            .field("token", &self.held.permit().token())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// Why a checkpoint was not saved.
#[derive(Debug)]
pub struct AttemptError {
    kind: ErrorKind,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl AttemptError {
    /// What the handler should make of it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the checkpoint was not saved: {}", self.source)
    }
}

impl std::error::Error for AttemptError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

type Saving<'a> = Pin<Box<dyn Future<Output = Result<(), AttemptError>> + Send + 'a>>;

/// The attempt of any backend.
trait AnyHeld: Send + Sync {
    fn permit(&self) -> &dyn BackendPermit;
    fn policy(&self) -> &Policy;
    fn asked(&self);
    fn say_no_effect(&self);
    fn save<'a>(&'a self, checkpoint: &'a [u8]) -> Saving<'a>;
}

impl<B: Backend> AnyHeld for Held<B> {
    fn permit(&self) -> &dyn BackendPermit {
        &self.permit
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    // The flags are read by the layer once the handler has returned, through a join or a lock of
    // whatever carried the word here; no other memory hangs on them.
    fn asked(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    fn say_no_effect(&self) {
        self.no_effect.store(true, Ordering::Relaxed);
    }

    fn save<'a>(&'a self, checkpoint: &'a [u8]) -> Saving<'a> {
        Box::pin(async move {
            let saved = self.backend.save_checkpoint(&self.permit, checkpoint).await;
            saved.map_err(|error| AttemptError { kind: error.kind(), source: Box::new(error) })
        })
    }
}
