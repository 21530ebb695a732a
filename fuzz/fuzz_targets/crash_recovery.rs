//! Power fails at any call of any operations, and what is left may be damaged too.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| oncelog_fuzz::run::crash(input));
