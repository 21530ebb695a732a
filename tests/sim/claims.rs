//! Claims of every kind in the simulation: what each may come to, and what it changes.

use std::task::Poll;

use oncelog::{Claim, Error, OrphanPolicy, Permit, Scope};

use crate::life::{
    Begun, Blocking, Effect, Found, Held, Life, Open, Pending, Phase, Stage, Staged, fingerprint,
    poll, with_scope,
};
use crate::model::{Blob, Done, KEYS, Seen, Slot};
use crate::twin::{Span, to_ms};

/// What a claim may come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// The first attempt, or the one after an orphan.
    Grant(Option<usize>),
    Replay,
    Running,
    Conflict,
    Orphaned,
}

impl Life {
    /// What a claim may come to; more than one where the time cannot be known.
    fn expect(&self, key: usize, which: u8) -> Vec<Expect> {
        let now = self.time.now;
        let Some(open) = self.open.get(&key) else {
            let Slot::Done { attempt, expires, .. } = &self.ledger.world()[key] else {
                return vec![Expect::Grant(None)];
            };
            let same = self.ledger.attempts[*attempt].fingerprint == which;
            let live = if same { Expect::Replay } else { Expect::Conflict };
            return either(*expires, now, live, Expect::Grant(None));
        };
        let same = self.ledger.attempts[open.attempt].fingerprint == which;
        if !open.is_orphan() {
            return vec![if same { Expect::Running } else { Expect::Conflict }];
        }
        let live = match (same, self.setting.policy) {
            (false, _) => Expect::Conflict,
            (true, OrphanPolicy::Rerun) => Expect::Grant(Some(open.attempt)),
            (true, OrphanPolicy::Report) => Expect::Orphaned,
        };
        if open.permit {
            return vec![live];
        }
        either(self.orphan_until(key, open), now, live, Expect::Grant(None))
    }

    /// A claim was staged: the slot is open from here on.
    fn granted(&mut self, key: usize, which: u8, previous: Option<usize>) -> usize {
        let now = self.time.now;
        let before = self.open.get(&key).cloned();
        if previous.is_none() && before.is_some() {
            // An orphan that is past ends first.
            self.ledger.stage(key, Slot::Free, now);
        }
        let checkpoint = match (&self.ledger.world()[key], previous) {
            (Slot::Open { checkpoint, .. }, Some(_)) => *checkpoint,
            _ => None,
        };
        let attempt = self.ledger.begin(previous, which);
        let attempted = self.time.latest;
        let slot = Slot::Open { attempt, failed: false, checkpoint, attempted };
        self.ledger.stage(key, slot, now);
        let open = Open {
            attempt,
            phase: Phase::Staged,
            deadline: 0,
            permit: true,
            alive: Span::at(0),
            ended: None,
            cause: before.filter(|_| previous.is_some()).and_then(|open| open.ended),
            checkpoint,
            unseen: false,
        };
        self.open.insert(key, open);
        self.counts.grants += 1;
        self.counts.take_overs += u64::from(previous.is_some());
        attempt
    }

    fn stage_grant(&mut self, key: usize, attempt: usize, blocking: Blocking) -> u64 {
        let id = self.next_id();
        let effect = Effect::Open { abandoned: false };
        self.stage(Staged { id, key, attempt, effect }, blocking);
        id
    }

    /// The caller has the permit.
    fn hold(&mut self, key: usize, attempt: usize, permit: Permit) {
        self.ledger.name(attempt, permit.token(), permit.operation());
        let known = self.ledger.attempts[attempt].clone();
        assert_eq!(permit.attempt(), known.number, "the number of an attempt");
        if let Some(open) = self.open.get(&key).filter(|open| open.attempt == attempt) {
            assert_eq!(permit.cause(), open.cause, "why the attempt before ended");
        }
        if known.number == 1 {
            assert_eq!(permit.checkpoint(), None, "a first attempt has no checkpoint");
        }
        self.say(|| format!("  granted {} attempt {}", permit.token().get(), known.number));
        self.permits.push(Held { key, attempt, permit });
    }

    /// Compares what a claim came to with what it may come to, and takes it over.
    fn settle(&mut self, key: usize, which: u8, claim: Claim, staged: Option<usize>) {
        let expected = self.expect(key, which);
        let wrong = |what: &str| panic!("key {key}: {what}, but {expected:?}");
        match claim {
            Claim::Granted(permit) => {
                let Some(attempt) = staged else {
                    let previous = expected.iter().find_map(|expect| match expect {
                        Expect::Grant(None) if permit.attempt() == 1 => Some(None),
                        Expect::Grant(Some(previous)) if permit.attempt() > 1 => {
                            Some(Some(*previous))
                        }
                        _ => None,
                    });
                    let Some(previous) = previous else { return wrong("granted") };
                    if permit.attempt() == 1 {
                        let claimed = to_ms(permit.claimed_at());
                        assert!(
                            self.time.now.holds(claimed),
                            "the time of a claim: {claimed}, not {:?}",
                            self.time.now
                        );
                    }
                    let attempt = self.granted(key, which, previous);
                    if let Some(Slot::Open { checkpoint, .. }) = self.ledger.world().get(key) {
                        let expected = checkpoint.map(Blob::bytes);
                        assert_eq!(permit.checkpoint().map(<[u8]>::to_vec), expected);
                    }
                    self.stage_grant(key, attempt, Blocking::Yes);
                    return self.hold(key, attempt, permit);
                };
                self.hold(key, attempt, permit);
            }
            Claim::Replay(stored) => {
                let seen = Seen::Done(Done::of(&stored));
                if !expected.contains(&Expect::Replay) || !self.is_right(key, &seen) {
                    wrong("replayed");
                }
            }
            Claim::InProgress(_) if expected.contains(&Expect::Running) => {}
            Claim::Conflict(_) if expected.contains(&Expect::Conflict) => {}
            Claim::Orphaned(orphan) if expected.contains(&Expect::Orphaned) => {
                let attempt = self.open[&key].attempt;
                self.ledger.name(attempt, orphan.info().token(), orphan.info().operation());
                self.orphans.push(Found { key, attempt, orphan });
            }
            other => wrong(other.kind()),
        }
    }

    /// A claim failed: where something was made to fail it may be durable all the same.
    fn claim_failed(&mut self, key: usize, which: u8, error: &Error) {
        self.say(|| format!("  {error}"));
        if !Self::is_refusal(error) {
            self.excuse("a claim", error);
            self.doubt_grant(key, which);
            return;
        }
        // An orphan that was past has ended all the same, before there was no room.
        let now = self.time.now;
        let past = self.open.get(&key).filter(|open| open.is_orphan() && !open.permit);
        if past.is_some_and(|open| self.orphan_until(key, open).may_be_past(now)) {
            self.orphans.retain(|found| found.key != key);
            if let Some(open) = self.open.get_mut(&key) {
                open.unseen = true;
            }
        }
    }

    fn doubt_grant(&mut self, key: usize, which: u8) {
        for expect in self.expect(key, which) {
            if let Expect::Grant(previous) = expect {
                self.granted(key, which, previous);
            }
        }
    }

    pub(crate) fn claim(&mut self, key: usize, which: u8) {
        self.time.read();
        let store = self.store();
        match with_scope(key, |scope| store.claim(scope, fingerprint(key, which))) {
            Ok(claim) => self.settle(key, which, claim, None),
            Err(error) => self.claim_failed(key, which, &error),
        }
    }

    /// Several claims with one commit.
    pub(crate) fn claim_many(&mut self, first: usize, which: u8) {
        self.time.read();
        let keys: Vec<usize> = (first..first + 3).map(|key| key % KEYS).collect();
        if keys.iter().any(|&key| self.expect(key, which).len() > 1) {
            return;
        }
        let names: Vec<String> = keys.iter().map(|key| format!("key-{key}")).collect();
        let asked: Vec<_> = keys
            .iter()
            .zip(&names)
            .map(|(&key, name)| {
                let organization = crate::life::organization(key);
                let (method, path) = ("POST", "/v1/contacts");
                (Scope { organization, method, path, key: name }, fingerprint(key, which))
            })
            .collect();
        let expected: Vec<_> = keys.iter().map(|&key| self.expect(key, which)[0]).collect();
        let claims = self.store().claim_many(&asked);
        let (mut granted, mut failed) = (Vec::new(), Vec::new());
        for ((&key, expected), claim) in keys.iter().zip(expected).zip(claims) {
            match (expected, claim) {
                (Expect::Grant(previous), Ok(Claim::Granted(permit))) => {
                    let attempt = self.granted(key, which, previous);
                    let id = self.next_id();
                    let effect = Effect::Open { abandoned: false };
                    self.stage(Staged { id, key, attempt, effect }, Blocking::No);
                    granted.push((key, attempt, permit));
                }
                (_, Ok(claim)) => self.settle(key, which, claim, None),
                (_, Err(error)) => failed.push((key, error)),
            }
        }
        if !granted.is_empty() {
            self.commit();
        }
        // What is in doubt comes last, behind what is known: the commit may not have been its own.
        failed.iter().for_each(|(key, error)| self.claim_failed(*key, which, error));
        for (key, attempt, permit) in granted {
            self.hold(key, attempt, permit);
        }
    }

    /// Begins a claim that somebody will poll.
    pub(crate) fn claim_later(&mut self, key: usize, which: u8, waits: bool) {
        let store = self.store();
        let print = fingerprint(key, which);
        let future = with_scope(key, |scope| {
            if waits {
                store.claim_or_wait_async(scope, print)
            } else {
                store.claim_async(scope, print)
            }
        });
        let (fingerprint, stage) = (which, Stage::New);
        self.pending.push(Pending { key, fingerprint, stage, future: Begun::Claim(future) });
    }

    pub(crate) fn poll_claim(&mut self, mut pending: Pending) {
        self.time.read();
        let (key, which) = (pending.key, pending.fingerprint);
        let Begun::Claim(future) = &mut pending.future else { unreachable!("asked by kind") };
        if let Stage::Staged { id, attempt } = pending.stage {
            return match poll(future) {
                Poll::Pending => {
                    assert!(!self.is_published(id), "key {key}: a grant that nobody hears of");
                    self.pending.push(pending);
                }
                Poll::Ready(Ok(claim)) => {
                    assert!(self.is_published(id), "key {key}: granted before it was durable");
                    self.settle(key, which, claim, Some(attempt));
                }
                Poll::Ready(Err(error)) => self.excuse("a staged claim", &error),
            };
        }
        let expected = self.expect(key, which);
        if expected.len() > 1 {
            // Asked again once the time is known.
            self.pending.push(pending);
            return;
        }
        match (poll(future), expected[0]) {
            (Poll::Ready(Ok(claim)), _) => self.settle(key, which, claim, None),
            (Poll::Ready(Err(error)), _) => self.claim_failed(key, which, &error),
            (Poll::Pending, Expect::Grant(previous)) => {
                if pending.stage == Stage::Waiting && !self.is_staged_now(key) {
                    // Another one was woken for the place that became free.
                    self.pending.push(pending);
                    return;
                }
                let attempt = self.granted(key, which, previous);
                let id = self.stage_grant(key, attempt, Blocking::No);
                assert!(!self.is_published(id), "key {key}: pending, and nothing is waited for");
                pending.stage = Stage::Staged { id, attempt };
                self.pending.push(pending);
            }
            (Poll::Pending, expected) => {
                let was_waiting = pending.stage == Stage::Waiting;
                let waits = expected == Expect::Running || was_waiting;
                assert!(waits, "key {key}: waits, but {expected:?}");
                assert!(expected != Expect::Replay, "key {key}: waits for what is done");
                pending.stage = Stage::Waiting;
                self.pending.push(pending);
            }
        }
    }

    /// Whether a claim was staged that the model does not know of yet.
    fn is_staged_now(&self, key: usize) -> bool {
        matches!(self.look_up(key), Ok(Seen::Running { .. }))
    }

    /// Drops a claim before it yields.
    pub(crate) fn drop_claim(&mut self, pending: Pending) {
        self.time.read();
        let (key, stage) = (pending.key, pending.stage);
        drop(pending);
        let Stage::Staged { id, attempt } = stage else { return };
        if let Some(staged) = self.staged.iter_mut().find(|staged| staged.id == id) {
            staged.effect = Effect::Open { abandoned: true };
            return;
        }
        self.release_unrun(key, attempt);
        if self.setting.background == oncelog::Background::Inline {
            self.commit();
        }
    }

    /// Takes over what somebody found, whatever became of it since.
    pub(crate) fn take_over(&mut self, found: Found) {
        self.time.read();
        let Found { key, attempt, orphan } = found;
        let which = self.ledger.attempts[attempt].fingerprint;
        let current = self.open.get(&key).filter(|open| open.attempt == attempt);
        let takes = current.is_some_and(Open::is_orphan);
        match orphan.take_over() {
            Ok(Claim::Granted(permit)) if takes => {
                let attempt = self.granted(key, which, Some(attempt));
                self.stage_grant(key, attempt, Blocking::Yes);
                self.hold(key, attempt, permit);
            }
            Err(Error::Superseded) => {
                let live = self.ledger.world()[key].is_live(self.time.now);
                assert!(!self.open.contains_key(&key) && !live, "key {key}: there is an answer");
            }
            Ok(claim) if !takes => match (claim, self.open.get(&key)) {
                (Claim::Granted(_), _) => panic!("key {key}: a stale orphan was taken over"),
                (Claim::Orphaned(_), Some(open)) => assert!(open.is_orphan(), "key {key}"),
                (Claim::InProgress(_), Some(open)) => assert!(!open.is_orphan(), "key {key}"),
                (Claim::Replay(_), None) | (Claim::Conflict(_), _) => {}
                (claim, open) => panic!("key {key}: {} for {open:?}", claim.kind()),
            },
            Ok(claim) => panic!("key {key}: {} instead of a take-over", claim.kind()),
            Err(error) if Self::is_refusal(&error) => {}
            Err(error) => {
                self.excuse("a take-over", &error);
                if takes {
                    self.granted(key, which, Some(attempt));
                }
            }
        }
    }
}

/// One of two answers, or both where it is not known whether the moment has come.
fn either(until: Span, now: Span, before: Expect, after: Expect) -> Vec<Expect> {
    if until.is_past(now) {
        vec![after]
    } else if until.may_be_past(now) {
        vec![before, after]
    } else {
        vec![before]
    }
}
