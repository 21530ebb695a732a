//! Any sequence of operations on the simulated disk gives what a map gives.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| oncelog_fuzz::run::sequence(input));
