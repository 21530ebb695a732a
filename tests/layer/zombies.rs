//! Exactly once against attempts thought dead that go on: the handler writes the operation id in
//! the transaction of its effect, in SQLite, and a witness reads it. In every order one effect
//! happens, and every client gets the one answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Extension, Router};
use http::{Response, StatusCode};
use oncelog::http::{Attempt, Orphans, Question, Testimony};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use crate::layer::support::{Api, Door, LEASE_OVER, Porter, Reply, Runs, door};

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
CREATE TABLE contact (id INTEGER PRIMARY KEY, run INTEGER NOT NULL);
CREATE TABLE operation (id TEXT PRIMARY KEY, token INTEGER NOT NULL, response BLOB);";

const ADMIT: &str = "
INSERT INTO operation AS o (id, token) VALUES (?1, ?2)
ON CONFLICT (id) DO UPDATE SET token = excluded.token
WHERE o.response IS NULL AND o.token < excluded.token";

const SAVE: &str = "UPDATE operation SET response = ?2 WHERE id = ?1";

const WITNESS: &str = "
INSERT INTO operation AS o (id, token) VALUES (?1, ?2)
ON CONFLICT (id) DO UPDATE SET token = max(o.token, excluded.token) RETURNING response";

/// Where a run pauses until the porter lets it through.
#[derive(Clone, Copy, PartialEq)]
enum At {
    Start,
    Transaction,
    Committed,
}

/// A run that is told to do something else.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Pause(At),
    Fail,
}

#[derive(Clone)]
struct Shop {
    database: PathBuf,
    runs: Runs,
    door: Door,
    script: Arc<Vec<(u64, Act)>>,
}

impl Shop {
    fn connect(&self) -> Connection {
        let connection = Connection::open(&self.database).unwrap();
        connection.busy_timeout(Duration::from_millis(100)).unwrap();
        connection
    }

    fn pause(&self, run: u64, at: At) {
        if self.script.contains(&(run, Act::Pause(at))) {
            tokio::runtime::Handle::current().block_on(self.door.pass());
        }
    }

    fn run(&self, attempt: &Attempt) -> rusqlite::Result<Response<String>> {
        let run = self.runs.begin();
        self.pause(run, At::Start);
        let mut connection = self.connect();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let operation = attempt.operation().to_string();
        let token = attempt.token().get().cast_signed();
        if transaction.execute(ADMIT, params![operation, token])? == 0 {
            return Err(rusqlite::Error::StatementChangedRows(0));
        }
        if self.script.contains(&(run, Act::Fail)) {
            let refused = Response::builder().status(422).body("no such thing".to_owned());
            return Ok(refused.unwrap());
        }
        transaction.execute("INSERT INTO contact (run) VALUES (?1)", [run.cast_signed()])?;
        let response = Response::builder().status(201).body(format!("made by run {run}")).unwrap();
        transaction.execute(SAVE, params![operation, attempt.encode(&response)])?;
        self.pause(run, At::Transaction);
        transaction.commit()?;
        self.pause(run, At::Committed);
        Ok(response)
    }

    fn testify(&self, question: &Question) -> rusqlite::Result<Testimony> {
        let mut connection = self.connect();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (operation, fence) = (question.operation.to_string(), question.fence.cast_signed());
        let saved = transaction
            .query_row(WITNESS, params![operation, fence], |row| row.get(0))
            .optional()?;
        transaction.commit()?;
        Ok(Testimony::of_saved(saved.flatten()))
    }

    /// How many effects there are, and of which run.
    fn effects(&self) -> Vec<i64> {
        let connection = self.connect();
        let mut statement = connection.prepare("SELECT run FROM contact ORDER BY id").unwrap();
        let runs = statement.query_map([], |row| row.get(0)).unwrap();
        runs.collect::<rusqlite::Result<_>>().unwrap()
    }
}

async fn buy(
    State(shop): State<Shop>,
    Extension(attempt): Extension<Attempt>,
) -> impl IntoResponse {
    let made = tokio::task::spawn_blocking(move || shop.run(&attempt)).await.unwrap();
    made.map_err(|error| (StatusCode::CONFLICT, error.to_string()))
}

struct Fixture {
    api: Api,
    shop: Shop,
    porter: Porter,
    _dir: tempfile::TempDir,
}

async fn fixture(script: Vec<(u64, Act)>) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("shop.db");
    Connection::open(&database).unwrap().execute_batch(SCHEMA).unwrap();
    let (door, porter) = door();
    let shop = Shop { database, runs: Runs::default(), door, script: Arc::new(script) };
    let asked = shop.clone();
    let witness = Orphans::witness(move |question| {
        let shop = asked.clone();
        async move {
            let said = tokio::task::spawn_blocking(move || shop.testify(&question)).await?;
            Ok(said?)
        }
    });
    let router = Router::new().route("/buy", post(buy)).with_state(shop.clone());
    let api = Api::start(witness, router).await;
    Fixture { api, shop, porter, _dir: dir }
}

impl Fixture {
    /// The first request, which stops where the script says.
    async fn zombie(&mut self) -> tokio::task::JoinHandle<Reply> {
        let first = self.api.post("/buy").key("k").spawn();
        self.porter.met().await;
        // Its lease is over, and it is thought dead.
        self.api.pass(LEASE_OVER).await;
        first
    }

    async fn retry(&self) -> Reply {
        self.api.post("/buy").key("k").send().await
    }
}

#[tokio::test]
async fn a_zombie_that_begins_after_the_next_attempt_committed_changes_nothing() {
    let mut fixture = fixture(vec![(1, Act::Pause(At::Start))]).await;
    let zombie = fixture.zombie().await;
    let retry = fixture.retry().await;
    assert_eq!((retry.status.as_u16(), retry.text()), (201, "made by run 2"));
    fixture.porter.let_through();
    let zombie = zombie.await.unwrap();
    assert_eq!((zombie.status.as_u16(), zombie.text()), (201, "made by run 2"));
    assert_eq!(fixture.shop.effects(), [2]);
}

#[tokio::test]
async fn a_zombie_that_commits_while_the_next_attempt_runs_is_fenced() {
    let script = vec![(1, Act::Pause(At::Start)), (2, Act::Pause(At::Start))];
    let mut fixture = fixture(script).await;
    let zombie = fixture.zombie().await;
    let retry = fixture.api.post("/buy").key("k").spawn();
    fixture.porter.met().await;
    // The witness has fenced it, although the next attempt has not begun its transaction.
    fixture.porter.let_through();
    fixture.porter.let_through();
    let (zombie, retry) = (zombie.await.unwrap(), retry.await.unwrap());
    assert_eq!((retry.status.as_u16(), retry.text()), (201, "made by run 2"));
    assert!(zombie.text() == "made by run 2" || zombie.status == 409, "{zombie:?}");
    assert_eq!(fixture.shop.effects(), [2]);
    assert_eq!(fixture.retry().await.text(), "made by run 2");
}

#[tokio::test]
async fn a_zombie_inside_its_transaction_is_waited_for_and_nothing_runs_meanwhile() {
    let mut fixture = fixture(vec![(1, Act::Pause(At::Transaction))]).await;
    let zombie = fixture.zombie().await;
    let retry = fixture.retry().await;
    assert_eq!(retry.code(), "idempotency_outcome_unknown", "the witness cannot tell yet");
    assert_eq!(fixture.shop.runs.count(), 1);
    fixture.porter.let_through();
    let zombie = zombie.await.unwrap();
    let retry = fixture.retry().await;
    assert_eq!((retry.status.as_u16(), retry.text()), (201, "made by run 1"));
    assert!(zombie.text() == "made by run 1" || zombie.status == 503, "{zombie:?}");
    assert_eq!(fixture.shop.effects(), [1]);
}

#[tokio::test]
async fn a_zombie_that_has_committed_is_found_by_the_witness() {
    let mut fixture = fixture(vec![(1, Act::Pause(At::Committed))]).await;
    let zombie = fixture.zombie().await;
    let retry = fixture.retry().await;
    assert_eq!((retry.status.as_u16(), retry.text()), (201, "made by run 1"));
    fixture.porter.let_through();
    let zombie = zombie.await.unwrap();
    assert_eq!((zombie.status.as_u16(), zombie.text()), (201, "made by run 1"));
    assert_eq!((fixture.shop.effects(), fixture.shop.runs.count()), (vec![1], 1));
}

#[tokio::test]
async fn a_zombie_after_a_release_and_a_new_claim_is_refused_by_the_fence() {
    let mut fixture = fixture(vec![(1, Act::Pause(At::Start)), (2, Act::Fail)]).await;
    let zombie = fixture.zombie().await;
    let failed = fixture.retry().await;
    assert_eq!(failed.status, 422, "the witness denied it, so the key is free");
    assert_eq!(fixture.api.orphans().await, []);
    let again = fixture.retry().await;
    assert_eq!((again.status.as_u16(), again.text()), (201, "made by run 3"));
    fixture.porter.let_through();
    let zombie = zombie.await.unwrap();
    assert!(zombie.text() == "made by run 3" || zombie.status == 409, "{zombie:?}");
    assert_eq!(fixture.shop.effects(), [3]);
}

#[tokio::test]
async fn a_witness_that_only_reads_lets_a_zombie_commit_twice() {
    // The fault that the fence is for, put in by hand: the witness looks and fences nothing.
    let mut fixture = fixture(vec![(1, Act::Pause(At::Start)), (2, Act::Fail)]).await;
    let shop = fixture.shop.clone();
    let reads = Orphans::witness(move |question| {
        let connection = shop.connect();
        let saved = connection
            .query_row(
                "SELECT response FROM operation WHERE id = ?1",
                [question.operation.to_string()],
                |row| row.get(0),
            )
            .optional();
        async move { Ok(Testimony::of_saved(saved?.flatten())) }
    });
    let router = Router::new().route("/buy", post(buy)).with_state(fixture.shop.clone());
    fixture.api = fixture.api.beside(reads, router).await;
    let zombie = fixture.zombie().await;
    assert_eq!(fixture.retry().await.status, 422);
    assert_eq!(fixture.retry().await.text(), "made by run 3");
    fixture.porter.let_through();
    zombie.await.unwrap();
    assert_eq!(fixture.shop.effects(), [3, 1]);
}
