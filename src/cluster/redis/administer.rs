//! What an operator asks of the store.
//!
//! A list of what the servers hold is made by going through all keys: an operator's slow call. A
//! key that moves to another node meanwhile can be missed.

use std::sync::Arc;

use redis::Value;
use tokio::task::JoinSet;

use crate::cluster::redis::error::RedisError;
use crate::cluster::redis::link::{Key, Node, UNEXPECTED, Waits, integer, text};
use crate::cluster::redis::record::{LEFT_OUT, RESOLVED, State, field};
use crate::cluster::redis::script::SCRIPTS;
use crate::cluster::redis::store::{RedisStore, Shared, decimal, did, held_of};
use crate::cluster::redis::view::Held;
use crate::http::backend::{Administer, Completed, Holding, Unresolved};
use crate::scope::{self, Scope, Token};

/// How many keys a server looks at in one step of going through them.
const STEP: usize = 512;

/// What a call does with every key.
trait Visit: Clone + Send + Sync + 'static {
    type Found: Send + 'static;
    fn visit(
        self,
        shared: Arc<Shared>,
        key: Key,
    ) -> impl Future<Output = Result<Option<Self::Found>, RedisError>> + Send;
}

impl RedisStore {
    /// Goes through the keys of all primaries.
    async fn visit<V: Visit>(&self, visit: V) -> Result<Vec<V::Found>, RedisError> {
        let mut found = Vec::new();
        for (node, _) in self.shared.link.ask_primaries(redis::cmd("PING")).await? {
            let mut cursor = "0".to_owned();
            loop {
                let (next, keys) = self.step(node.as_ref(), &cursor).await?;
                let mut visits = JoinSet::new();
                for key in keys {
                    visits.spawn(visit.clone().visit(Arc::clone(&self.shared), key));
                }
                for visited in visits.join_all().await {
                    found.extend(visited?);
                }
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(found)
    }

    /// Some keys, and where to go on.
    async fn step(
        &self,
        node: Option<&Node>,
        cursor: &str,
    ) -> Result<(String, Vec<Key>), RedisError> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern(&self.shared.prefix)).arg("COUNT").arg(STEP);
        let Value::Array(told) = self.shared.link.ask(node, scan).await? else {
            return Err(UNEXPECTED);
        };
        let Ok([next, Value::Array(keys)]) = <[Value; 2]>::try_from(told) else {
            return Err(UNEXPECTED);
        };
        let keys = keys.into_iter().map(|key| match key {
            Value::BulkString(bytes) => Ok(Key { bytes }),
            _ => Err(UNEXPECTED),
        });
        // A longer key belongs to a prefix that begins with this one.
        let bytes = self.shared.prefix.len() + 33;
        let keys = keys.filter(|key| key.as_ref().map_or(true, |key| key.bytes.len() == bytes));
        Ok((text(next)?, keys.collect::<Result<_, RedisError>>()?))
    }
}

/// A pattern that matches the keys of a prefix, whose letters stand for themselves.
fn pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 2);
    for letter in prefix.chars() {
        if "*?[]\\^-".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern + ":*"
}

#[derive(Clone)]
struct Orphans;

impl Visit for Orphans {
    type Found = Unresolved;

    async fn visit(self, shared: Arc<Shared>, key: Key) -> Result<Option<Unresolved>, RedisError> {
        let open = shared.link.script(&key, &SCRIPTS.read_open, &[], Waits::No).await?;
        match held_of(open)? {
            Held::By(view) => view.unresolved(),
            Held::Free => Ok(None),
        }
    }
}

#[derive(Clone)]
struct Of(String);

impl Visit for Of {
    type Found = ();

    async fn visit(self, shared: Arc<Shared>, key: Key) -> Result<Option<()>, RedisError> {
        let Held::By(view) = shared.read(&key).await? else { return Ok(None) };
        let is_its = view.record.head.state == State::Completed
            && scope::decode(&view.record.scope).is_some_and(|of| of.organization == self.0);
        Ok((is_its && shared.forget(&key).await?).then_some(()))
    }
}

impl Shared {
    async fn forget(&self, key: &Key) -> Result<bool, RedisError> {
        let told = self.link.script(key, &SCRIPTS.forget, &[], Waits::ForReplicas).await?;
        Ok(integer(&told)? > 0)
    }
}

impl Administer for RedisStore {
    async fn look_up(&self, scope: Scope<'_>) -> Result<Option<Holding>, RedisError> {
        let key = self.shared.key(scope)?;
        Ok(match self.shared.read(&key).await? {
            Held::By(view) if !view.is_released() => Some(view.holding()),
            Held::By(_) | Held::Free => None,
        })
    }

    async fn unresolved(
        &self,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Unresolved>, RedisError> {
        let mut found = self.visit(Orphans).await?;
        found.retain(|orphan| after.is_none_or(|after| orphan.orphan.token > after));
        found.sort_by_key(|orphan| orphan.orphan.token);
        // A server may show a key twice.
        found.dedup_by_key(|orphan| orphan.orphan.token);
        found.truncate(limit);
        Ok(found)
    }

    async fn resolve(
        &self,
        scope: Scope<'_>,
        seen: Token,
        response: &[u8],
    ) -> Result<Completed, RedisError> {
        let shared = &self.shared;
        let key = shared.key(scope)?;
        let fits = response.len() as u64 <= shared.response_bytes_max;
        let (response, left_out) = if fits { (response, 0) } else { (&[][..], LEFT_OUT) };
        let (seen, ttl) = (seen.to_bytes(), decimal(shared.ttl_ms));
        let arguments = [&seen[..], response, &[left_out | RESOLVED], &field(shared.ttl_ms), &ttl];
        let told = shared.link.script(&key, &SCRIPTS.resolve, &arguments, Waits::ForReplicas);
        match held_of(told.await?)? {
            Held::By(view) => {
                shared.wakes.wake(&key);
                Ok(view.completed())
            }
            Held::Free => Err(RedisError::Superseded),
        }
    }

    /// What was durable stays in the server's own log until it rewrites that (`BGREWRITEAOF`).
    async fn forget(&self, scope: Scope<'_>) -> Result<bool, RedisError> {
        self.shared.forget(&self.shared.key(scope)?).await
    }

    /// The same for each of them.
    async fn forget_organization(&self, organization: &str) -> Result<u64, RedisError> {
        Ok(self.visit(Of(organization.to_owned())).await?.len() as u64)
    }

    async fn release_orphan(&self, scope: Scope<'_>, seen: Token) -> Result<(), RedisError> {
        let shared = &self.shared;
        let (key, ttl) = (shared.key(scope)?, decimal(shared.ttl_ms));
        let seen = seen.to_bytes();
        let arguments = [&seen[..], &ttl];
        let waits = Waits::ForReplicas;
        did(&shared.link.script(&key, &SCRIPTS.release_orphan, &arguments, waits).await?)?;
        shared.wakes.wake(&key);
        Ok(())
    }
}
