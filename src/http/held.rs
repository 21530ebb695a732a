//! An attempt that the layer holds: its lease is kept, and the store is told how it ended.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::http::backend::{Backend, BackendError, BackendPermit as _, Completed, ErrorKind};
use crate::http::observe::{self, Commit, End, Timed};
use crate::http::orphans::Question;
use crate::http::policy::Policy;

/// An attempt that the layer holds, and what its handler said.
pub(crate) struct Held<B: Backend> {
    pub(crate) backend: B,
    pub(crate) permit: B::Permit,
    pub(crate) policy: Policy,
    pub(crate) asked: AtomicBool,
    pub(crate) no_effect: AtomicBool,
    /// Shared with every [`Attempt`](crate::http::Attempt) of this one.
    pub(crate) reach: Arc<()>,
    ended: AtomicBool,
}

impl<B: Backend> Held<B> {
    pub(crate) fn new(backend: B, permit: B::Permit, policy: Policy) -> Held<B> {
        let [asked, no_effect, ended] = [false; 3].map(AtomicBool::new);
        Held { backend, permit, policy, asked, no_effect, reach: Arc::default(), ended }
    }

    /// Whether the handler asked for what it would need for an effect, or what it started may yet.
    pub(crate) fn may_be_asked(&self) -> bool {
        let reached = Arc::strong_count(&self.reach) > 1;
        // The last one to let go may have asked before, in a task that nobody joined.
        fence(Ordering::Acquire);
        reached || self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn said_no_effect(&self) -> bool {
        self.no_effect.load(Ordering::Relaxed)
    }

    /// Leaves an orphan where nobody told the store how the attempt ended.
    pub(crate) fn give_up_unless_ended(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.backend.give_up_soon(&self.permit);
            observe::ended(End::GivenUp);
        }
    }

    /// What a witness is asked, where no attempt with a token up to `fence` may commit any more.
    pub(crate) fn question(&self, fence: u64) -> Question {
        Question {
            operation: self.permit.operation(),
            token: self.permit.token(),
            fence,
            attempt: self.permit.attempt(),
            cause: self.permit.cause(),
            checkpoint: self.permit.checkpoint().map(Bytes::copy_from_slice),
        }
    }

    pub(crate) async fn complete(&self, parts: &[&[u8]]) -> Told<Completed> {
        let timed = Timed::start();
        let completed = self.backend.complete(&self.permit, parts).await;
        if completed.is_ok() {
            timed.end(Commit::Complete);
        }
        self.told("complete", End::Completed, completed)
    }

    pub(crate) async fn release(&self) -> Told<()> {
        let released = self.backend.release(&self.permit).await;
        self.told("release", End::Released, released)
    }

    pub(crate) async fn give_up(&self) -> Told<()> {
        let given_up = self.backend.give_up(&self.permit).await;
        self.told("give up", End::GivenUp, given_up)
    }

    fn told<T>(&self, what: &'static str, end: End, told: Result<T, B::Error>) -> Told<T> {
        match told {
            Ok(value) => {
                self.ended(end);
                Told::Recorded(value)
            }
            Err(error) if error.kind() == ErrorKind::Superseded => {
                self.ended(End::Superseded);
                Told::Superseded
            }
            Err(error) => {
                observe::not_recorded(what, &error);
                self.ended.store(true, Ordering::Relaxed);
                self.backend.give_up_soon(&self.permit);
                Told::NotRecorded
            }
        }
    }

    /// The store was told how the attempt ended.
    fn ended(&self, end: End) {
        self.ended.store(true, Ordering::Relaxed);
        observe::ended(end);
    }

    /// Keeps the lease while a future lives. One that ends within a third of it costs no timer of
    /// its own.
    pub(crate) async fn renewing<F: Future>(
        self: &Arc<Self>,
        mut future: Pin<&mut F>,
    ) -> F::Output {
        let lease = self.permit.lease();
        let every = (lease / 3).max(Duration::from_millis(1));
        if let Ok(output) = timeout(every, future.as_mut()).await {
            return output;
        }
        let _renewal = Renewal::start(self, lease, every);
        future.await
    }
}

/// How the end of an attempt was received.
pub(crate) enum Told<T> {
    Recorded(T),
    Superseded,
    NotRecorded,
}

/// A task that renews a lease until this is dropped.
struct Renewal(tokio::task::JoinHandle<()>);

impl Renewal {
    fn start<B: Backend>(held: &Arc<Held<B>>, lease: Duration, every: Duration) -> Renewal {
        let held = Arc::clone(held);
        Renewal(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            loop {
                ticks.tick().await;
                if let Err(error) = held.backend.renew(&held.permit, lease).await {
                    tracing::debug!(target: observe::TARGET, %error, "a lease was not renewed");
                    if error.kind() == ErrorKind::Superseded {
                        return;
                    }
                }
            }
        }))
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}
