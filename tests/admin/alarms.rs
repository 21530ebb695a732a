//! Every alarm, brought about in earnest, seen in JSON and in Prometheus' text, and gone when what
//! it is about is gone.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant, SystemTime};

use oncelog::{Claim, Error, ManualClock, Store};
use serde_json::{Value, json};

use crate::device::{Device, fill, flip, open_without_first, run_until_full, small};
use crate::exposition::read;
use crate::support::{Server, body, claim, kind, orphan, scope};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// An alarm that does not come within this time has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The alarm of this code, if it is told.
async fn alarm(server: &Server, code: &str) -> Option<Value> {
    let told = server.get("/stats").json().await;
    let alarms = told["alarms"].as_array().unwrap();
    alarms.iter().find(|alarm| alarm["code"] == code).cloned()
}

/// Asks until an alarm is told, or is not told any more.
async fn until(server: &Server, code: &str, is_told: impl Fn(Option<&Value>) -> bool) {
    let began = Instant::now();
    while !is_told(alarm(server, code).await.as_ref()) {
        assert!(began.elapsed() < PATIENCE, "{code} does not change");
        tokio::task::yield_now().await;
    }
}

/// One sample without labels.
async fn metric(server: &Server, name: &str) -> f64 {
    let families = read(server.get("/metrics").send().await.text()).unwrap();
    families[&format!("oncelog_store_{name}")].samples[0].2
}

fn said(alarm: Option<Value>) -> (String, String) {
    let alarm = alarm.expect("it is told");
    let text = |name: &str| alarm[name].as_str().unwrap().to_owned();
    (text("severity"), text("summary"))
}

fn critical(summary: &str) -> (String, String) {
    ("critical".into(), summary.into())
}

fn warning(summary: &str) -> (String, String) {
    ("warning".into(), summary.into())
}

#[tokio::test]
async fn a_flipped_bit_that_the_scrub_finds_is_an_alarm_until_it_is_right_again() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let server = Server::of(small().open(dir.path()).unwrap()).await;
    let rounds = server.store.stats().scrub_rounds;
    while server.store.stats().scrub_rounds < rounds + 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(alarm(&server, "damage").await, None, "nothing is wrong yet");
    assert!(metric(&server, "damaged_records").await < 0.5);
    flip(dir.path());
    until(&server, "damage", |told| told.is_some()).await;
    let told = said(alarm(&server, "damage").await);
    assert_eq!(told, critical("A damaged place was found."));
    let stats = server.get("/stats").json().await;
    assert_eq!((&stats["damage"][0]["segment"], &stats["open"]), (&json!(1), &json!(true)));
    assert!((metric(&server, "damaged_records").await - 1.0).abs() < 0.5);
    let refused = server.store.claim(scope("key-7"), body());
    assert!(matches!(refused, Err(Error::Corrupt { segment: 1, .. })), "{refused:?}");
    assert_eq!(server.store.verify().unwrap().damage.len(), 1, "a verification agrees");
    flip(dir.path());
    until(&server, "damage", |told| told.is_none()).await;
}

#[tokio::test]
async fn a_segment_that_was_lost_is_in_quarantine_and_an_alarm_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let sound = Server::of(small().open(dir.path()).unwrap()).await;
    assert_eq!(alarm(&sound, "quarantine").await, None, "nothing is lost yet");
    sound.store.clone().close().unwrap();
    let server = Server::of(open_without_first(dir.path())).await;
    let told = said(alarm(&server, "quarantine").await);
    assert_eq!(told, critical("A segment is in quarantine."));
    let stats = server.get("/stats").json().await;
    assert!(stats["quarantined_until_ms"].as_u64() > stats["now_ms"].as_u64(), "{stats}");
    assert_eq!(stats["recovery"]["quarantined"][0]["segment"], 1);
    assert!((metric(&server, "quarantined_segments").await - 1.0).abs() < 0.5);
    let refused = server.store.claim(scope("never"), body());
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_write_that_failed_is_an_alarm_until_the_store_is_opened_again() {
    let device = Device::new();
    let server = Server::of(device.open()).await;
    claim(&server.store, scope("done")).complete(b"created").unwrap();
    assert_eq!(alarm(&server, "poisoned").await, None, "nothing failed yet");
    assert!((metric(&server, "open").await - 1.0).abs() < 0.5);
    device.fail_next();
    let failed = server.store.claim(scope("k"), body());
    assert!(matches!(failed, Err(Error::Io { .. } | Error::Poisoned { .. })), "{failed:?}");
    let (severity, summary) = said(alarm(&server, "poisoned").await);
    assert_eq!(severity, "critical");
    assert!(summary.starts_with("A write or a sync failed: "), "{summary}");
    assert_eq!(server.get("/stats").json().await["open"], false);
    assert!(metric(&server, "open").await < 0.5);
    assert_eq!(kind(&server.store, scope("done")), "replay");
    server.store.clone().close().ok();
    drop(server);
    let again = Server::of(device.open()).await;
    assert_eq!(alarm(&again, "poisoned").await, None);
    assert_eq!(kind(&again.store, scope("done")), "replay");
}

#[tokio::test]
async fn a_full_disk_is_an_alarm_until_there_is_room() {
    let device = Device::new();
    let server = Server::of(device.open()).await;
    claim(&server.store, scope("done")).complete(b"created").unwrap();
    assert_eq!(alarm(&server, "full").await, None, "there is room yet");
    device.fill();
    run_until_full(&server.store, "k");
    let told = said(alarm(&server, "full").await);
    let words = "No room is left: new claims are refused. Replays and conflicts go on.";
    assert_eq!(told, critical(words));
    assert_eq!(server.get("/stats").json().await["figures"]["refused"], 1);
    assert!(metric(&server, "headroom_bytes").await < 65_536.0);
    assert_eq!(kind(&server.store, scope("done")), "replay");
    device.make_room();
    assert_eq!(alarm(&server, "full").await, None);
    assert_eq!(kind(&server.store, scope("after")), "granted");
}

#[tokio::test]
async fn a_budget_that_is_used_up_is_an_alarm_as_a_full_disk_is() {
    let options = small().disk_budget_bytes(512 << 10);
    let server = Server::with("/ops", options).await;
    assert_eq!(alarm(&server, "full").await, None, "there is room yet");
    assert_eq!(said(alarm(&server, "headroom_low").await).0, "warning");
    run_until_full(&server.store, "k");
    assert_eq!(said(alarm(&server, "full").await).0, "critical");
    assert_eq!(alarm(&server, "headroom_low").await, None, "one alarm says it");
}

#[tokio::test]
async fn a_clock_that_is_held_is_an_alarm_until_it_is_accepted() {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + 20_000 * DAY);
    let server = Server::with("/ops", Store::options().clock(clock.clone())).await;
    assert_eq!(alarm(&server, "clock_held").await, None, "it did not jump yet");
    clock.set_wall(SystemTime::UNIX_EPOCH + 20_400 * DAY);
    let words = "The clock jumped forward, and nothing confirms it: nothing expires.";
    assert_eq!(said(alarm(&server, "clock_held").await), warning(words));
    assert!((metric(&server, "clock_held").await - 1.0).abs() < 0.5);
    server.post("/accept-clock", &json!({})).json().await;
    assert_eq!(alarm(&server, "clock_held").await, None);
    assert!(metric(&server, "clock_held").await < 0.5);
}

#[tokio::test]
async fn orphans_are_an_alarm_until_the_last_has_ended() {
    let server = Server::start().await;
    assert_eq!(alarm(&server, "orphans").await, None, "nothing vanished yet");
    let seen = [orphan(&server.store, scope("one")), orphan(&server.store, scope("two"))];
    let words = "2 attempts vanished, and nobody knows whether they had effects.";
    assert_eq!(said(alarm(&server, "orphans").await), warning(words));
    assert!((metric(&server, "orphans").await - 2.0).abs() < 0.5);
    server.post("/orphans/release", &seen[0]).json().await;
    let words = "An attempt vanished, and nobody knows whether it had an effect.";
    assert_eq!(said(alarm(&server, "orphans").await), warning(words));
    server.post("/orphans/release", &seen[1]).json().await;
    assert_eq!(alarm(&server, "orphans").await, None);
}

#[tokio::test]
async fn a_directory_that_others_may_enter_is_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let sound = Server::of(Store::open(dir.path()).unwrap()).await;
    let before = sound.get("/stats").json().await;
    let circumstances = |told: &Value| {
        let alarms = told["alarms"].as_array().unwrap().iter();
        alarms.filter(|alarm| alarm["code"] == "environment").count()
    };
    sound.store.clone().close().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let server = Server::of(Store::open(dir.path()).unwrap()).await;
    let told = server.get("/stats").json().await;
    assert_eq!(circumstances(&told), circumstances(&before) + 1, "{told}");
}

#[tokio::test]
async fn a_permit_that_lives_is_no_orphan_and_no_alarm() {
    let server = Server::start().await;
    let Claim::Granted(_running) = server.store.claim(scope("k"), body()).unwrap() else {
        panic!("it is the first")
    };
    assert_eq!(alarm(&server, "orphans").await, None);
}
