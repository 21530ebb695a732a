//! Faults put in by hand: each is applied to a copy of the crate, and its job must find it.
//!
//! A checker that has never failed proves nothing. The copy without a fault must pass, so that a
//! failure is the fault's. A cut too few finds nothing, so a fault gets several seeds. For each
//! fault a row of the table in docs/faults.md is printed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::rows::row;
use crate::tree::copy_tree;

/// Texts that are replaced, each in a file that holds it once.
struct Fault {
    name: &'static str,
    job: &'static str,
    edits: &'static [Edit],
}

struct Edit {
    file: &'static str,
    from: &'static str,
    to: &'static str,
}

const POWER: &str = "power::power_cuts_lose_nothing_acknowledged_on_ext4";
const INJECTED: &str = "injected::every_failing_call_of_synced_callers_loses_nothing_acknowledged";

const DESCRIPTORS: &str = "limits::the_end_of_file_descriptors_loses_nothing_acknowledged";
const STOPPED: &str =
    "stopped::a_stop_beyond_the_lease_lets_one_attempt_complete_and_fences_the_other";

const FAULTS: &[Fault] = &[
    Fault {
        name: "a skipped fdatasync",
        job: POWER,
        edits: &[Edit {
            file: "src/log/leader.rs",
            from: r#"Step::Sync(file) => file.sync().map_err(Error::io("sync records"))?,"#,
            to: "Step::Sync(_) => {}",
        }],
    },
    Fault {
        name: "a failed fdatasync that nobody hears of",
        job: INJECTED,
        edits: &[Edit {
            file: "src/log/leader.rs",
            from: r#"Step::Sync(file) => file.sync().map_err(Error::io("sync records"))?,"#,
            to: "Step::Sync(file) => { file.sync().ok(); }",
        }],
    },
    Fault {
        name: "an epoch that is not durable before the first append",
        job: POWER,
        edits: &[Edit {
            file: "src/recovery/settle.rs",
            from: "checkpoint.epoch = epoch;",
            to: "",
        }],
    },
    Fault {
        name: "a buffered store that syncs late and makes nobody wait",
        job: POWER,
        edits: &[
            Edit {
                file: "src/log/writer.rs",
                from: "let overdue = now.saturating_sub(oldest) > sync_every;",
                to: "let overdue = false;",
            },
            Edit {
                file: "src/log/writer.rs",
                from: "self.help(|helpers| helpers.commit_due(Some(now + every / 2)));",
                to: "self.help(|helpers| helpers.commit_due(Some(now + every * 100)));",
            },
        ],
    },
    Fault {
        name: "a segment that cannot be opened taken for one that was dropped",
        job: DESCRIPTORS,
        edits: &[Edit {
            file: "src/log/segments.rs",
            from: r#"Err(error) => return Err(Error::io("open a segment")(error)),"#,
            to: "Err(_) => return Ok(None),",
        }],
    },
    Fault {
        name: "a lease that never lapses",
        job: STOPPED,
        edits: &[Edit {
            file: "src/engine/mod.rs",
            from: "if running && now.monotonic >= entry.deadline {",
            to: "if running && now.monotonic < Duration::ZERO {",
        }],
    },
];

/// Seeds that a fault may need until it shows.
const SEEDS: u64 = 3;

#[test]
fn the_jobs_find_each_fault_put_in_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    copy_crate(dir.path());
    for job in [POWER, INJECTED, DESCRIPTORS, STOPPED] {
        let (passed, text) = cargo(dir.path(), &["--", job], 1);
        assert!(passed, "{job} finds something without a fault:\n{text}");
    }
    let mut missed = Vec::new();
    for fault in FAULTS {
        let sound = fault.edits.iter().map(|edit| edit.file);
        let sound: Vec<_> = sound.map(|file| (file, read(dir.path(), file))).collect();
        for edit in fault.edits {
            let text = read(dir.path(), edit.file);
            assert_eq!(text.matches(edit.from).count(), 1, "{}: {:?}", fault.name, edit.from);
            fs::write(dir.path().join(edit.file), text.replace(edit.from, edit.to)).unwrap();
        }
        let (built, text) = cargo(dir.path(), &["--no-run"], 0);
        assert!(built, "{}: does not compile:\n{text}", fault.name);
        let found = (1..=SEEDS).map(|seed| cargo(dir.path(), &["--", fault.job], seed));
        let found = found.into_iter().find(|(passed, _)| !passed);
        match found {
            Some((_, text)) => {
                println!("{}", row(fault.name, fault.job, &text, reason(&text)));
            }
            None => missed.push(fault.name),
        }
        for (file, text) in sound {
            fs::write(dir.path().join(file), text).unwrap();
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// The line that says what was found.
fn reason(text: &str) -> &str {
    // What a job that failed says first: where it stood, and what broke there.
    let found = text.lines().skip_while(|line| !line.contains("panicked at tests/kernel/")).nth(1);
    found.unwrap_or_else(|| panic!("it failed for another reason:\n{text}"))
}

/// A copy of the crate that builds these tests and nothing else.
fn copy_crate(to: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    copy_tree(&root.join("src"), &to.join("src"));
    // The tool has dependencies of its own, and no part in this.
    fs::remove_dir_all(to.join("src/bin")).unwrap();
    copy_tree(&root.join("tests/kernel"), &to.join("tests/kernel"));
    copy_tree(&root.join("tests/it/support"), &to.join("tests/it/support"));
    fs::copy(root.join("Cargo.lock"), to.join("Cargo.lock")).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (head, rest) = manifest.split_once("[dev-dependencies]").unwrap();
    let needed = |line: &&str| line.starts_with("tempfile") || line.starts_with("rustix");
    let needed: Vec<_> = rest.lines().filter(needed).collect();
    assert_eq!(needed.len(), 2, "the tests need two other crates");
    let test = "[[test]]\nname = \"kernel\"\npath = \"tests/kernel/main.rs\"\n";
    let manifest =
        format!("{head}[dev-dependencies]\n{}\n{test}\n[workspace]\n", needed.join("\n"));
    fs::write(to.join("Cargo.toml"), manifest).unwrap();
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

fn cargo(dir: &Path, arguments: &[&str], seed: u64) -> (bool, String) {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--offline", "--test", "kernel"])
        .args(arguments)
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted"))
        .env("ONCELOG_POWER_CUTS", "8")
        .env("ONCELOG_INJECT_STEP", "5")
        .env("ONCELOG_SEED", seed.to_string())
        .env("RUSTFLAGS", "--cap-lints allow")
        .output()
        .expect("cargo runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
