//! What the children were promised, and whether a store keeps it.
//!
//! Under `Synced` every acknowledged operation survives a power cut. Under `Buffered` some may be
//! lost, but they are a suffix of the log, and one of at most `sync_every`: no operation that was
//! acknowledged began more than that after the first lost one had been acknowledged.

use std::collections::{BTreeMap, HashSet};

use oncelog::{Claim, OperationId, OrphanCause, Status, Store, Token};

use crate::keys::{Plan, checkpoint, fingerprint, plan, response, scope};
use crate::rng::Rng;

/// When an acknowledged call began and returned, in microseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    begun: u64,
    told: u64,
}

/// What a child was told of a key last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Claimed,
    /// It was about to end the claim, and not told that it had.
    Ending,
    Done,
    Freed,
    /// It was lost, with all that was told of it, as `Buffered` may.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    told: Told,
    token: Token,
    operation: OperationId,
    claim: Option<Span>,
    save: Option<Span>,
    end: Option<Span>,
    /// The child was told that the response had been left out.
    without_response: bool,
}

/// What the store answers for a key.
#[derive(Debug)]
enum Found {
    Free,
    Open {
        token: Token,
        operation: OperationId,
        saved: Option<Vec<u8>>,
    },
    /// `None`: it completed, and there was no room for its response.
    Done {
        token: Token,
        operation: OperationId,
        bytes: Option<Vec<u8>>,
    },
}

fn look(store: &Store, key: &str) -> Result<Found, String> {
    let text = |error| format!("{key}: {error}");
    if store.lookup(scope(key)).map_err(text)?.is_none() {
        return Ok(Found::Free);
    }
    // Claimed, not only looked up: a key that was granted must not be granted again.
    match store.claim(scope(key), fingerprint(key)).map_err(text)? {
        Claim::Orphaned(orphan) => Ok(Found::Open {
            token: orphan.info().token(),
            operation: orphan.info().operation(),
            saved: orphan.info().checkpoint().map(<[u8]>::to_vec),
        }),
        Claim::Replay(stored) => Ok(Found::Done {
            token: stored.token(),
            operation: stored.operation(),
            bytes: stored.bytes().map(<[u8]>::to_vec),
        }),
        other => Err(format!("{key}: {other:?}")),
    }
}

/// What became of the operations of a key.
#[derive(Debug)]
struct Verdict {
    now: Told,
    survived: Vec<Span>,
    lost: Vec<Span>,
}

/// What is known of a key from now on, unless what is found can never be.
fn judge(key: &str, entry: &Entry, found: &Found) -> Result<Verdict, String> {
    let same = |token: &Token, operation: &OperationId| {
        (*token, *operation) == (entry.token, entry.operation)
    };
    let wrong = || Err(format!("{key} was told {entry:?}, found {found:?}"));
    let ending = |by| entry.told == Told::Ending && plan(key) == by;
    let verdict = |now, survived: &[Option<Span>], lost: &[Option<Span>]| {
        let spans = |spans: &[Option<Span>]| spans.iter().flatten().copied().collect();
        Ok(Verdict { now, survived: spans(survived), lost: spans(lost) })
    };
    match found {
        Found::Open { token, operation, saved } => {
            let as_saved = saved.as_ref().is_none_or(|saved| *saved == checkpoint(key));
            match (entry.told, saved) {
                _ if !same(token, operation) || !as_saved => wrong(),
                (Told::Lost, _) => wrong(),
                (_, Some(_)) => verdict(Told::Claimed, &[entry.claim, entry.save], &[entry.end]),
                (_, None) => verdict(Told::Claimed, &[entry.claim], &[entry.save, entry.end]),
            }
        }
        Found::Done { token, operation, bytes } => match entry.told {
            _ if !same(token, operation) => wrong(),
            _ if bytes.as_ref().is_some_and(|bytes| *bytes != response(key)) => wrong(),
            Told::Done if bytes.is_none() != entry.without_response => wrong(),
            Told::Done => verdict(Told::Done, &[entry.claim, entry.end], &[]),
            Told::Ending if ending(Plan::Complete) => verdict(Told::Done, &[entry.claim], &[]),
            _ => wrong(),
        },
        Found::Free => match entry.told {
            // A claim that is lost looks like one that was released.
            Told::Freed => verdict(Told::Freed, &[], &[]),
            Told::Ending if ending(Plan::Release) => verdict(Told::Freed, &[], &[]),
            Told::Lost => verdict(Told::Lost, &[], &[]),
            _ => verdict(Told::Lost, &[], &[entry.claim, entry.save, entry.end]),
        },
    }
}

/// How much a power cut may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Allowed {
    Nothing,
    /// A suffix of the log, acknowledged within so many microseconds.
    Suffix(u64),
}

/// Everything that the children were promised by one store.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    keys: BTreeMap<String, Entry>,
    /// Keys that were told of since the last check.
    fresh: HashSet<String>,
    operations: HashSet<OperationId>,
    tokens: HashSet<Token>,
    /// The newest token before the last check.
    token_floor: u64,
    pub(crate) counts: Counts,
}

/// What a job prints.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) claims: u64,
    pub(crate) responses: u64,
    pub(crate) without_response: u64,
    pub(crate) releases: u64,
    pub(crate) saves: u64,
    /// Claims that were durable before their child was told.
    pub(crate) unacknowledged: u64,
    pub(crate) ends_in_doubt: u64,
    pub(crate) told_after_cut: u64,
    /// Acknowledged operations that a buffered store lost, and the longest suffix of them.
    pub(crate) lost: u64,
    pub(crate) lost_us_max: u64,
}

impl Ledger {
    /// A ledger for another store, which may issue the same tokens but not the same operation ids.
    pub(crate) fn for_another_store(self) -> Ledger {
        Ledger { operations: self.operations, counts: self.counts, ..Ledger::default() }
    }

    /// Takes in a line of the protocol; `false` for one that promises nothing.
    pub(crate) fn hear(&mut self, line: &str) -> Result<bool, String> {
        let span = |begun: &str, told: &str| {
            let number = |text: &str| text.parse().map_err(|error| format!("{line}: {error}"));
            Ok::<_, String>(Some(Span { begun: number(begun)?, told: number(told)? }))
        };
        match *line.split(' ').collect::<Vec<_>>() {
            ["C", key, token, operation, begun, told] => {
                let token = token.parse().map_err(|error| format!("{line}: {error}"))?;
                let operation = operation.parse().map_err(|error| format!("{line}: {error}"))?;
                self.counts.claims += 1;
                self.claimed(key, token, operation, span(begun, told)?)?;
            }
            ["S", key, begun, told] => {
                self.counts.saves += 1;
                let span = span(begun, told)?;
                self.told(key, Told::Claimed, Told::Claimed)?.save = span;
            }
            ["I", key] => {
                self.told(key, Told::Claimed, Told::Ending)?;
                return Ok(false);
            }
            ["D", key, begun, told] => {
                self.counts.responses += 1;
                let span = span(begun, told)?;
                self.told(key, Told::Ending, Told::Done)?.end = span;
            }
            ["N", key, begun, told] => {
                self.counts.without_response += 1;
                let span = span(begun, told)?;
                let entry = self.told(key, Told::Ending, Told::Done)?;
                (entry.end, entry.without_response) = (span, true);
            }
            ["R", key, begun, told] => {
                self.counts.releases += 1;
                let span = span(begun, told)?;
                self.told(key, Told::Ending, Told::Freed)?.end = span;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn told(&mut self, key: &str, before: Told, after: Told) -> Result<&mut Entry, String> {
        let entry = self.keys.get_mut(key).filter(|entry| entry.told == before);
        let entry = entry.ok_or_else(|| format!("{key}: {after:?} without {before:?}"))?;
        entry.told = after;
        Ok(entry)
    }

    fn claimed(
        &mut self,
        key: &str,
        token: Token,
        operation: OperationId,
        claim: Option<Span>,
    ) -> Result<(), String> {
        if token.get() <= self.token_floor || !self.tokens.insert(token) {
            return Err(format!("{key}: token {token} again, or below {}", self.token_floor));
        }
        if !self.operations.insert(operation) {
            return Err(format!("{key}: operation {operation} was issued before"));
        }
        let (told, save, end, without_response) = (Told::Claimed, None, None, false);
        let entry = Entry { told, token, operation, claim, save, end, without_response };
        self.fresh.insert(key.to_owned());
        match self.keys.insert(key.to_owned(), entry) {
            Some(before) if before.told != Told::Lost => {
                Err(format!("{key} was granted twice: {before:?}, {entry:?}"))
            }
            _ => Ok(()),
        }
    }

    /// What was told after the power was gone is in doubt: no caller was there to hear it. The
    /// process of a simulated cut goes on, and a sync that was under way can seem to succeed:
    /// ext4 forgets the transaction that it waits for.
    pub(crate) fn cut_at(&mut self, cut: u64) {
        for key in &self.fresh {
            let entry = self.keys.get_mut(key).expect("a fresh key was told of");
            for span in [&mut entry.claim, &mut entry.save, &mut entry.end] {
                if span.is_some_and(|span| span.told > cut) {
                    self.counts.told_after_cut += 1;
                    *span = None;
                }
            }
        }
    }

    /// Holds a store that was opened again to what was heard since the last check, and makes
    /// certain what was in doubt.
    pub(crate) fn check_fresh(&mut self, store: &Store, allowed: Allowed) -> Result<(), String> {
        self.find_unacknowledged(store)?;
        let (mut survived, mut lost, mut acknowledged) = (Vec::new(), Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.fresh) {
            let entry = self.keys.get_mut(&key).expect("a fresh key was told of");
            self.counts.ends_in_doubt += u64::from(entry.told == Told::Ending);
            acknowledged.extend([entry.claim, entry.save, entry.end].into_iter().flatten());
            let found = look(store, &key)?;
            let verdict = judge(&key, entry, &found)?;
            entry.without_response = matches!(found, Found::Done { bytes: None, .. });
            if let (Allowed::Nothing, false) = (allowed, verdict.lost.is_empty()) {
                return Err(format!("{key} was told {entry:?}, found {verdict:?}"));
            }
            (entry.told, entry.claim, entry.save, entry.end) = (verdict.now, None, None, None);
            survived.extend(verdict.survived);
            lost.extend(verdict.lost);
        }
        if let Allowed::Suffix(limit) = allowed {
            self.check_suffix(&survived, &lost, &acknowledged, limit)?;
        }
        let newest = self.tokens.drain().map(Token::get).max();
        self.token_floor = newest.unwrap_or(0).max(self.token_floor);
        Ok(())
    }

    fn check_suffix(
        &mut self,
        survived: &[Span],
        lost: &[Span],
        acknowledged: &[Span],
        limit: u64,
    ) -> Result<(), String> {
        // Where one call began after the other had returned, so do their records in the log.
        let Some(first_lost) = lost.iter().map(|span| span.told).min() else { return Ok(()) };
        if let Some(span) = survived.iter().find(|span| span.begun > first_lost) {
            return Err(format!("a hole: lost at {first_lost} us, yet {span:?} survived"));
        }
        let newest = acknowledged.iter().map(|span| span.begun).max().unwrap_or(0);
        let suffix = newest.saturating_sub(first_lost);
        self.counts.lost += lost.len() as u64;
        self.counts.lost_us_max = self.counts.lost_us_max.max(suffix);
        if suffix > limit {
            return Err(format!("{suffix} us of acknowledged work are lost, not {limit}"));
        }
        Ok(())
    }

    /// Claims that were durable before their child was told.
    fn find_unacknowledged(&mut self, store: &Store) -> Result<(), String> {
        for orphan in store.unresolved().map_err(|error| error.to_string())? {
            if orphan.cause() != OrphanCause::Crash {
                return Err(format!("an orphan of another cause: {orphan:?}"));
            }
            if !self.keys.contains_key(orphan.key()) {
                self.counts.unacknowledged += 1;
                self.claimed(orphan.key(), orphan.token(), orphan.operation(), None)?;
            }
        }
        Ok(())
    }

    /// Holds the store to some of what was certain before.
    pub(crate) fn check_some(&self, store: &Store, rng: &mut Rng) -> Result<(), String> {
        const SOME: u64 = 64;
        let step = self.keys.len() as u64 / SOME + 1;
        let from = rng.below(step) as usize;
        for (key, entry) in self.keys.iter().skip(from).step_by(step as usize) {
            check_certain(store, key, entry)?;
        }
        Ok(())
    }

    /// Holds the store to everything.
    pub(crate) fn check_all(&self, store: &Store) -> Result<(), String> {
        self.keys.iter().try_for_each(|(key, entry)| check_certain(store, key, entry))
    }

    /// Holds the store to nothing else.
    pub(crate) fn check_totals(&self, store: &Store) -> Result<(), String> {
        let count = |told| self.keys.values().filter(|entry| entry.told == told).count() as u64;
        let stats = store.stats();
        let held = (stats.responses, stats.orphans, stats.in_flight);
        let told = (count(Told::Done), count(Told::Claimed), 0);
        if held == told { Ok(()) } else { Err(format!("the store holds {held:?}, not {told:?}")) }
    }

    /// Makes room for the open claims of later rounds, which a store bounds.
    pub(crate) fn resolve_all(&mut self, store: &Store) -> Result<(), String> {
        for info in store.unresolved().map_err(|error| error.to_string())? {
            let key = info.key();
            let orphan = store.orphan(scope(key)).map_err(|error| format!("{key}: {error}"))?;
            let orphan = orphan.ok_or_else(|| format!("{key} is no orphan any more"))?;
            orphan.resolve(&response(key)).map_err(|error| format!("{key}: {error}"))?;
            self.told(key, Told::Claimed, Told::Done)?;
        }
        Ok(())
    }
}

/// Holds the store to what was certain of a key.
fn check_certain(store: &Store, key: &str, entry: &Entry) -> Result<(), String> {
    if entry.told == Told::Lost {
        return match store.lookup(scope(key)).map_err(|error| format!("{key}: {error}"))? {
            None => Ok(()),
            Some(status @ (Status::Completed(_) | Status::Orphaned(_) | Status::InProgress(_))) => {
                Err(format!("{key} was lost, and is back: {status:?}"))
            }
        };
    }
    let verdict = judge(key, entry, &look(store, key)?)?;
    if verdict.now == entry.told {
        Ok(())
    } else {
        Err(format!("{key} was {entry:?}, and is {verdict:?}"))
    }
}
