//! The segment log: one stream of records for all shards, one stream of syncs.
//!
//! ```text
//! staged (has an LSN and a place) > written > synced > published by whoever committed it
//! ```
//! In `Buffered` mode a record is written when it is staged, and published at once.

pub(crate) mod checkpoints;
pub(crate) mod commit;
pub(crate) mod reader;

pub(crate) mod hinted;
pub(crate) mod walk;

pub(crate) mod organizations;
pub(crate) mod room;
pub(crate) mod segments;
pub(crate) mod staging;

pub(crate) mod blocks;

pub(crate) mod writer;

pub(crate) mod cut;
pub(crate) mod erasure;
pub(crate) mod leader;
pub(crate) mod upkeep;

use std::sync::Arc;

use crate::format::record::{Carried, Claim, Ended, Header};
use crate::scope::{Encoded, Fingerprint, OperationId, Token};

/// What never changes about one attempt.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The encoded scope.
    pub(crate) scope: Encoded,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) operation: OperationId,
    pub(crate) token: Token,
    pub(crate) attempt: u16,
    /// When the first attempt began, in ms.
    pub(crate) claimed_ms: u64,
    /// When this attempt began, in ms.
    pub(crate) attempted_ms: u64,
    /// How the attempt before this one ended.
    pub(crate) cause: Ended,
}

/// A claim that has not ended, as the log must carry it from segment to segment.
#[derive(Clone, Debug)]
pub(crate) struct OpenClaim {
    pub(crate) facts: Arc<Facts>,
    pub(crate) ended: Ended,
    pub(crate) checkpoint: Option<Arc<[u8]>>,
}

impl OpenClaim {
    /// The record that keeps the claim once its earlier ones are dropped.
    pub(crate) fn carried(&self) -> Claim<'_> {
        let facts = &*self.facts;
        Claim {
            operation: facts.operation,
            fingerprint: facts.fingerprint,
            scope: &facts.scope,
            carried: Some(Carried {
                token: facts.token,
                claimed_ms: facts.claimed_ms,
                attempted_ms: facts.attempted_ms,
                ended: self.ended,
                cause: facts.cause,
                checkpoint: self.checkpoint.as_deref(),
            }),
        }
    }
}

/// The token of the attempt that a CLAIM belongs to: its LSN, unless it says another.
pub(crate) fn token_of(header: &Header, claim: &Claim<'_>) -> Token {
    claim.carried.map_or(Token::new(header.lsn.0), |carried| carried.token)
}

/// The name of a segment's file.
pub(crate) fn segment_name(segment: u64) -> String {
    format!("{segment:016x}.seg")
}

/// The name of a segment's hint file.
pub(crate) fn hint_name(segment: u64) -> String {
    format!("{segment:016x}.idx")
}

/// The number in a name such as `segment_name` makes, with this ending.
pub(crate) fn number_of(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    let lower = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    (digits.len() == 16 && lower).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}
