//! The identity of one logical write, and the small values that name its request and attempts.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt as _, hash_derive_key_context};

use crate::error::{Error, Result};

/// The four fields together may hold at most this many bytes.
pub(crate) const SCOPE_BYTES_MAX: usize = 4096;
/// Three lengths of two bytes each; the key is what is left.
const PREFIX_BYTES: usize = 6;
/// The largest encoded scope.
pub(crate) const ENCODED_BYTES_MAX: usize = SCOPE_BYTES_MAX + PREFIX_BYTES;

/// Organization, method, path and key: the identity of one logical write.
///
/// Exact bytes, case-sensitive, four separate fields that are never joined: `("a", "bc")` and
/// `("ab", "c")` are different. The fields may hold any UTF-8, together at most 4,096 bytes.
/// Method, path and key are not empty; an empty organization is one tenant like any other.
///
/// `Debug` shows a hash of the key, never the key, since logs outlive their readers' rights.
///
/// ```
/// use oncelog::Scope;
/// let scope = Scope { organization: "acme", method: "POST", path: "/contacts", key: "import-1" };
/// assert!(!format!("{scope:?}").contains("import-1"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope<'a> {
    /// Whose key it is: what the server's authentication says, never the client's bare word.
    pub organization: &'a str,
    /// The method of the request, such as `POST`.
    pub method: &'a str,
    /// The path of the request line, exact bytes.
    pub path: &'a str,
    /// The client's idempotency key.
    pub key: &'a str,
}

impl Scope<'_> {
    /// A digest of 32 bytes that is the same in every store: BLAKE3 of the length-prefixed fields.
    ///
    /// As a unique column beside the caller's own effect it finds what a restored backup of the
    /// store no longer knows.
    pub fn digest(&self) -> [u8; 32] {
        let fields = [self.organization, self.method, self.path, self.key];
        hash_parts(&DIGEST, fields.map(str::as_bytes).into_iter())
    }

    /// Checks the rules above.
    pub(crate) fn check(&self) -> Result<()> {
        let bytes = self.organization.len() + self.method.len() + self.path.len() + self.key.len();
        if bytes > SCOPE_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "scope",
                bytes: bytes as u64,
                limit: SCOPE_BYTES_MAX as u64,
            });
        }
        for (field, what) in [
            (self.method, "the method of a scope is empty"),
            (self.path, "the path of a scope is empty"),
            (self.key, "the key of a scope is empty"),
        ] {
            if field.is_empty() {
                return Err(Error::Invalid { what });
            }
        }
        Ok(())
    }

    /// The length-prefixed form that is hashed, stored and compared. The scope was checked.
    pub(crate) fn encode(&self) -> Encoded {
        let mut bytes = Encoded::default();
        for field in [self.organization, self.method, self.path] {
            let len = u16::try_from(field.len()).expect("a checked scope is at most 4,096 bytes");
            bytes.push(&len.to_le_bytes());
        }
        for field in [self.organization, self.method, self.path, self.key] {
            bytes.push(field.as_bytes());
        }
        bytes
    }
}

/// What keeps the hashes of one purpose apart from those of another, hashed once.
type Context = LazyLock<ContextKey>;

static DIGEST: Context =
    LazyLock::new(|| hash_derive_key_context("oncelog 2026-11 scope digest v1"));
static PARTS: Context =
    LazyLock::new(|| hash_derive_key_context("oncelog 2026-11 fingerprint parts v1"));

/// BLAKE3 in the mode that derives keys, of each part behind its length of 8 bytes. Short parts are
/// joined first, since each call of the hasher costs as much as they do.
fn hash_parts<'a>(context: &Context, parts: impl Iterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_from_context_key(context);
    let (mut joined, mut len) = ([0; 512], 0);
    for part in parts {
        for bytes in [&(part.len() as u64).to_le_bytes()[..], part] {
            if let Some(room) = joined.get_mut(len..len + bytes.len()) {
                room.copy_from_slice(bytes);
                len += bytes.len();
            } else {
                hasher.update(&joined[..std::mem::take(&mut len)]).update(bytes);
            }
        }
    }
    *hasher.update(&joined[..len]).finalize().as_bytes()
}

/// The secret of one store that keys the hash of its index: clients choose their keys, and must
/// not be able to choose where they fall.
#[derive(Clone)]
pub(crate) struct HashKey(siphasher::sip::SipHasher13);

impl HashKey {
    pub(crate) fn new(secret: &[u8; 16]) -> HashKey {
        HashKey(siphasher::sip::SipHasher13::new_with_key(secret))
    }

    /// The hash of an encoded scope.
    pub(crate) fn hash(&self, encoded: &[u8]) -> u64 {
        self.0.hash(encoded)
    }
}

/// The secret of one open, from which its operation ids are made: a keyed hash of the LSN of the
/// first CLAIM, so that no store, and no restored copy, ever issues one twice.
pub(crate) struct OperationKey(siphasher::sip128::SipHasher24);

impl OperationKey {
    pub(crate) fn new(secret: &[u8; 16]) -> OperationKey {
        OperationKey(siphasher::sip128::SipHasher24::new_with_key(secret))
    }

    pub(crate) fn operation(&self, lsn: u64) -> OperationId {
        OperationId::from_hash(self.0.hash(&lsn.to_le_bytes()).as_bytes())
    }
}

/// An encoded scope; an allocation of its own only where it is long.
#[derive(Clone)]
pub(crate) struct Encoded {
    inline: [u8; Encoded::INLINE],
    len: usize,
    /// The whole scope, where it is longer than what lies inline.
    long: Vec<u8>,
}

impl Encoded {
    const INLINE: usize = 168;

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if end <= Self::INLINE {
            self.inline[self.len..end].copy_from_slice(bytes);
        } else {
            if self.long.is_empty() {
                self.long.extend_from_slice(&self.inline[..self.len]);
            }
            self.long.extend_from_slice(bytes);
        }
        self.len = end;
    }
}

impl Default for Encoded {
    fn default() -> Encoded {
        Encoded { inline: [0; Encoded::INLINE], len: 0, long: Vec::new() }
    }
}

impl From<&[u8]> for Encoded {
    fn from(bytes: &[u8]) -> Encoded {
        let mut encoded = Encoded::default();
        encoded.push(bytes);
        encoded
    }
}

impl std::ops::Deref for Encoded {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        if self.len <= Self::INLINE { &self.inline[..self.len] } else { &self.long }
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded({} bytes)", self.len)
    }
}

/// The fields of an encoded scope; `None` where the bytes are not one.
pub(crate) fn decode(bytes: &[u8]) -> Option<Scope<'_>> {
    let (prefix, mut rest) = bytes.split_at_checked(PREFIX_BYTES)?;
    let mut fields = [""; 3];
    for (field, len) in fields.iter_mut().zip(prefix.chunks_exact(2)) {
        let len = usize::from(u16::from_le_bytes([len[0], len[1]]));
        let (head, tail) = rest.split_at_checked(len)?;
        (*field, rest) = (std::str::from_utf8(head).ok()?, tail);
    }
    let [organization, method, path] = fields;
    let scope = Scope { organization, method, path, key: std::str::from_utf8(rest).ok()? };
    scope.check().ok().map(|()| scope)
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = self.digest();
        f.debug_struct("Scope")
            .field("organization", &self.organization)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("key", &format_args!("#{}", Hex(&digest[..8])))
            .finish()
    }
}

/// Bytes as lower-case hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Sixteen bytes from 32 hexadecimal digits, dashes skipped where `dashes` names their places.
fn parse_hex(text: &str, dashes: &[usize], what: &'static str) -> Result<[u8; 16]> {
    let invalid = || Error::Invalid { what };
    if !text.is_ascii() || text.len() != 32 + dashes.len() {
        return Err(invalid());
    }
    let mut digits = text.bytes().enumerate().filter(|(at, _)| !dashes.contains(at));
    if dashes.iter().any(|&at| text.as_bytes()[at] != b'-') {
        return Err(invalid());
    }
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        for _ in 0..2 {
            let (_, digit) = digits.next().ok_or_else(invalid)?;
            let value = char::from(digit).to_digit(16).ok_or_else(invalid)?;
            *byte = *byte << 4 | u8::try_from(value).expect("a hexadecimal digit is below 16");
        }
    }
    Ok(bytes)
}

/// Sixteen bytes that stand for a request. The same scope with another fingerprint is a conflict.
///
/// A fingerprint made by this library is a BLAKE3 hash, so that nobody can build two requests
/// with one fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The fingerprint of a request that is one run of bytes.
    ///
    /// ```
    /// use oncelog::Fingerprint;
    /// let fingerprint = Fingerprint::of(b"the request's body");
    /// assert_eq!(fingerprint.to_string().parse::<Fingerprint>()?, fingerprint);
    /// # Ok::<(), oncelog::Error>(())
    /// ```
    pub fn of(request: &[u8]) -> Fingerprint {
        Self::truncated(&blake3::derive_key("oncelog 2026-11 fingerprint v1", request))
    }

    /// The fingerprint of a request in parts. Each part is hashed behind its length, so that
    /// moving a byte from one part to the next gives another fingerprint.
    ///
    /// ```
    /// use oncelog::Fingerprint;
    /// assert_ne!(Fingerprint::of_parts(&[b"ab", b"c"]), Fingerprint::of_parts(&[b"a", b"bc"]));
    /// ```
    pub fn of_parts(parts: &[&[u8]]) -> Fingerprint {
        Self::truncated(&hash_parts(&PARTS, parts.iter().copied()))
    }

    /// A fingerprint of the caller's own making.
    pub fn from_bytes(bytes: [u8; 16]) -> Fingerprint {
        Fingerprint(bytes)
    }

    /// The sixteen bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    fn truncated(hash: &[u8; 32]) -> Fingerprint {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Fingerprint(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = Error;
    fn from_str(text: &str) -> Result<Fingerprint> {
        parse_hex(text, &[], "a fingerprint is 32 hexadecimal digits").map(Fingerprint)
    }
}

/// The identity of an operation: the same for every attempt of one claim, never issued twice by
/// any store or restored copy. A version 8 UUID ([RFC 9562], section 5.8).
///
/// Written, unique, in the transaction of the caller's own effect it makes the effect happen
/// exactly once.
///
/// [RFC 9562]: https://www.rfc-editor.org/rfc/rfc9562#section-5.8
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId([u8; 16]);

impl OperationId {
    const DASHES: [usize; 4] = [8, 13, 18, 23];

    /// An operation id that was stored elsewhere.
    pub fn from_bytes(bytes: [u8; 16]) -> OperationId {
        OperationId(bytes)
    }

    /// The sixteen bytes, in the order of the UUID's digits.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The version 8 UUID made of 128 hashed bits: 122 of them are kept.
    pub(crate) fn from_hash(mut bytes: [u8; 16]) -> OperationId {
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        OperationId(bytes)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e] = [0..4, 4..6, 6..8, 8..10, 10..16].map(|range| Hex(&self.0[range]));
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationId({self})")
    }
}

impl FromStr for OperationId {
    type Err = Error;
    fn from_str(text: &str) -> Result<OperationId> {
        parse_hex(text, &Self::DASHES, "an operation id is a UUID").map(OperationId)
    }
}

/// The fencing token of one attempt: strictly increasing for the life of the store, across
/// restarts, crashes and lost suffixes. Always below 2^63, so that it fits an SQL bigint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// The token as a number below 2^63.
    pub fn get(self) -> u64 {
        self.0
    }

    /// A token that was stored elsewhere, from its eight bytes in little-endian order.
    pub fn from_bytes(bytes: [u8; 8]) -> Token {
        Token(u64::from_le_bytes(bytes))
    }

    /// The eight bytes in little-endian order.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    pub(crate) fn new(lsn: u64) -> Token {
        Token(lsn)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.0)
    }
}

impl FromStr for Token {
    type Err = Error;
    fn from_str(text: &str) -> Result<Token> {
        let number = text.parse::<u64>().ok().filter(|&number| number < 1 << 63);
        number.map(Token).ok_or(Error::Invalid { what: "a token is a number below 2^63" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCOPE: Scope<'_> =
        Scope { organization: "acme", method: "POST", path: "/contacts", key: "k-1" };

    #[test]
    fn an_encoded_scope_gives_back_its_fields() {
        assert_eq!(decode(&SCOPE.encode()), Some(SCOPE));
    }

    #[test]
    fn fields_never_run_into_each_other() {
        let moved = Scope { organization: "acm", method: "ePOST", ..SCOPE };
        assert_ne!(&*SCOPE.encode(), &*moved.encode());
        assert_ne!(SCOPE.digest(), moved.digest());
    }

    #[test]
    fn hostile_bytes_are_no_scope() {
        for bytes in [
            &b""[..],
            b"\0\0\0",
            b"\xff\xff\0\0\0\0abc",
            b"\0\0\0\0\0\0k",
            b"\x01\0\x01\0\x01\0\xffabk",
        ] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn empty_fields_are_invalid_but_for_the_organization() {
        assert!(Scope { organization: "", ..SCOPE }.check().is_ok());
        for bad in
            [Scope { method: "", ..SCOPE }, Scope { path: "", ..SCOPE }, Scope { key: "", ..SCOPE }]
        {
            assert!(matches!(bad.check(), Err(Error::Invalid { .. })));
        }
    }

    #[test]
    fn a_scope_of_4096_bytes_passes_and_one_more_is_too_large() {
        let key = "k".repeat(4096 - "acmePOST/contacts".len());
        assert!(Scope { key: &key, ..SCOPE }.check().is_ok());
        let key = key + "k";
        assert!(matches!(
            Scope { key: &key, ..SCOPE }.check(),
            Err(Error::TooLarge { bytes: 4097, limit: 4096, .. })
        ));
    }

    #[test]
    fn names_parse_back_from_their_text() {
        let operation = OperationId::from_hash([0xff; 16]);
        assert_eq!(operation.to_string(), "ffffffff-ffff-8fff-bfff-ffffffffffff");
        assert_eq!(operation.to_string().parse::<OperationId>().unwrap(), operation);
        let fingerprint = Fingerprint::of(b"body");
        assert_eq!(fingerprint.to_string().parse::<Fingerprint>().unwrap(), fingerprint);
        let token = Token::new(u64::MAX >> 1);
        assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
        assert_eq!(Token::from_bytes(token.to_bytes()), token);
        for bad in
            ["", "ffffffff-ffff-8fff-bfff-fffffffffff", "ffffffffffff-8fff-bfff-ffffffffffff----"]
        {
            assert!(bad.parse::<OperationId>().is_err(), "{bad}");
        }
        assert!("9223372036854775808".parse::<Token>().is_err());
    }
}
