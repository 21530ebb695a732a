//! Questions, asked on a terminal: script(1), which every Debian has, lends one.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{TOOL, World, reopened, state, text};

/// What the terminal showed, and the exit code, where this was typed.
fn typed(command: &str, answer: &str) -> (String, Option<i32>) {
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", command, "/dev/null"]);
    let mut script =
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script(1) is there");
    script.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    (text(&output.stdout), output.status.code())
}

#[test]
fn only_yes_is_yes() {
    let world = World::filled();
    let release = format!("{TOOL} release {} acme POST /v1/invoices vanished", world.dir());
    for no in ["no\n", "y\n", "\n"] {
        let (shown, code) = typed(&release, no);
        assert_eq!(code, Some(7), "{shown}");
        assert!(shown.contains("Type yes to go on") && shown.contains("nothing was changed"));
        assert!(shown.contains("a retry runs the operation again"), "{shown}");
    }
    assert_eq!(state(&reopened(&world.path("store")), "acme", "vanished"), "orphaned");
    let (shown, code) = typed(&release, "yes\n");
    assert_eq!(code, Some(0), "{shown}");
    assert_eq!(state(&reopened(&world.path("store")), "acme", "vanished"), "free");
}
