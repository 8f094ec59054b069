//! Tests of mapped modules.

mod misuse;
