//! The programs of an installed PostgreSQL, run as its own user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of the server's programs, which Debian keeps out of the path.
pub(crate) fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql is installed");
    let newest = versions.map(|version| version.unwrap().path().join("bin")).max();
    newest.expect("a version of PostgreSQL is installed")
}

/// PostgreSQL refuses to run as root.
pub(crate) fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    command.current_dir("/");
    command
}

pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
