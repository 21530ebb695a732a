//! A rolling restart: the next process starts beside the one that serves, on the same port and the
//! same directory, and goes on where that one stops. No request fails, and none runs twice.
//!
//! All of it happens in a network of its own, where the kernel is told to hand connections that
//! nobody accepted yet to the listener that stays (`net.ipv4.tcp_migrate_req`, Linux 5.14).
//!
//! ```text
//! parent to server   a line: stop accepting, end what runs, close the store, exit
//! server             . bound | . serving, after so many us of waiting | . ran KEY | . closed us
//! network to parent  . served REQUESTS by PROCESSES | . ran KEY
//! ```

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, Uri};
use axum::routing::post;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use oncelog::http::{IdempotencyLayer, Organization, Orphans};
use oncelog::{Durability, Options, Store};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use crate::child::{self, Running, micros, tell};
use crate::image;
use crate::keys::number;

const RESTARTS: &str = "ONCELOG_RESTARTS";
const MIGRATE: &str = "ONCELOG_KERNEL_MIGRATE";
const PORT: u16 = 8080;
const CLIENTS: u64 = 4;
/// Each key is asked for so often, by different requests.
const TRIES: u64 = 3;

#[test]
fn a_rolling_restart_under_load_fails_no_request_and_runs_none_twice() {
    let restarts = number(RESTARTS, 8);
    let (lines, whole) = restart(restarts, "1");
    assert!(whole, "{lines:#?}");
    let mut runs: BTreeMap<&str, u64> = BTreeMap::new();
    let mut wakes: Vec<u64> = Vec::new();
    let mut served = None;
    for line in &lines {
        match *line.split(' ').collect::<Vec<_>>() {
            [".", "ran", key] => *runs.entry(key).or_default() += 1,
            [".", "woke", us] => wakes.push(us.parse().unwrap()),
            [".", "served", requests, keys] => {
                served = Some((requests.parse::<u64>().unwrap(), keys.parse::<u64>().unwrap()));
            }
            _ => panic!("the network complains: {line}"),
        }
    }
    let (requests, keys) = served.expect("the clients tell what they saw");
    let twice: Vec<_> = runs.iter().filter(|(_, runs)| **runs != 1).collect();
    assert!(twice.is_empty(), "ran more than once: {twice:?}");
    assert_eq!((runs.len() as u64, requests), (keys, keys * TRIES), "each ran, each was answered");
    assert_eq!(wakes.len() as u64, restarts);
    println!(
        "{restarts} rolling restarts: {requests} requests of {keys} operations, none failed, each \
         ran once; from the close of one owner to the open store of the next: {wakes:?} us"
    );
}

#[test]
fn without_the_hand_over_of_waiting_connections_a_failed_request_is_seen() {
    let (lines, whole) = restart(100, "0");
    let reset = lines.iter().any(|line| line.contains("os error 104"));
    assert!(!whole && reset, "{lines:#?}");
}

fn restart(restarts: u64, migrate: &str) -> (Vec<String>, bool) {
    let dir = image::scratch();
    let mut command = child::command(&["unshare", "--net"], "network", dir.path());
    command.env(RESTARTS, restarts.to_string()).env(MIGRATE, migrate);
    let mut network = Running::start(command);
    let lines = network.lines();
    (lines, network.end().success())
}

/// The parent of servers and clients, in a network of its own.
pub(crate) fn network(dir: &Path) {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    assert!(up.expect("iproute2 is installed").success(), "no loopback");
    let migrate = std::env::var(MIGRATE).expect("the test says it");
    std::fs::write("/proc/sys/net/ipv4/tcp_migrate_req", migrate).expect("Linux 5.14 or later");
    let restarts = number(RESTARTS, 8);
    let (told, tells) = mpsc::channel();
    let serve = || Served::start(dir, told.clone());
    let mut server = serve();
    server.expect(". bound");
    server.expect(". serving");
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // However this ends, the clients end.
        let stopping = Stopping(&stop);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (stop, answered) = (&stop, &answered);
                scope.spawn(move || load(client, stop, answered))
            })
            .collect();
        for _ in 0..restarts {
            // Each owner serves for a while.
            let target = answered.load(Ordering::Relaxed) + 300;
            while answered.load(Ordering::Relaxed) < target {
                assert!(!clients.iter().any(|client| client.is_finished()), "a request failed");
                std::thread::yield_now();
            }
            let mut next = serve();
            next.expect(". bound");
            server.child.stdin().write_all(b"stop\n").unwrap();
            let closed = server.expect(". closed");
            assert!(server.child.end().success());
            let opened = next.expect(". serving");
            tell(&format!(". woke {}", opened.saturating_sub(closed)));
            server = next;
        }
        drop(stopping);
        let keys: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        tell(&format!(". served {} {keys}", answered.load(Ordering::Relaxed)));
    });
    server.child.stdin().write_all(b"stop\n").unwrap();
    server.expect(". closed");
    assert!(server.child.end().success());
    drop((server, told));
    for line in tells {
        tell(&line);
    }
}

struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A server, and what it says: what ran goes to everybody's list, the rest is waited for.
struct Served {
    child: Running,
    lines: mpsc::Receiver<String>,
}

impl Served {
    fn start(dir: &Path, ran: mpsc::Sender<String>) -> Served {
        let mut child = Running::start(child::command(&[], "handover", dir));
        let mut pipe = child.take_pipe();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            while let Some(line) = child::next_line(&mut pipe) {
                let to = if line.starts_with(". ran ") { &ran } else { &sender };
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        Served { child, lines }
    }

    /// The next line is this and a time.
    fn expect(&mut self, what: &str) -> u64 {
        let line = self.lines.recv_timeout(Duration::from_secs(60)).expect("the server answers");
        let at = line.strip_prefix(what).unwrap_or_else(|| panic!("{line}, not {what}"));
        at.trim().parse().unwrap_or_else(|_| panic!("{line}: no time"))
    }
}

/// One client: asks for each of its keys several times, each time on a new connection, and takes
/// nothing but the one right answer. How many keys it asked for.
fn load(client: u64, stop: &AtomicBool, answered: &AtomicU64) -> u64 {
    let mut keys = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{client}-{keys}");
        keys += 1;
        let mut first = None;
        for _ in 0..TRIES {
            let answer = ask(&key).unwrap_or_else(|error| panic!("{key}: {error}"));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            assert!(head.starts_with("HTTP/1.1 201 "), "{key}: {answer}");
            assert_eq!(head.contains("idempotent-replayed: true"), first.is_some(), "{answer}");
            assert_eq!(first.get_or_insert(body.to_owned()), body, "{key}: another answer");
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    keys
}

fn ask(key: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let request = format!(
        "POST /{key} HTTP/1.1\r\nhost: localhost\r\nidempotency-key: {key}\r\n\
         content-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// One server, from its start beside another to its end beside the next.
pub(crate) fn child(dir: &Path) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(serve(dir));
}

async fn serve(dir: &Path) {
    // The port first: what arrives from now on waits for this process, or for the one before it.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))).unwrap();
    let listener = socket.listen(1024).unwrap();
    tell(&format!(". bound {}", micros()));
    let directory = dir.to_owned();
    let options = || -> Options {
        let durability = Durability::Buffered { sync_every: Duration::from_millis(100) };
        Store::options().durability(durability).wait_for_owner(Duration::from_secs(60))
    };
    let opened = tokio::task::spawn_blocking(move || options().open(directory)).await;
    let store = opened.unwrap().unwrap();
    tell(&format!(". serving {}", micros()));
    let organization = Organization::single();
    let layer = IdempotencyLayer::new(store.clone(), organization, Orphans::Hold);
    let handler = post(|uri: Uri| async move {
        let key = uri.path().trim_start_matches('/').to_owned();
        tell(&format!(". ran {key}"));
        (StatusCode::CREATED, format!("{key}, by {}", std::process::id()))
    });
    let router = Router::new().fallback(handler).layer(layer.clone());
    accept_until_told(listener, router).await;
    let drained = layer.drain(Duration::from_secs(60)).await;
    assert_eq!(drained.left, 0, "{drained:?}");
    let closing = micros();
    store.close().unwrap();
    tell(&format!(". closed {closing}"));
}

/// Serves one request a connection. When told to stop, closes the listener, whose waiting
/// connections go to the next process, and ends those that it accepted.
async fn accept_until_told(listener: TcpListener, router: Router) {
    let mut told = tokio::task::spawn_blocking(|| std::io::stdin().lines().next());
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            _ = &mut told => break,
            accepted = listener.accept() => accepted.unwrap().0,
        };
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.keep_alive(false).serve_connection(TokioIo::new(stream), service).await
        });
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        ended.unwrap().unwrap();
    }
}
