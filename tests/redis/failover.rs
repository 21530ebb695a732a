//! Primaries killed under load, their replicas promoted: what was acknowledged, and what of it is
//! there afterwards, per setting.
//!
//! `ONCELOG_FAILOVERS` says how many, 3 by default.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oncelog::cluster::RedisStore;
use oncelog::http::{Administer as _, Answer, Backend as _, BackendPermit as _, Holding};
use oncelog::{OperationId, Scope};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::records::{KEY, LEASE, body};

const CALLERS: u64 = 8;

/// What one caller was told about one scope.
pub(crate) struct Acknowledged {
    key: String,
    operation: OperationId,
    completed: bool,
}

/// What became of what was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) claims: u64,
    pub(crate) completions: u64,
    /// Claims that are gone: the next caller runs the operation a second time.
    pub(crate) duplicates: u64,
    /// Responses that are gone, the claim being there: an orphan, whose outcome is unknown.
    pub(crate) lost: u64,
    /// Calls that were told that the store is unavailable.
    pub(crate) refused: u64,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: Outcome) {
        self.claims += other.claims;
        self.completions += other.completions;
        self.duplicates += other.duplicates;
        self.lost += other.lost;
        self.refused += other.refused;
    }
}

/// Callers that claim and complete one fresh scope after the other, until they are told to end.
pub(crate) struct Load {
    callers: JoinSet<(Vec<Acknowledged>, u64)>,
    ends: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Load {
    pub(crate) fn start(store: &RedisStore, keys: &str) -> Load {
        let (ends, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let keys = format!("{keys}-{caller}");
            callers.spawn(call(store.clone(), keys, Arc::clone(&ends), Arc::clone(&done)));
        }
        Load { callers, ends, done }
    }

    /// Waits until so many more operations were acknowledged.
    pub(crate) async fn go_on(&self, operations: u64) {
        let wanted = self.done.load(Ordering::SeqCst) + operations;
        let wait = async {
            while self.done.load(Ordering::SeqCst) < wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(crate::server::SOON, wait).await.expect("the load goes on");
    }

    pub(crate) async fn end(self) -> (Vec<Acknowledged>, u64) {
        self.ends.store(true, Ordering::SeqCst);
        let told = self.callers.join_all().await;
        let refused = told.iter().map(|(_, refused)| refused).sum();
        (told.into_iter().flat_map(|(acknowledged, _)| acknowledged).collect(), refused)
    }
}

async fn call(
    store: RedisStore,
    keys: String,
    ends: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> (Vec<Acknowledged>, u64) {
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    for number in 0_u64.. {
        if ends.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("{keys}-{number}");
        let scope = Scope { key: &key, ..KEY };
        let Ok(Answer::Granted(permit)) = store.claim(scope, body(), LEASE).await else {
            refused += 1;
            continue;
        };
        let operation = permit.operation();
        let completed = store.complete(&permit, &[key.as_bytes()]).await.is_ok();
        refused += u64::from(!completed);
        acknowledged.push(Acknowledged { key, operation, completed });
        done.fetch_add(1, Ordering::SeqCst);
    }
    (acknowledged, refused)
}

/// Looks for everything that was acknowledged.
pub(crate) async fn look(store: &RedisStore, acknowledged: &[Acknowledged]) -> Outcome {
    let mut outcome = Outcome::default();
    for Acknowledged { key, operation, completed } in acknowledged {
        outcome.claims += 1;
        outcome.completions += u64::from(*completed);
        let scope = Scope { key, ..KEY };
        match store.look_up(scope).await.expect("the servers are whole again") {
            Some(Holding::Completed(kept)) => {
                assert_eq!(
                    (kept.operation, kept.response.as_deref()),
                    (*operation, Some(key.as_bytes()))
                );
            }
            Some(Holding::InProgress(open)) if open.operation == *operation => {
                outcome.lost += u64::from(*completed);
            }
            Some(Holding::Orphaned(open)) if open.operation == *operation => {
                outcome.lost += u64::from(*completed);
            }
            _ => outcome.duplicates += 1,
        }
    }
    outcome
}

/// What the environment asks for, or 3.
fn failovers() -> usize {
    std::env::var("ONCELOG_FAILOVERS").map_or(3, |number| number.parse().expect("a number"))
}

pub(crate) async fn connect(url: &str, replicas: u32) -> RedisStore {
    let options = RedisStore::options().connections(4).replicas(replicas, WITHIN);
    options.connect(url).await.unwrap()
}

const WITHIN: Duration = Duration::from_millis(200);

async fn fail_over(cluster: &mut Cluster, replicas: u32, rounds: usize) -> Outcome {
    let mut all = Outcome::default();
    for round in 0..rounds {
        let store = connect(&cluster.url(), replicas).await;
        let load = Load::start(&store, &format!("wait-{replicas}-{round}"));
        load.go_on(200).await;
        let primaries = cluster.primaries();
        let killed = primaries[round % primaries.len()];
        cluster.servers[killed].kill();
        cluster.wait_until_promoted().await;
        load.go_on(200).await;
        let (acknowledged, refused) = load.end().await;
        cluster.servers[killed].launch();
        cluster.wait_until_whole();
        let mut outcome = look(&store, &acknowledged).await;
        outcome.refused = refused;
        all.add(outcome);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_wait_1_a_failover_loses_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::start(&[]);
    for replicas in [0, 1] {
        let outcome = fail_over(&mut cluster, replicas, failovers()).await;
        println!("WAIT {replicas}, {} primaries killed: {outcome:?}", failovers());
        assert!(outcome.completions > 0 && outcome.refused > 0, "the load ran into a failover");
        if replicas > 0 {
            assert_eq!((outcome.duplicates, outcome.lost), (0, 0), "{outcome:?}");
        }
    }
}
