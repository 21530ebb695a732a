//! One seed: lives of a store, one after the other on one disk, each with its own end, and the
//! checks at each new open.

use std::time::{Duration, UNIX_EPOCH};

use oncelog::{Clock, ManualClock, OrphanCause};

use crate::calls::End;
use crate::damage;
use crate::disk::{SimDisk, Survival};
use crate::life::{Blocking, Counts, Life, Open, Phase, Setting};
use crate::model::{KEYS, Ledger, Seen, Slot, short};
use crate::rng::Rng;
use crate::twin::{Span, StoreTime};

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Close,
    Kill,
    /// The power is cut at this step from now.
    Cut(u64),
    /// A call that changes the disk fails at this step from now.
    Fail(u64),
    FailRead(u64),
}

/// Runs a seed; what happened is said if somebody wants to read it.
pub(crate) fn run(seed: u64, traced: bool) -> (Counts, Vec<String>) {
    let mut rng = Rng::new(seed);
    let setting = Setting::draw(&mut rng);
    let clock = ManualClock::at(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let disk = SimDisk::new();
    let time = StoreTime::open(&clock, crate::life::TTL, Span::at(0));
    let mut life = Life {
        rng,
        setting,
        disk,
        clock,
        time,
        ledger: Ledger::new(),
        store: None,
        open: std::collections::BTreeMap::new(),
        permits: Vec::new(),
        orphans: Vec::new(),
        pending: Vec::new(),
        staged: std::collections::VecDeque::new(),
        ids: 0,
        limited: false,
        counts: Counts::default(),
        trace: traced.then(Vec::new),
    };
    life.say(|| format!("seed {seed}: {setting:?}"));
    if traced {
        life.disk.record_trace();
    }
    let lives = 2 + life.rng.below(4);
    for _ in 0..lives {
        life.reopen();
        life.live();
    }
    life.reopen();
    if life.rng.below(3) == 0 {
        damage::run(&mut life);
    }
    let trace = life.trace.take().unwrap_or_default();
    (life.counts, trace)
}

impl Life {
    fn draw_fate(&mut self) -> Fate {
        let within = 1 + self.rng.below(12) * self.rng.below(12);
        match self.rng.below(20) {
            0..2 => Fate::Close,
            2..5 => Fate::Kill,
            5..13 => Fate::Cut(within),
            13..18 => Fate::Fail(within),
            _ => Fate::FailRead(within),
        }
    }

    fn arm(&mut self, fate: Fate) {
        match fate {
            Fate::Close | Fate::Kill => {}
            Fate::Cut(within) => self.disk.crash_at(self.disk.steps() + within),
            Fate::Fail(within) => {
                let kinds = [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull];
                let kind = kinds[self.rng.below(2) as usize];
                let parts = self.rng.next() as u8;
                self.disk.fail_after(self.disk.steps() + within, kind, parts);
            }
            Fate::FailRead(within) => self.disk.fail_read_after(within),
        }
    }

    /// Calls until the life's end, and the end.
    fn live(&mut self) {
        let fate = self.draw_fate();
        self.arm(fate);
        self.say(|| format!("a life that ends by {fate:?}"));
        let calls = 4 + self.rng.below(10) * self.rng.below(10);
        for _ in 0..calls {
            self.call();
            self.counts.calls += 1;
            if self.is_broken() {
                break;
            }
            let key = self.rng.below(KEYS as u64) as usize;
            self.check(key..key + 1);
        }
        if !self.is_broken() {
            self.time.read();
            self.check(0..KEYS);
            self.check_unresolved();
        }
        if self.disk.faults() > 0 && !self.disk.is_off() {
            self.counts.faults += 1;
            self.check_after_fault();
        }
        if fate == Fate::Close && !self.is_broken() {
            return self.close();
        }
        // A `Buffered` store loses nothing that it acknowledged when only the process dies.
        let all_acknowledged = self.is_buffered() && !self.is_broken();
        let last = self.ledger.history.len() - 1;
        self.ledger.floor = if all_acknowledged { last } else { self.ledger.durable };
        self.die();
    }

    fn call(&mut self) {
        let key = self.rng.below(KEYS as u64) as usize;
        let which = u8::from(self.rng.below(12) == 0);
        let choice = self.rng.below(128);
        self.say(|| format!("call {choice} on key {key}/{which}"));
        match choice {
            0..26 => self.claim(key, which),
            26..36 => self.claim_later(key, which, false),
            36..40 => self.claim_later(key, which, true),
            40..43 => self.claim_many(key, which),
            43..95 => self.use_something(),
            95..100 => self.find_orphan(key),
            100..103 => self.sync(),
            103..110 => self.pass(),
            110..114 => self.expire(),
            114..116 => self.forget(key),
            116 => self.forget_organization(key),
            117 => self.verify(),
            118 => self.backup(),
            119 => self.accept_clock(),
            120..122 => self.limit(),
            _ => self.check_unresolved(),
        }
    }

    /// Something that somebody holds, whoever got it.
    fn use_something(&mut self) {
        let kinds = [self.permits.len(), self.pending.len(), self.orphans.len()];
        let total: usize = kinds.iter().sum();
        if total == 0 {
            return;
        }
        let at = self.rng.below(total as u64) as usize;
        if at < kinds[0] {
            return self.use_permit(at);
        }
        let at = at - kinds[0];
        if at < kinds[1] {
            let pending = self.pending.swap_remove(at);
            return match self.rng.below(8) {
                0 => self.drop_pending(pending),
                _ => self.poll_pending(pending),
            };
        }
        let found = self.orphans.swap_remove(at - kinds[1]);
        match self.rng.below(8) {
            0..5 => self.take_over(found),
            5 => self.end_orphan(found, End::Complete),
            6 => self.end_orphan(found, End::Release),
            _ => {}
        }
    }

    fn use_permit(&mut self, at: usize) {
        let choice = self.rng.below(32);
        match choice {
            0..3 => return self.checkpoint(at, Blocking::Yes),
            3..5 => return self.checkpoint(at, Blocking::No),
            5..7 => return self.renew(at),
            _ => {}
        }
        let held = self.permits.swap_remove(at);
        match choice {
            7..15 => self.end_by_permit(held, End::Complete),
            15 => self.end_by_permit(held, End::CompleteWithout),
            16..18 => self.end_by_permit(held, End::Release),
            18..20 => self.end_by_permit(held, End::GiveUp),
            20..26 => self.end_later(held, End::Complete),
            26 => self.end_later(held, End::CompleteWithout),
            27 => self.end_later(held, End::Release),
            // On a full disk it may be refused, which a future tells later than the model asks.
            28 if !self.limited => self.end_later(held, End::GiveUp),
            _ => self.drop_permit(held),
        }
    }

    /// The disk gets full, or there is room again.
    fn limit(&mut self) {
        self.limited = self.rng.below(2) == 0;
        let bytes = self.disk.taken() + self.rng.below(40) * 4096;
        self.disk.limit(self.limited.then_some(bytes));
        self.say(|| format!("  room for {bytes} bytes"));
    }

    /// A poisoned store still shows what is durable, and nothing that it was not given.
    fn check_after_fault(&mut self) {
        self.time.read();
        let (durable, last) = (self.ledger.durable, self.ledger.history.len() - 1);
        for key in 0..KEYS {
            if self.ledger.maybe_forgotten.contains(&key) {
                continue;
            }
            let history = &self.ledger.history[durable..=last];
            let is_settled = history.iter().all(|world| world[key] == history[0][key]);
            match self.look_up(key) {
                Ok(Seen::Running { .. }) => {}
                Ok(Seen::Orphan(_)) if self.open.contains_key(&key) => {}
                Ok(seen) => {
                    let mut worlds = history.iter();
                    let known = worlds.any(|w| self.ledger.shows(&w[key], &seen, self.time.now));
                    assert!(known, "key {key} of a store with a fault shows {}", short(&seen));
                }
                Err(error) => {
                    let done = matches!(history[0][key], Slot::Done { .. });
                    assert!(!(done && is_settled), "key {key} is durable, but {error}");
                }
            }
        }
    }

    fn close(&mut self) {
        let store = self.store.take().expect("open");
        match store.close() {
            Ok(()) => {
                self.ledger.all_durable();
                self.ledger.floor = self.ledger.durable;
            }
            Err(error) => assert!(
                self.is_broken() || Life::is_refusal(&error),
                "a close failed where nothing was made to fail: {error}"
            ),
        }
        self.disk = self.disk.after_kill();
        self.forget_process();
    }

    /// The process or the machine stops.
    fn die(&mut self) {
        self.counts.crashes += 1;
        let disk = if !self.disk.is_off() && self.rng.below(2) == 0 {
            self.disk.after_kill()
        } else {
            // What outlived the process in the page cache goes now.
            self.ledger.floor = self.ledger.durable;
            self.power_cut()
        };
        self.say_disk();
        self.forget_process();
        self.disk = disk;
        if self.trace.is_some() {
            self.disk.record_trace();
        }
    }

    fn power_cut(&mut self) -> SimDisk {
        let all = [Survival::None, Survival::All, Survival::Random, Survival::Torn];
        let survival = all[[0, 1, 2, 2, 3, 3][self.rng.below(6) as usize]];
        self.say(|| format!("power is cut, {survival:?}"));
        let seed = self.rng.next();
        self.disk.after_power_cut(seed, survival)
    }

    fn say_disk(&mut self) {
        for (at, step) in self.disk.trace().into_iter().enumerate() {
            self.say(|| format!("    disk {at}: {step}"));
        }
    }

    /// Time may pass while nothing runs, and the clock may be set.
    fn stop_for_a_while(&mut self) {
        match self.rng.below(12) {
            0..3 => self.clock.advance(Duration::from_secs(self.rng.below(20_000))),
            3 => {
                let back = Duration::from_secs(self.rng.below(20_000));
                self.clock.set_wall(self.clock.wall() - back);
            }
            // Further than a stop that is believed.
            4 if self.ledger.durable_time() > 0 => {
                let days = Duration::from_secs(40 * 24 * 3600);
                self.clock.set_wall(self.clock.wall() + days);
            }
            _ => {}
        }
    }

    /// Opens the store again, through crashes and faults on the way, and checks what it shows.
    fn reopen(&mut self) {
        self.stop_for_a_while();
        let mut mark = Span { lo: self.ledger.durable_time(), hi: self.time.now.hi };
        for _ in 0..self.rng.below(3) {
            let within = self.rng.below(24);
            let fate = [Fate::Cut(within), Fate::Fail(within), Fate::FailRead(within)]
                [self.rng.below(3) as usize];
            self.arm(fate);
            self.say(|| format!("a recovery meets {fate:?}"));
            let opened = self.open_store();
            let time = StoreTime::open(&self.clock, crate::life::TTL, mark);
            mark.hi = mark.hi.max(time.now.hi);
            if let Err(error) = &opened {
                self.say(|| format!("  {error}"));
                self.excuse("an open", error);
                self.counts.recoveries_cut += 1;
            }
            self.counts.faults += u64::from(self.disk.faults() > 0);
            // It has acknowledged nothing, and is gone again.
            self.die();
        }
        if let Err(error) = self.open_store() {
            panic!("the store does not open: {error}");
        }
        self.time = StoreTime::open(&self.clock, crate::life::TTL, mark);
        let seen = self.observe();
        let recovery = self.store().recovery().clone();
        self.say(|| format!("opened: {recovery:?}"));
        if let Err(differences) = self.ledger.reopen(&seen, self.time.now) {
            panic!("{differences}\n{recovery:?}");
        }
        if self.rng.below(4) == 0 {
            self.reopen_as_it_was(&seen);
        }
        self.become_orphans(&seen);
        self.check(0..KEYS);
        if self.rng.below(4) == 0 {
            self.verify();
        }
    }

    fn observe(&mut self) -> Vec<Seen> {
        (0..KEYS)
            .map(|key| {
                self.look_up(key)
                    .unwrap_or_else(|error| panic!("key {key} of a store just opened: {error}"))
            })
            .collect()
    }

    /// What an open has shown is durable, and shown again.
    fn reopen_as_it_was(&mut self, seen: &[Seen]) {
        let disk = self.disk.after_power_cut(self.rng.next(), Survival::None);
        self.counts.crashes += 1;
        self.say_disk();
        self.forget_process();
        self.disk = disk;
        if let Err(error) = self.open_store() {
            panic!("the store does not open a second time: {error}");
        }
        let again = self.observe();
        assert_eq!(seen, again, "a second open shows something else");
    }

    fn become_orphans(&mut self, seen: &[Seen]) {
        for (key, slot) in self.ledger.world().iter().enumerate() {
            let Slot::Open { attempt, failed, checkpoint, .. } = slot else { continue };
            let cause = if *failed { OrphanCause::Failed } else { OrphanCause::Crash };
            let ended = Some(match &seen[key] {
                Seen::Orphan(orphan) => orphan.cause,
                _ => cause,
            });
            let open = Open {
                attempt: *attempt,
                phase: Phase::Open,
                deadline: 0,
                permit: false,
                alive: Span::at(0),
                ended,
                cause: None,
                checkpoint: *checkpoint,
                unseen: seen[key] == Seen::Absent,
            };
            self.open.insert(key, open);
        }
    }
}
