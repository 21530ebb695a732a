//! Who gets in, from where, and what a browser is told not to do with the answer.

use http::Method;
use oncelog::Stats;
use serde_json::json;

use crate::support::{Ask, Server, fields, kind, orphan, routes, scope};

fn asks(server: &Server) -> Vec<Ask> {
    let asks = routes().into_iter().map(|(method, route, body)| match method {
        Method::POST => server.post(route, &body),
        method => server.ask(method, route),
    });
    asks.collect()
}

/// All but the room on a disk that others use too.
fn counted(server: &Server) -> Stats {
    let mut stats = server.store.stats();
    stats.headroom_bytes = 0;
    // Blocks are made ready ahead of the records.
    stats.disk_bytes = 0;
    stats
}

#[tokio::test]
async fn every_route_refuses_whoever_is_not_known_and_changes_nothing() {
    let server = Server::start().await;
    orphan(&server.store, scope("k"));
    let before = counted(&server);
    for ask in asks(&server) {
        let name = format!("{} {}", ask.method, ask.path);
        let reply = ask.clone().bearer(None).send().await;
        assert_eq!(reply.problem(), (401, "admin_unauthenticated".into()), "{name}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{name}");
        let refused = ask.clone().bearer(Some("mallory")).problem().await;
        assert_eq!(refused, (403, "admin_forbidden".into()), "{name}");
        let nameless = ask.clone().bearer(Some("")).problem().await;
        assert_eq!(nameless, (403, "admin_forbidden".into()), "{name}");
        let reply = ask.bearer(Some("guest")).send().await;
        assert_eq!((reply.status.as_u16(), reply.header("location")), (303, Some("/sign-in")));
        assert!(reply.body.is_empty(), "{name}");
    }
    assert_eq!(counted(&server), before);
    assert_eq!(std::fs::read_dir(server.dir.path().join("backups")).unwrap().count(), 0);
}

#[tokio::test]
async fn no_answer_may_be_kept_framed_or_guessed_at() {
    let server = Server::start().await;
    for ask in asks(&server) {
        for reply in [ask.clone().send().await, ask.clone().bearer(None).send().await] {
            let name = format!("{} {}", ask.method, ask.path);
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{name}");
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{name}");
            assert_eq!(reply.header("referrer-policy"), Some("no-referrer"), "{name}");
            assert_eq!(reply.header("cross-origin-resource-policy"), Some("same-origin"), "{name}");
            let policy = reply.header("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'none';"), "{name}: {policy}");
            assert!(policy.contains("frame-ancestors 'none'"), "{name}: {policy}");
            assert!(!policy.contains("unsafe"), "{name}: {policy}");
        }
    }
}

#[tokio::test]
async fn a_change_from_a_page_of_another_origin_is_refused() {
    let server = Server::start().await;
    let seen = orphan(&server.store, scope("k"));
    let release = server.post("/orphans/release", &seen);
    let refused = (403, "admin_cross_origin".to_owned());
    for site in ["cross-site", "same-site", "none"] {
        assert_eq!(
            release.clone().header("sec-fetch-site", site).problem().await,
            refused,
            "{site}"
        );
    }
    for origin in ["https://evil.example", "https://api.example.com.evil.example", "null"] {
        assert_eq!(release.clone().header("origin", origin).problem().await, refused, "{origin}");
    }
    assert_eq!(server.store.stats().orphans, 1);
    // The host of the page itself, as a browser without Sec-Fetch-Site says it.
    release.header("origin", "https://api.example.com").json().await;
    assert_eq!(server.store.stats().orphans, 0);
}

#[tokio::test]
async fn a_change_that_a_form_could_send_is_refused() {
    let server = Server::start().await;
    let seen = orphan(&server.store, scope("k"));
    let forms = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""];
    for media_type in forms {
        let mut release = server.post("/orphans/release", &seen);
        release.headers.retain(|(name, _)| name != "content-type");
        let release = release.header("content-type", media_type);
        assert_eq!(release.problem().await, (415, "admin_not_json".into()), "{media_type}");
    }
    assert_eq!(kind(&server.store, scope("k")), "orphaned");
}

#[tokio::test]
async fn a_change_is_not_made_by_looking() {
    let server = Server::start().await;
    for (method, route, _) in routes() {
        let other = if method == Method::GET { Method::POST } else { Method::GET };
        let reply = match other {
            Method::POST => server.post(route, &json!({})).send().await,
            other => server.ask(other, route).send().await,
        };
        let wanted = if route == "/no-such-route" { 404 } else { 405 };
        assert_eq!(reply.problem().0, wanted, "{route}");
    }
}

#[tokio::test]
async fn what_is_malformed_is_a_problem_that_says_so() {
    let server = Server::start().await;
    let release = |body: serde_json::Value| server.post("/orphans/release", &body);
    let seen = orphan(&server.store, scope("k"));
    let invalid = (422, "admin_invalid".to_owned());
    let mut more = seen.clone();
    more["force"] = json!(true);
    let bodies = [
        json!(null),
        json!({ "scope": fields(scope("k")) }),
        json!({ "scope": fields(scope("k")), "token": 1 }),
        json!({ "scope": fields(scope("k")), "token": "one" }),
        json!({ "scope": fields(scope("k")), "token": "9223372036854775808" }),
        json!({ "scope": fields(scope("")), "token": "1" }),
        more,
    ];
    for body in bodies {
        assert_eq!(release(body.clone()).problem().await, invalid, "{body}");
    }
    let long = "k".repeat(5000);
    let too_large = json!({ "scope": fields(scope(&long)), "token": "1" });
    assert_eq!(release(too_large).problem().await, (413, "admin_too_large".into()));
    let mut huge = server.post("/forget", &json!({}));
    huge.body = vec![b' '; 4 << 20].into();
    assert_eq!(huge.problem().await, (413, "admin_too_large".into()));
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?after=x", "?order=key"] {
        let orphans = server.get(&format!("/orphans{query}"));
        assert_eq!(orphans.problem().await, invalid, "{query}");
    }
}
