//! What a store should hold, as a map; and the driver that does the same to a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncelog::{
    Background, Claim, Durability, Error, Fingerprint, ManualClock, OperationId, Options,
    OrphanCause, Permit, Scope, Status, Store, Token,
};

use crate::support::disk::SimDisk;
use crate::support::rng::Rng;

pub(crate) const TTL: Duration = Duration::from_secs(30_000);
pub(crate) const BUCKET: Duration = Duration::from_secs(1_000);

/// One step of a run.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Claim(u64),
    Complete(u64, usize),
    Release(u64),
    Checkpoint(u64, usize),
    GiveUp(u64),
    Sync,
    Pass(Duration),
    Reopen,
    Forget(u64),
    ForgetOrganization(u64),
}

/// A random run over a few keys.
pub(crate) fn random_ops(seed: u64, count: usize) -> Vec<Op> {
    let mut rng = Rng::new(seed);
    (0..count)
        .map(|_| {
            let key = rng.below(12);
            match rng.below(100) {
                0..38 => Op::Claim(key),
                38..68 => Op::Complete(key, (rng.below(5) * rng.below(1800)) as usize),
                68..76 => Op::Release(key),
                76..84 => Op::Checkpoint(key, rng.below(300) as usize),
                84..89 => Op::GiveUp(key),
                89..93 => Op::Sync,
                93..97 => Op::Pass(Duration::from_secs(rng.below(9) * rng.below(5_000))),
                _ => Op::Reopen,
            }
        })
        .collect()
}

/// What can be seen of a key after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Done { response: Vec<u8>, expires: SystemTime },
    Open { attempt: u32, failed: bool, checkpoint: Option<Vec<u8>>, attempted: SystemTime },
}

pub(crate) type World = BTreeMap<u64, Seen>;

/// A store under test: every grant that it gave, what it acknowledged, and what must be durable.
pub(crate) struct Driver {
    pub(crate) disk: SimDisk,
    pub(crate) clock: ManualClock,
    pub(crate) durability: Durability,
    pub(crate) store: Option<Store>,
    permits: BTreeMap<u64, Permit>,
    /// When this process last saw the permit of an orphan alive: its ttl counts from there, until
    /// a restart, which knows of the claim alone.
    alive: BTreeMap<u64, SystemTime>,
    /// The world after each acknowledged step; the last is what holds now.
    pub(crate) history: Vec<World>,
    /// What a power cut may not go back beyond.
    pub(crate) durable: usize,
    pub(crate) tokens: BTreeSet<Token>,
    pub(crate) operations: BTreeSet<OperationId>,
    /// The step that failed takes away what it takes away piece by piece.
    cut_in_pieces: bool,
}

pub(crate) fn options(clock: &ManualClock, durability: Durability) -> Options {
    Store::options()
        .segment_bytes(64 * 1024)
        .ttl(TTL)
        .bucket(BUCKET)
        .background(Background::Inline)
        .on_orphan(oncelog::OrphanPolicy::Rerun)
        .durability(durability)
        .clock(clock.clone())
}

pub(crate) fn with_scope<T>(key: u64, call: impl FnOnce(Scope<'_>) -> T) -> T {
    let (organization, key) = (organization(key), format!("key-{key}"));
    call(Scope { organization, method: "POST", path: "/v1/contacts", key: &key })
}

/// One key in four is another organization's.
fn organization(key: u64) -> &'static str {
    if key % 4 == 3 { "globex" } else { "acme" }
}

pub(crate) fn fingerprint(key: u64) -> Fingerprint {
    Fingerprint::of(&key.to_le_bytes())
}

fn bytes(key: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(key ^ ((len as u64) << 8));
    (0..len).map(|_| rng.next() as u8).collect()
}

impl Driver {
    pub(crate) fn new(disk: SimDisk, durability: Durability) -> Driver {
        Driver {
            disk,
            clock: ManualClock::at(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            durability,
            store: None,
            permits: BTreeMap::new(),
            alive: BTreeMap::new(),
            history: vec![World::new()],
            durable: 0,
            tokens: BTreeSet::new(),
            operations: BTreeSet::new(),
            cut_in_pieces: false,
        }
    }

    pub(crate) fn now(&self) -> SystemTime {
        oncelog::Clock::wall(&self.clock)
    }

    pub(crate) fn open(&mut self) -> Result<(), Error> {
        let options = options(&self.clock, self.durability);
        self.alive.clear();
        self.store = Some(options.open_on(Arc::new(self.disk.clone()))?);
        Ok(())
    }

    /// The world as the steps so far have made it, acknowledged.
    fn world(&self) -> World {
        self.history.last().expect("never empty").clone()
    }

    /// Runs steps until one fails; the world that the failed one would have made comes back.
    pub(crate) fn run(&mut self, ops: &[Op]) -> Option<World> {
        if self.store.is_none() && self.open().is_err() {
            return Some(self.world());
        }
        for op in ops {
            let mut after = self.world();
            let Ok(erased) = self.step(op, &mut after) else {
                self.cut_in_pieces = matches!(op, Op::ForgetOrganization(_));
                return Some(after);
            };
            self.history.push(after);
            if self.durability == Durability::Synced || erased {
                self.durable = self.history.len() - 1;
            }
        }
        None
    }

    /// Does one step; whether something was erased, for which all before it had to be durable.
    fn step(&mut self, op: &Op, after: &mut World) -> Result<bool, Error> {
        let store = self.store.clone().expect("open");
        match op {
            Op::Claim(key) => self.claim(&store, *key, after)?,
            Op::Complete(key, len) => {
                let Some(permit) = self.permits.remove(key) else { return Ok(false) };
                let response = bytes(*key, *len);
                let expires = self.now() + TTL;
                after.insert(*key, Seen::Done { response: response.clone(), expires });
                let stored = permit.complete(&response)?;
                assert_eq!(stored.bytes(), Some(&response[..]));
            }
            Op::Release(key) => {
                let Some(permit) = self.permits.remove(key) else { return Ok(false) };
                after.remove(key);
                permit.release()?;
            }
            Op::Checkpoint(key, len) => {
                let Some(permit) = self.permits.get(key) else { return Ok(false) };
                let saved = bytes(*key + 1, *len);
                let Some(Seen::Open { checkpoint, .. }) = after.get_mut(key) else {
                    panic!("a permit without an open claim")
                };
                *checkpoint = Some(saved.clone());
                permit.save_checkpoint(&saved)?;
            }
            Op::GiveUp(key) => {
                let Some(permit) = self.permits.remove(key) else { return Ok(false) };
                if let Some(Seen::Open { failed, .. }) = after.get_mut(key) {
                    *failed = true;
                }
                self.alive.insert(*key, self.now());
                permit.give_up()?;
            }
            Op::Sync => {
                store.sync()?;
                self.durable = self.history.len() - 1;
            }
            Op::Pass(time) => {
                self.clock.advance(*time);
                self.permits.values().for_each(|permit| permit.renew().expect("current"));
                store.expire()?;
            }
            Op::Reopen => {
                drop(store);
                self.permits.clear();
                self.store.take().expect("open").close()?;
                self.durable = self.history.len() - 1;
                self.open()?;
            }
            Op::Forget(key) => return self.forget(&store, *key, after),
            Op::ForgetOrganization(key) => {
                return self.forget_organization(&store, organization(*key), after);
            }
        }
        Ok(false)
    }

    fn forget(&self, store: &Store, key: u64, after: &mut World) -> Result<bool, Error> {
        let before = self.visible(after);
        after.retain(|other, seen| *other != key || matches!(seen, Seen::Open { .. }));
        let erased = with_scope(key, |scope| store.forget(scope))?;
        // What is past may be on the disk still, and is erased then.
        match before.get(&key) {
            Some(Seen::Done { .. }) => assert!(erased, "{key} was not there to be forgotten"),
            Some(Seen::Open { .. }) => assert!(!erased, "{key} is claimed and was forgotten"),
            None => {}
        }
        Ok(erased)
    }

    fn forget_organization(
        &self,
        store: &Store,
        name: &str,
        after: &mut World,
    ) -> Result<bool, Error> {
        let is_of_it =
            |key: u64, seen: &Seen| organization(key) == name && matches!(seen, Seen::Done { .. });
        let before = self.visible(after);
        after.retain(|key, seen| !is_of_it(*key, seen));
        let erased = store.forget_organization(name)?;
        let expected = before.iter().filter(|(key, seen)| is_of_it(**key, seen)).count() as u64;
        assert_eq!(erased, expected, "responses of {name} were forgotten");
        Ok(erased > 0)
    }

    /// Whether what an open store shows is a world from `oldest` on, or that of the step that was
    /// cut, or one on the way there.
    pub(crate) fn allows(&self, shown: &World, oldest: usize, cut: Option<&World>) -> bool {
        let mut whole = self.history[oldest..].iter().chain(cut);
        if whole.any(|world| self.visible(world) == *shown) {
            return true;
        }
        let Some(cut) = cut.filter(|_| self.cut_in_pieces) else { return false };
        let before = self.visible(self.history.last().expect("never empty"));
        let was_there = |(key, seen)| before.get(key) == Some(seen);
        let is_left = |(key, seen)| shown.get(key) == Some(seen);
        shown.iter().all(was_there) && self.visible(cut).iter().all(is_left)
    }

    fn claim(&mut self, store: &Store, key: u64, after: &mut World) -> Result<(), Error> {
        if self.permits.contains_key(&key) {
            return Ok(());
        }
        let now = self.now();
        let (attempt, checkpoint) = match after.get(&key) {
            Some(Seen::Done { response, expires }) if now < *expires => {
                let claim = with_scope(key, |scope| store.claim(scope, fingerprint(key)))?;
                let Claim::Replay(stored) = claim else { panic!("not replayed: {claim:?}") };
                assert_eq!(stored.bytes(), Some(&response[..]));
                return Ok(());
            }
            Some(Seen::Open { attempt, checkpoint, attempted, .. })
                if now < self.ended(key, *attempted) + TTL =>
            {
                (attempt + 1, checkpoint.clone())
            }
            _ => (1, None),
        };
        let open = Seen::Open { attempt, failed: false, checkpoint, attempted: now };
        after.insert(key, open);
        let claim = with_scope(key, |scope| store.claim(scope, fingerprint(key)))?;
        let Claim::Granted(permit) = claim else { panic!("not granted: {claim:?}") };
        assert_eq!(permit.attempt(), attempt);
        let newest = self.tokens.last().copied();
        assert!(newest.is_none_or(|newest| newest < permit.token()), "a token went back");
        self.tokens.insert(permit.token());
        let fresh = self.operations.insert(permit.operation());
        assert_eq!(fresh, attempt == 1, "an operation id came twice, or changed");
        self.permits.insert(key, permit);
        Ok(())
    }

    /// When the last attempt of an orphan ended, as far as the store can know.
    fn ended(&self, key: u64, attempted: SystemTime) -> SystemTime {
        self.alive.get(&key).map_or(attempted, |&alive| alive.max(attempted))
    }

    /// Ends the process as it is, without a close.
    pub(crate) fn die(&mut self) {
        self.permits.clear();
        self.alive.clear();
        self.store = None;
    }

    /// What an open store shows, but for what is past.
    pub(crate) fn observe(&self) -> Result<World, Error> {
        let store = self.store.as_ref().expect("open");
        let mut world = World::new();
        for key in 0..12 {
            let seen = match with_scope(key, |scope| store.lookup(scope))? {
                None => continue,
                Some(Status::Completed(stored)) => Seen::Done {
                    expires: stored.expires_at(),
                    response: stored.into_bytes().expect("kept").to_vec(),
                },
                Some(Status::Orphaned(orphan)) => Seen::Open {
                    attempt: orphan.attempt(),
                    failed: orphan.cause() == OrphanCause::Failed,
                    checkpoint: orphan.checkpoint().map(<[u8]>::to_vec),
                    attempted: UNIX_EPOCH,
                },
                Some(Status::InProgress(running)) => panic!("running after a restart: {running:?}"),
            };
            world.insert(key, seen);
        }
        Ok(world)
    }

    /// A world as it is seen at this time.
    pub(crate) fn visible(&self, world: &World) -> World {
        let now = self.now();
        let visible = world.iter().filter_map(|(key, seen)| match seen {
            Seen::Done { expires, .. } if now >= *expires => None,
            Seen::Open { attempted, .. } if now >= self.ended(*key, *attempted) + TTL => None,
            Seen::Open { attempt, failed, checkpoint, .. } => {
                let (attempt, failed, checkpoint) = (*attempt, *failed, checkpoint.clone());
                Some((*key, Seen::Open { attempt, failed, checkpoint, attempted: UNIX_EPOCH }))
            }
            done => Some((*key, done.clone())),
        });
        visible.collect()
    }
}
