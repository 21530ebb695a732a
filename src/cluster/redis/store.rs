//! The store: what it asks the servers, and in which order.

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, Value};

use crate::clock::duration_ms;
use crate::cluster::redis::attempt::{Attempt, Drawn, Wanted};
use crate::cluster::redis::error::RedisError;
use crate::cluster::redis::link::{Key, Link, UNEXPECTED, Waits, integer};
use crate::cluster::redis::record::{
    GIVEN_UP, LEFT_OUT, NAME_BYTES, Record, State, field, lease_and_age,
};
use crate::cluster::redis::script::{SCRIPTS, Script};
use crate::cluster::redis::view::{Held, View};
use crate::cluster::redis::wake::Wakes;
use crate::http::backend::Promises;
use crate::scope::{Fingerprint, OperationId, Scope, Token};

/// Claims in Redis or Valkey, on one server or a cluster. A clone is the same store.
///
/// See the crate's `docs/redis.md` for what each setting of the servers guarantees.
///
/// ```no_run
/// use oncelog::cluster::RedisStore;
/// use oncelog::http::{IdempotencyLayer, Organization, Orphans};
///
/// # async fn open() -> Result<(), oncelog::cluster::RedisError> {
/// let store = RedisStore::connect("redis://127.0.0.1:6379").await?;
/// let organization = Organization::of_extension(|name: &String| name.clone());
/// let layer = IdempotencyLayer::new(store, organization, Orphans::Hold);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RedisStore {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) link: Link,
    pub(crate) prefix: String,
    pub(crate) ttl_ms: u64,
    pub(crate) response_bytes_max: u64,
    pub(crate) promises: Promises,
    pub(crate) wakes: Wakes,
    pub(crate) drawn: Drawn,
}

/// What a key held when it was claimed.
enum Before {
    /// It was claimed.
    Nothing,
    /// The same claim.
    Own,
    Open,
    Completed(View),
    /// By the attempt of this name and token.
    Released([u8; NAME_BYTES], Token),
}

/// How a completion went.
pub(crate) enum Ended {
    Now {
        expires_ms: u64,
        flags: u8,
    },
    /// The attempt had completed: this is kept, whatever was sent now.
    Before(View),
}

/// How a claim went.
#[derive(Debug)]
pub(crate) enum Found {
    Granted(Arc<Attempt>),
    Held(View),
}

/// A time to live, as scripts take it.
pub(crate) fn decimal(ms: u64) -> Vec<u8> {
    ms.to_string().into_bytes()
}

/// How often a claim looks again at a key that ends while it looks.
const LOOKS_MAX: u32 = 8;

const UNSTEADY: RedisError =
    RedisError::Corrupt { what: "the key changes faster than it can be claimed" };

impl Shared {
    pub(crate) fn key(&self, scope: Scope<'_>) -> Result<Key, RedisError> {
        scope.check()?;
        let mut bytes = Vec::with_capacity(self.prefix.len() + 33);
        bytes.extend_from_slice(self.prefix.as_bytes());
        bytes.push(b':');
        bytes.extend_from_slice(&scope.digest());
        Ok(Key { bytes })
    }

    pub(crate) fn first(
        &self,
        scope: Scope<'_>,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> Result<Attempt, RedisError> {
        let key = self.key(scope)?;
        let drawn = self.drawn.next()?;
        let wanted = Wanted { scope, fingerprint, lease, ttl_ms: self.ttl_ms, drawn };
        Ok(Attempt::first(key, &wanted))
    }

    /// Claims a scope: one round trip where it is free or completed, another where an operation is
    /// open, whose time left is read with it at one instant, or was released.
    pub(crate) async fn claim(&self, attempt: Attempt) -> Result<Found, RedisError> {
        for _ in 0..LOOKS_MAX {
            let before = match self.ask(&attempt).await {
                Ok(Before::Nothing) => return Ok(Found::Granted(Arc::new(attempt))),
                Ok(Before::Completed(view)) => return Ok(Found::Held(view)),
                Ok(Before::Own) => return self.own(attempt).await,
                Ok(Before::Released(name, token)) => {
                    return self.reclaim(attempt, &name, token).await;
                }
                Ok(Before::Open) => Ok(()),
                // Who cannot be claimed for can still be answered.
                Err(error) if error.leaves_reading() => Err(error),
                Err(error) => return Err(error),
            };
            match (self.read(&attempt.key).await?, before) {
                (Held::By(view), _) if !view.is_released() => return Ok(Found::Held(view)),
                (_, Err(error)) => return Err(error),
                // It ended between the two.
                (_, Ok(())) => {}
            }
        }
        Err(UNSTEADY)
    }

    async fn ask(&self, attempt: &Attempt) -> Result<Before, RedisError> {
        let record = attempt.head(State::Running).encode(&attempt.scope, &[], &[]);
        let mut commands = Pipeline::with_capacity(3);
        let key = &attempt.key.bytes[..];
        commands.cmd("SET").arg(key).arg(record).arg("NX").arg("GET");
        commands.arg("PX").arg(attempt.ttl_ms);
        commands.cmd("PEXPIRETIME").arg(key);
        let told = self.link.pipeline(&attempt.key, commands, Waits::ForReplicas).await?;
        let Ok([before, expires]) = <[Value; 2]>::try_from(told.answers) else {
            return Err(UNEXPECTED);
        };
        let before = match before {
            // A claim that was not made is answered with or without replicas.
            Value::Nil => return told.replicas.map(|()| Before::Nothing),
            Value::BulkString(before) => Record::decode(before)?,
            _ => return Err(UNEXPECTED),
        };
        Ok(match before.head.state {
            _ if before.head.operation == attempt.operation => Before::Own,
            State::Completed => match held(before, 0, &expires)? {
                Held::By(view) => Before::Completed(view),
                Held::Free => Before::Open,
            },
            State::Released => Before::Released(before.head.name(), before.head.token),
            State::Running | State::GivenUp => Before::Open,
        })
    }

    /// The claim had been made when it was asked for again, by the client library. The replicas
    /// were waited for by nobody who knows, so they are now.
    async fn own(&self, attempt: Attempt) -> Result<Found, RedisError> {
        let lease = Duration::from_millis(attempt.head(State::Running).lease_ms);
        self.renew(&attempt, lease, Waits::ForReplicas).await?;
        Ok(Found::Granted(Arc::new(attempt)))
    }

    async fn reclaim(
        &self,
        attempt: Attempt,
        released: &[u8],
        token: Token,
    ) -> Result<Found, RedisError> {
        let attempt = attempt.after(token);
        let record = attempt.head(State::Running).encode(&attempt.scope, &[], &[]);
        let ttl = decimal(attempt.ttl_ms);
        let arguments = [released, &record, &ttl];
        let waits = Waits::ForReplicas;
        let told = self.link.script(&attempt.key, &SCRIPTS.reclaim, &arguments, waits).await?;
        match held_of(told)? {
            Held::By(view) if view.record.head.operation == attempt.operation => {
                Ok(Found::Granted(Arc::new(attempt)))
            }
            Held::By(view) if !view.is_released() => Ok(Found::Held(view)),
            // Somebody else was first, and has released again.
            Held::By(_) | Held::Free => Err(UNSTEADY),
        }
    }

    pub(crate) async fn read(&self, key: &Key) -> Result<Held, RedisError> {
        held_of(self.link.script(key, &SCRIPTS.read, &[], Waits::No).await?)
    }

    /// Takes over the orphan of the attempt `seen`.
    pub(crate) async fn take_over(
        &self,
        attempt: Attempt,
        seen: Token,
        token: Token,
    ) -> Result<Found, RedisError> {
        let fields = [field(attempt.ttl_ms), field(attempt.head(State::Running).lease_ms)];
        let ttl = decimal(attempt.ttl_ms);
        let (seen, next) = (seen.to_bytes(), token.to_bytes());
        let fingerprint = attempt.fingerprint.to_bytes();
        let arguments = [&seen[..], &fingerprint, &next, fields.as_flattened(), &ttl];
        let (key, waits) = (&attempt.key, Waits::ForReplicas);
        let told = self.link.script(key, &SCRIPTS.take_over, &arguments, waits).await?;
        // The token is no proof: others who came in the same millisecond may have the same.
        let (told, taken) = match told {
            Value::Array(mut told) => {
                let taken = told.pop().ok_or(UNEXPECTED)?;
                (Value::Array(told), integer(&taken)? > 0)
            }
            told => (told, false),
        };
        let Held::By(view) = held_of(told)? else { return Err(RedisError::Superseded) };
        if taken {
            return Ok(Found::Granted(Arc::new(Attempt::of(attempt.key, &view.record))));
        }
        if view.is_released() { Err(RedisError::Superseded) } else { Ok(Found::Held(view)) }
    }

    /// Completes with its record.
    pub(crate) async fn complete(
        &self,
        attempt: &Attempt,
        record: &[u8],
    ) -> Result<Ended, RedisError> {
        match self.put(attempt, record, &SCRIPTS.complete).await {
            // Without memory for the response there is still some for the fact that it ran.
            Err(RedisError::Full { .. }) => {
                let lean = completion(attempt, None);
                self.put(attempt, &lean, &SCRIPTS.complete_lean).await
            }
            told => told,
        }
    }

    async fn put(
        &self,
        attempt: &Attempt,
        record: &[u8],
        script: &Script,
    ) -> Result<Ended, RedisError> {
        let (name, ttl) = (attempt.head(State::Running).name(), decimal(attempt.ttl_ms));
        let arguments = [&name[..], record, &ttl];
        let told = self.link.script(&attempt.key, script, &arguments, Waits::ForReplicas).await?;
        self.wakes.wake(&attempt.key);
        match told {
            // The flags are the fourth byte of every record.
            Value::Int(_) => Ok(Ended::Now { expires_ms: integer(&told)?, flags: record[3] }),
            told => match held_of(told)? {
                // An operator answered for it, so that its own response counts no more.
                Held::By(view) if view.is_resolved() => Err(RedisError::Superseded),
                Held::By(view) => Ok(Ended::Before(view)),
                Held::Free => Err(RedisError::Superseded),
            },
        }
    }

    /// Frees the scope; what stays is the token.
    pub(crate) async fn release(&self, attempt: &Attempt) -> Result<(), RedisError> {
        let released = attempt.head(State::Released);
        self.replace(attempt, &released.encode(&[], &[], &[]), &released.name()).await?;
        self.wakes.wake(&attempt.key);
        Ok(())
    }

    pub(crate) async fn save(&self, attempt: &Attempt, saved: &[u8]) -> Result<(), RedisError> {
        let record = attempt.head(State::Running).encode(&attempt.scope, saved, &[]);
        self.replace(attempt, &record, &[]).await
    }

    async fn replace(
        &self,
        attempt: &Attempt,
        record: &[u8],
        done: &[u8],
    ) -> Result<(), RedisError> {
        let (name, ttl) = (attempt.head(State::Running).name(), decimal(attempt.ttl_ms));
        let arguments = [&name[..], record, &ttl, done];
        let waits = Waits::ForReplicas;
        did(&self.link.script(&attempt.key, &SCRIPTS.replace, &arguments, waits).await?)
    }

    pub(crate) async fn renew(
        &self,
        attempt: &Attempt,
        lease: Duration,
        waits: Waits,
    ) -> Result<(), RedisError> {
        let (name, ttl) = (attempt.head(State::Running).name(), decimal(attempt.ttl_ms));
        let fields = lease_and_age(duration_ms(lease), attempt.age_ms());
        let arguments = [&name[..], &fields, &ttl];
        did(&self.link.script(&attempt.key, &SCRIPTS.renew, &arguments, waits).await?)?;
        attempt.set_lease(lease);
        Ok(())
    }

    pub(crate) async fn give_up(&self, attempt: &Attempt) -> Result<(), RedisError> {
        // The operation and the token are the last of the name.
        let name = attempt.head(State::Running).name();
        let arguments = [&name[8..], &GIVEN_UP];
        let waits = Waits::ForReplicas;
        did(&self.link.script(&attempt.key, &SCRIPTS.give_up, &arguments, waits).await?)?;
        self.wakes.wake(&attempt.key);
        Ok(())
    }

    /// Frees what a first attempt of this operation may have claimed that nobody was told of.
    pub(crate) async fn abandon(&self, key: &Key, operation: OperationId) {
        let (operation, ttl) = (operation.to_bytes(), decimal(self.ttl_ms));
        let arguments = [&operation[..], &ttl];
        if self.link.script(key, &SCRIPTS.abandon, &arguments, Waits::No).await.is_ok() {
            self.wakes.wake(key);
        }
    }
}

/// The record of a completion; `None` leaves the response out.
pub(crate) fn completion(attempt: &Attempt, response: Option<&[&[u8]]>) -> Vec<u8> {
    let mut head = attempt.head(State::Completed);
    head.flags = if response.is_none() { LEFT_OUT } else { 0 };
    head.encode(&attempt.scope, &[], response.unwrap_or_default())
}

/// Whether a script found the attempt.
pub(crate) fn did(told: &Value) -> Result<(), RedisError> {
    match integer(told)? {
        0 => Err(RedisError::Superseded),
        _ => Ok(()),
    }
}

/// A value, its time left and its expiry, or nothing.
pub(crate) fn held_of(told: Value) -> Result<Held, RedisError> {
    let Value::Array(told) = told else {
        return if told == Value::Nil { Ok(Held::Free) } else { Err(UNEXPECTED) };
    };
    match <[Value; 3]>::try_from(told) {
        Ok([Value::BulkString(value), Value::Int(left), expires]) => {
            held(Record::decode(value)?, u64::try_from(left).unwrap_or(0), &expires)
        }
        _ => Err(UNEXPECTED),
    }
}

fn held(record: Record, left_ms: u64, expires: &Value) -> Result<Held, RedisError> {
    match expires {
        Value::Int(-2) => Ok(Held::Free),
        Value::Int(-1) => Err(RedisError::Corrupt { what: "a key does not expire" }),
        expires => Ok(Held::By(View::new(record, left_ms, integer(expires)?))),
    }
}
