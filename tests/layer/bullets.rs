//! Every bullet of the contract's HTTP section: keys, identity, fingerprints, bodies, headers,
//! problems, bounds, rights, and where the layer may stand.

use std::time::Duration;

use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use axum::{Extension, Router, body::Body};
use bytes::Bytes;
use http::{HeaderName, Method, Response, StatusCode};
use oncelog::conformance::Harness as _;
use oncelog::http::{
    Administer as _, AnyBackend, Attempt, Bounds, Code, FingerprintOf, Holding, IdempotencyLayer,
    KeyPresence, KeySource, KeySyntax, Orphans, Outcome, Permission, Policy, PolicyBuilder,
    Renderer,
};
use oncelog::{Fingerprint, Scope};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::ground::Ground;
use crate::layer::support::{
    Account, Api, Door, Layer, Runs, Send, TTL, authenticate, door, organization, policy, serve,
    until,
};

const KEY: Scope<'_> = Scope { organization: "acme", method: "POST", path: "/", key: "k" };

fn hold() -> PolicyBuilder {
    Policy::builder(Orphans::Hold)
}

/// Answers `201` and which run it was, whatever the method and path.
fn counting(runs: &Runs) -> Router {
    let runs = runs.clone();
    Router::new().fallback(any(move || async move {
        (StatusCode::CREATED, format!("run {}", runs.begin()))
    }))
}

async fn replays(request: Send, like: Send) -> bool {
    let first = like.send().await;
    assert!(first.status.is_success(), "{first:?}");
    request.send().await.is_replay()
}

#[tokio::test]
async fn a_bare_token_and_a_quoted_string_of_one_value_are_the_same_key() {
    let runs = Runs::default();
    let api = Api::start(Orphans::Hold, counting(&runs)).await;
    let keys = ["hubspot-contact-123-create-v1", "a:b/c", "stripe-payment-pi_123", "~!@#$%^&*()"];
    for key in keys {
        let quoted = api.post("/").key(&format!("\"{key}\""));
        assert!(replays(quoted, api.post("/").key(key)).await, "{key}");
    }
    let longest = "k".repeat(255);
    assert!(replays(api.post("/").key(&longest), api.post("/").key(&longest)).await);
    assert_eq!(runs.count(), 5);
}

#[tokio::test]
async fn keys_come_from_another_header_or_from_a_function_of_parts_and_body() {
    let runs = Runs::default();
    let delivery = KeySource::Header(HeaderName::from_static("x-delivery-id"));
    let api = Api::with(Orphans::Hold, policy(hold().key(delivery)), counting(&runs)).await;
    let request = api.post("/hook").header("x-delivery-id", "72d3162e-cc78-11e3");
    assert!(replays(request.clone(), request).await);
    let ignored = api.post("/hook").key("k");
    assert!(!replays(ignored.clone(), ignored).await, "this route reads another header");

    let of_body = KeySource::function(|parts, body| {
        let event: serde_json::Value = serde_json::from_slice(body).ok()?;
        Some(format!("{}-{}", parts.method, event["id"].as_str()?))
    });
    let build = hold().key(of_body).key_presence(KeyPresence::Required);
    let api = Api::with(Orphans::Hold, policy(build), counting(&runs)).await;
    let event = api.post("/hook").json(r#"{"id":"evt_1"}"#);
    assert!(replays(event.clone(), event).await);
    assert_eq!(api.post("/hook").json("{}").send().await.code(), "idempotency_key_missing");
    let spaced = api.post("/hook").json(r#"{"id":"evt 1"}"#).send().await;
    assert_eq!(spaced.code(), "idempotency_key_invalid");
}

#[tokio::test]
async fn a_route_may_take_quoted_keys_alone() {
    let runs = Runs::default();
    let strict = hold().key_syntax(KeySyntax::Quoted);
    let api = Api::with(Orphans::Hold, policy(strict), counting(&runs)).await;
    assert_eq!(api.post("/").key("bare").send().await.code(), "idempotency_key_invalid");
    assert_eq!(api.post("/").key("\"quoted\"").send().await.status, 201);
}

#[tokio::test]
async fn without_an_organization_a_request_with_a_key_is_500_and_the_handler_does_not_run() {
    let runs = Runs::default();
    let api = Api::start(Orphans::Rerun, counting(&runs)).await;
    for _ in 0..2 {
        let refused = api.post("/").bearer("").key("k").send().await;
        assert_eq!((refused.status.as_u16(), &*refused.code()), (500, "idempotency_misconfigured"));
        assert!(!refused.is_retryable());
    }
    assert_eq!(runs.count(), 0);
    // The client's bare word counts for nothing.
    let claimed = api.post("/").bearer("").header("x-organization", "acme").key("k").send().await;
    assert_eq!(claimed.code(), "idempotency_misconfigured");
    assert_eq!(api.post("/").bearer("").send().await.status, 201, "without a key nobody asks");
}

#[tokio::test]
async fn the_exact_bytes_of_the_path_of_the_request_line_count() {
    let runs = Runs::default();
    let api = Api::start(Orphans::Hold, counting(&runs)).await;
    for path in ["/a", "/a/", "/A", "/%61", "/a//", "/a/../a"] {
        assert!(!api.post(path).key("k").send().await.is_replay(), "{path}");
        assert!(api.post(path).key("k").send().await.is_replay(), "{path}");
    }
}

#[tokio::test]
async fn in_a_nested_router_the_original_path_counts() {
    let runs = Runs::default();
    let ground = Ground::new();
    let store = ground.fresh(TTL).await;
    let layer = IdempotencyLayer::new(store, organization(), Orphans::Hold);
    let inner = counting(&runs).layer(layer);
    let router = Router::new()
        .nest("/v1", inner.clone())
        .nest("/v2", inner)
        .layer(axum::middleware::from_fn(authenticate));
    let address = serve(router).await;
    let send = |path: &str| Send::new(address, Method::POST, path).key("k");
    assert!(!send("/v1/contacts").send().await.is_replay());
    assert!(!send("/v2/contacts").send().await.is_replay(), "stripped, both are /contacts");
    assert!(send("/v1/contacts").send().await.is_replay());
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn body_bytes_media_type_and_query_make_the_fingerprint() {
    let runs = Runs::default();
    let api = Api::start(Orphans::Hold, counting(&runs)).await;
    let request = api.post("/?dry=1").key("k");
    let first = request.clone().header("content-type", "Application/JSON; charset=utf-8");
    first.body("{}").send().await;
    let same = request.clone().header("content-type", "application/json").body("{}");
    assert!(same.send().await.is_replay(), "case and parameters of a media type do not count");
    let others = [
        request.clone().json("{ }"),
        request.clone().header("content-type", "text/plain").body("{}"),
        request.clone().body("{}"),
        api.post("/").key("k").json("{}"),
        api.post("/?dry=0").key("k").json("{}"),
    ];
    for other in others {
        assert_eq!(other.send().await.code(), "idempotency_conflict");
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn routes_choose_what_the_fingerprint_stands_for() {
    type Case = (FingerprintOf, fn(Send) -> Send, fn(Send) -> Send, bool);
    let of = FingerprintOf::default;
    let cases: [Case; 9] = [
        (of().without_body(), |s| s.body("one"), |s| s.body("two"), true),
        (of().without_media_type(), |s| s.json("{}"), |s| s.body("{}"), true),
        (
            of().canonical_json(),
            |s| s.body(r#"{"a":1,"b":[2]}"#),
            |s| s.body(r#"{ "b":[2], "a":1 }"#),
            true,
        ),
        (of().canonical_json(), |s| s.body(r#"{"a":1}"#), |s| s.body(r#"{"a":2}"#), false),
        (of().canonical_json(), |s| s.body("not json"), |s| s.body("not  json"), false),
        (of(), |s| s.header("x-version", "1"), |s| s.header("x-version", "2"), true),
        (
            of().header(HeaderName::from_static("x-version")),
            |s| s.header("x-version", "1"),
            |s| s.header("x-version", "2"),
            false,
        ),
        (
            FingerprintOf::function(|_, body| Fingerprint::of(&body[..1])),
            |s| s.body("ab"),
            |s| s.body("ac"),
            true,
        ),
        (
            FingerprintOf::function(|_, body| Fingerprint::of(&body[..1])),
            |s| s.body("ab"),
            |s| s.body("bb"),
            false,
        ),
    ];
    for (number, (fingerprint, one, two, same)) in cases.into_iter().enumerate() {
        let build = hold().fingerprint(fingerprint);
        let api = Api::with(Orphans::Hold, policy(build), counting(&Runs::default())).await;
        one(api.post("/").key("k")).send().await;
        let second = two(api.post("/").key("k")).send().await;
        assert_eq!(second.is_replay(), same, "case {number}");
        assert_eq!(second.status == 409, !same, "case {number}");
    }
    let [one, two] = ["x-a", "x-b"].map(HeaderName::from_static);
    let headers = hold().fingerprint(of().header(one).header(two));
    let api = Api::with(Orphans::Hold, policy(headers), counting(&Runs::default())).await;
    let first = api.post("/").key("k").header("x-a", "1").header("x-a", "x-b").header("x-a", "2");
    first.send().await;
    // The same names and values in the same order, of other headers.
    let other = api.post("/").key("k").header("x-a", "1").header("x-b", "2").header("x-b", "x-b");
    assert_eq!(other.send().await.code(), "idempotency_conflict");
    let without = hold().fingerprint(of().without_query());
    let api = Api::with(Orphans::Hold, policy(without), counting(&Runs::default())).await;
    api.post("/?a=1").key("k").send().await;
    assert!(api.post("/?a=2").key("k").send().await.is_replay());
    assert_eq!(api.post("/?a=1").key("k").body("x").send().await.code(), "idempotency_conflict");
    let ignoring = hold().fingerprint(of().ignoring_parameters(["utm"]));
    let api = Api::with(Orphans::Hold, policy(ignoring), counting(&Runs::default())).await;
    api.post("/?a=1&utm=x").key("k").send().await;
    assert!(api.post("/?utm=y&a=1").key("k").send().await.is_replay());
    assert_eq!(api.post("/?a=2").key("k").send().await.code(), "idempotency_conflict");
}

#[tokio::test]
async fn other_methods_and_upgrades_pass_through() {
    let runs = Runs::default();
    let api = Api::start(Orphans::Hold, counting(&runs)).await;
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        for _ in 0..2 {
            assert!(!api.send(method.clone(), "/").key("not a key").send().await.is_replay());
        }
    }
    assert_eq!(runs.count(), 6);
    let upgrade =
        |to: &str| api.post("/up").key("k").header("connection", "upgrade").header("upgrade", to);
    assert!(!replays(upgrade("websocket"), upgrade("websocket")).await);
    // Some clients offer it with every write; the request is the same.
    assert!(replays(upgrade("h2c"), upgrade("h2c")).await);
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let request = api.send(method, "/writes").key("k");
        assert!(replays(request.clone(), request).await);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_before_it_is_read() {
    let runs = Runs::default();
    let api = Api::with(Orphans::Hold, policy(hold().request_bytes_max(10)), counting(&runs)).await;
    let large = api.post("/").key("k").body("eleven byte").send().await;
    assert_eq!((large.status.as_u16(), &*large.code()), (413, "idempotency_request_too_large"));

    // Announced, and none of it sent: the answer comes all the same.
    let head = "POST / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer acme\r\nidempotency-key: k\r\n\
                content-length: 3000000\r\n\r\n";
    let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");

    // Not announced: counted as it comes.
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer acme\r\n\
                   idempotency-key: k\r\ntransfer-encoding: chunked\r\n\r\n\
                   b\r\neleven byte\r\n0\r\n\r\n";
    let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
    stream.write_all(chunked.as_bytes()).await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    assert_eq!((runs.count(), api.holds(KEY).await), (0, None));
    assert_eq!(api.post("/").key("k").body("ten  bytes").send().await.status, 201);
}

#[tokio::test]
async fn a_body_cut_short_never_claims() {
    let runs = Runs::default();
    let api = Api::start(Orphans::Hold, counting(&runs)).await;
    let cut = "POST / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer acme\r\nidempotency-key: k\r\n\
               content-length: 10\r\n\r\nhalf";
    let mut stream = tokio::net::TcpStream::connect(api.address).await.unwrap();
    stream.write_all(cut.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 2"));
    assert_eq!((runs.count(), api.holds(KEY).await), (0, None));
    // Another body under the key is no conflict with the half one.
    assert_eq!(api.post("/").key("k").body("whole body").send().await.status, 201);
}

#[tokio::test]
async fn headers_are_replayed_by_name_and_those_of_the_moment_never() {
    const KEPT: [(&str, &str); 11] = [
        ("content-type", "text/csv"),
        ("content-encoding", "identity"),
        ("content-language", "en"),
        ("content-location", "/made/1"),
        ("content-disposition", "attachment"),
        ("location", "/made/1"),
        ("etag", "\"1\""),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("link", "</next>; rel=next"),
        ("cache-control", "no-store"),
        ("vary", "accept"),
    ];
    const NOT_KEPT: [&str; 9] = [
        "set-cookie",
        "www-authenticate",
        "proxy-authenticate",
        "keep-alive",
        "ratelimit-remaining",
        "x-ratelimit-limit",
        "retry-after",
        "x-request-id",
        "x-anything-else",
    ];
    let answer = || async {
        let mut response = Response::new(Body::from("four"));
        for (name, value) in KEPT.into_iter().chain(NOT_KEPT.map(|name| (name, "1"))) {
            response.headers_mut().append(name, value.parse().unwrap());
        }
        response.headers_mut().append("x-configured", "too".parse().unwrap());
        response
    };
    let configured = hold().replayed_header(HeaderName::from_static("x-configured"));
    let router = Router::new().route("/", post(answer));
    let api = Api::with(Orphans::Hold, policy(configured), router).await;
    let first = api.post("/").key("k").send().await;
    let retry = api.post("/").key("k").send().await;
    for (name, value) in KEPT.into_iter().chain([("x-configured", "too"), ("content-length", "4")])
    {
        assert_eq!(retry.header(name), Some(value), "{name}");
    }
    for name in NOT_KEPT {
        assert!(first.headers.contains_key(name) && !retry.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn empty_binary_gzip_and_no_content_bodies_are_replayed_exactly() {
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x4b\x04\0\x43\xbe\xb7\xe8\x01\0\0\0";
    for (status, body) in [(201, &b""[..]), (200, b"\0\x01\xfe\xff"), (204, b""), (200, gzip)] {
        let answer = move || async move {
            let mut response = Response::new(Body::from(Bytes::from_static(body)));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            response
        };
        let api = Api::start(Orphans::Hold, Router::new().route("/", post(answer))).await;
        let first = api.post("/").key("k").send().await;
        let retry = api.post("/").key("k").send().await;
        assert!(retry.is_replay());
        retry.assert_same(&first);
        assert_eq!(&*retry.body, body);
        assert_eq!(retry.header("content-encoding"), Some("gzip"));
    }
}

#[tokio::test]
async fn trailers_are_replayed() {
    struct Trailing(u8);
    impl http_body::Body for Trailing {
        type Data = Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            self.0 += 1;
            let trailers = || {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("x-checksum", "c0ffee".parse().unwrap());
                http_body::Frame::trailers(trailers)
            };
            let frame = match self.0 {
                1 | 2 => Some(http_body::Frame::data(Bytes::from_static(b"piece "))),
                3 => Some(trailers()),
                _ => None,
            };
            std::task::Poll::Ready(frame.map(Ok))
        }
    }
    let answer = || async { ([("trailer", "x-checksum")], Body::new(Trailing(0))) };
    let api = Api::start(Orphans::Hold, Router::new().route("/", post(answer))).await;
    let request = api.post("/").key("k").header("te", "trailers");
    let first = request.clone().send().await;
    let retry = request.send().await;
    assert!(retry.is_replay());
    assert_eq!((first.text(), retry.text()), ("piece piece ", "piece piece "));
    assert_eq!(
        (&first.trailers["x-checksum"], &first.trailers),
        (&"c0ffee".parse::<http::HeaderValue>().unwrap(), &retry.trailers)
    );
}

#[tokio::test]
async fn problems_link_their_documentation_and_the_renderer_is_replaceable() {
    let documented =
        Renderer::problem_json(Some("https://api.example.com/retries".parse().unwrap()));
    let build = hold().key_presence(KeyPresence::Required).renderer(documented);
    let api = Api::with(Orphans::Hold, policy(build), counting(&Runs::default())).await;
    let refused = api.post("/").send().await;
    let about = "https://api.example.com/retries#idempotency_key_missing";
    assert_eq!(refused.problem()["type"], about);
    assert_eq!(refused.header("link"), Some(&*format!("<{about}>; rel=\"describedby\"")));

    let own = Renderer::function(|problem| {
        let body = format!("{{\"error\":\"{}\"}}", problem.code.as_str());
        Response::builder().status(problem.status).body(Bytes::from(body)).unwrap()
    });
    let build = hold().renderer(own).status(Code::KeyInvalid, StatusCode::UNPROCESSABLE_ENTITY);
    let api = Api::with(Orphans::Hold, policy(build), counting(&Runs::default())).await;
    let refused = api.post("/").key("a b").send().await;
    let body = "{\"error\":\"idempotency_key_invalid\"}";
    assert_eq!((refused.status.as_u16(), refused.text()), (422, body));
}

fn at_a_door(runs: &Runs, door: &Door) -> Router {
    let (runs, door) = (runs.clone(), door.clone());
    Router::new().route(
        "/",
        post(move || async move {
            let run = runs.begin();
            door.pass().await;
            // The first run fails without effect where the test wants a release.
            let status = if run == 1 { StatusCode::CONFLICT } else { StatusCode::CREATED };
            (status, format!("run {run}"))
        }),
    )
}

#[tokio::test]
async fn after_a_release_one_of_those_who_wait_runs_and_all_are_answered() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let api = Api::start(Orphans::Hold, at_a_door(&runs, &door)).await;
    let first = api.post("/").key("k").spawn();
    porter.met().await;
    let waiting: Vec<_> = (0..20).map(|_| api.post("/").key("k").spawn()).collect();
    until("twenty wait", || api.layer.waiting() == 20).await;
    porter.let_through();
    assert_eq!(first.await.unwrap().status, 409);
    porter.met().await;
    porter.let_through();
    let mut replayed = 0;
    for reply in waiting {
        let reply = reply.await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.text()), (201, "run 2"));
        replayed += u32::from(reply.is_replay());
    }
    assert_eq!((replayed, runs.count(), api.layer.waiting()), (19, 2, 0));
}

#[tokio::test]
async fn past_a_bound_a_request_is_answered_at_once() {
    let default = Bounds::default();
    let per_key = Bounds { waiters_per_key: 1, ..default };
    let in_all = Bounds { waiters: 1, ..default };
    let bytes = Bounds { waiting_bytes: 5, ..default };
    for bounds in [per_key, in_all, bytes] {
        let (runs, (door, mut porter)) = (Runs::default(), door());
        let set_up = |layer: Layer| layer.bounds(bounds);
        let api = Api::with(Orphans::Hold, set_up, at_a_door(&runs, &door)).await;
        let request = api.post("/").key("k").body("body");
        let first = request.clone().spawn();
        porter.met().await;
        let waits = request.clone().spawn();
        until("one waits", || api.layer.waiting() == 1).await;
        let refused = request.clone().send().await;
        assert_eq!((refused.status.as_u16(), &*refused.code()), (429, "idempotency_in_progress"));
        porter.let_through();
        first.await.unwrap();
        porter.met().await;
        porter.let_through();
        assert_eq!(waits.await.unwrap().text(), "run 2");
    }
}

#[tokio::test]
async fn an_organization_with_too_much_under_way_is_429_and_others_go_on() {
    let (runs, (door, mut porter)) = (Runs::default(), door());
    let bounds = Bounds { per_organization: 1, ..Bounds::default() };
    let set_up = |layer: Layer| layer.bounds(bounds);
    let api = Api::with(Orphans::Hold, set_up, at_a_door(&runs, &door)).await;
    let first = api.post("/").key("1").spawn();
    porter.met().await;
    let refused = api.post("/").key("2").send().await;
    assert_eq!((refused.status.as_u16(), &*refused.code()), (429, "idempotency_overloaded"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let other = api.post("/").bearer("globex").key("2").spawn();
    porter.met().await;
    porter.let_through();
    porter.let_through();
    assert_eq!(first.await.unwrap().status, 409);
    assert_eq!(other.await.unwrap().status, 201);
}

#[tokio::test]
async fn authorize_replay_may_refuse_what_this_caller_may_no_longer_see() {
    let runs = Runs::default();
    let build = hold().authorize_replay(|parts, replay| {
        let user = parts.extensions.get::<Account>().map(|account| account.user.clone());
        let allowed = replay.status == 201 && user.as_deref() != Some("revoked");
        async move { if allowed { Permission::Granted } else { Permission::Refused } }
    });
    let api = Api::with(Orphans::Hold, policy(build), counting(&runs)).await;
    api.post("/").bearer("acme/avery").key("k").send().await;
    assert!(api.post("/").bearer("acme/avery").key("k").send().await.is_replay());
    let refused = api.post("/").bearer("acme/revoked").key("k").send().await;
    assert_eq!((refused.status.as_u16(), &*refused.code()), (403, "idempotency_replay_refused"));
    assert!(!refused.text().contains("run 1"));
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn principal_keeps_another_user_of_the_organization_from_the_answer() {
    let runs = Runs::default();
    let build = hold().principal(|parts| {
        let account = parts.extensions.get::<Account>()?;
        (account.user != "nobody").then(|| account.user.clone())
    });
    let api = Api::with(Orphans::Hold, policy(build), counting(&runs)).await;
    api.post("/").bearer("acme/avery").key("k").send().await;
    let other = api.post("/").bearer("acme/robin").key("k").send().await;
    assert_eq!(other.code(), "idempotency_conflict");
    assert!(api.post("/").bearer("acme/avery").key("k").send().await.is_replay());
    let none = api.post("/").bearer("acme/nobody").key("k").send().await;
    assert_eq!(none.code(), "idempotency_misconfigured");
}

#[tokio::test]
async fn an_inner_layer_that_finds_an_attempt_under_way_passes_through() {
    let runs = Runs::default();
    let grounds = [Ground::new(), Ground::new()];
    let stores = [grounds[0].fresh(TTL).await, grounds[1].fresh(TTL).await];
    let [inner, outer] =
        stores.clone().map(|store| IdempotencyLayer::new(store, organization(), Orphans::Hold));
    let router = counting(&runs).layer(inner).layer(outer);
    let address = serve(router.layer(axum::middleware::from_fn(authenticate))).await;
    let request = Send::new(address, Method::POST, "/").key("k");
    assert!(replays(request.clone(), request).await);
    assert_eq!(runs.count(), 1);
    let [inner, outer] = stores;
    let held = (inner.look_up(KEY).await.unwrap(), outer.look_up(KEY).await.unwrap());
    assert!(matches!(held, (None, Some(Holding::Completed(_)))), "one claim, the outer one's");
}

#[tokio::test]
async fn one_layer_chooses_the_policy_of_each_route() {
    let runs = Runs::default();
    let payments =
        hold().key_presence(KeyPresence::Required).classify(|head| match head.status.as_u16() {
            201 => Outcome::InDoubt,
            _ => Outcome::Success,
        });
    let payments = payments.build().unwrap();
    let set_up = move |layer: Layer| {
        layer.policy_for(move |parts| {
            parts.uri.path().starts_with("/payments").then(|| payments.clone())
        })
    };
    let api = Api::with(Orphans::Hold, set_up, counting(&runs)).await;
    assert_eq!(api.post("/payments").send().await.code(), "idempotency_key_missing");
    assert_eq!(api.post("/contacts").send().await.status, 201);
    let doubtful = api.post("/payments").key("k");
    assert!(!replays(doubtful.clone(), doubtful).await, "this route says that 201 is in doubt");
}

#[tokio::test]
async fn where_claims_live_is_chosen_at_run_time() {
    let runs = Runs::default();
    let ground = Ground::new();
    let store = ground.fresh(TTL).await;
    let layer = IdempotencyLayer::new(AnyBackend::new(store), organization(), Orphans::Rerun);
    let router = counting(&runs).layer(layer).layer(axum::middleware::from_fn(authenticate));
    let address = serve(router).await;
    let request = Send::new(address, Method::POST, "/").key("k");
    assert!(replays(request.clone(), request.clone()).await);
    assert_eq!(request.body("another").send().await.code(), "idempotency_conflict");
}

#[tokio::test]
async fn the_handler_sees_its_attempt_and_saves_checkpoints_for_the_next() {
    let answer = |Extension(attempt): Extension<Attempt>, _: Request| async move {
        match attempt.attempt() {
            1 => {
                attempt.save_checkpoint(b"charged").await.unwrap();
                (StatusCode::BAD_GATEWAY, attempt.child_key("charge")).into_response()
            }
            _ => {
                let saved = attempt.checkpoint().map(<[u8]>::to_vec);
                assert_eq!(saved.as_deref(), Some(&b"charged"[..]));
                (StatusCode::CREATED, attempt.child_key("charge")).into_response()
            }
        }
    };
    let api = Api::start(Orphans::Rerun, Router::new().route("/", post(answer))).await;
    let failed = api.post("/").key("k").send().await;
    let retried = api.post("/").key("k").send().await;
    assert_eq!((failed.status.as_u16(), retried.status.as_u16()), (502, 201));
    assert_eq!(failed.text(), retried.text(), "a child key is the same for every attempt");
    let another = api.post("/").key("another").send().await;
    assert_ne!(another.text(), retried.text());
}

#[tokio::test]
async fn a_policy_may_tell_until_when_a_key_is_kept() {
    let build = hold().expiry_header(HeaderName::from_static("idempotency-expires"));
    let api = Api::with(Orphans::Hold, policy(build), counting(&Runs::default())).await;
    let first = api.post("/").key("k").send().await;
    let retry = api.post("/").key("k").send().await;
    let expires = first.header("idempotency-expires").unwrap();
    assert!(expires.ends_with(" GMT"));
    assert_eq!(retry.header("idempotency-expires"), Some(expires));
}

#[test]
fn a_policy_that_cannot_work_is_refused_when_it_is_built() {
    let bad = [
        hold().methods([]),
        hold().methods([Method::GET]),
        hold().replayed_header(HeaderName::from_static("set-cookie")),
        hold().replayed_header(HeaderName::from_static("x-ratelimit-reset")),
        hold().request_bytes_max(0),
        hold().response_bytes_max(0),
        hold().request_time_max(Duration::ZERO),
        hold().response_time_max(Duration::ZERO),
        hold().run_limit(Duration::ZERO),
        hold().wait(Duration::from_secs(3601)),
        hold().lease(Duration::ZERO),
        hold().witness_limit(Duration::ZERO),
        hold().status(Code::Conflict, StatusCode::OK),
        hold().expiry_header(http::header::ETAG),
    ];
    for build in bad {
        assert!(build.build().is_err());
    }
    for good in [hold(), Policy::ietf(Orphans::Hold), Policy::grpc(Orphans::Hold)] {
        assert!(good.build().is_ok());
    }
}

#[tokio::test]
async fn reads_pass_without_a_claim() {
    let router = Router::new().route("/", get(|| async { "read" }));
    let api = Api::start(Orphans::Hold, router).await;
    assert_eq!(api.send(Method::GET, "/").key("k").send().await.text(), "read");
    assert_eq!(api.holds(Scope { method: "GET", ..KEY }).await, None);
}
