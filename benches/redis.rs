//! Claim and complete on a Redis server of its own, against the least that a caller could do by
//! hand: a bare `SET NX PX` and `SET PX` of values of the same size, by the same client crate.
//!
//! Both take turns on one server, in rounds, and the medians of their rates are compared. Wants
//! Debian's redis-server.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "it measures time, and a server that is not there fails it"
)]

mod common;
#[path = "../tests/redis/server.rs"]
#[expect(dead_code, reason = "the tests need more of a server")]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{fingerprint, is_measured, key, median, response, scope};
use oncelog::cluster::RedisStore;
use oncelog::http::{Answer, Backend as _};
use redis::Value;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::server::Server;

const CALLERS: [u64; 3] = [1, 16, 64];
const LEASE: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(3600);
/// What a record holds besides the response: its head, its stamp, and the scope's own bytes.
const HEAD_BYTES: usize = 80;
const STAMP_BYTES: usize = 8;

fn main() {
    let (rounds, pairs) = if is_measured() { (15, 6_000) } else { (1, 64) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for persistence in ["no", "yes"] {
        let server = Server::start(&["appendonly", persistence]);
        runtime.block_on(compare(&server, persistence, rounds, pairs));
    }
}

async fn compare(server: &Server, persistence: &str, rounds: usize, pairs: u64) {
    let bench = Arc::new(Bench::open(server).await);
    for callers in CALLERS {
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..rounds + 1 {
            let ours = run(&bench, callers, pairs, Bench::ours).await;
            let bare = run(&bench, callers, pairs, Bench::bare).await;
            // The first round warms both up.
            if round > 0 || rounds == 1 {
                rates[0].push(ours);
                rates[1].push(bare);
            }
        }
        let [ours, bare] = rates.map(median);
        println!(
            "claim+complete/appendonly={persistence} callers={callers}: {ours:.0}/s, bare \
             {bare:.0}/s, ratio {:.2}",
            ours / bare
        );
    }
}

/// Pairs a second by so many callers at once.
async fn run<F>(bench: &Arc<Bench>, callers: u64, pairs: u64, pair: fn(Arc<Bench>, u64) -> F) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let bench = Arc::clone(bench);
        tasks.spawn(async move {
            for _ in 0..pairs / callers {
                // Relaxed: each key is taken once, and that is all.
                let number = bench.next.fetch_add(1, Ordering::Relaxed);
                pair(Arc::clone(&bench), number).await;
            }
        });
    }
    tasks.join_all().await;
    (pairs / callers * callers) as f64 / begun.elapsed().as_secs_f64()
}

struct Bench {
    store: RedisStore,
    bare: ConnectionManager,
    next: AtomicU64,
}

impl Bench {
    async fn open(server: &Server) -> Bench {
        let store = RedisStore::options().ttl(TTL).connect(&server.url()).await.unwrap();
        let client = redis::Client::open(server.url() + "?protocol=resp3").unwrap();
        let config = ConnectionManagerConfig::new().set_response_timeout(Some(LEASE));
        let bare = client.get_connection_manager_with_config(config).await.unwrap();
        Bench { store, bare, next: AtomicU64::new(0) }
    }

    async fn ours(bench: Arc<Bench>, number: u64) {
        let key = key(number);
        let answer = bench.store.claim(scope(&key), fingerprint(), LEASE).await.unwrap();
        let Answer::Granted(permit) = answer else { panic!("a fresh key is granted") };
        let completed = bench.store.complete(&permit, &[response(number)]).await.unwrap();
        assert_eq!(completed.response.as_deref(), Some(response(number)));
    }

    async fn bare(bench: Arc<Bench>, number: u64) {
        let key = key(number);
        let scope = scope(&key);
        let mut name = b"bare".to_vec();
        name.resize(8, b':');
        name.extend_from_slice(&scope.digest());
        let texts = [scope.organization, scope.method, scope.path, scope.key];
        let scope_bytes: usize = 6 + texts.iter().map(|text| text.len()).sum::<usize>();
        let mut value = vec![b'v'; HEAD_BYTES + scope_bytes];
        let ttl_ms = TTL.as_secs() * 1000;
        let mut set = redis::cmd("SET");
        set.arg(&name[..]).arg(&value[..]).arg("NX").arg("PX").arg(ttl_ms);
        let mut server = bench.bare.clone();
        assert_eq!(server.send_packed_command(&set).await.unwrap(), Value::Okay);
        value.extend_from_slice(response(number));
        value.resize(value.len() + STAMP_BYTES, 0);
        let mut set = redis::cmd("SET");
        set.arg(&name[..]).arg(&value[..]).arg("PX").arg(ttl_ms);
        assert_eq!(server.send_packed_command(&set).await.unwrap(), Value::Okay);
    }
}
