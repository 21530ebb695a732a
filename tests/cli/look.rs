//! The commands that only read, on a store that is closed and beside one that runs.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::{
    TOOL, World, claim, complaint, complete, object, objects, printed, response, text, tool,
};

#[test]
fn stat_shows_what_a_closed_store_holds() {
    let world = World::filled();
    let stat = object(&tool(&["stat", &world.dir(), "--json"]), 0);
    assert_eq!(stat["responses"], 300);
    assert_eq!((&stat["orphans"], &stat["in_progress"]), (&2.into(), &0.into()));
    assert_eq!(stat["owner"], "open nowhere");
    let disk = stat["disk_bytes"].as_u64().unwrap();
    assert!((300 * 800..2 << 20).contains(&disk), "{disk}");
    assert!(stat["upto"].as_str().unwrap().parse::<u64>().unwrap() > 600);
    let shown = printed(&tool(&["stat", &world.dir()]), 0);
    assert!(shown.contains("responses             300\n"), "{shown}");
    assert!(shown.lines().all(|line| line.len() <= 80 || line.contains(&world.dir())), "{shown}");
}

#[test]
fn what_only_reads_works_beside_a_running_owner() {
    let world = World::new();
    let (store, dir) = (world.open(), world.dir());
    complete(&store, "acme", "done", b"201 created");
    let permit = claim(&store, "acme", "running");
    claim(&store, "acme", "gone").give_up().unwrap();
    let stat = object(&tool(&["stat", &dir, "--json"]), 0);
    assert_eq!(stat["owner"], "open in a process");
    let counts = ["responses", "in_progress", "orphans"].map(|name| stat[name].as_u64());
    assert_eq!(counts, [Some(1), Some(1), Some(1)]);
    let listed = objects(&tool(&["list", &dir, "--json"]), 0);
    let states: Vec<_> = listed.iter().map(|entry| entry["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["in_progress", "orphaned", "completed"]);
    let scope = ["acme", "POST", "/v1/invoices"];
    let get = |key: &str| tool(&[&["get", &dir], &scope[..], &[key, "--json"]].concat());
    assert_eq!(object(&get("running"), 0)["token"], permit.token().to_string());
    assert_eq!(object(&get("done"), 0)["response_bytes"], 11);
    assert_eq!(objects(&tool(&["unresolved", &dir, "--json"]), 0).len(), 1);
    assert_eq!(object(&tool(&["verify", &dir, "--json"]), 0)["damaged_places"], 0);
    assert_eq!(object(&tool(&["check-clock", &dir, "--json"]), 0)["verdict"], "followed");
    object(&tool(&["backup", &dir, &world.at("backup"), "--json"]), 0);
    // The owner goes on, and the next look shows it.
    permit.complete(b"201 created").unwrap();
    assert_eq!(object(&get("running"), 0)["state"], "completed");
}

#[test]
fn get_shows_a_scope_and_its_response_byte_for_byte() {
    let world = World::filled();
    let dir = world.dir();
    let get =
        |key: &str, flag: &str| tool(&["get", &dir, "acme", "POST", "/v1/invoices", key, flag]);
    assert_eq!(get("key-001", "--raw").stdout, response(1));
    let found = object(&get("key-001", "--json"), 0);
    assert_eq!((&found["state"], &found["kept"]), (&"completed".into(), &"whole".into()));
    assert_eq!(found["response_bytes"], response(1).len());
    let orphan = object(&get("vanished", "--json"), 0);
    assert_eq!((&orphan["cause"], &orphan["checkpoint_bytes"]), (&"crash".into(), &7.into()));
    assert!(complaint(&get("never", "--json"), 3).contains("the scope is free"));
    assert!(complaint(&get("vanished", "--raw"), 3).contains("no response"));
    let shown = printed(&tool(&["get", &dir, "acme", "POST", "/v1/invoices", "key-001"]), 0);
    assert!(shown.contains("state         completed\n"), "{shown}");
}

#[test]
fn list_filters_by_organization_state_and_time() {
    let world = World::filled();
    let dir = world.dir();
    let count = |filter: &[&str]| {
        let args = [&["list", "--json", &dir], filter].concat();
        objects(&tool(&args), 0).len()
    };
    assert_eq!(count(&[]), 302);
    assert_eq!(count(&["--organization", "globex"]), 101);
    assert_eq!(count(&["--state", "orphaned"]), 2);
    assert_eq!(count(&["-o", "acme", "-s", "completed"]), 200);
    assert_eq!(count(&["--state", "in-progress"]), 0);
    assert_eq!(count(&["--since", "1h"]), 302);
    assert_eq!(count(&["--until", "1h"]), 0);
    assert_eq!(count(&["--since", "2020-01-01", "--until", "2021-01-01T00:00:00Z"]), 0);
    assert_eq!(count(&["--limit", "7"]), 7);
}

#[test]
fn list_prints_a_table_and_its_point_of_the_log() {
    let world = World::filled();
    let output = tool(&["list", &world.dir(), "--limit", "3"]);
    let shown = printed(&output, 0);
    let lines: Vec<_> = shown.lines().collect();
    assert!(lines[0].starts_with("STATE      AT "), "{shown}");
    assert!(lines[1].contains("acme          POST /v1/invoices  vanished"), "{shown}");
    assert!(lines[3].starts_with("completed  ") && lines[3].ends_with("key-000"), "{shown}");
    assert!(lines.iter().all(|line| line.len() <= 80), "{shown}");
    assert!(text(&output.stderr).starts_with("3 shown, as of token "));
}

#[test]
fn a_reader_that_goes_away_ends_a_list_quietly() {
    let world = World::filled();
    let store = world.open();
    // More than a pipe holds.
    for number in 0..1_500 {
        complete(&store, "acme", &format!("long-{number}-{}", "k".repeat(100)), b"201");
    }
    let mut tool = Command::new(TOOL);
    tool.args(["list", &world.dir(), "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tool.spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("\"state\""));
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

#[test]
fn hostile_keys_reach_no_terminal() {
    let world = World::new();
    let store = world.open();
    complete(&store, "acme", "clear\x1b[2J\nnext line", b"201");
    let shown = printed(&tool(&["list", &world.dir()]), 0);
    assert!(shown.contains("clear\\u{1b}[2J\\u{a}next line"), "{shown}");
    let listed = object(&tool(&["list", &world.dir(), "--json"]), 0);
    assert_eq!(listed["key"], "clear\x1b[2J\nnext line");
}

#[test]
fn unresolved_lists_orphans_with_all_that_ends_them() {
    let world = World::filled();
    let orphans = objects(&tool(&["unresolved", &world.dir(), "--json"]), 0);
    let causes: Vec<_> = orphans.iter().map(|orphan| orphan["cause"].as_str().unwrap()).collect();
    assert_eq!(causes, ["crash", "failed"]);
    let shown = printed(&tool(&["unresolved", &world.dir()]), 0);
    assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
    assert!(orphans.iter().all(|orphan| orphan["token"].as_str().unwrap().len() > 10));
    assert!(shown.contains("POST /v1/invoices  vanished"), "{shown}");
}

#[test]
fn verify_names_every_damaged_place_and_says_so_in_its_exit_code() {
    let world = World::filled();
    let sound = object(&tool(&["verify", &world.dir(), "--json"]), 0);
    // Two of each response, the two claims, what they saved and how they ended, and SEALs.
    assert!(sound["records"].as_u64().unwrap() > 604, "{sound}");
    let segment = world.path("store/0000000000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[20_000] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let found = objects(&tool(&["verify", &world.dir(), "--json"]), 4);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0]["segment"], 1);
    assert_eq!(found[1]["damaged_places"], 1);
    let output = tool(&["verify", &world.dir()]);
    assert!(printed(&output, 4).starts_with("damaged  segment 1, byte "));
    assert!(complaint(&output, 4).contains("1 damaged places"));
    // A list goes on behind it.
    let listed = tool(&["list", &world.dir(), "--json"]);
    assert_eq!(objects(&listed, 4).len(), 301);
    assert!(complaint(&listed, 4).contains("segment 1 is damaged at byte"));
}

#[test]
fn check_clock_tells_what_an_open_would_make_of_the_clock() {
    use std::time::{Duration, SystemTime};
    let world = |wall: SystemTime| {
        let world = World::new();
        let clock = oncelog::ManualClock::at(wall);
        let store = oncelog::Store::options().clock(clock).open(world.path("store")).unwrap();
        complete(&store, "acme", "k", b"201");
        store.close().unwrap();
        world
    };
    let (now, days) = (SystemTime::now(), |n: u64| Duration::from_secs(n * 86_400));
    let check = |world: &World, code| object(&tool(&["check-clock", &world.dir(), "--json"]), code);
    assert_eq!(check(&world(now - days(7)), 0)["verdict"], "followed");
    let behind = world(now + days(2));
    assert_eq!(check(&behind, 8)["verdict"], "behind");
    let ahead = world(now - days(40));
    assert_eq!(check(&ahead, 8)["verdict"], "too far ahead");
    let longer = tool(&["check-clock", &ahead.dir(), "--ttl", "60d", "--json"]);
    assert_eq!(object(&longer, 0)["verdict"], "followed");
    assert!(printed(&tool(&["check-clock", &ahead.dir()]), 8).contains("accept_clock"));
}

#[test]
fn bench_measures_and_leaves_nothing_behind() {
    let world = World::new();
    std::fs::create_dir(world.path("scratch")).unwrap();
    let scratch = world.at("scratch");
    let args = ["bench", "--in", &scratch, "--keys", "64", "--threads", "2"];
    let buffered = [&args[..], &["--durability", "buffered", "--json"]].concat();
    let measured = object(&tool(&buffered), 0);
    assert_eq!((&measured["pairs"], &measured["threads"]), (&64.into(), &2.into()));
    assert!(measured["claim_p50"].as_f64().unwrap() <= measured["claim_max"].as_f64().unwrap());
    let shown = printed(&tool(&args), 0);
    assert!(shown.contains("synced") && shown.contains("completions") && shown.contains("####"));
    assert_eq!(world.path("scratch").read_dir().unwrap().count(), 0);
}
