//! Looking at history: commits and modules, the bytes of a commit, what differs between two, and whether all of it
//! is intact.

mod diff;
mod findings;
mod inspect;
mod read;
mod verify;

pub use diff::Range;
pub(in crate::store) use diff::{differs, each_page};
pub use findings::{Finding, Listener};
pub use read::FileInfo;
