//! The state machine that the checker explores: a disk, a process, and what the outside world was
//! told. The last is the ghost that every open is held against.

use stateright::{Model, Property};

use crate::disk::{Change, Disk, Kind, Lsn, Operation, Record, Step, Subset};
use crate::log::{Durability, Entry, Holder, Log, Open, Progress};
use crate::recovery::{self, Opening};
use crate::rules::{Rule, Without};

/// How long a response is kept, in ticks.
const TTL: u8 = 1;

pub(crate) const SURVIVES: &str = "an acknowledged claim or response survives";
pub(crate) const ENDED: &str = "what has ended does not come back";
pub(crate) const ONE_GRANT: &str = "a scope is granted once per lifetime, take-overs apart";
pub(crate) const TOKENS: &str = "tokens only rise";
pub(crate) const OPERATIONS: &str = "no operation id comes twice";
pub(crate) const EXPIRY: &str = "nothing expires early";
pub(crate) const OPENS: &str = "a crash never makes the store refuse to open";
pub(crate) const SETTLED: &str = "no claim is left half-way once nothing is staged";

/// The promises that an event can break.
const PROMISES: [&str; 6] = [SURVIVES, ENDED, ONE_GRANT, TOKENS, OPERATIONS, EXPIRY];

/// How much happens at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    pub(crate) scopes: usize,
    pub(crate) claims: u8,
    pub(crate) rolls: u8,
    pub(crate) crashes: u8,
    pub(crate) failed_syncs: u8,
    pub(crate) ticks: u8,
    pub(crate) closes: u8,
    pub(crate) rotten_slots: u8,
    /// Futures of a claim that are dropped before they yield.
    pub(crate) left: u8,
    pub(crate) restores: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    pub(crate) durability: Durability,
    pub(crate) most: Bounds,
    pub(crate) without: Without,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    disk: Disk,
    process: Process,
    world: World,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Process {
    Down,
    Opening {
        steps: Vec<Step>,
        log: Box<Log>,
        remade: Option<Lsn>,
    },
    Running(Box<Log>),
    /// A sync failed: nothing more is acknowledged.
    Poisoned,
    Refused(&'static str),
}

/// What is true of the world whatever the store says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: u8,
    /// How often this store or a copy of it was opened.
    opens: u8,
    used: Bounds,
    /// Every record that began or ended a claim, as far as it was not lost for good.
    history: Vec<Record>,
    /// While no process runs: what the next open has to find, if only a process died, and if
    /// the power was cut.
    must: (Lsn, Lsn),
    /// The acknowledged lifetime of each scope, and when it ends.
    live: Vec<Option<(Operation, Option<u8>)>>,
    token_max: Lsn,
    operations: Vec<Operation>,
    /// By place in `PROMISES`.
    broken: [bool; PROMISES.len()],
    copy: Option<Box<(Disk, World)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Claim(usize),
    TakeOver(usize),
    Complete(usize),
    Release(usize),
    /// The future of a staged claim is dropped.
    Leave(usize),
    Roll,
    /// A claim is carried by itself, where a roll does not do so.
    CarryLate,
    Lead,
    /// The next step of the batch under way, of a roll's writes, of a drop, or of an open.
    Commit,
    Write,
    Drop,
    DropStep,
    Recover,
    FailSync(Subset),
    Tick,
    Close,
    Kill,
    CutPower(Subset),
    Rot(usize),
    Copy,
    Restore,
    Open,
}

/// What a scope is, whoever is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Free,
    Open(Lsn, Operation),
    Done(Lsn, Operation, u8),
}

impl World {
    fn breaks(&mut self, promise: &str) {
        let at = PROMISES.iter().position(|name| *name == promise);
        self.broken[at.expect("a promise that an event can break")] = true;
    }

    /// What the first `count` records of the history come to.
    fn fates(&self, count: usize) -> Vec<Fate> {
        let mut fates = vec![Fate::Free; self.live.len()];
        for record in &self.history[..count] {
            match record.kind {
                Kind::Claim { scope, operation, .. } => {
                    fates[scope] = Fate::Open(record.lsn, operation);
                }
                Kind::Complete { scope, token, operation, expires } => {
                    fates[scope] = Fate::Done(token, operation, expires);
                }
                Kind::Release { token } => {
                    let of =
                        |fate: &&mut Fate| matches!(fate, Fate::Open(open, _) if *open == token);
                    if let Some(fate) = fates.iter_mut().find(of) {
                        *fate = Fate::Free;
                    }
                }
                Kind::Carried { .. } | Kind::Seal | Kind::Clean => {}
            }
        }
        fates.into_iter().map(|fate| self.unless_past(fate)).collect()
    }

    fn unless_past(&self, fate: Fate) -> Fate {
        if matches!(fate, Fate::Done(_, _, expires) if expires <= self.now) {
            return Fate::Free;
        }
        fate
    }

    fn fate_of(&self, entry: Entry) -> Fate {
        match entry {
            Entry::Free | Entry::Staged(_) => Fate::Free,
            Entry::Open(open) | Entry::Ending(open) => Fate::Open(open.token, open.operation),
            Entry::Done { token, operation, expires } => {
                self.unless_past(Fate::Done(token, operation, expires))
            }
        }
    }

    /// How many records of the history are at or below `lsn`.
    fn upto(&self, lsn: Lsn) -> usize {
        self.history.iter().take_while(|record| record.lsn <= lsn).count()
    }

    fn last_upto(&self, lsn: Lsn) -> Lsn {
        self.history[..self.upto(lsn)].last().map_or(Lsn::ZERO, |record| record.lsn)
    }

    /// The process ends while `log` ran: what the next one has to find.
    fn remember(&mut self, log: &Log, durability: Durability) {
        let acknowledged = self.last_upto(log.published);
        let durable = match durability {
            Durability::Synced => acknowledged,
            Durability::Buffered => self.last_upto(log.durable),
        };
        self.must = (acknowledged, durable);
    }

    /// Holds what an open found against what was acknowledged. From here on the store is what
    /// this open says, so that the next one has to say it too.
    fn judge(&mut self, opening: &Opening, disk: &Disk) {
        let kept = self.upto(opening.last).max(self.upto(self.must.0));
        let expected = self.fates(kept);
        // What a store that has broken a promise says next is no news of the protocol.
        let sound = !self.broken.contains(&true);
        for (scope, entry) in opening.log.scopes.iter().enumerate() {
            match (expected[scope], self.fate_of(*entry)) {
                (expected, found) if expected == found || !sound => {}
                (Fate::Free, _) => self.breaks(ENDED),
                (Fate::Done(..), Fate::Open(..)) => {
                    self.breaks(ENDED);
                    self.breaks(SURVIVES);
                }
                _ => self.breaks(SURVIVES),
            }
        }
        self.history.truncate(kept);
        self.must.0 = self.last_upto(opening.last);
        if disk.is_settled() {
            self.must.1 = self.must.0;
        }
        let live = |fate: &Fate| match *fate {
            Fate::Free => None,
            Fate::Open(_, operation) => Some((operation, None)),
            Fate::Done(_, operation, expires) => Some((operation, Some(expires))),
        };
        self.live = expected.iter().map(live).collect();
    }

    /// A permit is handed out.
    fn grant(&mut self, scope: usize, open: &Open) {
        if open.token <= self.token_max {
            self.breaks(TOKENS);
        }
        self.token_max = self.token_max.max(open.token);
        if open.attempt > 1 {
            return;
        }
        if self.live[scope].is_some_and(|(_, expires)| expires.is_none_or(|at| at > self.now)) {
            self.breaks(ONE_GRANT);
        }
        if self.operations.contains(&open.operation) {
            self.breaks(OPERATIONS);
        }
        self.operations.push(open.operation);
        self.live[scope] = Some((open.operation, None));
    }
}

impl State {
    /// Stages a record that callers wait for, and in `Buffered` mode acknowledges it.
    fn stage(&mut self, model: &Protocol, log: &mut Log, kind: Kind) -> Record {
        let record = log.stage(&mut self.disk, model.durability, kind);
        self.world.history.push(record);
        record
    }

    fn acknowledge_written(&mut self, model: &Protocol, log: &mut Log) {
        if model.durability == Durability::Buffered && log.writing.is_empty() {
            let due = log.due(log.last);
            self.publish(model, log, &due);
        }
    }

    fn publish(&mut self, model: &Protocol, log: &mut Log, deeds: &[Record]) {
        for deed in deeds {
            match deed.kind {
                Kind::Claim { scope, .. } => self.publish_claim(model, log, scope, deed.lsn),
                Kind::Complete { scope, token, operation, expires } => {
                    log.scopes[scope] = Entry::Done { token, operation, expires };
                    self.world.live[scope] = Some((operation, Some(expires)));
                }
                Kind::Release { token } => {
                    let of = |entry: &Entry| matches!(entry, Entry::Ending(o) if o.token == token);
                    let scope = log.scopes.iter().position(of).expect("an ending claim");
                    log.scopes[scope] = Entry::Free;
                    self.world.live[scope] = None;
                }
                Kind::Carried { .. } | Kind::Seal | Kind::Clean => unreachable!("nobody waits"),
            }
        }
    }

    fn publish_claim(&mut self, model: &Protocol, log: &mut Log, scope: usize, token: Lsn) {
        let Entry::Staged(open) = log.scopes[scope] else { unreachable!("it was staged") };
        assert_eq!(open.token, token, "a scope has one staged claim");
        if open.holder == Holder::Permit {
            self.world.grant(scope, &open);
            log.scopes[scope] = Entry::Open(open);
        } else if !model.without.keeps(Rule::CommitterPublishes) {
            // Whoever would have published it is gone.
        } else if open.attempt > 1 {
            log.scopes[scope] = Entry::Open(Open { holder: Holder::Nobody, ..open });
        } else {
            // Nobody ran it.
            log.scopes[scope] = Entry::Ending(open);
            self.stage(model, log, Kind::Release { token });
        }
    }

    /// The end of every process: what it knew is gone.
    fn stop(&mut self, model: &Protocol) {
        if let Process::Running(log) = &self.process {
            self.world.remember(log, model.durability);
        }
        self.process = Process::Down;
    }

    /// An action of a running process. `None` where it cannot happen now.
    fn run(&mut self, model: &Protocol, log: &mut Log, action: Action) -> Option<()> {
        match action {
            Action::Claim(scope) => {
                self.world.used.scopes = self.world.used.scopes.max(scope + 1);
                let secret = if model.without.keeps(Rule::SecretPerOpen) { log.secret } else { 0 };
                let operation = (log.next, secret);
                self.claim(model, log, scope, operation, 1);
            }
            Action::TakeOver(scope) => {
                let Entry::Open(open) = log.scopes[scope] else { return None };
                self.claim(model, log, scope, open.operation, open.attempt + 1);
            }
            Action::Complete(scope) => {
                let Entry::Open(open) = log.scopes[scope] else { return None };
                let Open { token, operation, .. } = open;
                let expires = self.world.now + TTL;
                log.scopes[scope] = Entry::Ending(open);
                self.stage(model, log, Kind::Complete { scope, token, operation, expires });
            }
            Action::Release(scope) => {
                let Entry::Open(open) = log.scopes[scope] else { return None };
                log.scopes[scope] = Entry::Ending(open);
                self.stage(model, log, Kind::Release { token: open.token });
            }
            Action::Leave(scope) => {
                let Entry::Staged(open) = &mut log.scopes[scope] else { return None };
                open.holder = Holder::Gone;
            }
            Action::Roll => log.roll(&mut self.disk, model.durability, &model.without),
            Action::CarryLate => log.carry_late(&mut self.disk, model.durability),
            Action::Close => self.close(model, log),
            _ => return None,
        }
        self.acknowledge_written(model, log);
        Some(())
    }

    fn claim(&mut self, model: &Protocol, log: &mut Log, scope: usize, of: Operation, attempt: u8) {
        let record = self.stage(model, log, Kind::Claim { scope, operation: of, attempt });
        let (token, holder) = (record.lsn, Holder::Permit);
        log.scopes[scope] = Entry::Staged(Open { token, operation: of, attempt, holder });
    }

    /// Everything is durable by now; what follows makes the end of the log known.
    fn close(&mut self, model: &Protocol, log: &mut Log) {
        let seals = !model.without.keeps(Rule::CloseSealsNothing);
        let (record, write) = log.push(if seals { Kind::Seal } else { Kind::Clean });
        let (tail, durable) = (log.tail, record.lsn);
        let change = if seals {
            Change::Sealed { sealed: tail, tail, durable }
        } else {
            Change::Durable(durable)
        };
        log.closing = Progress::Yes;
        log.staged.push(write);
        log.take_work(&model.without);
        let work = log.work.as_mut().expect("just taken");
        work.steps.push(Step::Slot(change));
    }

    /// A step of a batch: consecutive writes are one call, whose bytes a power cut may part.
    fn commit(&mut self, model: &Protocol, log: &mut Log) -> Option<()> {
        let work = log.work.as_mut()?;
        let writes = work.steps.iter().take_while(|step| matches!(step, Step::Write { .. }));
        let count = writes.count().max(1).min(work.steps.len());
        work.steps.drain(..count).for_each(|step| self.disk.take(step));
        if work.steps.is_empty() {
            let deeds = log.finish_work();
            self.publish(model, log, &deeds);
        }
        Some(())
    }

    /// Whether the oldest segment can be dropped.
    fn oldest_is_past(&self, model: &Protocol) -> bool {
        let (oldest, sealed) = (self.disk.checkpoint().oldest, self.disk.checkpoint().sealed);
        if oldest > sealed || model.most.ticks == 0 {
            return false;
        }
        let decides = if model.without.keeps(Rule::HighestExpiryDecides) {
            self.expiries(oldest).max()
        } else {
            self.expiries(oldest).min()
        };
        decides.is_none_or(|expires| expires <= self.world.now)
    }

    fn begin_drop(&mut self, model: &Protocol, log: &mut Log) {
        let oldest = self.disk.checkpoint().oldest;
        let remove = Step::Remove(oldest);
        log.dropping = vec![Step::Slot(Change::Oldest(oldest + 1))];
        if model.without.keeps(Rule::OldestInBothSlots) {
            log.dropping.push(Step::Slot(Change::Nothing));
        }
        if model.without.keeps(Rule::CheckpointBeforeRemoval) {
            log.dropping.push(remove);
        } else {
            log.dropping.insert(0, remove);
        }
        if self.expiries(oldest).any(|expires| expires > self.world.now) {
            self.world.breaks(EXPIRY);
        }
    }

    fn expiries(&self, number: usize) -> impl Iterator<Item = u8> {
        let segment = self.disk.segment(number).expect("a live segment");
        segment.look_ahead(0).filter_map(|record| match record.kind {
            Kind::Complete { expires, .. } => Some(expires),
            _ => None,
        })
    }

    fn recover(&mut self) -> Option<()> {
        let Process::Opening { steps, log, remade } = &mut self.process else { return None };
        let writes = steps.iter().take_while(|step| matches!(step, Step::Write { .. }));
        let count = writes.count().max(1).min(steps.len());
        for step in steps.drain(..count) {
            self.disk.take(step);
            if let (Step::Create { .. }, Some(remade)) = (step, *remade) {
                // What was worthless is gone, acknowledged or not: claims that have ended.
                if log.open().next().is_none() {
                    let completes = |record: &Record| matches!(record.kind, Kind::Complete { .. });
                    self.world.history.retain(completes);
                }
                let (kill, power) = self.world.must;
                self.world.must = (kill.min(remade), power.min(remade));
            }
        }
        if steps.is_empty() {
            self.process = Process::Running(log.clone());
            self.world.must = (Lsn::ZERO, Lsn::ZERO);
        }
        Some(())
    }

    fn open(&mut self, model: &Protocol) {
        self.world.opens += 1;
        let (scopes, secret) = (model.most.scopes, self.world.opens);
        match recovery::open(&self.disk, scopes, secret, &model.without) {
            Err(why) => self.process = Process::Refused(why),
            Ok(opening) => {
                self.world.judge(&opening, &self.disk);
                let Opening { steps, log, remade, .. } = opening;
                self.process = Process::Opening { steps, log: Box::new(log), remade };
            }
        }
    }

    /// An action that takes a running process.
    fn act(&mut self, model: &Protocol, action: Action) -> Option<()> {
        let Process::Running(log) = &self.process else { return None };
        let mut log = log.clone();
        match action {
            Action::Lead => log.take_work(&model.without),
            Action::Commit => {
                self.commit(model, &mut log)?;
                if log.closing == Progress::Yes && log.work.is_none() {
                    self.world.remember(&log, Durability::Synced);
                    self.process = Process::Down;
                    return Some(());
                }
            }
            Action::Write => {
                self.disk.take(log.writing.remove(0));
                self.acknowledge_written(model, &mut log);
            }
            Action::Drop => self.begin_drop(model, &mut log),
            Action::DropStep => self.disk.take(log.dropping.remove(0)),
            Action::FailSync(reached) => {
                let Some(Step::Sync(segment)) = log.work.as_ref()?.steps.first().copied() else {
                    return None;
                };
                self.disk.fail_sync(segment, reached);
                self.world.remember(&log, model.durability);
                self.process = Process::Poisoned;
                return Some(());
            }
            action => self.run(model, &mut log, action)?,
        }
        self.process = Process::Running(log);
        Some(())
    }

    /// Takes all the steps that are under way: nothing can happen between them any more.
    fn run_on(&mut self, model: &Protocol) {
        while self.recover().is_some() {}
        loop {
            let Process::Running(log) = &self.process else { return };
            let next = if !log.writing.is_empty() {
                Action::Write
            } else if log.work.is_some() {
                Action::Commit
            } else if !log.dropping.is_empty() {
                Action::DropStep
            } else {
                return;
            };
            self.act(model, next).expect("a step that is under way can be taken");
        }
    }

    /// Counts what is bounded.
    fn spend(&mut self, action: Action) {
        let used = &mut self.world.used;
        match action {
            Action::Claim(_) | Action::TakeOver(_) => used.claims += 1,
            Action::Leave(_) => used.left += 1,
            Action::Roll => used.rolls += 1,
            Action::FailSync(_) => used.failed_syncs += 1,
            Action::Tick => used.ticks += 1,
            Action::Close => used.closes += 1,
            Action::Kill | Action::CutPower(_) => used.crashes += 1,
            Action::Rot(_) => used.rotten_slots += 1,
            Action::Restore => used.restores += 1,
            _ => {}
        }
    }
}

impl Protocol {
    /// A state of a store that was created and opened once, without a crash.
    fn first(&self) -> State {
        let scopes = self.most.scopes;
        let world = World {
            now: 0,
            opens: 0,
            used: Bounds::default(),
            history: Vec::new(),
            must: (Lsn::ZERO, Lsn::ZERO),
            live: vec![None; scopes],
            token_max: Lsn::ZERO,
            operations: Vec::new(),
            broken: [false; PROMISES.len()],
            copy: None,
        };
        let mut state = State { disk: Disk::created(), process: Process::Down, world };
        state.open(self);
        while state.recover().is_some() {}
        state
    }

    fn actions_of_scope(&self, state: &State, log: &Log, scope: usize, out: &mut Vec<Action>) {
        let (most, used) = (self.most, state.world.used);
        let may_claim = used.claims < most.claims && scope <= used.scopes;
        match log.scopes[scope] {
            Entry::Free | Entry::Done { .. } => {
                let free = state.world.fate_of(log.scopes[scope]) == Fate::Free;
                out.extend((free && may_claim).then_some(Action::Claim(scope)));
            }
            Entry::Staged(open) => {
                let leaves = open.holder == Holder::Permit && used.left < most.left;
                out.extend(leaves.then_some(Action::Leave(scope)));
            }
            Entry::Open(open) => {
                out.extend([Action::Complete(scope), Action::Release(scope)]);
                let orphan = open.holder == Holder::Nobody;
                out.extend((orphan && may_claim).then_some(Action::TakeOver(scope)));
            }
            Entry::Ending(_) => {}
        }
    }

    /// Whether no crash is left to tell the steps of a commit or an open apart.
    fn is_safe(&self, state: &State) -> bool {
        let (most, used) = (self.most, state.world.used);
        used.crashes >= most.crashes && used.failed_syncs >= most.failed_syncs
    }

    fn actions_of_log(&self, state: &State, log: &Log, actions: &mut Vec<Action>) {
        let (most, used) = (self.most, state.world.used);
        let idle = log.work.is_none() && log.dropping.is_empty() && !log.is_locked();
        if !log.is_locked() {
            for scope in 0..most.scopes {
                self.actions_of_scope(state, log, scope, actions);
            }
            if used.rolls < most.rolls && log.at > 0 && log.uncarried.is_empty() {
                actions.push(Action::Roll);
            }
            if !log.uncarried.is_empty() {
                actions.push(Action::CarryLate);
            }
        }
        if idle && log.has_staged() {
            actions.push(Action::Lead);
        }
        if idle && state.oldest_is_past(self) {
            actions.push(Action::Drop);
        }
        if idle && log.is_quiet() && used.closes < most.closes {
            actions.push(Action::Close);
        }
        if let Some(work) = &log.work {
            actions.push(Action::Commit);
            if let Some(Step::Sync(segment)) = work.steps.first()
                && used.failed_syncs < most.failed_syncs
            {
                let dirty = state.disk.dirty_in(*segment);
                actions.extend(Subset::all(dirty).map(Action::FailSync));
            }
        }
        if !log.writing.is_empty() {
            actions.push(Action::Write);
        }
        if !log.dropping.is_empty() {
            actions.push(Action::DropStep);
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let (most, used) = (self.most, state.world.used);
        match &state.process {
            Process::Refused(_) => return,
            Process::Down => {
                actions.push(Action::Open);
                if used.rotten_slots < most.rotten_slots && state.disk.can_rot() {
                    actions.extend([Action::Rot(0), Action::Rot(1)]);
                }
                if used.restores < most.restores {
                    let copied = state.world.copy.is_some();
                    actions.push(if copied { Action::Restore } else { Action::Copy });
                }
                return;
            }
            Process::Opening { .. } => actions.push(Action::Recover),
            Process::Running(log) => self.actions_of_log(state, log, actions),
            Process::Poisoned => {}
        }
        if used.ticks < most.ticks {
            actions.push(Action::Tick);
        }
        if used.crashes < most.crashes {
            actions.push(Action::Kill);
            actions.extend(Subset::all(state.disk.dirty()).map(Action::CutPower));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Kill => state.stop(self),
            Action::CutPower(kept) => {
                state.stop(self);
                state.disk.cut_power(kept);
                state.world.must.0 = state.world.must.1;
            }
            Action::Rot(slot) => state.disk.rot(slot),
            Action::Copy => {
                let copy = (state.disk.clone(), state.world.clone());
                state.world.copy = Some(Box::new(copy));
            }
            Action::Restore => {
                let (disk, world) = *state.world.copy.take()?;
                let World { opens, used, operations, now, .. } = state.world;
                state.disk = disk;
                state.world = World { opens, used, operations, now, ..world };
            }
            Action::Open => state.open(self),
            Action::Recover => state.recover()?,
            Action::Tick => state.world.now += 1,
            action => state.act(self, action)?,
        }
        state.spend(action);
        if self.is_safe(&state) {
            state.run_on(self);
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn keeps<const N: usize>(_: &Protocol, state: &State) -> bool {
            !state.world.broken[N]
        }
        vec![
            Property::always(PROMISES[0], keeps::<0>),
            Property::always(PROMISES[1], keeps::<1>),
            Property::always(PROMISES[2], keeps::<2>),
            Property::always(PROMISES[3], keeps::<3>),
            Property::always(PROMISES[4], keeps::<4>),
            Property::always(PROMISES[5], keeps::<5>),
            Property::always(OPENS, |_, state: &State| {
                !matches!(state.process, Process::Refused(_))
            }),
            Property::always(SETTLED, |_, state: &State| {
                let Process::Running(log) = &state.process else { return true };
                let half_way = |entry: &Entry| matches!(entry, Entry::Staged(_) | Entry::Ending(_));
                !log.is_quiet() || !log.scopes.iter().any(half_way)
            }),
        ]
    }
}
