//! Faults put in by hand: a text of the crate is replaced in a copy of it, and a job has to fail.

use std::fs;
use std::path::Path;
use std::process::Command;

/// A text that is replaced, in a file that holds it once.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) file: &'static str,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

impl Fault {
    /// Puts the fault into the copy at `dir`, runs the job, and takes it out again.
    pub(crate) fn planted<T>(&self, dir: &Path, job: impl FnOnce() -> T) -> T {
        let path = dir.join(self.file);
        let sound = fs::read_to_string(&path).unwrap();
        let places = sound.matches(self.from).count();
        assert_eq!(places, 1, "{}: {} holds {:?}", self.name, self.file, self.from);
        fs::write(&path, sound.replace(self.from, self.to)).unwrap();
        let outcome = job();
        fs::write(&path, sound).unwrap();
        outcome
    }
}

/// Runs `cargo test` on a copy; whether it passed, and what it said.
pub(crate) fn cargo_test(
    dir: &Path,
    target: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (bool, String) {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--offline"])
        .args(arguments)
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", scratch().join(target))
        .env("RUSTFLAGS", "--cap-lints allow")
        .envs(variables.iter().copied())
        .output()
        .expect("cargo runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Set where cargo builds a test, and not for other programs that share these helpers.
fn scratch() -> &'static Path {
    let Some(scratch) = option_env!("CARGO_TARGET_TMPDIR") else {
        panic!("only a test has a scratch directory")
    };
    Path::new(scratch)
}
