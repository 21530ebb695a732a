//! Runs the executable, and stores for it to look at.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use oncelog::{Claim, Create, Durability, Fingerprint, Permit, Scope, Store};
use serde_json::Value;

pub(crate) const TOOL: &str = env!("CARGO_BIN_EXE_oncelog");

pub(crate) fn scope<'a>(organization: &'a str, key: &'a str) -> Scope<'a> {
    Scope { organization, method: "POST", path: "/v1/invoices", key }
}

/// The tool with these arguments, and nothing on its standard input.
pub(crate) fn tool<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    tool_reading(args, b"")
}

pub(crate) fn tool_reading<S: AsRef<std::ffi::OsStr>>(args: &[S], input: &[u8]) -> Output {
    let mut tool = Command::new(TOOL);
    let tool = tool.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tool.spawn().unwrap();
    // Whoever does not read it has ended already.
    child.stdin.take().unwrap().write_all(input).ok();
    child.wait_with_output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What it printed, where it ended with this code.
pub(crate) fn printed(output: &Output, code: i32) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    out
}

/// The same as one JSON value a line.
pub(crate) fn objects(output: &Output, code: i32) -> Vec<Value> {
    let lines = printed(output, code);
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn object(output: &Output, code: i32) -> Value {
    let mut objects = objects(output, code);
    assert_eq!(objects.len(), 1, "{objects:?}");
    objects.remove(0)
}

/// What it complained of, where it ended with this code.
pub(crate) fn complaint(output: &Output, code: i32) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    err
}

/// A directory with a store in it, which this process may have open.
pub(crate) struct World {
    scratch: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        World { scratch: tempfile::tempdir().unwrap() }
    }

    /// A name in the scratch directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn dir(&self) -> String {
        self.at("store")
    }

    pub(crate) fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn open(&self) -> Store {
        let durability = Durability::Buffered { sync_every: Duration::from_secs(1) };
        let options = Store::options().segment_bytes(128 * 1024).durability(durability);
        options.open(self.path("store")).unwrap()
    }

    /// A closed store: 300 responses of two organizations in several segments, two orphans.
    pub(crate) fn filled() -> World {
        let world = World::new();
        let store = world.open();
        for number in 0..300 {
            let organization = if number % 3 == 0 { "globex" } else { "acme" };
            complete(&store, organization, &format!("key-{number:03}"), &response(number));
        }
        claim(&store, "acme", "vanished").save_checkpoint(b"charged").unwrap();
        claim(&store, "globex", "failed").give_up().unwrap();
        assert!(store.stats().segments >= 3);
        store.close().unwrap();
        world
    }
}

pub(crate) fn reopened(dir: &Path) -> Store {
    Store::options().create(Create::Never).open(dir).unwrap()
}

pub(crate) fn response(number: u64) -> Vec<u8> {
    format!("response {number};").into_bytes().repeat(60)
}

pub(crate) fn claim(store: &Store, organization: &str, key: &str) -> Permit {
    let claim = store.claim(scope(organization, key), Fingerprint::of(key.as_bytes())).unwrap();
    let Claim::Granted(permit) = claim else { panic!("{claim:?}") };
    permit
}

pub(crate) fn complete(store: &Store, organization: &str, key: &str, response: &[u8]) {
    claim(store, organization, key).complete(response).unwrap();
}

/// What a scope holds, in the words of the tool.
pub(crate) fn state(store: &Store, organization: &str, key: &str) -> &'static str {
    match store.lookup(scope(organization, key)).unwrap() {
        None => "free",
        Some(oncelog::Status::Completed(_)) => "completed",
        Some(oncelog::Status::InProgress(_)) => "in_progress",
        Some(oncelog::Status::Orphaned(_)) => "orphaned",
    }
}
