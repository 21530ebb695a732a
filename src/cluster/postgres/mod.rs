//! Claims in PostgreSQL.
//!
//! A row a scope, in one table whose partitions are *generations*: the claims of one stretch of
//! time, a ttl long. One generation is open and takes claims; the others are dropped whole, once
//! everything in them is past. `schema.sql` has the tables, and the proof that a scope is claimed
//! once across generations; `docs/postgres.md` has the rest.
//!
//! ```text
//! claim     INSERT into the open generation, unless an older one holds the scope  } one statement,
//! complete  UPDATE of that row, by operation and token                            } one partition
//! replay    the INSERT finds the scope taken; a SELECT over the generations
//! ```

pub(crate) mod error;

pub(crate) mod wire;

pub(crate) mod session;

pub(crate) mod schema;

pub(crate) mod statements;

pub(crate) mod held;

pub(crate) mod permit;

pub(crate) mod waiters;

pub(crate) mod store;

pub(crate) mod deeds;

pub(crate) mod claims;

pub(crate) mod transaction;

pub(crate) mod expiry;

pub(crate) mod options;

pub(crate) mod backend;

pub(crate) mod administer;
