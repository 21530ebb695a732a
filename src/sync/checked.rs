//! The locks as a model checker has them: the calls of `parking_lot`, made of the checker's own
//! primitives, so that it decides who runs at each of them.
//!
//! Real time stands still. Whether a wait that has a limit reaches it is the checker's choice too;
//! when it does, the time that the store reads has passed. So a caller who is woken only because a
//! limit was over hangs in some schedule, and the checker says so.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

#[cfg(loom)]
use loom::sync as primitive;
#[cfg(shuttle)]
use shuttle::sync as primitive;

pub(crate) struct Mutex<T>(primitive::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(primitive::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard { lock: self, guard: Some(guard) }
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

pub(crate) struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    /// Gone only within a wait.
    guard: Option<primitive::MutexGuard<'a, T>>,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().expect("a guard holds its lock outside of waits")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("a guard holds its lock outside of waits")
    }
}

pub(crate) struct Condvar(primitive::Condvar);

/// How a wait with a limit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Woken,
    TimedOut,
}

impl Waited {
    pub(crate) fn timed_out(self) -> bool {
        self == Waited::TimedOut
    }
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(primitive::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.guard.take().expect("a guard holds its lock outside of waits");
        guard.guard = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) -> Waited {
        if !time::limit_is_reached() {
            self.wait(guard);
            return Waited::Woken;
        }
        time::pass(limit);
        guard.guard = None;
        time::let_others_run();
        guard.guard = guard.lock.lock().guard.take();
        Waited::TimedOut
    }

    pub(crate) fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        limit: Duration,
    ) {
        while condition(guard) {
            if self.wait_for(guard, limit).timed_out() {
                return;
            }
        }
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}

/// As the kernel's, but for the schedule.
#[derive(Debug, Default)]
pub(crate) struct Word {
    number: Mutex<u32>,
    changed: Condvar,
}

impl Word {
    pub(crate) fn store(&self, number: u32) {
        *self.number.lock() = number;
    }

    pub(crate) fn exchange(&self, old: u32, new: u32) -> bool {
        let mut number = self.number.lock();
        let same = *number == old;
        if same {
            *number = new;
        }
        same
    }

    pub(crate) fn sleep_while(&self, number: u32) {
        let mut found = self.number.lock();
        if *found == number {
            self.changed.wait(&mut found);
        }
    }

    pub(crate) fn wake_one(&self) {
        self.changed.notify_one();
    }

    pub(crate) fn wake_all(&self) {
        self.changed.notify_all();
    }
}

/// Of readers and a writer. A checker gains nothing from readers side by side: the order in which
/// they come and go is the same.
pub(crate) struct RwLock<T>(Mutex<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }

    pub(crate) fn write(&self) -> MutexGuard<'_, T> {
        self.0.lock()
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> RwLock<T> {
        RwLock(Mutex::default())
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

#[cfg(shuttle)]
pub(crate) mod time {
    use std::cell::Cell;
    use std::time::Duration;

    use shuttle::rand::Rng;

    // A checker runs all threads of an execution on one thread of the system. What an execution
    // has left behind is harmless: the store compares times, and never looks at one alone.
    std::thread_local! {
        static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Real time, as far as waits have made it pass.
    pub(crate) fn now() -> Duration {
        NOW.get()
    }

    pub(super) fn pass(by: Duration) {
        NOW.set(NOW.get().saturating_add(by.min(Duration::from_secs(3_600))));
    }

    pub(super) fn limit_is_reached() -> bool {
        shuttle::rand::thread_rng().gen_ratio(1, 4)
    }

    pub(super) fn let_others_run() {
        shuttle::thread::yield_now();
    }
}

#[cfg(loom)]
pub(crate) mod time {
    use std::time::Duration;

    pub(crate) fn now() -> Duration {
        Duration::ZERO
    }

    pub(super) fn pass(_: Duration) {}

    /// Every schedule is looked at; one in which a limit saves a caller proves nothing.
    pub(super) fn limit_is_reached() -> bool {
        false
    }

    pub(super) fn let_others_run() {
        loom::thread::yield_now();
    }
}
