//! The slow twin of store time: the rules of DESIGN.md, written once more.
//!
//! After a crash nobody outside knows how high the mark of the store was, only between which two
//! moments it lies, so there are two twins, and what they agree on is what must hold.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncelog::{Clock, ManualClock};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The earliest and the latest that something can be, in ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) lo: i64,
    pub(crate) hi: i64,
}

impl Span {
    pub(crate) fn at(ms: i64) -> Span {
        Span { lo: ms, hi: ms }
    }

    pub(crate) fn plus(self, ms: i64) -> Span {
        Span { lo: self.lo + ms, hi: self.hi + ms }
    }

    pub(crate) fn max(self, other: Span) -> Span {
        Span { lo: self.lo.max(other.lo), hi: self.hi.max(other.hi) }
    }

    /// Whether this moment has come for certain.
    pub(crate) fn is_past(self, now: Span) -> bool {
        now.lo >= self.hi
    }

    /// Whether it may have come.
    pub(crate) fn may_be_past(self, now: Span) -> bool {
        now.hi >= self.lo
    }

    pub(crate) fn holds(self, ms: i64) -> bool {
        (self.lo..=self.hi).contains(&ms)
    }
}

pub(crate) fn to_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).expect("the simulation begins later");
    i64::try_from(since.as_millis()).expect("a time within reach")
}

/// Store time as one mark would have it.
#[derive(Clone, Debug)]
struct Twin {
    ttl_ms: i64,
    high_ms: i64,
    /// Wall minus monotonic time when the clock was last believed.
    believed_ms: i64,
    /// When the present jump was first seen, in monotonic time, and how far it went.
    held: Option<(i64, i64)>,
}

impl Twin {
    fn open(ttl_ms: i64, mark_ms: i64, wall: i64, monotonic: i64) -> Twin {
        let is_stop = mark_ms == 0 || wall - mark_ms <= ttl_ms.max(30 * DAY_MS);
        let start = if is_stop { wall.max(mark_ms) } else { mark_ms };
        let held = if is_stop { None } else { Some((monotonic, wall - monotonic)) };
        Twin { ttl_ms, high_ms: start, believed_ms: start - monotonic, held }
    }

    fn bound(&self) -> i64 {
        (self.ttl_ms / 10).min(HOUR_MS)
    }

    /// The time now, and the latest time that could be true.
    fn read(&mut self, wall: i64, monotonic: i64) -> (i64, i64) {
        let ahead = wall - monotonic - self.believed_ms;
        if ahead <= self.bound() {
            self.held = None;
            self.high_ms = self.high_ms.max(wall);
            return (self.high_ms, self.high_ms);
        }
        let (since, far) = self.held.unwrap_or((monotonic, wall - monotonic));
        let moved = (far - (wall - monotonic)).abs() > self.bound();
        let (since, far) = if moved { (monotonic, wall - monotonic) } else { (since, far) };
        if monotonic - since < HOUR_MS {
            self.held = Some((since, far));
            self.high_ms = self.high_ms.max(monotonic + self.believed_ms);
            return (self.high_ms, self.high_ms.max(wall));
        }
        self.accept(wall, monotonic);
        self.high_ms = self.high_ms.max(wall);
        (self.high_ms, self.high_ms)
    }

    fn accept(&mut self, wall: i64, monotonic: i64) {
        if wall - monotonic > self.believed_ms {
            self.believed_ms = wall - monotonic;
            self.held = None;
        }
    }
}

/// Store time as far as it can be known from outside.
#[derive(Clone, Debug)]
pub(crate) struct StoreTime {
    clock: ManualClock,
    twins: [Twin; 2],
    pub(crate) now: Span,
    /// The latest time that could be true, which expiries are counted from.
    pub(crate) latest: Span,
}

impl StoreTime {
    /// That of a store which is opened with a mark within `mark`.
    pub(crate) fn open(clock: &ManualClock, ttl: Duration, mark: Span) -> StoreTime {
        let ttl_ms = i64::try_from(ttl.as_millis()).expect("a ttl within reach");
        let (wall, monotonic) = read(clock);
        let twins = [mark.lo, mark.hi].map(|mark| Twin::open(ttl_ms, mark, wall, monotonic));
        let (clock, now) = (clock.clone(), Span::at(0));
        let mut time = StoreTime { clock, twins, now, latest: now };
        time.read();
        time
    }

    pub(crate) fn read(&mut self) {
        let (wall, monotonic) = read(&self.clock);
        let [one, other] = self.twins.each_mut().map(|twin| twin.read(wall, monotonic));
        self.now = Span { lo: one.0.min(other.0), hi: one.0.max(other.0) };
        self.latest = Span { lo: one.1.min(other.1), hi: one.1.max(other.1) };
    }

    pub(crate) fn accept(&mut self) {
        let (wall, monotonic) = read(&self.clock);
        self.twins.iter_mut().for_each(|twin| twin.accept(wall, monotonic));
        self.read();
    }

    pub(crate) fn monotonic(&self) -> i64 {
        read(&self.clock).1
    }
}

fn read(clock: &ManualClock) -> (i64, i64) {
    let monotonic = i64::try_from(clock.monotonic().as_millis()).expect("a time within reach");
    (to_ms(clock.wall()), monotonic)
}
