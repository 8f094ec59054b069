//! A store directory, damaged or forged. What an input means: src/store/tests/fuzz/directory.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmstore::fuzz("directory", input));
