//! What the records of unsealed segments add up to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::format::record::{Claim, Ended, Header, Record};
use crate::location::Location;
use crate::log::{Facts, OpenClaim};
use crate::scope::{HashKey, OperationId, Token};

/// Open claims and responses after the records so far.
#[derive(Default)]
pub(in crate::recovery) struct Replay {
    pub(in crate::recovery) open: BTreeMap<Token, OpenClaim>,
    /// The token that stands for each open operation.
    operations: HashMap<OperationId, Token>,
    /// Claims that ended: a CLAIM of theirs that comes later is void.
    ended: BTreeSet<Token>,
    pub(in crate::recovery) responses: BTreeSet<(u64, Location)>,
}

impl Replay {
    pub(in crate::recovery) fn apply(
        &mut self,
        hash_key: &HashKey,
        at: Location,
        header: &Header,
        record: Record<'_>,
    ) {
        match record {
            Record::Claim(claim) => self.claim(header, &claim),
            Record::Progress { token, ended, checkpoint } => {
                if let Some(open) = self.open.get_mut(&token) {
                    if ended != Ended::No {
                        open.ended = ended;
                    }
                    if let Some(checkpoint) = checkpoint {
                        open.checkpoint = Some(checkpoint.into());
                    }
                }
            }
            Record::Complete(complete) => {
                self.end(complete.token);
                self.responses.insert((hash_key.hash(complete.scope), at));
            }
            Record::Release { token, .. } => self.end(token),
            Record::Forget { hash, segment, offset } => self.forget(hash, segment, offset),
            Record::Erased | Record::Seal(_) | Record::Clean(_) | Record::Promise => {}
        }
    }

    fn claim(&mut self, header: &Header, claim: &Claim<'_>) {
        let carried = claim.carried;
        let token = carried.map_or(Token::new(header.lsn.0), |carried| carried.token);
        if self.ended.contains(&token) {
            return;
        }
        let facts = Facts {
            scope: claim.scope.into(),
            fingerprint: claim.fingerprint,
            operation: claim.operation,
            token,
            attempt: header.attempt,
            claimed_ms: carried.map_or(header.time_ms, |carried| carried.claimed_ms),
            attempted_ms: carried.map_or(header.time_ms, |carried| carried.attempted_ms),
            cause: carried.map_or(Ended::No, |carried| carried.cause),
        };
        // A later attempt takes the place of the one before it.
        if let Some(before) = self.operations.insert(claim.operation, token)
            && before != token
        {
            self.open.remove(&before);
            self.ended.insert(before);
        }
        let open = OpenClaim {
            facts: Arc::new(facts),
            ended: carried.map_or(Ended::No, |carried| carried.ended),
            checkpoint: carried.and_then(|carried| carried.checkpoint).map(Arc::from),
        };
        self.open.insert(token, open);
    }

    fn end(&mut self, token: Token) {
        self.ended.insert(token);
        if let Some(open) = self.open.remove(&token) {
            self.operations.remove(&open.facts.operation);
        }
    }

    pub(in crate::recovery) fn forget(&mut self, hash: u64, segment: u64, offset: u64) {
        let addressable = offset < Location::SEGMENT_BYTES_MAX
            && offset.is_multiple_of(Location::GRANULE)
            && segment < 1 << 42;
        if addressable {
            self.responses.remove(&(hash, Location::new(segment, offset)));
        }
    }
}
