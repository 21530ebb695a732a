//! The store as a backend of the layer.
//!
//! A claim and a take-over run to their end also where nobody waits for them any more: what is
//! dropped goes on in a task of its own, which takes back what it was granted *after* it was
//! granted. A scope that was to be claimed for nobody is free then, or, where no task can run any
//! more, an orphan when its lease is over.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::from_ms;
use crate::cluster::redis::attempt::{Attempt, RedisPermit};
use crate::cluster::redis::error::RedisError;
use crate::cluster::redis::link::{Key, Waits};
use crate::cluster::redis::record::LEFT_OUT;
use crate::cluster::redis::store::{Ended, Found, RedisStore, Shared, completion};
use crate::format::record::CHECKPOINT_BYTES_MAX;
use crate::http::backend::{Answer, Backend, Completed, Promises};
use crate::scope::{Fingerprint, OperationId, Scope, Token};

type Claiming = Pin<Box<dyn Future<Output = Result<Found, RedisError>> + Send>>;

/// A claim under way, which is taken back where it is dropped or fails in doubt.
struct Guarded {
    claiming: Option<Claiming>,
    begun: Begun,
    shared: Arc<Shared>,
    deed: Deed,
}

/// What is taken back, and how.
#[derive(Clone, Debug)]
enum Deed {
    /// The claim of a new operation: nobody ran it, so its scope is freed.
    Claim(Key, OperationId),
    /// What was taken over may have had an effect before, so it is an orphan again. Where nothing
    /// was answered, it is one when its lease is over.
    TakeOver,
}

#[derive(PartialEq)]
enum Begun {
    No,
    Yes,
}

impl Guarded {
    fn new(
        shared: &Arc<Shared>,
        deed: Deed,
        claiming: impl Future<Output = Result<Found, RedisError>> + Send + 'static,
    ) -> Guarded {
        Guarded {
            claiming: Some(Box::pin(claiming)),
            begun: Begun::No,
            shared: Arc::clone(shared),
            deed,
        }
    }

    fn take_back(&mut self, claiming: Option<Claiming>) {
        // Without a runtime nobody can: the claim is an orphan when its lease is over.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (shared, deed) = (Arc::clone(&self.shared), self.deed.clone());
        runtime.spawn(async move {
            let found = match claiming {
                Some(claiming) => claiming.await.ok(),
                None => None,
            };
            match (deed, found) {
                (Deed::Claim(key, operation), _) => shared.abandon(&key, operation).await,
                (Deed::TakeOver, Some(Found::Granted(attempt))) => {
                    shared.give_up(&attempt).await.ok();
                }
                (Deed::TakeOver, _) => {}
            }
        });
    }
}

impl Future for Guarded {
    type Output = Result<Found, RedisError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.begun = Begun::Yes;
        let claiming = self.claiming.as_mut().expect("a future is not polled after its end");
        let Poll::Ready(found) = claiming.as_mut().poll(cx) else { return Poll::Pending };
        self.claiming = None;
        if found.as_ref().is_err_and(RedisError::is_in_doubt) {
            self.take_back(None);
        }
        Poll::Ready(found)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.begun == Begun::Yes
            && let Some(claiming) = self.claiming.take()
        {
            self.take_back(Some(claiming));
        }
    }
}

/// How long a waiting caller goes without looking, at first and at most: a short handler is not
/// waited for long, and a long one costs ten looks a second.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_LAST: Duration = Duration::from_millis(100);

fn answer(found: Found, fingerprint: Fingerprint) -> Answer<RedisPermit> {
    match found {
        Found::Granted(attempt) => Answer::Granted(RedisPermit { attempt }),
        Found::Held(view) => view.answer(fingerprint),
    }
}

impl RedisStore {
    fn guarded_claim(&self, attempt: Attempt) -> Guarded {
        let deed = Deed::Claim(attempt.key.clone(), attempt.operation);
        let shared = Arc::clone(&self.shared);
        Guarded::new(&self.shared, deed, async move { shared.claim(attempt).await })
    }

    async fn look_again(
        &self,
        key: &Key,
        seen: Token,
        claim: impl Fn() -> Result<Attempt, RedisError>,
        fingerprint: Fingerprint,
    ) -> Result<Answer<RedisPermit>, RedisError> {
        let wait = self.shared.wakes.wait(key);
        let mut pause = LOOK_FIRST;
        loop {
            wait.at_most(pause).await;
            let found = self.guarded_claim(claim()?).await?;
            match answer(found, fingerprint) {
                Answer::InProgress(running) if running.token == seen => {
                    let left = running.retry_after.max(Duration::from_millis(1));
                    pause = (2 * pause).min(LOOK_LAST).min(left);
                }
                answer => return Ok(answer),
            }
        }
    }

    async fn end(
        &self,
        attempt: Arc<Attempt>,
        record: Vec<u8>,
        response: usize,
    ) -> Result<Completed, RedisError> {
        let (expires_ms, flags) = match self.shared.complete(&attempt, &record).await? {
            Ended::Now { expires_ms, flags } => (expires_ms, flags),
            Ended::Before(view) => return Ok(view.completed()),
        };
        let kept = Bytes::from(record);
        Ok(Completed {
            response: (flags & LEFT_OUT == 0).then(|| kept.slice(kept.len() - response..)),
            completed_at: from_ms(expires_ms.saturating_sub(attempt.ttl_ms)),
            expires_at: from_ms(expires_ms),
            token: attempt.token,
            operation: attempt.operation,
            attempt: attempt.number,
        })
    }
}

impl Backend for RedisStore {
    type Permit = RedisPermit;
    type Error = RedisError;

    fn promises(&self) -> Promises {
        self.shared.promises
    }

    async fn claim(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Answer<RedisPermit>, RedisError> {
        let attempt = self.shared.first(scope, fingerprint, lease)?;
        Ok(answer(self.guarded_claim(attempt).await?, fingerprint))
    }

    async fn claim_after(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<RedisPermit>, RedisError> {
        let key = self.shared.key(scope)?;
        let claim = || self.shared.first(scope, fingerprint, lease);
        self.look_again(&key, seen, claim, fingerprint).await
    }

    async fn take_over(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        seen: Token,
        lease: Duration,
    ) -> Result<Answer<RedisPermit>, RedisError> {
        let attempt = self.shared.first(scope, fingerprint, lease)?;
        // Its own token is as fresh, and above the one before.
        let token = attempt.token.max(Token::new(seen.get().saturating_add(1)));
        let shared = Arc::clone(&self.shared);
        let taking = async move { shared.take_over(attempt, seen, token).await };
        let found = Guarded::new(&self.shared, Deed::TakeOver, taking).await?;
        Ok(answer(found, fingerprint))
    }

    fn complete(
        &self,
        permit: &RedisPermit,
        parts: &[&[u8]],
    ) -> impl Future<Output = Result<Completed, RedisError>> + Send {
        // Encoded before the first poll, so that the parts need not live longer than the call.
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let fits = bytes as u64 <= self.shared.response_bytes_max;
        let record = completion(&permit.attempt, fits.then_some(parts));
        let response = if fits { bytes } else { 0 };
        self.end(Arc::clone(&permit.attempt), record, response)
    }

    async fn release(&self, permit: &RedisPermit) -> Result<(), RedisError> {
        self.shared.release(&permit.attempt).await
    }

    async fn give_up(&self, permit: &RedisPermit) -> Result<(), RedisError> {
        self.shared.give_up(&permit.attempt).await
    }

    fn give_up_soon(&self, permit: &RedisPermit) {
        // Without a runtime it is lost, and the claim an orphan when its lease is over.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (shared, attempt) = (Arc::clone(&self.shared), Arc::clone(&permit.attempt));
        runtime.spawn(async move { shared.give_up(&attempt).await });
    }

    async fn renew(&self, permit: &RedisPermit, lease: Duration) -> Result<(), RedisError> {
        self.shared.renew(&permit.attempt, lease, Waits::No).await
    }

    async fn save_checkpoint(
        &self,
        permit: &RedisPermit,
        checkpoint: &[u8],
    ) -> Result<(), RedisError> {
        if checkpoint.len() > CHECKPOINT_BYTES_MAX {
            return Err(RedisError::TooLarge {
                what: "checkpoint",
                bytes: checkpoint.len() as u64,
                limit: CHECKPOINT_BYTES_MAX as u64,
            });
        }
        self.shared.save(&permit.attempt, checkpoint).await
    }
}
