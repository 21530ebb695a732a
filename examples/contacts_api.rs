//! A contacts API whose every write happens exactly once, through `kill -9` at any instruction.
//!
//! ```text
//! cargo run --release --example contacts_api -- --listen 127.0.0.1:8080 --data ./data
//! curl http://127.0.0.1:8080/public/v1/contacts -H "Authorization: Bearer demo-token" \
//!   -H "Content-Type: application/json" -H "Idempotency-Key: contact-import-0001" \
//!   -d '{"first_name":"Avery","last_name":"Stone","email":"avery@example.com"}'
//! ```
//!
//! The store (`DIR/idempotency`) decides who runs a write; SQLite (`DIR/contacts.db`) keeps the
//! contacts. A crash between the two commits leaves an orphan. It is settled by the `operation`
//! table, which each write fills in the transaction of its own effect: the operation id, the
//! fencing token, and the response that every retry gets.
//!
//! ```text
//! Granted ---------------> transaction --+-- committed ----> complete
//! Orphaned -> take over -> witness ------+-- rolled back --> release
//!                  (no response: run)    `-- in doubt -----> witness, then one of the above
//! ```

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{patch, post};
use oncelog::{Claim, Error, Fingerprint, OperationId, Permit, Scope, Store, Stored, Token};
use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

const USAGE: &str = "\
usage: contacts_api [--listen ADDR] [--data DIR] [--token TOKEN=ORGANIZATION]...

  --listen ADDR                address to serve (default 127.0.0.1:8080; port 0 picks one)
  --data DIR                   where contacts and keys are kept (default ./data, created)
  --token TOKEN=ORGANIZATION   a bearer token and whose it is (default demo-token=acme)
  --help                       this text";

/// How long a retry waits for the first request before it is told to come back.
const WAIT: Duration = Duration::from_secs(5);

/// JSON escapes make a response at most six times as long: within the store's 1 MiB.
const BODY_BYTES_MAX: usize = 64 << 10;

/// A row of `operation` outlives its key: the store's 30 days and one for the longest transaction.
const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS contact (
    id INTEGER PRIMARY KEY AUTOINCREMENT, organization TEXT NOT NULL,
    first_name TEXT NOT NULL, last_name TEXT NOT NULL, email TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS contact_email ON contact (organization, email);
CREATE TABLE IF NOT EXISTS operation (
    id TEXT PRIMARY KEY, token INTEGER NOT NULL, response BLOB, at INTEGER NOT NULL);
DELETE FROM operation WHERE at < unixepoch() - 31 * 86400;";

/// Changes no row when the attempt is fenced, or when the operation is already done.
const ADMIT: &str = "
INSERT INTO operation AS o (id, token, at) VALUES (?1, ?2, unixepoch())
ON CONFLICT (id) DO UPDATE SET token = excluded.token, at = excluded.at
WHERE o.response IS NULL AND o.token < excluded.token";

const SAVE: &str = "UPDATE operation SET response = ?2 WHERE id = ?1";

/// NULL promises that no attempt whose token is at most the fence can commit any more.
const WITNESS: &str = "
INSERT INTO operation AS o (id, token, at) VALUES (?1, ?2, unixepoch())
ON CONFLICT (id) DO UPDATE SET token = max(o.token, excluded.token), at = excluded.at
RETURNING response";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("contacts_api: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("contacts_api: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    // Creates the data directory on the way.
    let store = Store::open(arguments.data.join("idempotency"))?;
    let database = Connection::open(arguments.data.join("contacts.db"))?;
    database.busy_timeout(WAIT)?;
    database.execute_batch(SCHEMA)?;
    let (running, mut finished) = mpsc::channel::<()>(1);
    let app = App {
        store: store.clone(),
        database: Arc::new(Mutex::new(database)),
        tokens: Arc::new(arguments.tokens),
        _running: running,
    };
    let router = Router::new()
        .route("/public/v1/contacts", post(write).get(find))
        .route("/public/v1/contacts/{id}", patch(write).delete(write))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(app);

    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    let listener = tokio::net::TcpListener::bind(arguments.listen).await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on http://{}", listener.local_addr()?)?;
    stdout.flush()?;
    axum::serve(listener, router).with_graceful_shutdown(stop).await?;
    // Yields `None` once no task holds an `App`: writes whose client hung up have ended too.
    finished.recv().await;
    store.close()?;
    Ok(())
}

struct Arguments {
    listen: SocketAddr,
    data: PathBuf,
    tokens: HashMap<String, String>,
}

impl Arguments {
    /// `None` asks for the usage.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut arguments = Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: "data".into(),
            tokens: HashMap::new(),
        };
        while let Some(option) = words.next() {
            if option == "--help" {
                return Ok(None);
            }
            if !["--listen", "--data", "--token"].contains(&option.as_str()) {
                return Err(format!("unknown argument {option}"));
            }
            let value = words.next().ok_or_else(|| format!("{option} needs a value"))?;
            match option.as_str() {
                "--listen" => {
                    let wrong = |_| format!("--listen needs IP:PORT, not {value}");
                    arguments.listen = value.parse().map_err(wrong)?;
                }
                "--data" => arguments.data = value.into(),
                _ => {
                    let parts = value.split_once('=');
                    let (token, organization) = parts
                        .filter(|(token, name)| !token.is_empty() && !name.is_empty())
                        .ok_or("--token needs TOKEN=ORGANIZATION")?;
                    arguments.tokens.insert(token.into(), organization.into());
                }
            }
        }
        if arguments.tokens.is_empty() {
            arguments.tokens.insert("demo-token".into(), "acme".into());
        }
        Ok(Some(arguments))
    }
}

#[derive(Clone)]
struct App {
    store: Store,
    database: Arc<Mutex<Connection>>,
    tokens: Arc<HashMap<String, String>>,
    /// Held, never sent on: the receiver sees when the last holder is gone.
    _running: mpsc::Sender<()>,
}

impl App {
    fn organization(&self, headers: &HeaderMap) -> Result<String, Answer> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        bearer
            .and_then(|value| value.strip_prefix("Bearer "))
            .and_then(|token| self.tokens.get(token).cloned())
            .ok_or_else(|| Answer::problem(401, "unauthorized", "a known bearer token is required"))
    }

    /// Runs on a thread that may block. A panic while the connection was held is harmless to the
    /// next holder: dropping the transaction rolled it back.
    async fn with_database<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, Answer> {
        let app = self.clone();
        let held = move || work(&mut app.database.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(held)
            .await
            .map_err(|_| Answer::problem(500, "internal", "the request failed"))
    }
}

async fn find(
    State(app): State<App>,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Answer, Answer> {
    let organization = app.organization(&headers)?;
    let email = query.get("email").cloned();
    let email = email.ok_or_else(|| Answer::problem(422, "invalid", "email is required"))?;
    let found = app.with_database(move |database| {
        database
            .prepare_cached(
                "SELECT id, first_name, last_name, email FROM contact
                 WHERE organization = ?1 AND email = ?2 ORDER BY id",
            )?
            .query_map([organization, email], contact)?
            .collect::<rusqlite::Result<Vec<Value>>>()
    });
    Ok(Answer::new(200, json!({ "data": found.await?? })))
}

/// One write as the client asked for it.
struct Request {
    organization: String,
    method: Method,
    uri: Uri,
    id: Option<i64>,
    media_type: String,
    body: Bytes,
}

async fn write(
    State(app): State<App>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Answer, Answer> {
    let organization = app.organization(&headers)?;
    let key = idempotency_key(&headers)?;
    let id = match uri.path().strip_prefix("/public/v1/contacts/") {
        Some(id) => Some(id.parse().map_err(|_| Answer::not_found())?),
        None => None,
    };
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    let request = Arc::new(Request { organization, method, uri, id, media_type, body });
    // A task of its own finishes although the client hangs up and this future is dropped.
    let task = tokio::spawn(async move {
        match key {
            Some(key) => once(&app, &request, &key).await,
            None => {
                let run = move |database: &mut Connection| transact(database, None, &request);
                Ok(app.with_database(run).await??)
            }
        }
    });
    task.await.map_err(|_| Answer::problem(500, "internal", "the request failed"))?
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Answer> {
    let mut lines = headers.get_all("idempotency-key").iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let key = std::str::from_utf8(line.as_bytes()).unwrap_or_default();
    let well_formed =
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if !well_formed || lines.next().is_some() {
        let detail = "Idempotency-Key must be one line of 1 to 255 visible ASCII characters";
        return Err(Answer::problem(400, "idempotency_key_invalid", detail));
    }
    Ok(Some(key.into()))
}

/// Claims the key until somebody has an answer: this caller, or the one that it waits for.
async fn once(app: &App, request: &Arc<Request>, key: &str) -> Result<Answer, Answer> {
    let scope = Scope {
        organization: &request.organization,
        method: request.method.as_str(),
        path: request.uri.path(),
        key,
    };
    let query = request.uri.query().unwrap_or_default();
    let fingerprint =
        Fingerprint::of_parts(&[&request.body, request.media_type.as_bytes(), query.as_bytes()]);
    let deadline = Instant::now() + WAIT;
    loop {
        let claimed = timeout_at(deadline, app.store.claim_or_wait_async(scope, fingerprint)).await;
        let Ok(claimed) = claimed else {
            let detail = "the first request with this key is still running";
            return Err(Answer::problem(429, "idempotency_in_progress", detail));
        };
        let claim = match claimed? {
            Claim::Orphaned(orphan) => orphan.take_over_async().await?,
            claim => claim,
        };
        match claim {
            Claim::Granted(permit) => return run(app, permit, Arc::clone(request)).await,
            Claim::Replay(stored) => return replay(&stored),
            Claim::Conflict(_) => {
                let detail = "this key was used with another request; send that one or a new key";
                return Err(Answer::problem(409, "idempotency_conflict", detail));
            }
            // Another retry took the orphan over first: wait for what it finds.
            Claim::InProgress(_) | Claim::Orphaned(_) => {}
        }
    }
}

fn replay(stored: &Stored) -> Result<Answer, Answer> {
    stored.bytes().and_then(Answer::decode).ok_or_else(|| {
        let detail = "the operation ran, but its response was not kept";
        Answer::problem(409, "idempotency_response_not_stored", detail)
    })
}

/// One attempt under a permit, and what the database says of it told to the store.
async fn run(app: &App, permit: Permit, request: Arc<Request>) -> Result<Answer, Answer> {
    let (operation, token, first) = (permit.operation(), permit.token(), permit.attempt() == 1);
    let attempt = Attempt { operation, token, first };
    match app.with_database(move |database| attempt.run(database, &request)).await? {
        Ok(answer) => match permit.complete_async(&answer.encode()).await {
            // Whoever took over answers from the same row of `operation`.
            Ok(_) | Err(Error::Superseded) => Ok(answer),
            Err(error) => Err(error.into()),
        },
        Err(Failure::DidNot(answer)) => {
            permit.release_async().await?;
            Err(answer)
        }
        Err(Failure::InDoubt(error)) => {
            permit.give_up_async().await?;
            Err(error.into())
        }
    }
}

/// Why there is no answer to store.
enum Failure {
    /// It did not happen, and cannot any more: rolled back, or fenced by the witness.
    DidNot(Answer),
    /// The database failed, perhaps after the commit.
    InDoubt(rusqlite::Error),
}

impl From<Answer> for Failure {
    fn from(answer: Answer) -> Self {
        Self::DidNot(answer)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::InDoubt(error)
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::DidNot(answer) => answer,
            Failure::InDoubt(error) => error.into(),
        }
    }
}

#[derive(Clone, Copy)]
struct Attempt {
    operation: OperationId,
    token: Token,
    first: bool,
}

impl Attempt {
    fn run(self, database: &mut Connection, request: &Request) -> Result<Answer, Failure> {
        if !self.first {
            // Every earlier attempt holds a smaller token, and this one must not fence itself.
            if let Some(answer) = self.witness(database, self.token() - 1)? {
                return Ok(answer);
            }
        }
        match transact(database, Some(self), request) {
            Err(Failure::InDoubt(error)) => match self.witness(database, self.token())? {
                Some(answer) => Ok(answer),
                None => Err(Failure::DidNot(error.into())),
            },
            settled => settled,
        }
    }

    /// The saved response; `None` once nothing up to the fence can commit. The commit is explicit
    /// because a statement with RETURNING that is not run to its end hides a failed one.
    fn witness(self, database: &mut Connection, fence: i64) -> rusqlite::Result<Option<Answer>> {
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let saved: Option<Vec<u8>> = transaction
            .prepare_cached(WITNESS)?
            .query_row(params![self.operation.to_string(), fence], |row| row.get(0))?;
        transaction.commit()?;
        saved.map(|saved| Answer::decode(&saved).ok_or(rusqlite::Error::InvalidQuery)).transpose()
    }

    fn token(self) -> i64 {
        i64::try_from(self.token.get()).expect("a token is below 2^63")
    }
}

/// The effect and its response in one transaction.
fn transact(
    database: &mut Connection,
    attempt: Option<Attempt>,
    request: &Request,
) -> Result<Answer, Failure> {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(attempt) = attempt {
        let admitted = transaction
            .prepare_cached(ADMIT)?
            .execute(params![attempt.operation.to_string(), attempt.token()])?;
        if admitted == 0 {
            return Err(rusqlite::Error::StatementChangedRows(0).into());
        }
    }
    let answer = match effect(&transaction, request) {
        Err(Failure::DidNot(answer)) => {
            transaction.rollback()?;
            return Err(Failure::DidNot(answer));
        }
        effect => effect?,
    };
    if let Some(attempt) = attempt {
        transaction
            .prepare_cached(SAVE)?
            .execute(params![attempt.operation.to_string(), answer.encode()])?;
    }
    transaction.commit()?;
    Ok(answer)
}

fn effect(transaction: &Transaction<'_>, request: &Request) -> Result<Answer, Failure> {
    let organization = &request.organization;
    let changed = match (request.id, &request.method) {
        (None, _) => {
            let [first, last, email] = fields(&request.body)?;
            let email =
                email.ok_or_else(|| Answer::problem(422, "invalid", "email is required"))?;
            let created = transaction
                .prepare_cached(
                    "INSERT INTO contact (organization, first_name, last_name, email)
                     VALUES (?1, coalesce(?2, ''), coalesce(?3, ''), ?4)
                     RETURNING id, first_name, last_name, email",
                )?
                .query_row(params![organization, first, last, email], contact)?;
            let location = format!("/public/v1/contacts/{}", created["id"]);
            return Ok(Answer { location, ..Answer::new(201, json!({ "data": created })) });
        }
        (Some(id), &Method::DELETE) => transaction
            .prepare_cached(
                "DELETE FROM contact WHERE organization = ?1 AND id = ?2
                 RETURNING id, first_name, last_name, email",
            )?
            .query_row(params![organization, id], contact),
        (Some(id), _) => {
            let [first, last, email] = fields(&request.body)?;
            transaction
                .prepare_cached(
                    "UPDATE contact SET first_name = coalesce(?3, first_name),
                         last_name = coalesce(?4, last_name), email = coalesce(?5, email)
                     WHERE organization = ?1 AND id = ?2
                     RETURNING id, first_name, last_name, email",
                )?
                .query_row(params![organization, id, first, last, email], contact)
        }
    };
    match changed {
        Ok(contact) => Ok(Answer::new(200, json!({ "data": contact }))),
        Err(rusqlite::Error::QueryReturnedNoRows) => Err(Answer::not_found().into()),
        Err(error) => Err(error.into()),
    }
}

/// `first_name`, `last_name` and `email` of a request body, each where it is given.
fn fields(body: &[u8]) -> Result<[Option<String>; 3], Answer> {
    let refuse = |detail| Answer::problem(422, "invalid", detail);
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
        return Err(refuse("the body must be a JSON object"));
    };
    let field = |name| match object.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(refuse("first_name, last_name and email must be strings")),
    };
    let fields = [field("first_name")?, field("last_name")?, field("email")?];
    if fields[2].as_ref().is_some_and(|email| !email.contains('@')) {
        return Err(refuse("email must hold an @"));
    }
    Ok(fields)
}

fn contact(row: &Row<'_>) -> rusqlite::Result<Value> {
    Ok(json!({
        "id": row.get::<_, i64>(0)?,
        "first_name": row.get::<_, String>(1)?,
        "last_name": row.get::<_, String>(2)?,
        "email": row.get::<_, String>(3)?,
    }))
}

/// What is sent, and for a success also what is stored: `STATUS LOCATION\nBODY`.
struct Answer {
    status: StatusCode,
    location: String,
    body: String,
    replayed: bool,
}

impl Answer {
    fn new(status: u16, body: Value) -> Self {
        let status = StatusCode::from_u16(status).expect("the callers name valid codes");
        Self { status, location: String::new(), body: body.to_string(), replayed: false }
    }

    fn problem(status: u16, code: &str, detail: &str) -> Self {
        let retryable = matches!(status, 429 | 500 | 503);
        let body =
            json!({ "status": status, "code": code, "detail": detail, "retryable": retryable });
        Self::new(status, body)
    }

    fn not_found() -> Self {
        Self::problem(404, "not_found", "the organization has no contact with this id")
    }

    fn encode(&self) -> Vec<u8> {
        format!("{} {}\n{}", self.status.as_u16(), self.location, self.body).into_bytes()
    }

    fn decode(stored: &[u8]) -> Option<Self> {
        let (head, body) = std::str::from_utf8(stored).ok()?.split_once('\n')?;
        let (status, location) = head.split_once(' ')?;
        let status = status.parse().ok()?;
        Some(Self { status, location: location.into(), body: body.into(), replayed: true })
    }
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        eprintln!("contacts_api: idempotency store: {error}");
        Self::problem(503, "unavailable", "the idempotency store is unavailable")
    }
}

impl From<rusqlite::Error> for Answer {
    fn from(error: rusqlite::Error) -> Self {
        eprintln!("contacts_api: database: {error}");
        Self::problem(503, "unavailable", "the database is unavailable")
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        let failed = self.status.is_client_error() || self.status.is_server_error();
        let media_type = if failed { "application/problem+json" } else { "application/json" };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        if let (false, Ok(location)) = (self.location.is_empty(), self.location.parse()) {
            headers.insert(header::LOCATION, location);
        }
        if matches!(self.status.as_u16(), 429 | 503) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.replayed {
            headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}
