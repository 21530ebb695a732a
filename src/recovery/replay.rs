//! What the records of unsealed segments add up to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::format::record::{Claim, Ended, Header, Record};
use crate::location::Location;
use crate::log::{Facts, OpenClaim, token_of};
use crate::scope::{HashKey, OperationId, Token};

/// Open claims and responses after the records so far.
#[derive(Default)]
pub(in crate::recovery) struct Replay {
    pub(in crate::recovery) open: BTreeMap<Token, OpenClaim>,
    /// Where the newest CLAIM of each of them stands.
    places: HashMap<Token, Location>,
    /// The token that stands for each open operation.
    operations: HashMap<OperationId, Token>,
    /// Claims that ended: a CLAIM of theirs that comes later is void.
    ended: BTreeSet<Token>,
    pub(in crate::recovery) responses: Vec<(u64, Location)>,
    /// Responses that a FORGET names, of any segment.
    pub(in crate::recovery) forgotten: Vec<(u64, Location)>,
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
            Record::Claim(claim) => self.claim(header, &claim, at),
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
                // An erasure that stopped halfway may have left the CLAIM of an earlier attempt,
                // and not that of the one that completed.
                if let Some(&token) = self.operations.get(&complete.operation) {
                    self.end(token);
                }
                self.responses.push((hash_key.hash(complete.scope), at));
            }
            Record::Release { token, .. } => self.end(token),
            Record::Forget { hash, segment, offset } => {
                let location = Location::checked(segment, offset);
                self.forgotten.extend(location.map(|location| (hash, location)));
            }
            Record::Erased | Record::Seal(_) | Record::Clean(_) | Record::Promise => {}
        }
    }

    fn claim(&mut self, header: &Header, claim: &Claim<'_>, at: Location) {
        let carried = claim.carried;
        let token = token_of(header, claim);
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
            self.places.remove(&before);
            self.ended.insert(before);
        }
        let open = OpenClaim {
            facts: Arc::new(facts),
            ended: carried.map_or(Ended::No, |carried| carried.ended),
            checkpoint: carried.and_then(|carried| carried.checkpoint).map(Arc::from),
        };
        self.open.insert(token, open);
        self.places.insert(token, at);
    }

    /// A CLAIM is forgotten only once its operation has ended. An erasure that stopped halfway may
    /// have left it, and not the CLAIM of the attempt that was released in its place.
    pub(in crate::recovery) fn end_forgotten(&mut self) {
        let forgotten: HashSet<Location> = self.forgotten.iter().map(|(_, at)| *at).collect();
        let left = self.places.iter().filter(|(_, at)| forgotten.contains(at));
        let left: Vec<Token> = left.map(|(&token, _)| token).collect();
        left.into_iter().for_each(|token| self.end(token));
    }

    fn end(&mut self, token: Token) {
        self.ended.insert(token);
        self.places.remove(&token);
        if let Some(open) = self.open.remove(&token) {
            self.operations.remove(&open.facts.operation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::{Carried, Draft, Freed, Identity, Stamp};
    use crate::location::Lsn;
    use crate::scope::{Fingerprint, Scope};

    /// Applies a record as a scan would.
    fn apply(replay: &mut Replay, lsn: u64, draft: &Draft<'_>) {
        let identity = Identity::new([1; 16], 1, 1);
        let stamp = Stamp { identity, offset: 8192, lsn: Lsn(lsn), durable: Lsn(0), time_ms: 5 };
        let mut bytes = Vec::new();
        draft.write(&stamp, &mut bytes);
        let header = Header::decode(&bytes, identity, 8192).unwrap();
        let record = header.decode_body(&bytes).unwrap();
        replay.apply(&HashKey::new(&[0; 16]), Location::new(1, 8192), &header, record);
    }

    #[test]
    fn a_claim_that_a_forget_names_is_no_orphan_although_its_end_was_another_attempt_s() {
        let scope = Scope { organization: "", method: "POST", path: "/", key: "k" }.encode();
        let operation = OperationId::from_hash([7; 16]);
        let fingerprint = Fingerprint::of(b"");
        let claim = Claim { operation, fingerprint, scope: &scope, carried: None };
        let mut replay = Replay::default();
        apply(&mut replay, 10, &Draft::claim(&claim, 1, &[]));
        // The second attempt's CLAIM was erased before the power went; its RELEASE is there.
        apply(&mut replay, 12, &Draft::release(Token::new(11), Freed::NoEffect, 2));
        replay.end_forgotten();
        assert_eq!(replay.open.len(), 1, "nothing says that it was forgotten");
        apply(&mut replay, 13, &Draft::forget(9, Location::new(1, 8192)));
        replay.end_forgotten();
        assert!(replay.open.is_empty(), "a released operation came back");
    }

    #[test]
    fn a_carried_claim_whose_token_was_released_is_void() {
        let scope = Scope { organization: "", method: "POST", path: "/", key: "k" }.encode();
        let operation = OperationId::from_hash([7; 16]);
        let fingerprint = Fingerprint::of(b"");
        let claim = Claim { operation, fingerprint, scope: &scope, carried: None };
        let (token, ended, cause) = (Token::new(10), Ended::No, Ended::No);
        let carried =
            Carried { token, claimed_ms: 5, attempted_ms: 5, ended, cause, checkpoint: None };
        let again = Claim { carried: Some(carried), ..claim };
        let mut replay = Replay::default();
        apply(&mut replay, 10, &Draft::claim(&claim, 1, &[]));
        assert_eq!(replay.open.len(), 1);
        apply(&mut replay, 11, &Draft::release(token, Freed::NoEffect, 1));
        apply(&mut replay, 12, &Draft::claim(&again, 1, &[]));
        assert!(replay.open.is_empty(), "a released claim came back");
    }
}
