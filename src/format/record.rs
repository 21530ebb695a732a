//! One record of the log: header, body, padding to 16 bytes.
//!
//! ```text
//!  0 u32 header checksum   over bytes 4..34, seeded by place (store, segment, salt, offset)
//!  4 u32 body checksum     over everything behind the header, padding included
//!  8 u8  kind              never 0: zeros are what a torn create leaves
//!  9 u8  flags             by kind
//! 10 u16 scope bytes
//! 12 u24 value bytes       response or checkpoint
//! 15 u24 lag               lsn - lsn of the newest durable record, when staged; 0 = no promise
//! 18 u16 attempt
//! 20 u48 time              store time in ms
//! 26 u64 lsn
//! 34     fields by kind | scope | value | zeros
//! ```
//! The body checksum needs no place, so that callers compute it before they take a lock; the
//! header's covers it, which ties the body to its place too.

use crate::format::summary::{self, SUMMARY_BYTES, Summary};
use crate::format::{DecodeError, Fields, Put, checksum};
use crate::location::{Location, Lsn};
use crate::scope::{ENCODED_BYTES_MAX, Fingerprint, OperationId, Token};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 34;
const ALIGN: usize = 16;
const _: () = assert!(ALIGN as u64 == Location::GRANULE);
/// The longest fixed part of a body: that of a COMPLETE.
const FIXED_BYTES_MAX: usize = 50;
/// A value is bounded by its 24-bit length.
const VALUE_BYTES_MAX: usize = (1 << 24) - 1;
const LAG_MAX: u64 = (1 << 24) - 1;
/// A checkpoint of a claim is at most this long.
pub(crate) const CHECKPOINT_BYTES_MAX: usize = 64 * 1024;

/// A CLAIM whose token, times and cause are in its body: not the first record of its attempt.
const FLAG_CARRIED: u8 = 1;
/// A COMPLETE without its response, and why: 2 bits.
const KEPT_MASK: u8 = 3;
/// A COMPLETE by whoever found the orphan.
const FLAG_RESOLVED: u8 = 4;

macro_rules! byte_enum {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant = $value),* }
        impl $name {
            fn from_byte(byte: u8) -> Option<$name> {
                match byte { $($value => Some($name::$variant),)* _ => None }
            }
        }
    };
}

byte_enum! {
    /// The kinds of records.
    Kind {
        /// One caller runs the operation from here on.
        Claim = 1,
        /// A claim saved a checkpoint, or was given up.
        Progress = 2,
        /// A claim ended with a response.
        Complete = 3,
        /// A claim ended without effect.
        Release = 4,
        /// A response is to be erased.
        Forget = 5,
        /// What a forgotten record was overwritten with.
        Erased = 6,
        /// The last record of a segment.
        Seal = 7,
        /// The store was closed here.
        Clean = 8,
        /// Only its lag: everything before it is durable.
        Promise = 9,
    }
}

byte_enum! {
    /// What is known about an attempt that ended without completing.
    Ended {
        /// Nothing: it may be running.
        No = 0,
        /// Its process died, or its store was closed.
        Crash = 1,
        /// Its permit was dropped.
        Dropped = 2,
        /// Its lease lapsed.
        LeaseLapsed = 3,
        /// Its holder gave it up.
        Failed = 4,
    }
}

byte_enum! {
    /// Why a claim was released.
    Freed {
        /// Its holder says that nothing happened.
        NoEffect = 0,
        /// It was an orphan for a whole ttl.
        Expired = 1,
        /// Whoever found the orphan says that nothing happened.
        Resolved = 2,
    }
}

byte_enum! {
    /// Whether the response was stored, and why not.
    Body {
        /// It was.
        Whole = 0,
        /// The caller did not give one.
        Omitted = 1,
        /// It was larger than `response_bytes_max`.
        TooLarge = 2,
        /// There was no room for it.
        NoRoom = 3,
    }
}

/// The checksum seed of one segment; with an offset, that of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(u64);

impl Identity {
    /// Mixes what names a segment: the store, its number, and the salt of this life of the file.
    pub fn new(store: [u8; 16], segment: u64, salt: u64) -> Identity {
        let mut bytes = [0; 32];
        Put::new(&mut bytes).bytes(&store).u64(segment).u64(salt);
        Identity(xxhash_rust::xxh3::xxh3_64(&bytes))
    }

    fn seed(self, offset: u64) -> u32 {
        let mixed = (self.0 ^ offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        u32::try_from(mixed >> 32).expect("32 bits are left")
    }
}

/// What a claim is about: everything that a later record of it repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The operation, the same for every attempt.
    pub operation: OperationId,
    /// Stands for the request.
    pub fingerprint: Fingerprint,
    /// The encoded scope.
    pub scope: &'a [u8],
    /// Present where the token is not the record's own LSN, or there was an attempt before.
    pub carried: Option<Carried<'a>>,
}

/// What a CLAIM says that is not the first record of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried<'a> {
    /// The token of the attempt; the record's own LSN where the attempt begins here.
    pub token: Token,
    /// When the first attempt began, in ms.
    pub claimed_ms: u64,
    /// When this attempt began, in ms.
    pub attempted_ms: u64,
    /// How this attempt ended, as far as is known.
    pub ended: Ended,
    /// How the attempt before this one ended.
    pub cause: Ended,
    /// The newest checkpoint; absent is not the same as empty.
    pub checkpoint: Option<&'a [u8]>,
}

/// The end of a claim, with all that a reader needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Complete<'a> {
    /// The attempt that it ends.
    pub token: Token,
    /// From this time on, in ms, the response is absent.
    pub expires_ms: u64,
    /// How long before the completion the first attempt began, in ms; at most 49 days are kept.
    pub ran_ms: u32,
    /// The operation.
    pub operation: OperationId,
    /// Stands for the request.
    pub fingerprint: Fingerprint,
    /// The encoded scope.
    pub scope: &'a [u8],
    /// Whether the response was kept.
    pub body: Body,
    /// Whoever found the orphan completed it, not its permit.
    pub resolved: bool,
    /// The response.
    pub response: &'a [u8],
}

impl Summary {
    /// Counts a record; a SEAL is not counted by itself.
    pub(crate) fn count(&mut self, kind: Kind, lsn: Lsn, time_ms: u64) {
        if kind == Kind::Seal {
            return;
        }
        if self.records == 0 {
            (self.first_lsn, self.time_ms_min) = (lsn.0, time_ms);
        }
        self.records += 1;
        self.completes += u32::from(kind == Kind::Complete);
        self.forgets += u32::from(kind == Kind::Forget);
        self.last_lsn = lsn.0;
        self.time_ms_max = self.time_ms_max.max(time_ms);
    }
}

/// One record, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// See [`Kind::Claim`].
    Claim(Claim<'a>),
    /// The token, how the attempt ended if it did, and the checkpoint if one was saved.
    Progress {
        /// The attempt.
        token: Token,
        /// How it ended, where it did.
        ended: Ended,
        /// What it saved.
        checkpoint: Option<&'a [u8]>,
    },
    /// See [`Kind::Complete`].
    Complete(Complete<'a>),
    /// The token, and why.
    Release {
        /// The attempt.
        token: Token,
        /// Why.
        freed: Freed,
    },
    /// The hash and place of the COMPLETE that is to be erased.
    Forget {
        /// The keyed hash of its scope.
        hash: u64,
        /// Its segment.
        segment: u64,
        /// Its offset there.
        offset: u64,
    },
    /// See [`Kind::Erased`].
    Erased,
    /// See [`Kind::Seal`].
    Seal(Summary),
    /// See [`Kind::Clean`].
    Clean(Summary),
    /// See [`Kind::Promise`].
    Promise,
}

/// A header that verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    flags: u8,
    scope_bytes: u16,
    value_bytes: u32,
    lag: u32,
    /// The attempt that it belongs to, counted from 1; 0 where none.
    pub attempt: u16,
    /// Store time in ms.
    pub time_ms: u64,
    pub(crate) lsn: Lsn,
    body_checksum: u32,
}

impl Header {
    /// Reads the header at `offset` of the segment with this identity.
    ///
    /// # Errors
    /// `Blank` for zeros; `Damaged` where checksum, kind or lengths cannot be.
    pub fn decode(bytes: &[u8], identity: Identity, offset: u64) -> Result<Header, DecodeError> {
        let bytes = Fields(bytes).bytes(HEADER_BYTES)?;
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(DecodeError::Blank);
        }
        let mut fields = Fields(bytes);
        if fields.u32()? != checksum(identity.seed(offset), &bytes[4..]) {
            return Err(DecodeError::Damaged("the header's checksum does not match"));
        }
        let body_checksum = fields.u32()?;
        let kind = fields.u8()?;
        let kind =
            Kind::from_byte(kind).ok_or(DecodeError::Damaged("an unknown kind of record"))?;
        let header = Header {
            kind,
            flags: fields.u8()?,
            scope_bytes: fields.u16()?,
            value_bytes: fields.u24()?,
            lag: fields.u24()?,
            attempt: fields.u16()?,
            time_ms: fields.u48()?,
            lsn: Lsn(fields.u64()?),
            body_checksum,
        };
        if usize::from(header.scope_bytes) > ENCODED_BYTES_MAX {
            return Err(DecodeError::Damaged("a scope longer than any can be"));
        }
        if header.lsn > Lsn::HIGHEST {
            return Err(DecodeError::Damaged("an LSN beyond the range of LSNs"));
        }
        Ok(header)
    }

    /// Bytes of the whole record, padding included.
    pub fn record_bytes(&self) -> usize {
        let fixed = fixed_bytes(self.kind, self.flags);
        padded(fixed + usize::from(self.scope_bytes) + self.value_bytes as usize)
    }

    /// Every record with this LSN or a lower one was durable when this record was staged.
    pub(crate) fn promise(&self) -> Lsn {
        match self.lag {
            0 => Lsn::ZERO,
            lag => Lsn(self.lsn.0.saturating_sub(u64::from(lag))),
        }
    }

    /// Where the value lies within the record.
    pub(crate) fn value_range(&self) -> std::ops::Range<usize> {
        let start =
            HEADER_BYTES + fixed_bytes(self.kind, self.flags) + usize::from(self.scope_bytes);
        start..start + self.value_bytes as usize
    }

    /// Reads the body that belongs to this header out of the whole record.
    ///
    /// # Errors
    /// `Damaged` where the body does not verify.
    pub fn decode_body<'a>(&self, record: &'a [u8]) -> Result<Record<'a>, DecodeError> {
        let mut fields = Fields(record);
        let whole = fields.bytes(self.record_bytes())?;
        let fields = Fields(&whole[HEADER_BYTES..]);
        if self.body_checksum != checksum(0, fields.0) {
            return Err(DecodeError::Damaged("the body's checksum does not match"));
        }
        self.parse_body(record)
    }

    /// The same for a record whose body was verified before.
    pub(crate) fn parse_body<'a>(&self, record: &'a [u8]) -> Result<Record<'a>, DecodeError> {
        let mut fields = Fields(record);
        let whole = fields.bytes(self.record_bytes())?;
        let mut fields = Fields(&whole[HEADER_BYTES..]);
        match self.kind {
            Kind::Claim => self.decode_claim(fields).map(Record::Claim),
            Kind::Progress => Ok(Record::Progress {
                token: token(&mut fields)?,
                ended: ended(&mut fields)?,
                checkpoint: self.checkpoint(fields)?,
            }),
            Kind::Complete => self.decode_complete(fields).map(Record::Complete),
            Kind::Release => Ok(Record::Release {
                token: token(&mut fields)?,
                freed: Freed::from_byte(fields.u8()?)
                    .ok_or(DecodeError::Damaged("an unknown reason of a release"))?,
            }),
            Kind::Forget => Ok(Record::Forget {
                hash: fields.u64()?,
                segment: fields.u64()?,
                offset: fields.u64()?,
            }),
            Kind::Erased => Ok(Record::Erased),
            Kind::Seal => summary::read(&mut fields).map(Record::Seal),
            Kind::Clean => summary::read(&mut fields).map(Record::Clean),
            Kind::Promise => Ok(Record::Promise),
        }
    }

    fn decode_claim<'a>(&self, mut fields: Fields<'a>) -> Result<Claim<'a>, DecodeError> {
        let operation = OperationId::from_bytes(fields.array()?);
        let fingerprint = Fingerprint::from_bytes(fields.array()?);
        let sound = |scope| match crate::scope::decode(scope) {
            Some(_) => Ok(scope),
            None => Err(DecodeError::Damaged("a scope that cannot be")),
        };
        if self.flags & FLAG_CARRIED == 0 {
            let scope = sound(fields.bytes(usize::from(self.scope_bytes))?)?;
            return Ok(Claim { operation, fingerprint, scope, carried: None });
        }
        let (token, claimed_ms) = (token(&mut fields)?, fields.u48()?);
        let (attempted_ms, ended_) = (fields.u48()?, ended(&mut fields)?);
        let cause = ended(&mut fields)?;
        let has_checkpoint = fields.u8()? != 0;
        let scope = sound(fields.bytes(usize::from(self.scope_bytes))?)?;
        let value = fields.bytes(self.value_bytes as usize)?;
        let carried = Carried {
            token,
            claimed_ms,
            attempted_ms,
            ended: ended_,
            cause,
            checkpoint: has_checkpoint.then_some(value),
        };
        Ok(Claim { operation, fingerprint, scope, carried: Some(carried) })
    }

    fn decode_complete<'a>(&self, mut fields: Fields<'a>) -> Result<Complete<'a>, DecodeError> {
        Ok(Complete {
            token: token(&mut fields)?,
            expires_ms: fields.u48()?,
            ran_ms: fields.u32()?,
            operation: OperationId::from_bytes(fields.array()?),
            fingerprint: Fingerprint::from_bytes(fields.array()?),
            scope: fields.bytes(usize::from(self.scope_bytes))?,
            body: Body::from_byte(self.flags & KEPT_MASK).expect("two bits have four values"),
            resolved: self.flags & FLAG_RESOLVED != 0,
            response: fields.bytes(self.value_bytes as usize)?,
        })
    }

    fn checkpoint<'a>(&self, mut fields: Fields<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
        let present = fields.u8()? != 0;
        let value = fields.bytes(self.value_bytes as usize)?;
        Ok(present.then_some(value))
    }
}

const fn padded(body_bytes: usize) -> usize {
    (HEADER_BYTES + body_bytes).next_multiple_of(ALIGN)
}

const CARRIED_BYTES: usize = 23;

fn fixed_bytes(kind: Kind, flags: u8) -> usize {
    match kind {
        Kind::Claim if flags & FLAG_CARRIED != 0 => 32 + CARRIED_BYTES,
        Kind::Claim => 32,
        Kind::Progress => 10,
        Kind::Complete => 50,
        Kind::Release => 9,
        Kind::Forget => 24,
        Kind::Seal | Kind::Clean => SUMMARY_BYTES,
        Kind::Erased | Kind::Promise => 0,
    }
}

/// Bytes of a SEAL, and of a CLEAN; every segment keeps room for both.
pub(crate) const SEAL_BYTES: u64 = padded(SUMMARY_BYTES) as u64;

/// Bytes of a COMPLETE without its response; no other end of a claim is longer.
pub(crate) fn complete_bytes(scope_bytes: usize) -> u64 {
    padded(FIXED_BYTES_MAX + scope_bytes) as u64
}

/// Bytes of a CLAIM that is carried into the next segment.
pub(crate) fn carried_bytes(scope_bytes: usize, checkpoint_bytes: usize) -> u64 {
    padded(32 + CARRIED_BYTES + scope_bytes + checkpoint_bytes) as u64
}

fn token(fields: &mut Fields<'_>) -> Result<Token, DecodeError> {
    match fields.u64()? {
        number if number < 1 << 63 => Ok(Token::new(number)),
        _ => Err(DecodeError::Damaged("a token beyond the range of tokens")),
    }
}

fn ended(fields: &mut Fields<'_>) -> Result<Ended, DecodeError> {
    Ended::from_byte(fields.u8()?).ok_or(DecodeError::Damaged("an unknown end of an attempt"))
}

/// What a record is given when it is staged, under the lock of the log.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// The segment it goes to.
    pub identity: Identity,
    /// Where in the segment.
    pub offset: u64,
    pub(crate) lsn: Lsn,
    /// The newest LSN that is durable.
    pub(crate) durable: Lsn,
    /// Store time in ms.
    pub time_ms: u64,
}

/// A record before it has a place: fixed fields on the stack, scope and value borrowed.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    kind: Kind,
    flags: u8,
    attempt: u16,
    fixed: [u8; FIXED_BYTES_MAX + CARRIED_BYTES],
    fixed_len: usize,
    scope: &'a [u8],
    value: &'a [&'a [u8]],
    value_bytes: usize,
    body_checksum: u32,
}

impl<'a> Draft<'a> {
    fn new(kind: Kind, flags: u8, attempt: u16, put: impl FnOnce(&mut Put<'_>)) -> Draft<'a> {
        let mut fixed = [0; FIXED_BYTES_MAX + CARRIED_BYTES];
        let mut fields = Put::new(&mut fixed);
        put(&mut fields);
        let fixed_len = fields.len();
        assert_eq!(fixed_len, fixed_bytes(kind, flags), "fixed fields of {kind:?}");
        Draft {
            kind,
            flags,
            attempt,
            fixed,
            fixed_len,
            scope: &[],
            value: &[],
            value_bytes: 0,
            body_checksum: 0,
        }
    }

    /// Adds what the body borrows and checks the whole of it.
    fn with(mut self, scope: &'a [u8], value: &'a [&'a [u8]]) -> Draft<'a> {
        (self.scope, self.value) = (scope, value);
        self.value_bytes = value.iter().map(|part| part.len()).sum();
        assert!(scope.len() <= ENCODED_BYTES_MAX && self.value_bytes <= VALUE_BYTES_MAX);
        self.sum();
        self
    }

    fn sum(&mut self) {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.fixed[..self.fixed_len]);
        hasher.update(self.scope);
        self.value.iter().for_each(|part| hasher.update(part));
        let zeros = [0; ALIGN];
        hasher.update(&zeros[..self.record_bytes() - self.unpadded_bytes()]);
        self.body_checksum = hasher.finalize();
    }

    pub(crate) fn claim(claim: &Claim<'a>, attempt: u16, value: &'a [&'a [u8]]) -> Draft<'a> {
        let flags = if claim.carried.is_some() { FLAG_CARRIED } else { 0 };
        let draft = Draft::new(Kind::Claim, flags, attempt, |fields| {
            fields.bytes(&claim.operation.to_bytes()).bytes(&claim.fingerprint.to_bytes());
            if let Some(carried) = &claim.carried {
                fields.u64(carried.token.get()).u48(carried.claimed_ms).u48(carried.attempted_ms);
                fields.u8(carried.ended as u8).u8(carried.cause as u8);
                fields.u8(u8::from(carried.checkpoint.is_some()));
            }
        });
        draft.with(claim.scope, value)
    }

    /// The operation id of a first CLAIM is a hash of its LSN, so it is known only when the record
    /// is staged.
    pub(crate) fn set_operation(&mut self, operation: OperationId) {
        self.fixed[..16].copy_from_slice(&operation.to_bytes());
        self.sum();
    }

    /// The token of a later attempt is the LSN of its CLAIM, known only when it is staged.
    pub(crate) fn set_token(&mut self, token: Token) {
        Put::new(&mut self.fixed[32..40]).u64(token.get());
        self.sum();
    }

    /// `value` is the checkpoint, in one part, where there is one.
    pub(crate) fn progress(
        token: Token,
        ended: Ended,
        attempt: u16,
        value: &'a [&'a [u8]],
    ) -> Draft<'a> {
        let draft = Draft::new(Kind::Progress, 0, attempt, |fields| {
            fields.u64(token.get()).u8(ended as u8).u8(u8::from(!value.is_empty()));
        });
        draft.with(&[], value)
    }

    /// `value` is the response in parts; `complete.response` is not looked at.
    pub(crate) fn complete(
        complete: &Complete<'a>,
        attempt: u16,
        value: &'a [&'a [u8]],
    ) -> Draft<'a> {
        let resolved = if complete.resolved { FLAG_RESOLVED } else { 0 };
        let flags = complete.body as u8 | resolved;
        let draft = Draft::new(Kind::Complete, flags, attempt, |fields| {
            fields.u64(complete.token.get()).u48(complete.expires_ms).u32(complete.ran_ms);
            fields.bytes(&complete.operation.to_bytes()).bytes(&complete.fingerprint.to_bytes());
        });
        draft.with(complete.scope, value)
    }

    pub(crate) fn release(token: Token, freed: Freed, attempt: u16) -> Draft<'a> {
        let draft = Draft::new(Kind::Release, 0, attempt, |fields| {
            fields.u64(token.get()).u8(freed as u8);
        });
        draft.with(&[], &[])
    }

    pub(crate) fn forget(hash: u64, at: Location) -> Draft<'a> {
        let draft = Draft::new(Kind::Forget, 0, 0, |fields| {
            fields.u64(hash).u64(at.segment()).u64(at.offset());
        });
        draft.with(&[], &[])
    }

    /// `zeros` are all that it holds.
    pub(crate) fn erased(zeros: &'a [&'a [u8]]) -> Draft<'a> {
        Draft::new(Kind::Erased, 0, 0, |_| {}).with(&[], zeros)
    }

    pub(crate) fn seal(summary: &Summary) -> Draft<'a> {
        Draft::new(Kind::Seal, 0, 0, |fields| summary::put(fields, summary)).with(&[], &[])
    }

    pub(crate) fn clean(summary: &Summary) -> Draft<'a> {
        Draft::new(Kind::Clean, 0, 0, |fields| summary::put(fields, summary)).with(&[], &[])
    }

    pub(crate) fn promise() -> Draft<'a> {
        Draft::new(Kind::Promise, 0, 0, |_| {}).with(&[], &[])
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    fn unpadded_bytes(&self) -> usize {
        HEADER_BYTES + self.fixed_len + self.scope.len() + self.value_bytes
    }

    /// Bytes of the whole record, padding included.
    pub(crate) fn record_bytes(&self) -> usize {
        self.unpadded_bytes().next_multiple_of(ALIGN)
    }

    /// Appends the record to `out`.
    pub(crate) fn write(&self, stamp: &Stamp, out: &mut Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        let lag = stamp.lsn.0.saturating_sub(stamp.durable.0);
        let lag = if lag > LAG_MAX { 0 } else { u32::try_from(lag).expect("24 bits") };
        let scope_bytes = u16::try_from(self.scope.len()).expect("checked when drafted");
        let value_bytes = u32::try_from(self.value_bytes).expect("checked when drafted");
        Put::new(&mut header[4..])
            .u32(self.body_checksum)
            .u8(self.kind as u8)
            .u8(self.flags)
            .u16(scope_bytes)
            .u24(value_bytes)
            .u24(lag)
            .u16(self.attempt)
            .u48(stamp.time_ms)
            .u64(stamp.lsn.0);
        let sum = checksum(stamp.identity.seed(stamp.offset), &header[4..]);
        Put::new(&mut header).u32(sum);
        let end = out.len() + self.record_bytes();
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.fixed[..self.fixed_len]);
        out.extend_from_slice(self.scope);
        self.value.iter().for_each(|part| out.extend_from_slice(part));
        out.resize(end, 0);
    }
}
