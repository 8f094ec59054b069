//! Each decoder of the format. What an input means: src/store/tests/fuzz/decoders.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmstore::fuzz("decoders", input));
