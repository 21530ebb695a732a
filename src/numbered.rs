//! Maps whose keys are numbers: sequence numbers, and hashes that are keyed already.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map from a number, or from a type that hashes as one.
pub(crate) type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<Mixed>>;

/// Spreads a number with one multiplication. No defence against chosen keys: these are not.
#[derive(Debug, Default)]
pub(crate) struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
