//! Stores in trouble: a simulated disk that fills up or fails, and a directory whose bytes rot.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncelog::storage::{Access, File, Storage};
use oncelog::{Background, Claim, Durability, Error, Fingerprint, OnDamage, Options, Scope, Store};

use crate::disk::SimDisk;

const SEGMENT_BYTES: u64 = 64 * 1024;
const FIRST_SEGMENT: &str = "0000000000000001.seg";

/// A simulated disk that says how much room it has.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    disk: SimDisk,
    bytes_max: Arc<AtomicU64>,
}

impl Device {
    pub(crate) fn new() -> Device {
        Device { disk: SimDisk::new(), bytes_max: Arc::new(AtomicU64::new(1 << 30)) }
    }

    /// A store on it, which does nothing between calls.
    pub(crate) fn open(&self) -> Store {
        let options = Store::options().segment_bytes(SEGMENT_BYTES).background(Background::Inline);
        options.open_on(Arc::new(self.clone())).unwrap()
    }

    /// Has no more room than is taken.
    pub(crate) fn fill(&self) {
        self.bytes_max.store(self.disk.taken(), Ordering::SeqCst);
        self.disk.limit(Some(self.disk.taken()));
    }

    pub(crate) fn make_room(&self) {
        self.bytes_max.store(1 << 30, Ordering::SeqCst);
        self.disk.limit(None);
    }

    /// The next call that changes anything is an error of the device.
    pub(crate) fn fail_next(&self) {
        self.disk.fail_at(self.disk.steps(), io::ErrorKind::Other);
    }
}

impl Storage for Device {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.disk.open(name, access)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        self.disk.create(name, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.bytes_max.load(Ordering::SeqCst).saturating_sub(self.disk.taken()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/v1/contacts", key }
}

fn run(store: &Store, key: &str) -> Result<(), Error> {
    match store.claim(scope(key), Fingerprint::of(b"the request"))? {
        Claim::Granted(permit) => permit.complete(&[b'.'; 700]).map(drop),
        other => panic!("not granted: {other:?}"),
    }
}

/// Runs `PREFIX-0`, `PREFIX-1`, ... until a claim is refused for room.
pub(crate) fn run_until_full(store: &Store, prefix: &str) {
    for number in 0..100_000 {
        match run(store, &format!("{prefix}-{number}")) {
            Ok(()) => {}
            Err(Error::Full { .. }) => return,
            Err(error) => panic!("{prefix}-{number}: {error}"),
        }
    }
    panic!("it is never full");
}

/// Options of small segments, which are scrubbed at once, in a directory of its own.
pub(crate) fn small() -> Options {
    Store::options()
        .segment_bytes(SEGMENT_BYTES)
        .durability(Durability::Buffered { sync_every: Duration::from_secs(1) })
        .scrub_bytes_per_second(1 << 50)
}

/// Fills a store in `dir` until it has three segments, the first with `key-7` in it, and closes it.
pub(crate) fn fill(dir: &Path) {
    let store = small().open(dir).unwrap();
    for number in 0.. {
        run(&store, &format!("key-{number}")).unwrap();
        if store.stats().segments == 3 {
            break;
        }
    }
    store.close().unwrap();
}

/// Flips a bit in the record of `key-7`, or flips it back.
pub(crate) fn flip(dir: &Path) {
    let path = dir.join(FIRST_SEGMENT);
    let mut bytes = std::fs::read(&path).unwrap();
    let key = bytes.windows(5).position(|window| window == b"key-7").expect("its record is there");
    bytes[key + 100] ^= 0x10;
    // In place: the store has it mapped.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes[key..=key + 100], key as u64).unwrap();
}

/// Opens a filled store without its first segment, which was lost with its hint file.
pub(crate) fn open_without_first(dir: &Path) -> Store {
    std::fs::remove_file(dir.join(FIRST_SEGMENT)).unwrap();
    std::fs::remove_file(dir.join(FIRST_SEGMENT.replace("seg", "idx"))).unwrap();
    let refused = small().open(dir);
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    small().on_damage(OnDamage::Quarantine).open(dir).unwrap()
}
