//! How a claim is made: the way from the one statement of a free scope to the answers of the rest.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};

use crate::cluster::postgres::error::PostgresError;
use crate::cluster::postgres::held::{GIVEN_UP, Held, bigint, column, token};
use crate::cluster::postgres::permit::PostgresPermit;
use crate::cluster::postgres::session::{Session, Value};
use crate::cluster::postgres::statements::View;
use crate::cluster::postgres::store::Shared;
use crate::cluster::postgres::wire::{Interval, Uuid};
use crate::engine::outcome::OrphanCause;
use crate::http::backend::Answer;
use crate::scope::{Fingerprint, OperationId, Scope, Token};

/// How often a claim starts again when what it meets is gone by the time it looks.
const ATTEMPTS_MAX: usize = 16;
/// How long a waiting caller pauses before it asks, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// How often, and how far apart, a claim whose fate is unknown is ended.
const ABANDON_ATTEMPTS: usize = 10;
const ABANDON_PAUSE: Duration = Duration::from_secs(1);

pub(crate) type Told = Result<Answer<PostgresPermit>, PostgresError>;

/// What is claimed, owned, so that a task can go on with it.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) digest: [u8; 32],
    pub(crate) scope: Vec<u8>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) operation: OperationId,
    pub(crate) lease: Duration,
}

impl Wanted {
    pub(crate) fn new(
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Wanted, PostgresError> {
        scope.check()?;
        let drawn = crate::random::bytes().map_err(|error| PostgresError::Unavailable {
            context: "drawing random bytes",
            source: Arc::new(error),
        })?;
        Ok(Wanted {
            digest: scope.digest(),
            scope: scope.encode().to_vec(),
            fingerprint,
            operation: OperationId::from_hash(drawn),
            lease,
        })
    }

    /// The one statement that claims a free scope; no row where the scope is not free.
    pub(crate) async fn insert(
        &self,
        session: Session<'_>,
        statement: &str,
        ttl: Duration,
    ) -> Result<Option<Row>, Error> {
        let (digest, scope) = (&self.digest[..], &self.scope[..]);
        let operation = Uuid(self.operation.to_bytes());
        let fingerprint = Uuid(self.fingerprint.to_bytes());
        let (lease, ttl) = (Interval(self.lease), Interval(ttl));
        let values: [Value<'_>; 6] = [
            (&digest, Type::BYTEA),
            (&scope, Type::BYTEA),
            (&operation, Type::UUID),
            (&fingerprint, Type::UUID),
            (&lease, Type::INTERVAL),
            (&ttl, Type::INTERVAL),
        ];
        Ok(session.rows(statement, &values).await?.pop())
    }

    pub(crate) fn permit(&self, view: &View, row: &Row) -> Result<PostgresPermit, PostgresError> {
        Ok(PostgresPermit {
            operation: self.operation,
            token: token(row, 0)?,
            attempt: 1,
            cause: None,
            checkpoint: None,
            lease: self.lease,
            digest: self.digest,
            leaf: Arc::clone(&view.leaf),
        })
    }
}

/// The answer on its way to the caller. A grant that nobody takes is ended: a first attempt had no
/// effect; of a later one it is not known what those before it did.
struct Delivery {
    shared: Arc<Shared>,
    told: Option<Told>,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(Ok(Answer::Granted(permit))) = self.told.take() {
            let shared = Arc::clone(&self.shared);
            self.shared.runtime.spawn(async move {
                match permit.attempt {
                    1 => shared.release(&permit).await,
                    _ => shared.give_up(&permit).await,
                }
            });
        }
    }
}

/// Runs what may be granted something in a task, which goes on when the caller is gone, so that it
/// can undo it then.
async fn heard(shared: &Arc<Shared>, asked: impl Future<Output = Told> + Send + 'static) -> Told {
    let (tell, hear) = oneshot::channel();
    let task = Arc::clone(shared);
    shared.runtime.spawn(async move {
        let told = Some(asked.await);
        // Not heard, it is dropped here.
        tell.send(Delivery { shared: task, told }).ok();
    });
    let gone = PostgresError::Unavailable {
        context: "waiting for a task of a runtime that shuts down",
        source: Arc::new(std::io::Error::from(std::io::ErrorKind::Interrupted)),
    };
    match timeout(shared.limit, hear).await {
        Ok(Ok(mut delivery)) => delivery.told.take().unwrap_or(Err(gone)),
        Ok(Err(_)) => Err(gone),
        Err(_) => Err(PostgresError::TimedOut { after: shared.limit }),
    }
}

impl Shared {
    pub(crate) async fn claim(self: &Arc<Self>, wanted: Wanted) -> Told {
        let shared = Arc::clone(self);
        heard(self, async move { shared.claim_to_the_end(wanted).await }).await
    }

    async fn claim_to_the_end(self: Arc<Self>, wanted: Wanted) -> Told {
        let told = self.claim_pooled(&wanted).await;
        if let Err(PostgresError::Unavailable { source, .. }) = &told
            && let Some(error) = source.downcast_ref::<Error>()
            && error.as_db_error().is_none()
        {
            // The connection broke: it may be claimed, and nobody runs it.
            let shared = Arc::clone(&self);
            self.runtime.spawn(async move { shared.abandon(wanted).await });
        }
        told
    }

    async fn claim_pooled(&self, wanted: &Wanted) -> Told {
        for _ in 0..ATTEMPTS_MAX {
            let view = self.view().await?;
            let connection = self.connection().await?;
            let session = Session::Pooled(&connection);
            match wanted.insert(session, &view.claim, self.ttl).await {
                Ok(Some(row)) => return wanted.permit(&view, &row).map(Answer::Granted),
                Ok(None) => {}
                Err(error) if is_out_of_date(&error) => {
                    drop(connection);
                    self.refresh().await?;
                    continue;
                }
                Err(error) => return Err(PostgresError::of("claiming", error)),
            }
            let found = self.look(session, &wanted.digest).await?;
            if let Some(held) = found {
                return held.answer(wanted.fingerprint);
            }
            // Its row is past, or was released meanwhile.
            self.clear(session, &wanted.digest).await?;
        }
        Err(PostgresError::Unavailable {
            context: "claiming a scope that others claim and release",
            source: Arc::new(std::io::Error::from(std::io::ErrorKind::ResourceBusy)),
        })
    }

    /// What the scope holds.
    pub(crate) async fn look(
        &self,
        session: Session<'_>,
        digest: &[u8],
    ) -> Result<Option<Held>, PostgresError> {
        let rows = session.rows(&self.statements.look, &[(&digest, Type::BYTEA)]).await;
        let rows = rows.map_err(|error| PostgresError::of("looking a scope up", error))?;
        rows.first().map(Held::read).transpose()
    }

    /// Removes what is past of a scope, which is claimed once more.
    pub(crate) async fn clear(
        &self,
        session: Session<'_>,
        digest: &[u8],
    ) -> Result<(), PostgresError> {
        let cleared = session.rows(&self.statements.clear, &[(&digest, Type::BYTEA)]).await;
        cleared.map(drop).map_err(|error| PostgresError::of("clearing a scope", error))
    }

    /// Ends a claim of which it is not known whether it arrived. One that arrives later still is
    /// an orphan when its lease is over.
    async fn abandon(self: Arc<Self>, wanted: Wanted) {
        let mut ticks = interval(ABANDON_PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (digest, operation) = (&wanted.digest[..], Uuid(wanted.operation.to_bytes()));
        for _ in 0..ABANDON_ATTEMPTS {
            ticks.tick().await;
            let Ok(view) = self.view().await else { continue };
            let values: [Value<'_>; 2] = [(&digest, Type::BYTEA), (&operation, Type::UUID)];
            if self.rows("abandoning a claim", &view.leaf.abandon, &values).await.is_ok() {
                return;
            }
        }
    }

    pub(crate) async fn take_over(self: &Arc<Self>, wanted: Wanted, seen: Token) -> Told {
        let shared = Arc::clone(self);
        heard(self, async move { shared.take_over_pooled(&wanted, seen).await }).await
    }

    async fn take_over_pooled(&self, wanted: &Wanted, seen: Token) -> Told {
        let (digest, seen) = (&wanted.digest[..], bigint(seen)?);
        let fingerprint = Uuid(wanted.fingerprint.to_bytes());
        let (lease, ttl) = (Interval(wanted.lease), Interval(self.ttl));
        let values: [Value<'_>; 5] = [
            (&digest, Type::BYTEA),
            (&seen, Type::INT8),
            (&fingerprint, Type::UUID),
            (&lease, Type::INTERVAL),
            (&ttl, Type::INTERVAL),
        ];
        let connection = self.connection().await?;
        let session = Session::Pooled(&connection);
        let taken = session.rows(&self.statements.take_over, &values).await;
        let taken = taken.map_err(|error| PostgresError::of("taking over", error))?;
        let Some(row) = taken.first() else {
            let held = self.look(session, digest).await?.ok_or(PostgresError::Superseded)?;
            return held.answer(wanted.fingerprint);
        };
        let held = Held::read(row)?;
        let cause = match column(row, 13)? {
            Some(GIVEN_UP) => OrphanCause::Failed,
            _ => OrphanCause::LeaseLapsed,
        };
        Ok(Answer::Granted(PostgresPermit {
            operation: held.operation,
            token: held.token,
            attempt: held.attempt,
            cause: Some(cause),
            checkpoint: held.checkpoint,
            lease: wanted.lease,
            digest: wanted.digest,
            leaf: self.leaf(held.generation),
        }))
    }

    /// A claim once the attempt `seen` has ended. A notification by the server would cost every
    /// completion a lock that all commits share, so this asks, and its own process wakes it.
    pub(crate) async fn claim_after(self: &Arc<Self>, wanted: Wanted, seen: Token) -> Told {
        let waiting = self.waiters.join(wanted.digest);
        let mut pause = PAUSE_MIN;
        loop {
            timeout(pause, waiting.ended.notified()).await.ok();
            pause = PAUSE_MAX.min(pause * 2);
            let digest = &wanted.digest[..];
            let values: [Value<'_>; 1] = [(&digest, Type::BYTEA)];
            let rows = self.rows("looking a scope up", &self.statements.look, &values).await?;
            let Some(row) = rows.first() else { return self.claim(wanted).await };
            match Held::read(row)?.answer(wanted.fingerprint)? {
                Answer::InProgress(running) if running.token == seen => {}
                answer => return Ok(answer),
            }
        }
    }
}

/// Whether the statement was made for generations that are no longer what they were.
pub(crate) fn is_out_of_date(error: &Error) -> bool {
    error.code().is_some_and(|code| *code == SqlState::UNDEFINED_TABLE || code.code() == "OL001")
}
