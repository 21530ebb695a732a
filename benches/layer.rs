//! What the layer costs: CPU per request on loopback with and without it, and how long 10,000
//! waiting requests take to be answered.
//!
//! One bare handler takes the request's body, as a write does; the other answers without a look at
//! it, which no handler that has something to write can do. The handler behind the layer takes it.
//!
//! Server, clients and store are one process, so the difference of the rows is the layer's cost and
//! its store's, background threads included. Rounds alternate, and the median counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use oncelog::http::{Bounds, IdempotencyLayer, Organization, Orphans, Policy};
use oncelog::{Durability, Store};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::{Layer as _, ServiceExt as _};

const REQUESTS: u64 = 40_000;
const CONNECTIONS: u64 = 8;
const ROUNDS: usize = 5;
const WAITING: usize = 10_000;
const BODY: &str = r#"{"first_name":"Avery","last_name":"Stone","email":"avery@example.com"}"#;
const ANSWER: &str = r#"{"data":{"id":1,"email":"avery@example.com","first_name":"Avery"}}"#;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let dir = tempfile::tempdir().expect("a scratch directory can be made");
    let buffered = Durability::Buffered { sync_every: Duration::from_secs(1) };
    let store = Store::options().durability(buffered).open(dir.path()).expect("it opens");
    let layer = IdempotencyLayer::new(store, Organization::single(), Orphans::Hold);
    let idle = Router::new().route("/", post(|| async { (StatusCode::CREATED, ANSWER) }));
    let bare = Router::new().route("/", post(write));
    let idle = serve(idle).await;
    let (without, with) = (serve(bare.clone()).await, serve(bare.layer(layer)).await);

    let mut rows = [const { Vec::new() }; 4];
    for round in 0..ROUNDS {
        rows[0].push(drive(without, move |number| format!("bare-{round}-{number}")).await);
        rows[1].push(drive(with, move |number| format!("fresh-{round}-{number}")).await);
        rows[2].push(drive(with, |number| format!("replay-{}", number % 100)).await);
        rows[3].push(drive(idle, move |number| format!("idle-{round}-{number}")).await);
    }
    let [bare, fresh, replay, idle] = rows.map(median);
    println!("{REQUESTS} requests, {CONNECTIONS} connections, median of {ROUNDS} rounds");
    let named = [
        ("bare handler", bare),
        ("layer, fresh key", fresh),
        ("replay", replay),
        ("body not read", idle),
    ];
    for (name, row) in named {
        let (cpu, rate) = (row.cpu_micros, row.per_second);
        let (more, share) = (cpu - bare.cpu_micros, rate / bare.per_second);
        println!("{name:17} {cpu:6.1} us CPU ({more:+5.1}) {rate:7.0}/s ({share:.2} of bare)");
    }
    println!("{WAITING} waiting requests answered in {:?}", wake().await);
}

async fn write(body: Bytes) -> (StatusCode, &'static str) {
    assert_eq!(body, BODY);
    (StatusCode::CREATED, ANSWER)
}

async fn serve(router: Router) -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[derive(Clone, Copy)]
struct Row {
    cpu_micros: f64,
    per_second: f64,
}

fn median(mut rows: Vec<Row>) -> Row {
    rows.sort_by(|a, b| a.cpu_micros.total_cmp(&b.cpu_micros));
    rows[rows.len() / 2]
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
#[expect(clippy::cast_precision_loss, reason = "a rate is a float")]
async fn drive(
    address: std::net::SocketAddr,
    key: impl Fn(u64) -> String + Clone + Send + 'static,
) -> Row {
    let (started, cpu) = (Instant::now(), cpu_micros());
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|client| {
            let key = key.clone();
            tokio::spawn(async move {
                let stream = TcpStream::connect(address).await.expect("it listens");
                let handshake = http1::handshake(TokioIo::new(stream)).await;
                let (mut sender, connection) = handshake.expect("it speaks HTTP/1.1");
                tokio::spawn(connection);
                let own = (client..REQUESTS).filter(|number| number % CONNECTIONS == client);
                for number in own {
                    let request = Request::post("/")
                        .header("host", "api.example.com")
                        .header("content-type", "application/json")
                        .header("idempotency-key", key(number))
                        .body(Full::new(Bytes::from_static(BODY.as_bytes())))
                        .expect("a valid request");
                    let response = sender.send_request(request).await.expect("it answers");
                    assert_eq!(response.status(), StatusCode::CREATED);
                    let body = response.into_body().collect().await.expect("it is whole");
                    assert_eq!(body.to_bytes(), ANSWER);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("every answer is right");
    }
    let (took, cpu) = (started.elapsed(), cpu_micros() - cpu);
    Row { cpu_micros: cpu / REQUESTS as f64, per_second: REQUESTS as f64 / took.as_secs_f64() }
}

/// CPU time of this process, user and system, to the hundredth of a second.
fn cpu_micros() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux has it");
    // Behind the name, which may hold spaces: fields 14 and 15 are user and system ticks.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks are numbers");
    (ticks(12) + ticks(13)) * 10_000.0
}

/// How long it takes from the completion until every waiting request is answered.
#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
async fn wake() -> Duration {
    let dir = tempfile::tempdir().expect("a scratch directory can be made");
    let store = Store::open(dir.path()).expect("it opens");
    let bounds =
        Bounds { waiters_per_key: WAITING, per_organization: WAITING + 1, ..Bounds::default() };
    let patient = Policy::builder(Orphans::Hold).wait(Duration::from_secs(60)).build();
    let layer = IdempotencyLayer::new(store.clone(), Organization::single(), Orphans::Hold)
        .policy(patient.expect("a valid policy"))
        .bounds(bounds);
    let door = Arc::new(Semaphore::new(0));
    let open = Arc::clone(&door);
    let slow = move || async move {
        open.acquire().await.expect("it is never closed").forget();
        (StatusCode::CREATED, ANSWER)
    };
    let service = layer.layer(Router::new().route("/", post(slow)));
    let requests: Vec<_> = (0..=WAITING)
        .map(|_| {
            let request = Request::post("/").header("idempotency-key", "k");
            let request = request.body(axum::body::Body::from(BODY)).expect("a valid request");
            let service = service.clone();
            tokio::spawn(async move {
                let response = service.oneshot(request).await.expect("it answers");
                assert_eq!(response.status(), StatusCode::CREATED);
            })
        })
        .collect();
    while store.stats().waits < 2 * WAITING as u64 {
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    door.add_permits(1);
    for request in requests {
        request.await.expect("every answer is right");
    }
    started.elapsed()
}
