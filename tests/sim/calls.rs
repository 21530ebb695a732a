//! The other calls in the simulation: the ends of attempts, upkeep, time, whole-store calls.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use oncelog::{Error, Kept, Stored};

use crate::disk::SimDisk;
use crate::life::{
    Begun, Blocking, Effect, Found, Held, Life, Open, Pending, Phase, Stage, Staged, organization,
    poll, with_scope,
};
use crate::model::{Blob, Done, KEYS, Seen, Slot, TTL_MS, seen};
use crate::twin::{Span, to_ms};

/// The largest response that a segment of 64 KiB takes.
const RESPONSE_MAX: usize = 8 * 1024;

/// How an attempt is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Complete,
    CompleteWithout,
    Release,
    GiveUp,
}

impl Life {
    fn blob(&mut self) -> Blob {
        let len = match self.rng.below(40) {
            0 => RESPONSE_MAX + 1 + self.rng.below(100) as usize,
            1 => 0,
            _ => (self.rng.below(5) * self.rng.below(1_800)) as usize,
        };
        Blob { tag: self.rng.next(), len }
    }

    /// Whether this attempt may be ended by its permit.
    fn is_current(&self, key: usize, attempt: usize) -> bool {
        let open = self.open.get(&key).filter(|open| open.attempt == attempt);
        open.is_some_and(|open| open.phase == Phase::Open && open.permit)
    }

    /// The attempt is completed, as far as the log is concerned.
    fn completed(&mut self, key: usize, attempt: usize, blob: Blob, kept: Option<Kept>) {
        let expires = self.time.latest.plus(TTL_MS);
        let kept = match kept {
            None if blob.len > RESPONSE_MAX => Some(Kept::TooLarge),
            None if !self.limited && self.setting.budget.is_none() => Some(Kept::Whole),
            kept => kept,
        };
        self.ledger.stage(key, Slot::Done { attempt, blob, kept, expires }, self.time.now);
        self.end(key);
    }

    fn end(&mut self, key: usize) {
        let latest = self.time.latest;
        if let Some(open) = self.open.get_mut(&key) {
            // A permit that ends its attempt is gone with it.
            (open.phase, open.permit, open.alive) = (Phase::Ending, false, latest);
        }
    }

    /// The world after this end, staged.
    fn ended(&mut self, key: usize, attempt: usize, end: End, blob: Blob) -> Effect {
        match end {
            End::Complete => self.completed(key, attempt, blob, None),
            End::CompleteWithout => self.completed(key, attempt, blob, Some(Kept::Omitted)),
            End::Release => {
                self.ledger.stage(key, Slot::Free, self.time.now);
                self.end(key);
            }
            End::GiveUp => {
                let mut slot = self.ledger.world()[key].clone();
                if let Slot::Open { failed, .. } = &mut slot {
                    *failed = true;
                }
                self.ledger.stage(key, slot, self.time.now);
                self.end(key);
                if let Some(open) = self.open.get_mut(&key) {
                    open.ended = Some(oncelog::OrphanCause::Failed);
                }
                return Effect::GivenUp;
            }
        }
        Effect::Gone
    }

    /// What a completion says of itself is what was asked for.
    fn check_stored(&mut self, key: usize, attempt: usize, stored: &Stored) {
        self.ledger.name(attempt, stored.token(), stored.operation());
        let found = self
            .ledger
            .history
            .iter()
            .rev()
            .map(|world| &world[key])
            .find(|slot| matches!(slot, Slot::Done { attempt: done, .. } if *done == attempt));
        let old = found.cloned().expect("it was staged");
        let Slot::Done { blob, kept, expires, .. } = &old else { unreachable!("found as such") };
        let done = Done::of(stored);
        assert!(expires.holds(done.expires_ms), "{} is not within {expires:?}", done.expires_ms);
        assert!(kept.is_none_or(|kept| kept == done.kept), "{kept:?}, not {:?}", done.kept);
        assert!(matches!(done.kept, Kept::Whole | Kept::NoRoom) || kept.is_some());
        assert_eq!(done.bytes, (done.kept == Kept::Whole).then(|| blob.bytes()));
        let (blob, kept) = (*blob, Some(done.kept));
        let expires = Span::at(to_ms(stored.expires_at()));
        let new = Slot::Done { attempt, blob, kept, expires };
        self.ledger.amend(key, &old, &new);
    }

    /// Ends an attempt by its permit, which may be a stale one.
    pub(crate) fn end_by_permit(&mut self, held: Held, end: End) {
        self.time.read();
        let Held { key, attempt, permit } = held;
        let (current, blob) = (self.is_current(key, attempt), self.blob());
        let outcome = match end {
            End::Complete => permit.complete(&blob.bytes()).map(Some),
            End::CompleteWithout => permit.complete_without_response().map(Some),
            End::Release => permit.release().map(|()| None),
            End::GiveUp => permit.give_up().map(|()| None),
        };
        self.settle_end((key, attempt), current, end, blob, outcome);
    }

    fn settle_end(
        &mut self,
        (key, attempt): (usize, usize),
        current: bool,
        end: End,
        blob: Blob,
        outcome: Result<Option<Stored>, Error>,
    ) {
        if let Err(Error::Superseded) = outcome {
            assert!(!current, "key {key}: superseded, and it is the current attempt");
            // The permit is gone, whatever it came to.
            return self.dropped(key, attempt);
        }
        if let Err(error) = &outcome {
            self.say(|| format!("  {error}"));
            if end == End::GiveUp && self.limited && !self.is_broken() {
                // Completing and releasing have their room, this has not: the permit is gone.
                assert!(is_no_room(error), "key {key} cannot be given up: {error}");
                return self.dropped(key, attempt);
            }
            self.excuse("the end of an attempt", error);
            if current {
                self.ended(key, attempt, end, blob);
            }
            return;
        }
        assert!(current, "key {key}: a stale attempt was ended");
        let effect = self.ended(key, attempt, end, blob);
        let id = self.next_id();
        self.stage(Staged { id, key, attempt, effect }, Blocking::Yes);
        if let Ok(Some(stored)) = outcome {
            self.check_stored(key, attempt, &stored);
        }
    }

    /// The same as a future, staged at the call.
    pub(crate) fn end_later(&mut self, held: Held, end: End) {
        self.time.read();
        let Held { key, attempt, permit } = held;
        let (current, blob) = (self.is_current(key, attempt), self.blob());
        let mut future = match end {
            End::Complete => Begun::Complete(permit.complete_async(&blob.bytes())),
            End::CompleteWithout => Begun::Complete(permit.complete_without_response_async()),
            End::Release => Begun::End(permit.release_async()),
            End::GiveUp => Begun::End(permit.give_up_async()),
        };
        if !current || self.is_broken() {
            let outcome = match &mut future {
                Begun::Complete(future) => poll(future).map(|outcome| outcome.map(Some)),
                Begun::End(future) => poll(future).map(|outcome| outcome.map(|()| None)),
                Begun::Claim(_) => unreachable!("not a claim"),
            };
            return match outcome {
                Poll::Ready(outcome) => {
                    self.settle_end((key, attempt), current, end, blob, outcome);
                }
                Poll::Pending if current => {
                    self.ended(key, attempt, end, blob);
                }
                Poll::Pending => panic!("key {key}: a stale attempt is being ended"),
            };
        }
        let effect = self.ended(key, attempt, end, blob);
        let id = self.next_id();
        self.stage(Staged { id, key, attempt, effect }, Blocking::No);
        let (fingerprint, stage) = (0, Stage::Staged { id, attempt });
        self.pending.push(Pending { key, fingerprint, stage, future });
    }

    /// Polls, or drops, something that was begun before.
    pub(crate) fn poll_pending(&mut self, mut pending: Pending) {
        let Stage::Staged { id, attempt } = pending.stage else {
            return self.poll_claim(pending);
        };
        let outcome = match &mut pending.future {
            Begun::Claim(_) => return self.poll_claim(pending),
            Begun::Complete(future) => poll(future).map(|outcome| outcome.map(Some)),
            Begun::End(future) => poll(future).map(|outcome| outcome.map(|()| None)),
        };
        let key = pending.key;
        match outcome {
            Poll::Pending => {
                assert!(!self.is_published(id), "key {key}: done, and nobody hears of it");
                self.pending.push(pending);
            }
            Poll::Ready(Err(error)) => self.excuse("a staged end", &error),
            Poll::Ready(Ok(stored)) => {
                assert!(self.is_published(id), "key {key}: acknowledged before it was durable");
                if let Some(stored) = stored {
                    self.check_stored(key, attempt, &stored);
                }
            }
        }
    }

    pub(crate) fn drop_pending(&mut self, pending: Pending) {
        match pending.future {
            Begun::Claim(_) => self.drop_claim(pending),
            // Dropping it stops the waiting, not the deed.
            Begun::Complete(_) | Begun::End(_) => drop(pending),
        }
    }

    pub(crate) fn drop_permit(&mut self, held: Held) {
        self.time.read();
        let Held { key, attempt, permit } = held;
        drop(permit);
        self.dropped(key, attempt);
    }

    pub(crate) fn checkpoint(&mut self, at: usize, blocking: Blocking) {
        self.time.read();
        let len = self.rng.below(300) as usize + 5_000 * usize::from(self.rng.below(8) == 0);
        let blob = Blob { tag: self.rng.next(), len };
        let Held { key, attempt, permit } = &self.permits[at];
        let (key, attempt) = (*key, *attempt);
        let current = self.is_current(key, attempt);
        let (outcome, future) = match blocking {
            Blocking::Yes => (Poll::Ready(permit.save_checkpoint(&blob.bytes())), None),
            Blocking::No => {
                let mut future = permit.save_checkpoint_async(&blob.bytes());
                (poll(&mut future), Some(future))
            }
        };
        match &outcome {
            Poll::Ready(Err(Error::Superseded)) => {
                assert!(!current, "key {key}: superseded, and it is the current attempt");
                return;
            }
            Poll::Ready(Err(error)) if Self::is_refusal(error) => return,
            _ => assert!(current || self.is_broken(), "key {key}: a stale checkpoint"),
        }
        if !current {
            return;
        }
        let mut slot = self.ledger.world()[key].clone();
        let Slot::Open { checkpoint, .. } = &mut slot else { panic!("key {key} is not open") };
        *checkpoint = Some(blob);
        self.ledger.stage(key, slot, self.time.now);
        if let Poll::Ready(Err(error)) = &outcome {
            return self.excuse("a checkpoint", error);
        }
        let (id, effect) = (self.next_id(), Effect::Checkpoint(blob));
        self.stage(Staged { id, key, attempt, effect }, blocking);
        if let (Poll::Pending, Some(future)) = (outcome, future) {
            assert!(!self.is_published(id), "key {key}: pending, and nothing is waited for");
            let (fingerprint, stage) = (0, Stage::Staged { id, attempt });
            let future = Begun::End(future);
            self.pending.push(Pending { key, fingerprint, stage, future });
        }
    }

    pub(crate) fn renew(&mut self, at: usize) {
        self.time.read();
        let Held { key, attempt, permit } = &self.permits[at];
        let (key, current) = (*key, self.is_current(*key, *attempt));
        match permit.renew() {
            Ok(()) => assert!(current, "key {key}: a stale lease was renewed"),
            Err(Error::Superseded) => assert!(!current, "key {key}: it is the current attempt"),
            Err(error) => self.excuse("a renewal", &error),
        }
        let (latest, deadline) = (self.time.latest, self.time.monotonic() + crate::life::LEASE_MS);
        if let Some(open) = self.open.get_mut(&key).filter(|_| current) {
            (open.ended, open.alive, open.deadline) = (None, latest, deadline);
        }
    }

    /// Asks for the orphan of a key, and keeps it for later.
    pub(crate) fn find_orphan(&mut self, key: usize) {
        self.time.read();
        let orphan = with_scope(key, |scope| self.store().orphan(scope));
        let orphan = orphan.expect("needs no I/O");
        let open = self.open.get(&key).filter(|open| open.is_orphan()).cloned();
        match (orphan, open) {
            (Some(orphan), Some(open)) => {
                let attempt = open.attempt;
                self.ledger.name(attempt, orphan.info().token(), orphan.info().operation());
                self.orphans.push(Found { key, attempt, orphan });
            }
            (None, Some(open)) => {
                let past = self.orphan_until(key, &open).may_be_past(self.time.now);
                assert!(!open.permit && past, "key {key}: its orphan is not found");
            }
            (None, None) => {}
            (Some(orphan), None) => panic!("key {key}: no orphan, but {orphan:?}"),
        }
    }

    /// Ends an orphan that somebody found, whatever became of it since.
    pub(crate) fn end_orphan(&mut self, found: Found, end: End) {
        self.time.read();
        let Found { key, attempt, orphan } = found;
        let blob = self.blob();
        let open = self.open.get(&key).filter(|open| open.attempt == attempt);
        let (current, permit) =
            (open.is_some_and(Open::is_orphan), open.is_some_and(|open| open.permit));
        let outcome = match end {
            End::Release => orphan.release().map(|()| None),
            _ => orphan.resolve(&blob.bytes()).map(Some),
        };
        if end == End::Release && current && permit {
            let refused = matches!(outcome, Err(Error::Invalid { .. }));
            assert!(refused || self.is_broken(), "key {key}: released under its permit");
            return;
        }
        match outcome {
            Err(Error::Superseded) => assert!(!current, "key {key}: it is the current attempt"),
            outcome => {
                let end = if end == End::Release { End::Release } else { End::Complete };
                self.settle_end((key, attempt), current, end, blob, outcome);
            }
        }
    }

    pub(crate) fn sync(&mut self) {
        match self.store().sync() {
            Ok(()) if self.is_buffered() => self.ledger.all_durable(),
            Ok(()) => self.commit(),
            Err(error) => self.excuse("a sync", &error),
        }
    }

    /// Nothing is staged after this, unless something was made to fail.
    fn settled(&mut self) -> bool {
        while !self.staged.is_empty() && !self.is_broken() {
            self.sync();
        }
        !self.is_broken()
    }

    pub(crate) fn expire(&mut self) {
        if !self.settled() {
            return;
        }
        self.time.read();
        let orphans: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| open.is_orphan() && !open.permit)
            .map(|(&key, open)| (key, self.orphan_until(key, open)))
            .collect();
        let now = self.time.now;
        if orphans.iter().any(|(_, until)| until.may_be_past(now) && !until.is_past(now)) {
            return;
        }
        let past: Vec<_> = orphans.into_iter().filter(|(_, until)| until.is_past(now)).collect();
        let known = past.iter().filter(|(key, _)| !self.open[key].unseen).count() as u64;
        let outcome = self.store().expire();
        for (key, _) in &past {
            self.ledger.stage(*key, Slot::Free, now);
        }
        match outcome {
            Ok(expired) => {
                // One that was past when a crash came may be there still, and nobody can see it.
                assert!(expired.orphans >= known, "{} orphans expired", expired.orphans);
                self.counts.dropped_segments += expired.segments;
                self.say(|| format!("  {} segments, {} orphans", expired.segments, past.len()));
                past.iter().for_each(|(key, _)| {
                    self.open.remove(key);
                });
                if expired.orphans > 0 {
                    self.ledger.all_durable();
                }
            }
            Err(error) if Self::is_refusal(&error) => {
                // How many it ended is not said, and nobody can see any of them.
                past.iter().for_each(|(key, _)| {
                    self.open.remove(key);
                });
                self.orphans.retain(|found| past.iter().all(|(key, _)| *key != found.key));
            }
            Err(error) => self.excuse("an expiry", &error),
        }
    }

    pub(crate) fn forget(&mut self, key: usize) {
        if !self.settled() {
            return;
        }
        self.time.read();
        let (slot, open) = (self.ledger.world()[key].clone(), self.open.contains_key(&key));
        match with_scope(key, |scope| self.store().forget(scope)) {
            Ok(true) => {
                let unseen = self.open.remove(&key).is_none_or(|open| open.unseen);
                assert!(unseen, "key {key}: an open claim was forgotten");
                self.ledger.stage(key, Slot::Free, self.time.now);
                self.ledger.all_durable();
            }
            Ok(false) => {
                let live = slot.is_live(self.time.now);
                assert!(open || !live, "key {key}: a response was not forgotten");
            }
            Err(error) if Self::is_refusal(&error) => {}
            Err(error) => {
                self.excuse("a forget", &error);
                if !open {
                    self.ledger.maybe_forgotten.insert(key);
                }
            }
        }
    }

    pub(crate) fn forget_organization(&mut self, of: usize) {
        if !self.settled() {
            return;
        }
        self.time.read();
        let now = self.time.now;
        let done: Vec<(usize, Span)> = (0..KEYS)
            .filter(|&key| organization(key) == organization(of) && !self.open.contains_key(&key))
            .filter_map(|key| match self.ledger.world()[key] {
                Slot::Done { expires, .. } => Some((key, expires)),
                _ => None,
            })
            .collect();
        let at_most = done.iter().filter(|(_, until)| !until.is_past(now)).count() as u64;
        let at_least = done.iter().filter(|(_, until)| !until.may_be_past(now)).count() as u64;
        match self.store().forget_organization(organization(of)) {
            Ok(count) => {
                assert!((at_least..=at_most).contains(&count), "{count} responses forgotten");
                done.iter().for_each(|(key, _)| self.ledger.stage(*key, Slot::Free, now));
                self.ledger.all_durable();
            }
            Err(error) if Self::is_refusal(&error) => {
                // It goes segment by segment: some are gone, the others are all there.
                for (key, _) in done {
                    if self.look_up(key).is_ok_and(|seen| seen == Seen::Absent) {
                        self.ledger.stage(key, Slot::Free, now);
                    }
                }
                self.ledger.all_durable();
            }
            Err(error) => {
                self.excuse("a forget of an organization", &error);
                self.ledger.maybe_forgotten.extend(done.iter().map(|(key, _)| *key));
            }
        }
    }

    /// Time passes, or the clock jumps either way.
    pub(crate) fn pass(&mut self) {
        match self.rng.below(8) {
            0 => {
                let far = Duration::from_secs(self.rng.below(9) * self.rng.below(20_000));
                let wall = oncelog::Clock::wall(&self.clock) + far;
                self.say(|| format!("  the clock jumps {far:?} ahead"));
                self.clock.set_wall(wall);
            }
            1 => {
                let far = Duration::from_secs(self.rng.below(9) * self.rng.below(5_000));
                let wall = oncelog::Clock::wall(&self.clock) - far;
                self.say(|| format!("  the clock jumps {far:?} back"));
                self.clock.set_wall(wall);
            }
            _ => {
                let by = Duration::from_secs(self.rng.below(9) * self.rng.below(3_000));
                self.say(|| format!("  {by:?} pass"));
                self.clock.advance(by);
            }
        }
        self.look_at_the_clock();
        if self.rng.below(2) == 0 {
            (0..self.permits.len()).for_each(|at| self.renew(at));
        }
    }

    pub(crate) fn accept_clock(&mut self) {
        match self.store().accept_clock() {
            Ok(()) => self.time.accept(),
            Err(error) => {
                self.time.accept();
                self.excuse("an accepted clock", &error);
            }
        }
        self.lapse();
    }

    pub(crate) fn verify(&mut self) {
        match self.store().verify() {
            Ok(found) => assert!(found.is_clean(), "damage where none was done: {found:?}"),
            Err(error) => self.excuse("a verification", &error),
        }
    }

    /// A backup opens as the store is now.
    pub(crate) fn backup(&mut self) {
        if self.limited || self.setting.budget.is_some() || !self.settled() {
            return;
        }
        self.time.read();
        let copy = SimDisk::new();
        if let Err(error) = self.store().backup_on(Arc::new(copy.clone())) {
            return self.excuse("a backup", &error);
        }
        let copied = self.setting.options(&self.clock).open_on(Arc::new(copy));
        let copied = copied.expect("a backup opens");
        for key in 0..KEYS {
            let seen = seen(with_scope(key, |scope| copied.lookup(scope)));
            let seen = seen.expect("a backup is whole");
            let wall = to_ms(oncelog::Clock::wall(&self.clock));
            let hi = self.time.now.hi.max(wall);
            let until_now = Span { lo: self.ledger.durable_time(), hi };
            let slot = &self.ledger.world()[key];
            assert!(
                self.ledger.shows(slot, &seen, until_now),
                "key {key} of a backup: {} for {slot:?}",
                crate::model::short(&seen)
            );
            assert!(!matches!(seen, Seen::Running { .. }), "nothing runs in a backup");
        }
        copied.close().expect("a backup can be closed");
    }
}

fn is_no_room(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
}
