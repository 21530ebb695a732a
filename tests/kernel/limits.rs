//! What the system takes away from a process that works: address space, file descriptors, the
//! right to write. A call fails cleanly or does what it promises; what was acknowledged stays.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use oncelog::{Background, Claim, Error, ManualClock, Options, Status, Store};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::child::{self, Running, kind, tell, tell_error};
use crate::image::{self, FileSystem, IMAGE_BYTES_MIN, Image};
use crate::keys::{fingerprint, response, scope};
use crate::ledger::{Allowed, Ledger};
use crate::load::{claim_and_end, options as small_options};

const EXTRA: &str = "ONCELOG_KERNEL_EXTRA";
const SEGMENTS: u64 = 24;
const SEGMENT_BYTES: u64 = 16 << 20;
const BUCKET: Duration = Duration::from_secs(1_000);
const START: Duration = Duration::from_secs(1_700_000_000);

/// A store of many segments that are nearly empty: much to map, and little to write.
fn wide_options() -> Options {
    let clock = ManualClock::at(UNIX_EPOCH + START + BUCKET * SEGMENTS as u32);
    wide_options_at(&clock)
}

fn wide_options_at(clock: &ManualClock) -> Options {
    let options = Store::options().clock(clock.clone()).segment_bytes(SEGMENT_BYTES);
    options.bucket(BUCKET).ttl(BUCKET * 1_000)
}

fn key_of(segment: u64) -> String {
    format!("old-{segment}")
}

fn make_wide_store(dir: &Path) {
    let clock = ManualClock::at(UNIX_EPOCH + START);
    let store = wide_options_at(&clock).background(Background::Inline).open(dir).unwrap();
    for segment in 0..SEGMENTS {
        let key = key_of(segment);
        let claim = store.claim(scope(&key), fingerprint(&key)).unwrap();
        let Claim::Granted(permit) = claim else { panic!("{key} was not granted: {claim:?}") };
        permit.complete(&response(&key)).unwrap();
        clock.advance(BUCKET);
    }
    assert!(store.stats().segments >= SEGMENTS, "{:?}", store.stats());
    store.close().unwrap();
}

#[test]
fn a_limit_of_the_address_space_loses_nothing_acknowledged() {
    let (mut refused, mut answered, mut aborted) = (0, 0, 0);
    let limits = [0, 1, 4, 16, 40, 100, 200, 4_000];
    for extra_mib in limits {
        let dir = image::scratch();
        make_wide_store(dir.path());
        let (lines, ending) = limited("address_space", dir.path(), extra_mib);
        // Rust ends a process that has no memory left for itself; that is a crash like others.
        let abort = lines.iter().any(|line| line.starts_with("memory allocation of"));
        assert!(ending == Ending::Whole || abort, "{extra_mib} MiB: {ending:?}: {lines:#?}");
        aborted += u64::from(abort);
        refused += count(&lines, ". refused");
        answered += count(&lines, ". answered");
        check_after(dir.path(), &lines, &format!("{extra_mib} MiB"));
        if extra_mib == limits[limits.len() - 1] {
            assert_eq!(count(&lines, ". answered"), SEGMENTS, "with room for all: {lines:#?}");
        }
    }
    println!(
        "{} limits of the address space: {answered} lookups answered, {refused} refused, \
         {aborted} processes ended for want of memory",
        limits.len()
    );
    assert!(refused > 0, "no limit was felt");
}

#[test]
fn the_end_of_file_descriptors_loses_nothing_acknowledged() {
    let (mut refused, mut answered, mut not_opened) = (0, 0, 0);
    let limits = 0..8;
    for job in ["descriptors", "descriptors_before_open"] {
        for extra in limits.clone() {
            let dir = image::scratch();
            make_wide_store(dir.path());
            let (lines, ending) = limited(job, dir.path(), extra);
            assert_eq!(ending, Ending::Whole, "{job} {extra}: {lines:#?}");
            refused += count(&lines, ". refused");
            answered += count(&lines, ". answered");
            not_opened += u64::from(lines.iter().any(|line| line.starts_with("E Io open")));
            let clean = |line: &&String| line.starts_with("E ") && !line.starts_with("E Io");
            let other: Vec<_> = lines.iter().filter(clean).collect();
            let cleanly = other.iter().all(|line| line.starts_with("E Poisoned"));
            assert!(cleanly, "{job} {extra}: {other:?}");
            check_after(dir.path(), &lines, &format!("{job} {extra}"));
        }
    }
    println!(
        "{} limits of descriptors: {answered} lookups answered, {refused} refused, {not_opened} \
         opens refused",
        2 * limits.end
    );
    assert!(refused > 0 && not_opened > 0, "no limit was felt");
}

#[test]
fn a_read_only_file_system_refuses_the_open_and_harms_nothing() {
    for kind in [FileSystem::Ext4, FileSystem::Xfs] {
        let image = Image::new(kind, IMAGE_BYTES_MIN);
        let dir = image.dir("store");
        make_wide_store(&dir);
        let before = bytes_of(&dir);
        image.remount_as("ro");
        let error = wide_options().open(&dir).expect_err("a store writes when it opens");
        assert!(matches!(error, Error::Io { .. }), "{kind:?}: {error}");
        image.remount_as("rw");
        assert_eq!(before, bytes_of(&dir), "{kind:?}: a refused open changed a file");
        let store = wide_options().open(&dir).unwrap();
        for segment in 0..SEGMENTS {
            check_old(&store, segment).unwrap().unwrap();
        }
        println!("{kind:?}: read-only: {error}");
    }
}

#[test]
fn a_file_system_that_turns_read_only_under_load_poisons_and_goes_on_replaying() {
    let mut image = Image::new(FileSystem::Ext4, IMAGE_BYTES_MIN);
    let dir = image.dir("store");
    let store = small_options(oncelog::Durability::Synced).open(&dir).unwrap();
    let granted = |key: &str| match store.claim(scope(key), fingerprint(key))? {
        Claim::Granted(permit) => Ok(permit),
        other => panic!("{key} was not granted: {other:?}"),
    };
    let keys: Vec<String> = (0..100).map(|nth| format!("before-{nth}")).collect();
    for key in &keys {
        granted(key).unwrap().complete(&response(key)).unwrap();
    }
    let open = granted("open").unwrap();
    // What an error in the journal does to a mounted file system.
    image.remount_as("abort");
    let error = granted("after").expect_err("nothing can be made durable");
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let error = granted("later").expect_err("a failed write is final");
    assert!(matches!(error, Error::Poisoned { .. }), "{error}");
    open.complete(b"too late").expect_err("nothing is acknowledged any more");
    for key in &keys {
        let claim = store.claim(scope(key), fingerprint(key)).unwrap();
        let Claim::Replay(stored) = claim else { panic!("{key} is not replayed: {claim:?}") };
        assert_eq!(stored.bytes(), Some(&response(key)[..]), "{key}");
    }
    drop(store);
    image.boot();
    let store = small_options(oncelog::Durability::Synced).open(&dir).unwrap();
    for key in &keys {
        let Some(Status::Completed(stored)) = store.lookup(scope(key)).unwrap() else {
            panic!("{key} is lost")
        };
        assert_eq!(stored.bytes(), Some(&response(key)[..]), "{key}");
    }
    assert!(matches!(store.lookup(scope("open")).unwrap(), Some(Status::Orphaned(_))));
    println!("read-only under load: {} responses replayed before and after", keys.len());
}

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Whole,
    Early(String),
}

fn limited(job: &str, dir: &Path, extra: u64) -> (Vec<String>, Ending) {
    let mut command = child::command(&[], job, dir);
    command.env(EXTRA, extra.to_string());
    let mut child = Running::start(command);
    let lines = child.lines();
    let status = child.end();
    let whole = status.success() && lines.last().is_some_and(|line| line == ". end");
    (lines, if whole { Ending::Whole } else { Ending::Early(status.to_string()) })
}

fn count(lines: &[String], what: &str) -> u64 {
    lines.iter().filter(|line| line.starts_with(what)).count() as u64
}

/// Opens without a limit: everything acknowledged is there, in the old segments and the new ones.
fn check_after(dir: &Path, lines: &[String], label: &str) {
    let mut ledger = Ledger::default();
    for line in lines {
        ledger.hear(line).unwrap_or_else(|error| panic!("{label}: {error}"));
    }
    let store = wide_options().open(dir).unwrap_or_else(|error| panic!("{label}: {error}"));
    ledger.check_fresh(&store, Allowed::Nothing).unwrap_or_else(|error| panic!("{label}: {error}"));
    for segment in 0..SEGMENTS {
        check_old(&store, segment).unwrap().unwrap_or_else(|error| panic!("{label}: {error}"));
    }
}

/// An old response: there, or an error of the system, and never absent or another one.
fn check_old(store: &Store, segment: u64) -> Result<Result<(), Error>, String> {
    let key = key_of(segment);
    match store.lookup(scope(&key)) {
        Ok(Some(Status::Completed(stored))) if stored.bytes() == Some(&response(&key)[..]) => {
            Ok(Ok(()))
        }
        Err(error @ Error::Io { .. }) => Ok(Err(error)),
        other => Err(format!("{key}: {other:?}")),
    }
}

fn bytes_of(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in dir.read_dir().unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name != "LOCK" {
            files.push((name, std::fs::read(entry.path()).unwrap()));
        }
    }
    files.sort();
    files
}

/// The limit that a child sets itself, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    AddressSpace,
    Descriptors,
    DescriptorsBeforeOpen,
}

/// The child that works under a limit, and without it again.
pub(crate) fn child(dir: &Path, limit: Limit) {
    let extra = crate::keys::number(EXTRA, 0);
    let resource = if limit == Limit::AddressSpace { Resource::As } else { Resource::Nofile };
    let unlimited = getrlimit(resource);
    let tighten = || {
        let current = match limit {
            Limit::AddressSpace => virtual_bytes() + (extra << 20),
            _ => 128,
        };
        setrlimit(resource, Rlimit { current: Some(current), ..unlimited }).unwrap();
        if limit == Limit::AddressSpace { Vec::new() } else { take_descriptors(extra) }
    };
    let mut taken = Vec::new();
    tell("O");
    if limit == Limit::DescriptorsBeforeOpen {
        taken = tighten();
    }
    match wide_options().open(dir) {
        Ok(store) => {
            if limit != Limit::DescriptorsBeforeOpen {
                taken = tighten();
            }
            work(&store, "limited");
        }
        Err(error) => tell_error("open", &error),
    }
    setrlimit(resource, unlimited).unwrap();
    drop(taken);
    match wide_options().open(dir) {
        Ok(store) => work(&store, "free"),
        Err(error) => tell(&format!("not opened again: {error}")),
    }
    tell(". end");
    std::io::stderr().flush().unwrap();
}

fn work(store: &Store, name: &str) {
    for segment in 0..SEGMENTS {
        match check_old(store, segment) {
            Ok(Ok(())) if name == "limited" => tell(&format!(". answered {segment}")),
            Ok(Ok(())) => {}
            Ok(Err(error)) => tell(&format!(". refused {segment} {error}")),
            Err(wrong) => panic!("{wrong}"),
        }
    }
    for nth in 0..40 {
        let key = format!("{name}-{nth}");
        match claim_and_end(store, &key) {
            // Ended with the store: what stays open is an orphan afterwards.
            Ok(_) => {}
            Err(error) => tell(&format!("E {} {key}: {error}", kind(&error))),
        }
    }
}

fn virtual_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let size = text.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = size.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    kib << 10
}

/// Takes every descriptor that the limit leaves, but for so many.
fn take_descriptors(but: u64) -> Vec<File> {
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(taken.len() as u64 > but, "the limit leaves {} descriptors", taken.len());
    taken.truncate(taken.len() - but as usize);
    taken
}
