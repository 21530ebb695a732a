//! Power cuts under load, on ext4 and xfs; the ledger of what was acknowledged is in this process,
//! outside the file system that dies. `ONCELOG_POWER_CUTS` cuts for each, and `ONCELOG_SEED`.
//!
//! A round: eight threads of a child write; the power fails, after some number of promises, or
//! while the child still opens the store; then the child is killed, or is left to find out by
//! itself. The store is opened again and held to the ledger, and in every third round the power
//! fails once more while it is open: what was shown must be there after that too.

use std::path::PathBuf;
use std::time::Duration;

use oncelog::{Durability, Store};

use crate::child::{self, Running};
use crate::image::{FileSystem, IMAGE_BYTES_MIN, Image};
use crate::keys::number;
use crate::ledger::{Allowed, Ledger};
use crate::load::{BUFFERED, MODE, ROUND, SYNC_EVERY, name, options};
use crate::rng::Rng;

/// Rounds that a store lives: beyond, its files would fill the image.
const ROUNDS_A_STORE: u64 = 10;

#[test]
fn power_cuts_lose_nothing_acknowledged_on_ext4() {
    cuts(FileSystem::Ext4);
}

#[test]
fn power_cuts_lose_nothing_acknowledged_on_xfs() {
    cuts(FileSystem::Xfs);
}

fn cuts(kind: FileSystem) {
    let (seed, wanted) = (number("ONCELOG_SEED", 1), number("ONCELOG_POWER_CUTS", 25));
    let mut run = Run {
        image: Image::new(kind, 2 * IMAGE_BYTES_MIN),
        store: PathBuf::new(),
        ledger: Ledger::default(),
        rng: Rng::new(seed),
        durability: Durability::Synced,
        cuts: 0,
        opens_cut: 0,
        noticed: 0,
    };
    let mut round = 0;
    while run.cuts < wanted {
        if let Err(error) = run.round(round) {
            panic!("{kind:?}, seed {seed}, round {round}, {:?}: {error}", run.durability);
        }
        round += 1;
    }
    let counts = run.ledger.counts;
    println!(
        "{kind:?}, seed {seed}: {} power cuts, {} of them while a store opened, {} noticed by the \
         child itself; {counts:?}, of {} us that a buffered store may lose",
        run.cuts,
        run.opens_cut,
        run.noticed,
        SYNC_EVERY.as_micros(),
    );
}

struct Run {
    image: Image,
    store: PathBuf,
    ledger: Ledger,
    rng: Rng,
    durability: Durability,
    cuts: u64,
    opens_cut: u64,
    noticed: u64,
}

impl Run {
    fn round(&mut self, round: u64) -> Result<(), String> {
        if round.is_multiple_of(ROUNDS_A_STORE) {
            if round > 0 {
                std::fs::remove_dir_all(&self.store).map_err(|error| error.to_string())?;
            }
            self.store = self.image.dir(&format!("store-{round}"));
            self.ledger = std::mem::take(&mut self.ledger).for_another_store();
        }
        self.durability = if round.is_multiple_of(2) { Durability::Synced } else { BUFFERED };
        self.run_and_cut(round)?;
        self.image.boot();
        let allowed = match self.durability {
            Durability::Synced => Allowed::Nothing,
            Durability::Buffered { sync_every } => Allowed::Suffix(micros_of(sync_every)),
        };
        let mut store = self.open()?;
        self.ledger.check_fresh(&store, allowed)?;
        self.ledger.check_some(&store, &mut self.rng)?;
        if round % 3 == 2 {
            self.image.cut_power();
            self.cuts += 1;
            drop(store);
            self.image.boot();
            store = self.open()?;
            self.ledger.check_fresh(&store, Allowed::Nothing)?;
            self.ledger.check_all(&store).map_err(|error| format!("shown before: {error}"))?;
        }
        if round % ROUNDS_A_STORE == ROUNDS_A_STORE - 1 {
            self.ledger.check_all(&store)?;
            self.ledger.check_totals(&store)?;
        }
        self.ledger.resolve_all(&store)?;
        store.close().map_err(|error| error.to_string())
    }

    fn open(&self) -> Result<Store, String> {
        options(self.durability).open(&self.store).map_err(|error| format!("open: {error}"))
    }

    /// Lets a child write, cuts the power, and hears everything that it told.
    fn run_and_cut(&mut self, round: u64) -> Result<(), String> {
        let mut command = child::command(&[], "load", &self.store);
        command.env(MODE, name(self.durability)).env(ROUND, round.to_string());
        // Either promises of a store that works, or lines of progress while it opens.
        let (opening, wanted) = match round % 5 {
            4 => (true, 1 + self.rng.below(8)),
            _ => (false, 200 + self.rng.below(1_500)),
        };
        // A store that may lose its last moments is to have more than those behind it.
        let lasts = match self.durability {
            Durability::Synced => 0,
            Durability::Buffered { sync_every } => self.rng.below(4) * micros_of(sync_every),
        };
        let killed = self.rng.below(2) == 0;
        let mut child = Running::start(command);
        let (mut heard, mut since, mut cut) = (0, None, None);
        while let Some(line) = child.line() {
            match line.split(' ').next() {
                Some("C" | "S" | "I" | "D" | "R" | "O" | "P") => {}
                // What a call answers once the power is gone; none is acknowledged.
                Some("E") if cut.is_some() && !line.contains("Corrupt") => continue,
                _ => return Err(format!("the child complains: {line}\n{:?}", child.lines())),
            }
            let promise = self.ledger.hear(&line)?;
            heard += u64::from(if opening { line == "P" || promise } else { promise });
            if heard == 0 {
                continue;
            }
            let now = child::micros();
            let long_enough = opening || now - *since.get_or_insert(now) >= lasts;
            if heard >= wanted && long_enough && cut.is_none() {
                cut = Some(now);
                self.image.cut_power();
                if killed {
                    child.kill();
                }
            }
        }
        child.end();
        let cut = cut.ok_or_else(|| format!("the child ended after {heard} of {wanted} lines"))?;
        self.ledger.cut_at(cut);
        self.cuts += 1;
        self.opens_cut += u64::from(opening);
        self.noticed += u64::from(!killed);
        Ok(())
    }
}

fn micros_of(time: Duration) -> u64 {
    time.as_micros() as u64
}
