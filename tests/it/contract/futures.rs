//! Waiting: who is woken, when a limit is over, and what a dropped future leaves behind.

use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use oncelog::{
    Background, Claim, ClaimFuture, CompleteFuture, EndFuture, Error, LookupFuture, OrphanCause,
    OrphanPolicy, Permit, Status, Store, Stored, SystemClock,
};

use crate::contract::support::{
    GateDisk, LEASE, MS, Woken, World, block_on, body, claim, granted, in_progress, kind, orphaned,
    replay, run, scope, until,
};

const LIMIT: Duration = Duration::from_secs(5);

/// A store whose background threads sync through a gate.
fn gated(world: &World) -> (Store, GateDisk) {
    let disk = GateDisk::on(&world.disk);
    let options = world.options().background(Background::Threads);
    (options.open_on(Arc::new(disk.clone())).expect("the store opens"), disk)
}

/// Runs `then` while another thread waits for the scope, and returns what that one got.
fn while_one_waits(store: &Store, limit: Duration, then: impl FnOnce()) -> Claim {
    thread::scope(|threads| {
        let waits = store.stats().waits;
        let waiter = threads.spawn(|| store.claim_or_wait(scope("k"), body(), limit).unwrap());
        until(|| store.stats().waits > waits);
        then();
        waiter.join().unwrap()
    })
}

/// A future that waits for the scope, polled once.
fn waiting(store: &Store) -> (ClaimFuture, Arc<Woken>) {
    let (mut future, woken) = (store.claim_or_wait_async(scope("k"), body()), Woken::new());
    assert!(woken.poll(&mut future).is_pending());
    (future, woken)
}

#[test]
fn futures_and_permits_can_go_to_any_thread_and_borrow_nothing() {
    fn is_send<T: Send + 'static>() {}
    fn is_shared<T: Send + Sync + 'static>() {}
    is_send::<ClaimFuture>();
    is_send::<CompleteFuture>();
    is_send::<EndFuture>();
    is_send::<LookupFuture>();
    is_shared::<Permit>();
    is_shared::<Stored>();
    is_shared::<Claim>();
    is_shared::<Error>();
}

#[test]
fn every_call_has_a_future_that_does_the_same() {
    for background in [Background::Threads, Background::Inline] {
        let world = World::new();
        let store = world.open_with(world.options().background(background));
        let take = || block_on(store.claim_async(scope("k"), body())).unwrap();
        let look = || block_on(store.lookup_async(scope("k"))).unwrap();
        assert!(look().is_none());
        let permit = granted(take());
        assert!(matches!(look(), Some(Status::InProgress(_))));
        block_on(permit.save_checkpoint_async(b"saved")).unwrap();
        in_progress(take());
        block_on(permit.release_async()).unwrap();
        block_on(granted(take()).give_up_async()).unwrap();
        assert!(matches!(look(), Some(Status::Orphaned(_))));
        let permit = granted(block_on(orphaned(take()).take_over_async()).unwrap());
        assert_eq!((permit.attempt(), permit.cause()), (2, Some(OrphanCause::Failed)));
        drop(permit);
        block_on(orphaned(take()).release_async()).unwrap();
        drop(granted(take()));
        let stored = block_on(orphaned(take()).resolve_async(b"found")).unwrap();
        assert_eq!(replay(take()), stored);
        assert!(matches!(look(), Some(Status::Completed(seen)) if seen == stored));
        let permit = granted(block_on(store.claim_or_wait_async(scope("j"), body())).unwrap());
        let stored = block_on(permit.complete_parts_async(&[b"ab", b"", b"c"])).unwrap();
        assert_eq!(stored.bytes(), Some(&b"abc"[..]));
        let permit = granted(claim(&store, "i"));
        assert_eq!(block_on(permit.complete_without_response_async()).unwrap().bytes(), None);
    }
}

#[test]
fn a_waiting_caller_wakes_on_completion() {
    let store = World::new().open();
    let permit = granted(claim(&store, "k"));
    let claim = while_one_waits(&store, LIMIT, || {
        permit.complete(b"created").unwrap();
    });
    assert_eq!(replay(claim).bytes(), Some(&b"created"[..]));
}

#[test]
fn a_waiting_caller_gives_up_at_its_limit_by_the_manual_clock() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    let claim = while_one_waits(&store, LIMIT, || {
        world.clock.advance(LIMIT - MS);
        let waits = store.stats().waits;
        // It has looked again, and waits on.
        until(|| store.stats().waits > waits);
        world.clock.advance(MS);
    });
    assert_eq!(in_progress(claim).token(), permit.token());
}

#[test]
fn a_limit_of_zero_does_not_wait() {
    let store = World::new().open();
    let _permit = granted(claim(&store, "k"));
    in_progress(store.claim_or_wait(scope("k"), body(), Duration::ZERO).unwrap());
}

#[test]
fn a_waiting_caller_gets_the_orphan_when_a_permit_is_dropped_or_its_lease_lapses() {
    let world = World::new();
    let store = world.open();
    let dropped = granted(claim(&store, "k"));
    let claim_of_dropped = while_one_waits(&store, Duration::MAX, || drop(dropped));
    assert_eq!(orphaned(claim_of_dropped).info().cause(), OrphanCause::Dropped);
    let lapsing = granted(orphaned(claim(&store, "k")).take_over().unwrap());
    let claim_of_lapsed = while_one_waits(&store, Duration::MAX, || world.clock.advance(LEASE));
    assert_eq!(orphaned(claim_of_lapsed).info().cause(), OrphanCause::LeaseLapsed);
    lapsing.renew().unwrap();
    let claim_of_failed = while_one_waits(&store, Duration::MAX, || lapsing.give_up().unwrap());
    assert_eq!(orphaned(claim_of_failed).info().cause(), OrphanCause::Failed);
}

#[test]
fn a_waiting_future_gets_the_orphan_when_the_lease_lapses_by_the_manual_clock() {
    let world = World::new();
    let store = world.open();
    let _permit = granted(claim(&store, "k"));
    let (mut future, woken) = waiting(&store);
    world.clock.advance(LEASE);
    assert_eq!(woken.count(), 1);
    let Poll::Ready(claim) = woken.poll(&mut future) else { panic!("still waiting") };
    assert_eq!(orphaned(claim.unwrap()).info().cause(), OrphanCause::LeaseLapsed);
}

#[test]
fn a_completion_wakes_all_who_wait_and_a_release_exactly_one() {
    let store = World::new().open();
    let permit = granted(claim(&store, "k"));
    let mut all: Vec<_> = (0..5).map(|_| waiting(&store)).collect();
    permit.release().unwrap();
    let woken: Vec<u64> = all.iter().map(|(_, woken)| woken.count()).collect();
    assert_eq!(woken, [1, 0, 0, 0, 0], "the one who waited longest");
    let (mut first, woken) = all.remove(0);
    let Poll::Ready(claim) = woken.poll(&mut first) else { panic!("the scope is free") };
    granted(claim.unwrap()).complete(b"created").unwrap();
    for (mut future, woken) in all {
        assert_eq!(woken.count(), 1);
        let Poll::Ready(claim) = woken.poll(&mut future) else { panic!("still waiting") };
        assert_eq!(replay(claim.unwrap()).bytes(), Some(&b"created"[..]));
    }
}

#[test]
fn a_waiting_future_that_was_woken_and_dropped_passes_the_wake_up_on() {
    let store = World::new().open();
    let permit = granted(claim(&store, "k"));
    let (first, first_woken) = waiting(&store);
    let (mut second, second_woken) = waiting(&store);
    let (third, third_woken) = waiting(&store);
    permit.release().unwrap();
    assert_eq!((first_woken.count(), second_woken.count()), (1, 0));
    drop(third);
    drop(first);
    assert_eq!((second_woken.count(), third_woken.count()), (1, 0));
    let Poll::Ready(claim) = second_woken.poll(&mut second) else { panic!("the scope is free") };
    assert_eq!(granted(claim.unwrap()).attempt(), 1);
}

#[test]
fn a_waiting_future_that_is_dropped_takes_no_wake_up_with_it() {
    let store = World::new().open();
    let permit = granted(claim(&store, "k"));
    let (first, _) = waiting(&store);
    let (mut second, woken) = waiting(&store);
    drop(first);
    permit.release().unwrap();
    assert_eq!(woken.count(), 1);
    let Poll::Ready(claim) = woken.poll(&mut second) else { panic!("the scope is free") };
    granted(claim.unwrap()).complete(b"").unwrap();
}

#[test]
fn a_waiting_future_can_move_to_another_waker() {
    let store = World::new().open();
    let permit = granted(claim(&store, "k"));
    let (mut future, first) = waiting(&store);
    let second = Woken::new();
    assert!(second.poll(&mut future).is_pending());
    permit.complete(b"").unwrap();
    assert_eq!((first.count() <= 1, second.count()), (true, 1));
}

#[test]
fn a_claim_future_dropped_before_it_is_polled_claims_nothing() {
    let world = World::new();
    let store = world.open();
    let steps = world.disk.steps();
    drop(store.claim_async(scope("k"), body()));
    drop(store.claim_or_wait_async(scope("k"), body()));
    assert_eq!((kind(&store, "k"), world.disk.steps()), ("free", steps));
}

#[test]
fn a_claim_future_dropped_while_staged_leaves_no_claim_and_wakes_the_next() {
    let world = World::new();
    let (store, disk) = gated(&world);
    let (mut future, woken) = (store.claim_async(scope("k"), body()), Woken::new());
    let gate = disk.hold();
    assert!(woken.poll(&mut future).is_pending());
    gate.await_sync();
    let (next, _) = waiting(&store);
    drop(future);
    assert_eq!(kind(&store, "k"), "in progress", "not durable, so not yet released");
    drop(gate);
    let permit = granted(block_on(next).unwrap());
    assert_eq!((permit.attempt(), permit.cause()), (1, None), "as if never claimed");
    permit.release().unwrap();
    assert_eq!(kind(&store, "k"), "free");
    drop(store);
    assert_eq!(kind(&world.open(), "k"), "free");
}

/// A claim future whose claim is durable, but which has not been polled to see it.
fn durable_unseen(store: &Store) -> ClaimFuture {
    let (mut future, woken) = (store.claim_async(scope("k"), body()), Woken::new());
    if woken.poll(&mut future).is_pending() {
        woken.wait_past(0);
    }
    future
}

#[test]
fn a_claim_future_dropped_when_durable_but_unseen_leaves_no_claim() {
    let (store, _disk) = gated(&World::new());
    for _ in 0..10 {
        drop(durable_unseen(&store));
        let permit = granted(block_on(store.claim_or_wait_async(scope("k"), body())).unwrap());
        assert_eq!(permit.attempt(), 1);
        permit.release().unwrap();
    }
}

#[test]
fn a_claim_future_dropped_while_others_commit_leaves_no_claim_and_stops_nobody() {
    let world = World::new();
    let (store, disk) = gated(&world);
    let unseen = durable_unseen(&store);
    let gate = disk.hold();
    let (mut other, woken) = (store.claim_async(scope("other"), body()), Woken::new());
    assert!(woken.poll(&mut other).is_pending());
    gate.await_sync();
    drop(unseen);
    drop(gate);
    let other = granted(block_on(other).unwrap());
    // Async callers alone must get on: nobody blocks who could lead for them.
    block_on(other.complete_async(b"done")).unwrap();
    let permit = granted(block_on(store.claim_or_wait_async(scope("k"), body())).unwrap());
    assert_eq!(permit.attempt(), 1);
}

/// How far a claim had come when its future was dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dropped {
    Staged,
    Durable,
}

/// Drops a future of a second attempt before it yields, and checks that the first attempt, which
/// may have run, is neither forgotten nor renamed.
fn second_attempt_dropped(
    policy: OrphanPolicy,
    second: impl Fn(&Store) -> ClaimFuture,
    dropped: Dropped,
) {
    let world = World::new();
    let disk = GateDisk::on(&world.disk);
    let options = world.options().background(Background::Threads).on_orphan(policy);
    let store = options.open_on(Arc::new(disk.clone())).unwrap();
    let operation = {
        let permit = granted(claim(&store, "k"));
        permit.save_checkpoint(b"saved").unwrap();
        permit.operation()
    };
    let (mut future, woken) = (second(&store), Woken::new());
    let gate = disk.hold();
    assert!(woken.poll(&mut future).is_pending());
    gate.await_sync();
    if dropped == Dropped::Durable {
        drop(gate);
        woken.wait_past(0);
        drop(future);
    } else {
        drop(future);
        drop(gate);
    }
    until(|| kind(&store, "k") != "in progress");
    assert_eq!(kind(&store, "k"), "orphaned", "the first attempt may have had its effect");
    let orphan = store.orphan(scope("k")).unwrap().unwrap();
    assert_eq!(orphan.info().operation(), operation);
    assert_eq!(orphan.info().checkpoint(), Some(&b"saved"[..]));
    store.close().unwrap();
    assert_eq!(kind(&world.open(), "k"), "orphaned");
}

#[test]
fn a_take_over_dropped_before_it_yields_leaves_the_orphan_and_never_a_free_scope() {
    for dropped in [Dropped::Staged, Dropped::Durable] {
        let take_over = |store: &Store| {
            let orphan = store.orphan(scope("k")).unwrap().unwrap();
            orphan.take_over_async()
        };
        second_attempt_dropped(OrphanPolicy::Report, take_over, dropped);
    }
}

#[test]
fn a_rerun_dropped_before_it_yields_leaves_the_orphan_and_never_a_free_scope() {
    for dropped in [Dropped::Staged, Dropped::Durable] {
        let claim = |store: &Store| store.claim_async(scope("k"), body());
        second_attempt_dropped(OrphanPolicy::Rerun, claim, dropped);
    }
}

#[test]
fn many_claim_futures_dropped_at_every_point_leave_no_claim() {
    let world = World::new();
    let store = world.open_with(world.options().background(Background::Threads));
    let futures: Vec<ClaimFuture> = (0..200_usize)
        .filter_map(|number| {
            let key = format!("k{}", number % 20);
            let mut future = store.claim_or_wait_async(scope(&key), body());
            for _ in 0..number % 4 {
                match Woken::new().poll(&mut future) {
                    Poll::Pending => {}
                    Poll::Ready(claim) => {
                        granted(claim.unwrap()).release().unwrap();
                        return None;
                    }
                }
            }
            (number % 3 > 0).then_some(future)
        })
        .collect();
    drop(futures);
    for number in 0..20 {
        let key = format!("k{number}");
        let permit = granted(block_on(store.claim_or_wait_async(scope(&key), body())).unwrap());
        assert_eq!(permit.attempt(), 1, "{key}");
        permit.complete(b"").unwrap();
    }
    assert_eq!((store.stats().in_flight, store.stats().orphans), (0, 0));
}

#[test]
fn ending_futures_that_are_dropped_still_do_their_deed() {
    for background in [Background::Threads, Background::Inline] {
        let world = World::new();
        let store = world.open_with(world.options().background(background));
        drop(granted(claim(&store, "completed")).complete_async(b"created"));
        drop(granted(claim(&store, "released")).release_async());
        drop(granted(claim(&store, "failed")).give_up_async());
        drop(granted(claim(&store, "lost")));
        drop(orphaned(claim(&store, "lost")).resolve_async(b"found"));
        until(|| kind(&store, "completed") == "completed");
        until(|| kind(&store, "released") == "free");
        until(|| kind(&store, "failed") == "orphaned");
        until(|| kind(&store, "lost") == "completed");
        assert_eq!(replay(claim(&store, "completed")).bytes(), Some(&b"created"[..]));
        assert_eq!(orphaned(claim(&store, "failed")).info().cause(), OrphanCause::Failed);
    }
}

#[test]
fn an_ending_is_staged_at_the_call_and_not_at_the_poll() {
    let world = World::new();
    let store = world.open();
    let completing = granted(claim(&store, "k")).complete_async(b"created");
    assert_eq!(kind(&store, "k"), "completed", "inline, it is done before it is polled");
    assert_eq!(block_on(completing).unwrap().bytes(), Some(&b"created"[..]));
}

#[test]
fn a_close_tells_every_waiting_future_and_caller() {
    let world = World::new();
    let store = world.open();
    let permit = granted(claim(&store, "k"));
    let (mut future, woken) = waiting(&store);
    thread::scope(|threads| {
        let waits = store.stats().waits;
        let waiter = threads.spawn(|| store.claim_or_wait(scope("k"), body(), Duration::MAX));
        until(|| store.stats().waits > waits);
        store.clone().close().unwrap();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Closed)));
    });
    assert_eq!(woken.count(), 1);
    assert!(matches!(woken.poll(&mut future), Poll::Ready(Err(Error::Closed))));
    assert!(matches!(permit.complete(b""), Err(Error::Closed)));
}

#[test]
fn sixty_four_tasks_on_one_executor_share_one_run() {
    let world = World::new();
    let store = world.open_with(world.options().background(Background::Threads));
    let mut futures: Vec<_> =
        (0..64).map(|_| store.claim_or_wait_async(scope("k"), body())).collect();
    let winner = block_on(futures.remove(0)).unwrap();
    let woken = Woken::new();
    assert!(futures.iter_mut().all(|future| woken.poll(future).is_pending()));
    granted(winner).complete(b"created").unwrap();
    for future in futures {
        assert_eq!(replay(block_on(future).unwrap()).bytes(), Some(&b"created"[..]));
    }
    run(&store, "another", b"");
}

#[test]
fn the_drop_of_the_last_handle_tells_those_who_wait() {
    let store = World::new().open();
    let _permit = granted(claim(&store, "k"));
    let (mut future, woken) = waiting(&store);
    drop(store);
    assert_eq!(woken.count(), 1);
    assert!(matches!(woken.poll(&mut future), Poll::Ready(Err(Error::Closed))));
}

/// A store whose leases lapse in real time, soon.
fn hasty(world: &World) -> (Store, GateDisk) {
    let disk = GateDisk::on(&world.disk);
    let options = Store::options().lease(20 * MS).clock(SystemClock);
    (options.open_on(Arc::new(disk.clone())).expect("the store opens"), disk)
}

#[test]
fn those_who_wait_learn_in_real_time_that_a_lease_has_lapsed() {
    let (store, _disk) = hasty(&World::new());
    let permit = granted(claim(&store, "k"));
    let waited = block_on(store.claim_or_wait_async(scope("k"), body())).unwrap();
    assert_eq!(orphaned(waited).info().cause(), OrphanCause::LeaseLapsed);
    permit.renew().unwrap();
    let waited = store.claim_or_wait(scope("k"), body(), Duration::MAX).unwrap();
    assert_eq!(orphaned(waited).info().token(), permit.token());
}

#[test]
fn a_limit_ends_the_waiting_in_real_time() {
    let store = World::new().open_with(Store::options());
    let _permit = granted(claim(&store, "k"));
    in_progress(store.claim_or_wait(scope("k"), body(), 20 * MS).unwrap());
}

#[test]
fn one_who_began_to_wait_before_the_claim_was_durable_learns_that_its_lease_has_lapsed() {
    let (store, disk) = hasty(&World::new());
    let gate = disk.hold();
    thread::scope(|threads| {
        let winner = threads.spawn(|| granted(claim(&store, "k")));
        gate.await_sync();
        let (tell, told) = mpsc::channel();
        let store = &store;
        threads.spawn(move || {
            let waited = store.claim_or_wait(scope("k"), body(), Duration::MAX).unwrap();
            tell.send(waited.kind()).ok();
        });
        until(|| store.stats().waits > 0);
        drop(gate);
        let permit = winner.join().unwrap();
        let waited = told.recv_timeout(Duration::from_secs(3));
        // Lets the waiting thread go, whatever became of it.
        drop(permit);
        assert_eq!(waited, Ok("orphaned"));
    });
}
