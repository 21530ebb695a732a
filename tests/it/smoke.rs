//! The first minute of a new user.

use oncelog::{Claim, Create, Durability, Error, Fingerprint, Options, Scope, Store};
use std::time::Duration;

fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/v1/contacts", key }
}

fn in_both_modes(test: impl Fn(Options)) {
    test(Store::options());
    let sync_every = Duration::from_millis(50);
    test(Store::options().durability(Durability::Buffered { sync_every }));
}

#[test]
fn a_completed_claim_is_replayed_after_a_restart_in_both_modes() {
    in_both_modes(|options| {
        let dir = tempfile::tempdir().unwrap();
        let fingerprint = Fingerprint::of(b"body");
        let store = options.clone().open(dir.path()).unwrap();
        for n in 0..100 {
            let key = format!("k{n}");
            let Claim::Granted(permit) = store.claim(scope(&key), fingerprint).unwrap() else {
                panic!("not granted")
            };
            permit.complete(key.as_bytes()).unwrap();
        }
        store.close().unwrap();
        for round in 0..3 {
            let store = options.clone().open(dir.path()).unwrap();
            assert!(store.recovery().clean, "{:?}", store.recovery());
            for n in 0..100 {
                let key = format!("k{n}");
                let Claim::Replay(stored) = store.claim(scope(&key), fingerprint).unwrap() else {
                    panic!("not replayed")
                };
                assert_eq!(stored.bytes(), Some(key.as_bytes()), "round {round}");
            }
        }
    });
}

#[test]
fn a_directory_without_a_store_is_missing_where_none_may_be_created() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Store::options().create(Create::Never);
    assert!(matches!(options().open(dir.path()), Err(Error::Missing { .. })));
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "nothing was created");
    assert!(matches!(options().open(dir.path().join("absent")), Err(Error::Missing { .. })));
}
