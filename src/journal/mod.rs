//! The write-ahead log of a store. It consists of two files of one format. The journal has the
//! records that are not in `commits` yet. A persist moves them to `commits` (the checkpoint).
//!
//! [`RecordLog`] appends records. [`replay()`] reads both logs and judges them.
//! [`Replay::into_logs`] opens both logs for appending after a recovery.

#![forbid(unsafe_code)]

mod high_water;
mod log;
mod reopen;
mod replay;
mod scan;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use log::commits_place;
pub(crate) use log::{LogStart, RecordLog, SequencedEvent, journal_place};
pub(crate) use reopen::JournalFate;
pub(crate) use replay::{Rebooted, Replay, replay};
pub(crate) use scan::Role;
