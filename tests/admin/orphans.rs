//! The list of orphans, and what ends one.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use axum::routing::post;
use axum::{Extension, Router};
use http::{Method, Response, StatusCode};
use oncelog::http::{Attempt, IdempotencyLayer, Organization, Orphans};
use oncelog::{Claim, ManualClock, Scope, Status, Store};
use serde_json::{Value, json};

use crate::support::{Ask, Reply, Server, body, claim, fields, kind, orphan, scope, serve};

const MANY: usize = 10_000;

/// Orphans of a few organizations, made with one commit.
fn many_orphans(store: &Store) {
    let organizations: Vec<_> = (0..7).map(|number| format!("organization-{number}")).collect();
    let keys: Vec<_> = (0..MANY).map(|number| format!("key-{number:05}")).collect();
    let requests: Vec<_> = keys
        .iter()
        .zip(organizations.iter().cycle())
        .map(|(key, organization)| (Scope { organization, ..scope(key) }, body()))
        .collect();
    let claims = store.claim_many(&requests);
    assert!(claims.iter().all(|claim| matches!(claim, Ok(Claim::Granted(_)))));
}

fn tokens(page: &Value) -> Vec<u64> {
    let orphans = page["orphans"].as_array().unwrap().iter();
    orphans.map(|orphan| orphan["token"].as_str().unwrap().parse().unwrap()).collect()
}

/// All that match, page by page.
async fn walk(server: &Server, query: &str) -> Vec<u64> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/orphans?{query}{after}")).json().await;
        assert_eq!(page["before"], found.len());
        found.extend(tokens(&page));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => {
                assert_eq!(page["matching"], found.len());
                return found;
            }
        }
    }
}

#[tokio::test]
async fn ten_thousand_orphans_are_paged_once_each_and_in_order() {
    let server = Server::start().await;
    many_orphans(&server.store);
    let first = server.get("/orphans").json().await;
    assert_eq!((first["total"].as_u64(), tokens(&first).len()), (Some(MANY as u64), 100));
    let found = walk(&server, "limit=1000").await;
    assert!(found.is_sorted_by(|one, next| one < next));
    let wanted = server.store.unresolved().unwrap();
    let wanted: BTreeSet<u64> = wanted.iter().map(|info| info.token().get()).collect();
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
}

#[tokio::test]
async fn orphans_are_found_by_any_field_whatever_the_case() {
    let server = Server::start().await;
    many_orphans(&server.store);
    assert_eq!(walk(&server, "limit=1000&search=ORGANIZATION-3").await.len(), MANY.div_ceil(7));
    let one = server.get("/orphans?search=Key-04321").json().await;
    assert_eq!((&one["matching"], &one["orphans"][0]["key"]), (&json!(1), &json!("key-04321")));
    let operation = one["orphans"][0]["operation"].as_str().unwrap();
    let same = server.get(&format!("/orphans?search={operation}")).json().await;
    assert_eq!(same["orphans"], one["orphans"]);
    let none = server.get("/orphans?search=nobody").json().await;
    assert_eq!((&none["matching"], &none["total"]), (&json!(0), &json!(MANY)));
}

#[tokio::test]
async fn a_page_is_told_from_its_token_on_though_the_orphan_before_has_ended() {
    let server = Server::start().await;
    let seen: Vec<_> = ["a", "b", "c"].map(|key| orphan(&server.store, scope(key))).into();
    let page = server.get("/orphans?limit=2").json().await;
    let next = page["next"].as_str().unwrap();
    server.post("/orphans/release", &seen[1]).json().await;
    let rest = server.get(&format!("/orphans?limit=2&after={next}")).json().await;
    assert_eq!(rest["orphans"][0]["token"], seen[2]["token"]);
    assert_eq!((&rest["before"], &rest["next"]), (&json!(1), &Value::Null));
}

#[tokio::test]
async fn hostile_keys_are_data_and_can_be_ended_by_what_was_told() {
    let server = Server::start().await;
    let long = "x".repeat(4096 - "acmePOST/v1/contacts".len());
    let keys = [
        "<script>alert(1)</script>",
        "</script><img src=x onerror=alert(1)>",
        r#""quoted" 'and' \back\slashed"#,
        "line\nfeed\r\n\0nul",
        "\u{202e}desrever\u{2066}",
        "${7*7}{{nonce}}",
        &long,
    ];
    for key in keys {
        orphan(&server.store, scope(key));
    }
    let page = server.get("/orphans").json().await;
    for (told, key) in page["orphans"].as_array().unwrap().iter().zip(keys) {
        assert_eq!(told["key"], *key);
        let named: Vec<_> = ["organization", "method", "path", "key"].into();
        let fields: serde_json::Map<_, _> =
            named.into_iter().map(|name| (name.to_owned(), told[name].clone())).collect();
        let seen = json!({ "scope": fields, "token": told["token"] });
        server.post("/orphans/release", &seen).json().await;
    }
    assert_eq!(server.store.stats().orphans, 0);
}

#[tokio::test]
async fn an_attempt_that_began_after_the_list_was_read_is_not_ended() {
    let server = Server::start().await;
    let seen = orphan(&server.store, scope("k"));
    let Claim::Granted(second) =
        server.store.orphan(scope("k")).unwrap().unwrap().take_over().unwrap()
    else {
        panic!("nobody else takes it over")
    };
    let mut resolution = seen.clone();
    resolution["response"] = json!({ "text": "created" });
    let superseded = (409, "admin_superseded".to_owned());
    let stale = || [("release", &seen), ("resolve", &resolution)];
    for (action, body) in stale() {
        let ask = server.post(&format!("/orphans/{action}"), body);
        assert_eq!(ask.problem().await, superseded, "{action} of a running attempt");
    }
    drop(second);
    for (action, body) in stale() {
        let ask = server.post(&format!("/orphans/{action}"), body);
        assert_eq!(ask.problem().await, superseded, "{action} of a later orphan");
    }
    assert_eq!(kind(&server.store, scope("k")), "orphaned");
}

#[tokio::test]
async fn a_lapsed_attempt_that_still_lives_is_not_released() {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30));
    let server = Server::with("/ops", Store::options().clock(clock.clone())).await;
    let permit = claim(&server.store, scope("k"));
    let seen = json!({ "scope": fields(scope("k")), "token": permit.token().to_string() });
    clock.advance(permit.lease());
    let page = server.get("/orphans").json().await;
    assert_eq!(page["orphans"][0]["cause"], "lease_lapsed");
    let release = server.post("/orphans/release", &seen);
    assert_eq!(release.clone().problem().await, (409, "admin_still_running".into()));
    drop(permit);
    release.json().await;
    assert_eq!(kind(&server.store, scope("k")), "granted");
}

/// A handler that fails once it may have had an effect; of a body `save` it saves its response.
async fn fail(Extension(attempt): Extension<Attempt>, body: String) -> StatusCode {
    let response = Response::builder().status(201).header("location", "/orders/7");
    let response = response.body("order 7").unwrap();
    match body.as_str() {
        "save" => attempt.save_checkpoint(&attempt.encode(&response)).await.unwrap(),
        _ => drop(attempt.operation()),
    }
    StatusCode::INTERNAL_SERVER_ERROR
}

/// An order at an API behind the layer, on the store of the operator's routes.
async fn order(server: &Server, body: &'static str) -> Ask {
    let layer = IdempotencyLayer::new(server.store.clone(), Organization::single(), Orphans::Hold);
    let router = Router::new().route("/orders", post(fail)).layer(layer);
    Ask {
        address: serve(router).await,
        method: Method::POST,
        path: "/orders".into(),
        headers: vec![("idempotency-key".into(), "order-1".into())],
        body: body.into(),
    }
}

/// Fails, is held, is resolved with this, and is replayed.
async fn resolved(server: &Server, order: Ask, response: Value) -> Reply {
    assert_eq!(order.clone().send().await.status, 500);
    assert_eq!(order.clone().send().await.status, 503);
    let page = server.get("/orphans").json().await;
    let told = &page["orphans"][0];
    assert_eq!(told["cause"], "failed");
    let scope = Scope { organization: "", method: "POST", path: "/orders", key: "order-1" };
    let resolution =
        json!({ "scope": fields(scope), "token": told["token"], "response": response });
    let told = server.post("/orphans/resolve", &resolution).json().await;
    assert_eq!(told["response_kept"], true);
    let reply = order.send().await;
    assert_eq!(reply.header("idempotent-replayed"), Some("true"));
    assert_eq!(reply.header("location"), Some("/orders/7"));
    reply
}

#[tokio::test]
async fn a_resolved_orphan_is_replayed_as_the_operator_wrote_it() {
    let server = Server::start().await;
    let response = json!({ "http": {
        "status": 201,
        "headers": [["content-type", "application/json"], ["location", "/orders/7"]],
        "body_base64": "eyJvcmRlciI6N30=",
    } });
    let reply = resolved(&server, order(&server, "").await, response).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (201, r#"{"order":7}"#));
    assert_eq!(reply.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_response_that_the_attempt_saved_is_offered_and_replayed() {
    let server = Server::start().await;
    let order = order(&server, "save").await;
    let reply = resolved(&server, order, json!("checkpoint")).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (201, "order 7"));
}

#[tokio::test]
async fn the_status_of_a_saved_response_is_told_and_its_bytes_are_not() {
    let server = Server::start().await;
    order(&server, "save").await.send().await;
    let reply = server.get("/orphans").send().await;
    assert!(!reply.text().contains("order 7"), "{}", reply.text());
    let page: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(page["orphans"][0]["checkpoint_status"], 201);
    let plain = claim(&server.store, scope("plain"));
    plain.save_checkpoint(b"charged").unwrap();
    drop(plain);
    let page = server.get("/orphans?search=plain").json().await;
    assert_eq!(page["orphans"][0]["checkpoint_status"], Value::Null);
    assert_eq!(page["orphans"][0]["checkpoint_bytes"], "charged".len());
}

#[tokio::test]
async fn an_orphan_is_resolved_with_the_bytes_that_are_given_and_no_others() {
    let server = Server::start().await;
    for (key, response) in
        [("text", json!({ "text": "h\u{e9}" })), ("base64", json!({ "base64": "aMOp" }))]
    {
        let mut resolution = orphan(&server.store, scope(key));
        resolution["response"] = response;
        server.post("/orphans/resolve", &resolution).json().await;
        let Some(Status::Completed(stored)) = server.store.lookup(scope(key)).unwrap() else {
            panic!("it was resolved")
        };
        assert_eq!(stored.bytes(), Some("h\u{e9}".as_bytes()), "{key}");
    }
}

#[tokio::test]
async fn a_response_that_no_client_could_get_resolves_nothing() {
    let server = Server::with("/ops", Store::options().response_bytes_max(1024)).await;
    let mut resolution = orphan(&server.store, scope("k"));
    let http = |status: u16, name: &str, value: &str| {
        let headers = [[name, value]];
        json!({ "http": { "status": status, "headers": headers } })
    };
    let responses = [
        http(99, "link", "a"),
        http(101, "link", "a"),
        http(1000, "link", "a"),
        http(200, "set-cookie", "session=1"),
        http(200, "content-length", "7"),
        http(200, "a name", "a"),
        http(200, "link", "a\r\nset-cookie: b"),
        json!({ "base64": "not base64" }),
        json!({ "http": { "status": 200, "body": "a", "body_base64": "YQ==" } }),
        json!("checkpoint"),
        json!("nothing"),
    ];
    for response in responses {
        resolution["response"] = response.clone();
        let resolve = server.post("/orphans/resolve", &resolution);
        assert_eq!(resolve.problem().await, (422, "admin_invalid".into()), "{response}");
    }
    resolution["response"] = json!({ "text": "x".repeat(1025) });
    let resolve = server.post("/orphans/resolve", &resolution);
    assert_eq!(resolve.problem().await, (413, "admin_too_large".into()));
    assert_eq!(kind(&server.store, scope("k")), "orphaned");
}
