//! What is told of a store: figures, metrics, segments and alarms.

use std::time::{Duration, SystemTime};

use oncelog::{Durability, ManualClock, Store};
use serde_json::{Value, json};

use crate::exposition::{Family, read};
use crate::support::{Server, body, claim, orphan, scope};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// One of each: a response, a replay, a conflict, a running claim and an orphan.
fn one_of_each(store: &Store) -> oncelog::Permit {
    claim(store, scope("done")).complete(b"created").unwrap();
    assert_eq!(store.claim(scope("done"), body()).unwrap().kind(), "replay");
    let other = oncelog::Fingerprint::of(b"another request");
    assert_eq!(store.claim(scope("done"), other).unwrap().kind(), "conflict");
    orphan(store, scope("orphan"));
    claim(store, scope("running"))
}

fn codes(stats: &Value) -> Vec<&str> {
    stats["alarms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|alarm| alarm["code"].as_str().unwrap())
        .collect()
}

fn value(family: &Family, labels: &str) -> f64 {
    let found = family.samples.iter().find(|(_, of, _)| of == labels);
    found.unwrap_or_else(|| panic!("{labels} in {family:?}")).2
}

#[tokio::test]
async fn stats_are_those_of_the_store_and_name_the_operator() {
    let server = Server::start().await;
    let _running = one_of_each(&server.store);
    let told = server.get("/stats").json().await;
    let (stats, figures) = (server.store.stats(), &told["figures"]);
    assert_eq!((&told["operator"], &told["open"]), (&json!("olivia"), &json!(true)));
    for (name, value, wanted) in [
        ("granted", stats.granted, 3),
        ("replayed", stats.replayed, 1),
        ("conflicts", stats.conflicts, 1),
        ("in_flight", stats.in_flight, 1),
        ("orphans", stats.orphans, 1),
        ("orphaned_dropped", stats.orphaned_dropped, 1),
        ("responses", stats.responses, 1),
        ("segments", stats.segments, 1),
    ] {
        assert_eq!((&figures[name], value), (&json!(wanted), wanted), "{name}");
    }
    assert_eq!(figures["commit_batches"], told["commit_latency"]["count"]);
    let buckets = told["commit_latency"]["buckets"].as_array().unwrap();
    let counted: u64 = buckets.iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum();
    assert_eq!(told["commit_latency"]["count"], counted);
    assert_eq!(buckets.last().unwrap()["le_us"], Value::Null);
    assert_eq!((&told["durability"], &told["backups"]), (&json!("synced"), &json!(true)));
    assert_eq!(told["ttl_ms"], 30_u64 * 24 * 3_600_000);
    assert_eq!((&told["recovery"]["epoch"], &told["damage"]), (&json!(1), &json!([])));
}

#[tokio::test]
async fn every_counter_of_the_stats_is_among_the_figures() {
    let server = Server::start().await;
    let told = server.get("/stats").json().await;
    let debug = format!("{:?}", server.store.stats());
    let fields = debug.trim_start_matches("Stats { ").split(", ");
    let names: Vec<_> = fields.map(|field| field.split(':').next().unwrap()).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        let is_time = ["orphan_ended_last", "quarantined_until"].contains(&name);
        let place = if is_time { &told } else { &told["figures"] };
        let name = if is_time { format!("{name}_ms") } else { name.to_owned() };
        assert!(place.get(&name).is_some(), "{name} is not told");
    }
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_agree_with_the_store() {
    let server = Server::start().await;
    let _running = one_of_each(&server.store);
    let reply = server.get("/metrics").send().await;
    let media_type = "text/plain; version=0.0.4; charset=utf-8";
    assert_eq!(reply.header("content-type"), Some(media_type));
    let families = read(reply.text()).unwrap();
    assert!(families.keys().all(|name| name.starts_with("oncelog_store_")));
    let claims = &families["oncelog_store_claims_total"];
    assert_eq!(value(claims, "answer=\"granted\""), 3.0);
    assert_eq!(value(claims, "answer=\"replay\""), 1.0);
    assert_eq!(value(claims, "answer=\"conflict\""), 1.0);
    assert_eq!(value(&families["oncelog_store_orphans"], ""), 1.0);
    assert_eq!(value(&families["oncelog_store_open"], ""), 1.0);
    let commits = &families["oncelog_store_commit_duration_seconds"];
    let latency = server.store.commit_latency();
    #[expect(clippy::cast_precision_loss, reason = "a few commits")]
    let wanted = latency.count() as f64;
    let all = commits.samples.iter().find(|(name, ..)| name.ends_with("_count")).unwrap();
    assert_eq!(all.2, wanted);
    let sum = commits.samples.iter().find(|(name, ..)| name.ends_with("_sum")).unwrap();
    assert!((sum.2 - latency.total().as_secs_f64()).abs() < 1e-6);
}

#[tokio::test]
async fn segments_are_told_with_what_expires_when() {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + 20_000 * DAY);
    let options = Store::options().clock(clock.clone()).ttl(30 * DAY).bucket(DAY);
    let server = Server::with("/ops", options).await;
    for key in ["first", "second"] {
        claim(&server.store, scope(key)).complete(b"created").unwrap();
        clock.advance(DAY);
    }
    let told = server.get("/segments").json().await;
    let day = |day: u64| json!(day * 24 * 3_600_000);
    assert_eq!(told["store_time_ms"], day(20_002));
    let segments = told["segments"].as_array().unwrap();
    assert_eq!(segments.len(), 2);
    assert_eq!((&segments[0]["state"], &segments[1]["state"]), (&json!("sealed"), &json!("tail")));
    for (segment, begun) in segments.iter().zip([20_000, 20_001]) {
        assert_eq!((&segment["begun_at_ms"], &segment["responses"]), (&day(begun), &json!(1)));
        assert_eq!(segment["expires_at_ms"], day(begun + 30));
    }
}

#[tokio::test]
async fn what_wants_a_person_is_an_alarm_in_words() {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + 20_000 * DAY);
    let options = Store::options()
        .clock(clock.clone())
        .segment_bytes(8 << 20)
        .disk_budget_bytes(32 << 20)
        .durability(Durability::Buffered { sync_every: Duration::from_millis(50) });
    let server = Server::with("/ops", options).await;
    claim(&server.store, scope("k")).complete(b"created").unwrap();
    let calm = server.get("/stats").json().await;
    assert!(!codes(&calm).contains(&"clock_held"), "{calm}");
    assert!(codes(&calm).contains(&"headroom_low") && codes(&calm).contains(&"buffered"), "{calm}");
    clock.set_wall(SystemTime::UNIX_EPOCH + 20_400 * DAY);
    let held = server.get("/stats").json().await;
    assert!(codes(&held).contains(&"clock_held"), "{held}");
    for alarm in held["alarms"].as_array().unwrap() {
        let severity = alarm["severity"].as_str().unwrap();
        assert!(["critical", "warning", "notice"].contains(&severity), "{alarm}");
        for words in ["summary", "advice"] {
            assert!(alarm[words].as_str().unwrap().ends_with('.'), "{alarm}");
        }
    }
    let accepted = server.post("/accept-clock", &json!({})).json().await;
    assert_eq!(accepted["store_time_ms"], 20_400_u64 * 24 * 3_600_000);
    let after = server.get("/stats").json().await;
    assert!(!codes(&after).contains(&"clock_held"), "{after}");
}

#[tokio::test]
async fn a_closed_store_is_told_and_nothing_is_made_up_of_it() {
    let server = Server::start().await;
    let seen = orphan(&server.store, scope("k"));
    server.store.clone().close().unwrap();
    let told = server.get("/stats").json().await;
    assert_eq!((&told["open"], codes(&told)[0]), (&json!(false), "closed"));
    let unavailable = (503, "admin_unavailable".to_owned());
    assert_eq!(server.get("/orphans").problem().await, unavailable);
    assert_eq!(server.post("/orphans/release", &seen).problem().await, unavailable);
    let metrics = server.get("/metrics").send().await;
    assert_eq!(value(&read(metrics.text()).unwrap()["oncelog_store_open"], ""), 0.0);
}

#[tokio::test]
async fn the_page_is_one_document_that_names_no_other_host() {
    for mount in ["/ops", "/a/deeper/place/"] {
        let server = Server::with(mount, Store::options()).await;
        server.get("/stats").json().await;
        let reply = server.get("/").send().await;
        assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"), "{mount}");
        let page = reply.text();
        let policy = reply.header("content-security-policy").unwrap();
        let (_, nonce) = policy.split_once("script-src 'nonce-").unwrap();
        let nonce = nonce.split('\'').next().unwrap();
        assert_eq!(page.matches("<script").count(), 1);
        assert!(page.contains(&format!("<script nonce=\"{nonce}\">")));
        assert!(page.contains(&format!("<style nonce=\"{nonce}\">")) && !page.contains("{{"));
        // The name of a vector format is no address to load.
        let named = page.matches("http://").count() + page.matches("https://").count();
        assert_eq!(named, page.matches("http://www.w3.org/2000/svg").count());
        assert!(!page.contains("src=") && !page.contains("url(") && !page.contains("@import"));
        assert!(!page.contains("innerHTML") && !page.contains("eval("), "text is set as text");
    }
}

#[tokio::test]
async fn two_pages_have_two_nonces() {
    let server = Server::start().await;
    let policy =
        |reply: crate::support::Reply| reply.header("content-security-policy").unwrap().to_owned();
    let first = policy(server.get("/").send().await);
    assert_ne!(first, policy(server.get("/").send().await));
}
