//! Runs of the whole engine on the simulated disk, chosen by the bytes of an input.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use oncelog::{Durability, Status};

use crate::edit::{self, Done, EDIT_BYTES, Files};
use crate::mend::{Place, RECORDS_START, mend_header, mend_record, place, record_bytes, set_lsn};
use crate::support::disk::{SimDisk, Survival};
use crate::support::model::{Driver, Op, Seen, World, with_scope};

/// The length of an operation: what, which key, how much (2).
pub const OP_BYTES: usize = 4;
/// The length of what precedes the operations of a crash: durability, what survives, edits, seed,
/// the step that is cut (2).
pub const CRASH_BYTES: usize = 6;
const OPS_MAX: usize = 200;
/// A run of some dozen operations makes fewer calls than this.
const STEPS_MAX: u64 = 512;
const EDITS_MAX: usize = 8;

/// Any operations give what a map gives, restarts and all.
pub fn sequence(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    let ops = ops(rest);
    let mut driver = Driver::new(SimDisk::new(), durability(mode));
    assert!(driver.run(&ops).is_none(), "an operation failed: {ops:?}");
    assert!(driver.run(&[Op::Reopen]).is_none(), "the store does not open again: {ops:?}");
    let seen = driver.observe().expect("no reads fail");
    assert_eq!(seen, driver.visible(driver.history.last().expect("never empty")));
}

/// Power fails at any call of any operations, and perhaps what is left is damaged: the store opens
/// with what was acknowledged, or is refused, and never answers wrongly.
pub fn crash(input: &[u8]) {
    if input.len() < CRASH_BYTES {
        return;
    }
    let (head, rest) = input.split_at(CRASH_BYTES);
    let edits = usize::from(head[2]) % (EDITS_MAX + 1) * EDIT_BYTES;
    let (edits, rest) = rest.split_at(edits.min(rest.len()));
    let step = u64::from(u16::from_le_bytes([head[4], head[5]])) % STEPS_MAX;
    let mut driver = Driver::new(SimDisk::new(), durability(head[0]));
    driver.disk.crash_at(step);
    let ops = ops(rest);
    let cut = driver.run(&ops);
    driver.die();
    let survival = [Survival::None, Survival::All, Survival::Random][usize::from(head[1]) % 3];
    let mut disk = driver.disk.after_power_cut(u64::from(head[3]), survival);
    let mut done = Done::default();
    if !edits.is_empty() {
        let mut files = files_of(&disk);
        for edit in edits.chunks_exact(EDIT_BYTES) {
            edit::apply(&mut files, edit, &mut done);
        }
        disk = disk_of(&files);
    }
    driver.disk = disk;
    match driver.open() {
        Ok(()) => judge(&mut driver, cut.as_ref(), done),
        Err(error) => assert!(done.damaged, "refused without damage: {error}"),
    }
}

/// A store that was closed is damaged: everything in it was promised, so that what is not found is
/// an error, and nothing else changes. The input is edits and operations, half each.
pub fn damage(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    let (edits, rest) = rest.split_at((rest.len() / 2).min(EDITS_MAX * EDIT_BYTES));
    let mut driver = Driver::new(SimDisk::new(), durability(mode));
    let ops = [ops(rest), vec![Op::Reopen]].concat();
    assert!(driver.run(&ops).is_none(), "an operation failed: {ops:?}");
    driver.die();
    let mut files = files_of(&driver.disk);
    let mut done = Done::default();
    for edit in edits.chunks_exact(EDIT_BYTES) {
        // What else there is to edits is for the other targets.
        edit::apply(&mut files, &[&[edit[0] % 5], &edit[1..]].concat(), &mut done);
    }
    driver.disk = disk_of(&files);
    // CHECKPOINT is what says that all was promised.
    if driver.open().is_err() || done.checkpoint {
        return;
    }
    let expected = driver.visible(driver.history.last().expect("never empty"));
    let store = driver.store.as_ref().expect("open");
    for key in 0..12 {
        let Ok(found) = with_scope(key, |scope| store.lookup(scope)) else { continue };
        match (found, expected.get(&key)) {
            (None, None) => {}
            (Some(Status::Completed(stored)), Some(Seen::Done { response, .. })) => {
                assert_eq!(stored.bytes(), Some(&response[..]), "{key}");
            }
            (Some(Status::Orphaned(_)), Some(Seen::Open { .. })) => {}
            (found, expected) => panic!("{key}: {found:?}, not {expected:?}"),
        }
    }
}

/// Any bytes as the records of an unsealed segment, made right record by record where `input`
/// says so: the store opens or is refused, and opens the same way again.
pub fn tail(input: &[u8]) {
    static STORE: LazyLock<Files> = LazyLock::new(|| {
        let mut driver = Driver::new(SimDisk::new(), Durability::Synced);
        assert!(driver.run(&[Op::Sync]).is_none(), "a new store syncs");
        driver.die();
        files_of(&driver.disk)
    });
    let Some((&mode, records)) = input.split_first() else { return };
    let mut files = STORE.clone();
    let segment = files.get_mut("0000000000000001.seg").expect("a new store has a segment");
    let end = (RECORDS_START + records.len()).min(segment.len());
    segment[RECORDS_START..end].copy_from_slice(&records[..end - RECORDS_START]);
    if mode & 1 != 0 {
        mend_all(&mut segment[..end]);
    }
    let done = Done { damaged: true, forged: true, ..Done::default() };
    let mut driver = Driver::new(disk_of(&files), durability(mode >> 1));
    if driver.open().is_ok() {
        judge(&mut driver, None, done);
    }
}

/// Makes records of whatever there is, each with the LSN that it has to have.
fn mend_all(segment: &mut [u8]) {
    let whole = place(segment, 0);
    let mut lsn = u64::from_le_bytes(segment[48..56].try_into().expect("8 bytes"));
    let mut at = RECORDS_START;
    while at + 34 <= segment.len() {
        let rest = &mut segment[at..];
        let place = Place { offset: at as u64, ..whole };
        // Kinds that exist, so that the bytes behind them are looked at.
        rest[8] = rest[8] % 9 + 1;
        set_lsn(rest, lsn);
        mend_header(rest, place);
        let len = record_bytes(rest);
        mend_record(rest, len, place);
        (at, lsn) = (at + len, lsn + 1);
    }
}

/// Holds a store that opened to what it was, and to itself.
fn judge(driver: &mut Driver, cut: Option<&World>, done: Done) {
    if !done.forged {
        match (driver.observe(), done.damaged) {
            (Ok(shown), false) => check_all(driver, &shown, cut),
            (Ok(shown), true) => check_responses(driver, &shown, cut),
            (Err(error), damaged) => assert!(damaged, "a sound disk cannot be read: {error}"),
        }
    }
    let shown = show(driver);
    // What was forged shows once it is read: a segment whose hints are believed may be read later.
    let recovery = driver.store.as_ref().expect("open").recovery();
    let unread = done.forged && recovery.segments_scanned < recovery.segments;
    // What was shown is durable: it is there after the next power cut too.
    let disk = driver.disk.after_power_cut(0, Survival::None);
    driver.die();
    driver.disk = disk;
    match driver.open() {
        Ok(()) if unread => drop(show(driver)),
        Ok(()) => assert_eq!(show(driver), shown, "the second open shows something else"),
        Err(error) => assert!(done.damaged, "does not open again: {error}"),
    }
}

/// Everything that can be seen of every key, and of every orphan; damage is seen as such.
fn show(driver: &Driver) -> Vec<String> {
    let store = driver.store.as_ref().expect("open");
    let orphans = format!("{:?}", store.unresolved());
    let keys = (0..12).map(|key| format!("{:?}", with_scope(key, |scope| store.lookup(scope))));
    std::iter::once(orphans).chain(keys).collect()
}

/// One of the worlds that were acknowledged, as far back as power cuts may go, or that of the step
/// that was cut.
fn check_all(driver: &Driver, shown: &World, cut: Option<&World>) {
    let oldest = match driver.durability {
        Durability::Synced => driver.history.len() - 1,
        Durability::Buffered { .. } => driver.durable,
    };
    assert!(driver.allows(shown, oldest, cut), "{shown:#?}");
}

/// Damage may take a response away, or a claim, but a response that is shown was given once.
fn check_responses(driver: &Driver, shown: &World, cut: Option<&World>) {
    let mut given: BTreeMap<u64, Vec<&Seen>> = BTreeMap::new();
    for world in driver.history.iter().chain(cut) {
        for (key, seen) in world {
            given.entry(*key).or_default().push(seen);
        }
    }
    for (key, seen) in shown {
        if let Seen::Done { .. } = seen {
            assert!(given.get(key).is_some_and(|all| all.contains(&seen)), "{key}: {seen:?}");
        }
    }
}

fn durability(mode: u8) -> Durability {
    match mode % 2 {
        0 => Durability::Synced,
        _ => Durability::Buffered { sync_every: Duration::from_secs(3_600) },
    }
}

/// Operations of which none is refused: the values stay below what the options allow.
fn ops(input: &[u8]) -> Vec<Op> {
    let each = input.chunks_exact(OP_BYTES).take(OPS_MAX).map(|op| {
        let (key, size) = (u64::from(op[1]) % 12, u16::from_le_bytes([op[2], op[3]]));
        match op[0] % 18 {
            0..5 => Op::Claim(key),
            5..9 => Op::Complete(key, usize::from(size) % 7_000),
            9 => Op::Release(key),
            10 | 11 => Op::Checkpoint(key, usize::from(size) % 400),
            12 => Op::GiveUp(key),
            13 => Op::Sync,
            14 => Op::Pass(Duration::from_secs(u64::from(size))),
            15 => Op::Reopen,
            16 => Op::Forget(key),
            _ => Op::ForgetOrganization(key),
        }
    });
    each.collect()
}

fn files_of(disk: &SimDisk) -> Files {
    disk.names()
        .into_iter()
        .map(|name| (name.clone(), disk.read(&name).unwrap_or_default()))
        .collect()
}

fn disk_of(files: &Files) -> SimDisk {
    let disk = SimDisk::new();
    for (name, bytes) in files {
        disk.write(name, bytes);
    }
    disk
}
