//! The way of a request with a key: its body is read, the store is asked, and it runs, is answered
//! from the store, or is refused.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tokio::time::timeout;
use tower_service::Service;
use tracing::Instrument as _;

use crate::http::answer::{SOON, refuse};
use crate::http::asked::{Asked, Caller, Decided, Shown, Whose};
use crate::http::backend::{Backend, BackendPermit as _};
use crate::http::body::{self, NotRead, Read, RequestBody, ResponseBody};
use crate::http::key::{self, KeyPresence, KeySource};
use crate::http::observe;
use crate::http::problem::{Code, Problem};
use crate::http::run::Run;
use crate::http::settings::Terms;
use crate::http::tasks::Detaching;

/// A request that has a key, or may have one in its body.
pub(crate) struct Keyed<B> {
    pub(crate) terms: Terms<B>,
    pub(crate) parts: Box<Parts>,
    pub(crate) key: Option<String>,
    pub(crate) whose: Option<Whose>,
}

/// Serves one request.
#[expect(clippy::manual_async_fn, reason = "its future would have room for its arguments twice")]
pub(crate) fn serve<B, S, Q, R>(
    keyed: Keyed<B>,
    body: Q,
    mut service: S,
) -> impl Future<Output = Result<Response<ResponseBody<R>>, S::Error>> + Send
where
    B: Backend,
    S: Service<Request<RequestBody<Q>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    Q: Body + Send + 'static,
    Q::Data: Send,
    R: Body + Send + 'static,
    R::Data: Send,
{
    async move {
        let read = {
            let rules = keyed.terms.rules();
            let reading = pin!(body::read(body, rules.request_bytes_max));
            within(rules.request_time_max, reading).await
        };
        let read = match read {
            Some(Ok(read)) => read,
            Some(Err(NotRead::TooLarge)) => {
                return Ok(refuse(keyed.terms.rules(), Problem::new(Code::RequestTooLarge)));
            }
            Some(Err(NotRead::Broken)) | None => {
                let problem = Problem::new(Code::RequestIncomplete);
                return Ok(refuse(keyed.terms.rules(), problem));
            }
        };
        let (parts, asked) = match keyed.ask(&read) {
            Ok(asked) => asked,
            Err(Unasked::Refuse(terms, problem)) => return Ok(refuse(terms.rules(), problem)),
            Err(Unasked::Pass(parts)) => {
                let request = Request::from_parts(*parts, RequestBody::read(read));
                return Ok(Box::pin(service.call(request)).await?.map(ResponseBody::passed));
            }
        };
        match asked.decide().await {
            Decided::Refuse(problem) => Ok(refuse(asked.rules(), problem)),
            Decided::Replay(completed) => match asked.replay(completed) {
                Shown::Now(response) => Ok(response),
                Shown::Asked(shown) => Ok(shown.await),
            },
            // What a replay needs no room for is boxed.
            Decided::Run(permit) => Box::pin(run(asked, permit, parts, read, service)).await,
        }
    }
}

/// Runs the attempt that was granted.
async fn run<B, S, Q, R>(
    asked: Asked<B>,
    permit: B::Permit,
    parts: Box<Parts>,
    read: Read,
    service: S,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    B: Backend,
    S: Service<Request<RequestBody<Q>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    Q: Body + Send + 'static,
    Q::Data: Send,
    R: Body + Send + 'static,
    R::Data: Send,
{
    let (policy, span) = (asked.terms.policy().clone(), span_of(&asked, &permit));
    match Run::start(asked, permit).await {
        Some(run) => detach(run, parts, read, service, span).await,
        None => Ok(refuse(policy.rules(), Problem::after(Code::Unavailable, SOON))),
    }
}

fn span_of<B: Backend>(asked: &Asked<B>, permit: &B::Permit) -> tracing::Span {
    tracing::debug_span!(
        target: observe::TARGET,
        "idempotency",
        scope = %asked.shown(),
        operation = %permit.operation(),
        attempt = permit.attempt(),
    )
}

/// What a future yields within `limit`. No timer is set for one that is ready when its task is
/// polled a second time, as the body is that came in one piece with its head.
async fn within<F: Future>(limit: Duration, mut future: Pin<&mut F>) -> Option<F::Output> {
    let mut polled = false;
    let early = poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if polled => Poll::Ready(None),
        Poll::Pending => {
            polled = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    });
    match early.await {
        Some(output) => Some(output),
        None => Box::pin(timeout(limit, future)).await.ok(),
    }
}

/// The run as a future of its own. In a function, since what an `async fn` builds is also room in
/// its own future, which requests that run nothing would have to allocate.
fn detach<B, S, Q, R>(
    run: Run<B>,
    parts: Box<Parts>,
    read: Read,
    service: S,
    span: tracing::Span,
) -> Detaching<Result<Response<ResponseBody<R>>, S::Error>>
where
    B: Backend,
    S: Service<Request<RequestBody<Q>>, Response = Response<R>> + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    Q: Body + Send + 'static,
    Q::Data: Send,
    R: Body + Send + 'static,
    R::Data: Send,
{
    // Where nobody records the layer's span, the run still belongs to that of its request.
    Detaching::new(run.serve(parts, read, service).instrument(span.or_current()))
}

/// Why nothing is asked of the store.
enum Unasked<B> {
    Pass(Box<Parts>),
    Refuse(Terms<B>, Problem),
}

impl<B: Backend> Keyed<B> {
    /// What to ask, now that the body is there.
    fn ask(self, read: &Read) -> Result<(Box<Parts>, Asked<B>), Unasked<B>> {
        let (terms, parts) = (self.terms, self.parts);
        let rules = terms.rules();
        let key = match (self.key, &rules.key) {
            (Some(key), _) => key,
            (None, KeySource::Function(function)) => match function.find(&parts, &read.data) {
                Some(key) if key::is_key(&key) => key,
                Some(_) => return Err(Unasked::Refuse(terms, Problem::new(Code::KeyInvalid))),
                None if rules.presence == KeyPresence::Optional => {
                    return Err(Unasked::Pass(parts));
                }
                None => return Err(Unasked::Refuse(terms, Problem::new(Code::KeyMissing))),
            },
            (None, KeySource::Header(_)) => unreachable!("its key was read off the head"),
        };
        let Some(whose) = self.whose else {
            let problem = terms.state().misconfigured();
            return Err(Unasked::Refuse(terms, problem));
        };
        let caller = rules.authorize.clone().map(|authorize| {
            // The handler gets the head, and a replay may come after it.
            Arc::new(Caller { authorize, parts: Parts::clone(&parts) })
        });
        let fingerprint = rules.fingerprint.of(&parts, &read.data, whose.principal.as_deref());
        let path = terms.config().path(&parts);
        // Last, since what left without an `Asked` would keep its place.
        let bound = terms.config().bounds.per_organization;
        let Some(counted) = terms.state().crowd.enter(&whose.organization, bound) else {
            return Err(Unasked::Refuse(terms, Problem::after(Code::Overloaded, SOON)));
        };
        let asked = Asked {
            terms,
            caller,
            organization: whose.organization,
            method: parts.method.clone(),
            path,
            key,
            fingerprint,
            body_bytes: read.data.len() as u64,
            counted,
        };
        Ok((parts, asked))
    }
}
