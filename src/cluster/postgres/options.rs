//! How a store is connected.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio::runtime::Handle;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, NoTls, Socket};

use crate::cluster::postgres::deeds::RESPONSE_BYTES_MAX;
use crate::cluster::postgres::error::PostgresError;
use crate::cluster::postgres::held::column;
use crate::cluster::postgres::schema::{SchemaName, check, migrate};
use crate::cluster::postgres::statements::Statements;
use crate::cluster::postgres::store::{PostgresStore, Shared};
use crate::http::backend::{Evicts, OrphansShow, Promises, Survives, TokensOrder};
use crate::sync::Mutex;

/// The shortest ttl.
const TTL_MIN: Duration = Duration::from_secs(60);
/// The longest: a hundred years, far within PostgreSQL's range.
const TTL_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Whether connecting makes the schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Migrate {
    /// Makes it where it is not there, which needs the right to create it.
    #[default]
    AtConnect,
    /// Leaves that to somebody else, and refuses a database where it was not done.
    Never,
}

/// How a [`PostgresStore`] is connected: a builder.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    ttl: Duration,
    schema: String,
    connections: usize,
    limit: Duration,
    migrate: Migrate,
}

impl Default for PostgresOptions {
    fn default() -> PostgresOptions {
        PostgresOptions {
            ttl: Duration::from_secs(30 * 86_400),
            schema: "oncelog".to_owned(),
            connections: 16,
            limit: Duration::from_secs(10),
            migrate: Migrate::AtConnect,
        }
    }
}

impl PostgresStore {
    /// Connects with all defaults, and makes the schema where it is not there.
    ///
    /// `url` is what libpq takes: `postgres://user@host/database`, or `host=... dbname=...`; a
    /// host that is a path is a Unix socket.
    ///
    /// # Errors
    /// `Invalid` for a URL that is none, `Unavailable`, `Version`.
    pub async fn connect(url: &str) -> Result<PostgresStore, PostgresError> {
        PostgresOptions::default().connect(url).await
    }

    /// The defaults, to be changed.
    pub fn options() -> PostgresOptions {
        PostgresOptions::default()
    }
}

impl PostgresOptions {
    /// How long a response can be replayed, from its completion on. 30 days by default; from a
    /// minute to 100 years.
    pub fn ttl(self, ttl: Duration) -> Self {
        PostgresOptions { ttl, ..self }
    }

    /// The schema of the database that the store lies in, `oncelog` by default: at most 48
    /// letters, digits and underscores, not beginning with a digit.
    pub fn schema(self, schema: &str) -> Self {
        PostgresOptions { schema: schema.to_owned(), ..self }
    }

    /// How many connections the pool holds at most, 16 by default, at least 1. The background
    /// task borrows one.
    pub fn connections(self, connections: usize) -> Self {
        PostgresOptions { connections, ..self }
    }

    /// How long a call waits for a connection and the server, 10 s by default. After it the answer
    /// is `Unavailable`, and a claim that is granted later is released by itself.
    pub fn time_limit(self, limit: Duration) -> Self {
        PostgresOptions { limit, ..self }
    }

    /// Whether connecting makes the schema: [`Migrate::AtConnect`] by default.
    pub fn migrate(self, migrate: Migrate) -> Self {
        PostgresOptions { migrate, ..self }
    }

    /// Connects without TLS.
    ///
    /// # Errors
    /// `Invalid` for an option out of its range or a URL that is none, `Unavailable`, `Version`.
    pub async fn connect(self, url: &str) -> Result<PostgresStore, PostgresError> {
        let config = url.parse::<Config>();
        let config = config.map_err(|_| PostgresError::Invalid { what: "the URL is not one" })?;
        self.connect_with(config, NoTls).await
    }

    /// Connects as a client configuration says, through a TLS library's connector.
    ///
    /// # Errors
    /// As [`PostgresOptions::connect`].
    pub async fn connect_with<T>(
        self,
        mut config: Config,
        tls: T,
    ) -> Result<PostgresStore, PostgresError>
    where
        T: MakeTlsConnect<Socket> + Clone + Sync + Send + 'static,
        T::Stream: Sync + Send,
        T::TlsConnect: Sync + Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        if !(TTL_MIN..=TTL_MAX).contains(&self.ttl) {
            let what = "the ttl is from a minute to 100 years";
            return Err(PostgresError::Invalid { what });
        }
        if self.connections == 0 {
            return Err(PostgresError::Invalid { what: "a pool has at least one connection" });
        }
        let schema = SchemaName::new(&self.schema)?;
        config.options(options(config.get_options()));
        let pool = self.pool(config, tls)?;
        let mut connection = pool.get().await.map_err(|error| PostgresError::Unavailable {
            context: "connecting",
            source: Arc::new(error),
        })?;
        if self.migrate == Migrate::AtConnect {
            migrate(&mut connection, &schema).await?;
        }
        check(&connection, &schema).await?;
        let survives = survives(&connection).await?;
        drop(connection);
        let shared = Arc::new(Shared {
            pool,
            statements: Statements::new(&schema),
            schema,
            ttl: self.ttl,
            limit: self.limit,
            promises: Promises {
                orphans: OrphansShow::ByLease,
                tokens: TokensOrder::WholeStore,
                survives,
                evicts: Evicts::Never,
                response_bytes_max: RESPONSE_BYTES_MAX as u64,
            },
            waiters: Arc::default(),
            runtime: Handle::current(),
            view: Mutex::new(None),
            upkeep: Mutex::new(None),
        });
        shared.keep_up();
        Ok(PostgresStore { shared })
    }

    fn pool<T>(&self, config: Config, tls: T) -> Result<Pool, PostgresError>
    where
        T: MakeTlsConnect<Socket> + Clone + Sync + Send + 'static,
        T::Stream: Sync + Send,
        T::TlsConnect: Sync + Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        // A connection that broke is found closed; a check by a statement would cost every call
        // another round trip.
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config, tls, ManagerConfig { recycling_method });
        let limit = Some(self.limit);
        let pool = Pool::builder(manager)
            .max_size(self.connections)
            .timeouts(Timeouts { wait: limit, create: limit, recycle: limit })
            .runtime(Runtime::Tokio1)
            .build();
        pool.map_err(|error| PostgresError::Unavailable {
            context: "building a pool",
            source: Arc::new(error),
        })
    }
}

/// What every connection is set to, after what the caller asked for.
///
/// A plan is made once: made for each call, as PostgreSQL would here, it costs more than it runs.
/// It may be made while the generation is empty, where reading all of it looks cheap, and is still
/// used when it has a million rows; so an index is used wherever there is one. What reads the
/// whole table all the same is not to be compiled for the cost that this pretends.
/// A statement that meets a transaction under way waits this long for it. Each statement is to see
/// what was committed before it.
fn options(asked: Option<&str>) -> String {
    format!(
        "{} -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off \
         -c jit=off -c lock_timeout=1000 \
         -c default_transaction_isolation=read\\ committed",
        asked.unwrap_or_default()
    )
}

/// What an acknowledgement survives, by the settings of the server and of this role.
async fn survives(connection: &Object) -> Result<Survives, PostgresError> {
    let settings = "SELECT current_setting('fsync'), current_setting('full_page_writes'), \
        current_setting('synchronous_commit'), current_setting('synchronous_standby_names')";
    let failed = |error| PostgresError::of("reading settings", error);
    let row = connection.query_one(settings, &[]).await.map_err(failed)?;
    let [fsync, pages, commit, standbys]: [&str; 4] =
        [column(&row, 0)?, column(&row, 1)?, column(&row, 2)?, column(&row, 3)?];
    Ok(match commit {
        // An operating system that goes down takes what it had not written.
        _ if fsync == "off" || pages == "off" => Survives::ProcessDeath,
        "off" => Survives::ProcessDeath,
        "local" => Survives::PowerLoss,
        _ if standbys.is_empty() => Survives::PowerLoss,
        _ => Survives::MachineLoss,
    })
}
