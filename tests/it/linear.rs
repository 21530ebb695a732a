//! Many callers of the real store on few scopes: what they saw could have happened one call after
//! the other.

use std::thread;

use oncelog::{Durability, Store};
use std::time::Duration;

use crate::support::caller::{Caller, Order};
use crate::support::history::is_linearizable;

const CALLERS: usize = 16;
const CALLS: usize = 6;
const SCOPES: usize = 3;

/// Rounds of `CALLERS` threads on fresh scopes, each judged by itself.
fn histories_are_linearizable(durability: Durability) {
    let rounds = std::env::var("ONCELOG_HISTORIES").map_or(100, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let store = Store::options().durability(durability).open(dir.path()).unwrap();
    let mut overlapping = 0;
    for round in 0..rounds {
        let keys: Vec<String> = (0..SCOPES).map(|scope| format!("{round}-{scope}")).collect();
        let order = Order::default();
        let mut histories = vec![Vec::new(); SCOPES];
        thread::scope(|threads| {
            let spawn = |caller: usize| {
                let seed = round * CALLERS as u64 + caller as u64;
                let mut caller = Caller::new(&store, &order, &keys, seed);
                threads.spawn(move || {
                    (0..CALLS).for_each(|_| caller.call());
                    caller.history()
                })
            };
            let callers: Vec<_> = (0..CALLERS).map(spawn).collect();
            for caller in callers {
                for (history, seen) in histories.iter_mut().zip(caller.join().unwrap()) {
                    history.extend(seen);
                }
            }
        });
        for history in &mut histories {
            history.sort_by_key(|event| event.started);
            overlapping += history.windows(2).filter(|w| w[1].started < w[0].returned).count();
            assert!(is_linearizable(history), "round {round}: {history:#?}");
        }
    }
    assert!(overlapping > 0, "nothing ran at once, so nothing was tested");
}

#[test]
fn synced_histories_of_16_threads_are_linearizable() {
    histories_are_linearizable(Durability::Synced);
}

#[test]
fn buffered_histories_of_16_threads_are_linearizable() {
    histories_are_linearizable(Durability::Buffered { sync_every: Duration::from_millis(5) });
}
