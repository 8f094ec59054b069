//! Arguments from C and results to C: every pointer from the caller is read or written here.

mod callbacks;
mod in_struct;
mod info;
mod options;
mod out;

pub(super) use callbacks::{finding, log, progress};
pub(super) use in_struct::{In, fill};
pub(super) use options::{MODES, commit_options, flags, map_options, text, words, zero};
pub(super) use out::{Out, room};
