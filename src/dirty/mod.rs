//! Trackers: they report which pages of a module were written since the last collection.
//!
//! [`Tracking`] is the tracker of one module. [`KernelTracker`] holds the kernel objects that all
//! modules of a store share. The first open in a process runs the self-test.

#![forbid(unsafe_code)]

mod kernel;
mod self_test;
mod tracking;

pub(crate) use kernel::KernelTracker;
pub use kernel::Tracker;
#[cfg(test)]
pub(crate) use self_test::shared;
pub(crate) use tracking::{MemoryKind, Span, Tracking};
