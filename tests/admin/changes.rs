//! What is erased, copied and logged, and what is not.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use oncelog::Store;
use oncelog::admin::Admin;
use serde_json::json;

use crate::support::{Ask, Server, authenticate, claim, fields, kind, orphan, scope, serve};

#[tokio::test]
async fn a_forgotten_key_is_free_and_an_open_claim_is_not_forgotten() {
    let server = Server::start().await;
    claim(&server.store, scope("done")).complete(b"created").unwrap();
    let _running = claim(&server.store, scope("running"));
    let forget = |key| server.post("/forget", &json!({ "scope": fields(scope(key)) }));
    assert_eq!(forget("done").json().await, json!({ "forgotten": 1 }));
    assert!(server.store.lookup(scope("done")).unwrap().is_none());
    assert_eq!(forget("done").problem().await, (404, "admin_scope_free".into()));
    assert_eq!(forget("running").problem().await, (409, "admin_claim_open".into()));
}

#[tokio::test]
async fn a_forgotten_organization_keeps_its_open_claims_and_others_keep_theirs() {
    let server = Server::start().await;
    let other = oncelog::Scope { organization: "other", ..scope("theirs") };
    for scope in [scope("one"), scope("two"), other] {
        claim(&server.store, scope).complete(b"created").unwrap();
    }
    orphan(&server.store, scope("orphan"));
    let forget = server.post("/forget-organization", &json!({ "organization": "acme" }));
    assert_eq!(forget.json().await, json!({ "forgotten": 2, "orphans_kept": 1 }));
    assert_eq!(kind(&server.store, other), "replay");
    assert_eq!(kind(&server.store, scope("orphan")), "orphaned");
}

#[tokio::test]
async fn a_backup_opens_as_the_store_was() {
    let server = Server::start().await;
    claim(&server.store, scope("done")).complete(b"created").unwrap();
    orphan(&server.store, scope("orphan"));
    let told = server.post("/backup", &json!({ "name": "2026-11-30" })).json().await;
    assert_eq!((&told["name"], &told["open_claims"]), (&json!("2026-11-30"), &json!(1)));
    let copy = Store::open(server.dir.path().join("backups/2026-11-30")).unwrap();
    assert_eq!(kind(&copy, scope("done")), "replay");
    assert_eq!(kind(&copy, scope("orphan")), "orphaned");
    drop(copy);
    let again = server.post("/backup", &json!({ "name": "2026-11-30" }));
    assert_eq!(again.problem().await, (422, "admin_invalid".into()));
}

#[tokio::test]
async fn a_backup_stays_in_its_directory() {
    let server = Server::start().await;
    let long = "a".repeat(101);
    let names = [
        "",
        ".",
        "..",
        "../up",
        "a/../../up",
        "/tmp/up",
        "a/b",
        "a\\b",
        ".hidden",
        "-rf",
        "a b",
        "a\0b",
        "caf\u{e9}",
        &long,
    ];
    for name in names {
        let backup = server.post("/backup", &json!({ "name": name }));
        assert_eq!(backup.problem().await, (422, "admin_invalid".into()), "{name:?}");
    }
    let entries = |dir: &str| std::fs::read_dir(server.dir.path().join(dir)).unwrap().count();
    assert_eq!((entries(""), entries("backups")), (2, 0));
}

#[tokio::test]
async fn without_a_directory_for_backups_there_is_no_such_route() {
    let server = Server::start().await;
    let admin = Admin::new(server.store.clone(), authenticate).router();
    let address = serve(Router::new().nest("/ops", admin)).await;
    let backup = Ask { address, ..server.post("/backup", &json!({ "name": "backup" })) };
    assert_eq!(backup.problem().await, (404, "admin_not_found".into()));
    let stats = Ask { address, ..server.get("/stats") };
    assert_eq!(stats.json().await["backups"], false);
}

/// What is logged by every test of this binary.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_change_is_logged_with_who_asked_for_it_and_without_the_key() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let server = Server::start().await;
    let seen = orphan(&server.store, scope("secret-key"));
    let release = server.post("/orphans/release", &seen).bearer(Some("oscar \"the\" second"));
    release.clone().json().await;
    release.problem().await;
    let log = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let log = String::from_utf8(log).unwrap();
    let mine: Vec<_> = log.lines().filter(|line| line.contains("oscar")).collect();
    let [done, refused] = mine[..] else { panic!("{log}") };
    assert!(done.contains("oncelog::admin") && done.contains("action=\"release\""), "{done}");
    let token = seen["token"].as_str().unwrap();
    assert!(done.contains("done") && done.contains(token), "{done}");
    assert!(refused.contains("admin_superseded"), "{refused}");
    assert!(!log.contains("secret-key"), "{log}");
}
