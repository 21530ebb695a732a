//! Runs a test under many schedules, on a disk where each call lets others run.

use std::any::Any;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oncelog::storage::{Access, File, Storage};
use oncelog::{Background, Claim, Durability, Fingerprint, ManualClock, Options, Scope, Store};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

use crate::disk::{SimDisk, Survival};

/// Longer than any wait that a test lets happen.
pub(crate) const LONG: Duration = Duration::from_secs(1_000_000);

/// How many schedules of each kind a test is run under.
fn schedules() -> usize {
    std::env::var("ONCELOG_SCHEDULES").map_or(100, |count| count.parse().expect("a number"))
}

/// Runs `body` under random schedules, and under some that prefer one thread until they change
/// their mind at a few points, which finds what needs a long delay.
pub(crate) fn explore(body: impl Fn() + Copy + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 512 * 1024;
    config.max_steps = MaxSteps::FailAfter(5_000_000);
    // An atomic is as if it were sequentially consistent; `loom` looks at the orderings.
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new(schedules()), config.clone()).run(body);
    Runner::new(PctScheduler::new(3, schedules()), config).run(body);
}

/// Explores `body` once for each way to commit.
pub(crate) fn explore_modes(body: fn(Durability, Background)) {
    let buffered = Durability::Buffered { sync_every: Duration::from_millis(10) };
    explore(move || body(Durability::Synced, Background::Threads));
    explore(move || body(Durability::Synced, Background::Inline));
    explore(move || body(buffered, Background::Threads));
    explore(move || body(buffered, Background::Inline));
}

pub(crate) fn fingerprint() -> Fingerprint {
    Fingerprint::from_bytes([7; 16])
}

pub(crate) fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "", method: "POST", path: "/", key }
}

/// A simulated disk that stays when its store is gone.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) sim: SimDisk,
    pub(crate) clock: ManualClock,
}

impl Disk {
    pub(crate) fn new() -> Disk {
        let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        Disk { sim: SimDisk::new(), clock }
    }

    pub(crate) fn options(&self) -> Options {
        let day = Duration::from_secs(24 * 3_600);
        let clock = self.clock.clone();
        Store::options().segment_bytes(64 * 1024).ttl(day).bucket(day / 4).clock(clock)
    }

    pub(crate) fn open(&self, durability: Durability, background: Background) -> Store {
        self.open_with(self.options().durability(durability).background(background))
    }

    pub(crate) fn open_with(&self, options: Options) -> Store {
        options.open_on(Arc::new(Yielding(self.sim.clone()))).expect("a sound disk")
    }

    /// The store that is there after a power cut that keeps no more than was synced.
    pub(crate) fn after_power_cut(&self) -> Store {
        let sim = self.sim.after_power_cut(0, Survival::None);
        let options = self.options().background(Background::Inline);
        options.open_on(Arc::new(sim)).expect("a power cut is no damage")
    }

    /// The store that is there after the death of the process.
    pub(crate) fn after_kill(&self) -> Store {
        let options = self.options().background(Background::Inline);
        options.open_on(Arc::new(self.sim.after_kill())).expect("a kill is no damage")
    }
}

/// Claims a free scope and completes it.
pub(crate) fn fill(store: &Store, key: &str, response: &[u8]) {
    match store.claim(scope(key), fingerprint()).expect("a sound store") {
        Claim::Granted(permit) => {
            permit.complete(response).expect("a sound store");
        }
        other => panic!("{key} is {}", other.kind()),
    }
}

/// The response of a scope, which has one.
pub(crate) fn response(store: &Store, key: &str) -> Vec<u8> {
    match store.claim(scope(key), fingerprint()).expect("a sound store") {
        Claim::Replay(stored) => stored.bytes().expect("it was kept").to_vec(),
        other => panic!("{key} is {}", other.kind()),
    }
}

/// Lets others run before and after every call that takes time on a real disk.
#[derive(Debug)]
struct Yielding(SimDisk);

#[derive(Debug)]
struct YieldingFile(Arc<dyn File>);

fn others_run<T>(call: impl FnOnce() -> T) -> T {
    shuttle::thread::yield_now();
    let done = call();
    shuttle::thread::yield_now();
    done
}

impl Storage for Yielding {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.0.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(YieldingFile(others_run(|| self.0.open(name, access))?)))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(YieldingFile(others_run(|| self.0.create(name, bytes))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        others_run(|| self.0.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        others_run(|| self.0.remove(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        others_run(|| self.0.sync_dir())
    }
}

impl File for YieldingFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        others_run(|| self.0.read_at(offset, out))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        others_run(|| self.0.write_at(offset, bytes))
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        others_run(|| self.0.allocate(range.clone()))
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        others_run(|| self.0.discard(range.clone()))
    }

    fn sync(&self) -> io::Result<()> {
        others_run(|| self.0.sync())
    }
}
