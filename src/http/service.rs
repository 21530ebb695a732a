//! The service: decides by the head of a request whether it passes, is refused, or has a key.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::http::answer::refuse;
use crate::http::asked::Whose;
use crate::http::attempt::Attempt;
use crate::http::backend::Backend;
use crate::http::body::{RequestBody, ResponseBody};
use crate::http::flow::{self, Keyed};
use crate::http::key::{self, Found, KeyPresence, KeySource};
use crate::http::policy::{Policy, Rules};
use crate::http::problem::{Code, Problem};
use crate::http::settings::{Config, Shared, Terms};

/// The service that [`IdempotencyLayer`](crate::http::IdempotencyLayer) makes.
pub struct Idempotency<B, S> {
    inner: S,
    shared: Arc<Shared<B>>,
}

impl<B, S> Idempotency<B, S> {
    pub(crate) fn new(inner: S, shared: Arc<Shared<B>>) -> Self {
        Idempotency { inner, shared }
    }
}

impl<B, S: Clone> Clone for Idempotency<B, S> {
    fn clone(&self) -> Self {
        Idempotency { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<B, S> fmt::Debug for Idempotency<B, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").finish_non_exhaustive()
    }
}

impl<B, S, Q, R> Service<Request<Q>> for Idempotency<B, S>
where
    B: Backend,
    S: Service<Request<RequestBody<Q>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    Q: Body + Send + 'static,
    Q::Data: Send,
    R: Body + Send + 'static,
    R::Data: Send,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let step = match gate(&self.shared, &parts) {
            Gate::Pass => {
                let request = Request::from_parts(parts, RequestBody::passed(body));
                Step::Passed { future: self.inner.call(request) }
            }
            Gate::Refuse(own, problem) => {
                let policy = self.shared.config.policy_of(own.as_ref());
                let response = refuse(policy.rules(), problem);
                Step::Refused { response: Some(response) }
            }
            Gate::Keyed { own, key, whose } => {
                // The clone that was made ready is the one that is called.
                let clone = self.inner.clone();
                let service = std::mem::replace(&mut self.inner, clone);
                let terms = Terms { shared: Arc::clone(&self.shared), own };
                let keyed = Keyed { terms, parts: Box::new(parts), key, whose };
                Step::Keyed { future: Box::pin(flow::serve(keyed, body, service)) }
            }
        };
        ResponseFuture { step }
    }
}

enum Gate {
    Pass,
    Refuse(Option<Policy>, Problem),
    Keyed { own: Option<Policy>, key: Option<String>, whose: Option<Whose> },
}

/// Everything that can be known before the body is read.
fn gate<B: Backend>(shared: &Shared<B>, parts: &Parts) -> Gate {
    let config = &shared.config;
    // An outer layer runs this request already.
    if parts.extensions.get::<Attempt>().is_some() {
        return Gate::Pass;
    }
    let own = config.own_policy(parts);
    let rules = config.policy_of(own.as_ref()).rules();
    if !rules.methods.contains(&parts.method) || upgrades(parts) {
        return Gate::Pass;
    }
    let key = match &rules.key {
        KeySource::Function(_) => None,
        KeySource::Header(name) => match key::in_header(&parts.headers, name, rules.syntax) {
            Found::Key(key) => Some(key),
            Found::Malformed => return Gate::Refuse(own, Problem::new(Code::KeyInvalid)),
            Found::None if rules.presence == KeyPresence::Optional => return Gate::Pass,
            Found::None => return Gate::Refuse(own, Problem::new(Code::KeyMissing)),
        },
    };
    let whose = whose(config, rules, parts);
    if key.is_some() && whose.is_none() {
        return Gate::Refuse(own, shared.state.misconfigured());
    }
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|bytes| bytes > rules.request_bytes_max) {
        return Gate::Refuse(own, Problem::new(Code::RequestTooLarge));
    }
    Gate::Keyed { own, key, whose }
}

fn whose<B: Backend>(config: &Config<B>, rules: &Rules, parts: &Parts) -> Option<Whose> {
    let organization = config.organization.find(parts)?;
    let principal = match &rules.principal {
        Some(principal) => Some(principal(parts)?),
        None => None,
    };
    Some(Whose { organization: organization.into(), principal })
}

/// Whether the connection turns into something else. `h2c` does not count: some clients offer it
/// with every write, and what follows is the same request.
fn upgrades(parts: &Parts) -> bool {
    let mut upgrades = parts.headers.get_all(header::UPGRADE).iter();
    upgrades.any(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

pin_project! {
    /// The future of [`Idempotency`].
    pub struct ResponseFuture<F, R, E> {
        #[pin]
        step: Step<F, R, E>,
    }
}

type Serving<R, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<R>>, E>> + Send>>;

pin_project! {
    #[project = StepProjected]
    enum Step<F, R, E> {
        Passed { #[pin] future: F },
        Refused { response: Option<Response<ResponseBody<R>>> },
        Keyed { future: Serving<R, E> },
    }
}

impl<F, R, E> Future for ResponseFuture<F, R, E>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().step.project() {
            StepProjected::Passed { future } => {
                future.poll(cx).map(|answered| Ok(answered?.map(ResponseBody::passed)))
            }
            StepProjected::Refused { response } => {
                Poll::Ready(Ok(response.take().expect("polled before it was ready")))
            }
            StepProjected::Keyed { future } => future.as_mut().poll(cx),
        }
    }
}

impl<F, R, E> fmt::Debug for ResponseFuture<F, R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
