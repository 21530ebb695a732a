//! Claims in a distributed engine, behind the layer of [`crate::http`]: Redis or Valkey (feature
//! `redis`), PostgreSQL (feature `postgres`).

#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "redis")]
pub(crate) mod redis;

#[cfg(feature = "postgres")]
pub use postgres::error::PostgresError;
#[cfg(feature = "postgres")]
pub use postgres::expiry::Dropped;
#[cfg(feature = "postgres")]
pub use postgres::options::{Migrate, PostgresOptions};
#[cfg(feature = "postgres")]
pub use postgres::permit::PostgresPermit;
#[cfg(feature = "postgres")]
pub use postgres::store::PostgresStore;
#[cfg(feature = "redis")]
pub use redis::{
    attempt::RedisPermit, error::RedisError, options::RedisOptions, store::RedisStore,
};
