//! Store time: the one time that readers, drops and stamps go by.
//!
//! It is the wall clock, never backwards, and never further ahead of the monotonic clock than a
//! bound, since a clock that jumps forward would expire what it should keep, and an early expiry
//! is a second run. A larger jump is *held*: time goes on at monotonic pace from where the jump
//! began until it has lasted an hour of monotonic time, or an operator accepts it.
//!
//! At open the monotonic clock says nothing about how long the store was shut. A wall clock at
//! most [`open_bound_ms`] past the persisted mark is a stop; one further ahead is held like a jump.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, MS_MAX, duration_ms, duration_ns, real_monotonic, to_ms, to_ns};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// For so long the monotonic clock stands in for the wall clock of the system.
const WALL_FOLLOWED_NS: u64 = 1_000_000;
/// Two readings at most so far apart are of one moment.
const WALL_APART_NS: u64 = 50_000;
/// Half the range away from every moment.
const NEVER_READ: u64 = u64::MAX / 2;

/// How long a jump must last before it is taken for the truth.
const HOLD_MS: u64 = HOUR_MS;

/// How far the wall clock may run ahead of the monotonic one within a process.
fn jump_bound_ms(ttl_ms: u64) -> u64 {
    (ttl_ms / 10).min(HOUR_MS)
}

/// The longest stop that is believed at open: the ttl, or 30 days where that is longer. A week is
/// a holiday; a year is a clock that lost its battery.
pub(crate) fn open_bound_ms(ttl_ms: u64) -> u64 {
    ttl_ms.max(30 * DAY_MS)
}

/// What the clock says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Store time, in milliseconds since 1970.
    pub(crate) now_ms: u64,
    /// The latest time that could be true: differs from `now_ms` only while a jump is held.
    /// Expiries are counted from it, so that accepting the jump later expires nothing early.
    pub(crate) latest_ms: u64,
    /// Monotonic time, by which leases run.
    pub(crate) monotonic: Duration,
    /// Real monotonic time, whatever clock was set.
    pub(crate) real: Duration,
}

impl Reading {
    pub(crate) fn is_held(self) -> bool {
        self.latest_ms != self.now_ms
    }
}

pub(crate) struct StoreTime {
    clock: Arc<dyn Clock>,
    is_system: bool,
    jump_bound_ms: u64,
    /// The highest store time so far.
    high_ms: AtomicU64,
    /// What `state` says, for readers who need nothing else. Written under its lock, `Release`;
    /// read without it, `Acquire`. A reader who sees an old value takes the lock or gets a time
    /// that was right a moment ago.
    trusted_ms: AtomicI64,
    held: AtomicBool,
    /// When the wall clock of the system was last read, and how far it then was ahead of the
    /// monotonic one, in ns. `Relaxed`: a pair that is torn is of two moments, both recent.
    wall_read_ns: AtomicU64,
    wall_ahead_ns: AtomicI64,
    // LOCK: time (a leaf)
    state: Mutex<State>,
}

struct State {
    /// Wall minus monotonic time when the clock was last trusted.
    trusted_ms: i64,
    /// The present jump.
    held: Option<Held>,
}

/// A jump that is not believed yet.
#[derive(Clone, Copy)]
struct Held {
    /// Monotonic time at which it was first seen.
    since_ms: u64,
    /// Wall minus monotonic time then. A clock that moves on from there has jumped again.
    offset_ms: i64,
}

impl StoreTime {
    /// Store time that goes on from `mark_ms`, the highest time that the store has on record; 0
    /// for a new store, whose clock is believed.
    pub(crate) fn resume(clock: Arc<dyn Clock>, ttl_ms: u64, mark_ms: u64) -> StoreTime {
        let (wall, monotonic) = read(&*clock);
        let stop = wall.saturating_sub(mark_ms);
        let believed = mark_ms == 0 || stop <= open_bound_ms(ttl_ms);
        let start = if believed { wall.max(mark_ms) } else { mark_ms };
        let high_ms = AtomicU64::new(start);
        let state = State {
            trusted_ms: offset(start, monotonic),
            held: (!believed)
                .then_some(Held { since_ms: monotonic, offset_ms: offset(wall, monotonic) }),
        };
        StoreTime {
            is_system: clock.is_system(),
            clock,
            jump_bound_ms: jump_bound_ms(ttl_ms),
            high_ms,
            trusted_ms: AtomicI64::new(state.trusted_ms),
            held: AtomicBool::new(!believed),
            wall_read_ns: AtomicU64::new(NEVER_READ),
            wall_ahead_ns: AtomicI64::new(0),
            state: Mutex::new(state),
        }
    }

    /// The wall clock. That of the system is read once a millisecond and followed in between by
    /// the monotonic one, since two readings cost a call more than its lookup in the index.
    fn wall_ms(&self, monotonic: Duration) -> u64 {
        if !self.is_system {
            return to_ms(self.clock.wall());
        }
        let now_ns = duration_ns(monotonic);
        if now_ns.abs_diff(self.wall_read_ns.load(Ordering::Relaxed)) < WALL_FOLLOWED_NS {
            let ahead = self.wall_ahead_ns.load(Ordering::Relaxed);
            return now_ns.saturating_add_signed(ahead) / 1_000_000;
        }
        let wall_ns = to_ns(self.clock.wall());
        // Whoever was stopped between the two readings does not know how far they are apart.
        if duration_ns(self.clock.monotonic()).saturating_sub(now_ns) < WALL_APART_NS {
            let ahead = wall_ns.cast_signed().saturating_sub(now_ns.cast_signed());
            self.wall_ahead_ns.store(ahead, Ordering::Relaxed);
            self.wall_read_ns.store(now_ns, Ordering::Relaxed);
        }
        wall_ns / 1_000_000
    }

    /// Reads the clock and moves store time forward.
    pub(crate) fn read(&self) -> Reading {
        let monotonic = self.clock.monotonic();
        let wall = self.wall_ms(monotonic);
        let ahead = offset(wall, duration_ms(monotonic))
            .saturating_sub(self.trusted_ms.load(Ordering::Acquire));
        let jumped = u64::try_from(ahead).is_ok_and(|ahead| ahead > self.jump_bound_ms);
        if jumped || self.held.load(Ordering::Acquire) {
            return self.read_doubtful(wall, monotonic);
        }
        let wall = wall.min(MS_MAX);
        let high = self.high_ms.load(Ordering::Acquire);
        // Mostly the same millisecond as the last time: then nothing is written.
        let high = if wall <= high { high } else { self.raise(wall) };
        Reading { now_ms: high, latest_ms: high, monotonic, real: self.real(monotonic) }
    }

    fn raise(&self, to_ms: u64) -> u64 {
        self.high_ms.fetch_max(to_ms, Ordering::AcqRel).max(to_ms)
    }

    /// The same while a jump is held, or when one is seen.
    fn read_doubtful(&self, wall: u64, now: Duration) -> Reading {
        let monotonic = duration_ms(now);
        let mut state = self.state.lock();
        let offset_ms = offset(wall, monotonic);
        let ahead = offset_ms.saturating_sub(state.trusted_ms);
        let jumped = u64::try_from(ahead).is_ok_and(|ahead| ahead > self.jump_bound_ms);
        let same = |held: &Held| held.offset_ms.abs_diff(offset_ms) <= self.jump_bound_ms;
        state.held = state.held.filter(|held| jumped && same(held));
        let held = jumped && {
            let first_seen = Held { since_ms: monotonic, offset_ms };
            let since_ms = state.held.get_or_insert(first_seen).since_ms;
            monotonic.saturating_sub(since_ms) < HOLD_MS
        };
        if jumped && !held {
            state.accept(wall, monotonic);
        }
        let paced = monotonic.saturating_add_signed(state.trusted_ms);
        let high_ms = self.raise(if held { paced } else { wall }.min(MS_MAX));
        self.publish(&state);
        let latest_ms = if held { high_ms.max(wall) } else { high_ms };
        Reading { now_ms: high_ms, latest_ms, monotonic: now, real: self.real(now) }
    }

    fn real(&self, monotonic: Duration) -> Duration {
        if self.is_system { monotonic } else { real_monotonic() }
    }

    fn publish(&self, state: &State) {
        self.trusted_ms.store(state.trusted_ms, Ordering::Release);
        self.held.store(state.held.is_some(), Ordering::Release);
    }

    /// Takes the wall clock for the truth, as far ahead as it is.
    pub(crate) fn accept(&self) {
        let (wall, monotonic) = read(&*self.clock);
        let mut state = self.state.lock();
        if offset(wall, monotonic) > state.trusted_ms {
            state.accept(wall, monotonic);
            self.publish(&state);
        }
    }
}

impl State {
    fn accept(&mut self, wall_ms: u64, monotonic_ms: u64) {
        self.trusted_ms = offset(wall_ms, monotonic_ms);
        self.held = None;
    }
}

fn read(clock: &dyn Clock) -> (u64, u64) {
    (to_ms(clock.wall()), duration_ms(clock.monotonic()))
}

fn offset(wall_ms: u64, monotonic_ms: u64) -> i64 {
    wall_ms.cast_signed().saturating_sub(monotonic_ms.cast_signed())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::clock::ManualClock;

    const TTL: u64 = 30 * DAY_MS;
    const START: u64 = 1_000 * DAY_MS;

    fn at(ms: u64) -> std::time::SystemTime {
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    fn store_time(wall_ms: u64, mark_ms: u64) -> (ManualClock, StoreTime) {
        let clock = ManualClock::at(at(wall_ms));
        let time = StoreTime::resume(Arc::new(clock.clone()), TTL, mark_ms);
        (clock, time)
    }

    /// Store time, and the latest time that could be true.
    fn read_ms(time: &StoreTime) -> (u64, u64) {
        let reading = time.read();
        (reading.now_ms, reading.latest_ms)
    }

    #[test]
    fn time_never_goes_back() {
        let (clock, time) = store_time(START, 0);
        clock.set_wall(at(START - DAY_MS));
        assert_eq!(time.read().now_ms, START);
        clock.advance(Duration::from_millis(2 * DAY_MS));
        assert_eq!(time.read().now_ms, START + DAY_MS);
    }

    #[test]
    fn a_jump_within_the_bound_is_followed_and_many_small_ones_are_held() {
        let (clock, time) = store_time(START, 0);
        clock.set_wall(at(START + HOUR_MS));
        assert_eq!(read_ms(&time), (START + HOUR_MS, START + HOUR_MS));
        clock.set_wall(at(START + 2 * HOUR_MS));
        assert_eq!(read_ms(&time), (START + HOUR_MS, START + 2 * HOUR_MS));
    }

    #[test]
    fn a_held_jump_goes_on_at_monotonic_pace_for_an_hour_and_is_then_accepted() {
        let (clock, time) = store_time(START, 0);
        clock.set_wall(at(START + 365 * DAY_MS));
        assert!(time.read().is_held());
        clock.advance(Duration::from_millis(HOUR_MS - 1));
        assert_eq!(time.read().now_ms, START + HOUR_MS - 1);
        clock.advance(Duration::from_millis(1));
        assert_eq!(time.read().now_ms, START + 365 * DAY_MS + HOUR_MS);
        assert!(!time.read().is_held());
    }

    #[test]
    fn a_jump_that_goes_away_is_forgotten() {
        let (clock, time) = store_time(START, 0);
        clock.set_wall(at(START + DAY_MS));
        assert!(time.read().is_held());
        clock.set_wall(at(START));
        assert_eq!(read_ms(&time), (START, START));
        clock.advance(Duration::from_millis(HOUR_MS));
        clock.set_wall(at(START + 2 * DAY_MS));
        assert!(time.read().is_held(), "the hour counts anew for every jump");
    }

    /// The clock of a system whose wall can be set, and one of whose readings can take long.
    struct Settable {
        wall_ns: AtomicU64,
        monotonic_ns: AtomicU64,
        reading_ns: AtomicU64,
    }

    impl Clock for Settable {
        fn is_system(&self) -> bool {
            true
        }

        fn wall(&self) -> std::time::SystemTime {
            let stop = self.reading_ns.load(Ordering::Relaxed);
            self.monotonic_ns.fetch_add(stop, Ordering::Relaxed);
            let before = self.wall_ns.fetch_add(stop, Ordering::Relaxed);
            UNIX_EPOCH + Duration::from_nanos(before + stop)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.monotonic_ns.load(Ordering::Relaxed))
        }
    }

    impl Settable {
        fn advance(&self, by: Duration) {
            self.wall_ns.fetch_add(duration_ns(by), Ordering::Relaxed);
            self.monotonic_ns.fetch_add(duration_ns(by), Ordering::Relaxed);
        }
    }

    fn on_system_clock() -> (Arc<Settable>, StoreTime) {
        let clock = Arc::new(Settable {
            wall_ns: AtomicU64::new(START * 1_000_000),
            monotonic_ns: AtomicU64::new(5),
            reading_ns: AtomicU64::new(0),
        });
        let time = StoreTime::resume(Arc::clone(&clock) as Arc<dyn Clock>, TTL, 0);
        (clock, time)
    }

    #[test]
    fn between_two_looks_at_the_wall_clock_time_goes_on_by_the_monotonic_one() {
        let (clock, time) = on_system_clock();
        for step in 0..10_000_u64 {
            assert_eq!(time.read().now_ms, START + step * 300 / 1000, "step {step}");
            clock.advance(Duration::from_micros(300));
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_is_seen_within_a_millisecond() {
        let (clock, time) = on_system_clock();
        time.read();
        clock.wall_ns.fetch_add(60_000_000_000, Ordering::Relaxed);
        clock.advance(Duration::from_millis(1));
        assert_eq!(time.read().now_ms, START + 60_001);
    }

    #[test]
    fn who_was_stopped_between_the_two_clocks_makes_nobody_late_or_early() {
        let (clock, time) = on_system_clock();
        clock.reading_ns.store(2_000_000_000, Ordering::Relaxed);
        assert_eq!(time.read().now_ms, START + 2_000);
        clock.reading_ns.store(0, Ordering::Relaxed);
        assert_eq!(time.read().now_ms, START + 2_000, "the two seconds are counted once");
        clock.advance(Duration::from_micros(900));
        assert_eq!(time.read().now_ms, START + 2_000);
        clock.advance(Duration::from_millis(5));
        assert_eq!(time.read().now_ms, START + 2_005);
    }

    #[test]
    fn a_jump_within_a_hold_is_held_for_an_hour_of_its_own() {
        let (clock, time) = store_time(START, 0);
        clock.set_wall(at(START + DAY_MS));
        assert!(time.read().is_held());
        clock.advance(Duration::from_millis(HOUR_MS - 1));
        clock.set_wall(at(START + 365 * DAY_MS));
        assert!(time.read().is_held());
        clock.advance(Duration::from_millis(1));
        assert_eq!(time.read().now_ms, START + HOUR_MS);
        clock.set_wall(at(START + DAY_MS + HOUR_MS));
        assert_eq!(time.read().now_ms, START + HOUR_MS, "so does one that goes back a long way");
        clock.advance(Duration::from_millis(HOUR_MS));
        assert_eq!(time.read().now_ms, START + DAY_MS + 2 * HOUR_MS);
    }

    #[test]
    fn an_operator_can_accept_a_jump() {
        let (clock, time) = store_time(START, 0);
        clock.set_wall(at(START + 365 * DAY_MS));
        time.accept();
        assert_eq!(time.read().now_ms, START + 365 * DAY_MS);
    }

    #[test]
    fn a_stop_of_a_week_is_believed_and_a_year_is_questioned() {
        let (_, time) = store_time(START + 7 * DAY_MS, START);
        assert_eq!(time.read().now_ms, START + 7 * DAY_MS);
        let (clock, time) = store_time(START + 365 * DAY_MS, START);
        assert_eq!(time.read().now_ms, START);
        assert!(time.read().is_held());
        clock.advance(Duration::from_millis(HOUR_MS));
        assert!(!time.read().is_held());
    }

    #[test]
    fn a_clock_behind_the_mark_stands_at_the_mark() {
        let (clock, time) = store_time(START - DAY_MS, START);
        assert_eq!(read_ms(&time), (START, START));
        clock.advance(Duration::from_millis(DAY_MS + 1));
        assert_eq!(time.read().now_ms, START + 1);
    }
}
