//! What the drop of a million responses costs, and those who claim meanwhile: a measurement, which
//! runs where it is named.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oncelog::cluster::PostgresStore;
use oncelog::http::{Answer, Backend as _};
use oncelog::{Fingerprint, Scope};
use tokio::task::JoinSet;

use crate::server::{Server, TTL, options, rotate, shift};

const ROWS: u64 = 1_000_000;
const CALLERS: usize = 8;
/// Responses of this many bytes.
const RESPONSE: usize = 256;
/// How long claims go on beside a drop, and how long without.
const WINDOW: Duration = Duration::from_secs(5);

/// Claims and completes until it is told to stop; how long each pair took.
async fn load(store: PostgresStore, name: String, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let (mut took, mut number) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{name}-{number}");
        let scope = Scope { organization: "acme", method: "POST", path: "/orders", key: &key };
        let begun = Instant::now();
        let claimed = store.claim(scope, Fingerprint::of(b"body"), Duration::from_secs(60)).await;
        let Answer::Granted(permit) = claimed.unwrap() else { panic!("it is a new key") };
        took.push(begun.elapsed());
        store.complete(&permit, &[&[b'r'; RESPONSE]]).await.unwrap();
    }
    took
}

/// Claims under load while something else goes on; the 99th of a hundred of them.
async fn p99_beside<T>(
    store: &PostgresStore,
    name: &str,
    deed: impl Future<Output = T>,
) -> (Duration, T) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let name = format!("{name}-{caller}");
        callers.spawn(load(store.clone(), name, Arc::clone(&stop)));
    }
    let done = deed.await;
    stop.store(true, Ordering::Relaxed);
    let mut took: Vec<Duration> = callers.join_all().await.into_iter().flatten().collect();
    took.sort_unstable();
    (took[took.len() * 99 / 100], done)
}

/// Lets real time pass on the server.
async fn pass(server: &Server, time: Duration) {
    server.sql(&format!("SELECT pg_sleep_for('{} ms')", time.as_millis())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of a minute, for a machine of its own"]
async fn a_million_responses_are_dropped_in_100_ms_and_claims_hardly_notice() {
    // The log tells how long a statement took, of those that took long.
    let server = Server::start(
        "-c shared_buffers=512MB -c max_wal_size=8GB -c log_min_duration_statement=1 \
         -c log_line_prefix=%p%20",
    );
    let store = options("big").connections(CALLERS + 4).connect(&server.url()).await.unwrap();
    let ttl = TTL.as_secs();
    server
        .sql(&format!(
            "INSERT INTO big.claim_1 SELECT n, statement_timestamp(), statement_timestamp(), \
             statement_timestamp() + '{ttl} seconds', statement_timestamp(), 1, 1, 1, NULL, \
             gen_random_uuid(), gen_random_uuid(), sha256(int8send(n)), repeat('s', 60)::bytea, \
             NULL, repeat('r', {RESPONSE})::bytea FROM generate_series(1, {ROWS}) n"
        ))
        .await;
    rotate(&server, "big").await;
    server.sql("CHECKPOINT").await;
    let (without, ()) = p99_beside(&store, "before", pass(&server, WINDOW)).await;
    let past = ttl + 120;
    shift(&server, "big", past).await;
    let (beside, (dropped, all)) = p99_beside(&store, "beside", async {
        let begun = Instant::now();
        let dropped = store.expire().await.unwrap();
        let all = begun.elapsed();
        // Claims after it count as well: a file system may work on.
        pass(&server, WINDOW.saturating_sub(all)).await;
        (dropped, all)
    })
    .await;
    assert_eq!(dropped.partitions, 1);
    let [drop, commit] = took(&server.log());
    println!(
        "{ROWS} rows, {} MiB: DROP {:.1} ms, its COMMIT with the unlink {:.1} ms, all with both \
         scans {} ms; an unlink of as many bytes {} ms; p99 of claims {:.1} ms, without {:.1} ms",
        dropped.bytes >> 20,
        drop,
        commit,
        all.as_millis(),
        unlink(dropped.bytes).as_millis(),
        beside.as_secs_f64() * 1e3,
        without.as_secs_f64() * 1e3,
    );
    assert!(beside <= without * 2, "p99 {beside:?} beside a drop, {without:?} without");
}

/// How long the DROP and the COMMIT after it took, in milliseconds, as the server's log has it.
fn took(log: &str) -> [f64; 2] {
    let mut after = log.lines().skip_while(|line| !line.contains("DROP TABLE"));
    let drop = after.next().expect("the drop took more than a millisecond");
    let pid = drop.split(' ').next().expect("a line begins with the process");
    let commit = after.find(|line| line.starts_with(pid) && line.ends_with("COMMIT"));
    [drop, commit.expect("its commit as well")].map(|line| {
        let (_, rest) = line.split_once("duration: ").expect("a line with a duration");
        rest.split(' ').next().expect("a number").parse().unwrap()
    })
}

/// How long the file system takes to unlink a file of so many bytes.
fn unlink(bytes: u64) -> Duration {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&chunk).unwrap();
    }
    file.as_file().sync_all().unwrap();
    let begun = Instant::now();
    file.close().unwrap();
    begun.elapsed()
}
