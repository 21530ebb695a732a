//! A page and routes for operators, as an axum router that cannot be built without authentication.
//!
//! ```
//! use axum::Router;
//! use http::request::Parts;
//! use oncelog::admin::{Admin, Operator, Refusal};
//!
//! /// Who a layer of the server has authenticated.
//! #[derive(Clone)]
//! struct Account {
//!     name: String,
//! }
//!
//! fn operator(request: &Parts) -> Result<Operator, Refusal> {
//!     match request.extensions.get::<Account>() {
//!         Some(account) => Ok(Operator::named(&account.name)),
//!         None => Err(Refusal::forbidden()),
//!     }
//! }
//!
//! # let dir = tempfile::tempdir()?;
//! let store = oncelog::Store::open(dir.path())?;
//! let admin = Admin::new(store, operator).backups_in("/var/backups/idempotency").router();
//! let app: Router = Router::new().nest("/operations", admin);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! There is no router without the answer to *who asks*:
//!
//! ```compile_fail,E0061
//! fn operations(store: oncelog::Store) -> axum::Router {
//!     oncelog::admin::Admin::new(store).router()
//! }
//! ```
//!
//! # Routes
//! Relative to where the router is mounted. What they take and tell, the names of the metrics, and
//! what each alarm means: `docs/admin.md`.
//!
//! | route | |
//! |---|---|
//! | `GET /` | the page: one document, which asks no other host for anything |
//! | `GET /stats`, `/segments`, `/orphans` | JSON |
//! | `GET /metrics` | Prometheus text |
//! | `POST /orphans/resolve`, `/orphans/release` | end the attempt that is named, and no other |
//! | `POST /forget`, `/forget-organization` | erase |
//! | `POST /backup` | where a directory for backups was named |
//! | `POST /accept-clock` | the operator's word that a jump of the clock is real |
//!
//! Every route, the page too, asks the authentication first. A change must be JSON, and must not
//! come from a page of another origin. What changes is logged with the operator's name (`tracing`,
//! target `oncelog::admin`). Errors are `application/problem+json`. No route shows a response.
//!
//! The router needs a tokio runtime with threads for blocking work.

mod problem;

mod authentication;

mod guard;
mod read;

mod alarms;
mod figures;
mod metrics;

mod saved;

mod change;
mod look;
mod page;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use http::request::Parts;

pub use crate::admin::authentication::{Operator, Refusal};
use crate::store::Store;

/// The target of the log lines.
const TARGET: &str = "oncelog::admin";

type Authenticate = dyn Fn(&Parts) -> Result<Operator, Refusal> + Send + Sync;

/// What every route knows.
struct Context {
    store: Store,
    authenticate: Box<Authenticate>,
    backups: Option<PathBuf>,
}

type Shared = Arc<Context>;

/// Builds the router for operators.
#[must_use = "nothing is served before `router` is mounted"]
pub struct Admin(Context);

impl Admin {
    /// Of this store, for whom `authentication` names: a function of the head of each request,
    /// which reads what an outer layer found (an extension), or a header. It runs before anything
    /// else, for every route, and must not block.
    ///
    /// A function that lets everybody in gives everybody the right to free and to erase: whoever
    /// writes one has to write it down.
    pub fn new(
        store: Store,
        authentication: impl Fn(&Parts) -> Result<Operator, Refusal> + Send + Sync + 'static,
    ) -> Admin {
        Admin(Context { store, authenticate: Box::new(authentication), backups: None })
    }

    /// Lets operators make backups in new directories of this one, which must exist. Without it
    /// there is no such route. Segments are linked where the directory is on the file system of
    /// the store: see [`Store::backup`].
    pub fn backups_in(mut self, root: impl Into<PathBuf>) -> Admin {
        self.0.backups = Some(root.into());
        self
    }

    /// The router, to be mounted with [`Router::nest`] or [`Router::merge`], at any path. Nested at
    /// `/operations` the page is there, and not at `/operations/`; nested at `/operations/` it is
    /// the other way round.
    pub fn router(self) -> Router {
        let context = Arc::new(self.0);
        let mut router = Router::new()
            .route("/", get(page::page))
            .route("/stats", get(look::stats))
            .route("/segments", get(look::segments))
            .route("/orphans", get(look::orphans))
            .route("/metrics", get(metrics::metrics))
            .route("/orphans/resolve", post(change::resolve))
            .route("/orphans/release", post(change::release))
            .route("/forget", post(change::forget))
            .route("/forget-organization", post(change::forget_organization))
            .route("/accept-clock", post(change::accept_clock));
        if context.backups.is_some() {
            router = router.route("/backup", post(change::backup));
        }
        // Base64 takes four bytes for three; the rest is for the scope and the headers.
        let body_bytes_max = 2 * context.store.response_bytes_max() as usize + 64 * 1024;
        router
            .fallback(page::fallback)
            .method_not_allowed_fallback(guard::wrong_method)
            .layer(DefaultBodyLimit::max(body_bytes_max))
            .layer(middleware::from_fn_with_state(Arc::clone(&context), guard::guard))
            .with_state(context)
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Context { store, backups, .. } = &self.0;
        f.debug_struct("Admin")
            .field("store", store)
            .field("backups", backups)
            .finish_non_exhaustive()
    }
}
