//! Damage of synced bytes: bits that rot, writes that land elsewhere. A damaged record is reported,
//! and is never a free scope or a wrong answer.
//!
//! What no later promise covers cannot be told from a torn tail, so damage is done to a store that
//! was closed, or behind which a promise was made durable.

use std::sync::Arc;

use oncelog::{Claim, Error};

use crate::disk::{SimDisk, Survival};
use crate::life::{Life, fingerprint, with_scope};
use crate::model::{KEYS, Slot, seen, short};
use crate::twin::{Span, StoreTime};

/// More than the records take that promise what came before them.
const PROMISING: usize = 4096 + 512;

/// Damages one place of the disk, and opens what is left.
pub(crate) fn run(life: &mut Life) {
    if life.limited {
        life.limited = false;
        life.disk.limit(None);
    }
    let closed = life.rng.below(2) == 0;
    let keep = if closed { close(life) } else { promise(life) };
    life.counts.damages += 1;
    let disk = life.disk.after_power_cut(life.rng.next(), Survival::None);
    let what = strike(life, &disk, keep);
    life.say(|| what.clone());
    life.forget_process();
    life.disk = disk;
    let mark = Span { lo: life.ledger.durable_time(), hi: life.time.now.hi };
    let opened = life.setting.options(&life.clock).open_on(Arc::new(life.disk.clone()));
    let store = match opened {
        Ok(store) => store,
        Err(error @ Error::Corrupt { .. }) => {
            life.counts.corrupt += 1;
            return life.say(|| format!("  {error}"));
        }
        Err(error @ Error::Version { .. }) => return life.say(|| format!("  {error}")),
        Err(error) => panic!("{what}: opens with {error}"),
    };
    life.time = StoreTime::open(&life.clock, crate::life::TTL, mark);
    let mut damaged = 0;
    for key in 0..KEYS {
        let slot = life.ledger.world()[key].clone();
        match seen(with_scope(key, |scope| store.lookup(scope))) {
            Ok(seen) => assert!(
                life.ledger.shows(&slot, &seen, life.time.now),
                "{what}: key {key} shows {} for {slot:?}",
                short(&seen)
            ),
            Err(Error::Corrupt { .. }) => {
                damaged += 1;
                check_claim(life, &store, key, &slot, &what);
            }
            Err(error) => panic!("{what}: key {key}: {error}"),
        }
    }
    life.counts.corrupt += u64::from(damaged > 0);
    let found = store.verify().expect("damage is found, not an error");
    assert!(damaged == 0 || !found.is_clean(), "{what}: a verification finds nothing");
    life.say(|| format!("  {damaged} keys are damaged: {:?}", found.damage));
}

/// A scope with a damaged record is not granted.
fn check_claim(life: &Life, store: &oncelog::Store, key: usize, slot: &Slot, what: &str) {
    if !slot.is_live(life.time.now) {
        return;
    }
    match with_scope(key, |scope| store.claim(scope, fingerprint(key, 0))) {
        Err(Error::Corrupt { .. }) => {}
        Ok(Claim::Granted(permit)) => panic!("{what}: key {key} was granted: {permit:?}"),
        other => panic!("{what}: key {key} came to {other:?}"),
    }
}

fn close(life: &mut Life) -> usize {
    let store = life.store.take().expect("open");
    life.pending.clear();
    store.close().expect("nothing is made to fail");
    life.ledger.all_durable();
    0
}

/// Makes two records durable that promise what came before; the bytes that they take.
fn promise(life: &mut Life) -> usize {
    let store = life.store();
    store.sync().expect("nothing is made to fail");
    life.ledger.all_durable();
    for name in ["one", "two"] {
        let path = "p".repeat(1_000);
        let scope = oncelog::Scope { organization: "", method: "GET", path: &path, key: name };
        // Where there is no room for them nothing is damaged.
        let Ok(Claim::Granted(permit)) = store.claim(scope, fingerprint(0, 0)) else {
            return usize::MAX;
        };
        permit.release().expect("nothing is made to fail");
        store.sync().expect("nothing is made to fail");
    }
    PROMISING
}

/// Damages one place; `keep` bytes at the end of the log are spared.
fn strike(life: &mut Life, disk: &SimDisk, keep: usize) -> String {
    let holds_bytes = |name: &String| disk.read(name).is_some_and(|bytes| !bytes.is_empty());
    let names: Vec<String> = disk.names().into_iter().filter(holds_bytes).collect();
    let name = &names[life.rng.below(names.len() as u64) as usize];
    let bytes = disk.read(name).expect("it is listed");
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    // A hint file ends with a checksum, whose last byte is zero in one store of 256: a seed would
    // not strike the same place each time.
    let used = if name.ends_with(".idx") { used.next_multiple_of(16) } else { used };
    let has_records = |name: &&String| {
        let bytes = disk.read(name).expect("it is listed");
        name.ends_with(".seg") && bytes.iter().any(|&byte| byte != 0)
    };
    let last = names.iter().rfind(has_records);
    let end = if last == Some(name) { used.saturating_sub(keep) } else { used };
    if end == 0 || keep == usize::MAX {
        return "nothing to damage".to_owned();
    }
    let at = life.rng.below(end as u64);
    if life.rng.below(2) == 0 {
        let bit = 1 << life.rng.below(8);
        disk.corrupt(name, at, bit);
        return format!("bit {bit} of byte {at} of {name} rots");
    }
    // Sectors of one place are found in another, of this or any other file.
    let from = &names[life.rng.below(names.len() as u64) as usize];
    let source = disk.read(from).expect("it is listed");
    let (to, sectors) = (at / 512 * 512, 1 + life.rng.below(8));
    let start = life.rng.below(source.len() as u64) / 512 * 512;
    let len = (sectors * 512).min(end as u64 - to).min(source.len() as u64 - start);
    let moved = &source[start as usize..(start + len) as usize];
    disk.overwrite(name, to, moved);
    format!("{len} bytes of {from} at {start} are written to {name} at {to}")
}
