//! A caller who makes random calls on a few scopes and writes down what came of them.

use std::sync::atomic::{AtomicU64, Ordering};

use oncelog::{Claim, Error, Fingerprint, Orphan, Permit, Scope, Status, Store};

use crate::support::history::{Attempt, Call, Event, Outcome};

/// Orders the starts and returns of all callers.
#[derive(Default)]
pub(crate) struct Order(AtomicU64);

impl Order {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

pub(crate) struct Caller<'a> {
    store: &'a Store,
    order: &'a Order,
    /// The keys of the scopes.
    keys: &'a [String],
    seed: u64,
    permits: Vec<(usize, Permit)>,
    orphans: Vec<(usize, Orphan)>,
    /// By scope.
    history: Vec<Vec<Event>>,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(
        store: &'a Store,
        order: &'a Order,
        keys: &'a [String],
        seed: u64,
    ) -> Caller<'a> {
        let history = vec![Vec::new(); keys.len()];
        Caller { store, order, keys, seed, permits: Vec::new(), orphans: Vec::new(), history }
    }

    /// One step of splitmix64.
    fn draw(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).expect("below a usize")
    }

    /// Drops the permits that are left, and says what it saw, scope by scope.
    pub(crate) fn history(mut self) -> Vec<Vec<Event>> {
        for (scope, permit) in std::mem::take(&mut self.permits) {
            self.drop_permit(scope, permit);
        }
        self.history
    }

    fn drop_permit(&mut self, scope: usize, permit: Permit) {
        self.record(scope, Call::Drop { token: permit.token().get() }, |_| {
            drop(permit);
            Outcome::Ended
        });
    }

    fn record(&mut self, scope: usize, call: Call, make: impl FnOnce(&mut Self) -> Outcome) {
        let started = self.order.next();
        let outcome = make(self);
        let returned = self.order.next();
        self.history[scope].push(Event { started, returned, call, outcome });
    }

    /// Makes one call: mostly with what earlier calls have brought.
    pub(crate) fn call(&mut self) {
        let choice = self.draw(10);
        if choice < 5
            && let Some((scope, permit)) = self.permits.pop()
        {
            return self.end(scope, permit);
        }
        if choice < 7
            && let Some((scope, orphan)) = self.orphans.pop()
        {
            return self.settle(scope, orphan);
        }
        let scope = self.draw(self.keys.len());
        if choice == 9 {
            return self.record(scope, Call::Lookup, |caller| {
                match caller.store.lookup(caller.scope(scope)).expect("a sound store") {
                    None => Outcome::Absent,
                    Some(Status::InProgress(of)) => Outcome::InProgress { token: of.token().get() },
                    Some(Status::Orphaned(of)) => Outcome::Orphaned { token: of.token().get() },
                    Some(Status::Completed(stored)) => replay(&stored),
                }
            });
        }
        let fingerprint = u8::from(self.draw(8) == 0);
        self.record(scope, Call::Claim { fingerprint }, |caller| {
            let of = Fingerprint::from_bytes([fingerprint; 16]);
            let claim = caller.store.claim(caller.scope(scope), of);
            caller.claimed(scope, claim.expect("a sound store"))
        });
    }

    fn scope(&self, scope: usize) -> Scope<'a> {
        Scope { organization: "", method: "POST", path: "/", key: &self.keys[scope] }
    }

    fn claimed(&mut self, scope: usize, claim: Claim) -> Outcome {
        match claim {
            Claim::Granted(permit) => {
                let attempt = Attempt {
                    token: permit.token().get(),
                    operation: permit.operation().to_bytes(),
                    number: permit.attempt(),
                    fingerprint: permit.fingerprint().to_bytes()[0],
                };
                self.permits.push((scope, permit));
                Outcome::Granted(attempt)
            }
            Claim::Replay(stored) => replay(&stored),
            Claim::InProgress(of) => Outcome::InProgress { token: of.token().get() },
            Claim::Conflict(_) => Outcome::Conflict,
            Claim::Orphaned(orphan) => {
                let token = orphan.info().token().get();
                self.orphans.push((scope, orphan));
                Outcome::Orphaned { token }
            }
        }
    }

    fn end(&mut self, scope: usize, permit: Permit) {
        let token = permit.token().get();
        match self.draw(4) {
            0 => {
                let response = self.seed;
                self.record(scope, Call::Complete { token, response }, |_| {
                    ended(permit.complete(&response.to_le_bytes()).map(|_| ()))
                });
            }
            1 => self.record(scope, Call::Release { token }, |_| ended(permit.release())),
            2 => self.record(scope, Call::GiveUp { token }, |_| ended(permit.give_up())),
            _ => self.drop_permit(scope, permit),
        }
    }

    fn settle(&mut self, scope: usize, orphan: Orphan) {
        let token = orphan.info().token().get();
        match self.draw(3) {
            0 => {
                let response = self.seed;
                self.record(scope, Call::Complete { token, response }, |_| {
                    ended(orphan.resolve(&response.to_le_bytes()).map(|_| ()))
                });
            }
            1 => self.record(scope, Call::Release { token }, |_| ended(orphan.release())),
            _ => self.record(scope, Call::TakeOver { token }, |caller| match orphan.take_over() {
                Ok(claim) => caller.claimed(scope, claim),
                Err(error) => ended(Err(error)),
            }),
        }
    }
}

fn ended(outcome: Result<(), Error>) -> Outcome {
    match outcome {
        Ok(()) => Outcome::Ended,
        Err(Error::Superseded) => Outcome::Superseded,
        Err(error) => panic!("a sound store refused: {error}"),
    }
}

fn replay(stored: &oncelog::Stored) -> Outcome {
    let bytes = stored.bytes().expect("responses are small").try_into().expect("8 bytes");
    Outcome::Replay { token: stored.token().get(), response: u64::from_le_bytes(bytes) }
}
