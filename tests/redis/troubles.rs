//! Servers that hang, and servers whose disk is full.

use std::time::Duration;

use oncelog::Scope;
use oncelog::cluster::{RedisError, RedisStore};
use oncelog::http::{Answer, Backend as _, BackendError as _, ErrorKind};

use crate::records::{KEY, LEASE, body, claim, grant};
use crate::server::{SOON, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_to_a_paused_server_time_out_and_leave_nothing_granted() {
    let server = Server::start(&[]);
    let options = RedisStore::options().limit(Duration::from_millis(300));
    let store = options.connect(&server.url()).await.unwrap();
    // The scripts are known, so that what follows a claim is one command.
    let first = grant(&store, Scope { key: "first", ..KEY }).await;
    store.release(&first).await.unwrap();
    let open = grant(&store, Scope { key: "open", ..KEY }).await;
    server.pause();
    let told = store.claim(KEY, body(), LEASE).await.unwrap_err();
    assert!(matches!(told, RedisError::TimedOut { .. }), "{told}");
    assert_eq!(told.kind(), ErrorKind::Unavailable);
    let told = store.complete(&open, &[b"response"]).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Unavailable);
    server.resume();
    // Asked for again, the completion is made once.
    let completed = store.complete(&open, &[b"response"]).await.unwrap();
    assert_eq!(store.complete(&open, &[b"response"]).await.unwrap(), completed);
    // The claim may have arrived, but nobody was told: it is taken back, or an orphan by its lease.
    let free = async {
        loop {
            match claim(&store, KEY).await {
                Answer::Granted(permit) => return permit,
                Answer::InProgress(_) => server.pass(Duration::from_secs(1)),
                Answer::Orphaned(seen) => {
                    let next = store.take_over(KEY, body(), seen.token, LEASE).await.unwrap();
                    let Answer::Granted(permit) = next else { panic!("{next:?}") };
                    return permit;
                }
                other => panic!("a claim that nobody was told of is {other:?}"),
            }
        }
    };
    let permit = tokio::time::timeout(SOON, free).await.expect("it is free in the end");
    assert!(matches!(claim(&store, KEY).await, Answer::InProgress(_)), "one is granted");
    store.complete(&permit, &[b"response"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_full_disk_refuses_claims_and_keeps_its_word() {
    let server = Server::start_on_a_small_disk(&["appendonly", "yes", "appendfsync", "everysec"]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let done = grant(&store, Scope { key: "done", ..KEY }).await;
    store.complete(&done, &[b"response"]).await.unwrap();
    let open = grant(&store, Scope { key: "open", ..KEY }).await;
    let large = vec![b'r'; 200_000];
    let fill = async {
        for number in 0_u64.. {
            let key = number.to_string();
            let filled = match store.claim(Scope { key: &key, ..KEY }, body(), LEASE).await {
                Ok(Answer::Granted(permit)) => store.complete(&permit, &[&large]).await.map(drop),
                Ok(other) => panic!("a fresh scope is {other:?}"),
                Err(error) => Err(error),
            };
            if let Err(error) = filled {
                return error;
            }
        }
        unreachable!("a disk is full in the end");
    };
    let refused = tokio::time::timeout(SOON, fill).await.expect("the disk is small");
    assert!(matches!(refused, RedisError::Refused { .. }), "{refused}");
    let told = store.claim(Scope { key: "new", ..KEY }, body(), LEASE).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Unavailable);
    let replayed = claim(&store, Scope { key: "done", ..KEY }).await;
    let Answer::Replay(kept) = replayed else { panic!("{replayed:?}") };
    assert_eq!(kept.response.as_deref(), Some(&b"response"[..]));
    assert!(matches!(claim(&store, Scope { key: "open", ..KEY }).await, Answer::InProgress(_)));
    let told = store.complete(&open, &[b"response"]).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Unavailable, "it can be asked for again");

    server.make_room();
    let complete = async {
        while store.complete(&open, &[b"response"]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, complete).await.expect("the server writes again");
    grant(&store, Scope { key: "new", ..KEY }).await;
}
