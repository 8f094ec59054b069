//! Arguments from C and results to C: every pointer from the caller is read or written here.

mod callbacks;
mod in_struct;
mod out;
mod values;

pub(super) use callbacks::{UserData, progress};
pub(super) use in_struct::{In, fill};
pub(super) use out::{Out, fixed, room};
pub(super) use values::{flags, text, words, zero};
