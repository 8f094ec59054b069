//! Tests of garbage collection.

mod merges;
mod waits;
