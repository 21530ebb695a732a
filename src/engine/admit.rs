//! From a scope and a fingerprint to a grant or an answer.

use std::sync::Arc;
use std::time::Duration;

use crate::config::OrphanPolicy;
use crate::engine::inflight::{Entry, State};
use crate::engine::outcome::{
    Answer, Conflict, ConflictState, InProgress, Keyed, OrphanInfo, Status, Stored,
};
use crate::engine::ticket::Ticket;
use crate::engine::{Act, Deed, Engine, Shard};
use crate::error::{Error, Result};
use crate::index::{Candidates, shard_of};
use crate::location::{Location, Lsn};
use crate::log::writer::{NewClaim, Staged, Wait};
use crate::log::{Facts, OpenClaim};
use crate::scope::{Fingerprint, Scope, Token};
use crate::sync::Signal;
use crate::time::Reading;

/// The longest that a caller is asked to wait before it asks again.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// So many memory accesses are worth having under way at once.
const AT_ONCE: usize = 16;

/// A claim that was staged, and its permit's checkpoint.
pub(crate) struct Grant {
    pub(crate) open: OpenClaim,
    pub(crate) hash: u64,
}

/// What a claim came to; a grant counts only once it is settled.
pub(crate) enum Admitted {
    Staged(Grant, Staged<Deed>),
    /// Settled already.
    Granted(Grant),
    Answer(Answer),
}

/// What the index says about a scope.
enum Seen {
    Live(Stored),
    /// Absent; an expired response may be there to be replaced.
    Absent(Option<Location>),
}

/// What was there before a claim.
#[derive(Clone, Copy, Default)]
struct Before<'a> {
    /// The attempt that is taken over.
    previous: Option<&'a OpenClaim>,
    /// An expired response.
    replaced: Option<Location>,
}

/// How a caller takes part.
#[derive(Clone, Copy)]
pub(crate) struct Caller<'a> {
    pub(crate) wait: Wait,
    /// Where an async caller is told.
    pub(crate) ticket: Option<&'a Arc<Ticket>>,
    /// Who is to be woken when a running operation ends.
    pub(crate) signal: Option<&'a Arc<Signal>>,
}

impl<'a> Caller<'a> {
    pub(crate) const BLOCKING: Caller<'static> =
        Caller { wait: Wait::Blocking, ticket: None, signal: None };
    /// One of many that one sync will settle.
    const ONE_OF_MANY: Caller<'static> = Caller { wait: Wait::Many, ticket: None, signal: None };

    pub(crate) fn of_future(ticket: &'a Arc<Ticket>, signal: Option<&'a Arc<Signal>>) -> Self {
        Caller { wait: Wait::Async, ticket: Some(ticket), signal }
    }
}

impl Engine {
    pub(crate) fn keyed(&self, scope: Scope<'_>) -> Result<Keyed> {
        Keyed::new(scope, &self.hash_key)
    }

    /// Claims many scopes with one commit; the answers come in order.
    pub(crate) fn admit_many(&self, asked: &[(Scope<'_>, Fingerprint)]) -> Vec<Result<Admitted>> {
        let mut answers = Vec::with_capacity(asked.len());
        let mut staged_later = false;
        for chunk in asked.chunks(AT_ONCE) {
            let keyed = self.keyed_ahead(chunk.iter().map(|(scope, _)| *scope));
            for (keyed, (_, fingerprint)) in keyed.into_iter().zip(chunk) {
                let caller = Caller::ONE_OF_MANY;
                let answer = keyed.and_then(|keyed| self.admit(&keyed, *fingerprint, &caller));
                answers.push(answer.map(|answer| match answer {
                    Admitted::Staged(grant, Staged::Now(deed)) => {
                        self.publish_now(deed);
                        Admitted::Granted(grant)
                    }
                    answer => {
                        staged_later |= matches!(answer, Admitted::Staged(..));
                        answer
                    }
                }));
            }
        }
        if staged_later {
            let settled = self.sync_staged();
            let settle = |admitted| match (admitted, &settled) {
                (Admitted::Staged(grant, _), Ok(())) => Ok(Admitted::Granted(grant)),
                (Admitted::Staged(grant, _), Err(error)) => {
                    // Whether it is durable is in doubt, and nobody will run it.
                    self.dropped(grant.hash, grant.open.facts.token);
                    Err(error.clone())
                }
                (admitted, _) => Ok(admitted),
            };
            answers = answers.into_iter().map(|answer| answer.and_then(settle)).collect();
        }
        answers
    }

    /// What many scopes hold; the answers come in order.
    pub(crate) fn look_up_many(&self, scopes: &[Scope<'_>]) -> Vec<Result<Option<Status>>> {
        let mut found = Vec::with_capacity(scopes.len());
        for chunk in scopes.chunks(AT_ONCE) {
            let keyed = self.keyed_ahead(chunk.iter().copied());
            found.extend(keyed.into_iter().map(|keyed| keyed.and_then(|k| self.look_up(&k))));
        }
        found
    }

    /// Hashes a few scopes and asks the memory for their lines, so that those come together.
    fn keyed_ahead<'a>(&self, scopes: impl Iterator<Item = Scope<'a>>) -> Vec<Result<Keyed>> {
        let keyed: Vec<_> = scopes.map(|scope| self.keyed(scope)).collect();
        for keyed in keyed.iter().flatten() {
            self.shard(keyed.hash).lock().index.prefetch(keyed.hash);
        }
        keyed
    }

    /// Claims a scope, or says why not. Where a caller brings a signal and the answer is that
    /// the operation runs, the signal fires when that may have changed.
    pub(crate) fn admit(
        &self,
        keyed: &Keyed,
        fingerprint: Fingerprint,
        caller: &Caller<'_>,
    ) -> Result<Admitted> {
        self.check_closed()?;
        let mut grown = false;
        loop {
            let now = self.now();
            let (changes, candidates) = {
                let mut shard = self.shard(keyed.hash).lock();
                // The lines come while the open claims are looked at.
                shard.index.prefetch(keyed.hash);
                if let Some(admitted) =
                    self.admit_open(&mut shard, keyed, fingerprint, caller, now)?
                {
                    return Ok(admitted);
                }
                if shard.index.is_full() && !std::mem::replace(&mut grown, true) {
                    drop(shard);
                    self.grow(shard_of(keyed.hash));
                    continue;
                }
                let candidates = self.candidates(&shard, keyed.hash);
                if candidates.is_empty() {
                    self.quarantine.check_absent(now.now_ms)?;
                    return self.stage(
                        &mut shard,
                        keyed,
                        fingerprint,
                        caller,
                        Before::default(),
                        now,
                    );
                }
                (shard.changes, candidates)
            };
            let replaced = match self.see(keyed, &candidates, now) {
                Ok(Seen::Live(stored)) => return Ok(self.answer_stored(stored, fingerprint)),
                Ok(Seen::Absent(replaced)) => {
                    self.quarantine.check_absent(now.now_ms)?;
                    replaced
                }
                Err(_) if self.has_changed(keyed.hash, changes) => continue,
                Err(error) => return Err(error),
            };
            let mut shard = self.shard(keyed.hash).lock();
            if shard.changes == changes {
                let before = Before { previous: None, replaced };
                return self.stage(&mut shard, keyed, fingerprint, caller, before, now);
            }
        }
    }

    /// Whether a shard is no longer as it was. What could not be read may have been erased then.
    pub(in crate::engine) fn has_changed(&self, hash: u64, changes: u64) -> bool {
        self.shard(hash).lock().changes != changes
    }

    pub(in crate::engine) fn candidates(&self, shard: &Shard, hash: u64) -> Candidates {
        shard.index.candidates(hash, self.log.segments.oldest())
    }

    /// Reads the candidates until one is the response of the scope.
    fn see(&self, keyed: &Keyed, candidates: &Candidates, now: Reading) -> Result<Seen> {
        let mut expired = None;
        for location in candidates.iter() {
            let record = match self.log.segments.read(location) {
                Err(Error::Corrupt { .. }) if self.is_anothers(location, keyed.hash) => continue,
                read => read?,
            };
            let Some(record) = record else { continue };
            let Some(stored) = Stored::of_record(record, &keyed.encoded) else { continue };
            if now.now_ms < stored.expires_ms {
                return Ok(Seen::Live(stored));
            }
            expired.get_or_insert(location);
        }
        Ok(Seen::Absent(expired))
    }

    /// Whether the record at a place is surely that of a scope with another hash. The index has a
    /// part of each hash, and damage is to be that of one scope alone; the hints have all of it.
    fn is_anothers(&self, location: Location, hash: u64) -> bool {
        let segments = &self.log.segments;
        if !segments.is_recent(location.segment()) {
            return !segments.may_name(location, hash, &self.hash_key);
        }
        let is_known = self.shard(hash).lock().index.is_recent(hash, location);
        // The shards let go of them only after the segment has its hints.
        !is_known && segments.is_recent(location.segment())
    }

    fn answer_stored(&self, stored: Stored, fingerprint: Fingerprint) -> Admitted {
        if stored.fingerprint == fingerprint {
            self.counters.replayed.add(1);
            return Admitted::Answer(Answer::Replay(stored));
        }
        self.counters.conflicts.add(1);
        Admitted::Answer(Answer::Conflict(Conflict {
            claimed_ms: stored.claimed_ms,
            state: ConflictState::Completed,
            operation: stored.operation,
        }))
    }

    /// What an open claim of the scope means for this caller; `None` where there is none.
    fn admit_open(
        &self,
        shard: &mut Shard,
        keyed: &Keyed,
        fingerprint: Fingerprint,
        caller: &Caller<'_>,
        now: Reading,
    ) -> Result<Option<Admitted>> {
        let Some(entry) = shard.inflight.find(keyed.hash, &keyed.encoded) else {
            return Ok(None);
        };
        self.lapse(entry, now);
        if entry.is_orphan() && !entry.permit && self.is_expired(entry, now) {
            self.quarantine.check_absent(now.now_ms)?;
            let (open, replaced) = (entry.open.clone(), entry.replaced);
            self.log.append_expiry(&open.facts, now)?;
            self.counters.orphans_expired.add(1);
            shard.inflight.remove(keyed.hash, open.facts.token);
            shard.changes += 1;
            let before = Before { previous: None, replaced };
            let staged = self.stage(shard, keyed, fingerprint, caller, before, now);
            return staged.map(Some);
        }
        if entry.open.facts.fingerprint == fingerprint
            && entry.is_orphan()
            && self.config.on_orphan == OrphanPolicy::Rerun
            // It may have completed: that is for somebody to find out.
            && !self.quarantine.may_have_ended(entry.token(), now.now_ms)
        {
            let (open, replaced) = (entry.open.clone(), entry.replaced);
            let before = Before { previous: Some(&open), replaced };
            return self.stage(shard, keyed, fingerprint, caller, before, now).map(Some);
        }
        let answer = self.answer_open(entry, fingerprint, now)?;
        if let (Answer::InProgress(_), Some(signal)) = (&answer, caller.signal) {
            // Whoever closes wakes those who wait, after it has said so.
            self.check_closed()?;
            shard.inflight.wait(keyed.hash, Arc::clone(signal));
        }
        Ok(Some(Admitted::Answer(answer)))
    }

    /// What an open claim is to a caller with this fingerprint.
    fn answer_open(&self, entry: &Entry, fingerprint: Fingerprint, now: Reading) -> Result<Answer> {
        let facts = &entry.open.facts;
        if entry.state != State::Open {
            // In a poisoned store what is half done stays in doubt for ever.
            self.log.check_poison()?;
        }
        if facts.fingerprint != fingerprint {
            self.counters.conflicts.add(1);
            let state =
                if entry.is_orphan() { ConflictState::Orphaned } else { ConflictState::InProgress };
            let (claimed_ms, operation) = (facts.claimed_ms, facts.operation);
            return Ok(Answer::Conflict(Conflict { claimed_ms, state, operation }));
        }
        if entry.is_orphan() {
            return Ok(Answer::Orphaned(entry.open.clone()));
        }
        self.counters.waits.add(1);
        Ok(Answer::InProgress(self.in_progress(entry, now)))
    }

    pub(crate) fn in_progress(&self, entry: &Entry, now: Reading) -> InProgress {
        let facts = &entry.open.facts;
        let left = match entry.state {
            State::Staged => self.config.lease,
            State::Open | State::Ending => entry.deadline.saturating_sub(now.monotonic),
        };
        InProgress {
            claimed_ms: facts.claimed_ms,
            retry_after: left.min(RETRY_AFTER_MAX),
            token: facts.token,
            operation: facts.operation,
            attempt: facts.attempt,
        }
    }

    /// Stages a first attempt, or the one after `previous`.
    fn stage(
        &self,
        shard: &mut Shard,
        keyed: &Keyed,
        fingerprint: Fingerprint,
        caller: &Caller<'_>,
        before: Before<'_>,
        now: Reading,
    ) -> Result<Admitted> {
        let hash = keyed.hash;
        let Before { previous, replaced } = before;
        let new = NewClaim { scope: &keyed.encoded, fingerprint, previous };
        let deed = |facts: &Arc<Facts>| Deed {
            hash,
            token: facts.token,
            act: Act::Open,
            ticket: caller.ticket.cloned(),
            staged_at: now.monotonic,
        };
        let staged = self.log.stage_claim(&new, now, caller.wait, deed);
        let (open, staged) = staged.inspect_err(|error| {
            if matches!(error, Error::Full { .. }) {
                self.counters.refused.add(1);
            }
        })?;
        self.counters.granted.add(1);
        self.counters.orphans_taken_over.add(u64::from(previous.is_some()));
        let entry = Entry {
            open: open.clone(),
            state: State::Staged,
            deadline: Duration::MAX,
            permit: true,
            replaced,
            alive_ms: 0,
            progress: Lsn::ZERO,
        };
        shard.inflight.insert(hash, entry);
        shard.changes += 1;
        Ok(Admitted::Staged(Grant { open, hash }, staged))
    }

    /// Takes an orphan over, if the attempt that it names is still the current one.
    pub(crate) fn take_over(&self, orphan: &OpenClaim, caller: &Caller<'_>) -> Result<Admitted> {
        self.check_closed()?;
        let (facts, now) = (&orphan.facts, self.now());
        let scope = crate::scope::decode(&facts.scope).expect("the scope of a claim was checked");
        let keyed = self.keyed(scope)?;
        let mut shard = self.shard(keyed.hash).lock();
        if let Some(entry) = shard.inflight.find(keyed.hash, &keyed.encoded) {
            self.lapse(entry, now);
            if entry.is_orphan() && entry.token() == facts.token {
                let (open, replaced) = (entry.open.clone(), entry.replaced);
                let fingerprint = facts.fingerprint;
                let before = Before { previous: Some(&open), replaced };
                return self.stage(&mut shard, &keyed, fingerprint, caller, before, now);
            }
            return self.answer_open(entry, facts.fingerprint, now).map(Admitted::Answer);
        }
        let candidates = self.candidates(&shard, keyed.hash);
        drop(shard);
        match self.see(&keyed, &candidates, now)? {
            Seen::Live(stored) => Ok(self.answer_stored(stored, facts.fingerprint)),
            Seen::Absent(_) => Err(Error::Superseded),
        }
    }

    /// What a scope holds, without claiming it.
    pub(crate) fn look_up(&self, keyed: &Keyed) -> Result<Option<Status>> {
        self.check_closed()?;
        loop {
            let now = self.now();
            let (changes, candidates) = {
                let mut shard = self.shard(keyed.hash).lock();
                shard.index.prefetch(keyed.hash);
                if let Some(entry) = shard.inflight.find(keyed.hash, &keyed.encoded) {
                    self.lapse(entry, now);
                    if entry.state != State::Open {
                        self.log.check_poison()?;
                    }
                    if !entry.is_orphan() {
                        return Ok(Some(Status::InProgress(self.in_progress(entry, now))));
                    }
                    if !entry.permit && self.is_expired(entry, now) {
                        return self.quarantine.check_absent(now.now_ms).map(|()| None);
                    }
                    return Ok(Some(Status::Orphaned(OrphanInfo { open: entry.open.clone() })));
                }
                (shard.changes, self.candidates(&shard, keyed.hash))
            };
            match self.see(keyed, &candidates, now) {
                Ok(Seen::Live(stored)) => return Ok(Some(Status::Completed(stored))),
                seen if self.has_changed(keyed.hash, changes) => drop(seen),
                Ok(Seen::Absent(_)) => {
                    return self.quarantine.check_absent(now.now_ms).map(|()| None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sees to it that waiting futures look again when the lease of this attempt is over.
    pub(crate) fn watch_lease(&self, hash: u64, token: Token) {
        let deadline = self.deadline(hash, token).unwrap_or_default();
        let left = deadline.saturating_sub(self.clock.monotonic()).min(self.config.lease);
        if !self.clock.moves_by_hand() {
            self.log.look_again_in(left);
        }
    }

    /// A waiting caller goes away.
    pub(crate) fn leave(&self, hash: u64, signal: &Arc<Signal>) {
        let next = self.shard(hash).lock().inflight.leave(hash, signal);
        if let Some(next) = next {
            next.fire();
        }
    }

    /// When the lease of the running attempt is over, in monotonic time.
    pub(crate) fn deadline(&self, hash: u64, token: Token) -> Option<Duration> {
        self.shard(hash).lock().inflight.current(hash, token).map(|entry| entry.deadline)
    }
}
