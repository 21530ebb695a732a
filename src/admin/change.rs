//! The routes that change the store. Each is logged with who asked for it.

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use http::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::authentication::Operator;
use crate::admin::problem::{Code, Problem};
use crate::admin::read::{ScopeFields, asked, blocking, json, ms, token};
use crate::admin::{Context, Shared, TARGET, saved};
use crate::claim::Orphan;
use crate::error::Error;

type Received = Result<Bytes, BytesRejection>;
type Answer = Result<Response<Body>, Problem>;

/// The attempt that an operator saw.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    scope: ScopeFields,
    token: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolution {
    scope: ScopeFields,
    token: String,
    response: saved::Response,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Forgotten {
    scope: ScopeFields,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgottenOrganization {
    organization: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupName {
    name: String,
}

/// Nothing is to be said but that it is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {}

impl Seen {
    /// The orphan, if its last attempt is still the one that was seen. What is done to it names
    /// that attempt, so that one which begins meanwhile is not ended.
    fn find(&self, context: &Context) -> Result<Orphan, Problem> {
        let token = token(&self.token)?;
        let orphan = context.store.orphan(self.scope.scope())?;
        let is_seen = |orphan: &Orphan| orphan.info().token() == token;
        orphan.filter(is_seen).ok_or_else(|| Problem::new(Code::Superseded))
    }

    fn subject(&self) -> String {
        // The scope shows a hash of its key.
        format!("{:?} token {:?}", self.scope.scope(), self.token)
    }
}

pub(crate) async fn resolve(
    State(context): State<Shared>,
    Extension(operator): Extension<Operator>,
    body: Received,
) -> Answer {
    let Resolution { scope, token, response } = asked(body)?;
    let seen = Seen { scope, token };
    let deed = Deed { action: "resolve", subject: seen.subject(), operator };
    deed.run(&context, move |context| {
        let orphan = seen.find(context)?;
        let bytes = response.bytes(orphan.info())?;
        let limit = context.store.response_bytes_max() as usize;
        if bytes.len() > limit {
            let detail = format!("the response has {} bytes, the limit is {limit}", bytes.len());
            return Err(Problem::with(Code::TooLarge, detail));
        }
        let stored = orphan.resolve(&bytes)?;
        Ok(json!({
            "resolved": stored.operation().to_string(),
            "expires_at_ms": ms(stored.expires_at()),
            "response_kept": stored.bytes().is_some(),
        }))
    })
    .await
}

pub(crate) async fn release(
    State(context): State<Shared>,
    Extension(operator): Extension<Operator>,
    body: Received,
) -> Answer {
    let seen: Seen = asked(body)?;
    let deed = Deed { action: "release", subject: seen.subject(), operator };
    deed.run(&context, move |context| {
        let orphan = seen.find(context)?;
        let operation = orphan.info().operation().to_string();
        match orphan.release() {
            Ok(()) => Ok(json!({ "released": operation })),
            Err(Error::Invalid { .. }) => Err(Problem::new(Code::StillRunning)),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

pub(crate) async fn forget(
    State(context): State<Shared>,
    Extension(operator): Extension<Operator>,
    body: Received,
) -> Answer {
    let Forgotten { scope } = asked(body)?;
    let deed = Deed { action: "forget", subject: format!("{:?}", scope.scope()), operator };
    deed.run(&context, move |context| {
        let scope = scope.scope();
        if context.store.forget(scope)? {
            return Ok(json!({ "forgotten": 1 }));
        }
        let found = context.store.lookup(scope)?;
        Err(Problem::new(if found.is_some() { Code::ClaimOpen } else { Code::ScopeFree }))
    })
    .await
}

pub(crate) async fn forget_organization(
    State(context): State<Shared>,
    Extension(operator): Extension<Operator>,
    body: Received,
) -> Answer {
    let ForgottenOrganization { organization } = asked(body)?;
    let subject = format!("organization {organization:?}");
    let deed = Deed { action: "forget-organization", subject, operator };
    deed.run(&context, move |context| {
        let forgotten = context.store.forget_organization(&organization)?;
        let orphans = context.store.unresolved()?;
        let kept = orphans.iter().filter(|info| info.organization() == organization).count();
        Ok(json!({ "forgotten": forgotten, "orphans_kept": kept }))
    })
    .await
}

pub(crate) async fn accept_clock(
    State(context): State<Shared>,
    Extension(operator): Extension<Operator>,
    body: Received,
) -> Answer {
    let Accepted {} = asked(body)?;
    let deed = Deed { action: "accept-clock", subject: String::new(), operator };
    deed.run(&context, |context| {
        context.store.accept_clock()?;
        Ok(json!({ "store_time_ms": ms(context.store.time()) }))
    })
    .await
}

pub(crate) async fn backup(
    State(context): State<Shared>,
    Extension(operator): Extension<Operator>,
    body: Received,
) -> Answer {
    let BackupName { name } = asked(body)?;
    if !is_plain(&name) {
        let what = "a backup's name is 1 to 100 letters, digits, dots, dashes and underscores, and \
                    begins with a letter or a digit";
        return Err(Problem::with(Code::Invalid, what));
    }
    let deed = Deed { action: "backup", subject: name.clone(), operator };
    deed.run(&context, move |context| {
        let root = context.backups.as_ref().ok_or_else(|| Problem::new(Code::NotFound))?;
        let backup = context.store.backup(root.join(&name))?;
        Ok(json!({
            "name": name,
            "segments": backup.segments,
            "records": backup.records,
            "bytes": backup.bytes,
            "linked": backup.linked,
            "copied": backup.copied,
            "open_claims": backup.open_claims,
            "upto": backup.upto.map(|token| token.to_string()),
        }))
    })
    .await
}

/// Whether a name stays in its directory: one component that is neither hidden nor a parent.
fn is_plain(name: &str) -> bool {
    let is_of_a_name =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=100).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(is_of_a_name)
}

/// Who does what to what, for the log.
struct Deed {
    action: &'static str,
    subject: String,
    operator: Operator,
}

impl Deed {
    /// Makes the change, and logs how it ended: there, since whoever asked may have hung up.
    async fn run(
        self,
        context: &Shared,
        change: impl FnOnce(&Context) -> Result<Value, Problem> + Send + 'static,
    ) -> Answer {
        let told = blocking(context, move |context| {
            let Deed { action, subject, operator } = self;
            let operator = operator.name();
            let outcome = change(context);
            match outcome.as_ref().err().map(Problem::code) {
                None => tracing::info!(target: TARGET, operator, action, subject, "done"),
                Some(code) => {
                    tracing::warn!(target: TARGET, operator, action, subject, code, "refused");
                }
            }
            outcome
        });
        Ok(json(&told.await?))
    }
}
