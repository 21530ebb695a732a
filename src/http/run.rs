//! One attempt from its grant to its end: a witness is asked, the handler runs, the response is
//! made durable and then sent. Whatever happens, the store is told, or an orphan is left.

use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, header, response};
use http_body::Body;
use tokio::time::timeout;
use tower_service::Service;

use crate::http::answer::{Marker, announce, mark, refuse, respond, unknown};
use crate::http::asked::{Asked, Decided};
use crate::http::attempt::Attempt;
use crate::http::backend::{Backend, BackendError as _, BackendPermit as _, ErrorKind};
use crate::http::body::{Ended, Pieces, Read, RequestBody, ResponseBody, collect};
use crate::http::classify::{NoEffect, Outcome};
use crate::http::encoding::{self, BodyKept, encode_head};
use crate::http::held::{Held, Told};
use crate::http::observe::{self, End, Running};
use crate::http::orphans::{Orphans, Testimony, Witness};
use crate::http::policy::{Failures, Keep, Rules, is_of_the_moment};
use crate::http::problem::{Code, Problem};
use crate::http::tasks::{Caught, Panicked, Task};

/// An attempt under way. Dropped before its end, it leaves an orphan.
pub(crate) struct Run<B: Backend> {
    asked: Asked<B>,
    held: Arc<Held<B>>,
    _running: Running,
    _task: Task,
}

impl<B: Backend> Drop for Run<B> {
    fn drop(&mut self) {
        self.held.give_up_unless_ended();
    }
}

impl<B: Backend> Run<B> {
    /// `None` once the layer is draining: nothing runs, and the claim is undone.
    pub(crate) async fn start(asked: Asked<B>, permit: B::Permit) -> Option<Run<B>> {
        let Some(task) = asked.terms.state().tasks.enter() else {
            Box::pin(undo(&asked, &permit)).await;
            return None;
        };
        let held = Held::new(asked.backend().clone(), permit, asked.terms.policy().clone());
        Some(Run { asked, held: Arc::new(held), _running: observe::running(), _task: task })
    }

    fn rules(&self) -> &Rules {
        self.asked.rules()
    }

    pub(crate) async fn serve<S, Q, R>(
        self,
        parts: Box<Parts>,
        read: Read,
        service: S,
    ) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Service<Request<RequestBody<Q>>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        R: Body + Send + 'static,
        R::Data: Send,
    {
        let attempt = async {
            if self.held.permit.attempt() > 1
                && let Orphans::Witness(witness) = &self.rules().orphans
            {
                // Every earlier attempt has a smaller token, and this one must not fence itself.
                let fence = self.held.permit.token().get().saturating_sub(1);
                match self.ask(witness, fence).await {
                    Some(Testimony::Happened(response)) => {
                        return Ok(self.settle_happened(response, Marker::Replayed).await);
                    }
                    Some(Testimony::DidNotHappen) => {}
                    None => {
                        let winner = self.give_up().await;
                        return Ok(winner.unwrap_or_else(|| refuse(self.rules(), unknown())));
                    }
                }
            }
            self.handle(*parts, read, service).await
        };
        self.held.renewing(pin!(attempt)).await
    }

    /// Runs the handler and settles what it answers.
    async fn handle<S, Q, R>(
        &self,
        mut parts: Parts,
        read: Read,
        mut service: S,
    ) -> Result<Response<ResponseBody<R>>, S::Error>
    where
        S: Service<Request<RequestBody<Q>>, Response = Response<R>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        R: Body + Send + 'static,
        R::Data: Send,
    {
        parts.extensions.insert(Attempt::new(Arc::clone(&self.held)));
        let request = Request::from_parts(parts, RequestBody::read(read));
        let handler = Caught::new(async move { service.call(request).await });
        let handled = match self.rules().run_limit {
            None => Ok(handler.await),
            Some(limit) => timeout(limit, handler).await,
        };
        let code = match handled {
            Ok(Ok(Ok(response))) => return Ok(self.settle(response).await),
            Ok(Ok(Err(error))) => return self.settle_doubt().await.ok_or(error),
            Ok(Err(Panicked)) => Code::RunFailed,
            Err(_) => Code::RunTimedOut,
        };
        let happened = self.settle_doubt().await;
        Ok(happened.unwrap_or_else(|| refuse(self.rules(), Problem::new(code))))
    }

    /// Settles the handler's response.
    async fn settle<R>(&self, response: Response<R>) -> Response<ResponseBody<R>>
    where
        R: Body + Send + 'static,
        R::Data: Send,
    {
        let (head, body) = response.into_parts();
        let rules = self.rules();
        let said = head.extensions.get::<NoEffect>().is_some() || self.held.said_no_effect();
        let passed = |body| ResponseBody::passed(body);
        if said {
            let winner = self.release().await;
            return winner.unwrap_or_else(|| Response::from_parts(head, passed(body)));
        }
        let outcome = rules.classify.of_head(&head);
        match outcome.map(|outcome| self.weigh(outcome)) {
            Some(Outcome::Success) => self.settle_success(head, body).await,
            Some(outcome) => {
                let happened = self.settle_failure(outcome).await;
                happened.unwrap_or_else(|| Response::from_parts(head, passed(body)))
            }
            None => self.settle_by_trailers(head, body).await,
        }
    }

    /// What an outcome means for this attempt.
    fn weigh(&self, outcome: Outcome) -> Outcome {
        match outcome {
            _ if self.rules().failures == Failures::Stored => Outcome::Success,
            // What an earlier attempt did, this one's failure does not say.
            Outcome::NoEffect if self.held.permit.attempt() > 1 => Outcome::InDoubt,
            outcome => outcome,
        }
    }

    async fn settle_success<R>(&self, head: response::Parts, body: R) -> Response<ResponseBody<R>>
    where
        R: Body + Send + 'static,
        R::Data: Send,
    {
        let mut body = Box::pin(body);
        let mut pieces = Pieces::default();
        let ended = self.collect(&head, &mut body, &mut pieces).await;
        self.store(head, body, pieces, ended).await
    }

    async fn settle_by_trailers<R>(
        &self,
        head: response::Parts,
        body: R,
    ) -> Response<ResponseBody<R>>
    where
        R: Body + Send + 'static,
        R::Data: Send,
    {
        let mut body = Box::pin(body);
        let mut pieces = Pieces::default();
        let ended = self.collect(&head, &mut body, &mut pieces).await;
        match ended {
            // What goes on for too long is kept as "it ran": nobody waits for its trailers.
            Some(Ended::TooLarge) | None => self.store(head, body, pieces, ended).await,
            Some(Ended::Whole) => {
                let outcome = self.rules().classify.of_trailers(pieces.trailers.as_deref());
                match self.weigh(outcome) {
                    Outcome::Success => self.store(head, body, pieces, ended).await,
                    outcome => {
                        let happened = self.settle_failure(outcome).await;
                        let own = || Response::from_parts(head, ResponseBody::pieces(pieces));
                        happened.unwrap_or_else(own)
                    }
                }
            }
            // It broke off before it said how the operation went.
            Some(Ended::Broken) => {
                let happened = self.settle_doubt().await;
                happened.unwrap_or_else(|| refuse(self.rules(), Problem::new(Code::RunFailed)))
            }
        }
    }

    /// Reads the response before its first byte goes out; `None` where it takes too long.
    async fn collect<R>(
        &self,
        head: &response::Parts,
        body: &mut Pin<Box<R>>,
        pieces: &mut Pieces,
    ) -> Option<Ended>
    where
        R: Body + Send + 'static,
        R::Data: Send,
    {
        let rules = self.rules();
        let fields: usize = head.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + 8).sum();
        let store = self.asked.backend().promises().response_bytes_max;
        let room = store.saturating_sub((fields + encoding::PREFIX_BYTES) as u64);
        let limit = rules.response_bytes_max.min(room);
        let collected = Caught::new(collect(body, pieces, limit));
        match timeout(rules.response_time_max, collected).await {
            Ok(Ok(ended)) => Some(ended),
            Ok(Err(Panicked)) => Some(Ended::Broken),
            Err(_) => None,
        }
    }

    /// Makes a success durable, then sends it: whole, or as "it ran" with the rest passing through.
    async fn store<R>(
        &self,
        mut head: response::Parts,
        body: Pin<Box<R>>,
        pieces: Pieces,
        ended: Option<Ended>,
    ) -> Response<ResponseBody<R>>
    where
        R: Body + Send + 'static,
        R::Data: Send,
    {
        let rules = self.rules();
        let whole = ended == Some(Ended::Whole) && rules.keep == Keep::Whole;
        let kept = if whole { BodyKept::Whole } else { BodyKept::No };
        let encoded = self.encode(&head, pieces.trailers.as_deref(), kept);
        let mut parts: Vec<&[u8]> = Vec::with_capacity(1 + pieces.data.len());
        parts.push(&encoded);
        if whole {
            parts.extend(pieces.data.iter().map(|piece| &piece[..]));
        }
        let told = self.held.complete(&parts).await;
        match &told {
            Told::Superseded => return self.winner_or_unknown().await,
            Told::Recorded(completed) => announce(rules, completed, &mut head.headers),
            Told::NotRecorded => {}
        }
        match ended {
            Some(Ended::Whole) => Response::from_parts(head, ResponseBody::pieces(pieces)),
            Some(Ended::TooLarge) | None => {
                Response::from_parts(head, ResponseBody::rest(pieces.data, body))
            }
            // Nobody knows of it: it may run again, where the route lets it.
            Some(Ended::Broken) if matches!(told, Told::NotRecorded) => refuse(rules, unknown()),
            // Nothing was sent yet, so the client need not take a part for the whole.
            Some(Ended::Broken) => {
                let location = head.headers.get(header::LOCATION).cloned();
                let problem = Problem::new(Code::ResponseNotStored);
                let original_status = Some(head.status);
                refuse(rules, Problem { original_status, location, ..problem })
            }
        }
    }

    fn encode(
        &self,
        head: &response::Parts,
        trailers: Option<&HeaderMap>,
        kept: BodyKept,
    ) -> Vec<u8> {
        let headers = self.rules().kept_headers(&head.headers);
        let trailers = trailers.into_iter().flatten().filter(|(name, _)| !is_of_the_moment(name));
        let encoded = encode_head(head.status, headers, trailers, kept);
        let store = self.asked.backend().promises().response_bytes_max;
        if kept == BodyKept::No && encoded.len() as u64 > store {
            // The store would leave out everything; that it ran, and with which status, stays.
            let none = || std::iter::empty();
            return encode_head(head.status, none(), none(), kept);
        }
        encoded
    }

    /// Settles a response that says that the operation failed. What is sent in its place, where it
    /// did happen: the saved response, or that of the attempt that took this one's place.
    async fn settle_failure<R>(&self, outcome: Outcome) -> Option<Response<ResponseBody<R>>> {
        if outcome == Outcome::NoEffect { self.release().await } else { self.settle_doubt().await }
    }

    /// Settles a failure that may have come after an effect: whoever knows is asked.
    async fn settle_doubt<R>(&self) -> Option<Response<ResponseBody<R>>> {
        if self.held.said_no_effect() {
            return self.release().await;
        }
        let permit = &self.held.permit;
        match &self.rules().orphans {
            Orphans::Witness(witness) => match self.ask(witness, permit.token().get()).await {
                Some(Testimony::Happened(response)) => {
                    Some(self.settle_happened(response, Marker::None).await)
                }
                Some(Testimony::DidNotHappen) => self.release().await,
                None => self.give_up().await,
            },
            Orphans::Rerun | Orphans::Hold => {
                // A handler that never asked who it is, and left nobody who could, had no way to
                // name an effect; an earlier attempt may have had one.
                if permit.attempt() == 1 && !self.held.may_be_asked() {
                    self.release().await
                } else {
                    self.give_up().await
                }
            }
        }
    }

    /// Frees the scope. Where another attempt took this one's place, its answer.
    async fn release<R>(&self) -> Option<Response<ResponseBody<R>>> {
        match self.held.release().await {
            Told::Superseded => self.winner().await,
            Told::Recorded(()) | Told::NotRecorded => None,
        }
    }

    /// Leaves an orphan. Where another attempt took this one's place, its answer.
    async fn give_up<R>(&self) -> Option<Response<ResponseBody<R>>> {
        match self.held.give_up().await {
            Told::Superseded => self.winner().await,
            Told::Recorded(()) | Told::NotRecorded => None,
        }
    }

    /// Ends the operation with the response that the witness has.
    async fn settle_happened<R>(
        &self,
        response: Bytes,
        marker: Marker,
    ) -> Response<ResponseBody<R>> {
        let rules = self.rules();
        let Some(found) = encoding::decode(&response) else {
            tracing::error!(
                target: observe::TARGET,
                "the witness has a response that Attempt::encode did not make"
            );
            let winner = self.give_up().await;
            return winner.unwrap_or_else(|| refuse(rules, unknown()));
        };
        match self.held.complete(&[&response]).await {
            Told::Superseded => self.winner_or_unknown().await,
            Told::Recorded(completed) => match marker {
                Marker::None => respond(rules, found, &completed, marker),
                Marker::Replayed => self.asked.show(found, completed).response().await,
            },
            // Whether this caller may see it is a question about a record.
            Told::NotRecorded if marker == Marker::Replayed && rules.authorize.is_some() => {
                refuse(rules, unknown())
            }
            // It is durable where the witness has it.
            Told::NotRecorded => match found.body {
                Some(body) => {
                    let mut response = Response::new(ResponseBody::one(body, None));
                    *response.status_mut() = found.status;
                    *response.headers_mut() = found.headers;
                    // Without the date: that was to come from the record.
                    if marker == Marker::Replayed {
                        mark(response.headers_mut());
                    }
                    response
                }
                None => refuse(rules, Problem::new(Code::ResponseNotStored)),
            },
        }
    }

    /// What a witness says; `None` is unknown.
    async fn ask(&self, witness: &Witness, fence: u64) -> Option<Testimony> {
        let question = self.held.question(fence);
        // The function itself is called inside, where its panic is caught too.
        let asked = Caught::new(async { witness.ask(question).await });
        let said = timeout(self.rules().witness_limit, asked).await;
        let testimony = match said {
            Ok(Ok(Ok(testimony))) => Some(testimony),
            Ok(Ok(Err(error))) => {
                tracing::warn!(target: observe::TARGET, %error, "the witness does not know");
                None
            }
            Ok(Err(Panicked)) | Err(_) => {
                tracing::warn!(target: observe::TARGET, "the witness gave no answer");
                None
            }
        };
        let happened = testimony.as_ref().map(|said| matches!(said, Testimony::Happened(_)));
        tracing::info!(target: observe::TARGET, ?happened, "asked the witness");
        testimony
    }

    /// Another attempt took this one's place: its answer counts. `None` where nobody has one.
    async fn winner<R>(&self) -> Option<Response<ResponseBody<R>>> {
        match self.asked.decide().await {
            Decided::Refuse(problem) => Some(refuse(self.rules(), problem)),
            Decided::Replay(completed) => Some(self.asked.replay(completed).response().await),
            Decided::Run(permit) => {
                // Somebody freed the scope. This request ran once, and does not run again.
                undo(&self.asked, &permit).await;
                None
            }
        }
    }

    async fn winner_or_unknown<R>(&self) -> Response<ResponseBody<R>> {
        self.winner().await.unwrap_or_else(|| refuse(self.rules(), unknown()))
    }
}

/// Undoes a grant of which nothing was run: a first attempt frees the scope, a later one leaves the
/// orphan that it took over.
async fn undo<B: Backend>(asked: &Asked<B>, permit: &B::Permit) {
    let undone = if permit.attempt() == 1 {
        asked.backend().release(permit).await
    } else {
        asked.backend().give_up(permit).await
    };
    match undone {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Superseded => observe::ended(End::Superseded),
        Err(error) => {
            observe::not_recorded("undo", &error);
            asked.backend().give_up_soon(permit);
        }
    }
}
