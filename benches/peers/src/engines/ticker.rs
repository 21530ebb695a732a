//! A thread that syncs every so often, for peers that leave this to their caller.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::{Result, SYNC_EVERY};

#[derive(Default)]
struct State {
    stopped: bool,
    failed: Option<String>,
}

pub struct Ticker {
    shared: Arc<(Mutex<State>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub fn start(mut sync: impl FnMut() -> Result<()> + Send + 'static) -> Ticker {
        let shared = Arc::<(Mutex<State>, Condvar)>::default();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                loop {
                    let mut state = shared.0.lock();
                    if !state.stopped {
                        shared.1.wait_for(&mut state, SYNC_EVERY);
                    }
                    if state.stopped {
                        return;
                    }
                    drop(state);
                    if let Err(error) = sync() {
                        shared.0.lock().failed = Some(error.to_string());
                        return;
                    }
                }
            }
        });
        Ticker { shared, thread: Some(thread) }
    }

    /// The failure of an earlier sync.
    pub fn check(&self) -> Result<()> {
        self.shared.0.lock().failed.clone().map_or(Ok(()), |failed| Err(failed.into()))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.0.lock().stopped = true;
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the ticker does not panic");
        }
    }
}
