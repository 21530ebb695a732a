//! Eight threads that claim, complete, release and save, until the process or its disk ends.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use oncelog::{Claim, Durability, Error, Options, Permit, Store};

use crate::child::{micros, tell, tell_error};
use crate::keys::{Plan, checkpoint, fingerprint, number, plan, response, scope};

pub(crate) const THREADS: u64 = 8;
pub(crate) const ROUND: &str = "ONCELOG_KERNEL_ROUND";
pub(crate) const MODE: &str = "ONCELOG_KERNEL_MODE";
pub(crate) const SYNC_EVERY: Duration = Duration::from_millis(40);
pub(crate) const BUFFERED: Durability = Durability::Buffered { sync_every: SYNC_EVERY };

/// Small segments, so that every round fills some.
pub(crate) fn options(durability: Durability) -> Options {
    let options = Store::options().durability(durability);
    options.segment_bytes(1 << 20).response_bytes_max(64 << 10)
}

/// The name of a durability for the child.
pub(crate) fn name(durability: Durability) -> &'static str {
    if durability == Durability::Synced { "synced" } else { "buffered" }
}

/// The durability that the parent named.
pub(crate) fn durability() -> Durability {
    match std::env::var(MODE).as_deref() {
        Ok("synced") => Durability::Synced,
        Ok("buffered") => BUFFERED,
        other => panic!("no such durability: {other:?}"),
    }
}

pub(crate) fn child(dir: &Path) {
    let round = number(ROUND, 0);
    tell("O");
    let options = options(durability()).progress(|_| tell("P"));
    let store = match options.open(dir) {
        Ok(store) => store,
        Err(error) => return tell_error("open", &error),
    };
    // The permits of claims that stay open: a permit that is dropped would be an orphan at once.
    let kept = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, kept) = (&store, &kept);
            scope.spawn(move || {
                for nth in 0_u64.. {
                    let key = format!("{round}-{thread}-{nth}");
                    match claim_and_end(store, &key) {
                        Ok(None) => {}
                        Ok(Some(permit)) => kept.lock().unwrap().push(permit),
                        Err(error) => return tell_error(&key, &error),
                    }
                }
            });
        }
    });
}

/// One claim from beginning to end, as its key plans it, telling of all of it. A permit that stays
/// open comes back.
pub(crate) fn claim_and_end(store: &Store, key: &str) -> Result<Option<Permit>, Error> {
    let begun = micros();
    let claim = store.claim(scope(key), fingerprint(key))?;
    let Claim::Granted(permit) = claim else { panic!("{key} was not granted: {claim:?}") };
    let (token, operation) = (permit.token(), permit.operation());
    tell(&format!("C {key} {token} {operation} {begun} {}", micros()));
    end(permit, key)
}

/// Ends a claim as its key plans it.
pub(crate) fn end(permit: Permit, key: &str) -> Result<Option<Permit>, Error> {
    let plan = plan(key);
    let begun = micros();
    if plan == Plan::Stay {
        permit.save_checkpoint(&checkpoint(key))?;
        tell(&format!("S {key} {begun} {}", micros()));
        return Ok(Some(permit));
    }
    tell(&format!("I {key}"));
    let begun = micros();
    if plan == Plan::Complete {
        let stored = permit.complete(&response(key))?;
        let letter = if stored.bytes().is_some() { "D" } else { "N" };
        tell(&format!("{letter} {key} {begun} {}", micros()));
    } else {
        permit.release()?;
        tell(&format!("R {key} {begun} {}", micros()));
    }
    Ok(None)
}
