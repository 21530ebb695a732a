//! What is true of tickets, signals and store time in every schedule.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::clock::{Clock, ManualClock};
use crate::sync::Signal;
use crate::ticket::Ticket;
use crate::time::StoreTime;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY_MS: u64 = 24 * 3_600_000;

struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn counting() -> (Arc<Counting>, Waker) {
    let woken = Arc::new(Counting(AtomicUsize::new(0)));
    (Arc::clone(&woken), Waker::from(woken))
}

/// Who polls before the outcome is there is woken by it.
pub fn a_future_is_told_or_woken() {
    loom::model(|| {
        let ticket = Arc::<Ticket>::default();
        let committer = {
            let ticket = Arc::clone(&ticket);
            thread::spawn(move || ticket.finish(Ok(())))
        };
        let (woken, waker) = counting();
        let polled = ticket.poll(&mut Context::from_waker(&waker));
        let abandoned = committer.join().unwrap();
        assert!(!abandoned, "nobody went away");
        assert!(polled.is_ready() || woken.0.load(Ordering::SeqCst) == 1, "told or woken");
        assert!(ticket.poll(&mut Context::from_waker(&waker)).is_ready());
    });
}

/// Of a future that goes away and the committer who grants, exactly one learns that nobody took
/// the grant, and releases it.
pub fn an_abandoned_grant_is_released_once() {
    loom::model(|| {
        let ticket = Arc::<Ticket>::default();
        let committer = {
            let ticket = Arc::clone(&ticket);
            thread::spawn(move || ticket.finish(Ok(())))
        };
        let (_, waker) = counting();
        let taken = ticket.poll(&mut Context::from_waker(&waker)).is_ready();
        let left = !taken && ticket.abandon().is_some();
        let unclaimed = committer.join().unwrap();
        assert_eq!([taken, left, unclaimed].iter().filter(|it| **it).count(), 1);
    });
}

/// A thread and a task that wait for a signal are both woken, whenever they came.
pub fn a_signal_wakes_a_thread_and_a_task() {
    loom::model(|| {
        let signal = Arc::<Signal>::default();
        let sleeper = {
            let signal = Arc::clone(&signal);
            thread::spawn(move || assert!(signal.wait_for(HOUR)))
        };
        let (woken, waker) = counting();
        let polled = signal.poll(&mut Context::from_waker(&waker));
        signal.fire();
        sleeper.join().unwrap();
        assert!(polled == Poll::Pending && woken.0.load(Ordering::SeqCst) == 1);
        assert!(signal.poll(&mut Context::from_waker(&waker)).is_ready());
    });
}

fn store_time(clock: &ManualClock) -> Arc<StoreTime> {
    Arc::new(StoreTime::resume(Arc::new(clock.clone()), DAY_MS, 0))
}

fn now_ms(time: &StoreTime) -> u64 {
    time.read().now_ms
}

fn clock() -> ManualClock {
    ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_millis(DAY_MS))
}

/// Store time that one thread has seen is not undone for another that was told of it.
pub fn store_time_never_goes_back() {
    loom::model(|| {
        let clock = clock();
        let time = store_time(&clock);
        let other = {
            let (clock, time) = (clock.clone(), Arc::clone(&time));
            thread::spawn(move || {
                clock.advance(Duration::from_millis(5));
                now_ms(&time)
            })
        };
        let first = now_ms(&time);
        let second = now_ms(&time);
        assert!(first <= second, "backwards within a thread: {first} {second}");
        let seen = other.join().unwrap();
        assert!(now_ms(&time) >= seen.max(second), "backwards across threads");
        assert_eq!(seen, DAY_MS + 5);
    });
}

/// A jump that the monotonic clock does not confirm moves nobody, while others read.
pub fn a_jump_is_held_for_every_reader() {
    loom::model(|| {
        let clock = clock();
        let time = store_time(&clock);
        let other = {
            let (clock, time) = (clock.clone(), Arc::clone(&time));
            thread::spawn(move || {
                clock.set_wall(clock.wall() + 30 * HOUR);
                let reading = time.read();
                assert!(reading.is_held());
                reading
            })
        };
        let reading = time.read();
        assert_eq!(reading.now_ms, DAY_MS, "time stands still, held or not");
        let reading = other.join().unwrap();
        assert_eq!((reading.now_ms, reading.latest_ms), (DAY_MS, DAY_MS + 30 * 3_600_000));
        assert_eq!(now_ms(&time), DAY_MS);
    });
}

/// Once the operator has accepted a jump, whoever is told of it reads the new time.
pub fn an_accepted_jump_is_seen_by_whoever_is_told() {
    loom::model(|| {
        let clock = clock();
        let time = store_time(&clock);
        clock.set_wall(clock.wall() + 30 * HOUR);
        let operator = {
            let time = Arc::clone(&time);
            thread::spawn(move || time.accept())
        };
        let before = now_ms(&time);
        assert!(before == DAY_MS || before == DAY_MS + 30 * 3_600_000);
        operator.join().unwrap();
        assert_eq!(now_ms(&time), DAY_MS + 30 * 3_600_000);
    });
}

/// What a ticket would be if its two sides looked and told without one lock around both.
pub fn a_ticket_without_its_lock_is_found() {
    loom::model(|| {
        let done = Arc::new(AtomicUsize::new(0));
        let (woken, waker) = counting();
        let place = Arc::new(loom::sync::Mutex::new(None::<Waker>));
        let committer = {
            let (done, place) = (Arc::clone(&done), Arc::clone(&place));
            thread::spawn(move || {
                let waker = place.lock().unwrap().take();
                done.store(1, Ordering::SeqCst);
                waker.into_iter().for_each(Waker::wake);
            })
        };
        let pending = done.load(Ordering::SeqCst) == 0;
        if pending {
            *place.lock().unwrap() = Some(waker);
        }
        committer.join().unwrap();
        assert!(!pending || woken.0.load(Ordering::SeqCst) == 1, "never told");
    });
}
