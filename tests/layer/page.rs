//! Every sentence of the idempotency page that all of this began from, for a server that uses the
//! layer with its defaults and a witness. A test is named after its sentence.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{patch, post};
use http::{Method, StatusCode};
use oncelog::http::{Attempt, Orphans, Testimony};

use crate::layer::support::{Account, Api, door};

const DAY: Duration = Duration::from_secs(24 * 3600);

const AVERY: &str = r#"{"first_name":"Avery","last_name":"Stone","email":"avery@example.com"}"#;

/// The records of a small integration API, by organization, and what each operation answered.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<Tables>>);

#[derive(Default)]
struct Tables {
    contacts: Vec<(String, Option<String>)>,
    operations: std::collections::HashMap<oncelog::OperationId, Vec<u8>>,
}

impl Records {
    fn contacts(&self) -> usize {
        self.0.lock().unwrap().contacts.iter().filter(|(_, contact)| contact.is_some()).count()
    }

    fn witness(&self) -> Orphans {
        let records = self.clone();
        Orphans::witness(move |question| {
            let saved = records.0.lock().unwrap().operations.get(&question.operation).cloned();
            async move { Ok(Testimony::of_saved(saved)) }
        })
    }

    fn save<T: AsRef<[u8]>>(
        tables: &mut Tables,
        attempt: Option<Extension<Attempt>>,
        response: &http::Response<T>,
    ) {
        if let Some(Extension(attempt)) = attempt {
            tables.operations.insert(attempt.operation(), attempt.encode(response));
        }
    }
}

fn answer(status: u16, body: String) -> http::Response<String> {
    let json = ("content-type", "application/json");
    http::Response::builder().status(status).header(json.0, json.1).body(body).unwrap()
}

async fn create(
    State(records): State<Records>,
    attempt: Option<Extension<Attempt>>,
    Extension(account): Extension<Account>,
    body: String,
) -> impl IntoResponse {
    let mut tables = records.0.lock().unwrap();
    if !body.contains("email") {
        return answer(422, "no email".into());
    }
    tables.contacts.push((account.organization, Some(body)));
    let mut response = answer(201, format!("{{\"id\":{}}}", tables.contacts.len()));
    let location = format!("/public/v1/contacts/{}", tables.contacts.len());
    response.headers_mut().insert("location", location.parse().unwrap());
    Records::save(&mut tables, attempt, &response);
    response
}

async fn change(
    State(records): State<Records>,
    Path(id): Path<usize>,
    method: Method,
    attempt: Option<Extension<Attempt>>,
    body: String,
) -> impl IntoResponse {
    let mut tables = records.0.lock().unwrap();
    let Some(contact) = tables.contacts.get_mut(id - 1).filter(|contact| contact.1.is_some())
    else {
        return answer(404, "no such contact".into());
    };
    contact.1 = (method != Method::DELETE).then_some(body);
    let response = answer(200, format!("{{\"id\":{id}}}"));
    Records::save(&mut tables, attempt, &response);
    response
}

fn router(records: &Records) -> Router {
    Router::new()
        .route("/public/v1/contacts", post(create))
        .route("/public/v1/contacts/{id}", patch(change).put(change).delete(change))
        .with_state(records.clone())
}

async fn start() -> (Records, Api) {
    let records = Records::default();
    let api = Api::start(records.witness(), router(&records)).await;
    (records, api)
}

#[tokio::test]
async fn safely_retry_public_api_write_requests() {
    let (records, api) = start().await;
    let request = api.post("/public/v1/contacts").key("contact-import-0001").json(AVERY);
    let first = request.clone().send().await;
    assert_eq!(first.status, StatusCode::CREATED);
    for _ in 0..3 {
        request.clone().send().await.assert_same(&first);
    }
    assert_eq!(records.contacts(), 1);
}

#[tokio::test]
async fn use_idempotency_keys_when_retrying_write_requests() {
    let (records, api) = start().await;
    let request = api.post("/public/v1/contacts").json(AVERY);
    request.clone().send().await;
    request.clone().send().await;
    assert_eq!(records.contacts(), 2, "without a key each request is a new write");
    let request = request.key("contact-import-0001");
    request.clone().send().await;
    request.send().await;
    assert_eq!(records.contacts(), 3, "with one, a retry is none");
}

#[tokio::test]
async fn this_prevents_duplicate_records_when_a_timeout_happens_after_the_request_was_processed() {
    let records = Records::default();
    let (entered, mut porter) = door();
    let processed = entered.clone();
    let slow = axum::middleware::from_fn(move |request, next: axum::middleware::Next| {
        let processed = processed.clone();
        async move {
            let response = next.run(request).await;
            processed.pass().await;
            response
        }
    });
    let router = router(&records).layer(slow);
    let api = Api::start(records.witness(), router).await;
    let request = api.post("/public/v1/contacts").key("contact-import-0001").json(AVERY);

    let timed_out = request.clone().spawn();
    porter.met().await;
    assert_eq!(records.contacts(), 1, "the record is there, the answer is not");
    timed_out.abort();
    assert!(timed_out.await.unwrap_err().is_cancelled());

    let retry = request.clone().spawn();
    porter.let_through();
    let retry = retry.await.unwrap();
    assert_eq!((retry.status, retry.text()), (StatusCode::CREATED, r#"{"id":1}"#));
    assert_eq!(records.contacts(), 1);
}

#[tokio::test]
async fn systems_retry_without_a_person_watching() {
    // A job that sends each row until it is answered, and starts again from the first row.
    let (records, api) = start().await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        for row in 0..10 {
            let key = format!("migration-row-{row:05}-create-contact-v1");
            let body = AVERY.replace("avery@", &format!("row{row}@"));
            let reply = api.post("/public/v1/contacts").key(&key).json(&body).send().await;
            assert_eq!(reply.status, StatusCode::CREATED);
            answers.push(reply.body);
        }
    }
    assert_eq!(records.contacts(), 10);
    assert_eq!((&answers[..10], &answers[..10]), (&answers[10..20], &answers[20..]));
}

#[tokio::test]
async fn send_a_unique_key_in_the_idempotency_key_header() {
    let (records, api) = start().await;
    for key in ["contact-import-0001", "contact-import-0002"] {
        let reply = api.post("/public/v1/contacts").key(key).json(AVERY).send().await;
        assert!(reply.status.is_success() && !reply.is_replay());
    }
    assert_eq!(records.contacts(), 2, "two keys are two writes, whatever the body");
}

#[tokio::test]
async fn organization_method_path_and_key_have_to_match() {
    let (records, api) = start().await;
    let path = "/public/v1/contacts";
    api.post(path).key("k").json(AVERY).send().await;
    let elsewhere = [
        api.post(path).bearer("globex").key("k").json(AVERY),
        api.send(Method::PUT, "/public/v1/contacts/1").key("k").json(AVERY),
        api.send(Method::PATCH, "/public/v1/contacts/1").key("k").json(AVERY),
        api.send(Method::PATCH, "/public/v1/contacts/2").key("k").json(AVERY),
        api.post(path).key("K").json(AVERY),
    ];
    for request in elsewhere {
        let reply = request.send().await;
        assert!(reply.status.is_success() && !reply.is_replay(), "{reply:?}");
    }
    assert_eq!(records.contacts(), 3, "acme k, globex k, acme K");
}

#[tokio::test]
async fn the_first_successful_operation_stores_the_response() {
    let (records, api) = start().await;
    let request = api.post("/public/v1/contacts").key("k");
    let failed = request.clone().json("{}").send().await;
    assert_eq!(failed.status, StatusCode::UNPROCESSABLE_ENTITY);
    // The failure was not stored: the corrected body is no conflict.
    let first = request.clone().json(AVERY).send().await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert!(!first.is_replay(), "the first answer has no marker");
    let retry = request.json(AVERY).send().await;
    assert!(retry.is_replay());
    retry.assert_same(&first);
    assert_eq!(records.contacts(), 1);
}

#[tokio::test]
async fn a_retry_with_the_same_request_body_returns_the_stored_response() {
    let (_, api) = start().await;
    let request = api.post("/public/v1/contacts").key("k").json(AVERY);
    let first = request.clone().send().await;
    let retry = request.send().await;
    assert!(retry.is_replay());
    retry.assert_same(&first);
    assert_eq!(retry.header("location"), Some("/public/v1/contacts/1"));
    assert!(retry.header("idempotency-original-date").unwrap().ends_with(" GMT"));
}

#[tokio::test]
async fn a_retry_with_a_different_request_body_returns_an_idempotency_conflict() {
    let (records, api) = start().await;
    let request = api.post("/public/v1/contacts").key("k");
    request.clone().json(AVERY).send().await;
    let conflict = request.json(&AVERY.replace("Avery", "Ivory")).send().await;
    assert_eq!(conflict.status, StatusCode::CONFLICT);
    assert_eq!(conflict.code(), "idempotency_conflict");
    assert!(!conflict.is_retryable());
    assert_eq!(records.contacts(), 1);
}

#[tokio::test]
async fn stored_idempotency_keys_expire_after_30_days() {
    let (records, api) = start().await;
    let request = api.post("/public/v1/contacts").key("k").json(AVERY);
    request.clone().send().await;

    // The conformance suite looks at the moment itself.
    api.pass(30 * DAY - Duration::from_secs(60)).await;
    assert!(request.clone().send().await.is_replay(), "a minute before");
    api.pass(Duration::from_secs(60)).await;
    assert!(!request.send().await.is_replay(), "30 days after its completion");
    assert_eq!(records.contacts(), 2);
}

#[tokio::test]
async fn later_retries_use_the_same_key() {
    let (records, mut api) = start().await;
    let mut first = None;
    for day in 0..29 {
        let request = api.post("/public/v1/contacts").key("hubspot-contact-123-create-v1");
        let reply = request.json(AVERY).send().await;
        reply.assert_same(first.get_or_insert_with(|| reply.clone()));
        assert_eq!(reply.is_replay(), day > 0, "day {day}");
        // A server that is restarted every day.
        api.pass(DAY).await;
        api = api.crash(records.witness(), router(&records)).await;
    }
    assert_eq!(records.contacts(), 1);
}

#[tokio::test]
async fn a_resumed_job_reuses_the_record_id_instead_of_searching() {
    let (_, api) = start().await;
    let request = api.post("/public/v1/contacts").key("k").json(AVERY);
    let id = request.clone().send().await;
    assert_eq!(id.text(), r#"{"id":1}"#);
    api.post("/public/v1/contacts").key("another").json(AVERY).send().await;
    assert_eq!(request.send().await.text(), id.text());
}

#[tokio::test]
async fn create_update_and_delete_requests_have_keys() {
    let (records, api) = start().await;
    let create = api.post("/public/v1/contacts").key("create").json(AVERY);
    let update = api.send(Method::PATCH, "/public/v1/contacts/1").key("update").json("Hill");
    let replace = api.send(Method::PUT, "/public/v1/contacts/1").key("replace").json("Dale");
    let delete = api.send(Method::DELETE, "/public/v1/contacts/1").key("delete");
    for request in [create, update.clone(), replace, delete] {
        let first = request.clone().send().await;
        assert!(first.status.is_success(), "{first:?}");
        let retry = request.send().await;
        assert!(retry.is_replay(), "{retry:?}");
        retry.assert_same(&first);
    }
    assert_eq!(records.contacts(), 0);
    assert!(update.send().await.is_replay(), "a late retry of the update does not run again");
}

#[tokio::test]
async fn a_new_random_key_for_every_retry_is_a_new_write() {
    let (records, api) = start().await;
    for key in ["5f1b9a50-b1c5-4b1e-bd4f-8f8fd4d7b1f3", "0c7a6a3f-46a6-4d63-9e4e-0d4a70d4cc55"] {
        assert!(!api.post("/public/v1/contacts").key(key).json(AVERY).send().await.is_replay());
    }
    assert_eq!(records.contacts(), 2);
}

#[tokio::test]
async fn a_changed_request_body_with_a_new_key_is_a_new_operation() {
    let (records, api) = start().await;
    api.post("/public/v1/contacts").key("import-1-v1").json(AVERY).send().await;
    let changed = AVERY.replace("Stone", "Hill");
    let reply = api.post("/public/v1/contacts").key("import-1-v2").json(&changed).send().await;
    assert_eq!(reply.status, StatusCode::CREATED);
    assert_eq!(records.contacts(), 2);
}

#[tokio::test]
async fn after_a_conflict_the_original_body_is_replayed_and_a_new_key_runs() {
    let (records, api) = start().await;
    let request = api.post("/public/v1/contacts");
    let changed = AVERY.replace("Avery", "Ivory");
    let first = request.clone().key("k").json(AVERY).send().await;
    let conflict = request.clone().key("k").json(&changed).send().await;
    assert_eq!(conflict.code(), "idempotency_conflict");
    request.clone().key("k").json(AVERY).send().await.assert_same(&first);
    assert_eq!(request.key("k-v2").json(&changed).send().await.status, StatusCode::CREATED);
    assert_eq!(records.contacts(), 2);
}

#[tokio::test]
async fn good_key_examples_pass() {
    let (records, api) = start().await;
    let keys = [
        "hubspot-contact-123-create-v1",
        "stripe-payment-pi_123-record-v1",
        "migration-row-00429-create-contact-v1",
        "order-1001-create-invoice-v1",
        "source-system-record-id-action-version",
        "contact-import-0001",
    ];
    for key in keys {
        let request = api.post("/public/v1/contacts").key(key).json(AVERY);
        assert_eq!(request.clone().send().await.status, StatusCode::CREATED, "{key}");
        assert!(request.send().await.is_replay(), "{key}");
    }
    assert_eq!(records.contacts(), keys.len());
}

#[tokio::test]
async fn a_timestamp_in_the_key_defeats_duplicate_prevention() {
    let (records, api) = start().await;
    for key in ["contact-123-2026-11-24T10:00:00Z", "contact-123-2026-11-24T10:00:30Z"] {
        api.post("/public/v1/contacts").key(key).json(AVERY).send().await;
    }
    assert_eq!(records.contacts(), 2);
}
