//! Looking at history: commits and their modules, the bytes of a commit, the differences between
//! two commits, and the verification of all files.

mod diff;
mod findings;
mod inspect;
mod read;
mod verify;

pub use diff::Range;
pub(in crate::store) use diff::{differs, each_page};
pub use findings::{Finding, Listener};
pub use read::FileInfo;
