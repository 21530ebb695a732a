//! Faults put in by hand: each is applied to a copy of the crate, and the tests that are there to
//! find it must fail.
//!
//! A checker that has never failed proves nothing. The copy without a fault must pass, so that a
//! failure is the fault's. For each fault a row of the table in docs/faults.md is printed.

use std::fs;
use std::path::Path;

use crate::support::planted::{Fault, cargo_test};
use crate::support::rows::{reason, row};
use crate::support::tree::copy_tree;

/// Which tests have to find which faults.
const FOUND_BY: [(&str, &[Fault]); 3] =
    [("crash::", FAULTS), ("erasure::", ERASURE_FAULTS), ("flips::", FLIP_FAULTS)];

const FAULTS: &[Fault] = &[
    Fault {
        name: "a dropped fdatasync",
        file: "src/log/leader.rs",
        from: r#"Step::Sync(file) => file.sync().map_err(Error::io("sync records"))?,"#,
        to: "Step::Sync(_) => {}",
    },
    Fault {
        name: "a publish before the sync",
        file: "src/log/leader.rs",
        from: "let outcome = self.check_poison().and_then(|()| self.make_durable(&work));",
        to: "work.batch.finish(Ok(())); let outcome = self.make_durable(&work);",
    },
    Fault {
        name: "a skipped checksum",
        file: "src/format/record.rs",
        from: "if self.body_checksum != checksum(0, fields.0) {",
        to: "if false {",
    },
    Fault {
        name: "a claim not carried",
        file: "src/log/staging.rs",
        from: "self.carry(maker)",
        to: "Ok(())",
    },
    Fault {
        name: "CHECKPOINT written before the carry is synced",
        file: "src/log/leader.rs",
        from: "self.write_and_sync(work)?;\n        self.checkpoint_sealed(work)",
        to: "self.checkpoint_sealed(work)?;\n        self.write_and_sync(work)",
    },
    Fault {
        name: "an epoch not made durable before the first append",
        file: "src/recovery/settle.rs",
        from: "checkpoint.epoch = epoch;",
        to: "",
    },
    Fault {
        name: "N + 1 acknowledged before N",
        file: "src/log/staging.rs",
        from: "self.steps.push(Step::Sync(Arc::clone(&self.tail.file)));",
        to: "",
    },
    Fault {
        name: "a directory not synced",
        file: "src/log/staging.rs",
        from: "self.storage.sync_dir()?;",
        to: "",
    },
    Fault {
        name: "a segment sealed by its SEAL alone",
        file: "src/recovery/survey.rs",
        from: "let goes_on = scanned.scan.end == End::Sealed;",
        to: "let goes_on = scanned.scan.end == End::Sealed; \
             if goes_on { self.replay.open.clear(); }",
    },
    Fault {
        name: "a tail trusted as the page cache shows it",
        file: "src/recovery/settle.rs",
        from: "if entry.header.lsn > promised {",
        to: "if false {",
    },
    Fault {
        name: "CHECKPOINT of the recovery written before the tail is sealed and synced",
        file: "src/recovery/settle.rs",
        from: r#"staging.tail.file.sync().map_err(Error::io("sync a new segment"))?;"#,
        to: "",
    },
    Fault {
        name: "a completion of an attempt that was taken over",
        file: "src/recovery/replay.rs",
        from: "self.open.remove(&before);",
        to: "",
    },
];

const ERASURE_FAULTS: &[Fault] = &[
    Fault {
        name: "a record erased before its FORGET is durable",
        file: "src/engine/erase.rs",
        from: "if !traces.is_empty() {",
        to: "if false {",
    },
    Fault {
        name: "an erasure that the next open does not finish",
        file: "src/recovery/mod.rs",
        from: "log.finish_erasures(&forgotten)?",
        to: "0",
    },
    Fault {
        name: "a torn erasure taken for damage",
        file: "src/log/erasure.rs",
        from: "if !named_in(header.segment).contains(&offset) {",
        to: "if true {",
    },
    Fault {
        name: "claims and checkpoints left behind",
        file: "src/engine/erase.rs",
        from: "Record::Progress { token, .. } => tokens.contains(token),",
        to: "Record::Progress { .. } => false,",
    },
];

const FLIP_FAULTS: &[Fault] = &[
    Fault {
        name: "damage taken for a torn tail",
        file: "src/recovery/survey.rs",
        from: "if beyond.promise >= missing {",
        to: "if false {",
    },
    Fault {
        name: "a skipped checksum, with no crash",
        file: "src/format/record.rs",
        from: "if self.body_checksum != checksum(0, fields.0) {",
        to: "if false {",
    },
];

/// A copy of the crate that builds those tests and nothing else.
fn copy_crate(to: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    copy_tree(&root.join("src"), &to.join("src"));
    // The tool has dependencies of its own, and no part in this.
    fs::remove_dir_all(to.join("src/bin")).unwrap();
    copy_tree(&root.join("tests/it/support"), &to.join("tests/it/support"));
    for name in ["crash.rs", "flips.rs"] {
        fs::copy(root.join("tests/it").join(name), to.join("tests/it").join(name)).unwrap();
    }
    let contract = to.join("tests/it/contract");
    fs::create_dir_all(&contract).unwrap();
    for name in ["erasure.rs", "support.rs"] {
        fs::copy(root.join("tests/it/contract").join(name), contract.join(name)).unwrap();
    }
    fs::write(contract.join("mod.rs"), "mod erasure;\npub(crate) mod support;\n").unwrap();
    fs::write(to.join("tests/it/main.rs"), "mod contract;\nmod crash;\nmod flips;\nmod support;\n")
        .unwrap();
    fs::copy(root.join("Cargo.lock"), to.join("Cargo.lock")).unwrap();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (head, rest) = manifest.split_once("[dev-dependencies]").unwrap();
    let (_, test) = rest.split_once("[[test]]").unwrap();
    let (test, _) = test.split_once("\n[").unwrap();
    fs::write(to.join("Cargo.toml"), format!("{head}[[test]]{test}\n[workspace]\n")).unwrap();
}

fn run_tests(dir: &Path, arguments: &[&str]) -> (bool, String) {
    let arguments = [&["--test", "it"], arguments].concat();
    cargo_test(dir, "faults", &arguments, &[("ONCELOG_CRASH_POINTS", "2000")])
}

#[test]
fn each_fault_put_in_by_hand_is_caught() {
    let dir = tempfile::tempdir().unwrap();
    copy_crate(dir.path());
    let (passed, text) = run_tests(dir.path(), &[]);
    assert!(passed, "the tests fail without a fault:\n{text}");
    let mut missed = Vec::new();
    for (tests, faults) in FOUND_BY {
        for fault in faults {
            let (passed, text) = fault.planted(dir.path(), || {
                let (built, text) = run_tests(dir.path(), &["--no-run"]);
                assert!(built, "{}: does not compile:\n{text}", fault.name);
                run_tests(dir.path(), &[tests])
            });
            if passed {
                println!("{}: MISSED", fault.name);
                missed.push(fault.name);
            } else {
                println!("{}", row(fault.name, tests, &text, reason(&text)));
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
