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
use crate::http::policy::Policy;
use crate::http::problem::{Code, Problem};
use crate::http::run::Run;
use crate::http::settings::{Config, State};
use crate::http::tasks::Detaching;

/// A request that has a key, or may have one in its body.
pub(crate) struct Keyed<B> {
    pub(crate) config: Arc<Config<B>>,
    pub(crate) state: Arc<State>,
    pub(crate) policy: Policy,
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
        let policy = keyed.policy.clone();
        let rules = policy.rules();
        let read = {
            let reading = pin!(body::read(body, rules.request_bytes_max));
            within(rules.request_time_max, reading).await
        };
        let read = match read {
            Some(Ok(read)) => read,
            Some(Err(NotRead::TooLarge)) => {
                return Ok(refuse(rules, Problem::new(Code::RequestTooLarge)));
            }
            Some(Err(NotRead::Broken)) | None => {
                return Ok(refuse(rules, Problem::new(Code::RequestIncomplete)));
            }
        };
        let (parts, asked) = match keyed.ask(&read) {
            Ok(asked) => asked,
            Err(Unasked::Refuse(problem)) => return Ok(refuse(rules, problem)),
            Err(Unasked::Pass(parts)) => {
                let request = Request::from_parts(*parts, RequestBody::read(read));
                return Ok(Box::pin(service.call(request)).await?.map(ResponseBody::passed));
            }
        };
        match asked.decide().await {
            Decided::Refuse(problem) => Ok(refuse(rules, problem)),
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
    let (policy, span) = (asked.policy.clone(), span_of(&asked, &permit));
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
enum Unasked {
    Pass(Box<Parts>),
    Refuse(Problem),
}

impl<B: Backend> Keyed<B> {
    /// What to ask, now that the body is there.
    fn ask(self, read: &Read) -> Result<(Box<Parts>, Asked<B>), Unasked> {
        let rules = self.policy.rules();
        let key = match (self.key, &rules.key) {
            (Some(key), _) => key,
            (None, KeySource::Function(function)) => match function.find(&self.parts, &read.data) {
                Some(key) if key::is_key(&key) => key,
                Some(_) => return Err(Unasked::Refuse(Problem::new(Code::KeyInvalid))),
                None if rules.presence == KeyPresence::Optional => {
                    return Err(Unasked::Pass(self.parts));
                }
                None => return Err(Unasked::Refuse(Problem::new(Code::KeyMissing))),
            },
            (None, KeySource::Header(_)) => unreachable!("its key was read off the head"),
        };
        let Some(whose) = self.whose else {
            return Err(Unasked::Refuse(self.state.misconfigured()));
        };
        let entered = self.state.places.enter(&self.config.bounds, &whose.organization);
        let Some(entered) = entered else {
            return Err(Unasked::Refuse(Problem::after(Code::Overloaded, SOON)));
        };
        let caller = rules.authorize.clone().map(|authorize| {
            // The handler gets the head, and a replay may come after it.
            Arc::new(Caller { authorize, parts: Parts::clone(&self.parts) })
        });
        let principal = whose.principal.as_deref();
        let asked = Asked {
            fingerprint: rules.fingerprint.of(&self.parts, &read.data, principal),
            organization: whose.organization,
            method: self.parts.method.clone(),
            path: self.config.path(&self.parts),
            key,
            body_bytes: read.data.len() as u64,
            config: self.config,
            state: self.state,
            policy: self.policy,
            caller,
            _entered: entered,
        };
        Ok((self.parts, asked))
    }
}
