//! Faults put into the scripts by hand: each is found by a case of the conformance suite, or by one
//! of the tests here.

use std::time::Duration;

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
        "return {redis.call('PEXPIRETIME', KEYS[1]), string.byte(name, 4)}",
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
