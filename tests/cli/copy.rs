//! Backups, and what is restored from them.

use std::fs;

use crate::support::{
    World, complaint, complete, object, printed, reopened, response, state, tool,
};

#[test]
fn a_backup_beside_an_owner_is_restored_to_the_store_that_it_was() {
    let world = World::filled();
    let (store, dir) = (world.open(), world.dir());
    let (backup, restored) = (world.at("backup"), world.at("restored"));
    let made = object(&tool(&["backup", &dir, &backup, "--json"]), 0);
    assert_eq!((&made["open_claims"], &made["copied_segments"]), (&2.into(), &1.into()));
    complete(&store, "acme", "later", b"201");
    let copied = object(&tool(&["restore", &backup, &restored, "--json"]), 0);
    assert_eq!((&copied["upto"], &copied["linked_segments"]), (&made["upto"], &0.into()));
    let copy = reopened(&world.path("restored"));
    assert_eq!(state(&copy, "acme", "later"), "free");
    assert_eq!(state(&copy, "acme", "vanished"), "orphaned");
    assert_eq!(copy.stats().responses, 300);
    let raw = tool(&["get", &restored, "acme", "POST", "/v1/invoices", "key-001", "--raw"]);
    assert_eq!(raw.stdout, response(1));
    // Linked on request, and told to people in words.
    let linked = printed(&tool(&["restore", &backup, &world.at("linked"), "--link"]), 0);
    assert!(linked.contains("Tokens issued since are issued again"), "{linked}");
    assert!(!linked.contains("linked segments  0\n"), "{linked}");
}

#[test]
fn a_restore_goes_nowhere_but_to_an_empty_place() {
    let world = World::filled();
    let (dir, backup) = (world.dir(), world.at("backup"));
    printed(&tool(&["backup", &dir, &backup]), 0);
    assert!(complaint(&tool(&["restore", &backup, &dir]), 2).contains("new or empty"));
    assert!(complaint(&tool(&["backup", &dir, &backup]), 2).contains("new or empty"));
    fs::create_dir(world.path("new.tmp")).unwrap();
    let refused = tool(&["restore", &backup, &world.at("new")]);
    assert!(complaint(&refused, 2).contains("interrupted"));
    fs::create_dir(world.path("empty")).unwrap();
    printed(&tool(&["restore", &backup, &world.at("empty")]), 0);
    assert_eq!(reopened(&world.path("empty")).stats().responses, 300);
}

#[test]
fn a_damaged_backup_is_not_restored() {
    let world = World::filled();
    let backup = world.at("backup");
    printed(&tool(&["backup", &world.dir(), &backup]), 0);
    let segment = world.path("backup/0000000000000002.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[30_000] ^= 0x10;
    fs::write(&segment, bytes).unwrap();
    let complaint = complaint(&tool(&["restore", &backup, &world.at("new")]), 4);
    assert!(complaint.contains("segment 2"), "{complaint}");
    assert!(!world.path("new").exists() && !world.path("new.tmp").exists());
}
