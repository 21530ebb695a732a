//! Opening a store after a crash: what is found, the steps that change the disk, and the log that
//! goes on. Follows `src/recovery/`.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{Change, Checkpoint, Disk, End, Header, Kind, Lsn, Operation, Record, Step};
use crate::log::{Entry, Holder, Log, Open, Progress};
use crate::rules::{Rule, Without};

/// What an open decided.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) steps: Vec<Step>,
    /// The log once all steps are taken.
    pub(crate) log: Log,
    /// The newest record that was found.
    pub(crate) last: Lsn,
    /// Records after this one are gone once a tail was made anew.
    pub(crate) remade: Option<Lsn>,
}

/// Decides, read-only, how the store on `disk` is opened; an error is a refusal.
pub(crate) fn open(
    disk: &Disk,
    scopes: usize,
    secret: u8,
    without: &Without,
) -> Result<Opening, &'static str> {
    let mut survey = Survey {
        disk,
        without,
        checkpoint: disk.checkpoint(),
        scanned: Vec::new(),
        discarded: Vec::new(),
        last: Lsn::ZERO,
        ends_in_cut: Progress::No,
        replay: Replay::default(),
    };
    survey.load()?;
    survey.scan()?;
    Ok(survey.settle(scopes, secret))
}

struct Scanned {
    number: usize,
    header: Header,
    records: Vec<Record>,
    end: End,
}

struct Survey<'a> {
    disk: &'a Disk,
    without: &'a Without,
    checkpoint: Checkpoint,
    scanned: Vec<Scanned>,
    discarded: Vec<usize>,
    last: Lsn,
    ends_in_cut: Progress,
    replay: Replay,
}

/// What the records add up to.
#[derive(Default)]
struct Replay {
    open: BTreeMap<Lsn, (usize, Operation, u8)>,
    operations: BTreeMap<Operation, Lsn>,
    ended: BTreeSet<Lsn>,
    /// The newest response of each scope.
    done: BTreeMap<usize, (Lsn, Operation, u8)>,
}

impl Replay {
    fn apply(&mut self, record: &Record, without: &Without) {
        match record.kind {
            Kind::Claim { scope, operation, attempt } => {
                self.claim(record.lsn, scope, operation, attempt, without);
            }
            Kind::Carried { scope, token, operation, attempt } => {
                self.claim(token, scope, operation, attempt, without);
            }
            Kind::Complete { scope, token, operation, expires } => {
                self.end(token);
                self.done.insert(scope, (token, operation, expires));
            }
            Kind::Release { token } => self.end(token),
            Kind::Seal | Kind::Clean => {}
        }
    }

    fn claim(&mut self, token: Lsn, scope: usize, of: Operation, attempt: u8, without: &Without) {
        if self.ended.contains(&token) && without.keeps(Rule::EndedClaimsAreVoid) {
            return;
        }
        if let Some(before) = self.operations.insert(of, token)
            && before != token
        {
            self.open.remove(&before);
            self.ended.insert(before);
        }
        self.open.insert(token, (scope, of, attempt));
    }

    fn end(&mut self, token: Lsn) {
        self.ended.insert(token);
        if let Some((_, operation, _)) = self.open.remove(&token) {
            self.operations.remove(&operation);
        }
    }

    fn entries(&self, scopes: usize) -> Vec<Entry> {
        let mut entries = vec![Entry::Free; scopes];
        for (&scope, &(token, operation, expires)) in &self.done {
            entries[scope] = Entry::Done { token, operation, expires };
        }
        for (&token, &(scope, operation, attempt)) in &self.open {
            entries[scope] =
                Entry::Open(Open { token, operation, attempt, holder: Holder::Nobody });
        }
        entries
    }
}

impl Survey<'_> {
    /// The responses of sealed segments; their claims were carried.
    fn load(&mut self) -> Result<(), &'static str> {
        if !self.without.keeps(Rule::CheckpointSeals) {
            self.believe_seals();
        }
        for number in self.checkpoint.oldest..=self.checkpoint.sealed {
            let segment = self.disk.segment(number).ok_or("a sealed segment is missing")?;
            let header = segment.header().ok_or("a sealed segment has a bad header")?;
            let scan = segment.scan(header.first);
            if scan.end != End::Sealed {
                return Err("a sealed segment without its SEAL");
            }
            self.last = scan.records.last().expect("a SEAL is a record").lsn;
            for record in scan.records {
                if let Kind::Complete { scope, token, operation, expires } = record.kind {
                    self.replay.done.insert(scope, (token, operation, expires));
                }
            }
        }
        Ok(())
    }

    /// Takes every segment with a SEAL, and one behind it, for sealed.
    fn believe_seals(&mut self) {
        let has_seal = |number: usize| {
            let segment = self.disk.segment(number);
            let header = segment.and_then(|segment| segment.header());
            let next = self.disk.segment(number + 1).and_then(|next| next.header());
            let scan = header.and_then(|header| Some(segment?.scan(header.first)));
            next.is_some() && scan.is_some_and(|scan| scan.end == End::Sealed)
        };
        let Checkpoint { oldest, .. } = self.checkpoint;
        while has_seal((self.checkpoint.sealed + 1).max(oldest)) {
            self.checkpoint.sealed = (self.checkpoint.sealed + 1).max(oldest);
            self.checkpoint.tail = self.checkpoint.tail.max(self.checkpoint.sealed + 1);
        }
    }

    fn scan(&mut self) -> Result<(), &'static str> {
        let unsealed = self.unsealed()?;
        for (at, &(number, header)) in unsealed.iter().enumerate() {
            if self.last != Lsn::ZERO && header.previous_last != self.last {
                return Err("a segment does not continue the one before it");
            }
            if self.last == Lsn::ZERO {
                self.last = header.previous_last;
            }
            let segment = self.disk.segment(number).expect("it has a header");
            let scan = segment.scan(header.first);
            for record in &scan.records {
                self.replay.apply(record, self.without);
            }
            self.last = scan.records.last().map_or(self.last, |record| record.lsn);
            let end = scan.end;
            self.scanned.push(Scanned { number, header, records: scan.records, end });
            let is_last = at + 1 == unsealed.len();
            if end != End::Sealed && !(is_last && end == End::Blank) {
                self.judge(&unsealed[at + 1..])?;
                self.discarded = unsealed[at + 1..].iter().map(|(number, _)| *number).collect();
                break;
            }
        }
        if self.last < self.checkpoint.durable {
            return Err("the log ends before what CHECKPOINT says was durable");
        }
        if self.last.epoch() > self.checkpoint.epoch {
            return Err("the log is of a later epoch than CHECKPOINT says there was");
        }
        Ok(())
    }

    fn unsealed(&self) -> Result<Vec<(usize, Header)>, &'static str> {
        let Checkpoint { oldest, sealed, tail, .. } = self.checkpoint;
        let mut found = Vec::new();
        for number in (sealed + 1).max(oldest).. {
            let header = self.disk.segment(number).and_then(|segment| segment.header());
            match header {
                Some(header) => found.push((number, header)),
                None if number <= tail => return Err("a segment is missing, or its header is bad"),
                None => break,
            }
        }
        Ok(found)
    }

    /// Whether the bad spot at the end of the newest scanned segment is damage.
    fn judge(&mut self, later: &[(usize, Header)]) -> Result<(), &'static str> {
        let Scanned { number, header, records, .. } = self.scanned.last().expect("just scanned");
        let rest = self.disk.segment(*number).expect("scanned").look_ahead(records.len());
        let behind = later.iter().flat_map(|(number, _)| {
            self.disk.segment(*number).expect("it has a header").look_ahead(0)
        });
        let beyond: Vec<Record> = rest.chain(behind).collect();
        let lowest = beyond.iter().map(|record| record.lsn).min();
        let missing = match (records.last(), lowest) {
            (None, _) => header.first,
            (Some(Record { kind: Kind::Clean, .. }), Some(lowest)) => Lsn::first_of(lowest.epoch()),
            (Some(last), _) => last.lsn.next(),
        };
        if beyond.iter().any(|record| record.promise >= missing) {
            return Err("a bad record that a later one promises");
        }
        self.ends_in_cut = Progress::Yes;
        Ok(())
    }

    fn is_adoptable(&self) -> bool {
        let [tail] = &self.scanned[..] else { return false };
        let clean = matches!(tail.records.last(), Some(Record { kind: Kind::Clean, .. }));
        self.ends_in_cut == Progress::No && clean
    }

    /// Whether nothing of the tail is worth keeping, so that it is made anew.
    fn tail_is_worthless(&self) -> bool {
        let Some(tail) = self.scanned.last() else { return false };
        let alone = self.scanned.len() == 1 && self.replay.open.is_empty();
        let completes = |record: &Record| matches!(record.kind, Kind::Complete { .. });
        let empty = !tail.records.iter().any(completes);
        tail.records.is_empty() || (alone && empty && tail.end != End::Sealed)
    }

    fn settle(mut self, scopes: usize, secret: u8) -> Opening {
        let found = self.last;
        let adoptable = self.is_adoptable();
        let remakes = !adoptable && self.tail_is_worthless();
        let remade = remakes.then(|| self.scanned.last().expect("worthless").header.previous_last);
        let epoch = if self.without.keeps(Rule::EpochPerOpen) {
            self.checkpoint.epoch + 1
        } else {
            self.checkpoint.epoch.max(1)
        };
        let lowers = self.without.keeps(Rule::RemakingLowersPromise);
        let durable_max = remade.filter(|_| lowers);
        let mut steps = vec![Step::Slot(Change::Opened { epoch, durable_max })];
        if self.without.keeps(Rule::EpochInBothSlots) {
            steps.push(Step::Slot(Change::Nothing));
        }
        let strays = self.strays();
        if self.without.keeps(Rule::DiscardFirst) {
            steps.extend(strays.iter().copied());
        }
        self.rewrite_unpromised(&mut steps);
        let next = if self.without.keeps(Rule::EpochPerOpen) || found == Lsn::ZERO {
            Lsn::first_of(epoch)
        } else {
            found.next()
        };
        let entries = self.replay.entries(scopes);
        let mut log = if adoptable {
            if self.without.keeps(Rule::AdoptionIsPromised) {
                steps.push(Step::Slot(Change::Durable(found)));
            }
            let tail = &self.scanned[0];
            Log {
                scopes: entries,
                ..Log::new(tail.number, tail.records.len(), found, next, secret)
            }
        } else {
            self.go_on(&mut steps, next, entries, secret)
        };
        if !self.without.keeps(Rule::DiscardFirst) {
            steps.extend(strays.into_iter().filter(|step| *step != Step::Remove(log.tail)));
        }
        log.unsynced = Progress::No;
        log.durable = log.next.before();
        log.published = log.last;
        Opening { steps, log, last: found, remade }
    }

    /// Files that are not part of the store.
    fn strays(&self) -> Vec<Step> {
        let newest = self.scanned.last().map_or(self.checkpoint.sealed, |tail| tail.number);
        let live = self.checkpoint.oldest..=newest;
        let stray = |number: &usize| !live.contains(number);
        self.disk.numbers().filter(stray).map(Step::Remove).collect()
    }

    fn rewrite_unpromised(&self, steps: &mut Vec<Step>) {
        let all = self.scanned.iter().flat_map(|scanned| &scanned.records);
        let promised = all.map(|record| record.promise).max().unwrap_or_default();
        let promised = promised.max(self.checkpoint.durable);
        for &Scanned { number, header, ref records, end } in &self.scanned {
            if number > self.checkpoint.tail && self.without.keeps(Rule::RewriteHeaders) {
                steps.push(Step::Header { segment: number, header });
            }
            let first = records.iter().position(|record| record.lsn > promised);
            if let Some(first) = first.filter(|_| self.without.keeps(Rule::RewriteUnpromised)) {
                for (at, record) in records.iter().enumerate().skip(first) {
                    steps.push(Step::Write { segment: number, at, record: Some(*record) });
                }
            }
            let used = self.disk.segment(number).expect("scanned").used();
            if end != End::Sealed && self.without.keeps(Rule::ZeroTheCut) {
                let zeros = records.len()..used;
                steps.extend(zeros.map(|at| Step::Write { segment: number, at, record: None }));
            }
            steps.push(Step::Sync(number));
        }
    }

    /// Seals what was scanned and goes on in a new segment that begins with the open claims.
    fn go_on(
        &mut self,
        steps: &mut Vec<Step>,
        mut next: Lsn,
        entries: Vec<Entry>,
        secret: u8,
    ) -> Log {
        let mut late = None;
        let number = if self.tail_is_worthless() {
            let worthless = self.scanned.pop().expect("a worthless tail was scanned");
            self.last = worthless.header.previous_last;
            worthless.number
        } else {
            let newest = self.scanned.last().map(|tail| tail.number + 1);
            newest.unwrap_or(self.checkpoint.oldest.max(self.checkpoint.sealed + 1))
        };
        if let Some(tail) = self.scanned.last()
            && tail.end != End::Sealed
        {
            let record = Record { lsn: next, promise: next.before(), kind: Kind::Seal };
            let (segment, at) = (tail.number, tail.records.len());
            steps.push(Step::Write { segment, at, record: Some(record) });
            if self.without.keeps(Rule::SealBeforeNext) {
                steps.push(Step::Sync(segment));
            } else {
                late = Some(Step::Sync(segment));
            }
            (self.last, next) = (record.lsn, next.next());
        }
        steps.push(Step::Create {
            segment: number,
            header: Header { first: next, previous_last: self.last },
        });
        let mut log = Log { scopes: entries, ..Log::new(number, 0, self.last, next, secret) };
        let open: Vec<Kind> = log.open().collect();
        let carried: Vec<Step> = open.into_iter().map(|kind| log.push(kind).1).collect();
        let change = Change::Sealed { sealed: number - 1, tail: number, durable: log.last };
        if self.without.keeps(Rule::CarryBeforeCheckpoint) {
            steps.extend(carried);
            steps.extend([Step::Sync(number), Step::Slot(change)]);
        } else {
            steps.push(Step::Slot(change));
            steps.extend(carried);
            steps.push(Step::Sync(number));
        }
        steps.extend(late);
        log
    }
}
