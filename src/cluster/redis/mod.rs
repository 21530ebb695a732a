//! Claims in Redis or Valkey: one key a scope, one round trip a call, the server's clock alone.
//!
//! A claim is `SET NX GET`; every other change is a script that compares the attempt first. Leases
//! and expiry follow from the time that the server says a key has left, so that no clocks of two
//! machines are compared. `docs/redis.md` has the guarantee of each setting.

pub(crate) mod error;
pub(crate) mod script;

pub(crate) mod record;

pub(crate) mod link;
pub(crate) mod wake;

pub(crate) mod attempt;
pub(crate) mod settings;
pub(crate) mod view;

pub(crate) mod store;

pub(crate) mod backend;

pub(crate) mod administer;
pub(crate) mod options;
