//! Store time against clocks that jump. Follows `src/time.rs`.
//!
//! The monotonic clock is right while a process lives. The wall clock may be set back for good, may
//! be wrong by a long way for less than `HOLD`, and may leap because the machine slept. A response
//! that completes while the wall clock is behind is not judged: the store has only that clock to
//! count its ttl from.

use stateright::{Model, Property};

use crate::rules::{Rule, Without};

pub(crate) const EARLY: &str = "a response lives for its ttl of real time";
pub(crate) const BACKWARDS: &str = "store time never falls below what was stamped";

/// In hours, as everything here.
const TTL: i16 = 3;
/// How long a jump must last before it is believed.
const HOLD: i16 = 2;
/// The longest stop that is believed at open.
const OPEN_BOUND: i16 = 10;
/// How far a clock jumps that is wrong, and how long a machine sleeps.
const FAR: i16 = 20;
const BACK: i16 = -2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TimeBounds {
    pub(crate) hours: i16,
    pub(crate) jumps: u8,
    pub(crate) restarts: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Time {
    pub(crate) most: TimeBounds,
    pub(crate) without: Without,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    used: TimeBounds,
    real: i16,
    /// Since the process began.
    monotonic: i16,
    /// Wall minus real time.
    error: i16,
    /// How long the wall clock has been far ahead.
    ahead_for: i16,
    store: Store,
    /// What the log has on record.
    mark: i16,
    response: Option<Response>,
    /// The response was found absent at this real time.
    absent_at: Option<i16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Response {
    completed: i16,
    expires: i16,
}

/// The fields of `StoreTime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Store {
    high: i16,
    trusted: i16,
    /// Since when, and how far wall time was ahead of the monotonic one then.
    held: Option<(i16, i16)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Hour,
    /// The wall clock is wrong by so much from now on.
    Jump(i16),
    Sleep,
    Complete,
    Restart,
    Accept,
}

impl Store {
    fn resume(wall: i16, mark: i16) -> Store {
        let believed = wall - mark <= OPEN_BOUND;
        let start = if believed { wall.max(mark) } else { mark };
        Store { high: start, trusted: start, held: (!believed).then_some((0, wall)) }
    }

    /// Store time, and the latest time that could be true.
    fn read(&mut self, wall: i16, monotonic: i16, without: &Without) -> (i16, i16) {
        if !without.keeps(Rule::HoldJumps) {
            self.high = self.high.max(wall);
            return (self.high, self.high);
        }
        let offset = wall - monotonic;
        let jumped = offset > self.trusted;
        let same = |held: &(i16, i16)| held.1 == offset || !without.keeps(Rule::EveryJumpIsHeld);
        self.held = self.held.filter(|held| jumped && same(held));
        let since = jumped.then(|| self.held.get_or_insert((monotonic, offset)).0);
        let held = since.is_some_and(|since| monotonic - since < HOLD);
        if jumped && !held {
            self.accept(wall, monotonic);
        }
        let now = if held { monotonic + self.trusted } else { wall };
        self.high = self.high.max(now);
        (self.high, if held { self.high.max(wall) } else { self.high })
    }

    fn accept(&mut self, wall: i16, monotonic: i16) {
        (self.trusted, self.held) = (wall - monotonic, None);
    }
}

impl State {
    fn wall(&self) -> i16 {
        self.real + self.error
    }

    fn read(&mut self, without: &Without) -> (i16, i16) {
        let reading = self.store.read(self.wall(), self.monotonic, without);
        if self.response.is_some_and(|response| reading.0 >= response.expires) {
            self.absent_at.get_or_insert(self.real);
        }
        reading
    }

    fn complete(&mut self, without: &Without) {
        let (now, latest) = self.read(without);
        let from = if without.keeps(Rule::ExpiryFromLatest) { latest } else { now };
        self.mark = self.mark.max(now);
        if self.error >= 0 && self.response.is_none() {
            self.response = Some(Response { completed: self.real, expires: from + TTL });
        }
    }
}

impl Model for Time {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            used: TimeBounds { hours: 0, jumps: 0, restarts: 0 },
            real: 0,
            monotonic: 0,
            error: 0,
            ahead_for: 0,
            store: Store::resume(0, 0),
            mark: 0,
            response: None,
            absent_at: None,
        }]
    }

    fn actions(&self, state: &State, events: &mut Vec<Event>) {
        let (most, used) = (self.most, state.used);
        // A clock that is far ahead is set right before it has been so for `HOLD`.
        let wrong_for_long = state.error > 0 && state.ahead_for + 1 >= HOLD;
        if used.hours < most.hours && !wrong_for_long {
            events.push(Event::Hour);
        }
        if state.error != 0 {
            events.push(Event::Jump(0));
        }
        if used.jumps < most.jumps {
            let jumps = [FAR, BACK].into_iter().filter(|error| *error != state.error);
            events.extend(jumps.map(Event::Jump));
            events.push(Event::Sleep);
        }
        if used.restarts < most.restarts {
            events.push(Event::Restart);
        }
        if state.response.is_none() {
            events.push(Event::Complete);
        }
        // The operator accepts what is true.
        if state.error == 0 && state.store.held.is_some() {
            events.push(Event::Accept);
        }
    }

    fn next_state(&self, last: &State, event: Event) -> Option<State> {
        let mut state = last.clone();
        match event {
            Event::Hour => {
                state.used.hours += 1;
                (state.real, state.monotonic) = (state.real + 1, state.monotonic + 1);
                state.ahead_for += i16::from(state.error > 0);
            }
            Event::Jump(error) => {
                state.used.jumps += u8::from(error != 0);
                (state.error, state.ahead_for) = (error, 0);
            }
            Event::Sleep => {
                state.used.jumps += 1;
                state.real += FAR;
            }
            Event::Complete => state.complete(&self.without),
            Event::Restart => {
                state.used.restarts += 1;
                state.monotonic = 0;
                let mark = if self.without.keeps(Rule::MarkIsKept) { state.mark } else { 0 };
                state.store = Store::resume(state.wall(), mark);
            }
            Event::Accept => state.store.accept(state.wall(), state.monotonic),
        }
        state.read(&self.without);
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(EARLY, |_, state: &State| {
                let Some((response, absent_at)) = state.response.zip(state.absent_at) else {
                    return true;
                };
                absent_at - response.completed >= TTL
            }),
            Property::always(BACKWARDS, |_, state: &State| state.store.high >= state.mark),
        ]
    }
}
