//! Wakers are other people's code: they may own the store, and they may panic. What they do harms
//! neither the store nor anybody else who waits.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use oncelog::{Background, Claim, Error, Store};

use crate::contract::support::{
    GateDisk, Woken, World, block_on, body, claim, granted, scope, until,
};

/// A waker that owns a store; where that is the last handle, its drop closes the store.
struct Owner(#[expect(dead_code, reason = "it is there to be dropped")] Store);

impl Wake for Owner {
    fn wake(self: Arc<Owner>) {}
}

/// A waker that panics, and does so quietly.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Panics>) {
        resume_unwind(Box::new("a waker that panics"));
    }
}

fn poll_with<F: Future + Unpin>(waker: &Waker, future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// Runs the test on a thread of its own: one that waits for itself fails instead of hanging.
fn ends(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(test);
    until(|| thread.is_finished());
    thread.join().unwrap();
}

#[test]
fn a_waker_that_owns_the_store_can_be_replaced_while_a_claim_is_staged() {
    ends(|| {
        let world = World::new();
        let disk = GateDisk::on(&world.disk);
        let options = world.options().background(Background::Threads);
        let store = options.open_on(Arc::new(disk.clone())).unwrap();
        let mut future = store.claim_async(scope("k"), body());
        let held = disk.hold();
        let owner = Arc::new(Owner(store));
        let weak = Arc::downgrade(&owner);
        let first = Waker::from(owner);
        assert!(poll_with(&first, &mut future).is_pending());
        drop(first);
        let letting_go = thread::spawn(move || {
            // The poll below drops the owner, which waits for the claim that the gate holds back.
            until(|| weak.strong_count() == 0);
            drop(held);
        });
        let woken = Woken::new();
        assert!(woken.poll(&mut future).is_pending());
        letting_go.join().unwrap();
        woken.wait_past(0);
        let Poll::Ready(claim) = woken.poll(&mut future) else { panic!("woken for nothing") };
        assert!(matches!(claim, Ok(Claim::Granted(_))), "{claim:?}");
    });
}

#[test]
fn a_waker_that_owns_the_store_can_be_replaced_while_it_waits_for_a_scope() {
    ends(|| {
        let store = World::new().open();
        let _permit = granted(claim(&store, "k"));
        let mut future = store.claim_or_wait_async(scope("k"), body());
        let first = Waker::from(Arc::new(Owner(store)));
        assert!(poll_with(&first, &mut future).is_pending());
        drop(first);
        let woken = Woken::new();
        assert!(woken.poll(&mut future).is_pending());
        assert_eq!(woken.count(), 1, "the store was closed in that poll");
        assert!(matches!(woken.poll(&mut future), Poll::Ready(Err(Error::Closed))));
    });
}

#[test]
fn a_waker_that_panics_leaves_nobody_of_its_batch_waiting_and_poisons_nothing() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let options = world.options().background(Background::Threads);
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    let held = disk.hold();
    let mut before = store.claim_async(scope("before"), body());
    assert!(Woken::new().poll(&mut before).is_pending());
    held.await_sync();
    let mut bad = store.claim_async(scope("bad"), body());
    assert!(poll_with(&Waker::from(Arc::new(Panics)), &mut bad).is_pending());
    let (mut good, woken) = (store.claim_async(scope("good"), body()), Woken::new());
    assert!(woken.poll(&mut good).is_pending());
    drop(held);
    woken.wait_past(0);
    for future in [before, bad, good] {
        granted(block_on(future).unwrap()).complete(b"created").unwrap();
    }
    // The committer goes on too.
    drop(granted(block_on(store.claim_async(scope("after"), body())).unwrap()));
}
