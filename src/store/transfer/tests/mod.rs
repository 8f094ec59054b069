//! Tests of imports and clones.

mod clones;
mod imports;
