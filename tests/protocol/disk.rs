//! A directory as the protocol sees it: two slots of CHECKPOINT, and segments of whole records.
//!
//! What reads see and what a power cut leaves are kept apart for every record and header. A write
//! is *dirty* until its file is synced; a power cut keeps any subset of what is dirty. A sync that
//! fails leaves its bytes readable and clean: no later sync saves them, and any subset of them has
//! reached the disk.
//!
//! A slot of CHECKPOINT is one sector, synced before anything relies on it, so its write is one
//! event: the crash before it and the crash after it are all there is.

/// The epoch, then a counter: the order is the order of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Lsn {
    epoch: u8,
    counter: u8,
}

impl Lsn {
    pub(crate) const ZERO: Lsn = Lsn { epoch: 0, counter: 0 };

    pub(crate) fn first_of(epoch: u8) -> Lsn {
        Lsn { epoch, counter: 0 }
    }

    pub(crate) fn epoch(self) -> u8 {
        self.epoch
    }

    pub(crate) fn next(self) -> Lsn {
        Lsn { counter: self.counter + 1, ..self }
    }

    /// For the first of an epoch, this is above everything of the epochs before.
    pub(crate) fn before(self) -> Lsn {
        match self.counter.checked_sub(1) {
            Some(counter) => Lsn { counter, ..self },
            None => Lsn { epoch: self.epoch.saturating_sub(1), counter: u8::MAX },
        }
    }

    pub(crate) fn follows(self, previous: Lsn) -> bool {
        let is_first = self.counter == 0 && self.epoch > previous.epoch;
        is_first
            || previous.counter.checked_add(1) == Some(self.counter) && self.epoch == previous.epoch
    }
}

/// The LSN of the first CLAIM, and the number of the open whose secret it was hashed with.
pub(crate) type Operation = (Lsn, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) lsn: Lsn,
    /// Everything up to here was durable when it was staged.
    pub(crate) promise: Lsn,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Claim {
        scope: usize,
        operation: Operation,
        attempt: u8,
    },
    /// An open claim repeated in a later segment.
    Carried {
        scope: usize,
        token: Lsn,
        operation: Operation,
        attempt: u8,
    },
    Complete {
        scope: usize,
        token: Lsn,
        operation: Operation,
        expires: u8,
    },
    Release {
        token: Lsn,
    },
    Seal,
    Clean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Header {
    pub(crate) first: Lsn,
    pub(crate) previous_last: Lsn,
}

/// What reads see, and what a power cut would leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Versions<T> {
    seen: Option<T>,
    durable: Option<T>,
    dirty: bool,
}

/// Which of several things comes true, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Subset(u16);

impl Subset {
    /// Every subset of `count` things.
    pub(crate) fn all(count: usize) -> impl Iterator<Item = Subset> {
        assert!(count < 12, "so many unsynced writes are too many to look at every subset of");
        (0..1 << count).map(Subset)
    }

    /// Whether the next thing is in it.
    fn next(&mut self) -> bool {
        let taken = self.0 & 1 == 1;
        self.0 >>= 1;
        taken
    }
}

impl<T: Copy + PartialEq> Versions<T> {
    const BLANK: Versions<T> = Versions { seen: None, durable: None, dirty: false };

    fn durable(value: T) -> Versions<T> {
        Versions { seen: Some(value), durable: Some(value), dirty: false }
    }

    fn write(&mut self, value: Option<T>) {
        (self.seen, self.dirty) = (value, true);
    }

    fn sync(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.durable = self.seen;
        }
    }

    /// A sync failed; what reached the disk all the same is in `reached`.
    fn fail_sync(&mut self, reached: &mut Subset) {
        if std::mem::take(&mut self.dirty) && reached.next() {
            self.durable = self.seen;
        }
    }

    fn cut_power(&mut self, kept: &mut Subset) {
        self.fail_sync(kept);
        self.seen = self.durable;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    header: Versions<Header>,
    records: Vec<Versions<Record>>,
}

/// How the good records of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Blank,
    Sealed,
    Bad,
}

#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) records: Vec<Record>,
    pub(crate) end: End,
}

impl Segment {
    /// A prepared file: it has a name, and nothing in it.
    fn blank() -> Segment {
        Segment { header: Versions::BLANK, records: Vec::new() }
    }

    pub(crate) fn header(&self) -> Option<Header> {
        self.header.seen
    }

    fn record(&mut self, at: usize) -> &mut Versions<Record> {
        if self.records.len() <= at {
            self.records.resize(at + 1, Versions::BLANK);
        }
        &mut self.records[at]
    }

    /// Where the last record stands, good or not; what is behind is zeros.
    pub(crate) fn used(&self) -> usize {
        self.records.iter().rposition(|record| record.seen.is_some()).map_or(0, |at| at + 1)
    }

    /// The good records from the front.
    pub(crate) fn scan(&self, first: Lsn) -> Scan {
        let mut records: Vec<Record> = Vec::new();
        for found in &self.records[..self.used()] {
            let expected = |record: &Record| match records.last() {
                None => record.lsn == first,
                Some(last) => record.lsn.follows(last.lsn),
            };
            let Some(record) = found.seen.filter(expected) else {
                return Scan { records, end: End::Bad };
            };
            records.push(record);
            if record.kind == Kind::Seal {
                return Scan { records, end: End::Sealed };
            }
        }
        Scan { records, end: End::Blank }
    }

    /// Everything from `at` on that verifies.
    pub(crate) fn look_ahead(&self, at: usize) -> impl Iterator<Item = Record> {
        self.records.iter().skip(at).filter_map(|record| record.seen)
    }

    fn dirty(&self) -> usize {
        let records = self.records.iter().filter(|record| record.dirty).count();
        records + usize::from(self.header.dirty)
    }

    fn trim(&mut self) {
        while self.records.last() == Some(&Versions::BLANK) {
            self.records.pop();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Checkpoint {
    pub(crate) generation: u8,
    pub(crate) oldest: usize,
    pub(crate) sealed: usize,
    pub(crate) tail: usize,
    pub(crate) durable: Lsn,
    pub(crate) epoch: u8,
}

/// What a write of CHECKPOINT changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Opened { epoch: u8, durable_max: Option<Lsn> },
    Sealed { sealed: usize, tail: usize, durable: Lsn },
    Durable(Lsn),
    Oldest(usize),
    Nothing,
}

/// One event on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// A record, or zeros in its place.
    Write {
        segment: usize,
        at: usize,
        record: Option<Record>,
    },
    Header {
        segment: usize,
        header: Header,
    },
    Sync(usize),
    Slot(Change),
    /// A draft with a synced header takes the name of the segment.
    Create {
        segment: usize,
        header: Header,
    },
    /// A prepared file, with a durable name and nothing in it.
    Prepare(usize),
    Remove(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    /// `None` where a slot does not verify.
    slots: [Option<Checkpoint>; 2],
    /// By number, from 1.
    segments: Vec<Option<Segment>>,
}

impl Disk {
    /// A store that was created and never opened.
    pub(crate) fn created() -> Disk {
        let first = Checkpoint { oldest: 1, ..Checkpoint::default() };
        let second = Checkpoint { generation: 1, ..first };
        Disk { slots: [Some(first), Some(second)], segments: Vec::new() }
    }

    /// The newer slot that verifies.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let newest = self.slots.iter().flatten().max_by_key(|slot| slot.generation);
        *newest.expect("at most one slot rots")
    }

    pub(crate) fn segment(&self, number: usize) -> Option<&Segment> {
        self.segments.get(number.checked_sub(1)?)?.as_ref()
    }

    fn place(&mut self, number: usize) -> &mut Option<Segment> {
        if self.segments.len() < number {
            self.segments.resize(number, None);
        }
        &mut self.segments[number - 1]
    }

    fn existing(&mut self, number: usize) -> &mut Segment {
        self.place(number).as_mut().expect("only a segment that exists is changed")
    }

    /// The numbers of the segments that have a file.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> {
        (1..=self.segments.len()).filter(|&number| self.segment(number).is_some())
    }

    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Write { segment, at, record } => {
                self.existing(segment).record(at).write(record);
            }
            Step::Header { segment, header } => self.existing(segment).header.write(Some(header)),
            Step::Sync(segment) => {
                let segment = self.existing(segment);
                segment.header.sync();
                segment.records.iter_mut().for_each(Versions::sync);
                segment.trim();
            }
            Step::Slot(change) => self.write_slot(change),
            Step::Create { segment, header } => {
                let header = Versions::durable(header);
                *self.place(segment) = Some(Segment { header, records: Vec::new() });
            }
            Step::Prepare(segment) => *self.place(segment) = Some(Segment::blank()),
            Step::Remove(segment) => *self.place(segment) = None,
        }
    }

    fn write_slot(&mut self, change: Change) {
        let mut next = self.checkpoint();
        next.generation += 1;
        match change {
            Change::Opened { epoch, durable_max } => {
                next.epoch = epoch;
                next.durable = durable_max.map_or(next.durable, |max| next.durable.min(max));
            }
            Change::Sealed { sealed, tail, durable } => {
                (next.sealed, next.tail, next.durable) = (sealed, tail, durable);
            }
            Change::Durable(durable) => next.durable = durable,
            Change::Oldest(oldest) => next.oldest = oldest,
            Change::Nothing => {}
        }
        self.slots[usize::from(next.generation % 2)] = Some(next);
    }

    /// How many writes a power cut could take.
    pub(crate) fn dirty(&self) -> usize {
        self.segments.iter().flatten().map(Segment::dirty).sum()
    }

    pub(crate) fn dirty_in(&self, segment: usize) -> usize {
        self.segment(segment).map_or(0, Segment::dirty)
    }

    pub(crate) fn fail_sync(&mut self, segment: usize, mut reached: Subset) {
        let segment = self.existing(segment);
        segment.header.fail_sync(&mut reached);
        segment.records.iter_mut().for_each(|record| record.fail_sync(&mut reached));
    }

    pub(crate) fn cut_power(&mut self, mut kept: Subset) {
        for segment in self.segments.iter_mut().flatten() {
            segment.header.cut_power(&mut kept);
            segment.records.iter_mut().for_each(|record| record.cut_power(&mut kept));
            segment.trim();
        }
    }

    /// Whether a power cut would change nothing.
    pub(crate) fn is_settled(&self) -> bool {
        self.segments.iter().flatten().all(|segment| {
            let settled = segment.records.iter().all(|record| record.seen == record.durable);
            settled && segment.header.seen == segment.header.durable
        })
    }

    /// Whether a slot can rot and leave one that verifies.
    pub(crate) fn can_rot(&self) -> bool {
        self.slots.iter().all(Option::is_some)
    }

    pub(crate) fn rot(&mut self, slot: usize) {
        self.slots[slot] = None;
    }
}
