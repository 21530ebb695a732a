//! Whether what callers saw of a scope could have happened one call after the other.
//!
//! A call takes effect at a point between its start and its return. The search tries the calls that
//! nothing has to precede, in every order, and remembers where it has been (Wing and Gong, "Testing
//! and verifying concurrent objects", 1993; Lowe, "Testing for linearizability", 2017). Scopes are
//! independent, so each has a history of its own.
//!
//! The end of a claim has two points: from the first on it is ending, which everybody but its
//! caller sees as in progress; at the second it is over.

use std::collections::HashSet;

/// The state of a scope, as the contract has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Status {
    Free,
    Running(Attempt),
    Ending(Attempt),
    Orphan(Attempt),
    Done(Attempt, u64),
}

/// What is known of an attempt: token, operation, number, and the request's fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Attempt {
    pub(crate) token: u64,
    pub(crate) operation: [u8; 16],
    pub(crate) number: u32,
    pub(crate) fingerprint: u8,
}

/// A call, by what it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Claim {
        fingerprint: u8,
    },
    Lookup,
    /// By the permit of this token, or by whoever found its orphan.
    Complete {
        token: u64,
        response: u64,
    },
    Release {
        token: u64,
    },
    GiveUp {
        token: u64,
    },
    /// The permit is dropped.
    Drop {
        token: u64,
    },
    TakeOver {
        token: u64,
    },
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Granted(Attempt),
    Replay {
        token: u64,
        response: u64,
    },
    InProgress {
        token: u64,
    },
    Conflict,
    Orphaned {
        token: u64,
    },
    /// A lookup found nothing.
    Absent,
    Ended,
    Superseded,
}

/// One call of one caller; the numbers order all starts and returns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) started: u64,
    pub(crate) returned: u64,
    pub(crate) call: Call,
    pub(crate) outcome: Outcome,
}

/// A point at which a call takes effect.
#[derive(Clone, Copy, Debug)]
struct Point {
    event: Event,
    half: Half,
    /// The point that has to come first.
    after: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Scope {
    status: Status,
    token_max: u64,
}

/// Whether there is an order in which each call has its outcome.
pub(crate) fn is_linearizable(history: &[Event]) -> bool {
    let mut points = Vec::new();
    for &event in history {
        let first = points.len();
        points.push(Point { event, half: Half::First, after: None });
        if event.outcome == Outcome::Ended && !matches!(event.call, Call::Drop { .. }) {
            points.push(Point { event, half: Half::Second, after: Some(first) });
        }
    }
    let start = Scope { status: Status::Free, token_max: 0 };
    let mut seen = HashSet::new();
    let mut stack = vec![(vec![false; points.len()], start)];
    while let Some((done, scope)) = stack.pop() {
        let left = || (0..points.len()).filter(|&at| !done[at]);
        // Whoever starts after another has returned comes after it.
        let Some(first_return) = left().map(|at| points[at].event.returned).min() else {
            return true;
        };
        for at in left() {
            let Point { event, half, after } = points[at];
            let possible = event.started <= first_return && after.is_none_or(|after| done[after]);
            if let Some(next) = possible.then(|| scope.step(&event, half)).flatten() {
                let mut done = done.clone();
                done[at] = true;
                if seen.insert((done.clone(), next.clone())) {
                    stack.push((done, next));
                }
            }
        }
    }
    false
}

impl Scope {
    /// The state after a point of a call; `None` where it cannot have had its outcome here.
    fn step(&self, event: &Event, half: Half) -> Option<Scope> {
        let unchanged = Some(self.clone());
        match (event.call, event.outcome) {
            (Call::Claim { fingerprint }, outcome) => self.claim(fingerprint, outcome),
            (Call::Lookup, Outcome::Absent) => unchanged.filter(|_| self.status == Status::Free),
            (Call::Lookup, outcome) => unchanged.filter(|_| self.shows(outcome)),
            (Call::TakeOver { token }, outcome) => self.take_over(token, outcome),
            (Call::Drop { token }, _) => match self.status {
                Status::Running(attempt) if attempt.token == token => {
                    Some(self.with(Status::Orphan(attempt)))
                }
                _ => unchanged,
            },
            (call, Outcome::Ended) => self.end(call, half),
            (call, Outcome::Superseded) => unchanged.filter(|_| !self.can_end(call)),
            _ => None,
        }
    }

    fn with(&self, status: Status) -> Scope {
        Scope { status, token_max: self.token_max }
    }

    /// Whether this is what the scope is to somebody with the same request.
    fn shows(&self, outcome: Outcome) -> bool {
        match (&self.status, outcome) {
            (Status::Running(is) | Status::Ending(is), Outcome::InProgress { token })
            | (Status::Orphan(is), Outcome::Orphaned { token }) => is.token == token,
            (Status::Done(is, kept), Outcome::Replay { token, response }) => {
                (is.token, *kept) == (token, response)
            }
            _ => false,
        }
    }

    fn fingerprint(&self) -> Option<u8> {
        match self.status {
            Status::Free => None,
            Status::Running(is) | Status::Ending(is) | Status::Orphan(is) | Status::Done(is, _) => {
                Some(is.fingerprint)
            }
        }
    }

    fn claim(&self, fingerprint: u8, outcome: Outcome) -> Option<Scope> {
        match (self.fingerprint(), outcome) {
            (None, Outcome::Granted(attempt)) => {
                let first = attempt.number == 1 && attempt.fingerprint == fingerprint;
                (first && attempt.token > self.token_max).then(|| self.granted(attempt))
            }
            (Some(other), Outcome::Conflict) => (other != fingerprint).then(|| self.clone()),
            (Some(same), outcome) => {
                (same == fingerprint && self.shows(outcome)).then(|| self.clone())
            }
            (None, _) => None,
        }
    }

    fn granted(&self, attempt: Attempt) -> Scope {
        Scope { status: Status::Running(attempt), token_max: attempt.token }
    }

    fn take_over(&self, token: u64, outcome: Outcome) -> Option<Scope> {
        match (&self.status, outcome) {
            (Status::Orphan(is), Outcome::Granted(attempt)) if is.token == token => {
                let next = Attempt { token: attempt.token, number: is.number + 1, ..*is };
                (next == attempt && attempt.token > self.token_max).then(|| self.granted(attempt))
            }
            (Status::Free, Outcome::Superseded) => Some(self.clone()),
            (Status::Orphan(is), _) if is.token == token => None,
            // A scope that another request holds by now conflicts.
            (_, Outcome::Conflict) => Some(self.clone()),
            (_, outcome) => self.shows(outcome).then(|| self.clone()),
        }
    }

    /// Whether the attempt that the call names may still be ended by it.
    fn can_end(&self, call: Call) -> bool {
        match (call, &self.status) {
            (
                Call::Complete { token, .. } | Call::Release { token },
                Status::Running(is) | Status::Orphan(is),
            )
            | (Call::GiveUp { token }, Status::Running(is)) => is.token == token,
            _ => false,
        }
    }

    fn end(&self, call: Call, half: Half) -> Option<Scope> {
        if half == Half::First {
            let (Status::Running(is) | Status::Orphan(is)) = self.status else { return None };
            return self.can_end(call).then(|| self.with(Status::Ending(is)));
        }
        let Status::Ending(is) = self.status else { return None };
        match call {
            Call::Complete { token, response } if is.token == token => {
                Some(self.with(Status::Done(is, response)))
            }
            Call::Release { token } if is.token == token => Some(self.with(Status::Free)),
            Call::GiveUp { token } if is.token == token => Some(self.with(Status::Orphan(is))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attempt, Call, Event, Outcome, is_linearizable};

    const FIRST: Attempt = Attempt { token: 5, operation: [1; 16], number: 1, fingerprint: 0 };
    const CLAIM: Call = Call::Claim { fingerprint: 0 };
    const COMPLETE: Call = Call::Complete { token: 5, response: 9 };
    const REPLAY: Outcome = Outcome::Replay { token: 5, response: 9 };
    const RUNS: Outcome = Outcome::InProgress { token: 5 };

    /// A history of calls with their starts and returns.
    fn linearizable(calls: &[(u64, u64, Call, Outcome)]) -> bool {
        let event =
            |&(started, returned, call, outcome)| Event { started, returned, call, outcome };
        is_linearizable(&calls.iter().map(event).collect::<Vec<_>>())
    }

    #[test]
    fn calls_that_overlap_may_take_effect_in_either_order() {
        let granted = (1, 8, CLAIM, Outcome::Granted(FIRST));
        assert!(linearizable(&[granted, (2, 3, CLAIM, RUNS), (4, 5, Call::Lookup, RUNS)]));
        assert!(linearizable(&[granted, (2, 3, Call::Lookup, Outcome::Absent)]));
        let complete = (10, 20, COMPLETE, Outcome::Ended);
        assert!(linearizable(&[granted, complete, (11, 12, CLAIM, RUNS), (13, 14, CLAIM, REPLAY)]));
    }

    #[test]
    fn two_grants_of_one_lifetime_are_rejected() {
        let second = Attempt { token: 6, operation: [2; 16], ..FIRST };
        let grants =
            [(1, 4, CLAIM, Outcome::Granted(FIRST)), (2, 5, CLAIM, Outcome::Granted(second))];
        assert!(!linearizable(&grants));
        let release = (6, 7, Call::Release { token: 5 }, Outcome::Ended);
        assert!(!linearizable(&[grants[0], grants[1], release]), "it came too late");
        let release = (3, 4, Call::Release { token: 5 }, Outcome::Ended);
        assert!(linearizable(&[(1, 2, CLAIM, Outcome::Granted(FIRST)), release, grants[1]]));
    }

    #[test]
    fn a_token_that_falls_is_rejected() {
        let lower = Attempt { token: 4, operation: [2; 16], ..FIRST };
        let release = (3, 4, Call::Release { token: 5 }, Outcome::Ended);
        let granted = (1, 2, CLAIM, Outcome::Granted(FIRST));
        assert!(!linearizable(&[granted, release, (5, 6, CLAIM, Outcome::Granted(lower))]));
    }

    #[test]
    fn a_response_that_is_seen_and_then_not_is_rejected() {
        let granted = (1, 2, CLAIM, Outcome::Granted(FIRST));
        let complete = (3, 9, COMPLETE, Outcome::Ended);
        let seen = (4, 5, Call::Lookup, REPLAY);
        assert!(linearizable(&[granted, complete, seen, (6, 7, Call::Lookup, REPLAY)]));
        assert!(!linearizable(&[granted, complete, seen, (6, 7, Call::Lookup, RUNS)]));
        assert!(!linearizable(&[granted, complete, seen, (6, 7, Call::Lookup, Outcome::Absent)]));
        let wrong = Outcome::Replay { token: 5, response: 8 };
        assert!(!linearizable(&[granted, complete, (10, 11, CLAIM, wrong)]));
        assert!(!linearizable(&[granted, complete, (10, 11, CLAIM, RUNS)]), "it has returned");
    }

    #[test]
    fn an_attempt_that_was_taken_over_and_then_completes_is_rejected() {
        let second = Attempt { token: 6, number: 2, ..FIRST };
        let granted = (1, 2, CLAIM, Outcome::Granted(FIRST));
        let dropped = (3, 4, Call::Drop { token: 5 }, Outcome::Ended);
        let taken = (5, 6, Call::TakeOver { token: 5 }, Outcome::Granted(second));
        let late = |outcome| (7, 8, COMPLETE, outcome);
        assert!(linearizable(&[granted, dropped, taken, late(Outcome::Superseded)]));
        assert!(!linearizable(&[granted, dropped, taken, late(Outcome::Ended)]));
        let other = Attempt { operation: [2; 16], ..second };
        let taken = (5, 6, Call::TakeOver { token: 5 }, Outcome::Granted(other));
        assert!(!linearizable(&[granted, dropped, taken]), "another operation id");
    }
}
