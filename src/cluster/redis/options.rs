//! How a store is set up, and connected.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{MS_MAX, duration_ms};
use crate::cluster::redis::attempt::Drawn;
use crate::cluster::redis::error::RedisError;
use crate::cluster::redis::link::{Address, Link, Replicas};
use crate::cluster::redis::settings::{Stated, promises};
use crate::cluster::redis::store::{RedisStore, Shared};
use crate::cluster::redis::wake::Wakes;
use crate::http::backend::{Evicts, Survives};

/// How a store is set up: [`RedisStore::options`].
///
/// ```no_run
/// use oncelog::cluster::RedisStore;
/// use std::time::Duration;
///
/// # async fn open() -> Result<(), oncelog::cluster::RedisError> {
/// let store = RedisStore::options()
///     .ttl(Duration::from_secs(7 * 24 * 3600))
///     .replicas(1, Duration::from_millis(100))
///     .connect("redis+cluster://10.0.0.1:6379,10.0.0.2:6379")
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use]
#[derive(Clone, Debug)]
pub struct RedisOptions {
    ttl: Duration,
    prefix: String,
    replicas: Option<Replicas>,
    connections: usize,
    limit: Duration,
    response_bytes_max: u64,
    stated: Stated,
}

impl RedisStore {
    /// Connects with all defaults.
    ///
    /// # Errors
    /// Those of [`RedisOptions::connect`].
    pub async fn connect(url: &str) -> Result<RedisStore, RedisError> {
        RedisStore::options().connect(url).await
    }

    /// The defaults, to be changed.
    pub fn options() -> RedisOptions {
        RedisOptions {
            ttl: Duration::from_secs(30 * 24 * 3600),
            prefix: "oncelog".to_owned(),
            replicas: None,
            connections: 1,
            limit: Duration::from_secs(2),
            response_bytes_max: 16 << 20,
            stated: Stated::default(),
        }
    }
}

impl RedisOptions {
    /// How long a response lives, from its completion on, and an orphan after its last attempt.
    /// 30 days by default, at least a second, in whole milliseconds.
    pub fn ttl(self, ttl: Duration) -> Self {
        RedisOptions { ttl, ..self }
    }

    /// What the keys begin with: `oncelog` by default, 1 to 256 bytes. Stores with different
    /// prefixes share a server and nothing else. A `{tag}` in it puts all keys of a cluster into
    /// one slot.
    pub fn prefix(self, prefix: &str) -> Self {
        RedisOptions { prefix: prefix.to_owned(), ..self }
    }

    /// How many replicas must have a claim, a completion or another change before it is
    /// acknowledged, and how long to wait for them (`WAIT`). None by default. The time is at least
    /// a millisecond, and shorter than [`RedisOptions::limit`].
    ///
    /// The wait holds up what other callers ask over the same connection, so with it several
    /// [`RedisOptions::connections`] are of use.
    pub fn replicas(self, wanted: u32, within: Duration) -> Self {
        let replicas = (wanted > 0).then_some(Replicas { wanted, within });
        RedisOptions { replicas, ..self }
    }

    /// How many connections all callers share, to each server: 1 by default, 1 to 256.
    pub fn connections(self, connections: usize) -> Self {
        RedisOptions { connections, ..self }
    }

    /// How long a round trip may take, reconnects and redirections included: 2 s by default, at
    /// least 1 ms. What takes longer is [`RedisError::TimedOut`].
    pub fn limit(self, limit: Duration) -> Self {
        RedisOptions { limit, ..self }
    }

    /// The largest response that is stored, in bytes: 16 MiB by default, at most 256 MiB. A
    /// completion with a larger one is stored without it.
    pub fn response_bytes_max(self, bytes: u64) -> Self {
        RedisOptions { response_bytes_max: bytes, ..self }
    }

    /// States what an acknowledgement survives, in place of what `CONFIG GET` says: for servers
    /// that let nobody read their settings.
    pub fn survives(mut self, survives: Survives) -> Self {
        self.stated.survives = Some(survives);
        self
    }

    /// States whether the servers evict keys when memory is short, likewise.
    pub fn evicts(mut self, evicts: Evicts) -> Self {
        self.stated.evicts = Some(evicts);
        self
    }

    /// Connects to `redis://[user:password@]host:port[/db]`, or to the cluster of which
    /// `redis+cluster://[user:password@]host:port,host:port,...` names some nodes, and reads the
    /// settings of the servers.
    ///
    /// # Errors
    /// [`RedisError::Invalid`] for an option out of its range and for another URL;
    /// [`RedisError::Version`] for servers before Redis 7.0; otherwise what the server says.
    pub async fn connect(self, url: &str) -> Result<RedisStore, RedisError> {
        self.check()?;
        let address = Address::parse(url)?;
        let link = Link::open(&address, self.connections, self.limit, self.replicas).await?;
        let promises = promises(&link, self.stated, self.response_bytes_max).await?;
        let shared = Shared {
            link,
            prefix: self.prefix,
            ttl_ms: duration_ms(self.ttl),
            response_bytes_max: self.response_bytes_max,
            promises,
            wakes: Wakes::default(),
            drawn: Drawn::default(),
        };
        Ok(RedisStore { shared: Arc::new(shared) })
    }

    fn check(&self) -> Result<(), RedisError> {
        let within = self.replicas.map_or(Duration::from_millis(1), |replicas| replicas.within);
        // Half of what a record holds, so that an age and a time to live add up within it.
        let ttl_ms = 1_000..=MS_MAX / 2;
        for (holds, what) in [
            (ttl_ms.contains(&duration_ms(self.ttl)), "the ttl is at least a second"),
            ((1..=256).contains(&self.prefix.len()), "the prefix has 1 to 256 bytes"),
            ((1..=256).contains(&self.connections), "there are 1 to 256 connections"),
            (duration_ms(self.limit) > 0, "the time limit is at least 1 ms"),
            (duration_ms(within) > 0, "the time for replicas is at least 1 ms"),
            (within < self.limit, "the time for replicas is shorter than the time limit"),
            (self.response_bytes_max <= 256 << 20, "a response has at most 256 MiB"),
        ] {
            if !holds {
                return Err(RedisError::Invalid { what });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_their_range_are_refused() {
        let options = RedisStore::options;
        let ms = Duration::from_millis;
        assert!(options().check().is_ok());
        for bad in [
            options().ttl(ms(999)),
            options().ttl(Duration::MAX),
            options().prefix(""),
            options().connections(0),
            options().limit(Duration::ZERO),
            options().replicas(1, Duration::ZERO),
            options().replicas(1, ms(2000)),
            options().response_bytes_max(u64::MAX),
        ] {
            assert!(matches!(bad.check(), Err(RedisError::Invalid { .. })), "{bad:?}");
        }
    }
}
