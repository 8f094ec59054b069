//! Calls with failing operations and crashes, against the model. The module `sequence` of the library's fuzz tests says
//! what an input means.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| vmstore::fuzz("sequence", input));
