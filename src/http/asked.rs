//! What is asked of the store in the name of one request, until there is an answer for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Response};
use tokio::time::timeout;

use crate::clock::real_monotonic;
use crate::http::answer::{Marker, in_progress, problem_of, refuse, respond, saved, unknown};
use crate::http::backend::{
    Answer, Backend, BackendError, Completed, ErrorKind, Orphaned, Running,
};
use crate::http::body::ResponseBody;
use crate::http::crowd::Counted;
use crate::http::encoding::Saved;
use crate::http::observe::{self, Commit, Timed};
use crate::http::orphans::Orphans;
use crate::http::policy::{Authorize, Permission, Replay, Rules};
use crate::http::problem::{Code, Problem};
use crate::http::settings::Terms;
use crate::scope::{Fingerprint, Scope};

/// Who sends a request.
pub(crate) struct Whose {
    pub(crate) organization: Arc<str>,
    pub(crate) principal: Option<String>,
}

/// Who is asked about before each replay, and how.
pub(crate) struct Caller {
    pub(crate) authorize: Arc<Authorize>,
    pub(crate) parts: Parts,
}

/// What is asked of the store in the name of one request.
pub(crate) struct Asked<B> {
    pub(crate) terms: Terms<B>,
    /// Where the policy restricts replays.
    pub(crate) caller: Option<Arc<Caller>>,
    pub(crate) organization: Arc<str>,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) key: String,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) body_bytes: u64,
    pub(crate) counted: Counted,
}

/// It has a place for as long as the request is under way.
impl<B> Drop for Asked<B> {
    fn drop(&mut self) {
        self.terms.state().crowd.leave(&self.organization, self.counted);
    }
}

/// A stored answer: at once, or once somebody has said whether the caller may see it.
pub(crate) enum Shown<R> {
    Now(Response<ResponseBody<R>>),
    Asked(Pin<Box<dyn Future<Output = Response<ResponseBody<R>>> + Send>>),
}

impl<R> Shown<R> {
    pub(crate) async fn response(self) -> Response<ResponseBody<R>> {
        match self {
            Shown::Now(response) => response,
            Shown::Asked(asked) => asked.await,
        }
    }
}

/// What becomes of a request.
pub(crate) enum Decided<P> {
    Run(P),
    Replay(Completed),
    Refuse(Problem),
}

impl<B: Backend> Asked<B> {
    fn scope(&self) -> Scope<'_> {
        Scope {
            organization: &self.organization,
            method: self.method.as_str(),
            path: &self.path,
            key: &self.key,
        }
    }

    /// The scope as logs may show it.
    pub(crate) fn shown(&self) -> impl std::fmt::Display {
        let digest = self.scope().digest();
        let first = digest[..8].iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        format!("{first:016x}")
    }

    pub(crate) fn rules(&self) -> &Rules {
        self.terms.rules()
    }

    pub(crate) fn backend(&self) -> &B {
        &self.terms.config().backend
    }

    /// Asks the store until there is an answer for this request. What few requests come to is
    /// boxed, so that the future of a replay stays small.
    pub(crate) async fn decide(&self) -> Decided<B::Permit> {
        match self.claim().await {
            Ok(Answer::Granted(permit)) => Decided::Run(permit),
            Ok(Answer::Replay(completed)) => Decided::Replay(completed),
            answer => Box::pin(self.insist(answer)).await,
        }
    }

    /// Goes on from an answer that does not decide.
    async fn insist(&self, mut answer: Result<Answer<B::Permit>, B::Error>) -> Decided<B::Permit> {
        let lease = self.rules().lease;
        let mut waiting_since = None;
        loop {
            answer = match answer {
                Ok(Answer::Granted(permit)) => return Decided::Run(permit),
                Ok(Answer::Replay(completed)) => return Decided::Replay(completed),
                Ok(Answer::Conflict(_)) => {
                    return Decided::Refuse(Problem::new(Code::Conflict));
                }
                Ok(Answer::InProgress(running)) => {
                    let now = real_monotonic();
                    let waited = now.saturating_sub(*waiting_since.get_or_insert(now));
                    let left = self.rules().wait.saturating_sub(waited);
                    match self.wait(&running, left).await {
                        Some(answer) => answer,
                        None => return Decided::Refuse(in_progress(&running)),
                    }
                }
                Ok(Answer::Orphaned(orphan)) => match self.rules().orphans {
                    Orphans::Hold => return Decided::Refuse(unknown()),
                    Orphans::Rerun | Orphans::Witness(_) => self.take_over(&orphan, lease).await,
                },
                // The scope was freed in between.
                Err(error) if error.kind() == ErrorKind::Superseded => self.claim().await,
                Err(error) => return Decided::Refuse(problem_of(error.kind())),
            };
        }
    }

    async fn claim(&self) -> Result<Answer<B::Permit>, B::Error> {
        let timed = Timed::start();
        let lease = self.rules().lease;
        let answer = self.backend().claim(self.scope(), self.fingerprint, lease).await;
        if let Ok(Answer::Granted(_)) = &answer {
            timed.end(Commit::Claim);
        }
        observe::claimed(&answer);
        answer
    }

    async fn take_over(
        &self,
        orphan: &Orphaned,
        lease: Duration,
    ) -> Result<Answer<B::Permit>, B::Error> {
        let (scope, seen) = (self.scope(), orphan.token);
        let answer = self.backend().take_over(scope, self.fingerprint, seen, lease).await;
        match &answer {
            // The scope was freed in between; it is claimed, and that is counted.
            Err(error) if error.kind() == ErrorKind::Superseded => return answer,
            Ok(Answer::Granted(_)) => tracing::info!(
                target: observe::TARGET,
                operation = %orphan.operation,
                cause = ?orphan.cause,
                attempt = orphan.attempt,
                "took over an orphan"
            ),
            _ => {}
        }
        observe::claimed(&answer);
        answer
    }

    /// Waits for the running attempt for at most `limit`; `None` where it still runs then, or
    /// where there is no place to wait.
    async fn wait(
        &self,
        running: &Running,
        limit: Duration,
    ) -> Option<Result<Answer<B::Permit>, B::Error>> {
        if limit.is_zero() {
            return None;
        }
        let (bounds, digest) = (&self.terms.config().bounds, self.scope().digest());
        let _place = self.terms.state().places.wait(bounds, digest, self.body_bytes)?;
        let wait = async {
            let mut seen = running.token;
            loop {
                let (scope, lease) = (self.scope(), self.rules().lease);
                let answer = self.backend().claim_after(scope, self.fingerprint, seen, lease).await;
                match answer {
                    Ok(Answer::InProgress(next)) => seen = next.token,
                    answer => return answer,
                }
            }
        };
        if let Ok(answer) = timeout(limit, wait).await {
            observe::claimed(&answer);
            return Some(answer);
        }
        // What is left of the lease has changed meanwhile, so the store is asked once more.
        match self.claim().await {
            Ok(Answer::InProgress(running)) => Some(Ok(Answer::InProgress(running))),
            answer => Some(answer),
        }
    }

    /// The stored answer, if this caller may see it.
    pub(crate) fn replay<R>(&self, completed: Completed) -> Shown<R> {
        match saved(&completed) {
            Ok(saved) => self.show(saved, completed),
            Err(problem) => Shown::Now(refuse(self.rules(), problem)),
        }
    }

    /// A stored answer that was read, if this caller may see it.
    pub(crate) fn show<R>(&self, saved: Saved, completed: Completed) -> Shown<R> {
        let Some(caller) = self.caller.clone() else {
            return Shown::Now(respond(self.rules(), saved, &completed, Marker::Replayed));
        };
        let policy = self.terms.policy().clone();
        Shown::Asked(Box::pin(async move {
            let replay = Replay {
                status: saved.status,
                headers: saved.headers.clone(),
                operation: completed.operation,
                completed_at: completed.completed_at,
            };
            let rules = policy.rules();
            match (caller.authorize)(&caller.parts, &replay).await {
                Permission::Refused => refuse(rules, Problem::new(Code::ReplayRefused)),
                Permission::Granted => respond(rules, saved, &completed, Marker::Replayed),
            }
        }))
    }
}
