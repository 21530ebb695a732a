//! What somebody else may have put into the directory of a store: links, directories, FIFOs and
//! foreign files. None is followed, waited for, written through or removed; and nobody else is let
//! in.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;

use oncelog::{Error, Options, Store, Warning};

use crate::contract::support::{PATIENCE, claim, granted, kind, run, scope};

const SEGMENT: &str = "0000000000000001.seg";
const HINTS: &str = "0000000000000001.idx";
/// The files that a store cannot do without.
const NEEDED: [&str; 4] = ["LOCK", "SUPER", "CHECKPOINT", SEGMENT];

fn options() -> Options {
    Store::options().segment_bytes(64 * 1024)
}

/// A store that was closed, and a place beside it that is not the store's.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { dir: tempfile::tempdir().unwrap() };
        let store = options().open(place.store()).unwrap();
        run(&store, "done", b"201 created");
        std::mem::forget(granted(claim(&store, "open")));
        run(&store, "more", b"201 created");
        store.close().unwrap();
        let store = options().open(place.store()).unwrap();
        granted(store.orphan(scope("open")).unwrap().unwrap().take_over().unwrap())
            .release()
            .unwrap();
        store.close().unwrap();
        assert!(place.file(HINTS).is_file());
        place
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.store().join(name)
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }
}

/// Runs on a thread of its own, so that a wait for ever fails.
fn in_time<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (told, answer) = channel();
    std::thread::spawn(move || told.send(call()));
    answer.recv_timeout(PATIENCE).expect("it waits for ever, or panicked")
}

fn open(dir: &Path) -> Result<Store, Error> {
    let dir = dir.to_owned();
    in_time(move || options().open(dir))
}

fn refusal(dir: &Path) -> String {
    let error = open(dir).expect_err("the store opened");
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    error.to_string()
}

/// Bytes and change time: of a file that must not be written to.
fn trace_of(path: &Path) -> (Vec<u8>, i64, i64) {
    let data = fs::metadata(path).unwrap();
    (fs::read(path).unwrap(), data.mtime(), data.mtime_nsec())
}

#[test]
fn a_link_in_the_place_of_a_needed_file_is_refused_and_not_followed() {
    for name in NEEDED {
        let place = Place::new();
        // The very bytes that belong there, so that following it would succeed.
        fs::rename(place.file(name), place.outside()).unwrap();
        symlink(place.outside(), place.file(name)).unwrap();
        let before = trace_of(&place.outside());
        let said = refusal(&place.store());
        assert!(said.contains(name) && said.contains("symbolic link"), "{name}: {said}");
        let looked = options().open_read_only(place.store());
        let said = looked.expect_err(name).to_string();
        assert!(said.contains("symbolic link"), "{name}: {said}");
        assert_eq!(trace_of(&place.outside()), before, "{name}");
        fs::remove_file(place.file(name)).unwrap();
        fs::rename(place.outside(), place.file(name)).unwrap();
        assert_eq!(kind(&open(&place.store()).unwrap(), "done"), "completed", "{name}");
    }
}

#[test]
fn a_link_that_leads_nowhere_makes_no_file_there() {
    for name in ["LOCK", "SUPER", "CHECKPOINT"] {
        let dir = tempfile::tempdir().unwrap();
        let (store, outside) = (dir.path().join("store"), dir.path().join("outside"));
        fs::create_dir(&store).unwrap();
        symlink(&outside, store.join(name)).unwrap();
        let opened = open(&store);
        assert!(opened.is_err(), "{name}");
        assert!(!outside.exists(), "{name}: a file was made through the link");
    }
}

#[test]
fn a_link_in_the_place_of_what_is_made_anew_is_replaced_and_not_written_through() {
    let next = "0000000000000002.seg";
    let drafts = ["CHECKPOINT.tmp", "0000000000000002.seg.tmp", "0000000000000001.idx.tmp"];
    for name in [&[HINTS, next, "0000000000000002.idx"][..], &drafts].concat() {
        let place = Place::new();
        fs::write(place.outside(), b"not the store's").unwrap();
        fs::remove_file(place.file(name)).ok();
        symlink(place.outside(), place.file(name)).unwrap();
        let before = trace_of(&place.outside());
        let Ok(store) = open(&place.store()) else {
            // A segment that may be part of the log is not passed over.
            assert_eq!(name, next);
            assert_eq!(trace_of(&place.outside()), before, "{name}");
            continue;
        };
        assert_eq!(kind(&store, "done"), "completed", "{name}");
        for number in 0..200 {
            run(&store, &format!("key-{number}"), &[7; 500]);
        }
        store.close().unwrap();
        assert_eq!(kind(&open(&place.store()).unwrap(), "key-7"), "completed", "{name}");
        assert_eq!(trace_of(&place.outside()), before, "{name}");
    }
}

#[test]
fn a_directory_or_a_fifo_in_the_place_of_a_file_is_refused_without_waiting() {
    type Put = fn(&Path);
    let puts: [(&str, Put); 2] = [
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a FIFO", |path| {
            let made = Command::new("mkfifo").arg(path).status().expect("mkfifo is there");
            assert!(made.success());
        }),
    ];
    for (what, put) in puts {
        for name in NEEDED {
            let place = Place::new();
            fs::rename(place.file(name), place.outside()).unwrap();
            put(&place.file(name));
            refusal(&place.store());
            let dir = place.store();
            let looked = in_time(move || options().open_read_only(dir));
            assert!(matches!(looked, Err(Error::Io { .. })), "{what}, {name}: {looked:?}");
        }
        // Hints are derived: without them the segment is read.
        let place = Place::new();
        fs::remove_file(place.file(HINTS)).unwrap();
        put(&place.file(HINTS));
        assert_eq!(kind(&open(&place.store()).unwrap(), "done"), "completed", "{what}");
    }
}

/// Every file below a directory with its bytes.
fn foreign(dir: &Path, names: &[&str]) -> BTreeMap<String, Vec<u8>> {
    names.iter().map(|name| (name.to_string(), fs::read(dir.join(name)).unwrap())).collect()
}

#[test]
fn foreign_files_are_left_alone() {
    let place = Place::new();
    let names = [
        "notes.txt",
        "notes.tmp",
        "SUPER.old",
        "lock",
        "1.seg",
        "0000000000000001.seg.bak",
        "000000000000000A.seg",
        "00000000000000001.seg",
        ".hidden",
        "below/0000000000000009.seg",
        "below/SUPER.tmp",
    ];
    fs::create_dir(place.file("below")).unwrap();
    for name in names {
        fs::write(place.file(name), name).unwrap();
    }
    let before = foreign(&place.store(), &names);
    let store = open(&place.store()).unwrap();
    for number in 0..300 {
        run(&store, &format!("key-{number}"), &[7; 500]);
    }
    store.expire().unwrap();
    store.backup(place.outside()).unwrap();
    store.close().unwrap();
    drop(open(&place.store()).unwrap());
    assert_eq!(foreign(&place.store(), &names), before);
    for name in names {
        assert!(!place.outside().join(name).exists(), "{name} is in the backup");
    }
}

const CHILD: &str = "ONCELOG_TEST_UMASK";

#[test]
fn files_and_directory_are_the_owners_alone_whatever_the_umask() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let store = options().open(&dir).unwrap();
        for number in 0..200 {
            run(&store, &format!("key-{number}"), &[7; 500]);
        }
        store.backup(Path::new(&dir).with_extension("copy")).unwrap();
        store.close().unwrap();
        options().open(&dir).unwrap().close().unwrap();
        return;
    }
    let name = "intruders::files_and_directory_are_the_owners_alone_whatever_the_umask";
    for umask in ["0000", "0022", "0077", "0277", "0777"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("store");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"umask "$1"; exec "$2" "$3" --exact"#, "sh", umask]);
        command.arg(std::env::current_exe().unwrap()).arg(name).env(CHILD, &dir);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("running 1 test"), "{umask}: {said}");
        for dir in [dir.clone(), dir.with_extension("copy")] {
            assert_eq!(mode_of(&dir), 0o700, "umask {umask}: {}", dir.display());
            let mut count = 0;
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                assert_eq!(mode_of(&path), 0o600, "umask {umask}: {}", path.display());
                count += 1;
            }
            assert!(count > 5, "{count} files");
        }
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_directory_that_lets_others_in_is_warned_of() {
    let place = Place::new();
    for (mode, warned) in [(0o700, false), (0o750, true), (0o701, true), (0o1777, true)] {
        fs::set_permissions(place.store(), fs::Permissions::from_mode(mode)).unwrap();
        let store = open(&place.store()).unwrap();
        let open_to_others = Warning::OpenToOthers { mode };
        assert_eq!(store.recovery().warnings.contains(&open_to_others), warned, "{mode:o}");
    }
}
