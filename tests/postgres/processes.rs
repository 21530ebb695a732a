//! Clients in processes of their own: they race for one scope, and one is killed in a transaction.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oncelog::http::{Answer, Backend as _};
use oncelog::{Fingerprint, Scope};
use tokio::task::JoinSet;

use crate::server::{Server, fresh_schema, options};

/// What a child is to do, and where.
const CHILD: &str = "ONCELOG_POSTGRES_CHILD";
const PROCESSES: usize = 4;
const CLIENTS: usize = 4;
const SCOPES: usize = 8;
const LEASE: Duration = Duration::from_secs(60);
/// Held by the parent until every client is there.
const DOOR: &str = "918273";

fn child(name: &str, server: &Server, schema: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).stdout(Stdio::piped());
    command.env(CHILD, format!("{schema};{}", server.url())).spawn().unwrap()
}

fn scope(key: &str) -> Scope<'_> {
    Scope { organization: "acme", method: "POST", path: "/orders", key }
}

/// How many callers of each scope were granted it.
async fn race(schema: &str, url: &str) -> Vec<usize> {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (schema, url) = (schema.to_owned(), url.to_owned());
        clients.spawn(async move {
            let store = options(&schema).connections(2).connect(&url).await.unwrap();
            let (door, connection) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let mut granted = vec![0; SCOPES];
            for (number, granted) in granted.iter_mut().enumerate() {
                let wait = format!("SELECT pg_advisory_lock_shared({DOOR}{number})");
                door.batch_execute(&wait).await.unwrap();
                let key = format!("order-{number}");
                let claimed = store.claim(scope(&key), Fingerprint::of(b"body"), LEASE).await;
                match claimed.unwrap() {
                    Answer::Granted(_) => *granted += 1,
                    Answer::InProgress(_) => {}
                    other => panic!("it was {other:?}"),
                }
            }
            granted
        });
    }
    let each = clients.join_all().await;
    (0..SCOPES).map(|number| each.iter().map(|granted| granted[number]).sum()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_16_clients_in_4_processes_is_granted() {
    if let Ok(place) = std::env::var(CHILD) {
        let (schema, url) = place.split_once(';').unwrap();
        println!("\ngranted {:?}", race(schema, url).await);
        return;
    }
    let (server, schema) = (Server::shared(), fresh_schema());
    let door = server.client().await;
    for number in 0..SCOPES {
        door.batch_execute(&format!("SELECT pg_advisory_lock({DOOR}{number})")).await.unwrap();
    }
    let name = "processes::one_of_16_clients_in_4_processes_is_granted";
    let children: Vec<Child> = (0..PROCESSES).map(|_| child(name, &server, &schema)).collect();
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    for number in 0..SCOPES {
        while server.tell(waiting).await != (PROCESSES * CLIENTS).to_string() {
            tokio::task::yield_now().await;
        }
        door.batch_execute(&format!("SELECT pg_advisory_unlock({DOOR}{number})")).await.unwrap();
    }
    let mut granted = vec![0; SCOPES];
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        let told = said.lines().find_map(|line| line.strip_prefix("granted [")).unwrap();
        for (number, count) in told.trim_end_matches(']').split(", ").enumerate() {
            granted[number] += count.parse::<usize>().unwrap();
        }
    }
    assert_eq!(granted, [1; SCOPES]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_killed_in_its_transaction_leaves_neither_effect_nor_claim() {
    let claim = |key: &'static str| (scope(key), Fingerprint::of(b"body"));
    if let Ok(place) = std::env::var(CHILD) {
        let (schema, url) = place.split_once(';').unwrap();
        let store = options(schema).connect(url).await.unwrap();
        let (mut client, connection) =
            tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let transaction = client.transaction().await.unwrap();
        let (scope, body) = claim("order");
        let claimed = store.claim_in(&transaction, scope, body, LEASE).await.unwrap();
        let Answer::Granted(permit) = claimed else { panic!("it is free") };
        let effect = format!("INSERT INTO {schema}.effect VALUES (1)");
        transaction.batch_execute(&effect).await.unwrap();
        store.complete_in(&transaction, &permit, &[b"done"]).await.unwrap();
        println!("\nready");
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let (server, schema) = (Server::shared(), fresh_schema());
    let store = options(&schema).connect(&server.url()).await.unwrap();
    server.sql(&format!("CREATE TABLE {schema}.effect (id int)")).await;
    let name = "processes::a_client_killed_in_its_transaction_leaves_neither_effect_nor_claim";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let place = format!("{schema};{}", server.url());
    let mut child = command.env(CHILD, place).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "it gets to its commit");
    child.kill().unwrap();
    child.wait().unwrap();
    // The server has to see that the connection is closed.
    let (scope, body) = claim("order");
    let claimed = loop {
        if let Ok(claimed) = store.claim(scope, body, LEASE).await {
            break claimed;
        }
    };
    assert!(matches!(claimed, Answer::Granted(_)), "{claimed:?}");
    assert_eq!(server.tell(&format!("SELECT count(*) FROM {schema}.effect")).await, "0");
}
