//! What a key holds, as bytes.
//!
//! ```text
//! version 1 | state 1 | cause 1 | flags 1 | attempt 4 | operation 16 | token 8      the name: 32
//! fingerprint 16 | ttl 8 | lease 8 | age 8 | length of scope 2 | zeros 2 | length of checkpoint 4
//! scope | checkpoint | response: all that is left, of a completion alone
//! ```
//!
//! Numbers are little-endian, times are milliseconds. The *age* is how long before the last reset
//! of the key's time to live the operation was first claimed. One flag says that the response was
//! left out, one that an operator completed the operation, not the attempt. When an operation
//! completed is not in the record: the key expires `ttl` later.
//! The scripts know these places too.

use bytes::Bytes;

use crate::clock::MS_MAX;
use crate::engine::outcome::OrphanCause;
use crate::format::record::CHECKPOINT_BYTES_MAX;
use crate::format::{DecodeError, Fields, Put};
use crate::scope::{ENCODED_BYTES_MAX, Fingerprint, OperationId, Token};

const VERSION: u8 = 1;
/// What names an attempt and its state.
pub(crate) const NAME_BYTES: usize = 32;
pub(crate) const HEAD_BYTES: usize = 80;
pub(crate) const LEFT_OUT: u8 = 1;
pub(crate) const RESOLVED: u8 = 2;

/// In which state an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// An orphan, once its lease is over.
    Running,
    GivenUp,
    Completed,
    /// Free. What is left keeps the tokens of the scope increasing.
    Released,
}

impl State {
    const fn code(self) -> u8 {
        match self {
            State::Running => 1,
            State::GivenUp => 2,
            State::Completed => 3,
            State::Released => 4,
        }
    }

    fn of(code: u8) -> Result<State, DecodeError> {
        match code {
            1 => Ok(State::Running),
            2 => Ok(State::GivenUp),
            3 => Ok(State::Completed),
            4 => Ok(State::Released),
            _ => Err(DecodeError::Damaged("an unknown state")),
        }
    }
}

const LEASE_LAPSED: u8 = 1;
const FAILED: u8 = 2;

/// The state and the cause of an attempt that was given up, as `give_up` writes them.
pub(crate) const GIVEN_UP: [u8; 2] = [State::GivenUp.code(), FAILED];

fn cause_code(cause: Option<OrphanCause>) -> u8 {
    match cause {
        None => 0,
        Some(OrphanCause::LeaseLapsed) => LEASE_LAPSED,
        // A server knows of no crash and no drop, so the others never come.
        Some(OrphanCause::Failed | OrphanCause::Crash | OrphanCause::Dropped) => FAILED,
    }
}

fn cause_of(code: u8) -> Result<Option<OrphanCause>, DecodeError> {
    match code {
        0 => Ok(None),
        LEASE_LAPSED => Ok(Some(OrphanCause::LeaseLapsed)),
        FAILED => Ok(Some(OrphanCause::Failed)),
        _ => Err(DecodeError::Damaged("an unknown cause")),
    }
}

/// What all records have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) state: State,
    /// Why the attempt before this one ended; of one that was given up, why it did.
    pub(crate) cause: Option<OrphanCause>,
    pub(crate) flags: u8,
    pub(crate) attempt: u32,
    pub(crate) operation: OperationId,
    pub(crate) token: Token,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) ttl_ms: u64,
    pub(crate) lease_ms: u64,
    pub(crate) age_ms: u64,
}

impl Head {
    /// What the scripts compare.
    pub(crate) fn name(&self) -> [u8; NAME_BYTES] {
        let mut name = [0; NAME_BYTES];
        self.put_name(&mut Put::new(&mut name));
        name
    }

    fn put_name(&self, put: &mut Put<'_>) {
        put.u8(VERSION).u8(self.state.code()).u8(cause_code(self.cause)).u8(self.flags);
        put.u32(self.attempt).bytes(&self.operation.to_bytes()).bytes(&self.token.to_bytes());
    }

    /// The record. The scope and the checkpoint are within their limits.
    pub(crate) fn encode(&self, scope: &[u8], checkpoint: &[u8], response: &[&[u8]]) -> Vec<u8> {
        let scope_bytes = u16::try_from(scope.len()).expect("a checked scope is short");
        let checkpoint_bytes = u32::try_from(checkpoint.len()).expect("a checkpoint is short");
        let response_bytes: usize = response.iter().map(|part| part.len()).sum();
        let bytes = HEAD_BYTES + scope.len() + checkpoint.len() + response_bytes;
        let mut record = Vec::with_capacity(bytes);
        record.resize(HEAD_BYTES, 0);
        let mut put = Put::new(&mut record);
        self.put_name(&mut put);
        put.bytes(&self.fingerprint.to_bytes());
        put.u64(self.ttl_ms).u64(self.lease_ms).u64(self.age_ms);
        put.u16(scope_bytes).u16(0).u32(checkpoint_bytes);
        for part in [scope, checkpoint].iter().chain(response) {
            record.extend_from_slice(part);
        }
        record
    }
}

/// A number as a field of a record.
pub(crate) fn field(number: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    Put::new(&mut bytes).u64(number);
    bytes
}

/// Lease and age as a record has them, beside each other.
pub(crate) fn lease_and_age(lease_ms: u64, age_ms: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    Put::new(&mut bytes).u64(lease_ms).u64(age_ms);
    bytes
}

/// A record that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) head: Head,
    /// In the form of [`crate::scope::decode`].
    pub(crate) scope: Bytes,
    pub(crate) checkpoint: Bytes,
    /// Empty unless it completed.
    pub(crate) response: Bytes,
}

impl Record {
    pub(crate) fn decode(value: Vec<u8>) -> Result<Record, DecodeError> {
        let mut fields = Fields(&value);
        let version = fields.u8()?;
        if version != VERSION {
            return Err(DecodeError::Version(u32::from(version)));
        }
        let head = Head {
            state: State::of(fields.u8()?)?,
            cause: cause_of(fields.u8()?)?,
            flags: fields.u8()?,
            attempt: fields.u32()?,
            operation: OperationId::from_bytes(fields.array()?),
            token: Token::from_bytes(fields.array()?),
            fingerprint: Fingerprint::from_bytes(fields.array()?),
            ttl_ms: fields.u64()?,
            lease_ms: fields.u64()?,
            age_ms: fields.u64()?,
        };
        let (scope, zeros, checkpoint) = (fields.u16()?, fields.u16()?, fields.u32()?);
        let (scope, checkpoint) = (usize::from(scope), usize_of(checkpoint)?);
        if head.token.get() >= 1 << 63 || head.flags > LEFT_OUT | RESOLVED || zeros != 0 {
            return Err(DecodeError::Damaged("a field out of its range"));
        }
        if [head.ttl_ms, head.lease_ms, head.age_ms].iter().any(|&ms| ms > MS_MAX) {
            return Err(DecodeError::Damaged("a time out of its range"));
        }
        if scope > ENCODED_BYTES_MAX || checkpoint > CHECKPOINT_BYTES_MAX {
            return Err(DecodeError::Damaged("a length out of its range"));
        }
        fields.bytes(scope)?;
        fields.bytes(checkpoint)?;
        if head.state != State::Completed && head.flags != 0 {
            return Err(DecodeError::Damaged("a flag of a completion"));
        }
        if head.state != State::Completed && !fields.0.is_empty() {
            return Err(DecodeError::Damaged("bytes behind the end"));
        }
        let value = Bytes::from(value);
        let (scope_end, checkpoint_end) = (HEAD_BYTES + scope, HEAD_BYTES + scope + checkpoint);
        Ok(Record {
            head,
            scope: value.slice(HEAD_BYTES..scope_end),
            checkpoint: value.slice(scope_end..checkpoint_end),
            response: value.slice(checkpoint_end..),
        })
    }
}

fn usize_of(length: u32) -> Result<usize, DecodeError> {
    usize::try_from(length).map_err(|_| DecodeError::Damaged("a length out of its range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(state: State) -> Head {
        Head {
            state,
            cause: Some(OrphanCause::LeaseLapsed),
            flags: 0,
            attempt: 2,
            operation: OperationId::from_bytes([0x0a; 16]),
            token: Token::new(0x0b0b),
            fingerprint: Fingerprint::from_bytes([0x0c; 16]),
            ttl_ms: 0x0d,
            lease_ms: 0x0e,
            age_ms: 0x0f,
        }
    }

    fn golden() -> Vec<u8> {
        let zeros = |number: u8, zeros: usize| [vec![number], vec![0; zeros]].concat();
        [
            vec![1, 3, 1, 0, 2, 0, 0, 0],
            vec![0x0a; 16],
            vec![0x0b, 0x0b, 0, 0, 0, 0, 0, 0],
            vec![0x0c; 16],
            zeros(0x0d, 7),
            zeros(0x0e, 7),
            zeros(0x0f, 7),
            vec![5, 0, 0, 0, 0, 0, 0, 0],
            b"scoperesponse".to_vec(),
        ]
        .concat()
    }

    #[test]
    fn the_bytes_of_a_completion_are_these() {
        let parts: [&[u8]; 2] = [b"resp", b"onse"];
        let record = head(State::Completed).encode(b"scope", b"", &parts);
        assert_eq!(record, golden());
        assert_eq!(record[..NAME_BYTES], head(State::Completed).name());
        let read = Record::decode(record).unwrap();
        assert_eq!(read.head, head(State::Completed));
        assert_eq!((&*read.scope, &*read.response), (&b"scope"[..], &b"response"[..]));
    }

    #[test]
    fn a_record_of_every_state_gives_back_what_it_was_made_of() {
        for state in [State::Running, State::GivenUp, State::Released] {
            let read = Record::decode(head(state).encode(b"scope", b"saved", &[])).unwrap();
            assert_eq!(read.head, head(state));
            assert_eq!((&*read.scope, &*read.checkpoint), (&b"scope"[..], &b"saved"[..]));
        }
    }

    #[test]
    fn hostile_bytes_are_no_record_and_no_panic() {
        let whole = golden();
        for cut in 0..HEAD_BYTES + 5 {
            assert!(Record::decode(whole[..cut].to_vec()).is_err(), "{cut}");
        }
        for at in 0..whole.len() {
            for byte in [0, 1, 2, 4, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                if let Ok(read) = Record::decode(bytes) {
                    assert!(read.response.len() < whole.len());
                }
            }
        }
        for (at, byte) in [(0, 2), (1, 0), (1, 5), (2, 3), (3, 4), (31, 0x80), (74, 1), (79, 1)] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            assert!(Record::decode(bytes).is_err(), "{at}");
        }
        let mut flagged = head(State::Running).encode(b"scope", b"", &[]);
        flagged[3] = RESOLVED;
        assert!(Record::decode(flagged).is_err());
        let mut long = head(State::Running).encode(b"scope", b"", &[]);
        long.push(0);
        assert!(Record::decode(long).is_err());
    }
}
