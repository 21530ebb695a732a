//! `Buffered`: the bound on what a power cut takes holds because callers wait.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use oncelog::{Claim, Durability, Fingerprint, Scope, Store};

use crate::support::disk::SimDisk;
use crate::support::intercept::{Intercept, Intercepted, Target};

/// Holds syncs back while it is shut.
#[derive(Debug, Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn close(&self) {
        *self.shut.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.shut.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let shut = self.shut.lock().unwrap();
        drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
    }
}

impl Intercept for Gate {
    fn sync(&self, target: Target<'_>) -> io::Result<()> {
        self.pass();
        target.file.sync()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn callers_wait_rather_than_let_the_unsynced_time_grow() {
    let sync_every = Duration::from_millis(2);
    let storage = Intercepted::new(&SimDisk::new(), Gate::default());
    let gate = Arc::clone(&storage.by);
    let options = Store::options().durability(Durability::Buffered { sync_every });
    let store = options.open_on(Arc::new(storage)).unwrap();
    let scope = |key| Scope { organization: "", method: "POST", path: "/", key };
    gate.close();
    let first = store.claim(scope("first"), Fingerprint::of(b"")).unwrap();
    assert!(matches!(first, Claim::Granted(_)), "{first:?}");
    let start = Instant::now();
    while start.elapsed() <= sync_every * 2 {
        std::hint::spin_loop();
    }
    let mut second = pin!(store.claim_async(scope("second"), Fingerprint::of(b"")));
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    assert!(second.as_mut().poll(&mut cx).is_pending(), "granted beyond the bound");
    gate.open();
    let granted = loop {
        match second.as_mut().poll(&mut cx) {
            Poll::Ready(claim) => break claim.unwrap(),
            Poll::Pending => std::thread::park(),
        }
    };
    assert!(matches!(granted, Claim::Granted(_)), "{granted:?}");
}
