//! The rules of a route: what a key is, what a failure means, how long is waited. A policy that
//! cannot work is refused when it is built.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response};

use crate::http::classify::{Classify, Outcome};
use crate::http::fingerprint::FingerprintOf;
use crate::http::grpc;
use crate::http::key::{KeyPresence, KeySource, KeySyntax};
use crate::http::orphans::Orphans;
use crate::http::problem::{Code, Renderer};
use crate::scope::OperationId;

/// The rules of a route; cheap to clone.
///
/// ```
/// use oncelog::http::{KeyPresence, Orphans, Policy};
/// use std::time::Duration;
///
/// let payments = Policy::builder(Orphans::Hold)
///     .key_presence(KeyPresence::Required)
///     .wait(Duration::from_secs(20))
///     .build()?;
/// let cookies = Policy::builder(Orphans::Hold).replayed_header(http::header::SET_COOKIE);
/// assert!(cookies.build().is_err());
/// # Ok::<(), oncelog::http::PolicyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Policy(Arc<Rules>);

/// Why a policy cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    what: &'static str,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

impl std::error::Error for PolicyError {}

/// What becomes of a failure that would free the key or leave it in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failures {
    /// It frees the key, or is in doubt: only success is stored.
    NotStored,
    /// It is stored and replayed like a success, as the IETF draft suggests. A panic, a time limit
    /// and the handler's `NoEffect` are not.
    Stored,
}

/// How much of a response is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All of it.
    Whole,
    /// Status and headers: a retry is told that the operation ran, and where to look. For bodies
    /// that must not be at rest.
    Head,
}

/// Whether a stored answer may be replayed to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It may.
    Granted,
    /// It may not: `403`.
    Refused,
}

/// What is about to be replayed.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Replay {
    /// The stored status.
    pub status: StatusCode,
    /// The stored headers.
    pub headers: HeaderMap,
    /// The operation.
    pub operation: OperationId,
    /// When it completed.
    pub completed_at: SystemTime,
}

pub(crate) type Authorize = dyn Fn(&Parts, &Replay) -> Authorizing + Send + Sync;
type Authorizing = Pin<Box<dyn Future<Output = Permission> + Send>>;
type Principal = dyn Fn(&Parts) -> Option<String> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) key: KeySource,
    pub(crate) syntax: KeySyntax,
    pub(crate) presence: KeyPresence,
    pub(crate) methods: Vec<Method>,
    pub(crate) orphans: Orphans,
    pub(crate) witness_limit: Duration,
    pub(crate) fingerprint: FingerprintOf,
    pub(crate) principal: Option<Arc<Principal>>,
    pub(crate) authorize: Option<Arc<Authorize>>,
    pub(crate) request_bytes_max: u64,
    pub(crate) request_time_max: Duration,
    pub(crate) response_bytes_max: u64,
    pub(crate) response_time_max: Duration,
    pub(crate) wait: Duration,
    pub(crate) lease: Duration,
    pub(crate) run_limit: Option<Duration>,
    pub(crate) classify: Classify,
    pub(crate) failures: Failures,
    pub(crate) keep: Keep,
    pub(crate) replayed: Vec<HeaderName>,
    pub(crate) expiry_header: Option<HeaderName>,
    pub(crate) statuses: Vec<(Code, StatusCode)>,
    pub(crate) renderer: Renderer,
}

impl Policy {
    /// The defaults, to be changed.
    pub fn builder(orphans: Orphans) -> PolicyBuilder {
        PolicyBuilder(Rules::new(orphans))
    }

    /// The answers of draft-ietf-httpapi-idempotency-key-header-07: a key is required, another body
    /// is `422`, and a running request is `409` at once.
    pub fn ietf(orphans: Orphans) -> PolicyBuilder {
        Policy::builder(orphans)
            .key_presence(KeyPresence::Required)
            .status(Code::Conflict, StatusCode::UNPROCESSABLE_ENTITY)
            .status(Code::InProgress, StatusCode::CONFLICT)
            .wait(Duration::ZERO)
    }

    /// Unary gRPC: the outcome is read off `grpc-status`, refusals are trailers-only.
    pub fn grpc(orphans: Orphans) -> PolicyBuilder {
        let builder = Policy::builder(orphans).renderer(grpc::renderer());
        let PolicyBuilder(mut rules) = builder;
        rules.classify = Classify::Grpc;
        rules.methods = vec![Method::POST];
        rules.replayed.extend(grpc::HEADERS);
        PolicyBuilder(rules)
    }

    pub(crate) fn of_defaults(orphans: Orphans) -> Policy {
        Policy(Arc::new(Rules::new(orphans)))
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.0
    }
}

impl Rules {
    fn new(orphans: Orphans) -> Rules {
        Rules {
            key: KeySource::Header(KeySource::IDEMPOTENCY_KEY),
            syntax: KeySyntax::BareOrQuoted,
            presence: KeyPresence::Optional,
            methods: vec![Method::POST, Method::PUT, Method::PATCH, Method::DELETE],
            orphans,
            witness_limit: Duration::from_secs(5),
            fingerprint: FingerprintOf::default(),
            principal: None,
            authorize: None,
            request_bytes_max: 2 << 20,
            request_time_max: Duration::from_secs(30),
            response_bytes_max: 1 << 20,
            response_time_max: Duration::from_secs(10),
            wait: Duration::from_secs(5),
            lease: Duration::from_secs(60),
            run_limit: None,
            classify: Classify::Status,
            failures: Failures::NotStored,
            keep: Keep::Whole,
            replayed: REPLAYED.to_vec(),
            expiry_header: None,
            statuses: Vec::new(),
            renderer: Renderer::problem_json(None),
        }
    }

    /// Whether a header of a response is kept and replayed.
    pub(crate) fn keeps(&self, name: &HeaderName) -> bool {
        self.replayed.contains(name)
    }

    /// The headers of a response that are kept.
    pub(crate) fn kept_headers<'a>(
        &self,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        headers.iter().filter(|(name, _)| self.keeps(name))
    }

    pub(crate) fn status_of(&self, code: Code) -> StatusCode {
        let own = self.statuses.iter().rev().find(|(own, _)| *own == code);
        own.map_or_else(|| code.status(), |(_, status)| *status)
    }
}

/// What says what a body is, where what was made can be found, and how both may be cached.
const REPLAYED: [HeaderName; 11] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
    header::CONTENT_DISPOSITION,
    header::LOCATION,
    header::ETAG,
    header::LAST_MODIFIED,
    header::LINK,
    header::CACHE_CONTROL,
    header::VARY,
];

/// What belongs to one connection, one moment or one caller, and is never replayed.
pub(crate) fn is_of_the_moment(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 14] = [
        header::SET_COOKIE,
        header::WWW_AUTHENTICATE,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::DATE,
        header::AGE,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::RETRY_AFTER,
        header::CONTENT_LENGTH,
        header::SERVER,
    ];
    let text = name.as_str();
    NEVER.contains(name)
        || ["keep-alive", "x-request-id", "request-id", "x-correlation-id", "authentication-info"]
            .contains(&text)
        || ["ratelimit", "x-ratelimit", "x-rate-limit", "idempotent-", "idempotency-"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
}

/// Builds a [`Policy`]. Each setter says its unit and default; [`PolicyBuilder::build`] refuses
/// what cannot work.
#[must_use = "a builder is no policy yet"]
#[derive(Clone, Debug)]
pub struct PolicyBuilder(Rules);

impl PolicyBuilder {
    /// Where the key is. Default: the header `Idempotency-Key`.
    pub fn key(mut self, key: KeySource) -> Self {
        self.0.key = key;
        self
    }

    /// Which forms of a key are accepted. Default: bare and quoted.
    pub fn key_syntax(mut self, syntax: KeySyntax) -> Self {
        self.0.syntax = syntax;
        self
    }

    /// Whether a request has to have a key. Default: optional.
    pub fn key_presence(mut self, presence: KeyPresence) -> Self {
        self.0.presence = presence;
        self
    }

    /// The methods that count as writes. Default: POST, PUT, PATCH, DELETE. Others pass through.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.0.methods = methods.into_iter().collect();
        self
    }

    /// How long a witness may take; then the outcome stays unknown. Default: 5 s.
    pub fn witness_limit(mut self, limit: Duration) -> Self {
        self.0.witness_limit = limit;
        self
    }

    /// Which parts of a request count. Default: body, media type, query.
    pub fn fingerprint(mut self, fingerprint: FingerprintOf) -> Self {
        self.0.fingerprint = fingerprint;
        self
    }

    /// Who sends the request, mixed into its fingerprint: another user of the organization gets a
    /// conflict, not the answer. `None` from the function is `500`, code
    /// `idempotency_misconfigured`. Default: not mixed in.
    pub fn principal(
        mut self,
        principal: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.0.principal = Some(Arc::new(principal));
        self
    }

    /// Asks before each replay whether this caller may still see the answer. Default: it may.
    pub fn authorize_replay<F, Fut>(mut self, authorize: F) -> Self
    where
        F: Fn(&Parts, &Replay) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Permission> + Send + 'static,
    {
        self.0.authorize = Some(Arc::new(move |parts, replay| Box::pin(authorize(parts, replay))));
        self
    }

    /// The largest request body in bytes; more is `413`. Default: 2 MiB.
    pub fn request_bytes_max(mut self, bytes: u64) -> Self {
        self.0.request_bytes_max = bytes;
        self
    }

    /// How long a request body may take to arrive; more is `408`. Default: 30 s.
    pub fn request_time_max(mut self, time: Duration) -> Self {
        self.0.request_time_max = time;
        self
    }

    /// The largest response body in bytes that is kept. Default: 1 MiB; less where the store keeps
    /// less.
    pub fn response_bytes_max(mut self, bytes: u64) -> Self {
        self.0.response_bytes_max = bytes;
        self
    }

    /// How long a response body may take to end before it is passed on without being kept.
    /// Default: 10 s.
    pub fn response_time_max(mut self, time: Duration) -> Self {
        self.0.response_time_max = time;
        self
    }

    /// How long a retry waits for the running first request. Default: 5 s; zero answers at once.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.0.wait = wait;
        self
    }

    /// How long a claim may stay silent, where the store lets each claim say; the embedded store
    /// has one lease, of [`Options::lease`](crate::Options::lease). It is renewed while the
    /// handler's future lives. Default: 60 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.0.lease = lease;
        self
    }

    /// Cancels the handler's future after this time: `504`, in doubt. Default: never, so that a
    /// handler that never ends keeps its key in progress until the process ends: the lease is
    /// renewed for as long as the future lives, and has no other ceiling.
    pub fn run_limit(mut self, limit: Duration) -> Self {
        self.0.run_limit = Some(limit);
        self
    }

    /// Reads the outcome off the head of a response. Default: off its status.
    pub fn classify(
        mut self,
        classify: impl Fn(&response::Parts) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        self.0.classify = Classify::Function(Arc::new(classify));
        self
    }

    /// Whether failures are stored too. Default: they are not.
    pub fn failures(mut self, failures: Failures) -> Self {
        self.0.failures = failures;
        self
    }

    /// How much of a response is kept. Default: all of it.
    pub fn keep(mut self, keep: Keep) -> Self {
        self.0.keep = keep;
        self
    }

    /// One more header to keep and replay.
    pub fn replayed_header(mut self, name: HeaderName) -> Self {
        self.0.replayed.push(name);
        self
    }

    /// A header that tells, in first answers and replays, until when a key is kept. Default: none.
    pub fn expiry_header(mut self, name: HeaderName) -> Self {
        self.0.expiry_header = Some(name);
        self
    }

    /// Another status for a problem.
    pub fn status(mut self, code: Code, status: StatusCode) -> Self {
        self.0.statuses.push((code, status));
        self
    }

    /// Turns problems into responses. Default: `application/problem+json`, type `about:blank`.
    pub fn renderer(mut self, renderer: Renderer) -> Self {
        self.0.renderer = renderer;
        self
    }

    /// Checks the policy.
    ///
    /// # Errors
    /// What cannot work: a method that is no write; a header that is never replayed; a bound or a
    /// time of zero; a status for a problem that is no error; a wait of more than an hour.
    pub fn build(self) -> Result<Policy, PolicyError> {
        let rules = self.0;
        let refuse = |what| Err(PolicyError { what });
        if rules.methods.is_empty() {
            return refuse("a policy without methods never applies");
        }
        let read = [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::CONNECT];
        if rules.methods.iter().any(|method| read.contains(method)) {
            return refuse("GET, HEAD, OPTIONS, TRACE and CONNECT are no writes");
        }
        if rules.replayed.iter().any(is_of_the_moment) {
            return refuse("a replayed header belongs to one connection, moment or caller");
        }
        if rules.expiry_header.as_ref().is_some_and(|name| REPLAYED.contains(name)) {
            return refuse("the expiry header has another meaning");
        }
        if rules.request_bytes_max == 0 || rules.response_bytes_max == 0 {
            return refuse("a limit of zero bytes lets nothing pass; Keep::Head keeps no body");
        }
        let times = [rules.request_time_max, rules.response_time_max, rules.lease];
        let limits = [rules.run_limit.unwrap_or(Duration::MAX), rules.witness_limit];
        if times.iter().chain(&limits).any(Duration::is_zero) {
            return refuse("a time of zero lets nothing pass");
        }
        if rules.wait > Duration::from_secs(3600) {
            return refuse("nobody waits for more than an hour");
        }
        let is_error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
        if !rules.statuses.iter().all(|(_, status)| is_error(status)) {
            return refuse("the status of a problem is a client or server error");
        }
        Ok(Policy(Arc::new(rules)))
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules")
            .field("key", &self.key)
            .field("presence", &self.presence)
            .field("orphans", &self.orphans)
            .field("wait", &self.wait)
            .field("run_limit", &self.run_limit)
            .field("classify", &self.classify)
            .finish_non_exhaustive()
    }
}
