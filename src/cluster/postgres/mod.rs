//! Claims in PostgreSQL.
