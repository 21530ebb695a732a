//! A primary that dies under load, and the standby that takes its place: what was acknowledged is
//! counted afterwards.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncelog::cluster::PostgresStore;
use oncelog::http::{Administer as _, Answer, Backend as _, Holding, Survives};
use oncelog::{Fingerprint, OperationId, Scope};
use tokio::task::JoinSet;

use crate::server::{Server, options};

const LEASE: Duration = Duration::from_secs(600);
const CALLERS: u64 = 8;
const OPTIONS: &str = "-c wal_keep_size=64MB";

fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/orders", key }
}

fn body() -> Fingerprint {
    Fingerprint::of(b"body")
}

/// What the callers were told.
#[derive(Default)]
struct Ledger {
    granted: Mutex<HashMap<String, OperationId>>,
    completed: Mutex<HashMap<String, OperationId>>,
    twice: AtomicU64,
    answers: AtomicU64,
    unavailable: AtomicU64,
    stop: AtomicBool,
}

/// What came of it.
#[derive(Debug, Default, PartialEq)]
struct Count {
    grants: usize,
    completions: usize,
    unavailable: u64,
    /// Acknowledged grants of a scope that had an acknowledged grant.
    granted_twice: u64,
    /// Acknowledged claims and completions that the store does not hold.
    claims_lost: usize,
    completions_lost: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} grants and {} completions acknowledged, {} unavailable; {} granted twice, {} \
             claims lost, {} completions lost",
            self.grants,
            self.completions,
            self.unavailable,
            self.granted_twice,
            self.claims_lost,
            self.completions_lost
        )
    }
}

impl Ledger {
    /// A client that claims a key of its own after another, and completes it, as long as it takes.
    async fn call(self: Arc<Self>, store: PostgresStore, caller: u64) {
        let mut number = 0;
        while !self.stop.load(Ordering::SeqCst) {
            number += 1;
            self.order(&store, &format!("order-{caller}-{number}")).await;
        }
    }

    async fn order(&self, store: &PostgresStore, key: &str) {
        let permit = loop {
            match store.claim(scope(key), body(), LEASE).await {
                Ok(Answer::Granted(permit)) => break permit,
                // A claim of its own whose acknowledgement was lost: somebody runs it, it thinks.
                Ok(_) => return,
                Err(_) => self.unavailable.fetch_add(1, Ordering::Relaxed),
            };
            tokio::task::yield_now().await;
        };
        let operation = oncelog::http::BackendPermit::operation(&permit);
        if self.granted.lock().unwrap().insert(key.to_owned(), operation).is_some() {
            self.twice.fetch_add(1, Ordering::SeqCst);
        }
        self.answers.fetch_add(1, Ordering::SeqCst);
        loop {
            match store.complete(&permit, &[key.as_bytes()]).await {
                Ok(_) => break,
                Err(oncelog::cluster::PostgresError::Superseded) => return,
                Err(_) => self.unavailable.fetch_add(1, Ordering::Relaxed),
            };
            tokio::task::yield_now().await;
        }
        self.completed.lock().unwrap().insert(key.to_owned(), operation);
        self.answers.fetch_add(1, Ordering::SeqCst);
    }

    async fn answered(&self, more: u64) {
        let upto = self.answers.load(Ordering::SeqCst) + more;
        while self.answers.load(Ordering::SeqCst) < upto {
            tokio::task::yield_now().await;
        }
    }

    /// Asks the store for everything that was acknowledged, and claims it once more.
    async fn count(&self, store: &PostgresStore) -> Count {
        let granted = self.granted.lock().unwrap().clone();
        let completed = self.completed.lock().unwrap().clone();
        let mut count = Count {
            grants: granted.len(),
            completions: completed.len(),
            unavailable: self.unavailable.load(Ordering::SeqCst),
            granted_twice: self.twice.load(Ordering::SeqCst),
            ..Count::default()
        };
        for (key, operation) in &granted {
            match store.look_up(scope(key)).await.unwrap() {
                Some(Holding::Completed(kept)) if kept.operation == *operation => {
                    let whole = kept.response.as_deref() == Some(key.as_bytes());
                    count.completions_lost += usize::from(!whole);
                }
                Some(Holding::InProgress(running)) if running.operation == *operation => {
                    count.completions_lost += usize::from(completed.contains_key(key));
                }
                _ => {
                    count.claims_lost += 1;
                    count.completions_lost += usize::from(completed.contains_key(key));
                }
            }
            let again = store.claim(scope(key), body(), LEASE).await.unwrap();
            count.granted_twice += u64::from(matches!(again, Answer::Granted(_)));
        }
        count
    }
}

/// A primary and its standby, which change places.
struct Pair {
    servers: [Server; 2],
    primary: usize,
}

impl Pair {
    async fn start(standbys: &str) -> Pair {
        let first = Server::start(OPTIONS);
        let second = Server::standby_of(&first, "standby", OPTIONS);
        let pair = Pair { servers: [first, second], primary: 0 };
        pair.streams().await;
        // The standby as well: promoted without it, it would acknowledge what it alone holds.
        for server in &pair.servers {
            let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'");
            server.sql(&set).await;
            server.sql("SELECT pg_reload_conf()").await;
            while server.tell("SHOW synchronous_standby_names").await != standbys {}
        }
        pair
    }

    /// Both places; whichever takes writes is found.
    fn url(&self) -> String {
        let hosts = self.servers.each_ref().map(|server| {
            let url = server.url();
            url["host=".len()..].split(' ').next().unwrap().to_owned()
        });
        format!(
            "host={} user=postgres dbname=postgres target_session_attrs=read-write",
            hosts.join(",")
        )
    }

    async fn streams(&self) {
        let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        while self.servers[self.primary].tell(streaming).await != "1" {
            tokio::task::yield_now().await;
        }
    }

    async fn fail_over(&mut self) {
        let (old, new) = (self.primary, 1 - self.primary);
        self.servers[old].kill();
        self.servers[new].promote();
        self.primary = new;
        self.servers[old].follow(&self.servers[new], "standby");
        // Its settings come with the copy.
        self.servers[old].run(OPTIONS);
        self.streams().await;
    }
}

async fn fail_over_under_load(standbys: &str, times: usize) -> (Count, Survives) {
    let mut pair = Pair::start(standbys).await;
    let store = options("failover").connections(CALLERS as usize + 2);
    let store = store.time_limit(Duration::from_secs(60)).connect(&pair.url()).await.unwrap();
    let ledger = Arc::new(Ledger::default());
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(Arc::clone(&ledger).call(store.clone(), caller));
    }
    for _ in 0..times {
        ledger.answered(200).await;
        pair.fail_over().await;
    }
    ledger.answered(200).await;
    ledger.stop.store(true, Ordering::SeqCst);
    callers.join_all().await;
    (ledger.count(&store).await, store.promises().survives)
}

fn failovers() -> usize {
    std::env::var("ONCELOG_FAILOVERS").map_or(2, |times| times.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_synchronous_standby_a_failover_loses_and_doubles_nothing() {
    let (count, survives) = fail_over_under_load("*", failovers()).await;
    println!("{} failovers, synchronous: {count}", failovers());
    assert_eq!(survives, Survives::MachineLoss);
    assert!(count.grants > 200 && count.completions > 200, "{count}");
    assert_eq!((count.granted_twice, count.claims_lost, count.completions_lost), (0, 0, 0));
}

/// What asynchronous replication loses depends on the moment; that all is accounted for does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_asynchronous_standby_every_loss_is_counted_as_one() {
    let (count, survives) = fail_over_under_load("", failovers()).await;
    println!("{} failovers, asynchronous: {count}", failovers());
    assert_eq!(survives, Survives::PowerLoss);
    assert!(count.granted_twice >= count.claims_lost as u64, "{count}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_count_finds_what_a_standby_that_was_cut_off_had_not_received() {
    let pair = Pair::start("").await;
    let store = options("failover").connect(&pair.url()).await.unwrap();
    let ledger = Arc::new(Ledger::default());
    ledger.order(&store, "order-before").await;
    let [primary, standby] = &pair.servers;
    // A standby has the schema and the first order before it is cut off.
    let received = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= \
        pg_current_wal_flush_lsn()";
    while primary.tell(received).await != "1" {}
    standby.sql("ALTER SYSTEM SET primary_conninfo = ''").await;
    standby.sql("SELECT pg_reload_conf()").await;
    while standby.tell("SELECT count(*) FROM pg_stat_wal_receiver").await != "0" {}
    for number in 0..10 {
        ledger.order(&store, &format!("order-{number}")).await;
    }
    primary.kill();
    standby.promote();
    let store = options("failover").connect(&pair.url()).await.unwrap();
    let count = ledger.count(&store).await;
    println!("a standby that was cut off: {count}");
    assert_eq!((count.granted_twice, count.claims_lost, count.completions_lost), (10, 10, 10));
}
