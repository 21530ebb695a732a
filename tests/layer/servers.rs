//! Two servers on the claims of one store.

use axum::Router;
use axum::routing::post;
use http::StatusCode;
use oncelog::Scope;
use oncelog::http::{Administer, Orphans};

use crate::layer::support::{Api, Door, Runs, door, encoded, until};

const KEY: Scope<'_> = Scope { organization: "acme", method: "POST", path: "/", key: "k" };

/// Waits at a door where there is one, then answers `201` and which run it was.
fn runs_at(runs: &Runs, door: Option<&Door>) -> Router {
    let (runs, door) = (runs.clone(), door.cloned());
    let answer = move || async move {
        let run = runs.begin();
        if let Some(door) = door {
            door.pass().await;
        }
        (StatusCode::CREATED, format!("run {run}"))
    };
    Router::new().route("/", post(answer))
}

#[tokio::test]
async fn a_retry_is_answered_with_the_first_response_also_by_another_server() {
    let runs = [Runs::default(), Runs::default()];
    let first = Api::start(Orphans::Hold, runs_at(&runs[0], None)).await;
    let second = first.beside(Orphans::Hold, runs_at(&runs[1], None)).await;
    let told = first.post("/").key("k").body("body").send().await;
    assert_eq!((told.text(), told.is_replay()), ("run 1", false));
    for api in [&first, &second] {
        let again = api.post("/").key("k").body("body").send().await;
        assert!(again.is_replay());
        again.assert_same(&told);
    }
    let conflict = second.post("/").key("k").body("another").send().await;
    assert_eq!(conflict.code(), "idempotency_conflict");
    assert_eq!(runs.map(|runs| runs.count()), [1, 0]);
}

#[tokio::test]
async fn a_retry_at_another_server_waits_for_the_first_run() {
    let (runs, (door, mut porter)) = ([Runs::default(), Runs::default()], door());
    let first = Api::start(Orphans::Hold, runs_at(&runs[0], Some(&door))).await;
    let second = first.beside(Orphans::Hold, runs_at(&runs[1], None)).await;
    let running = first.post("/").key("k").spawn();
    porter.met().await;
    let waiting = second.post("/").key("k").spawn();
    until("it waits", || second.layer.waiting() == 1).await;
    let conflict = second.post("/").key("k").body("another").send().await;
    assert_eq!(conflict.code(), "idempotency_conflict", "a conflict waits for nobody");
    porter.let_through();
    let (told, again) = (running.await.unwrap(), waiting.await.unwrap());
    assert!(!told.is_replay() && again.is_replay());
    again.assert_same(&told);
    assert_eq!(runs.map(|runs| runs.count()), [1, 0]);
}

#[tokio::test]
async fn of_many_at_two_servers_at_once_one_runs_and_all_get_its_answer() {
    let runs = Runs::default();
    let first = Api::start(Orphans::Hold, runs_at(&runs, None)).await;
    let second = first.beside(Orphans::Hold, runs_at(&runs, None)).await;
    let servers = [&first, &second].into_iter().cycle();
    let asked: Vec<_> = servers.take(16).map(|api| api.post("/").key("k").spawn()).collect();
    for reply in asked {
        let reply = reply.await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.text()), (201, "run 1"));
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn what_an_operator_settles_at_one_server_is_settled_at_the_other() {
    let (runs, (never, mut lost)) = (Runs::default(), door());
    let before = Api::start(Orphans::Hold, runs_at(&runs, Some(&never))).await;
    let client = before.post("/").key("k").spawn();
    lost.met().await;
    client.abort();
    let first = before.crash(Orphans::Hold, runs_at(&runs, None)).await;
    let second = first.beside(Orphans::Hold, runs_at(&runs, None)).await;
    let held = second.post("/").key("k").send().await;
    assert_eq!(held.code(), "idempotency_outcome_unknown");
    let token = first.orphans().await[0].orphan.token;
    let found = encoded(202, b"found by hand");
    Administer::resolve(&first.store, KEY, token, &found).await.unwrap();
    let settled = second.post("/").key("k").send().await;
    assert_eq!((settled.text(), settled.is_replay(), runs.count()), ("found by hand", true, 1));
}
