//! What a claim and its completion cost in PostgreSQL, beside a bare INSERT and UPDATE of a row of
//! the same size, by the same client through a pool of the same size on the same server.
//!
//! Both sides run in alternating rounds on a server of the bench's own, with its commits synced.
//! The store has a closed generation with rows in it, as one does that has run for longer than its
//! ttl; the bare table has as many rows. Wants root and Debian's postgresql.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a bench measures the time, and a step of it that fails fails the bench"
)]

mod common;
#[path = "../tests/witness/programs.rs"]
mod programs;
#[path = "../tests/postgres/server.rs"]
#[expect(dead_code, reason = "the tests need more of a server")]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use oncelog::cluster::PostgresStore;
use oncelog::http::{Answer, Backend as _};
use oncelog::{Fingerprint, Scope};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use crate::common::{is_measured, median};
use crate::server::{Server, options, rotate};

const RESPONSE: &[u8] = &[b'r'; 256];
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(1500);
/// Rows of the closed generation, and of the bare table before it is measured.
const ROWS: u64 = 100_000;

const BARE: &str =
    "CREATE TABLE bare (LIKE bench.claim); ALTER TABLE bare ADD PRIMARY KEY (digest)";
const INSERT: &str = "INSERT INTO bare (token, claimed_at, lease_until, expires_at, generation, \
    attempt, state, operation, fingerprint, digest, scope) \
    VALUES ($1, statement_timestamp(), statement_timestamp() + '1 min'::interval, \
    statement_timestamp() + '1 hour'::interval, 1, 1, 0, '0190c0de-0000-8000-8000-000000000001', \
    '0190c0de-0000-8000-8000-000000000001', $2, $3)";
const UPDATE: &str = "UPDATE bare SET state = 1, completed_at = statement_timestamp(), \
    expires_at = statement_timestamp() + '1 hour'::interval, body = $2 WHERE digest = $1";

static NEXT: AtomicU64 = AtomicU64::new(0);

#[derive(Clone)]
enum Side {
    Bare(Pool),
    Store(PostgresStore),
}

fn main() {
    if !is_measured() {
        return;
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let server = Server::start("-c shared_buffers=512MB -c max_wal_size=8GB");
    let store = options("bench").connections(CONNECTIONS).connect(&server.url()).await.unwrap();
    fill(&server).await;
    let mut config: tokio_postgres::Config = server.url().parse().unwrap();
    config.options("-c plan_cache_mode=force_generic_plan");
    let recycling_method = RecyclingMethod::Fast;
    let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
    let pool = Pool::builder(manager).max_size(CONNECTIONS).build().unwrap();
    let sides = [Side::Bare(pool), Side::Store(store)];
    for callers in [1, 16, 64] {
        for side in &sides {
            pairs(side, callers, ROUND / 3).await;
        }
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            let mut told = [0.0; 2];
            for turn in 0..2 {
                let which = (turn + round) % 2;
                told[which] = pairs(&sides[which], callers, ROUND).await;
            }
            rounds.push(told);
        }
        let bare = median(rounds.iter().map(|told| told[0]).collect());
        let ours = median(rounds.iter().map(|told| told[1]).collect());
        let ratio = median(rounds.iter().map(|told| told[1] / told[0]).collect());
        println!(
            "claim+complete/callers={callers}: {ours:.0} pairs/s, bare {bare:.0}, ratio {ratio:.2}"
        );
    }
}

/// Rows of earlier days, in a closed generation and in the bare table.
async fn fill(server: &Server) {
    for generation in 1..=1 {
        server
            .sql(&format!(
                "INSERT INTO bench.claim_{generation} SELECT n, statement_timestamp(), \
                 statement_timestamp(), statement_timestamp() + '1 hour', statement_timestamp(), \
                 {generation}, 1, 1, NULL, gen_random_uuid(), gen_random_uuid(), \
                 sha256(int8send(n * 3 + {generation})), '\\x00', NULL, repeat('r', 256)::bytea \
                 FROM generate_series(1, {ROWS}) n"
            ))
            .await;
        rotate(server, "bench").await;
    }
    server.sql(BARE).await;
    server.sql("INSERT INTO bare SELECT * FROM bench.claim").await;
    server.sql("ANALYZE; CHECKPOINT").await;
}

/// How many pairs a second so many callers get through.
async fn pairs(side: &Side, callers: usize, time: Duration) -> f64 {
    let begun = Instant::now();
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (side, done) = (side.clone(), Arc::clone(&done));
        tasks.spawn(async move {
            while begun.elapsed() < time {
                side.pair(NEXT.fetch_add(1, Ordering::Relaxed)).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tasks.join_all().await;
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

impl Side {
    async fn pair(&self, number: u64) {
        let key = format!("order-{number:020}");
        let scope = Scope { organization: "acme", method: "POST", path: "/v1/invoices", key: &key };
        match self {
            Side::Store(store) => {
                let fingerprint = Fingerprint::of(b"body");
                let claimed = store.claim(scope, fingerprint, Duration::from_secs(60)).await;
                let Answer::Granted(permit) = claimed.unwrap() else { panic!("it is a new key") };
                let completed = store.complete(&permit, &[RESPONSE]).await.unwrap();
                assert_eq!(completed.token, permit_token(&permit));
            }
            Side::Bare(pool) => {
                let digest = scope.digest();
                let connection = pool.get().await.unwrap();
                let insert = connection.prepare_cached(INSERT).await.unwrap();
                let token = i64::try_from(number).unwrap();
                let name = format!("000000acmePOST/v1/invoices{key}");
                let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                    [&token, &&digest[..], &name.as_bytes()];
                assert_eq!(connection.execute(&insert, &values).await.unwrap(), 1);
                drop(connection);
                let connection = pool.get().await.unwrap();
                let update = connection.prepare_cached(UPDATE).await.unwrap();
                let changed = connection.execute(&update, &[&&digest[..], &RESPONSE]).await;
                assert_eq!(changed.unwrap(), 1);
            }
        }
    }
}

fn permit_token(permit: &oncelog::cluster::PostgresPermit) -> oncelog::Token {
    oncelog::http::BackendPermit::token(permit)
}
