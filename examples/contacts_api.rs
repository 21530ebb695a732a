//! A contacts API whose every write happens exactly once, through `kill -9` at any instruction.
//!
//! ```text
//! cargo run --release --example contacts_api -- --listen 127.0.0.1:8080 --data ./data
//! curl http://127.0.0.1:8080/public/v1/contacts -H "Authorization: Bearer demo-token" \
//!   -H "Content-Type: application/json" -H "Idempotency-Key: contact-import-0001" \
//!   -d '{"first_name":"Avery","last_name":"Stone","email":"avery@example.com"}'
//! ```
//!
//! The layer decides who runs a write, and keeps what was answered in its store (`DIR/idempotency`,
//! or what `--store` names: the handlers are the same); SQLite (`DIR/contacts.db`) keeps the
//! contacts. A crash between the two commits leaves an orphan. It is settled by the `operation`
//! table, which each write fills with two statements in the transaction of its own effect, and a
//! witness reads back.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::{patch, post};
use axum::{Extension, Router};
use oncelog::Store;
use oncelog::cluster::{PostgresStore, RedisStore};
use oncelog::http::{
    AnyBackend, Attempt, IdempotencyLayer, Organization, Orphans, Question, Testimony,
};
use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
usage: contacts_api [--listen ADDR] [--data DIR] [--store STORE] [--token TOKEN=ORGANIZATION]...

  --listen ADDR                address to serve (default 127.0.0.1:8080; port 0 picks one)
  --data DIR                   where contacts and keys are kept (default ./data, created)
  --store STORE                where keys are kept instead: a directory, redis://HOST:PORT,
                               redis+cluster://HOST:PORT,HOST:PORT or postgres://USER@HOST/DATABASE
  --token TOKEN=ORGANIZATION   a bearer token and whose it is (default demo-token=acme)
  --help                       this text";

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
    #[expect(clippy::disallowed_methods, reason = "the store makes its own directory, not SQLite")]
    std::fs::create_dir_all(&arguments.data)?;
    let (claims, store) = open(&arguments).await?;
    let database = Connection::open(arguments.data.join("contacts.db"))?;
    database.busy_timeout(Duration::from_secs(5))?;
    database.execute_batch(SCHEMA)?;
    let database = Database(Arc::new(Mutex::new(database)));

    let organization = Organization::of_extension(|account: &Account| account.0.clone());
    let asked = database.clone();
    let witness = Orphans::witness(move |question| {
        let database = asked.clone();
        async move { Ok(database.with(move |database| testify(database, &question)).await??) }
    });
    let layer = IdempotencyLayer::new(claims, organization, witness);
    let tokens = Arc::new(arguments.tokens);
    let router = Router::new()
        .route("/public/v1/contacts", post(create).get(find))
        .route("/public/v1/contacts/{id}", patch(update).delete(remove))
        .with_state(database)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(layer.clone())
        .layer(middleware::from_fn_with_state(tokens, authenticate));

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
    // Writes whose client hung up end too.
    layer.drain(Duration::from_secs(30)).await;
    if let Some(store) = store {
        store.close()?;
    }
    Ok(())
}

/// Where claims live, and the embedded store where they live there, which is to be closed.
async fn open(
    arguments: &Arguments,
) -> Result<(AnyBackend, Option<Store>), Box<dyn std::error::Error>> {
    let embedded = arguments.data.join("idempotency");
    let store = arguments.store.as_deref().unwrap_or_default();
    let scheme = store.split_once("://").map(|(scheme, _)| scheme);
    Ok(match scheme {
        Some("redis" | "redis+cluster") => {
            (AnyBackend::new(RedisStore::connect(store).await?), None)
        }
        Some("postgres" | "postgresql") => {
            (AnyBackend::new(PostgresStore::connect(store).await?), None)
        }
        Some(other) => return Err(format!("--store knows no {other}://").into()),
        None => {
            let directory = if store.is_empty() { embedded } else { store.into() };
            let store = Store::open(directory)?;
            (AnyBackend::new(store.clone()), Some(store))
        }
    })
}

struct Arguments {
    listen: SocketAddr,
    data: PathBuf,
    store: Option<String>,
    tokens: HashMap<String, String>,
}

impl Arguments {
    /// `None` asks for the usage.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut arguments = Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: "data".into(),
            store: None,
            tokens: HashMap::new(),
        };
        while let Some(option) = words.next() {
            if option == "--help" {
                return Ok(None);
            }
            if !["--listen", "--data", "--store", "--token"].contains(&option.as_str()) {
                return Err(format!("unknown argument {option}"));
            }
            let value = words.next().ok_or_else(|| format!("{option} needs a value"))?;
            match option.as_str() {
                "--listen" => {
                    let wrong = |_| format!("--listen needs IP:PORT, not {value}");
                    arguments.listen = value.parse().map_err(wrong)?;
                }
                "--data" => arguments.data = value.into(),
                "--store" => arguments.store = Some(value),
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

/// The organization of a bearer token, for the layer and the handlers inside of this one.
#[derive(Clone)]
struct Account(String);

async fn authenticate(
    State(tokens): State<Arc<HashMap<String, String>>>,
    mut request: Request,
    next: Next,
) -> Result<impl IntoResponse, Refusal> {
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let organization = bearer
        .and_then(|value| value.strip_prefix("Bearer "))
        .and_then(|token| tokens.get(token).cloned())
        .ok_or(Refusal(401, "unauthorized", "a known bearer token is required"))?;
    request.extensions_mut().insert(Account(organization));
    Ok(next.run(request).await)
}

#[derive(Clone)]
struct Database(Arc<Mutex<Connection>>);

impl Database {
    /// Runs on a thread that may block. A panic while the connection was held is harmless to the
    /// next holder: dropping the transaction rolled it back.
    async fn with<T: Send + 'static>(
        self,
        work: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        let held = move || work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(held).await
    }

    /// A write: the effect and its response, in one transaction.
    async fn write(
        self,
        attempt: Option<Extension<Attempt>>,
        effect: impl FnOnce(&Transaction<'_>) -> Result<Response<String>, Refusal> + Send + 'static,
    ) -> Result<Response<String>, Refusal> {
        self.with(move |database| {
            let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if let Some(Extension(attempt)) = &attempt {
                // A token is below 2^63.
                let token = attempt.token().get().cast_signed();
                let admitted = transaction
                    .prepare_cached(ADMIT)?
                    .execute(params![attempt.operation().to_string(), token])?;
                if admitted == 0 {
                    return Err(Refusal(503, "fenced", "another attempt took over"));
                }
            }
            let response = effect(&transaction)?;
            if let Some(Extension(attempt)) = &attempt {
                transaction
                    .prepare_cached(SAVE)?
                    .execute(params![attempt.operation().to_string(), attempt.encode(&response)])?;
            }
            transaction.commit()?;
            Ok(response)
        })
        .await?
    }
}

/// What became of an operation: its saved response, or none once nothing up to the fence can
/// commit. The commit is explicit because a statement with RETURNING that is not run to its end
/// hides a failed one.
fn testify(database: &mut Connection, question: &Question) -> rusqlite::Result<Testimony> {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (operation, fence) = (question.operation.to_string(), question.fence.cast_signed());
    let saved = transaction
        .prepare_cached(WITNESS)?
        .query_row(params![operation, fence], |row| row.get(0))?;
    transaction.commit()?;
    Ok(Testimony::of_saved(saved))
}

async fn find(
    State(database): State<Database>,
    Extension(Account(organization)): Extension<Account>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response<String>, Refusal> {
    let email = query.get("email").cloned().ok_or(Refusal(422, "invalid", "email is required"))?;
    let found = database.with(move |database| {
        database
            .prepare_cached(
                "SELECT id, first_name, last_name, email FROM contact
                 WHERE organization = ?1 AND email = ?2 ORDER BY id",
            )?
            .query_map([organization, email], contact)?
            .collect::<rusqlite::Result<Vec<Value>>>()
    });
    Ok(answer(200, &found.await??.into()))
}

async fn create(
    State(database): State<Database>,
    Extension(Account(organization)): Extension<Account>,
    attempt: Option<Extension<Attempt>>,
    body: Bytes,
) -> Result<Response<String>, Refusal> {
    let [first, last, email] = fields(&body)?;
    let email = email.ok_or(Refusal(422, "invalid", "email is required"))?;
    let insert = move |transaction: &Transaction<'_>| {
        let created = transaction
            .prepare_cached(
                "INSERT INTO contact (organization, first_name, last_name, email)
                 VALUES (?1, coalesce(?2, ''), coalesce(?3, ''), ?4)
                 RETURNING id, first_name, last_name, email",
            )?
            .query_row(params![organization, first, last, email], contact)?;
        let location = format!("/public/v1/contacts/{}", created["id"]);
        let location = HeaderValue::from_str(&location).expect("an id is a number");
        let mut response = answer(201, &created);
        response.headers_mut().insert(header::LOCATION, location);
        Ok(response)
    };
    database.write(attempt, insert).await
}

async fn update(
    State(database): State<Database>,
    Extension(Account(organization)): Extension<Account>,
    Path(id): Path<i64>,
    attempt: Option<Extension<Attempt>>,
    body: Bytes,
) -> Result<Response<String>, Refusal> {
    let [first, last, email] = fields(&body)?;
    let update = move |transaction: &Transaction<'_>| {
        let updated = transaction
            .prepare_cached(
                "UPDATE contact SET first_name = coalesce(?3, first_name),
                     last_name = coalesce(?4, last_name), email = coalesce(?5, email)
                 WHERE organization = ?1 AND id = ?2
                 RETURNING id, first_name, last_name, email",
            )?
            .query_row(params![organization, id, first, last, email], contact)?;
        Ok(answer(200, &updated))
    };
    database.write(attempt, update).await
}

async fn remove(
    State(database): State<Database>,
    Extension(Account(organization)): Extension<Account>,
    Path(id): Path<i64>,
    attempt: Option<Extension<Attempt>>,
) -> Result<Response<String>, Refusal> {
    let remove = move |transaction: &Transaction<'_>| {
        let removed = transaction
            .prepare_cached(
                "DELETE FROM contact WHERE organization = ?1 AND id = ?2
                 RETURNING id, first_name, last_name, email",
            )?
            .query_row(params![organization, id], contact)?;
        Ok(answer(200, &removed))
    };
    database.write(attempt, remove).await
}

/// `first_name`, `last_name` and `email` of a request body, each where it is given.
fn fields(body: &[u8]) -> Result<[Option<String>; 3], Refusal> {
    let refuse = |detail| Refusal(422, "invalid", detail);
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

fn answer(status: u16, data: &Value) -> Response<String> {
    let mut response = Response::new(json!({ "data": data }).to_string());
    *response.status_mut() = StatusCode::from_u16(status).expect("the callers name valid codes");
    let media_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    response
}

/// Status, code and detail of a problem document.
struct Refusal(u16, &'static str, &'static str);

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        if matches!(error, rusqlite::Error::QueryReturnedNoRows) {
            return Self(404, "not_found", "the organization has no contact with this id");
        }
        eprintln!("contacts_api: database: {error}");
        Self(503, "unavailable", "the database is unavailable")
    }
}

impl From<tokio::task::JoinError> for Refusal {
    fn from(_: tokio::task::JoinError) -> Self {
        Self(500, "internal", "the request failed")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        let Self(status, code, detail) = self;
        let retryable = matches!(status, 500 | 503);
        let body =
            json!({ "status": status, "code": code, "detail": detail, "retryable": retryable });
        let mut response = Response::new(body.to_string().into());
        *response.status_mut() =
            StatusCode::from_u16(status).expect("the callers name valid codes");
        let headers = response.headers_mut();
        let media_type = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, media_type);
        if retryable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
