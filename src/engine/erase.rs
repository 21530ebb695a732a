//! Forgets responses: first the index lets go of them, then the bytes on disk are overwritten, the
//! claims and checkpoints that led to them too.

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::engine::outcome::{Keyed, Stored};
use crate::error::{Error, Result};
use crate::format::record::{Header, Record};
use crate::location::{Location, Lsn};
use crate::log::erasure::Trace;
use crate::log::reader::{End, Scan};
use crate::scope::{self, Encoded, OperationId, Token};

/// A response that was found, and when its operation began.
struct Found {
    location: Location,
    operation: OperationId,
    claimed_ms: u64,
}

impl Engine {
    /// Erases what is stored of a scope. `false` where nothing is, or where it is claimed.
    pub(crate) fn forget(&self, keyed: &Keyed) -> Result<bool> {
        // No segment is dropped, and nothing else is erased, meanwhile.
        let _erasing = self.expiring.lock();
        let found = self.responses_of(keyed)?;
        for found in &found {
            self.forget_response(keyed.hash, found)?;
        }
        Ok(!found.is_empty())
    }

    /// The responses of a scope that no claim is open for, expired ones too.
    fn responses_of(&self, keyed: &Keyed) -> Result<Vec<Found>> {
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
                    let (operation, claimed_ms) = (stored.operation, stored.claimed_ms);
                    found.push(Found { location, operation, claimed_ms });
                }
            }
            if self.shard(keyed.hash).lock().changes == changes {
                return Ok(found);
            }
        }
    }

    fn forget_response(&self, hash: u64, found: &Found) -> Result<()> {
        let mut traces = Vec::new();
        let mut tokens = BTreeSet::new();
        for segment in self.log.segments.since(found.claimed_ms) {
            if segment > found.location.segment() {
                break;
            }
            let mut reached = false;
            let scan = self.log.segments.scan(segment, |entry| {
                let location = Location::new(segment, entry.offset);
                reached |= location == found.location;
                let named = match &entry.record {
                    Record::Claim(claim) if claim.operation == found.operation => {
                        tokens.insert(token_of(&entry.header, &entry.record));
                        true
                    }
                    Record::Progress { token, .. } => tokens.contains(&Some(*token)),
                    Record::Complete(_) => location == found.location,
                    _ => false,
                };
                if named {
                    traces.push(Trace::of(hash, segment, &entry));
                }
            })?;
            if let Some(scan) = scan.filter(|scan| !reached && scan.end != End::Sealed) {
                return Err(damaged(segment, &scan));
            }
        }
        self.forget_traces(&traces)
    }

    /// Erases everything of an organization but its open claims. Returns how many responses that
    /// could still be replayed there were.
    pub(crate) fn forget_organization(&self, organization: &str) -> Result<u64> {
        let _erasing = self.expiring.lock();
        // What is staged has to be in the files that are read now.
        self.sync_staged()?;
        let (open, upto) = self.log.open_operations();
        let (mut tokens, mut responses) = (BTreeSet::new(), 0);
        for segment in self.log.segments.since(0) {
            responses += self.forget_in(segment, organization, &open, upto, &mut tokens)?;
        }
        Ok(responses)
    }

    fn forget_in(
        &self,
        segment: u64,
        organization: &str,
        open: &BTreeSet<OperationId>,
        upto: Lsn,
        tokens: &mut BTreeSet<Option<Token>>,
    ) -> Result<u64> {
        let (mut traces, mut last, mut responses) = (Vec::new(), Lsn::ZERO, Vec::new());
        let is_theirs = |encoded: &[u8]| {
            scope::decode(encoded).is_some_and(|scope| scope.organization == organization)
        };
        let scan = self.log.segments.scan(segment, |entry| {
            last = entry.header.lsn;
            if last > upto {
                return;
            }
            let hash = match &entry.record {
                Record::Claim(claim) if is_theirs(claim.scope) => {
                    if open.contains(&claim.operation) {
                        return;
                    }
                    tokens.insert(token_of(&entry.header, &entry.record));
                    self.hash_key.hash(claim.scope)
                }
                Record::Progress { token, .. } if tokens.contains(&Some(*token)) => 0,
                Record::Complete(complete) if is_theirs(complete.scope) => {
                    let encoded = Encoded::from(complete.scope);
                    let hash = self.hash_key.hash(&encoded);
                    responses.push((hash, entry.offset, complete.expires_ms));
                    hash
                }
                _ => return,
            };
            traces.push(Trace::of(hash, segment, &entry));
        })?;
        if let Some(scan) = scan.filter(|scan| scan.end != End::Sealed && last < upto) {
            return Err(damaged(segment, &scan));
        }
        let now = self.now();
        let live = responses.iter().filter(|&&(hash, offset, expires_ms)| {
            let location = Location::new(segment, offset);
            let shard = self.shard(hash).lock();
            now.now_ms < expires_ms && self.candidates(&shard, hash).iter().any(|l| l == location)
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
        for trace in traces {
            let mut shard = self.shard(trace.hash).lock();
            shard.index.remove(trace.hash, trace.location);
            shard.changes += 1;
        }
        self.log.erase(traces)?;
        outcome
    }
}

/// The token of the attempt that a CLAIM belongs to.
fn token_of(header: &Header, record: &Record<'_>) -> Option<Token> {
    let Record::Claim(claim) = record else { return None };
    Some(claim.carried.map_or(Token::new(header.lsn.0), |carried| carried.token))
}

fn damaged(segment: u64, scan: &Scan) -> Error {
    let what = match scan.end {
        End::Bad(what) => what,
        End::Blank | End::Sealed => "the records end before what is to be forgotten",
    };
    Error::Corrupt { segment, offset: scan.offset, what }
}
