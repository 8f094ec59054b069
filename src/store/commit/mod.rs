//! Commits: the dirty pages are captured while the guest is paused, and then written as module
//! commits.
//!
//! `capture` has the part with the paused guest, `precopy` copies pages ahead of the pause,
//! `parallel_copy` copies with helper threads, and `write` writes the files and the record.

mod capture;
mod parallel_copy;
mod precopy;
mod write;

pub use capture::Capture;
