//! Commits: capturing the dirty pages while the guest is paused, and writing them as module commits after.
//!
//! `capture` has the part with the paused guest, `precopy` the copying ahead of it, `parallel_copy` the
//! copying with helper threads, and `write` the files and the record.

mod capture;
mod parallel_copy;
mod precopy;
mod write;

pub use capture::Capture;
