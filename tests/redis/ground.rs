//! What the layer stands on in this target: claims in one server that all tests share, each under
//! a prefix of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use oncelog::cluster::RedisStore;
use oncelog::conformance::Harness;

use crate::server::Server;

pub(crate) struct Ground {
    server: Arc<Server>,
    prefix: String,
    ttl: Mutex<Duration>,
}

fn shared() -> Arc<Server> {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(started());
        *shared = Arc::downgrade(&server);
        server
    })
}

/// A server that outlives the test that wants it first: the kernel ends it with the thread that
/// started it, which is one of no test.
fn started() -> Server {
    let (started, starts) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        started.send(Server::start(&[])).expect("somebody wants it");
        loop {
            std::thread::park();
        }
    });
    starts.recv().expect("it starts")
}

impl Ground {
    pub(crate) fn new() -> Ground {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let prefix = format!("layer-{}:", NEXT.fetch_add(1, Ordering::Relaxed));
        Ground { server: shared(), prefix, ttl: Mutex::default() }
    }

    /// A store for one more server of the API, with connections of its own.
    pub(crate) async fn another(&self) -> RedisStore {
        let options = RedisStore::options().prefix(&self.prefix).ttl(*self.ttl.lock().unwrap());
        options.connect(&self.server.url()).await.unwrap()
    }
}

impl Harness for Ground {
    type Backend = RedisStore;

    async fn fresh(&self, ttl: Duration) -> RedisStore {
        *self.ttl.lock().unwrap() = ttl;
        self.another().await
    }

    async fn pass(&self, time: Duration) {
        self.server.pass_for(&format!("{}*", self.prefix), time);
    }

    fn shortest_lease(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn crash(&self, store: RedisStore) -> RedisStore {
        drop(store);
        self.another().await
    }
}
