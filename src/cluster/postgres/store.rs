//! The handle on a store of claims, and how a statement reaches the server.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::Row;

use crate::cluster::postgres::error::PostgresError;
use crate::cluster::postgres::held::column;
use crate::cluster::postgres::schema::SchemaName;
use crate::cluster::postgres::session::{Session, Value};
use crate::cluster::postgres::statements::{Leaf, Statements, View};
use crate::cluster::postgres::waiters::Waiters;
use crate::http::backend::Promises;
use crate::sync::Mutex;

/// A store of claims in PostgreSQL. Clones share its pool of connections; the last one to go ends
/// its background task.
///
/// It is a [`Backend`](crate::http::Backend) for the layer, an
/// [`Administer`](crate::http::Administer) for the operator, and more than either:
/// [`PostgresStore::claim_in`] and [`PostgresStore::complete_in`] put the claim and its completion
/// into the caller's own transaction. `docs/postgres.md` has the guarantees, setting by setting.
///
/// It needs a tokio runtime with time and I/O: the one that it was connected in.
///
/// ```no_run
/// use oncelog::cluster::PostgresStore;
/// use oncelog::http::{IdempotencyLayer, Organization, Orphans};
///
/// # async fn connect() -> Result<(), oncelog::cluster::PostgresError> {
/// let store = PostgresStore::connect("postgres://api@db.internal/shop").await?;
/// let layer = IdempotencyLayer::new(store, Organization::single(), Orphans::Hold);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    pub(crate) shared: Arc<Shared>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("schema", &self.shared.schema).finish_non_exhaustive()
    }
}

pub(crate) struct Shared {
    pub(crate) pool: Pool,
    pub(crate) schema: SchemaName,
    pub(crate) statements: Statements,
    pub(crate) ttl: Duration,
    /// How long a call waits for the server.
    pub(crate) limit: Duration,
    pub(crate) promises: Promises,
    pub(crate) waiters: Arc<Waiters>,
    /// Of the runtime that it was connected in, so that a drop elsewhere can start a task.
    pub(crate) runtime: Handle,
    // LOCK: view (a leaf)
    pub(crate) view: Mutex<Option<Arc<View>>>,
    // LOCK: upkeep (a leaf)
    pub(crate) upkeep: Mutex<Option<AbortHandle>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(upkeep) = self.upkeep.lock().take() {
            upkeep.abort();
        }
    }
}

impl PostgresStore {
    /// How long responses are kept.
    pub fn ttl(&self) -> Duration {
        self.shared.ttl
    }
}

impl Shared {
    pub(crate) async fn connection(&self) -> Result<Object, PostgresError> {
        self.pool.get().await.map_err(|error| PostgresError::Unavailable {
            context: "taking a connection from the pool",
            source: Arc::new(error),
        })
    }

    /// One statement on a connection of the pool, within the time limit of a call.
    pub(crate) async fn rows(
        &self,
        context: &'static str,
        statement: &str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, PostgresError> {
        let connection = self.connection().await?;
        let asked = Session::Pooled(&connection).rows(statement, values);
        match timeout(self.limit, asked).await {
            Ok(rows) => rows.map_err(|error| PostgresError::of(context, error)),
            Err(_) => {
                // Whoever had it next would wait for the same answer.
                drop(Object::take(connection));
                Err(PostgresError::TimedOut { after: self.limit })
            }
        }
    }

    /// Where claims go, so far as it is known.
    pub(crate) async fn view(&self) -> Result<Arc<View>, PostgresError> {
        let known = self.view.lock().clone();
        match known {
            Some(view) => Ok(view),
            None => self.refresh().await,
        }
    }

    /// Reads where claims go.
    pub(crate) async fn refresh(&self) -> Result<Arc<View>, PostgresError> {
        let rows = self.rows("reading generations", &self.statements.generations, &[]).await?;
        let (mut open, mut closed) = (None, Vec::new());
        for row in &rows {
            let generation: i32 = column(row, 0)?;
            match column(row, 1)? {
                true => open = Some(generation),
                false => closed.push(generation),
            }
        }
        let open = open.ok_or(PostgresError::Corrupt { what: "no generation is open" })?;
        let view = Arc::new(View::new(&self.schema, open, &closed));
        *self.view.lock() = Some(Arc::clone(&view));
        Ok(view)
    }

    /// The statements of a generation.
    pub(crate) fn leaf(&self, generation: i32) -> Arc<Leaf> {
        if let Some(view) = &*self.view.lock()
            && view.leaf.generation == generation
        {
            return Arc::clone(&view.leaf);
        }
        Arc::new(Leaf::new(&self.schema, generation))
    }
}
