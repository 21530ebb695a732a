//! What a store must show: a slot for each key, and the history of what was staged.
//!
//! What survives a crash is a prefix of the log, so the history keeps the world after each record
//! that was staged, and a reopened store must show one of them that is not older than what was
//! acknowledged as durable.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use oncelog::{Error, Kept, OperationId, OrphanCause, Status, Stored, Token};

use crate::rng::Rng;
use crate::twin::{Span, to_ms};

pub(crate) const KEYS: usize = 12;
/// Keys from here on are another organization's.
pub(crate) const OTHERS_FROM: usize = 8;
pub(crate) const TTL_MS: i64 = 30_000_000;

/// Bytes that can be told from all others, by a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) tag: u64,
    pub(crate) len: usize,
}

impl Blob {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut rng = Rng::new(self.tag);
        let mut bytes = Vec::with_capacity(self.len + 8);
        while bytes.len() < self.len {
            bytes.extend(rng.next().to_le_bytes());
        }
        bytes.truncate(self.len);
        bytes
    }
}

/// What an attempt is known by. Token and operation are known once somebody was told.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) token: Option<Token>,
    pub(crate) operation: usize,
    pub(crate) number: u32,
    pub(crate) fingerprint: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Free,
    Open { attempt: usize, failed: bool, checkpoint: Option<Blob>, attempted: Span },
    Done { attempt: usize, blob: Blob, kept: Option<Kept>, expires: Span },
}

impl Slot {
    /// Whether it holds a response that is not past, for certain.
    pub(crate) fn is_live(&self, now: Span) -> bool {
        matches!(self, Slot::Done { expires, .. } if !expires.may_be_past(now))
    }
}

pub(crate) type World = Vec<Slot>;

/// What a lookup shows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Absent,
    Running { token: Token },
    Orphan(Orphaned),
    Done(Done),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orphaned {
    pub(crate) token: Token,
    pub(crate) operation: OperationId,
    pub(crate) number: u32,
    pub(crate) cause: OrphanCause,
    pub(crate) checkpoint: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) token: Token,
    pub(crate) operation: OperationId,
    pub(crate) number: u32,
    pub(crate) kept: Kept,
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) expires_ms: i64,
}

impl Done {
    pub(crate) fn of(stored: &Stored) -> Done {
        Done {
            token: stored.token(),
            operation: stored.operation(),
            number: stored.attempt(),
            kept: stored.kept(),
            bytes: stored.bytes().map(<[u8]>::to_vec),
            expires_ms: to_ms(stored.expires_at()),
        }
    }
}

pub(crate) fn seen(status: Result<Option<Status>, Error>) -> Result<Seen, Error> {
    Ok(match status? {
        None => Seen::Absent,
        Some(Status::InProgress(running)) => Seen::Running { token: running.token() },
        Some(Status::Completed(stored)) => Seen::Done(Done::of(&stored)),
        Some(Status::Orphaned(orphan)) => Seen::Orphan(Orphaned {
            token: orphan.token(),
            operation: orphan.operation(),
            number: orphan.attempt(),
            cause: orphan.cause(),
            checkpoint: orphan.checkpoint().map(<[u8]>::to_vec),
        }),
    })
}

/// The worlds that the log went through since the store was opened, and who took part.
pub(crate) struct Ledger {
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) operations: Vec<Option<OperationId>>,
    pub(crate) history: Vec<World>,
    /// Store time when each world came to be, at the earliest.
    times: Vec<i64>,
    /// What a power cut may not go back beyond.
    pub(crate) durable: usize,
    /// What the end of the last life may not go back beyond.
    pub(crate) floor: usize,
    /// Keys that a call which forgets many had begun with.
    pub(crate) maybe_forgotten: BTreeSet<usize>,
    /// Keys whose slot was past when the store was opened, and may be free as well.
    maybe_free: BTreeSet<usize>,
}

impl Ledger {
    pub(crate) fn new() -> Ledger {
        Ledger {
            attempts: Vec::new(),
            operations: Vec::new(),
            history: vec![vec![Slot::Free; KEYS]],
            times: vec![0],
            durable: 0,
            floor: 0,
            maybe_forgotten: BTreeSet::new(),
            maybe_free: BTreeSet::new(),
        }
    }

    pub(crate) fn world(&self) -> &World {
        self.history.last().expect("never empty")
    }

    /// A record was staged that makes the slot of a key this.
    pub(crate) fn stage(&mut self, key: usize, slot: Slot, now: Span) {
        let mut world = self.world().clone();
        world[key] = slot;
        self.history.push(world);
        self.times.push(self.times.last().expect("never empty").max(&now.lo).to_owned());
    }

    /// Corrects what was staged last for a key, once the store has said more.
    pub(crate) fn amend(&mut self, key: usize, old: &Slot, new: &Slot) {
        for world in &mut self.history {
            if world[key] == *old {
                world[key] = new.clone();
            }
        }
    }

    pub(crate) fn all_durable(&mut self) {
        self.durable = self.history.len() - 1;
    }

    /// The lowest mark that the store can have after a crash.
    pub(crate) fn durable_time(&self) -> i64 {
        self.times[self.durable]
    }

    pub(crate) fn begin(&mut self, previous: Option<usize>, fingerprint: u8) -> usize {
        let (operation, number) = match previous {
            Some(previous) => {
                (self.attempts[previous].operation, self.attempts[previous].number + 1)
            }
            None => {
                self.operations.push(None);
                (self.operations.len() - 1, 1)
            }
        };
        self.attempts.push(Attempt { token: None, operation, number, fingerprint });
        self.attempts.len() - 1
    }

    /// The store has named an attempt: its token lies between those of its neighbours, and nobody
    /// else has its operation id.
    pub(crate) fn name(&mut self, attempt: usize, token: Token, operation: OperationId) {
        let known = &self.attempts[attempt];
        let index = known.operation;
        assert!(known.token.is_none_or(|known| known == token), "the token of an attempt changed");
        if known.token.is_none() {
            let before =
                self.attempts[..attempt].iter().filter_map(|other| other.token).next_back();
            assert!(before.is_none_or(|before| before < token), "a token went back: {token}");
            let after = self.attempts[attempt + 1..].iter().find_map(|other| other.token);
            assert!(after.is_none_or(|after| token < after), "a token is too new: {token}");
            self.attempts[attempt].token = Some(token);
        }
        match self.operations[index] {
            Some(known) => assert_eq!(known, operation, "the operation id of a claim changed"),
            None => {
                let mut others = self.operations.iter().flatten();
                assert!(others.all(|other| *other != operation), "an operation id came twice");
                self.operations[index] = Some(operation);
            }
        }
    }

    fn is(&self, attempt: usize, token: Token, operation: OperationId, number: u32) -> bool {
        let known = &self.attempts[attempt];
        let newest = || self.attempts[..attempt].iter().filter_map(|other| other.token).max();
        known.token.map_or_else(|| newest() < Some(token), |known| known == token)
            && self.operations[known.operation].is_none_or(|known| known == operation)
            && known.number == number
    }

    /// Whether a slot of a store that was just opened, or that nothing is open in, shows this.
    pub(crate) fn shows(&self, slot: &Slot, seen: &Seen, now: Span) -> bool {
        match (slot, seen) {
            (Slot::Free, Seen::Absent) => true,
            (Slot::Open { attempted, .. }, Seen::Absent) => attempted.plus(TTL_MS).may_be_past(now),
            (Slot::Done { expires, .. }, Seen::Absent) => expires.may_be_past(now),
            (Slot::Open { attempt, failed, checkpoint, attempted }, Seen::Orphan(orphan)) => {
                self.is(*attempt, orphan.token, orphan.operation, orphan.number)
                    && !attempted.plus(TTL_MS).is_past(now)
                    && *failed == (orphan.cause == OrphanCause::Failed)
                    && checkpoint.map(Blob::bytes) == orphan.checkpoint
            }
            (Slot::Done { attempt, blob, kept, expires }, Seen::Done(done)) => {
                self.is(*attempt, done.token, done.operation, done.number)
                    && !expires.is_past(now)
                    && expires.holds(done.expires_ms)
                    && kept.is_none_or(|kept| kept == done.kept)
                    && done.bytes == (done.kept == Kept::Whole).then(|| blob.bytes())
            }
            _ => false,
        }
    }

    fn shows_all(&self, world: &World, seen: &[Seen], now: Span) -> bool {
        world.iter().zip(seen).enumerate().all(|(key, (slot, seen))| {
            let forgotten =
                self.maybe_forgotten.contains(&key) && matches!(slot, Slot::Done { .. });
            let free = self.maybe_free.contains(&key) && *slot == self.history[0][key];
            ((forgotten || free) && *seen == Seen::Absent) || self.shows(slot, seen, now)
        })
    }

    /// The newest world that what was seen can be; from then on that is the history.
    pub(crate) fn reopen(&mut self, seen: &[Seen], now: Span) -> Result<(), String> {
        let possible: Vec<usize> = (self.floor..self.history.len())
            .filter(|&at| self.shows_all(&self.history[at], seen, now))
            .collect();
        let (Some(&first), Some(&found)) = (possible.first(), possible.last()) else {
            return Err(self.differences(seen, now));
        };
        let mut world = self.history[found].clone();
        let mut maybe_free = BTreeSet::new();
        for (key, seen) in seen.iter().enumerate() {
            if *seen == Seen::Absent {
                // It may be there, and past; an earlier store time would show it.
                let slots = possible.iter().map(|&at| &self.history[at][key]);
                if let Some(past) = slots.clone().find(|slot| **slot != Slot::Free) {
                    let free = slots.into_iter().any(|slot| *slot == Slot::Free);
                    if free || self.maybe_free.contains(&key) {
                        maybe_free.insert(key);
                    }
                    world[key] = past.clone();
                }
            }
            self.adopt(&mut world[key], seen, self.maybe_forgotten.contains(&key));
        }
        self.maybe_free = maybe_free;
        let time = self.times[first];
        (self.history, self.times) = (vec![world], vec![time]);
        (self.durable, self.floor) = (0, 0);
        self.maybe_forgotten.clear();
        Ok(())
    }

    /// What was open to doubt is now what was seen.
    fn adopt(&mut self, slot: &mut Slot, seen: &Seen, maybe_forgotten: bool) {
        match (&mut *slot, seen) {
            (Slot::Open { attempt, .. }, Seen::Orphan(orphan)) => {
                self.name(*attempt, orphan.token, orphan.operation);
            }
            (Slot::Done { attempt, kept, expires, .. }, Seen::Done(done)) => {
                *kept = Some(done.kept);
                *expires = Span::at(done.expires_ms);
                self.name(*attempt, done.token, done.operation);
            }
            (Slot::Done { .. }, Seen::Absent) if maybe_forgotten => *slot = Slot::Free,
            _ => {}
        }
    }

    fn differences(&self, seen: &[Seen], now: Span) -> String {
        let mut text = format!("no world since {} is what is seen at {now:?}\n", self.floor);
        for (key, seen) in seen.iter().enumerate() {
            let (acked, last) = (&self.history[self.floor][key], &self.world()[key]);
            let worlds = self.history[self.floor..].iter();
            let shown = worlds.filter(|world| self.shows(&world[key], seen, now)).count();
            let known = |slot: &Slot| match slot {
                Slot::Open { attempt, .. } | Slot::Done { attempt, .. } => {
                    format!("{slot:?} {:?}", self.attempts[*attempt].token)
                }
                Slot::Free => "Free".to_owned(),
            };
            let seen = short(seen);
            let (acked, last) = (known(acked), known(last));
            writeln!(
                text,
                "key {key}: seen {seen}\n  acknowledged {acked}\n  last {last}\n  in {shown} worlds"
            )
            .expect("a string takes all");
        }
        text
    }
}

/// What was seen, without the bytes.
pub(crate) fn short(seen: &Seen) -> String {
    match seen {
        Seen::Absent => "absent".to_owned(),
        Seen::Running { token } => format!("running {}", token.get()),
        Seen::Orphan(orphan) => format!(
            "orphan {} attempt {} {:?} checkpoint {:?}",
            orphan.token.get(),
            orphan.number,
            orphan.cause,
            orphan.checkpoint.as_ref().map(Vec::len)
        ),
        Seen::Done(done) => format!(
            "done {} attempt {} {:?} {:?} until {}",
            done.token.get(),
            done.number,
            done.kept,
            done.bytes.as_ref().map(Vec::len),
            done.expires_ms
        ),
    }
}
