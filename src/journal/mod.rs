//! The write-ahead log of a store, in two files of one format: the journal, which has the records that are not in
//! `commits` yet, and `commits`, to which a persist moves them (the checkpoint).
//!
//! [`RecordLog`] appends records. [`replay()`] reads both logs and judges them. [`Replay::into_logs`] makes
//! them ready for appending after a recovery.

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
