//! The futures of the async calls: named types that borrow nothing, run on any executor, and are
//! clean to drop at any point.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::claim::{Claim, Permit};
use crate::engine::Engine;
use crate::engine::admit::{Admitted, Caller, Grant};
use crate::engine::finish::Finishing;
use crate::engine::outcome::{Answer, Keyed, Status, Stored};
use crate::engine::ticket::Ticket;
use crate::error::{Error, Result};
use crate::log::OpenClaim;
use crate::scope::{Fingerprint, Scope};
use crate::sync::Signal;

/// Of [`Store::claim_async`](crate::Store::claim_async). Nothing happens before it is polled.
/// Dropped before it yields, it leaves no claim behind: nobody ran anything.
#[must_use = "a future does nothing unless it is polled"]
pub struct ClaimFuture {
    engine: Arc<Engine>,
    ask: Ask,
    stage: Stage,
}

enum Ask {
    Claim { keyed: Result<Keyed>, fingerprint: Fingerprint, waits: Waits },
    TakeOver(OpenClaim),
}

/// Whether a running operation is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    No,
    Yes,
}

enum Stage {
    Start { woken: Option<Arc<Signal>> },
    Waiting { hash: u64, signal: Arc<Signal> },
    Staged { grant: Grant, ticket: Arc<Ticket> },
    Done,
}

impl ClaimFuture {
    pub(crate) fn claim(
        engine: &Arc<Engine>,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        waits: Waits,
    ) -> ClaimFuture {
        let ask = Ask::Claim { keyed: engine.keyed(scope), fingerprint, waits };
        ClaimFuture { engine: Arc::clone(engine), ask, stage: Stage::Start { woken: None } }
    }

    pub(crate) fn take_over(engine: &Arc<Engine>, open: OpenClaim, _hash: u64) -> ClaimFuture {
        let stage = Stage::Start { woken: None };
        ClaimFuture { engine: Arc::clone(engine), ask: Ask::TakeOver(open), stage }
    }

    /// Asks the engine; the claim where that is the end of it.
    fn start(&mut self, woken: Option<Arc<Signal>>) -> Result<Option<Claim>> {
        let ticket = Arc::<Ticket>::default();
        let waits = matches!(self.ask, Ask::Claim { waits: Waits::Yes, .. });
        let signal = waits.then(Arc::<Signal>::default);
        let (admitted, hash) = match &self.ask {
            Ask::TakeOver(open) => {
                let caller = Caller::of_future(&ticket, None);
                (self.engine.take_over(open, &caller), self.engine.hash_of(&open.facts))
            }
            Ask::Claim { keyed, fingerprint, .. } => {
                let keyed = keyed.as_ref().map_err(Error::clone)?;
                let caller = Caller::of_future(&ticket, signal.as_ref());
                (self.engine.admit(keyed, *fingerprint, &caller), keyed.hash)
            }
        };
        if let Some(woken) = woken {
            self.engine.leave(hash, &woken);
        }
        match (admitted?, signal) {
            (Admitted::Staged(grant, staged), _) => {
                self.stage = Stage::Staged { grant, ticket };
                self.engine.settle_later(staged);
            }
            (Admitted::Answer(Answer::InProgress(running)), Some(signal)) => {
                self.engine.watch_lease(hash, running.token);
                self.stage = Stage::Waiting { hash, signal };
            }
            (admitted, _) => return Claim::settle(&self.engine, admitted).map(Some),
        }
        Ok(None)
    }
}

impl Future for ClaimFuture {
    type Output = Result<Claim>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Claim>> {
        loop {
            match &mut self.stage {
                Stage::Start { woken } => {
                    let woken = woken.take();
                    match self.start(woken) {
                        Ok(None) => {}
                        Ok(Some(claim)) => {
                            self.stage = Stage::Done;
                            return Poll::Ready(Ok(claim));
                        }
                        Err(error) => {
                            self.stage = Stage::Done;
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                Stage::Waiting { signal, .. } => {
                    if signal.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let woken = Some(Arc::clone(signal));
                    self.stage = Stage::Start { woken };
                }
                Stage::Staged { ticket, .. } => {
                    let Poll::Ready(outcome) = ticket.poll(cx) else { return Poll::Pending };
                    let stage = std::mem::replace(&mut self.stage, Stage::Done);
                    let Stage::Staged { grant, .. } = stage else { unreachable!("matched above") };
                    let claim = outcome.map(|()| Claim::Granted(Permit::new(&self.engine, grant)));
                    return Poll::Ready(claim);
                }
                Stage::Done => panic!("a ClaimFuture was polled after it was ready"),
            }
        }
    }
}

impl Drop for ClaimFuture {
    fn drop(&mut self) {
        match &self.stage {
            Stage::Staged { grant, ticket } => {
                if let Some(Ok(())) = ticket.abandon() {
                    self.engine.release_unrun(grant.hash, grant.open.facts.token);
                }
            }
            Stage::Waiting { hash, signal } => self.engine.leave(*hash, signal),
            Stage::Start { .. } | Stage::Done => {}
        }
    }
}

impl fmt::Debug for ClaimFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimFuture").finish_non_exhaustive()
    }
}

/// What was staged at the call, until it is durable.
enum Ending<T> {
    Refused(Error),
    Staged(T, Arc<Ticket>),
    Done,
}

impl<T> Ending<T> {
    fn new(engine: &Engine, staged: Result<Finishing<T>>, ticket: Arc<Ticket>) -> Ending<T> {
        match staged {
            Ok(finishing) => Ending::Staged(engine.finish_later(finishing), ticket),
            Err(error) => Ending::Refused(error),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T>> {
        if let Ending::Staged(_, ticket) = self
            && let Poll::Ready(outcome) = ticket.poll(cx)
        {
            let Ending::Staged(value, _) = std::mem::replace(self, Ending::Done) else {
                unreachable!("matched above")
            };
            return Poll::Ready(outcome.map(|()| value));
        }
        match self {
            Ending::Staged(..) => Poll::Pending,
            Ending::Done => panic!("a future was polled after it was ready"),
            Ending::Refused(error) => {
                let error = error.clone();
                *self = Ending::Done;
                Poll::Ready(Err(error))
            }
        }
    }
}

/// Of [`Permit::complete_async`] and its kin. Staged at the call; dropping it stops the waiting,
/// not the deed.
#[must_use = "whether it succeeded is known only when it is polled"]
pub struct CompleteFuture(Ending<Stored>);

impl CompleteFuture {
    pub(crate) fn new(
        engine: &Engine,
        staged: Result<Finishing<Stored>>,
        ticket: Arc<Ticket>,
    ) -> CompleteFuture {
        CompleteFuture(Ending::new(engine, staged, ticket))
    }
}

impl Unpin for CompleteFuture {}

impl Future for CompleteFuture {
    type Output = Result<Stored>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stored>> {
        self.0.poll(cx)
    }
}

impl fmt::Debug for CompleteFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompleteFuture").finish_non_exhaustive()
    }
}

/// Of [`Permit::release_async`], [`Permit::give_up_async`], [`Permit::save_checkpoint_async`] and
/// their kin. Staged at the call; dropping it stops the waiting, not the deed.
#[must_use = "whether it succeeded is known only when it is polled"]
pub struct EndFuture(Ending<()>);

impl EndFuture {
    pub(crate) fn new(
        engine: &Engine,
        staged: Result<Finishing<()>>,
        ticket: Arc<Ticket>,
    ) -> EndFuture {
        EndFuture(Ending::new(engine, staged, ticket))
    }
}

impl Future for EndFuture {
    type Output = Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.poll(cx)
    }
}

impl fmt::Debug for EndFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndFuture").finish_non_exhaustive()
    }
}

/// Of [`Store::lookup_async`](crate::Store::lookup_async): ready at the first poll, since a lookup
/// waits for nothing but the page cache.
#[must_use = "a future does nothing unless it is polled"]
pub struct LookupFuture {
    engine: Arc<Engine>,
    keyed: Result<Keyed>,
}

impl LookupFuture {
    pub(crate) fn new(engine: &Arc<Engine>, scope: Scope<'_>) -> LookupFuture {
        LookupFuture { engine: Arc::clone(engine), keyed: engine.keyed(scope) }
    }
}

impl Future for LookupFuture {
    type Output = Result<Option<Status>>;
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let keyed = self.keyed.as_ref().map_err(Error::clone)?;
        Poll::Ready(self.engine.look_up(keyed))
    }
}

impl fmt::Debug for LookupFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupFuture").finish_non_exhaustive()
    }
}
