//! The process: the end of the log, the open claims, and the batch that is being committed. Follows
//! `src/log/` and `src/engine/`.
//!
//! What is under one lock there is one event here. What touches the disk is a queue of steps, taken
//! one at a time, so that a crash finds each state between two of them.

use crate::disk::{Change, Disk, Header, Kind, Lsn, Operation, Record, Step};
use crate::rules::{Rule, Without};

/// When an acknowledgement is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Durability {
    Synced,
    Buffered,
}

/// What a process knows of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    Free,
    Staged(Open),
    Open(Open),
    /// Its COMPLETE or RELEASE is staged.
    Ending(Open),
    Done {
        token: Lsn,
        operation: Operation,
        expires: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Open {
    pub(crate) token: Lsn,
    pub(crate) operation: Operation,
    pub(crate) attempt: u8,
    pub(crate) holder: Holder,
}

/// Who holds a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    Permit,
    /// Nobody: it is an orphan.
    Nobody,
    /// A future that went away before it was told.
    Gone,
}

/// A batch on its way to the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Work {
    pub(crate) steps: Vec<Step>,
    upto: Lsn,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Log {
    pub(crate) tail: usize,
    /// Where the next record goes.
    pub(crate) at: usize,
    pub(crate) last: Lsn,
    pub(crate) next: Lsn,
    pub(crate) durable: Lsn,
    /// The newest record that was acknowledged.
    pub(crate) published: Lsn,
    /// The number of this open, of all opens of all copies of the store.
    pub(crate) secret: u8,
    pub(crate) scopes: Vec<Entry>,
    /// What the next batch does.
    pub(crate) staged: Vec<Step>,
    /// The tail has writes that no step syncs yet.
    pub(crate) unsynced: Progress,
    /// The newest segment that the next batch seals.
    pub(crate) sealed: Option<usize>,
    /// Writes to the page cache that are still to be made, under the lock of the log.
    pub(crate) writing: Vec<Step>,
    /// What becomes visible with its record.
    pub(crate) deeds: Vec<Record>,
    pub(crate) work: Option<Work>,
    /// Steps of a drop of segments.
    pub(crate) dropping: Vec<Step>,
    /// Claims that a roll is still to carry, where that is not one step with it.
    pub(crate) uncarried: Vec<Kind>,
    pub(crate) closing: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Progress {
    Yes,
    No,
}

impl Log {
    /// A log that goes on at `at` of `tail`, with everything before `next` durable.
    pub(crate) fn new(tail: usize, at: usize, last: Lsn, next: Lsn, secret: u8) -> Log {
        Log {
            tail,
            at,
            last,
            next,
            durable: next.before(),
            published: last,
            secret,
            scopes: Vec::new(),
            staged: Vec::new(),
            unsynced: Progress::No,
            sealed: None,
            writing: Vec::new(),
            deeds: Vec::new(),
            work: None,
            dropping: Vec::new(),
            uncarried: Vec::new(),
            closing: Progress::No,
        }
    }

    /// Whether somebody holds the lock of the log, or nothing may be staged any more.
    pub(crate) fn is_locked(&self) -> bool {
        !self.writing.is_empty() || self.closing == Progress::Yes
    }

    pub(crate) fn has_staged(&self) -> bool {
        !self.staged.is_empty() || self.unsynced == Progress::Yes
    }

    /// Whether nothing is on its way to the disk.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_locked()
            && !self.has_staged()
            && self.work.is_none()
            && self.dropping.is_empty()
            && self.uncarried.is_empty()
    }

    /// The claims that a roll has to carry: what is staged to end does not count any more.
    pub(crate) fn open(&self) -> impl Iterator<Item = Kind> {
        self.scopes.iter().enumerate().filter_map(|(scope, entry)| match *entry {
            Entry::Staged(Open { token, operation, attempt, .. })
            | Entry::Open(Open { token, operation, attempt, .. }) => {
                Some(Kind::Carried { scope, token, operation, attempt })
            }
            _ => None,
        })
    }

    /// Gives a record its LSN and place.
    pub(crate) fn push(&mut self, kind: Kind) -> (Record, Step) {
        let record = Record { lsn: self.next, promise: self.durable, kind };
        let step = Step::Write { segment: self.tail, at: self.at, record: Some(record) };
        (self.last, self.next) = (record.lsn, record.lsn.next());
        self.at += 1;
        self.unsynced = Progress::Yes;
        (record, step)
    }

    /// Stages a record that callers wait for.
    pub(crate) fn stage(&mut self, disk: &mut Disk, durability: Durability, kind: Kind) -> Record {
        let (record, step) = self.push(kind);
        match durability {
            Durability::Synced => self.staged.push(step),
            Durability::Buffered => disk.take(step),
        }
        self.deeds.push(record);
        record
    }

    /// Seals the tail and goes on in the next segment, with every open claim.
    pub(crate) fn roll(&mut self, disk: &mut Disk, durability: Durability, without: &Without) {
        disk.take(Step::Prepare(self.tail + 1));
        let mut writes = vec![self.push(Kind::Seal).1];
        let sync = Step::Sync(self.tail);
        let sealed = self.tail;
        (self.tail, self.at) = (sealed + 1, 0);
        self.sealed = Some(sealed);
        let header = Header { first: self.next, previous_last: self.last };
        let header = Step::Header { segment: self.tail, header };
        let open: Vec<Kind> = self.open().collect();
        let mut carried = Vec::new();
        if without.keeps(Rule::CarryIsAtomic) {
            carried.extend(open.into_iter().map(|kind| self.push(kind).1));
        } else {
            self.uncarried = open;
        }
        match durability {
            Durability::Synced => {
                self.staged.append(&mut writes);
                self.staged.extend([sync, header, Step::Sync(self.tail)]);
                self.staged.append(&mut carried);
            }
            Durability::Buffered => {
                self.staged.push(sync);
                self.writing.append(&mut writes);
                self.writing.push(header);
                self.writing.append(&mut carried);
            }
        }
    }

    /// Repeats one claim that a roll left behind, as it was then.
    pub(crate) fn carry_late(&mut self, disk: &mut Disk, durability: Durability) {
        let step = self.push_uncarried();
        match durability {
            Durability::Synced => self.staged.push(step),
            Durability::Buffered => disk.take(step),
        }
    }

    fn push_uncarried(&mut self) -> Step {
        let kind = self.uncarried.remove(0);
        self.push(kind).1
    }

    /// Takes everything staged as a batch.
    pub(crate) fn take_work(&mut self, without: &Without) {
        let mut steps = std::mem::take(&mut self.staged);
        if std::mem::replace(&mut self.unsynced, Progress::No) == Progress::Yes {
            steps.push(Step::Sync(self.tail));
        }
        if let Some(sealed) = self.sealed.take() {
            let change = Change::Sealed { sealed, tail: self.tail, durable: self.last };
            if !without.keeps(Rule::CarryBeforeCheckpoint) {
                // As soon as the sealed segment is synced.
                let synced = steps.iter().position(|step| *step == Step::Sync(sealed));
                let after = synced.map_or(0, |at| at + 1);
                let header = |step: &Step| matches!(step, Step::Header { .. });
                let named = steps.iter().position(header).map_or(after, |at| (at + 2).max(after));
                steps.insert(named.min(steps.len()), Step::Slot(change));
            } else {
                steps.push(Step::Slot(change));
            }
            if !without.keeps(Rule::SyncInOrder) {
                // The sealed segment is left to the next batch.
                steps.retain(|step| *step != Step::Sync(sealed));
                self.staged.push(Step::Sync(sealed));
            }
        }
        self.work = Some(Work { steps, upto: self.last });
    }

    /// The end of a batch: it is durable, and what it did becomes visible.
    pub(crate) fn finish_work(&mut self) -> Vec<Record> {
        let work = self.work.take().expect("a batch is under way");
        self.durable = self.durable.max(work.upto);
        self.due(work.upto)
    }

    /// The deeds up to `upto`, to be published.
    pub(crate) fn due(&mut self, upto: Lsn) -> Vec<Record> {
        self.published = self.published.max(upto);
        let later = self.deeds.iter().position(|deed| deed.lsn > upto);
        let count = later.unwrap_or(self.deeds.len());
        self.deeds.drain(..count).collect()
    }
}
