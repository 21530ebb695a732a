//! The only reader of time: the clock of the system, and one that tests move by hand.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sync::Mutex;

/// Where a store reads the time. [`SystemClock`] unless [`Options::clock`](crate::Options::clock)
/// says otherwise.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. It may jump either way.
    fn wall(&self) -> SystemTime;

    /// Time since a fixed point of this process; it never goes back. Leases and the limits of
    /// waiting run on it.
    fn monotonic(&self) -> Duration;

    /// A clock that can be moved by hand keeps `wake` and calls it after every move, so that
    /// callers who wait for a point in time look again.
    fn on_change(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        drop(wake);
    }

    /// Whether the time moves only by hand. With such a clock a store does nothing by itself when
    /// time passes: [`Store::expire`](crate::Store::expire) and the calls see what the clock shows.
    fn moves_by_hand(&self) -> bool {
        false
    }

    /// Whether `monotonic` is real time as the store itself reads it.
    #[doc(hidden)]
    fn is_system(&self) -> bool {
        false
    }
}

/// The clock of the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn is_system(&self) -> bool {
        true
    }

    #[expect(clippy::disallowed_methods, reason = "this file is the only reader of time")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        real_monotonic()
    }
}

/// Real time since the first call in this process, whatever clock a store has been given.
#[cfg(not(any(shuttle, loom)))]
#[expect(clippy::disallowed_methods, reason = "this file is the only reader of time")]
pub(crate) fn real_monotonic() -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// The time that a model checker lets pass.
#[cfg(any(shuttle, loom))]
pub(crate) fn real_monotonic() -> Duration {
    crate::sync::checked::time::now()
}

/// A clock that moves only by hand, for tests. Clones share the time.
///
/// ```
/// use oncelog::{Clock, ManualClock};
/// use std::time::{Duration, SystemTime};
///
/// let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
/// clock.advance(Duration::from_secs(5));
/// assert_eq!(clock.wall(), SystemTime::UNIX_EPOCH + Duration::from_secs(5));
/// assert_eq!(clock.monotonic(), Duration::from_secs(5));
/// ```
#[derive(Clone)]
pub struct ManualClock {
    // LOCK: clock (a leaf: the callbacks run after it was let go)
    state: Arc<Mutex<ManualState>>,
}

struct ManualState {
    wall: SystemTime,
    monotonic: Duration,
    wakes: Vec<Arc<dyn Fn() + Send + Sync>>,
}

impl ManualClock {
    /// A clock whose wall shows `wall` and whose monotonic time is zero.
    pub fn at(wall: SystemTime) -> ManualClock {
        let state = ManualState { wall, monotonic: Duration::ZERO, wakes: Vec::new() };
        ManualClock { state: Arc::new(Mutex::new(state)) }
    }

    /// Moves wall and monotonic time forward.
    pub fn advance(&self, by: Duration) {
        self.change(|state| {
            state.wall += by;
            state.monotonic += by;
        });
    }

    /// Makes the wall clock jump, forward or back; the monotonic time stays.
    pub fn set_wall(&self, wall: SystemTime) {
        self.change(|state| state.wall = wall);
    }

    fn change(&self, change: impl FnOnce(&mut ManualState)) {
        let wakes = {
            let mut state = self.state.lock();
            change(&mut state);
            state.wakes.clone()
        };
        wakes.iter().for_each(|wake| wake());
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> SystemTime {
        self.state.lock().wall
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().monotonic
    }

    fn on_change(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.state.lock().wakes.push(wake);
    }

    fn moves_by_hand(&self) -> bool {
        true
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("ManualClock")
            .field("wall", &state.wall)
            .field("monotonic", &state.monotonic)
            .finish_non_exhaustive()
    }
}

/// Milliseconds since 1970 of a wall time; what lies before 1970 is 0.
pub(crate) fn to_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    duration_ms(since).min(MS_MAX)
}

/// The same in nanoseconds, of a time before 2262.
pub(crate) fn to_ns(time: SystemTime) -> u64 {
    duration_ns(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A duration in whole nanoseconds, at most 292 years.
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos())
        .map_or(i64::MAX.unsigned_abs(), |ns| ns.min(i64::MAX.unsigned_abs()))
}

/// The wall time of milliseconds since 1970.
pub(crate) fn from_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.min(MS_MAX))
}

/// A duration in whole milliseconds.
pub(crate) fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Times are stored in 48 bits, which lasts until the year 10889.
pub(crate) const MS_MAX: u64 = (1 << 48) - 1;
