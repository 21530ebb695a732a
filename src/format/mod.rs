//! Bytes <-> structs: the only home of byte offsets. No files, no threads.
//!
//! All numbers are little-endian. DESIGN.md ("On-disk format") is the normative text; golden bytes
//! and a stored fixture pin it.

pub mod summary;

pub mod record;

pub mod checkpoint;
pub mod hint;
pub mod quarantine;
pub mod segment;
pub mod superblock;

/// The version of every file; a store with another one is refused.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes are all zeros: nothing was ever written here.
    Blank,
    /// The bytes are damaged, torn or somebody else's.
    Damaged(&'static str),
    /// The bytes are sound, but written by a format that this code does not know.
    Version(u32),
}

impl DecodeError {
    pub(crate) fn what(self) -> &'static str {
        match self {
            DecodeError::Blank => "zeros where a record should be",
            DecodeError::Damaged(what) => what,
            DecodeError::Version(_) => "an unknown format version",
        }
    }
}

/// CRC-32 (IEEE) of `bytes`, started from `seed`, so that the same bytes in another place do not
/// verify.
pub(crate) fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// Takes little-endian fields off the front of bytes; every length is checked.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) =
            self.0.split_at_checked(len).ok_or(DecodeError::Damaged("a field is cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// A number of `N` bytes, at most 8.
    fn number<const N: usize>(&mut self) -> Result<u64, DecodeError> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.bytes(N)?);
        Ok(u64::from_le_bytes(wide))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u24(&mut self) -> Result<u32, DecodeError> {
        self.array::<3>().map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u48(&mut self) -> Result<u64, DecodeError> {
        self.number::<6>()
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.number::<8>()
    }
}

/// Puts little-endian fields into a buffer that is large enough; the counterpart of [`Fields`].
pub(crate) struct Put<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Put<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Put<'a> {
        Put { out, at: 0 }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// The lower 24 bits; the caller has bounded the value.
    pub(crate) fn u24(&mut self, value: u32) -> &mut Self {
        debug_assert!(value < 1 << 24);
        self.bytes(&value.to_le_bytes()[..3])
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// The lower 48 bits; the caller has bounded the value.
    pub(crate) fn u48(&mut self, value: u64) -> &mut Self {
        debug_assert!(value < 1 << 48);
        self.bytes(&value.to_le_bytes()[..6])
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn len(&self) -> usize {
        self.at
    }
}

#[cfg(test)]
mod tests;
