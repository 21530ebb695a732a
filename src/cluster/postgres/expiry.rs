//! Generations: the next one is opened when a ttl has passed, and whole ones are dropped.
//!
//! Each closed one is asked by every claim. At this width there is one, and a second for as long
//! as the last operations of the older one ran; what is past stays on the disk for up to a ttl.
//!
//! Early expiry is a double execution. So a generation is dropped only when a scan has found
//! everything in it past, by more than the clocks of a primary and its standby may differ, after
//! it was *sealed*: a constraint that no row meets, taken under a lock that waits for every
//! transaction that has written there, after which nothing in it can be extended any more.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Object;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::cluster::postgres::error::PostgresError;
use crate::cluster::postgres::held::column;
use crate::cluster::postgres::store::{PostgresStore, Shared};
use crate::cluster::postgres::wire;

/// How far past everything in a generation is before it is dropped: what the clocks of two servers
/// may differ by, one of which takes over from the other.
const GRACE: Duration = Duration::from_secs(60);
/// How long a change of the schema may hold up who comes after it, and how often it tries.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '20ms'";
const LOCK_ATTEMPTS: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How much of a generation is read at a time, 8 MiB of pages of 8 KiB, and how far apart.
const PIECE_PAGES: i64 = 1024;
const PIECE_PAUSE: Duration = Duration::from_millis(15);
/// How often the background task looks, at the least and at the most.
const UPKEEP_MIN: Duration = Duration::from_secs(1);
const UPKEEP_MAX: Duration = Duration::from_secs(60);

/// What [`PostgresStore::expire`] dropped.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Partitions: generations of which everything was past.
    pub partitions: u64,
    /// Their size on the server's disk, with their indexes, in bytes.
    pub bytes: u64,
}

impl PostgresStore {
    /// Drops what is past: whole partitions, never row by row. It also runs by itself, and any
    /// number of processes may run it at once.
    ///
    /// The drop itself holds others up by at most 20 ms at a time; the server unlinks the files
    /// after that, while this call waits.
    ///
    /// # Errors
    /// `Unavailable` where the server does not answer, or a transaction of somebody else keeps the
    /// partition locked. What was dropped until then stays dropped.
    pub async fn expire(&self) -> Result<Dropped, PostgresError> {
        self.shared.expire().await
    }
}

impl Shared {
    async fn expire(&self) -> Result<Dropped, PostgresError> {
        let mut connection = self.connection().await?;
        let closed = self.schema.fill(
            "SELECT g.generation, EXISTS (SELECT FROM pg_catalog.pg_constraint c \
             WHERE c.conname = 'sealed' AND c.conrelid = \
             pg_catalog.to_regclass('\"{schema}\".claim_' || g.generation)) \
             FROM \"{schema}\".generation g WHERE g.closed_at + $1 < \"{schema}\".now() \
             ORDER BY g.generation",
        );
        let grace = wire::Interval(GRACE);
        let rows = connection.query_typed(&closed, &[(&grace, Type::INTERVAL)]).await;
        let mut dropped = Dropped::default();
        for row in rows.map_err(failed)? {
            let generation: i32 = column(&row, 0)?;
            if self.lives(&connection, generation).await? {
                if column(&row, 1)? {
                    // By a process that died before it looked once more.
                    self.unseal(&mut connection, generation).await?;
                }
                continue;
            }
            if let Some(bytes) = self.drop_generation(&mut connection, generation).await? {
                dropped.partitions += 1;
                dropped.bytes += bytes;
            }
        }
        if dropped.partitions > 0 {
            self.refresh().await?;
        }
        Ok(dropped)
    }

    /// Whether anything in a generation is not past. One that somebody else has dropped lives not.
    ///
    /// It reads the whole table, in pieces with pauses between them, so that claims keep the
    /// server's processors. Once sealed, no row moves from one piece to another.
    async fn lives(&self, connection: &Object, generation: i32) -> Result<bool, PostgresError> {
        let of = |text: &str| {
            self.schema.fill(&text.replace("{leaf}", &format!("\"{{schema}}\".claim_{generation}")))
        };
        let pages = of("SELECT pg_relation_size('{leaf}') / current_setting('block_size')::bigint");
        let mut pages: i64 = match connection.query_typed(&pages, &[]).await {
            Ok(rows) => rows.first().map_or(Ok(0), |row| column(row, 0))?,
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let mut ticks = patient(PIECE_PAUSE);
        // From the end, where what was claimed last lies, and what was added since.
        let mut upto = String::new();
        loop {
            ticks.tick().await;
            let from = (pages - PIECE_PAGES).max(0);
            let lives = of(&format!(
                "SELECT EXISTS (SELECT FROM {{leaf}} WHERE ctid >= '({from},0)' \
                 AND expires_at > \"{{schema}}\".now() - $1{upto})"
            ));
            let grace = wire::Interval(GRACE);
            match connection.query_typed(&lives, &[(&grace, Type::INTERVAL)]).await {
                Ok(rows) if rows.first().map_or(Ok(true), |row| column(row, 0))? => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(false),
                Err(error) => return Err(failed(error)),
            }
            if from == 0 {
                return Ok(false);
            }
            upto = format!(" AND ctid < '({from},0)'");
            pages = from;
        }
    }

    /// Seals a generation, looks once more, and drops it. `None` where somebody else did, or where
    /// something was extended just before the seal.
    async fn drop_generation(
        &self,
        connection: &mut Object,
        generation: i32,
    ) -> Result<Option<u64>, PostgresError> {
        let of = |text: &str| {
            self.schema.fill(&text.replace("{leaf}", &format!("\"{{schema}}\".claim_{generation}")))
        };
        let seal = of("ALTER TABLE {leaf} ADD CONSTRAINT sealed CHECK (false) NOT VALID");
        match self.change_schema(connection, &seal).await {
            Ok(_) => {}
            // By a process that died, or that is about to drop it as well.
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_OBJECT) => {}
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        if self.lives(connection, generation).await? {
            self.unseal(connection, generation).await?;
            return Ok(None);
        }
        let size = of("SELECT pg_total_relation_size('{leaf}')");
        let bytes = match connection.query_typed(&size, &[]).await {
            Ok(rows) => rows.first().map_or(Ok(0), |row| column::<i64>(row, 0))?,
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        // Fails where somebody has unsealed it since: then this look counts for nothing.
        let gone = of(&format!(
            "ALTER TABLE {{leaf}} DROP CONSTRAINT sealed; DROP TABLE {{leaf}}; \
             DELETE FROM \"{{schema}}\".generation \
             WHERE generation = {generation}"
        ));
        match self.change_schema(connection, &gone).await {
            Ok(()) => Ok(Some(u64::try_from(bytes).unwrap_or_default())),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    async fn unseal(&self, connection: &mut Object, generation: i32) -> Result<(), PostgresError> {
        let unseal = self.schema.fill(&format!(
            "ALTER TABLE IF EXISTS \"{{schema}}\".claim_{generation} \
             DROP CONSTRAINT IF EXISTS sealed"
        ));
        self.change_schema(connection, &unseal).await.map_err(failed)
    }

    /// A change that wants a lock which others wait behind. It waits for it briefly, and often.
    async fn change_schema(&self, connection: &mut Object, change: &str) -> Result<(), Error> {
        let mut ticks = patient(LOCK_PAUSE);
        let mut attempts = 0;
        loop {
            ticks.tick().await;
            attempts += 1;
            let changed = async {
                let transaction = connection.transaction().await?;
                transaction.batch_execute(&format!("{LOCK_TIMEOUT}; {change}")).await?;
                transaction.commit().await
            };
            match changed.await {
                Err(error)
                    if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE)
                        && attempts < LOCK_ATTEMPTS => {}
                changed => return changed,
            }
        }
    }

    /// Opens the next generation when the open one is as old as a ttl.
    pub(crate) async fn rotate(&self) -> Result<(), PostgresError> {
        let old = self.schema.fill(
            "SELECT generation FROM \"{schema}\".generation \
             WHERE closed_at IS NULL AND opened_at + $1 <= \"{schema}\".now()",
        );
        let step = wire::Interval(self.ttl);
        let rows = self.rows("reading generations", &old, &[(&step, Type::INTERVAL)]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let rotate =
            self.schema.fill(&format!("SELECT \"{{schema}}\".rotate({})", column::<i32>(row, 0)?));
        let mut connection = self.connection().await?;
        self.change_schema(&mut connection, &rotate).await.map_err(failed)?;
        self.refresh().await.map(drop)
    }

    /// Starts what runs by itself, until the store is dropped.
    pub(crate) fn keep_up(self: &Arc<Self>) {
        let mut ticks = patient((self.ttl / 100).clamp(UPKEEP_MIN, UPKEEP_MAX));
        let store = Arc::downgrade(self);
        let task = self.runtime.spawn(async move {
            loop {
                ticks.tick().await;
                let Some(store) = store.upgrade() else { return };
                let upkept = async {
                    store.rotate().await?;
                    store.expire().await
                };
                if let Err(error) = upkept.await {
                    tracing::warn!(%error, "the upkeep of the claims in PostgreSQL failed");
                }
            }
        });
        *self.upkeep.lock() = Some(task.abort_handle());
    }
}

fn patient(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn failed(error: Error) -> PostgresError {
    PostgresError::of("dropping what is past", error)
}
