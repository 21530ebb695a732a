//! What the tool says of itself, and of arguments and directories that are wrong.

use crate::support::{World, complaint, printed, text, tool};

const COMMANDS: [&str; 15] = [
    "stat",
    "get",
    "list",
    "unresolved",
    "resolve",
    "release",
    "forget",
    "forget-organization",
    "verify",
    "backup",
    "restore",
    "check-clock",
    "bench",
    "completions",
    "man",
];

#[test]
fn help_and_manual_name_every_command_and_exit_code() {
    let help = printed(&tool(&["--help"]), 0);
    let manual = printed(&tool(&["man"]), 0);
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command} ")), "{command}: {help}");
        let page = printed(&tool(&["man", command]), 0);
        let dashed = command.replace('-', "\\-");
        assert!(page.contains(&format!("oncelog\\-{dashed}")), "{command}: {page}");
        assert!(manual.contains(&dashed), "{command}: {manual}");
        assert!(printed(&tool(&[command, "--help"]), 0).contains("Usage: oncelog"));
    }
    for code in 0..=8 {
        assert!(help.contains(&format!("\n  {code}  ")), "{code}: {help}");
        assert!(manual.contains(&format!("{code}  ")), "{code}: {manual}");
    }
    assert!(help.lines().all(|line| line.len() <= 80), "{help}");
    assert!(complaint(&tool(&["man", "nothing"]), 2).contains("no command nothing"));
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&tool(&["completions", shell]), 0);
        assert!(script.contains("forget-organization"), "{shell}");
    }
}

#[test]
fn a_wrong_argument_is_named() {
    let world = World::new();
    let dir = world.dir();
    let long = "k".repeat(5_000);
    let cases: [(&[&str], &str); 9] = [
        (&[], "Usage: oncelog"),
        (&["frobnicate"], "frobnicate"),
        (&["stat"], "<DIR>"),
        (&["list", &dir, "--since", "yesterday"], "neither a time"),
        (&["list", &dir, "--state", "odd"], "possible values"),
        (&["check-clock", &dir, "--ttl", "long"], "--ttl"),
        (&["resolve", &dir, "a", "POST", "/p", "k"], "--response"),
        (&["resolve", &dir, "a", "POST", "/p", "k", "--response-stdin"], "--yes"),
        (&["bench", "--in", "/nowhere/at/all"], "/nowhere/at/all"),
    ];
    for (args, wanted) in cases {
        let complaint = complaint(&tool(args), 2);
        assert!(complaint.contains(wanted), "{args:?}: {complaint}");
    }
    world.open().close().unwrap();
    let too_long = tool(&["get", &dir, "acme", "POST", "/v1", &long]);
    assert!(complaint(&too_long, 2).contains("the limit is 4096"));
    let empty = tool(&["get", &dir, "acme", "", "/v1", "k"]);
    assert_eq!(empty.status.code(), Some(2), "{}", text(&empty.stderr));
}

#[test]
fn where_no_store_is_none_is_made() {
    let world = World::new();
    std::fs::create_dir(world.path("empty")).unwrap();
    for dir in [world.at("missing"), world.at("empty")] {
        let scope = ["acme", "POST", "/v1", "k"];
        for args in [
            vec!["stat", &dir],
            vec!["list", &dir],
            vec!["unresolved", &dir],
            vec!["verify", &dir],
            vec!["check-clock", &dir],
            vec!["backup", &dir, "/nowhere/at/all"],
            vec!["restore", &dir, "/nowhere/at/all"],
            [&["get", &dir], &scope[..]].concat(),
            [&["forget", &dir], &scope[..], &["--yes"]].concat(),
            [&["release", &dir], &scope[..], &["--yes"]].concat(),
        ] {
            let complaint = complaint(&tool(&args), 6);
            assert!(complaint.contains(&format!("{dir} holds no store")), "{args:?}: {complaint}");
        }
    }
    assert!(!world.path("missing").exists());
    assert_eq!(world.path("empty").read_dir().unwrap().count(), 0);
}

#[test]
fn a_damaged_store_is_not_opened() {
    let world = World::filled();
    let file = world.path("store/SUPER");
    std::fs::write(&file, vec![7; 8192]).unwrap();
    assert_eq!(tool(&["stat", &world.dir()]).status.code(), Some(4));
    let file = world.path("store/CHECKPOINT");
    std::fs::remove_file(file).unwrap();
    assert_eq!(tool(&["verify", &world.dir()]).status.code(), Some(4));
}
