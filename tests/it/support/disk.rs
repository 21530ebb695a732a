//! A simulated disk in memory: every call is a numbered step at which power can fail.
//!
//! What reads see and what a power cut leaves are kept apart. A file is an inode: durable pages,
//! and over them, for each 512-byte sector, every version written since the sector was last
//! synced; any one of these may be what survives. Changes of names wait in a list of their own
//! until `sync_dir`; of those that touch one name, any prefix may survive, and a rename survives
//! whole or not at all. A file whose size did not survive is empty.
//!
//! After a failed `sync` the bytes it should have saved stay readable, but later syncs pass them
//! over until they are written again, as Linux does with pages it failed to write back.
//!
//! A sector survives whole, but for [`Survival::Torn`]: then it may be a mix of two of its
//! versions, cut at any byte. What was synced and not written since is never touched by that.
//!
//! Everything is deterministic: a state and a seed give one disk.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oncelog::storage::{Access, File, Owner, Storage};

/// The unit that a device writes whole or not at all.
const SECTOR: usize = 512;
/// The unit that copies of a disk share until one of them changes it.
const PAGE: usize = 4096;
const SECTORS_PER_PAGE: u64 = (PAGE / SECTOR) as u64;

/// How much of what was never synced outlives a power cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Survival {
    /// Nothing: what the syncs promised, and no more.
    None,
    /// Everything that returned.
    All,
    /// What the seed says: each sector, each size and each name on its own, the chances from
    /// nearly none to nearly all, and perhaps sectors of the write that the power cut interrupted.
    Random,
    /// The same, and a sector may survive as the head of one of its versions and the tail of
    /// another.
    Torn,
}

/// One directory on a simulated disk. A clone is another handle to the same disk.
#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    pub(crate) fn new() -> SimDisk {
        SimDisk::default()
    }

    /// The number of mutating calls so far, failed ones included, and so the number of the next.
    pub(crate) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// From now on describes every step for [`SimDisk::trace`]. Called on a fresh disk, it makes
    /// the trace's indexes the numbers of the steps.
    pub(crate) fn record_trace(&self) {
        self.state().trace = Some(Vec::new());
    }

    /// The recorded steps; the last one is the one that a power cut interrupted, if one did.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.state().trace.clone().unwrap_or_default()
    }

    /// Cuts the power at `step`: that call and every call after it, reads too, fails. A step that
    /// is past cuts it now.
    pub(crate) fn crash_at(&self, step: u64) {
        let mut state = self.state();
        state.off |= step < state.steps;
        state.cut_at = Some(step);
    }

    /// Makes one step fail and the later ones go on. A write that fails leaves its first half
    /// behind, as a short write does; a sync leaves what it should have saved in doubt.
    pub(crate) fn fail_at(&self, step: u64, kind: io::ErrorKind) {
        self.fail_after(step, kind, 128);
    }

    /// The same with a choice of how much of a write is left behind: so many of its 256 parts.
    pub(crate) fn fail_after(&self, step: u64, kind: io::ErrorKind, parts: u8) {
        self.state().failing_steps.insert(step, (kind, parts));
    }

    /// Makes one read fail, counted from now, and the later ones go on.
    pub(crate) fn fail_read_after(&self, reads: u64) {
        let mut state = self.state();
        state.failing_read = Some(state.reads + reads);
    }

    /// How many calls were made to fail, the power cut apart.
    pub(crate) fn faults(&self) -> u64 {
        self.state().faults
    }

    /// Whether the power was cut.
    #[allow(dead_code, reason = "the simulation asks, the other tests know")]
    pub(crate) fn is_off(&self) -> bool {
        self.state().off
    }

    /// Bounds the bytes that files with a name may take, in whole pages; `None` lifts the bound.
    pub(crate) fn limit(&self, bytes: Option<u64>) {
        self.state().dir.pages_max = bytes.map(|bytes| index(bytes) / PAGE);
    }

    /// Bytes that files with a name take.
    pub(crate) fn taken(&self) -> u64 {
        (self.state().dir.pages_taken() * PAGE) as u64
    }

    /// Makes every read that touches `range` of the file fail, as worn media do.
    pub(crate) fn fail_reads(&self, name: &str, range: Range<u64>) {
        self.state().failing_reads.push((name.to_owned(), range));
    }

    /// Makes the syncs of the files that `dropped` is true for succeed without effect. The name
    /// `.` stands for `sync_dir`.
    pub(crate) fn drop_syncs(&self, dropped: fn(&str) -> bool) {
        self.state().dropped_syncs = Some(dropped);
    }

    /// The disk that the next boot finds if the power is cut now or was cut already.
    pub(crate) fn after_power_cut(&self, seed: u64, survival: Survival) -> SimDisk {
        let state = self.state();
        let mut fate = Fate::new(seed, survival);
        SimDisk::holding(state.dir.after_power_cut(state.torn.as_ref(), &mut fate))
    }

    /// The disk that the next process finds if this one is killed now: every call that returned
    /// has its effect, and what was not synced is still not synced.
    pub(crate) fn after_kill(&self) -> SimDisk {
        SimDisk::holding(self.state().dir.clone())
    }

    /// Flips the bits of `xor` in one byte, wherever a version of it is kept.
    pub(crate) fn corrupt(&self, name: &str, offset: u64, xor: u8) {
        let mut state = self.state();
        let inode = state.dir.find(name).expect("only a file that exists can rot");
        state.dir.inode(inode).corrupt(offset, xor);
    }

    /// Puts other bytes in the place of durable ones, as a misdirected write does.
    pub(crate) fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) {
        let old = self.read(name).expect("only a file that exists can be hit");
        for (at, (new, old)) in bytes.iter().zip(&old[index(offset)..]).enumerate() {
            self.corrupt(name, offset + at as u64, new ^ old);
        }
    }

    /// The whole of a file as reads see it, even where they are made to fail.
    pub(crate) fn read(&self, name: &str) -> Option<Vec<u8>> {
        let mut state = self.state();
        let inode = state.dir.find(name).ok()?;
        let inode = state.dir.inode(inode);
        let mut bytes = vec![0; index(inode.bytes)];
        inode.read(0, &mut bytes);
        Some(bytes)
    }

    /// Puts a file there, or a new one in its place, durable at once and without a step.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let number = state.dir.add_inode(name, bytes.len() as u64);
        let inode = state.dir.inode(number);
        inode.write(0, bytes);
        inode.sync();
        state.dir.set_durably(name, Some(number));
    }

    /// Removes a file, if there is one, durably and without a step.
    pub(crate) fn remove_durably(&self, name: &str) {
        self.state().dir.set_durably(name, None);
    }

    /// The names of all files, in order, even after a power cut.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state().dir.seen.keys().cloned().collect()
    }

    fn holding(dir: Directory) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State { dir, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panics in one thread must not hide its reason behind panics of the others.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn powered(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.off { Err(power_cut()) } else { Ok(state) }
    }

    fn file(&self, inode: u64, access: Access) -> Arc<dyn File> {
        Arc::new(SimFile { disk: self.clone(), inode, access })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

impl Storage for SimDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let mut state = self.powered()?;
        if state.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked = true;
        Ok(Box::new(Held(self.clone())))
    }

    fn owner(&self) -> io::Result<Owner> {
        Ok(if self.powered()?.locked { Owner::Alive } else { Owner::Gone })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.powered()?.dir.seen.keys().cloned().collect())
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let inode = self.powered()?.dir.find(name)?;
        Ok(self.file(inode, access))
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn File>> {
        let mut state = self.powered()?;
        state.step(|_| format!("create {name} {bytes}"))?;
        let inode = state.dir.add_inode(name, bytes);
        state.dir.change(vec![(name.to_owned(), Some(inode))]);
        Ok(self.file(inode, Access::Write))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.powered()?;
        state.step(|_| format!("rename {from} {to}"))?;
        let inode = state.dir.find(from)?;
        to.clone_into(&mut state.dir.inode(inode).name);
        state.dir.change(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.powered()?;
        state.step(|_| format!("remove {name}"))?;
        state.dir.find(name)?;
        state.dir.change(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.powered()?;
        state.step(|_| "sync_dir".to_owned())?;
        if !state.dropped_syncs.is_some_and(|dropped| dropped(".")) {
            state.dir.sync();
        }
        Ok(())
    }
}

/// The directory, taken until this is dropped.
struct Held(SimDisk);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: u64,
    access: Access,
}

impl SimFile {
    /// The state, where the power is on and this handle may change `range`.
    fn writable(&self, range: &Range<u64>) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.powered()?;
        if self.access != Access::Write {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if range.start > range.end || range.end > state.dir.inode(self.inode).bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "outside the file"));
        }
        Ok(state)
    }

    fn step(&self, state: &mut State, call: &str, range: &Range<u64>) -> io::Result<()> {
        let Range { start, end } = *range;
        state.step(|dir| format!("{call} {} {start}+{}", dir.inode(self.inode).name, end - start))
    }
}

impl File for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.powered()?.dir.inode(self.inode).bytes)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut guard = self.disk.powered()?;
        guard.reads += 1;
        if guard.failing_read.is_some_and(|at| at < guard.reads) {
            guard.failing_read = None;
            guard.faults += 1;
            return Err(io::Error::other("a read that fails once"));
        }
        let State { dir, failing_reads, .. } = &mut *guard;
        let inode = dir.inode(self.inode);
        let end = offset.saturating_add(out.len() as u64);
        if end > inode.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let bad = |(name, range): &(String, Range<u64>)| {
            *name == inode.name && range.start < end && offset < range.end
        };
        if failing_reads.iter().any(bad) {
            return Err(io::Error::other("media error"));
        }
        inode.read(offset, out);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let range = offset..offset.saturating_add(bytes.len() as u64);
        let mut state = self.writable(&range)?;
        let mut outcome = self.step(&mut state, "write", &range);
        if outcome.is_ok() && !state.dir.take_pages(self.inode, &range) {
            outcome = Err(io::ErrorKind::StorageFull.into());
        }
        if state.off {
            state.torn = Some(Torn { inode: self.inode, offset, bytes: bytes.to_vec() });
        } else {
            let written = if outcome.is_ok() { 256 } else { usize::from(state.parts_left) };
            let written = &bytes[..bytes.len() * written / 256];
            state.dir.inode(self.inode).write(offset, written);
        }
        outcome
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.writable(&range)?;
        self.step(&mut state, "allocate", &range)?;
        if !state.dir.take_pages(self.inode, &range) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // As the real one does: whoever allocates what was written before loses it.
        state.dir.inode(self.inode).zero(&range);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        let mut state = self.writable(&range)?;
        self.step(&mut state, "discard", &range)?;
        let inode = state.dir.inode(self.inode);
        inode.zero(&range);
        let whole = range.start.div_ceil(PAGE as u64)..range.end / PAGE as u64;
        inode.taken.retain(|page| !whole.contains(page));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut guard = self.disk.powered()?;
        let outcome = guard.step(|dir| format!("sync {}", dir.inode(self.inode).name));
        let State { dir, dropped_syncs, off, .. } = &mut *guard;
        let inode = dir.inode(self.inode);
        match &outcome {
            Ok(()) if dropped_syncs.is_some_and(|dropped| dropped(&inode.name)) => {}
            Ok(()) => inode.sync(),
            // A sync that never ran tried nothing: the next process's may still save it all.
            Err(_) if *off => {}
            Err(_) => inode.give_up(),
        }
        outcome
    }
}

#[derive(Default)]
struct State {
    dir: Directory,
    locked: bool,
    steps: u64,
    trace: Option<Vec<String>>,
    cut_at: Option<u64>,
    off: bool,
    /// The write that the power cut interrupted.
    torn: Option<Torn>,
    failing_steps: BTreeMap<u64, (io::ErrorKind, u8)>,
    /// Of 256, what the newest write that failed has left behind.
    parts_left: u8,
    reads: u64,
    failing_read: Option<u64>,
    faults: u64,
    failing_reads: Vec<(String, Range<u64>)>,
    dropped_syncs: Option<fn(&str) -> bool>,
}

impl State {
    /// Counts one mutating call and says whether it is to have its effect.
    fn step(&mut self, describe: impl FnOnce(&mut Directory) -> String) -> io::Result<()> {
        if let Some(trace) = &mut self.trace {
            trace.push(describe(&mut self.dir));
        }
        if self.cut_at == Some(self.steps) {
            self.off = true;
            return Err(power_cut());
        }
        let fault = self.failing_steps.remove(&self.steps);
        self.steps += 1;
        // What a full disk takes of a write.
        self.parts_left = 128;
        let Some((kind, parts)) = fault else { return Ok(()) };
        self.faults += 1;
        self.parts_left = parts;
        Err(io::Error::new(kind, "simulated fault"))
    }
}

fn power_cut() -> io::Error {
    io::Error::other("power cut")
}

struct Torn {
    inode: u64,
    offset: u64,
    bytes: Vec<u8>,
}

type Names = BTreeMap<String, u64>;
/// What one call does to names, all of it or nothing: each now means an inode, or nothing.
type Change = Vec<(String, Option<u64>)>;

#[derive(Clone, Default)]
struct Directory {
    seen: Names,
    durable: Names,
    /// What led from `durable` to `seen`, oldest first.
    changes: Vec<Change>,
    /// Inodes without a name stay until a power cut, for the handles that may be open.
    inodes: BTreeMap<u64, Inode>,
    inodes_made: u64,
    /// How many pages there are room for.
    pages_max: Option<usize>,
}

impl Directory {
    fn find(&self, name: &str) -> io::Result<u64> {
        self.seen.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, number: u64) -> &mut Inode {
        self.inodes.get_mut(&number).expect("an inode stays as long as its disk")
    }

    fn add_inode(&mut self, name: &str, bytes: u64) -> u64 {
        self.inodes_made += 1;
        self.inodes.insert(self.inodes_made, Inode::new(name, bytes));
        self.inodes_made
    }

    fn pages_taken(&self) -> usize {
        self.seen.values().map(|number| self.inodes[number].taken.len()).sum()
    }

    /// Gives the inode the pages of `range` that it does not have, or says that it cannot.
    fn take_pages(&mut self, number: u64, range: &Range<u64>) -> bool {
        let taken = self.pages_taken();
        let max = self.pages_max.unwrap_or(usize::MAX);
        let inode = self.inode(number);
        let missing: Vec<u64> = units(range.clone(), PAGE)
            .filter(|page| !range.is_empty() && !inode.taken.contains(page))
            .collect();
        let fits = missing.is_empty() || taken + missing.len() <= max;
        if fits {
            inode.taken.extend(missing);
        }
        fits
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        for change in self.changes.drain(..) {
            apply(&mut self.durable, &change);
        }
    }

    fn set_durably(&mut self, name: &str, inode: Option<u64>) {
        for change in &mut self.changes {
            change.retain(|(changed, _)| changed != name);
        }
        let change = [(name.to_owned(), inode)];
        apply(&mut self.seen, &change);
        apply(&mut self.durable, &change);
    }

    fn after_power_cut(&self, torn: Option<&Torn>, fate: &mut Fate) -> Directory {
        let mut names = self.durable.clone();
        let mut lost = BTreeSet::new();
        for change in &self.changes {
            let follows_a_lost_one = change.iter().any(|(name, _)| lost.contains(name));
            if !follows_a_lost_one && fate.spares(fate.changes) {
                apply(&mut names, change);
            } else {
                lost.extend(change.iter().map(|(name, _)| name));
            }
        }
        let torn = torn.filter(|_| fate.spares(fate.torn));
        let mut inodes = BTreeMap::new();
        for (name, number) in &names {
            let mut inode = self.inodes[number].clone();
            if let Some(torn) = torn.filter(|torn| torn.inode == *number) {
                inode.write(torn.offset, &torn.bytes);
            }
            inode.cut_power(fate);
            name.clone_into(&mut inode.name);
            inodes.insert(*number, inode);
        }
        let Directory { inodes_made, pages_max, .. } = *self;
        let (seen, durable, changes) = (names.clone(), names, Vec::new());
        Directory { seen, durable, changes, inodes, inodes_made, pages_max }
    }
}

fn apply(names: &mut Names, change: &[(String, Option<u64>)]) {
    for (name, inode) in change {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

#[derive(Clone)]
struct Inode {
    /// The latest name, for traces and for faults by name.
    name: String,
    bytes: u64,
    size: Trust,
    durable: Pages,
    unsynced: BTreeMap<u64, Versions>,
    /// The pages that have blocks.
    taken: BTreeSet<u64>,
}

/// Where something that reads see stands towards the next power cut.
#[derive(Clone, Copy, PartialEq)]
enum Trust {
    Dirty,
    /// A sync of it failed, and no later one looks at it.
    InDoubt,
    Durable,
}

/// The contents of one sector since it was last synced, oldest first, never none.
#[derive(Clone)]
struct Versions {
    contents: Vec<Arc<[u8; SECTOR]>>,
    trust: Trust,
}

impl Inode {
    fn new(name: &str, bytes: u64) -> Inode {
        let (durable, unsynced, taken) = (Pages::default(), BTreeMap::new(), BTreeSet::new());
        Inode { name: name.to_owned(), bytes, size: Trust::Dirty, durable, unsynced, taken }
    }

    fn read(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        let end = offset + out.len() as u64;
        for (page, block) in self.durable.0.range(units(offset..end, PAGE)) {
            overlay(out, offset, block.as_slice(), page * PAGE as u64);
        }
        for (sector, versions) in self.unsynced.range(units(offset..end, SECTOR)) {
            let newest = versions.contents.last().expect("a sector has a version");
            overlay(out, offset, newest.as_slice(), sector * SECTOR as u64);
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for sector in units(offset..offset + bytes.len() as u64, SECTOR) {
            let start = sector * SECTOR as u64;
            let mut content = [0; SECTOR];
            self.read(start, &mut content);
            overlay(&mut content, start, bytes, offset);
            let none = Versions { contents: Vec::new(), trust: Trust::Dirty };
            let versions = self.unsynced.entry(sector).or_insert(none);
            versions.contents.push(Arc::new(content));
            versions.trust = Trust::Dirty;
        }
        // A size in doubt is written again with the bytes that need it.
        if self.size == Trust::InDoubt {
            self.size = Trust::Dirty;
        }
    }

    /// Writes zeros, but only to sectors that ever held anything else.
    fn zero(&mut self, range: &Range<u64>) {
        let pages = self.durable.0.range(units(range.clone(), PAGE));
        let first = pages.map(|(page, _)| page * SECTORS_PER_PAGE);
        let mut sectors: BTreeSet<u64> = first.flat_map(|s| s..s + SECTORS_PER_PAGE).collect();
        sectors.extend(self.unsynced.range(units(range.clone(), SECTOR)).map(|(sector, _)| sector));
        for start in sectors.into_iter().map(|sector| sector * SECTOR as u64) {
            let from = start.max(range.start);
            let until = (start + SECTOR as u64).min(range.end);
            if from < until {
                self.write(from, &[0; SECTOR][..index(until - from)]);
            }
        }
    }

    fn sync(&mut self) {
        let durable = &mut self.durable;
        self.unsynced.retain(|sector, versions| {
            let dirty = versions.trust == Trust::Dirty;
            if dirty {
                durable.put(*sector, versions.contents.last().expect("a sector has a version"));
            }
            !dirty
        });
        if self.size == Trust::Dirty {
            self.size = Trust::Durable;
        }
    }

    /// What a failed sync does to everything it should have saved.
    fn give_up(&mut self) {
        self.unsynced.values_mut().for_each(|versions| versions.trust = Trust::InDoubt);
        if self.size == Trust::Dirty {
            self.size = Trust::InDoubt;
        }
    }

    fn corrupt(&mut self, offset: u64, xor: u8) {
        assert!(offset < self.bytes, "{offset} is outside {}", self.name);
        let (sector, byte) = (offset / SECTOR as u64, index(offset % SECTOR as u64));
        self.durable.page(offset / PAGE as u64)[index(offset % PAGE as u64)] ^= xor;
        for content in self.unsynced.get_mut(&sector).iter_mut().flat_map(|v| &mut v.contents) {
            Arc::make_mut(content)[byte] ^= xor;
        }
    }

    /// Keeps of what was not synced what fate spares: of each sector the newest version that it
    /// does, which may be one that was overwritten.
    fn cut_power(&mut self, fate: &mut Fate) {
        if self.size != Trust::Durable && !fate.spares(fate.sizes) {
            *self = Inode::new(&self.name, 0);
        }
        self.size = Trust::Durable;
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let newest = versions.contents.iter().rfind(|_| fate.spares(fate.sectors));
            if fate.tears > 0 && fate.spares(fate.tears) {
                let other = versions.contents.iter().rfind(|_| fate.spares(fate.sectors));
                let durable = self.durable.sector(sector);
                let mut torn = **newest.unwrap_or(&durable);
                let cut = fate.cut();
                torn[cut..].copy_from_slice(&other.unwrap_or(&durable)[cut..]);
                self.durable.put(sector, &torn);
            } else if let Some(newest) = newest {
                self.durable.put(sector, newest);
            }
        }
    }
}

/// Contents by page; a page that is missing is zeros. Both levels are shared between copies.
#[derive(Clone, Default)]
struct Pages(Arc<BTreeMap<u64, Arc<[u8; PAGE]>>>);

impl Pages {
    fn page(&mut self, page: u64) -> &mut [u8; PAGE] {
        let pages = Arc::make_mut(&mut self.0);
        Arc::make_mut(pages.entry(page).or_insert_with(|| Arc::new([0; PAGE])))
    }

    fn sector(&self, sector: u64) -> Arc<[u8; SECTOR]> {
        let mut content = [0; SECTOR];
        let page = sector / SECTORS_PER_PAGE;
        if let Some(block) = self.0.get(&page) {
            let start = sector * SECTOR as u64;
            overlay(&mut content, start, block.as_slice(), page * PAGE as u64);
        }
        Arc::new(content)
    }

    fn put(&mut self, sector: u64, content: &[u8; SECTOR]) {
        let page = sector / SECTORS_PER_PAGE;
        let block = self.page(page);
        overlay(block, page * PAGE as u64, content, sector * SECTOR as u64);
        if *content == [0; SECTOR] && *block == [0; PAGE] {
            Arc::make_mut(&mut self.0).remove(&page);
        }
    }
}

/// The numbers of the pages or sectors, of `size` bytes each, that `range` touches.
fn units(range: Range<u64>, size: usize) -> Range<u64> {
    range.start / size as u64..range.end.div_ceil(size as u64)
}

/// Copies onto `out`, which begins at `offset` in the file, what it shares with `block`, which
/// begins at `start`.
fn overlay(out: &mut [u8], offset: u64, block: &[u8], start: u64) {
    let from = offset.max(start);
    let until = (offset + out.len() as u64).min(start + block.len() as u64);
    if from < until {
        let shared = &block[index(from - start)..index(until - start)];
        out[index(from - offset)..index(until - offset)].copy_from_slice(shared);
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a simulated file fits in memory")
}

/// Decides what a power cut spares; chances are out of 256.
struct Fate {
    seed: u64,
    changes: u64,
    sizes: u64,
    sectors: u64,
    torn: u64,
    /// Sectors that are cut in two.
    tears: u64,
}

impl Fate {
    fn new(mut seed: u64, survival: Survival) -> Fate {
        const CHANCES: [u64; 7] = [2, 16, 64, 128, 192, 240, 254];
        let mut chance = || CHANCES[index(draw(&mut seed) % CHANCES.len() as u64)];
        let [changes, sizes, sectors, torn, tears] = match survival {
            Survival::None => [0; 5],
            Survival::All => [256, 256, 256, 0, 0],
            // Apart, so that names without contents and contents without names are common.
            Survival::Random => [chance(), chance(), chance(), 128, 0],
            Survival::Torn => [chance(), chance(), chance(), 128, 128],
        };
        Fate { seed, changes, sizes, sectors, torn, tears }
    }

    /// Where a sector is cut in two.
    fn cut(&mut self) -> usize {
        index(draw(&mut self.seed) % SECTOR as u64)
    }

    fn spares(&mut self, chance: u64) -> bool {
        draw(&mut self.seed) % 256 < chance
    }
}

/// One step of splitmix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
/// Generators", 2014).
fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::{Access, File, SECTOR, SimDisk, Storage, Survival};
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::sync::Arc;

    /// A disk with one durable file `a` of 64 KiB of zeros, and a handle to it.
    fn disk_with_file() -> (SimDisk, Arc<dyn File>) {
        let disk = SimDisk::new();
        disk.write("a", &[0; 1 << 16]);
        let file = disk.open("a", Access::Write).unwrap();
        (disk, file)
    }

    /// The first byte of every sector of `a` after a power cut.
    fn sectors(disk: &SimDisk, seed: u64, survival: Survival) -> Vec<u8> {
        let bytes = disk.after_power_cut(seed, survival).read("a").unwrap();
        for sector in bytes.chunks(SECTOR) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector was torn");
        }
        bytes.chunks(SECTOR).map(|sector| sector[0]).collect()
    }

    #[test]
    fn unsynced_bytes_may_be_lost_and_synced_ones_survive() {
        let (disk, file) = disk_with_file();
        file.write_at(0, &[1; SECTOR]).unwrap();
        file.sync().unwrap();
        file.write_at(512, &[2; SECTOR]).unwrap();
        file.allocate(1024..4096).unwrap();
        assert_eq!(sectors(&disk, 0, Survival::None)[..3], [1, 0, 0]);
        assert_eq!(sectors(&disk, 0, Survival::All)[..3], [1, 2, 0]);
        let seen = |seed| sectors(&disk, seed, Survival::Random)[..3].to_vec();
        let outcomes: BTreeSet<Vec<u8>> = (0..64).map(seen).collect();
        assert_eq!(outcomes, BTreeSet::from([vec![1, 0, 0], vec![1, 2, 0]]));
    }

    #[test]
    fn a_good_sync_after_a_failed_one_does_not_save_the_old_bytes() {
        let (disk, file) = disk_with_file();
        file.write_at(0, &[1; 2 * SECTOR]).unwrap();
        disk.fail_at(disk.steps(), ErrorKind::StorageFull);
        assert_eq!(file.sync().unwrap_err().kind(), ErrorKind::StorageFull);
        file.write_at(512, &[2; SECTOR]).unwrap();
        file.sync().unwrap();
        assert_eq!(disk.read("a").unwrap()[0], 1);
        assert_eq!(sectors(&disk, 0, Survival::None)[..2], [0, 2]);
        assert_eq!(sectors(&disk.after_kill(), 0, Survival::None)[..2], [0, 2]);
    }

    #[test]
    fn a_full_disk_refuses_new_pages_and_takes_what_has_some() {
        let (disk, file) = disk_with_file();
        file.write_at(0, &[1; SECTOR]).unwrap();
        disk.limit(Some(disk.taken()));
        file.write_at(512, &[2; SECTOR]).unwrap();
        let full = [file.write_at(4096, &[3]), file.allocate(4096..8192)];
        let full = full.map(|refused| refused.unwrap_err().kind());
        assert_eq!(full, [ErrorKind::StorageFull; 2]);
        disk.limit(Some(8192));
        file.allocate(4096..8192).unwrap();
        file.discard(0..4096).unwrap();
        assert_eq!(disk.taken(), 4096);
    }

    #[test]
    fn a_name_needs_sync_dir_and_a_size_needs_sync() {
        let disk = SimDisk::new();
        let file = disk.create("new", 4096).unwrap();
        file.write_at(0, &[1]).unwrap();
        file.sync().unwrap();
        assert!(disk.after_power_cut(0, Survival::None).names().is_empty());
        disk.sync_dir().unwrap();
        assert_eq!(disk.after_power_cut(0, Survival::None).read("new").unwrap()[..2], [1, 0]);
        disk.create("new", 100).unwrap();
        disk.sync_dir().unwrap();
        assert!(disk.after_power_cut(0, Survival::None).read("new").unwrap().is_empty());
        assert_eq!(disk.after_power_cut(0, Survival::All).read("new").unwrap(), [0; 100]);
        disk.remove("new").unwrap();
        assert_eq!(disk.open("new", Access::Write).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.after_power_cut(0, Survival::None).names(), ["new"]);
        file.read_at(0, &mut [0]).unwrap();
    }

    #[test]
    fn a_rename_survives_whole_or_not_at_all() {
        let disk = SimDisk::new();
        disk.write("a", b"old");
        disk.write("a.tmp", b"new");
        disk.rename("a.tmp", "a").unwrap();
        disk.write("b", b"");
        for seed in 0..64 {
            let after = disk.after_power_cut(seed, Survival::Random);
            match after.read("a").unwrap().as_slice() {
                b"old" => assert_eq!(after.names(), ["a", "a.tmp", "b"]),
                _ => assert_eq!(after.names(), ["a", "b"]),
            }
        }
        disk.remove_durably("b");
        assert!(!disk.after_power_cut(0, Survival::All).names().contains(&"b".to_owned()));
    }

    #[test]
    fn one_seed_gives_one_disk_and_chances_run_from_none_to_all() {
        let (disk, file) = disk_with_file();
        file.write_at(0, &[1; 1 << 16]).unwrap();
        let survivors = |seed| {
            let outcome = sectors(&disk, seed, Survival::Random);
            assert_eq!(outcome, sectors(&disk, seed, Survival::Random));
            outcome.iter().map(|byte| usize::from(*byte)).sum::<usize>()
        };
        let counts: Vec<usize> = (0..64).map(survivors).collect();
        assert!(counts.iter().any(|count| *count < 8) && counts.iter().any(|count| *count > 120));
        assert!(counts.iter().any(|count| (48..80).contains(count)));
    }

    #[test]
    fn an_intermediate_version_of_a_sector_can_survive() {
        let (disk, file) = disk_with_file();
        file.write_at(0, &[1; SECTOR]).unwrap();
        file.write_at(0, &[2; SECTOR]).unwrap();
        file.discard(0..4096).unwrap();
        file.write_at(0, &[3; SECTOR]).unwrap();
        let outcomes = (0..64).map(|seed| sectors(&disk, seed, Survival::Random)[0]);
        assert_eq!(outcomes.collect::<BTreeSet<u8>>(), BTreeSet::from([0, 1, 2, 3]));
        file.discard(0..4096).unwrap();
        file.sync().unwrap();
        assert_eq!(sectors(&disk, 0, Survival::None)[0], 0);
    }

    #[test]
    fn a_kill_frees_the_lock_and_leaves_unsynced_bytes_unsynced() {
        let (disk, file) = disk_with_file();
        let held = disk.lock().unwrap();
        assert_eq!(disk.lock().unwrap_err().kind(), ErrorKind::WouldBlock);
        file.write_at(0, &[1; SECTOR]).unwrap();
        let next = disk.after_kill();
        assert!(next.lock().is_ok() && next.steps() == 0);
        assert_eq!(next.read("a").unwrap()[0], 1);
        assert_eq!(sectors(&next, 0, Survival::None)[0], 0);
        let file = next.open("a", Access::ReadMapped).unwrap();
        assert_eq!(file.write_at(0, &[2]).unwrap_err().kind(), ErrorKind::PermissionDenied);
        next.crash_at(0);
        file.sync().unwrap_err();
        let next = next.after_kill();
        next.open("a", Access::ReadMapped).unwrap().sync().unwrap();
        assert_eq!(sectors(&next, 0, Survival::None)[0], 1);
        drop(held);
        assert!(disk.lock().is_ok());
    }

    #[test]
    fn power_fails_at_its_step_and_may_tear_the_write() {
        let (disk, file) = disk_with_file();
        disk.record_trace();
        disk.sync_dir().unwrap();
        disk.crash_at(1);
        file.read_at(0, &mut [0]).unwrap();
        assert_eq!(file.write_at(0, &[1; 2 * SECTOR]).unwrap_err().to_string(), "power cut");
        assert!(file.size().is_err() && file.read_at(0, &mut [0]).is_err() && file.sync().is_err());
        assert!(disk.list().is_err() && disk.lock().is_err());
        assert_eq!(disk.trace(), ["sync_dir", "write a 0+1024"]);
        assert_eq!(sectors(&disk, 0, Survival::All)[..2], [0, 0]);
        let seen = |seed| sectors(&disk, seed, Survival::Random)[..2].to_vec();
        assert_eq!((0..64).map(seen).collect::<BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn a_torn_sector_is_a_head_of_one_version_and_a_tail_of_another() {
        let (disk, file) = disk_with_file();
        file.write_at(0, &[1; SECTOR]).unwrap();
        file.sync().unwrap();
        file.write_at(256, &[2; 2 * SECTOR]).unwrap();
        let mut mixed = 0;
        for seed in 0..512 {
            let bytes = disk.after_power_cut(seed, Survival::Torn).read("a").unwrap();
            assert!(bytes[..256].iter().all(|&byte| byte == 1), "synced bytes were touched");
            let changes = bytes[256..512].windows(2).filter(|pair| pair[0] != pair[1]).count();
            assert!(changes <= 1 && bytes[256..512].iter().all(|byte| [1, 2].contains(byte)));
            mixed += changes;
        }
        assert!(mixed > 8, "only {mixed} tears");
    }

    #[test]
    fn a_failing_write_leaves_the_part_that_was_asked_for_and_a_read_fails_once() {
        let (disk, file) = disk_with_file();
        disk.fail_after(disk.steps(), ErrorKind::StorageFull, 64);
        assert_eq!(file.write_at(0, &[1; 1024]).unwrap_err().kind(), ErrorKind::StorageFull);
        let bytes = disk.read("a").unwrap();
        assert_eq!((bytes[255], bytes[256]), (1, 0));
        disk.fail_read_after(1);
        let reads = [(); 3].map(|()| file.read_at(0, &mut [0]).is_ok());
        assert_eq!((reads, disk.faults()), ([true, false, true], 2));
        file.sync().unwrap();
        disk.overwrite("a", 100, b"wrong");
        assert_eq!(&disk.after_power_cut(0, Survival::None).read("a").unwrap()[100..105], b"wrong");
    }

    #[test]
    fn faults_by_hand_show_where_they_should() {
        let (disk, file) = disk_with_file();
        assert_eq!(file.write_at(1 << 16, &[1]).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(file.read_at(1 << 16, &mut [0]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        disk.fail_at(0, ErrorKind::Other);
        file.write_at(0, &[1; 2 * SECTOR]).unwrap_err();
        disk.drop_syncs(|name| name == "a" || name == ".");
        file.sync().unwrap();
        disk.remove("a").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(sectors(&disk, 0, Survival::None)[..2], [0, 0]);
        let next = disk.after_power_cut(0, Survival::None);
        next.corrupt("a", 700, 0x81);
        assert_eq!(next.after_power_cut(0, Survival::None).read("a").unwrap()[700], 0x81);
        next.fail_reads("a", 10..11);
        let file = next.open("a", Access::ReadPositioned).unwrap();
        assert!(file.read_at(0, &mut [0; 10]).is_ok() && file.read_at(0, &mut [0; 11]).is_err());
    }
}
