//! The commands that change a store.

use crate::support::{
    World, complaint, object, objects, printed, reopened, scope, state, tool, tool_reading,
};

const SCOPE: [&str; 3] = ["acme", "POST", "/v1/invoices"];

fn on<'a>(command: &'a str, dir: &'a str, key: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&[command, dir], &SCOPE[..], &[key], rest].concat()
}

#[test]
fn an_orphan_is_resolved_with_the_response_that_every_retry_gets() {
    let world = World::filled();
    let dir = world.dir();
    let given = on("resolve", &dir, "vanished", &["--response", "201 created", "--yes", "--json"]);
    let resolved = object(&tool(&given), 0);
    assert_eq!(
        (&resolved["state"], &resolved["response_bytes"]),
        (&"completed".into(), &11.into())
    );
    let store = reopened(&world.path("store"));
    let status = store.lookup(scope("acme", "vanished")).unwrap();
    let Some(oncelog::Status::Completed(stored)) = status else { panic!("{status:?}") };
    assert_eq!(stored.bytes(), Some(&b"201 created"[..]));
    store.close().unwrap();
    assert!(complaint(&tool(&given), 3).contains("is no orphan"));
}

#[test]
fn a_response_is_read_from_standard_input_byte_for_byte() {
    let world = World::filled();
    let dir = world.dir();
    let bytes: Vec<u8> = (0..=255).collect();
    let given = on("resolve", &dir, "vanished", &["--response-stdin", "--yes"]);
    printed(&tool_reading(&given, &bytes), 0);
    assert_eq!(tool(&on("get", &dir, "vanished", &["--raw"])).stdout, bytes);
}

#[test]
fn an_orphan_is_released_and_its_scope_is_free() {
    let world = World::filled();
    let dir = world.dir();
    let token = objects(&tool(&["unresolved", &dir, "--json"]), 0)[0]["token"].clone();
    let token = token.as_str().unwrap();
    let other = on("release", &dir, "vanished", &["--yes", "--token", "17"]);
    assert!(complaint(&tool(&other), 3).contains("somebody took it over"));
    let meant = on("release", &dir, "vanished", &["--yes", "--token", token]);
    assert!(printed(&tool(&meant), 0).starts_with("released"));
    assert_eq!(state(&reopened(&world.path("store")), "acme", "vanished"), "free");
}

#[test]
fn what_is_forgotten_is_gone_and_an_open_claim_is_not_forgotten() {
    let world = World::filled();
    let dir = world.dir();
    assert_eq!(
        object(&tool(&on("forget", &dir, "key-001", &["--yes", "--json"])), 0)["forgotten"],
        1
    );
    assert!(complaint(&tool(&on("forget", &dir, "key-001", &["--yes"])), 3).contains("free"));
    let open = tool(&on("forget", &dir, "vanished", &["--yes"]));
    assert!(complaint(&open, 3).contains("its claim is open"));
    let all = object(&tool(&["forget-organization", &dir, "globex", "--yes", "--json"]), 0);
    assert_eq!((&all["forgotten"], &all["open_claims_kept"]), (&100.into(), &1.into()));
    let store = reopened(&world.path("store"));
    assert_eq!(state(&store, "acme", "key-001"), "free");
    assert_eq!(state(&store, "acme", "key-002"), "completed");
    assert_eq!(state(&store, "globex", "key-003"), "free");
    assert_eq!(state(&store, "globex", "failed"), "orphaned");
    assert!(store.verify().unwrap().is_clean());
}

#[test]
fn nothing_is_changed_without_a_yes() {
    let world = World::filled();
    let dir = world.dir();
    let before = objects(&tool(&["list", &dir, "--json"]), 0);
    for unasked in [
        on("resolve", &dir, "vanished", &["--response", "201"]),
        on("release", &dir, "vanished", &[]),
        on("forget", &dir, "key-001", &[]),
        vec!["forget-organization", &dir, "acme"],
    ] {
        assert!(complaint(&tool(&unasked), 7).contains("give --yes"), "{unasked:?}");
        assert!(complaint(&tool_reading(&unasked, b"yes\n"), 7).contains("nobody to ask"));
    }
    assert_eq!(objects(&tool(&["list", &dir, "--json"]), 0), before);
}

#[test]
fn what_changes_a_store_that_is_open_says_how_to_reach_its_owner() {
    let world = World::filled();
    let (store, dir) = (world.open(), world.dir());
    for refused in [
        on("resolve", &dir, "vanished", &["--response", "201", "--yes"]),
        on("release", &dir, "vanished", &["--yes"]),
        on("forget", &dir, "key-001", &["--yes"]),
        vec!["forget-organization", &dir, "acme", "--yes"],
    ] {
        let complaint = complaint(&tool(&refused), 5);
        assert!(complaint.contains("open in another process"), "{complaint}");
        assert!(complaint.contains("admin router") && complaint.contains("stop the server"));
    }
    assert_eq!(state(&store, "acme", "vanished"), "orphaned");
    assert_eq!(state(&store, "acme", "key-001"), "completed");
}

#[test]
fn a_ttl_that_would_throw_an_orphan_away_is_refused() {
    use std::time::{Duration, SystemTime};
    let world = World::new();
    let wall = SystemTime::now() - Duration::from_secs(20 * 86_400);
    let options = oncelog::Store::options().clock(oncelog::ManualClock::at(wall));
    let store = options.open(world.path("store")).unwrap();
    drop(crate::support::claim(&store, "acme", "old"));
    store.close().unwrap();
    let dir = world.dir();
    let short = on("release", &dir, "old", &["--yes", "--ttl", "7d"]);
    assert!(complaint(&tool(&short), 2).contains("name the ttl of the server with --ttl"));
    printed(&tool(&on("release", &dir, "old", &["--yes", "--ttl", "30d"])), 0);
}
