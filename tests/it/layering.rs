//! The rules that keep the tree readable, checked on its text: who may import whom, where bytes,
//! files, time and threads live, and how a file looks.
//!
//! A check is a function of a path and a text, so that the last test can show each of them the
//! fault it is for.

use std::fs;
use std::path::Path;

use Peers::{Apart, InOrder, Together};

/// What the modules of one layer may know of each other; in order, each may import those before it.
enum Peers {
    Apart,
    InOrder,
    Together,
}

/// Lowest first. A module, `src/NAME.rs` or `src/NAME/`, may import every layer before its own.
const LAYERS: &[(Peers, &[&str])] = &[
    (
        InOrder,
        &["error", "scope", "location", "sync", "random", "numbered", "parallel", "clock", "time"],
    ),
    (InOrder, &["warning", "stats", "config"]),
    (Apart, &["format", "storage", "index"]),
    (Apart, &["log"]),
    // A backup is checked by a recovery that changes nothing, and by a verification.
    (InOrder, &["recovery", "expiry", "verify", "scrub", "backup"]),
    (InOrder, &["engine", "worker"]),
    // A claim yields orphans, an orphan yields claims, and the futures yield both.
    (Together, &["claim", "future"]),
    (InOrder, &["snapshot", "scan", "store"]),
    (InOrder, &["http", "conformance"]),
    (Apart, &["admin", "cluster"]),
];

/// What is written in one place only, and that place.
const HOMES: &[(&[&str], &[&str])] = &[
    (&["to_le_bytes", "from_le_bytes"], &["src/format/", "src/scope.rs", "src/http/encoding.rs"]),
    (&["std::fs", "rustix::fs", "memmap2"], &["src/storage/"]),
    (&["SystemTime::now", "Instant::now"], &["src/clock.rs"]),
    (&["thread::spawn", "thread::Builder"], &["src/worker.rs"]),
    (&["thread::scope"], &["src/parallel.rs", "src/bin/oncelog/bench.rs"]),
];

/// Relative paths, globs and groups at a root hide what a file imports.
const HIDING: &[&str] = &["super::", "::*", "crate::{", "std::{"];

// Split, so that this file does not find itself.
const SLEEPS: &[&str] = &[concat!("sle", "ep("), concat!("sle", "ep_until(")];
const LEFTOVERS: &[&str] = &[
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
    concat!("d", "bg!"),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
];

const CODE_LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 100;
const EVERYWHERE: &[&str] = &["src", "tests", "benches", "examples", "fuzz"];

#[test]
fn imports_go_downwards() {
    let files = rust_files(&["src"]);
    check(&["src"], |path, text| {
        let parent = format!("src/{}/mod.rs", module_and_file(path).0);
        let parent = files.iter().find(|(path, _)| *path == parent);
        upward_imports(path, text, &parent.map_or(Vec::new(), |(_, text)| children(text)))
    });
}

#[test]
fn imports_are_written_as_full_paths() {
    check(&["src"], hidden_imports);
}

#[test]
fn bytes_files_time_and_threads_stay_in_their_homes() {
    check(&["src"], strays);
}

#[test]
fn every_file_says_what_it_is_for_in_plain_narrow_text() {
    check(EVERYWHERE, unreadable_text);
}

#[test]
fn no_file_is_over_500_lines_of_code() {
    check(&["src"], overlong_code);
}

#[test]
fn nothing_is_left_over() {
    check(EVERYWHERE, leftovers);
}

#[test]
fn nothing_waits_for_time_to_pass() {
    check(&["src", "tests"], sleeps);
}

#[test]
fn every_test_that_the_design_names_exists() {
    let files = rust_files(&["tests"]);
    let design = read("DESIGN.md");
    let (_, promises) = design.split_once("## What we promise").expect("a section");
    let promises = promises.split("\n## ").next().unwrap_or_default();
    assert!(named_tests(promises).len() > 30, "the section names its tests");
    assert_eq!(missing_tests(promises, &files), Vec::<String>::new());
}

#[test]
fn each_check_finds_the_fault_it_is_for() {
    let import = |path: &str, name: &str| {
        upward_imports(path, &format!("//! A noun.\nuse crate::{name};\n"), &["slot", "shard"])
    };
    let on = |check: fn(&str, &str) -> Vec<String>, text: &str| check("src/error.rs", text);
    let lines = |line: &str| line.repeat(CODE_LINES_MAX + 1);
    let tests = [("tests/it/a.rs".to_owned(), "#[test]\nfn it_holds() {".to_owned())];
    assert_eq!(missing_tests("| it | `a::it_holds` |", &tests), Vec::<String>::new());
    assert_eq!(missing_tests("`a::it_hold`, `b::it_holds`", &tests), ["a::it_hold", "b::it_holds"]);
    let tests = "\n#[cfg(test)]\nmod tests {\nuse super::*;\nuse crate::store::Store;\n";

    let allowed = [
        import("src/log/mod.rs", "format::Record"),
        import("src/index/mod.rs", "index::shard::Shard"),
        import("src/index/shard.rs", "index::{SLOTS, slot::Slot}"),
        import("src/worker.rs", "engine::Engine"),
        import("src/claim.rs", "future::ClaimFuture"),
        upward_imports("src/error.rs", &format!("//! Not crate::store.\n{tests}"), &[]),
        on(hidden_imports, &format!("use crate::scope::{{Scope, Token}}; {tests}")),
        strays("src/clock.rs", "Instant::now()"),
        import("src/bin/oncelog/main.rs", "args::Args"),
        on(overlong_code, &format!("{}{tests}{}", lines("\n// A reason.\n"), lines("x;\n"))),
        on(sleeps, concat!("// sle", "ep()\nasle", "ep()")),
        on(leftovers, concat!("TO", "DOS")),
    ];
    assert_eq!(allowed.concat(), Vec::<String>::new());

    let mut faults = vec![
        (import("src/log/mod.rs", "engine::Engine"), "src/log/mod.rs:2: log imports engine"),
        (import("src/storage/disk.rs", "format::Record"), "storage imports format"),
        (import("src/error.rs", "scope::Scope"), "error imports scope"),
        (import("src/engine/mod.rs", "worker::Worker"), "engine imports worker"),
        (import("src/index/slot.rs", "index::shard::Shard"), "slot imports shard"),
        (import("src/index/slot.rs", "index::{A, slot::{B, C}, shard::D}"), "slot imports shard"),
        (import("src/error.rs", "Scope"), "no layer for crate::Scope"),
        (import("src/helper.rs", "error::Error"), "helper.rs:1: no layer for crate::helper"),
        (on(strays, "\nx.to_le_bytes()"), "src/error.rs:2: to_le_bytes belongs in src/format/"),
        (on(strays, "use std::fs;"), "std::fs belongs in src/storage/"),
        (on(strays, "std::time::Instant::now()"), "Instant::now belongs in src/clock.rs"),
        (on(strays, "std::thread::spawn(run)"), "thread::spawn belongs in src/worker.rs"),
        (on(unreadable_text, "use std::fmt;\n"), "opens without"),
        (on(unreadable_text, "//! A n\u{f6}un.\n"), "src/error.rs:1: not ASCII"),
        (on(unreadable_text, &format!("//! {}", "-".repeat(COLUMNS_MAX))), "104 columns"),
        (on(overlong_code, &lines("x;\n")), "501 lines of code"),
    ];
    faults.extend(HIDING.iter().map(|fault| (on(hidden_imports, fault), "hides an import")));
    faults.extend(LEFTOVERS.iter().map(|fault| (on(leftovers, fault), "is left over")));
    faults.extend(SLEEPS.iter().map(|fault| (on(sleeps, fault), "waits for time to pass")));
    for (findings, wanted) in faults {
        assert!(findings.len() == 1 && findings[0].contains(wanted), "{wanted}: {findings:?}");
    }
}

/// `order` is the `mod` list of the folder that `path` lies in: a file imports only those before
/// it. What `mod.rs` itself holds is the vocabulary of its folder, open to every file there.
fn upward_imports(path: &str, text: &str, order: &[&str]) -> Vec<String> {
    let (module, file) = module_and_file(path);
    // The tool is a crate of its own: the compiler shows it the public API alone.
    if path == "src/lib.rs" || path.starts_with("src/bin/") {
        return Vec::new();
    }
    if place(module).is_none() {
        return vec![format!("{path}:1: no layer for crate::{module}")];
    }
    let rank = |file: &str| order.iter().position(|child| *child == file);
    let code = code_of(text);
    let imports = words(&code, "crate::").filter_map(|at| {
        let rest = &code[at + "crate::".len()..];
        let name = name_at(rest);
        let fault = if name == module {
            let own = rank(file)?;
            let later = names_after(&rest[name.len()..]).into_iter().find(|n| rank(n) > Some(own));
            format!("{file} imports {}", later?)
        } else if place(name).is_none() {
            format!("no layer for crate::{name}")
        } else if !is_below(name, module) {
            format!("{module} imports {name}")
        } else {
            return None;
        };
        Some(format!("{path}:{}: {fault}", line_of(&code, at)))
    });
    imports.collect()
}

/// What a text names as `file::test`.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|name| name.split_once("::")).collect()
}

/// Those of them that are in no file of that name.
fn missing_tests(text: &str, files: &[(String, String)]) -> Vec<String> {
    let exists = |(file, name): (&str, &str)| {
        let test = format!("fn {name}(");
        files
            .iter()
            .any(|(path, text)| path.ends_with(&format!("/{file}.rs")) && text.contains(&test))
    };
    let names = named_tests(text).into_iter().filter(|&named| !exists(named));
    names.map(|(file, name)| format!("{file}::{name}")).collect()
}

fn hidden_imports(path: &str, text: &str) -> Vec<String> {
    find(path, &code_of(text), HIDING, "hides an import")
}

fn strays(path: &str, text: &str) -> Vec<String> {
    let away = HOMES.iter().filter(|(_, homes)| !homes.iter().any(|home| path.starts_with(home)));
    away.flat_map(|(words, homes)| {
        find(path, &code_of(text), words, &format!("belongs in {}", homes.join(", ")))
    })
    .collect()
}

fn unreadable_text(path: &str, text: &str) -> Vec<String> {
    let headless = (!text.starts_with("//! ")).then(|| format!("{path}:1: opens without `//!`"));
    let lines = text.lines().zip(1..).flat_map(|(line, number)| {
        let columns = line.chars().count();
        let wide = (columns > COLUMNS_MAX).then(|| format!("{path}:{number}: {columns} columns"));
        let foreign = (!line.is_ascii()).then(|| format!("{path}:{number}: not ASCII"));
        wide.into_iter().chain(foreign)
    });
    headless.into_iter().chain(lines).collect()
}

fn overlong_code(path: &str, text: &str) -> Vec<String> {
    let lines = code_of(text).lines().filter(|line| !line.trim().is_empty()).count();
    Vec::from_iter((lines > CODE_LINES_MAX).then(|| format!("{path}: {lines} lines of code")))
}

fn leftovers(path: &str, text: &str) -> Vec<String> {
    find(path, text, LEFTOVERS, "is left over")
}

fn sleeps(path: &str, text: &str) -> Vec<String> {
    find(path, &without_comments(text), SLEEPS, "waits for time to pass")
}

fn find(path: &str, text: &str, sought: &[&str], fault: &str) -> Vec<String> {
    let finding = |word, at| format!("{path}:{}: {word} {fault}", line_of(text, at));
    sought.iter().flat_map(|word| words(text, word).map(move |at| finding(word, at))).collect()
}

/// The layer of a module, and its place there.
fn place(module: &str) -> Option<(usize, usize)> {
    LAYERS.iter().enumerate().find_map(|(layer, (_, modules))| {
        modules.iter().position(|name| *name == module).map(|nth| (layer, nth))
    })
}

fn is_below(lower: &str, upper: &str) -> bool {
    let (Some(lower), Some(upper)) = (place(lower), place(upper)) else { return false };
    match LAYERS[lower.0].0 {
        _ if lower.0 != upper.0 => lower.0 < upper.0,
        Apart => false,
        InOrder => lower.1 < upper.1,
        Together => true,
    }
}

/// `src/log/reader.rs` is `("log", "reader")`; `src/error.rs` is `("error", "error")`.
fn module_and_file(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    path.split_once('/').unwrap_or((path, path))
}

/// The `mod` list of a `mod.rs`, in its order.
fn children(text: &str) -> Vec<&str> {
    let declared = text.lines().filter_map(|line| line.strip_suffix(';')?.split_once("mod "));
    let own = declared.filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
    own.map(|(_, name)| name).collect()
}

/// What follows `crate::name`: one name, or the first names of a group.
fn names_after(rest: &str) -> Vec<&str> {
    let rest = rest.strip_prefix("::").unwrap_or_default();
    let Some(group) = rest.strip_prefix('{') else { return vec![name_at(rest)] };
    let mut depth = 0;
    let mut starts = vec![0];
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts.push(at + 1),
            _ => {}
        }
    }
    starts.into_iter().map(|at| name_at(group[at..].trim_start())).collect()
}

fn name_at(text: &str) -> &str {
    text.split(|letter| !is_name(letter)).next().unwrap_or_default()
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Where `word` stands in `text` by itself, not as a part of a longer name.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let begun = word.starts_with(is_name) && text[..*at].ends_with(is_name);
        let goes_on = word.ends_with(is_name) && text[at + word.len()..].starts_with(is_name);
        !begun && !goes_on
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The code of a file, without comments, up to its unit tests: a `mod tests` at the foot.
fn code_of(text: &str) -> String {
    without_comments(text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default())
}

/// Keeps the line ends, so that line numbers stay true.
fn without_comments(text: &str) -> String {
    text.lines().flat_map(|line| [line.split("//").next().unwrap_or_default(), "\n"]).collect()
}

fn check(folders: &[&str], check: impl Fn(&str, &str) -> Vec<String>) {
    let files = rust_files(folders);
    assert!(!files.is_empty(), "nothing to check in {folders:?}");
    let findings: Vec<String> = files.iter().flat_map(|(path, text)| check(path, text)).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(path).expect("it is part of the tree")
}

/// Path and text of every Rust file below `folders`, build directories apart.
#[expect(clippy::disallowed_methods, reason = "the tree under test is made of files")]
fn rust_files(folders: &[&str]) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pending: Vec<String> = folders.iter().map(|folder| folder.to_string()).collect();
    let mut files = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(root.join(&folder)).expect("the folder is part of the tree") {
            let entry = entry.expect("a folder that opened can be read");
            let name = entry.file_name().into_string().expect("names are ASCII");
            let path = format!("{folder}/{name}");
            if name.ends_with(".rs") {
                files.push((path, fs::read_to_string(entry.path()).expect("Rust is UTF-8")));
            } else if name != "target" && entry.path().is_dir() {
                pending.push(path);
            }
        }
    }
    files.sort();
    files
}
