//! Trackers: which pages of a module were written since the last time they were asked.
//!
//! [`Tracking`] is the tracker of one module. [`KernelTracker`] holds what all modules of a store share
//! with the kernel; opening it runs the self-test once in a process.

#![forbid(unsafe_code)]

mod kernel;
mod self_test;
mod tracking;

pub(crate) use kernel::KernelTracker;
pub use kernel::Tracker;
#[cfg(test)]
pub(crate) use self_test::shared;
pub(crate) use tracking::{MemoryKind, Span, Tracking};
