//! A server that does not answer, and one whose disk is full.

use std::process::Command;
use std::time::Duration;

use oncelog::cluster::PostgresStore;
use oncelog::http::{Answer, Backend as _, BackendError as _, BackendPermit as _, ErrorKind};
use oncelog::{Fingerprint, Scope};
use tempfile::TempDir;

use crate::programs::succeed;
use crate::server::{Server, options};

const LEASE: Duration = Duration::from_secs(60);

fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/orders", key }
}

fn body() -> Fingerprint {
    Fingerprint::of(b"body")
}

async fn grant(store: &PostgresStore, key: &str) -> oncelog::cluster::PostgresPermit {
    match store.claim(scope(key), body(), LEASE).await.unwrap() {
        Answer::Granted(permit) => permit,
        other => panic!("a free scope was {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_paused_is_unavailable_and_nothing_happens_twice() {
    let server = Server::start("-c fsync=off");
    let limit = Duration::from_millis(500);
    let store = options("paused").time_limit(limit).connect(&server.url()).await.unwrap();
    let permit = grant(&store, "running").await;
    server.pause();
    let claimed = store.claim(scope("lost"), body(), LEASE).await.unwrap_err();
    assert_eq!(claimed.kind(), ErrorKind::Unavailable, "{claimed}");
    let completed = store.complete(&permit, &[b"response"]).await.unwrap_err();
    assert_eq!(completed.kind(), ErrorKind::Unavailable, "{completed}");
    server.go_on();
    // Whether the first one arrived or not, the second is acknowledged, with one time for both.
    let first = store.complete(&permit, &[b"response"]).await.unwrap();
    let again = store.complete(&permit, &[b"response"]).await.unwrap();
    assert_eq!(first.completed_at, again.completed_at);
    // The claim that nobody heard of is undone by itself.
    let granted = loop {
        match store.claim(scope("lost"), body(), LEASE).await.unwrap() {
            Answer::Granted(permit) => break permit,
            Answer::InProgress(_) => tokio::task::yield_now().await,
            other => panic!("it was {other:?}"),
        }
    };
    assert_eq!(granted.attempt(), 1);
    assert_eq!(server.tell("SELECT count(*) FROM paused.claim").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_claims_and_goes_on_with_the_rest() {
    let server = Server::start("-c fsync=off");
    let disk = SmallDisk::mount();
    let store = options("full").connect(&server.url()).await.unwrap();
    let done = grant(&store, "done").await;
    store.complete(&done, &[b"response"]).await.unwrap();
    // The rows alone: where the log of the server itself has no room, PostgreSQL stops.
    let place = disk.0.path().display();
    server.sql(&format!("CREATE TABLESPACE small LOCATION '{place}/space'")).await;
    let moved = "ALTER TABLE full.claim_1 SET TABLESPACE small; \
        ALTER INDEX full.claim_1_digest_idx SET TABLESPACE small";
    server.sql(&moved.replace("full.", "\"full\".")).await;
    let running = grant(&store, "running").await;
    let mut claims = 0;
    let refused = loop {
        claims += 1;
        let key = format!("{claims:01000}");
        if let Err(error) = store.claim(scope(&key), body(), LEASE).await {
            break error;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
    assert!(claims > 100, "{claims} claims");
    let replay = store.claim(scope("done"), body(), LEASE).await.unwrap();
    assert!(matches!(replay, Answer::Replay(_)), "{replay:?}");
    let conflict = store.claim(scope("done"), Fingerprint::of(b"other"), LEASE).await.unwrap();
    assert!(matches!(conflict, Answer::Conflict(_)), "{conflict:?}");
    // That it ran is kept, at worst without what it said.
    let random: Vec<u8> =
        (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let completed = store.complete(&running, &[&random]).await.unwrap();
    assert_eq!(completed.response, None);
    let again = store.complete(&running, &[b"small"]).await.unwrap();
    assert_eq!(again.response, None, "what was left out is not there when it is asked for again");
    let replay = store.claim(scope("running"), body(), LEASE).await.unwrap();
    assert!(matches!(replay, Answer::Replay(ref kept) if kept.response.is_none()), "{replay:?}");
    println!("a full disk: {claims} claims, then Full; replays, conflicts, a completion go on");
    drop((store, server));
}

/// A file system of 4 MiB in memory, which is unmounted when this is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        succeed(mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path()));
        let disk = SmallDisk(dir);
        std::fs::create_dir(disk.0.path().join("space")).unwrap();
        succeed(Command::new("chown").arg("-R").arg("postgres:").arg(disk.0.path()));
        disk
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}
