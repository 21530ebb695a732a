//! Forgets responses: first the index lets go of them, then the bytes on disk are overwritten, the
//! claims and checkpoints that led to them too.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::Engine;
use crate::engine::outcome::{Keyed, Stored};
use crate::error::{Error, Result};
use crate::format::record::{Kind, Record};
use crate::location::{Location, Lsn};
use crate::log::erasure::Trace;
use crate::log::reader::{End, Scan};
use crate::log::segments::Segment;
use crate::log::token_of;
use crate::scope::{self, OperationId, Token};

impl Engine {
    /// Erases what is stored of a scope. `false` where nothing is, or where it is claimed.
    pub(crate) fn forget(&self, keyed: &Keyed) -> Result<bool> {
        // No segment is dropped, and nothing else is erased, meanwhile.
        let _erasing = self.expiring.lock();
        let found = self.responses_of(keyed)?;
        if found.is_empty() && self.quarantine.check_absent(self.now().now_ms).is_err() {
            // Not "nothing is stored" of a scope that may have been in what was lost.
            self.look_up(keyed)?;
        }
        for &(location, operation) in &found {
            self.forget_response(keyed.hash, location, operation)?;
        }
        Ok(!found.is_empty())
    }

    /// Where the responses of a scope are that no claim is open for, expired ones too, and what
    /// operations they ended.
    fn responses_of(&self, keyed: &Keyed) -> Result<Vec<(Location, OperationId)>> {
        self.check_closed()?;
        loop {
            let (changes, candidates) = {
                let mut shard = self.shard(keyed.hash).lock();
                if shard.inflight.find(keyed.hash, &keyed.encoded).is_some() {
                    return Ok(Vec::new());
                }
                (shard.changes, self.candidates(&shard, keyed.hash))
            };
            let mut found = Vec::new();
            for location in candidates.iter() {
                let Some(record) = self.log.segments.read(location)? else { continue };
                if let Some(stored) = Stored::of_record(record, &keyed.encoded) {
                    found.push((location, stored.operation));
                }
            }
            if !self.has_changed(keyed.hash, changes) {
                return Ok(found);
            }
        }
    }

    /// Erases a response and what led to it, back to the CLAIM that began its operation.
    fn forget_response(&self, hash: u64, response: Location, operation: OperationId) -> Result<()> {
        let (mut traces, mut begun) = (Vec::new(), false);
        for segment in self.log.segments.live().iter().rev().map(|segment| segment.number) {
            if segment > response.segment() {
                continue;
            }
            let (mut tokens, mut reached) = (BTreeSet::new(), false);
            let scan = self.log.segments.scan(segment, |entry| {
                let location = Location::new(segment, entry.offset);
                reached |= location == response;
                let leads_there = match &entry.record {
                    Record::Claim(claim) if claim.operation == operation => {
                        let token = token_of(&entry.header, claim);
                        begun |= entry.header.attempt == 1 && token.get() == entry.header.lsn.0;
                        tokens.insert(token);
                        true
                    }
                    // A claim is carried into a segment before it goes on there.
                    Record::Progress { token, .. } => tokens.contains(token),
                    Record::Complete(_) => location == response,
                    _ => false,
                };
                if leads_there {
                    traces.push(Trace { hash, location, header: entry.header });
                }
            })?;
            if let Some(scan) = scan.filter(|scan| !reached && scan.end != End::Sealed) {
                return Err(damaged(segment, &scan));
            }
            if begun {
                break;
            }
        }
        // The response last: without room for all of it, it is still there.
        traces.sort_unstable_by_key(|trace| trace.location);
        self.forget_traces(&traces)
    }

    /// Erases everything of an organization but its open claims. Returns how many responses that
    /// could still be replayed there were.
    pub(crate) fn forget_organization(&self, organization: &str) -> Result<u64> {
        let _erasing = self.expiring.lock();
        // What is staged has to be in the files that are read now.
        self.sync_staged()?;
        let (upto, open) = self.log.written_and_open();
        let (mut hashes, mut responses) = (BTreeMap::new(), 0);
        for segment in self.log.segments.live() {
            responses += self.forget_in(&segment, organization, &open, upto, &mut hashes)?;
        }
        Ok(responses)
    }

    /// The same in one segment, up to a record. `hashes` are those of the claims so far.
    fn forget_in(
        &self,
        segment: &Segment,
        organization: &str,
        open: &BTreeSet<OperationId>,
        upto: Lsn,
        hashes: &mut BTreeMap<Token, u64>,
    ) -> Result<u64> {
        let (number, first_lsn) = (segment.number, segment.header.first_lsn);
        let (mut traces, mut last, mut expiries) = (Vec::new(), Lsn::ZERO, Vec::new());
        let is_theirs = |encoded: &[u8]| {
            scope::decode(encoded).is_some_and(|scope| scope.organization == organization)
        };
        let scan = self.log.segments.scan(number, |entry| {
            last = entry.header.lsn;
            if last > upto {
                return;
            }
            let location = Location::new(number, entry.offset);
            let hash = match &entry.record {
                Record::Claim(claim) if is_theirs(claim.scope) => {
                    if open.contains(&claim.operation) {
                        return;
                    }
                    let hash = self.hash_key.hash(claim.scope);
                    hashes.insert(token_of(&entry.header, claim), hash);
                    hash
                }
                Record::Progress { token, .. } => match hashes.get(token) {
                    Some(&hash) => hash,
                    None => return,
                },
                Record::Complete(complete) if is_theirs(complete.scope) => {
                    let hash = self.hash_key.hash(complete.scope);
                    expiries.push((hash, location, complete.expires_ms));
                    hash
                }
                _ => return,
            };
            traces.push(Trace { hash, location, header: entry.header });
        })?;
        // The tail may be empty, and may go on behind what is asked for.
        let cut_short = |scan: &Scan| scan.end != End::Sealed && first_lsn <= upto && last < upto;
        if let Some(scan) = scan.filter(cut_short) {
            return Err(damaged(number, &scan));
        }
        let now_ms = self.now().now_ms;
        let live = expiries.iter().filter(|&&(hash, location, expires_ms)| {
            let shard = self.shard(hash).lock();
            now_ms < expires_ms && self.candidates(&shard, hash).iter().any(|at| at == location)
        });
        let live = live.count() as u64;
        self.forget_traces(&traces)?;
        Ok(live)
    }

    /// Makes the FORGETs durable, lets the index go of the places, and overwrites them.
    fn forget_traces(&self, traces: &[Trace]) -> Result<()> {
        let (staged, outcome) = self.log.stage_forgets(traces, self.now());
        let traces = &traces[..staged];
        if !traces.is_empty() {
            self.sync_staged()?;
        }
        // Claims are not in the index.
        for trace in traces.iter().filter(|trace| trace.header.kind == Kind::Complete) {
            let mut shard = self.shard(trace.hash).lock();
            shard.index.remove(trace.hash, trace.location);
            shard.changes += 1;
        }
        self.log.erase(traces)?;
        outcome
    }
}

fn damaged(segment: u64, scan: &Scan) -> Error {
    let what = match scan.end {
        End::Bad(what) => what,
        End::Blank | End::Sealed => "the records end before what is to be forgotten",
    };
    Error::Corrupt { segment, offset: scan.offset, what }
}
