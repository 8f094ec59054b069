//! Calls with failing operations and crashes, against the model. What an input means: src/store/tests/fuzz/sequence.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmstore::fuzz("sequence", input));
