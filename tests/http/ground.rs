//! What the layer stands on in this target: embedded stores in scratch directories, under a clock
//! that is moved by hand.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use oncelog::conformance::Harness;
use oncelog::{ManualClock, Options, Store};
use tempfile::TempDir;

pub(crate) struct Ground {
    pub(crate) clock: ManualClock,
    newest: Mutex<Option<(TempDir, Store)>>,
}

pub(crate) fn options() -> Options {
    Store::options().segment_bytes(8 << 20)
}

impl Ground {
    pub(crate) fn new() -> Ground {
        let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30));
        Ground { clock, newest: Mutex::default() }
    }

    /// The newest store for one more server.
    pub(crate) async fn another(&self) -> Store {
        let newest = self.newest.lock().unwrap();
        let (_, store) = newest.as_ref().expect("a first server has it");
        store.clone()
    }

    fn keep(&self, dir: TempDir, ttl: Duration) -> Store {
        let store = options().ttl(ttl).clock(self.clock.clone()).open(dir.path()).unwrap();
        *self.newest.lock().unwrap() = Some((dir, store.clone()));
        store
    }
}

impl Harness for Ground {
    type Backend = Store;

    async fn fresh(&self, ttl: Duration) -> Store {
        self.keep(tempfile::tempdir().unwrap(), ttl)
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn shortest_lease(&self) -> Duration {
        // The default of the store.
        Duration::from_secs(60)
    }

    async fn crash(&self, store: Store) -> Store {
        let ttl = store.ttl();
        store.close().unwrap();
        let (dir, _) = self.newest.lock().unwrap().take().expect("it was fresh");
        self.keep(dir, ttl)
    }
}
