//! Faults put into the scripts by hand: each is found by a case of the conformance suite, or by one
//! of the tests here.

use std::time::Duration;

use oncelog::cluster::RedisStore;
use oncelog::conformance::{Harness as _, run_one};
use oncelog::http::BackendPermit as _;

use crate::conformance::{Crash, Servers};
use crate::proxy::Proxy;
use crate::records;
use crate::server::Server;

const REPLACES: &str =
    "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])\n  return 1\nend\nreturn n";

/// What is there, what is put in its place, and the case that finds it.
const FAULTS: [(&str, &str, &str); 10] = [
    // A completion that does not compare.
    (
        "if name == ARGV[1] then\n  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])\n  return r",
        "if true then\n  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])\n  return r",
        "a_superseded_attempt_changes_nothing",
    ),
    // A release that does not.
    (
        "if name == ARGV[1] then\n  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])\n  return 1",
        "if true then\n  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])\n  return 1",
        "a_superseded_attempt_changes_nothing",
    ),
    // A take-over of whatever attempt there is.
    (
        "string.sub(value, 25, 32) ~= token",
        "value == nil",
        "a_take_over_names_the_attempt_that_it_replaces",
    ),
    (
        "struct.unpack('<I4', value, 5) + 1",
        "struct.unpack('<I4', value, 5)",
        "a_take_over_is_the_next_attempt_of_the_same_operation",
    ),
    (
        "return {redis.call('GET', KEYS[1]), 0, redis.call('PEXPIRETIME', KEYS[1])}",
        "return false",
        "a_completion_may_be_asked_for_again",
    ),
    (
        "redis.call('PEXPIRE', KEYS[1], ARGV[3])",
        "",
        "a_lease_that_is_over_makes_an_orphan_and_a_renewed_one_does_not",
    ),
    (
        "string.sub(head, 9, 24) == ARGV[1]",
        "false",
        "a_claim_whose_future_is_dropped_is_not_left_behind",
    ),
    (
        "string.sub(value, 1, 32) == ARGV[1]",
        "false",
        "a_release_frees_the_scope_for_another_operation",
    ),
    (
        "ARGV[2], 'PX', ARGV[3])\n  return redis",
        "ARGV[2], 'PX', 1000)\n  return redis",
        "a_response_is_absent_from_its_expiry_on",
    ),
    (
        "redis.call('SETRANGE', KEYS[1], 1, ARGV[2])",
        "",
        "an_attempt_given_up_is_an_orphan_with_cause_failed",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_put_into_a_script_is_found() {
    for (from, to, case) in FAULTS {
        let server = Server::start(&[]);
        let proxy = Proxy::start(server.address(), from, to).await;
        let servers = Servers::of(vec![server], proxy.url(), Crash::Client);
        let report = run_one(&servers, case).await;
        println!("{to:?} in the place of {from:?}: {report}");
        assert_eq!(report.failed.len(), 1, "{case} does not find {to:?}");
        assert!(proxy.replaced() > 0, "{from:?} is in no script");
    }
}

/// The other tests of the store's own that a fault could hide from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_without_a_tombstone_is_found() {
    let server = Server::start(&[]);
    let to = "redis.call('DEL', KEYS[1])\n  return 1\nend\nreturn n";
    let proxy = Proxy::start(server.address(), REPLACES, to).await;
    let servers = Servers::of(vec![], proxy.url(), Crash::Client);
    let store = servers.fresh(Duration::from_secs(60)).await;
    assert!(records::token_after_a_release(&store, &server).await.is_err());
    assert!(proxy.replaced() > 0);
    let servers = Servers::of(vec![], server.url(), Crash::Client);
    let store = servers.fresh(Duration::from_secs(60)).await;
    let permit = records::token_after_a_release(&store, &server).await.unwrap();
    assert_eq!(permit.attempt(), 1);
}

/// A call of an operator whose check is run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Resolve,
    Release,
    Forget,
}

async fn check(call: Call, store: &RedisStore, server: &Server) -> records::Checked {
    match call {
        Call::Resolve => records::resolves_what_was_seen(store, server).await,
        Call::Release => records::releases_what_was_seen(store, server).await,
        Call::Forget => records::forgets_what_completed(store, server).await,
    }
}

/// What is there, what is put in its place, and the calls whose checks find it.
const OPERATOR_FAULTS: [(&str, &str, &[Call]); 14] = [
    // The token that was seen is not compared.
    ("string.sub(value, 25, 32) ~= token", "value == nil", &[Call::Resolve, Call::Release]),
    // A claim that runs is an orphan.
    (
        "state == 1 and left >= 0 and lived >= struct.unpack('<I8', value, 57) then",
        "state == 1 then",
        &[Call::Resolve, Call::Release],
    ),
    // One whose lease is over is none.
    ("elseif state == 1 and left >= 0", "elseif state == 7 and left >= 0", &[Call::Resolve]),
    // What was resolved is resolved again with another response.
    ("  and string.sub(value, body) == ARGV[2] then", "  then", &[Call::Resolve]),
    // Nothing is written.
    (
        "redis.call('SET', KEYS[1], value, 'PX', ARGV[5])\n  return told",
        "return told",
        &[Call::Resolve],
    ),
    ("return told(value)\nelseif string", "return nil\nelseif string", &[Call::Resolve]),
    // The completion of before is not told of.
    ("return {redis.call('GET', KEYS[1]), 0,", "return {ARGV[2], 0,", &[Call::Resolve]),
    (RELEASES, "return 1\nelseif", &[Call::Release]),
    // No token is left.
    (RELEASES, "redis.call('DEL', KEYS[1])\n  return 1\nelseif", &[Call::Release]),
    // Whatever is there is released.
    ("if value and cause then", "if value then cause=1", &[Call::Release]),
    // A claim that runs is forgotten, and one that is not is counted.
    ("if string.sub(head, 1, 2) ~= '\\1\\3' then", "if head == '' then", &[Call::Forget]),
    ("~= '\\1\\3' then\n  return 0", "~= '\\1\\3' then\n  return 1", &[Call::Forget]),
    // Nothing is erased; the tombstone has no expiry.
    ("redis.call('SET', KEYS[1], released, 'KEEPTTL')", "", &[Call::Forget]),
    ("released, 'KEEPTTL')", "released)", &[Call::Forget]),
];

const RELEASES: &str = "redis.call('SET', KEYS[1], released, 'PX', ARGV[2])\n  return 1\nelseif";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_calls_do_what_they_say_and_every_fault_in_them_is_found() {
    for call in [Call::Resolve, Call::Release, Call::Forget] {
        let server = Server::start(&[]);
        let store = RedisStore::connect(&server.url()).await.unwrap();
        assert_eq!(check(call, &store, &server).await, Ok(()), "{call:?}");
    }
    for (from, to, calls) in OPERATOR_FAULTS {
        for &call in calls {
            let server = Server::start(&[]);
            let proxy = Proxy::start(server.address(), from, to).await;
            let store = RedisStore::connect(&proxy.url()).await.unwrap();
            let checked = check(call, &store, &server).await;
            println!("{call:?}, {to:?} in the place of {from:?}: {checked:?}");
            assert!(checked.is_err(), "{call:?} does not find {to:?}");
            assert!(proxy.replaced() > 0, "{from:?} is in no script");
        }
    }
}
