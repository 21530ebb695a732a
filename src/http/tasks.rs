//! Runs that outlive their connection: counted, and waited for when the server stops.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// What [`IdempotencyLayer::drain`](crate::http::IdempotencyLayer::drain) saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Runs that ended while it waited.
    pub finished: u64,
    /// Runs that had not ended by the deadline: orphans, once the store is closed.
    pub left: u64,
}

/// The runs of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Tasks(Arc<watch::Sender<Counts>>);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    running: u64,
    ended: u64,
    draining: bool,
}

impl Default for Tasks {
    fn default() -> Tasks {
        Tasks(Arc::new(watch::Sender::new(Counts::default())))
    }
}

impl Tasks {
    /// Counts one run until what it returns is dropped; `None` once the layer is draining.
    pub(crate) fn enter(&self) -> Option<Task> {
        let mut entered = false;
        self.0.send_if_modified(|counts| {
            entered = !counts.draining;
            counts.running += u64::from(entered);
            false
        });
        entered.then(|| Task(self.clone()))
    }

    pub(crate) fn running(&self) -> u64 {
        self.0.borrow().running
    }

    /// Refuses further runs, and waits for those under way.
    pub(crate) async fn drain(&self, limit: Duration) -> Drained {
        let mut before = 0;
        self.0.send_modify(|counts| {
            counts.draining = true;
            before = counts.ended;
        });
        let mut watching = self.0.subscribe();
        let all_ended = watching.wait_for(|counts| counts.running == 0);
        // What is left at the limit is counted below.
        tokio::time::timeout(limit, all_ended).await.ok();
        let counts = *self.0.borrow();
        Drained { finished: counts.ended - before, left: counts.running }
    }
}

/// One run under way.
#[derive(Debug)]
pub(crate) struct Task(Tasks);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|counts| {
            counts.running -= 1;
            counts.ended += 1;
            counts.draining
        });
    }
}

/// A future that is finished by a task of its own where it is dropped before it is ready, because
/// the client hung up, say.
pub(crate) struct Detaching<T: Send + 'static> {
    running: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    runtime: Handle,
}

impl<T: Send + 'static> Detaching<T> {
    /// # Panics
    /// Outside of a tokio runtime, as tokio's own timers do.
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static) -> Detaching<T> {
        Detaching { running: Some(Box::pin(future)), runtime: Handle::current() }
    }
}

impl<T: Send + 'static> Future for Detaching<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken while it is polled: one that panics is not left to the task of the drop.
        let mut running = self.running.take().expect("polled before it was ready");
        let polled = running.as_mut().poll(cx);
        if polled.is_pending() {
            self.running = Some(running);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Detaching<T> {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.spawn(async move {
                running.await;
            });
        }
    }
}

pin_project! {
    /// Turns a panic of a future into a value.
    pub(crate) struct Caught<F> {
        #[pin]
        future: F,
    }
}

/// A future panicked, and its panic was reported by the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Panicked;

impl<F> Caught<F> {
    pub(crate) fn new(future: F) -> Caught<F> {
        Caught { future }
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let future = self.project().future;
        // The future is never polled again: what it broke, nobody sees.
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_future_that_panicked_is_not_polled_again_by_a_task() {
        let polls = Arc::new(AtomicU32::new(0));
        let polled = Arc::clone(&polls);
        let panics = poll_fn(move |_| -> Poll<()> {
            polled.fetch_add(1, Ordering::Relaxed);
            panic!("a future that fails on purpose")
        });
        assert_eq!(Caught::new(Detaching::new(panics)).await, Err(Panicked));
        tokio::task::yield_now().await;
        assert_eq!(polls.load(Ordering::Relaxed), 1);
    }
}
