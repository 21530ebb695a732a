//! The conformance suite, unchanged, on real servers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncelog::cluster::RedisStore;
use oncelog::conformance::{Harness, run, run_administer};
use oncelog::http::{Backend as _, Evicts, Survives};

use crate::cluster::Cluster;
use crate::server::Server;

/// What dies in a crash.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Crash {
    /// The store's process: all its connections.
    Client,
    /// The server too, by `kill -9`.
    Server,
}

pub(crate) struct Servers {
    servers: Mutex<Vec<Server>>,
    url: String,
    crash: Crash,
    fresh: AtomicU64,
    ttl: Mutex<Duration>,
}

impl Servers {
    pub(crate) fn of(servers: Vec<Server>, url: String, crash: Crash) -> Servers {
        let (fresh, ttl) = (AtomicU64::new(0), Mutex::default());
        Servers { servers: Mutex::new(servers), url, crash, fresh, ttl }
    }

    async fn connect(&self) -> RedisStore {
        let prefix = format!("case-{}", self.fresh.load(Ordering::Relaxed));
        let options = RedisStore::options().prefix(&prefix).ttl(*self.ttl.lock().unwrap());
        options.connect(&self.url).await.unwrap()
    }
}

impl Harness for Servers {
    type Backend = RedisStore;

    async fn fresh(&self, ttl: Duration) -> RedisStore {
        self.fresh.fetch_add(1, Ordering::Relaxed);
        *self.ttl.lock().unwrap() = ttl;
        self.connect().await
    }

    async fn pass(&self, time: Duration) {
        for server in &*self.servers.lock().unwrap() {
            // A replica takes the change from its primary.
            if server.ask::<String>(&["INFO", "replication"]).contains("role:master") {
                server.pass(time);
            }
        }
    }

    fn shortest_lease(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn crash(&self, store: RedisStore) -> RedisStore {
        drop(store);
        if self.crash == Crash::Server {
            for server in &mut *self.servers.lock().unwrap() {
                server.kill();
                server.launch();
            }
        }
        self.connect().await
    }
}

/// Runs the suite; what the store promises is the other thing that is wanted.
async fn conforms(servers: Servers, survives: Survives) {
    let store = servers.fresh(Duration::from_secs(60)).await;
    assert_eq!((store.promises().survives, store.promises().evicts), (survives, Evicts::Never));
    let report = run(&servers).await;
    assert_eq!(report.failed, [], "{report}");
    assert_eq!(report.passed.len(), 21);
    let report = run_administer(&servers).await;
    assert_eq!(report.failed, [], "{report}");
    assert_eq!(report.passed.len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_syncs_every_write_conforms_through_kills() {
    let server = Server::start(&["appendonly", "yes", "appendfsync", "always"]);
    let url = server.url();
    conforms(Servers::of(vec![server], url, Crash::Server), Survives::PowerLoss).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_syncs_every_second_conforms() {
    let server = Server::start(&["appendonly", "yes", "appendfsync", "everysec"]);
    let url = server.url();
    conforms(Servers::of(vec![server], url, Crash::Client), Survives::ProcessDeath).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_conforms() {
    let cluster = Cluster::start(&[]);
    let url = cluster.url();
    conforms(Servers::of(cluster.servers, url, Crash::Client), Survives::ProcessDeath).await;
}
