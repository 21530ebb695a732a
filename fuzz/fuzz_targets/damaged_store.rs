//! A store of any operations, closed and then damaged: an answer is right or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| oncelog_fuzz::run::damage(input));
