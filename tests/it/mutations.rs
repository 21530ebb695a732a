//! More faults put in by hand, in the engine, the index, expiry, recovery and the fences: for the
//! simulation to find, and for the tests of the index, expiry and quarantine.
//!
//! A run takes a quarter of them, `ONCELOG_MUTATIONS=0` to `3`; `all` takes them all, and any other
//! text those that have it in their name. For each a row of the table in docs/faults.md is printed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::planted::{Fault, cargo_test};
use crate::support::rows::{reason, row};
use crate::support::tree::copy_tree;

const SIMULATION: &[&str] = &["--release", "--test", "sim", "no_seed_breaks"];
const INDEX: &[&str] = &["--release", "--lib", "index::"];
const EXPIRY: &[&str] = &["--release", "--lib", "expiry::"];
const QUARANTINE: &[&str] = &["--release", "--test", "it", "quarantine::"];

/// The most seeds that a fault may need.
const SEEDS: &str = "6000";
const SHARES: usize = 4;

const FAULTS: &[(&[&str], Fault)] = &[
    (
        SIMULATION,
        Fault {
            name: "fencing: a permit that ends whatever attempt is the current one",
            file: "src/engine/inflight.rs",
            from: "self.under(hash).find(|entry| entry.token() == token)",
            to: "self.under(hash).next()",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "fencing: an orphan released while its permit lives",
            file: "src/engine/finish.rs",
            from: "if by == By::Orphan && entry.permit {",
            to: "if false {",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "fencing: a claim that is ending taken for one that is open",
            file: "src/engine/finish.rs",
            from: "(State::Staged | State::Ending, _) => false,",
            to: "(State::Staged | State::Ending, _) => true,",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "engine: an open claim that does not look at the fingerprint",
            file: "src/engine/admit.rs",
            from: "if facts.fingerprint != fingerprint {",
            to: "if false {",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "engine: a later attempt that nobody took released",
            file: "src/engine/finish.rs",
            from: "if facts.attempt > 1 {",
            to: "if false {",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "engine: a lease that never lapses",
            file: "src/engine/mod.rs",
            from: "if running && now.monotonic >= entry.deadline {",
            to: "if false && running {",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "engine: a take-over that forgets a checkpoint staged last",
            file: "src/log/writer.rs",
            from: "let newest = staging.open.get(&previous.facts.token).unwrap_or(previous);",
            to: "let newest = previous;",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "engine: no room kept for the end of a claim",
            file: "src/log/room.rs",
            from: "record::complete_bytes(scope_bytes) + record::SEAL_BYTES",
            to: "0",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "expiry: a segment dropped before everything in it is past",
            file: "src/expiry.rs",
            from: "now_ms >= expires_ms.saturating_add(grace_ms)",
            to: "now_ms.saturating_add(9_000_000) >= expires_ms",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "expiry: an orphan's ttl counted from its first attempt",
            file: "src/engine/mod.rs",
            from: "let ended_ms = entry.open.facts.attempted_ms.max(entry.alive_ms);",
            to: "let ended_ms = entry.open.facts.claimed_ms;",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "expiry: an expiry counted from a time that is held back",
            file: "src/engine/finish.rs",
            from: "expires_ms: now.latest_ms.saturating_add(self.config.ttl_ms()).min(MS_MAX),",
            to: "expires_ms: now.now_ms.saturating_add(self.config.ttl_ms()).min(MS_MAX),",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "expiry: a jump of the clock that is believed",
            file: "src/time.rs",
            from: "(ttl_ms / 10).min(HOUR_MS)",
            to: "ttl_ms * 1_000",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "expiry: store time that goes back at an open",
            file: "src/time.rs",
            from: "let start = if believed { wall.max(mark_ms) } else { mark_ms };",
            to: "let start = if believed { wall } else { mark_ms };",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "recovery: a release that is not replayed",
            file: "src/recovery/replay.rs",
            from: "Record::Release { token, .. } => self.end(token),",
            to: "Record::Release { .. } => {}",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "recovery: a claim that was given up, and is not said to be",
            file: "src/recovery/replay.rs",
            from: "open.ended = ended;",
            to: "",
        },
    ),
    (
        QUARANTINE,
        Fault {
            name: "recovery: damage that a promise covers taken for a torn tail",
            file: "src/recovery/survey.rs",
            from: "if beyond.promise >= missing {",
            to: "if false {",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "recovery: a log that ends before CHECKPOINT says so",
            file: "src/recovery/survey.rs",
            from: "if self.last >= self.checkpoint.durable_lsn && !too_new {",
            to: "if true {",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "commit: a completed claim that is carried all the same",
            file: "src/log/writer.rs",
            from: "state.staging.remove_open(complete.token);",
            to: "",
        },
    ),
    (
        INDEX,
        Fault {
            name: "index: what found no room in the table not looked for",
            file: "src/index/mod.rs",
            from: "let found = self.overflow.range((hash, Location::LOWEST)..=(hash, \
                   Location::HIGHEST));",
            to: "let found = self.overflow.range((0, Location::LOWEST)..(0, Location::LOWEST));",
        },
    ),
    (
        INDEX,
        Fault {
            name: "index: what is published while the table grows left out",
            file: "src/index/mod.rs",
            from: "delta.push(Change { hash, location, replaced });",
            to: "let _ = delta;",
        },
    ),
    (
        INDEX,
        Fault {
            name: "index: what is removed while the table grows brought back",
            file: "src/index/mod.rs",
            from: "self.forgotten.push((hash, location));",
            to: "",
        },
    ),
    (
        INDEX,
        Fault {
            name: "index: a key that leaves its first line without a flag",
            file: "src/index/line.rs",
            from: "self.spill |= tag.flag();",
            to: "",
        },
    ),
    (
        EXPIRY,
        Fault {
            name: "expiry: responses without an expiry taken for past",
            file: "src/expiry.rs",
            from: "(_, 0) => false,",
            to: "(_, 0) => true,",
        },
    ),
    (
        EXPIRY,
        Fault {
            name: "expiry: a later segment dropped before the oldest",
            file: "src/expiry.rs",
            from: "sealed.iter().take_while(",
            to: "sealed.iter().filter(",
        },
    ),
    (
        SIMULATION,
        Fault {
            name: "reserves: no room kept for a CLEAN and a SEAL",
            file: "src/log/room.rs",
            from: "pub(crate) const SPARE_BYTES: u64 = 2 * record::SEAL_BYTES;",
            to: "pub(crate) const SPARE_BYTES: u64 = 0;",
        },
    ),
    (
        QUARANTINE,
        Fault {
            name: "quarantine: a scope that may have been lost is absent",
            file: "src/recovery/quarantine.rs",
            from: "Some(lost) if now_ms < lost.until_ms =>",
            to: "Some(lost) if now_ms > u64::MAX - lost.until_ms =>",
        },
    ),
    (
        QUARANTINE,
        Fault {
            name: "quarantine: an end that may have been lost is none",
            file: "src/recovery/quarantine.rs",
            from: "self.entries.values().any(before)",
            to: "{ let _ = before; false }",
        },
    ),
    (
        QUARANTINE,
        Fault {
            name: "quarantine: a lost segment let go of while its scopes could live",
            file: "src/recovery/quarantine.rs",
            from: "e.segment >= oldest || now_ms < e.until_ms;",
            to: "{ let _ = now_ms; e.segment >= oldest };",
        },
    ),
    (
        QUARANTINE,
        Fault {
            name: "quarantine: a damaged segment unlinked, not put aside",
            file: "src/recovery/quarantine.rs",
            from: r#"storage.rename(name, &format!("{name}{KEPT_ASIDE}"))"#,
            to: r#"{ let _ = KEPT_ASIDE; storage.remove(name) }"#,
        },
    ),
];

/// A copy of the crate that builds these jobs and nothing else.
fn copy_crate(to: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    copy_tree(&root.join("src"), &to.join("src"));
    // The tool has dependencies of its own, and no part in this.
    fs::remove_dir_all(to.join("src/bin")).unwrap();
    copy_tree(&root.join("tests/sim"), &to.join("tests/sim"));
    copy_tree(&root.join("tests/it/support"), &to.join("tests/it/support"));
    copy_tree(&root.join("tests/it/quarantine"), &to.join("tests/it/quarantine"));
    fs::create_dir_all(to.join("tests/it/contract")).unwrap();
    let name = "tests/it/contract/support.rs";
    fs::copy(root.join(name), to.join(name)).unwrap();
    fs::write(to.join("tests/it/contract/mod.rs"), "pub(crate) mod support;\n").unwrap();
    let main = "mod contract;\nmod quarantine;\nmod support;\n";
    fs::write(to.join("tests/it/main.rs"), main).unwrap();
    for name in ["Cargo.lock", "README.md", "DESIGN.md"] {
        fs::copy(root.join(name), to.join(name)).unwrap();
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (head, _) = manifest.split_once("[dev-dependencies]").unwrap();
    let test = |name| format!("[[test]]\nname = \"{name}\"\npath = \"tests/{name}/main.rs\"\n\n");
    let manifest = format!("{head}{}{}[workspace]\n", test("sim"), test("it"));
    fs::write(to.join("Cargo.toml"), manifest).unwrap();
}

fn share() -> Vec<&'static (&'static [&'static str], Fault)> {
    let chosen = std::env::var("ONCELOG_MUTATIONS").unwrap_or_else(|_| "0".to_owned());
    if chosen == "all" {
        return FAULTS.iter().collect();
    }
    let Ok(share) = chosen.parse::<usize>() else {
        let named = Vec::from_iter(FAULTS.iter().filter(|(_, fault)| fault.name.contains(&chosen)));
        assert!(!named.is_empty(), "no fault is named so: {chosen}");
        return named;
    };
    assert!(share < SHARES, "no such share: {chosen}");
    FAULTS.iter().skip(share).step_by(SHARES).collect()
}

#[test]
#[ignore = "builds the crate for each fault; CONTRIBUTING has the command"]
fn each_fault_of_this_share_is_caught() {
    let dir = tempfile::tempdir().unwrap();
    copy_crate(dir.path());
    let run =
        |job: &[&str]| cargo_test(dir.path(), "mutations", job, &[("ONCELOG_SIM_SEEDS", SEEDS)]);
    let chosen = share();
    for job in BTreeSet::from_iter(chosen.iter().map(|(job, _)| *job)) {
        let (passed, text) = run(job);
        assert!(passed, "{job:?} finds something without a fault:\n{text}");
    }
    let mut missed = Vec::new();
    for (job, fault) in chosen {
        let (passed, text) = fault.planted(dir.path(), || {
            let (built, text) = run(&[*job, &["--no-run"]].concat());
            assert!(built, "{}: does not compile:\n{text}", fault.name);
            run(job)
        });
        if passed {
            println!("{}: MISSED", fault.name);
            missed.push(fault.name);
        } else {
            println!("{}", row(fault.name, job[1..].join(" ").as_str(), &text, reason(&text)));
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
