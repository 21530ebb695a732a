//! What callers do at the worst moment: a second close, a waker that panics or owns the store, a
//! permit that is dropped behind a checkpoint or after a whole ttl.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use oncelog::{Background, Error, Store};

use crate::contract::support::{
    GateDisk, LEASE, MS, Woken, World, block_on, body, claim, granted, orphaned, run, scope, until,
};

fn threaded(world: &World, disk: &GateDisk) -> Store {
    let options = world.options().background(Background::Threads);
    options.open_on(Arc::new(disk.clone())).unwrap()
}

fn poll_with<F: Future + Unpin>(waker: &Waker, future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

#[test]
fn a_second_close_does_not_free_the_directory_under_the_first() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let store = world.options().open_on(Arc::new(disk.clone())).unwrap();
    run(&store, "k", b"x");
    let clone = store.clone();
    let held = disk.hold();
    let first = thread::spawn(move || store.close());
    held.await_sync();
    // The first close has written nothing of its CLEAN or CHECKPOINT yet.
    assert!(matches!(clone.close(), Err(Error::Closed)));
    let opened = world.options().open_on(Arc::new(world.disk.clone()));
    assert!(matches!(opened, Err(Error::AlreadyOpen { .. })), "two owners: {opened:?}");
    drop(held);
    first.join().unwrap().unwrap();
    assert!(world.open().recovery().clean);
}

#[test]
fn a_take_over_has_the_checkpoint_that_was_staged_before_it() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let store = threaded(&world, &disk);
    let permit = granted(claim(&store, "k"));
    let held = disk.hold();
    let saved = permit.save_checkpoint_async(b"charged");
    held.await_sync();
    drop(permit);
    let mut next = orphaned(claim(&store, "k")).take_over_async();
    assert!(Woken::new().poll(&mut next).is_pending());
    drop(held);
    block_on(saved).unwrap();
    let second = granted(block_on(next).unwrap());
    assert_eq!(second.checkpoint(), Some(&b"charged"[..]), "acknowledged, and lost");
}

struct Owner {
    _store: Store,
}

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn a_waker_that_owns_the_last_store_can_be_replaced() {
    let world = World::new();
    let store = world.open();
    let _permit = granted(claim(&store, "k"));
    let mut waiting = store.claim_or_wait_async(scope("k"), body());
    let owner = Waker::from(Arc::new(Owner { _store: store }));
    assert!(poll_with(&owner, &mut waiting).is_pending());
    drop(owner);
    // Drops the store, which closes it and fires the signal that is being polled.
    let woken = Woken::new();
    let polled = woken.poll(&mut waiting);
    assert!(polled.is_ready() || woken.poll(&mut waiting).is_ready(), "it waits for ever");
}

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker that panics");
    }
}

#[test]
fn a_waker_that_panics_keeps_no_other_caller_waiting() {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let store = threaded(&world, &disk);
    let held = disk.hold();
    let mut zero = store.claim_async(scope("zero"), body());
    assert!(Woken::new().poll(&mut zero).is_pending());
    held.await_sync();
    let mut bad = store.claim_async(scope("bad"), body());
    assert!(poll_with(&Waker::from(Arc::new(Panics)), &mut bad).is_pending());
    let mut good = store.claim_async(scope("good"), body());
    let woken = Woken::new();
    assert!(woken.poll(&mut good).is_pending());
    drop(held);
    until(|| woken.count() > 0);
    let _permit = granted(block_on(good).unwrap());
    run(&store, "later", b"the store goes on");
}

#[test]
fn the_drop_of_a_permit_that_was_renewed_for_a_whole_ttl_frees_nothing() {
    let world = World::new();
    let options = world.options().ttl(Duration::from_secs(120)).bucket(60_000 * MS);
    let store = world.open_with(options);
    let permit = granted(claim(&store, "k"));
    for _ in 0..5 {
        world.clock.advance(LEASE / 2);
        permit.renew().unwrap();
    }
    let operation = permit.operation();
    drop(permit);
    let orphan = orphaned(claim(&store, "k"));
    assert_eq!(orphan.info().operation(), operation);
}
