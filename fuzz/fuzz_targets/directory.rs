//! A store directory, damaged or forged. The module `directory` of the library's fuzz tests says what an input means.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmstore::fuzz("directory", input));
