//! The stream of an export, imported. What an input means: src/store/tests/fuzz/stream.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmstore::fuzz("stream", input));
