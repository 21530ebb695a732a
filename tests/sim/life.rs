//! One life of a store on the simulated disk, from an open to its end, and the model beside it.
//!
//! The calls of several logical threads are interleaved by seed: futures are polled in any order,
//! or dropped; permits and orphans go from hand to hand, stale ones too. Where the store runs
//! `Stepped`, what futures stage shares a batch with the next call that commits.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oncelog::{
    Background, ClaimFuture, CompleteFuture, Durability, EndFuture, Error, Fingerprint,
    ManualClock, Options, Orphan, OrphanCause, OrphanPolicy, Permit, Scope, Store,
};

use crate::disk::SimDisk;
use crate::model::{Blob, KEYS, Ledger, OTHERS_FROM, Seen, Slot, TTL_MS, seen, short};
use crate::rng::Rng;
use crate::twin::{Span, StoreTime};

pub(crate) const TTL: Duration = Duration::from_secs(30_000);
const BUCKET: Duration = Duration::from_secs(1_000);
pub(crate) const LEASE_MS: i64 = 500_000;
/// So long that real time plays no part.
const BUFFERED: Durability = Durability::Buffered { sync_every: Duration::from_secs(3_600) };

/// What a seed chooses once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) durability: Durability,
    pub(crate) background: Background,
    pub(crate) policy: OrphanPolicy,
    pub(crate) budget: Option<u64>,
}

impl Setting {
    pub(crate) fn draw(rng: &mut Rng) -> Setting {
        Setting {
            durability: if rng.below(2) == 0 { Durability::Synced } else { BUFFERED },
            background: [Background::Inline, Background::Stepped][rng.below(2) as usize],
            policy: [OrphanPolicy::Report, OrphanPolicy::Rerun][rng.below(2) as usize],
            budget: (rng.below(8) == 0).then_some(256 * 1024),
        }
    }

    pub(crate) fn options(&self, clock: &ManualClock) -> Options {
        let options = Store::options()
            .segment_bytes(64 * 1024)
            .ttl(TTL)
            .bucket(BUCKET)
            .lease(Duration::from_millis(LEASE_MS.unsigned_abs()))
            .background(self.background)
            .on_orphan(self.policy)
            .durability(self.durability)
            .clock(clock.clone());
        match self.budget {
            Some(bytes) => options.disk_budget_bytes(bytes),
            None => options,
        }
    }
}

/// A claim that is open in this process.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) attempt: usize,
    pub(crate) phase: Phase,
    pub(crate) deadline: i64,
    /// Its permit lives.
    pub(crate) permit: bool,
    /// When the permit was last seen alive.
    pub(crate) alive: Span,
    pub(crate) ended: Option<OrphanCause>,
    /// How the attempt before ended.
    pub(crate) cause: Option<OrphanCause>,
    /// The checkpoint as callers see it.
    pub(crate) checkpoint: Option<Blob>,
    /// It was past when the store was opened, so nobody can say that it is there.
    pub(crate) unseen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Staged,
    Open,
    Ending,
}

impl Open {
    pub(crate) fn is_orphan(&self) -> bool {
        self.phase == Phase::Open && self.ended.is_some()
    }
}

/// What is published once a record is durable.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Open { abandoned: bool },
    Gone,
    Checkpoint(Blob),
    GivenUp,
}

#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) id: u64,
    pub(crate) key: usize,
    pub(crate) attempt: usize,
    pub(crate) effect: Effect,
}

pub(crate) struct Held {
    pub(crate) key: usize,
    pub(crate) attempt: usize,
    pub(crate) permit: Permit,
}

pub(crate) struct Found {
    pub(crate) key: usize,
    pub(crate) attempt: usize,
    pub(crate) orphan: Orphan,
}

pub(crate) enum Begun {
    Claim(ClaimFuture),
    Complete(CompleteFuture),
    End(EndFuture),
}

/// How far a future has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    New,
    Waiting,
    Staged { id: u64, attempt: usize },
}

pub(crate) struct Pending {
    pub(crate) key: usize,
    pub(crate) fingerprint: u8,
    pub(crate) stage: Stage,
    pub(crate) future: Begun,
}

/// What was counted over many lives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) crashes: u64,
    pub(crate) recoveries_cut: u64,
    pub(crate) faults: u64,
    pub(crate) damages: u64,
    pub(crate) grants: u64,
    pub(crate) take_overs: u64,
    pub(crate) dropped_segments: u64,
    pub(crate) corrupt: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.calls += other.calls;
        self.crashes += other.crashes;
        self.recoveries_cut += other.recoveries_cut;
        self.faults += other.faults;
        self.damages += other.damages;
        self.grants += other.grants;
        self.take_overs += other.take_overs;
        self.dropped_segments += other.dropped_segments;
        self.corrupt += other.corrupt;
    }
}

pub(crate) struct Life {
    pub(crate) rng: Rng,
    pub(crate) setting: Setting,
    pub(crate) disk: SimDisk,
    pub(crate) clock: ManualClock,
    pub(crate) time: StoreTime,
    pub(crate) ledger: Ledger,
    pub(crate) store: Option<Store>,
    pub(crate) open: BTreeMap<usize, Open>,
    pub(crate) permits: Vec<Held>,
    pub(crate) orphans: Vec<Found>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) staged: VecDeque<Staged>,
    pub(crate) ids: u64,
    pub(crate) limited: bool,
    pub(crate) counts: Counts,
    /// What happened, where somebody wants to read it.
    pub(crate) trace: Option<Vec<String>>,
}

pub(crate) fn organization(key: usize) -> &'static str {
    if key < OTHERS_FROM { "acme" } else { "zeta" }
}

pub(crate) fn with_scope<T>(key: usize, call: impl FnOnce(Scope<'_>) -> T) -> T {
    let name = format!("key-{key}");
    let organization = organization(key);
    call(Scope { organization, method: "POST", path: "/v1/contacts", key: &name })
}

pub(crate) fn fingerprint(key: usize, which: u8) -> Fingerprint {
    Fingerprint::of(&[which, key as u8])
}

pub(crate) fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

impl Life {
    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let what = what();
            // Kept, to compare runs; printed, since a run that fails returns nothing.
            println!("{what}");
            trace.push(what);
        }
    }

    pub(crate) fn store(&self) -> Store {
        self.store.clone().expect("a life has an open store")
    }

    /// Something was made to fail, so that this life is at its end.
    pub(crate) fn is_broken(&self) -> bool {
        self.disk.is_off() || self.disk.faults() > 0
    }

    /// What an operation may be refused, without harm.
    pub(crate) fn is_refusal(error: &Error) -> bool {
        matches!(error, Error::Full { .. })
    }

    /// Fails the run unless something was made to fail.
    pub(crate) fn excuse(&self, call: &str, error: &Error) {
        assert!(self.is_broken(), "{call} failed where nothing was made to fail: {error}");
    }

    pub(crate) fn is_buffered(&self) -> bool {
        self.setting.durability != Durability::Synced
    }

    /// A record was staged; who waits for it is told when it is published.
    pub(crate) fn stage(&mut self, staged: Staged, blocking: Blocking) {
        if self.is_buffered() {
            self.publish(&staged);
            return;
        }
        self.staged.push_back(staged);
        if blocking == Blocking::Yes || self.setting.background == Background::Inline {
            self.commit();
        }
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Everything that was staged is durable, and published in its order.
    pub(crate) fn commit(&mut self) {
        loop {
            if self.is_buffered() && self.staged.is_empty() {
                return;
            }
            self.ledger.all_durable();
            for staged in std::mem::take(&mut self.staged) {
                self.publish(&staged);
            }
            // What was staged by the publication itself waits for the next call that commits.
            if self.staged.is_empty() || self.setting.background == Background::Stepped {
                return;
            }
        }
    }

    pub(crate) fn is_published(&self, id: u64) -> bool {
        self.staged.iter().all(|staged| staged.id != id)
    }

    fn publish(&mut self, staged: &Staged) {
        let Staged { key, attempt, .. } = *staged;
        let deadline = self.time.monotonic() + LEASE_MS;
        let Some(open) = self.open.get_mut(&key).filter(|open| open.attempt == attempt) else {
            return;
        };
        match &staged.effect {
            Effect::Open { abandoned } => {
                (open.phase, open.deadline) = (Phase::Open, deadline);
                if *abandoned {
                    self.release_unrun(key, attempt);
                }
            }
            Effect::Gone => {
                self.open.remove(&key);
            }
            Effect::Checkpoint(blob) => open.checkpoint = Some(*blob),
            Effect::GivenUp => open.phase = Phase::Open,
        }
    }

    /// A grant that nobody took: a first attempt is released, a later one an orphan as before.
    pub(crate) fn release_unrun(&mut self, key: usize, attempt: usize) {
        let latest = self.time.latest;
        let Some(open) = self.open.get_mut(&key).filter(|open| open.attempt == attempt) else {
            return;
        };
        open.permit = false;
        open.alive = latest;
        if self.ledger.attempts[attempt].number > 1 {
            open.ended = open.ended.or(open.cause);
            return;
        }
        open.phase = Phase::Ending;
        self.ledger.stage(key, Slot::Free, self.time.now);
        let id = self.next_id();
        let effect = Effect::Gone;
        let staged = Staged { id, key, attempt, effect };
        // A publication is under way, or the caller does not wait.
        if self.is_buffered() {
            self.publish(&staged);
        } else {
            self.staged.push_back(staged);
        }
    }

    /// The permit of an attempt is gone.
    pub(crate) fn dropped(&mut self, key: usize, attempt: usize) {
        let latest = self.time.latest;
        let Some(open) = self.open.get_mut(&key).filter(|open| open.attempt == attempt) else {
            return;
        };
        if std::mem::take(&mut open.permit) {
            open.alive = latest;
            if open.phase == Phase::Open && open.ended.is_none() {
                open.ended = Some(OrphanCause::Dropped);
            }
        }
    }

    /// From when on nobody can see the orphan of this key any more.
    pub(crate) fn orphan_until(&self, key: usize, open: &Open) -> Span {
        let Slot::Open { attempted, .. } = &self.ledger.world()[key] else {
            panic!("key {key} is open and its slot is not")
        };
        attempted.max(open.alive).plus(TTL_MS)
    }

    /// Leases whose time is over, once the clock was moved.
    pub(crate) fn lapse(&mut self) {
        let (monotonic, latest) = (self.time.monotonic(), self.time.latest);
        for open in self.open.values_mut() {
            let runs = open.phase == Phase::Open && open.ended.is_none();
            if runs && monotonic >= open.deadline {
                (open.ended, open.alive) = (Some(OrphanCause::LeaseLapsed), latest);
            }
        }
    }

    /// The clock was moved: the store looks at it, and so does the model.
    pub(crate) fn look_at_the_clock(&mut self) {
        let held = self.store().stats().clock_held;
        self.time.read();
        let Span { lo, hi } = self.time.now;
        if lo == hi && self.time.latest.lo == self.time.latest.hi {
            assert_eq!(held, self.time.latest.lo != lo, "whether a jump is held");
        }
        self.lapse();
    }

    /// Whether this is what the store has to show of a key now.
    pub(crate) fn is_right(&self, key: usize, seen: &Seen) -> bool {
        let now = self.time.now;
        let Some(open) = self.open.get(&key) else {
            return self.ledger.shows(&self.ledger.world()[key], seen, now);
        };
        let known = &self.ledger.attempts[open.attempt];
        if !open.is_orphan() {
            let Seen::Running { token } = seen else { return false };
            return known.token.is_none_or(|known| known == *token);
        }
        let until = self.orphan_until(key, open);
        match seen {
            Seen::Absent => !open.permit && until.may_be_past(now),
            Seen::Orphan(orphan) => {
                known.token.is_none_or(|known| known == orphan.token)
                    && known.number == orphan.number
                    && open.ended == Some(orphan.cause)
                    && open.checkpoint.map(Blob::bytes) == orphan.checkpoint
                    && (open.permit || !until.is_past(now))
            }
            _ => false,
        }
    }

    pub(crate) fn look_up(&self, key: usize) -> Result<Seen, Error> {
        seen(with_scope(key, |scope| self.store().lookup(scope)))
    }

    /// Looks at some keys, or at all.
    pub(crate) fn check(&mut self, keys: std::ops::Range<usize>) {
        for key in keys {
            match self.look_up(key) {
                Ok(seen) => assert!(
                    self.is_right(key, &seen),
                    "key {key} shows {}\nexpected {:?} {:?} at {:?}",
                    short(&seen),
                    self.ledger.world()[key],
                    self.open.get(&key),
                    self.time.now
                ),
                Err(error) => self.excuse("a lookup", &error),
            }
        }
    }

    /// The orphans that the store lists are those that lookups show.
    pub(crate) fn check_unresolved(&mut self) {
        let listed = self.store().unresolved().expect("a list needs no I/O");
        let listed: Vec<u64> = listed.iter().map(|orphan| orphan.token().get()).collect();
        let mut shown: Vec<u64> = Vec::new();
        for key in 0..KEYS {
            if let Ok(Seen::Orphan(orphan)) = self.look_up(key) {
                shown.push(orphan.token.get());
            }
        }
        let sorted = |mut tokens: Vec<u64>| {
            tokens.sort_unstable();
            tokens
        };
        assert_eq!(sorted(listed), sorted(shown), "the list of orphans");
    }

    /// The process is gone, without a close.
    pub(crate) fn forget_process(&mut self) {
        self.pending.clear();
        self.permits.clear();
        self.orphans.clear();
        self.staged.clear();
        self.open.clear();
        self.store = None;
    }

    pub(crate) fn open_store(&mut self) -> Result<(), Error> {
        let options = self.setting.options(&self.clock);
        self.store = Some(options.open_on(Arc::new(self.disk.clone()))?);
        Ok(())
    }
}

/// Whether the caller waits, and so commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocking {
    Yes,
    No,
}
