//! Many claims or lookups in one call: each answer is the one that a call of its own would get.

use std::io::ErrorKind;
use std::sync::Arc;

use oncelog::{Claim, Fingerprint, Scope, Status};

use crate::contract::support::{World, body, claim, granted, kind, run, scope};

fn requests(keys: &[String]) -> Vec<(Scope<'_>, Fingerprint)> {
    keys.iter().map(|key| (scope(key), body())).collect()
}

#[test]
fn many_claims_are_answered_in_order_each_by_its_own_scope() {
    let store = World::new().open();
    run(&store, "done", b"created");
    let _running = granted(claim(&store, "running"));
    drop(granted(claim(&store, "orphan")));
    let mut asked = vec![
        (scope("done"), body()),
        (scope("running"), body()),
        (scope("fresh"), body()),
        (scope("fresh"), body()),
        (scope("done"), Fingerprint::of(b"another body")),
        (Scope { key: "", ..scope("done") }, body()),
        (scope("orphan"), body()),
    ];
    let answers = store.claim_many(&asked);
    let kinds: Vec<_> =
        answers.iter().map(|claim| claim.as_ref().map_or("error", Claim::kind)).collect();
    let expected =
        ["replay", "in_progress", "granted", "in_progress", "conflict", "error", "orphaned"];
    assert_eq!(kinds, expected);
    drop(answers);
    asked.truncate(3);
    let scopes: Vec<_> = asked.iter().map(|&(scope, _)| scope).chain([scope("absent")]).collect();
    let found = store.lookup_many(&scopes);
    assert!(matches!(found[0], Ok(Some(Status::Completed(_)))), "{found:?}");
    assert!(matches!(found[1], Ok(Some(Status::InProgress(_)))), "{found:?}");
    assert!(matches!(found[2], Ok(Some(Status::Orphaned(_)))), "{found:?}");
    assert!(matches!(found[3], Ok(None)), "{found:?}");
}

#[test]
fn many_synced_claims_are_one_commit_and_durable_when_they_are_granted() {
    let world = World::new();
    let store = world.open();
    let keys: Vec<_> = (0..100).map(|key| format!("row-{key}")).collect();
    let before = store.stats().commit_batches;
    let permits: Vec<_> = store.claim_many(&requests(&keys)).into_iter().map(granted_of).collect();
    assert_eq!(store.stats().commit_batches, before + 1);
    let world = world.on(world.disk.after_power_cut(1, crate::support::disk::Survival::None));
    let after = world.open();
    assert!(keys.iter().all(|key| kind(&after, key) == "orphaned"), "a granted claim was lost");
    assert_eq!(permits.len(), keys.len());
}

fn granted_of(claim: oncelog::Result<Claim>) -> oncelog::Permit {
    granted(claim.unwrap())
}

#[test]
fn no_claim_of_many_is_granted_where_their_commit_fails() {
    let world = World::new();
    let store = world.options().open_on(Arc::new(world.disk.clone())).unwrap();
    run(&store, "first", b"x");
    let keys: Vec<_> = (0..10).map(|key| format!("row-{key}")).collect();
    world.disk.fail_at(world.disk.steps(), ErrorKind::Other);
    let answers = store.claim_many(&requests(&keys));
    assert!(answers.iter().all(Result::is_err), "{answers:?}");
}
