//! `Buffered`: the bound on what a power cut takes holds because callers wait.

use std::any::Any;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use oncelog::storage::{Access, File, Storage};
use oncelog::{Claim, Durability, Fingerprint, Scope, Store};

use crate::support::disk::SimDisk;

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

#[derive(Debug)]
struct Gated<T: ?Sized> {
    gate: Arc<Gate>,
    held: Box<T>,
}

impl Storage for Gated<SimDisk> {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.held.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.held.list()
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let held = Box::new(self.held.open(name, access)?);
        Ok(Arc::new(Gated { gate: Arc::clone(&self.gate), held }))
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        let held = Box::new(self.held.create(name, bytes)?);
        Ok(Arc::new(Gated { gate: Arc::clone(&self.gate), held }))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.held.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.held.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.held.sync_dir()
    }
}

impl File for Gated<Arc<dyn File>> {
    fn size(&self) -> io::Result<u64> {
        self.held.size()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.held.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.held.write_at(offset, bytes)
    }
    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.held.allocate(range)
    }
    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.held.discard(range)
    }
    fn sync(&self) -> io::Result<()> {
        self.gate.pass();
        self.held.sync()
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
    let gate = Arc::new(Gate::default());
    let storage = Gated { gate: Arc::clone(&gate), held: Box::new(SimDisk::new()) };
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
