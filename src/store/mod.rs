//! The store: every call that needs more than one of the journal, the module commit files and the
//! mapped modules.
//!
//! Its rooms, in order: `state`, `history`, `mapping`, `persist`, then `commit`, `gc`, `open`, and
//! `transfer`. Each room uses only rooms that stand before it in this list (docs/architecture.md).

#![forbid(unsafe_code)]

mod callbacks;
mod commit;
mod gc;
mod history;
mod mapping;
mod open;
mod options;
mod persist;
mod state;
mod transfer;

#[cfg(any(test, fuzzing))]
pub(crate) mod tests;

pub use commit::Capture;
pub use history::{FileInfo, Finding, Listener, Range};
pub use mapping::Module;
pub use open::probe;
pub use options::{
    Capabilities, CommitInfo, CommitOptions, CompactOptions, Log, LogLevel, MapOptions, ModuleInfo,
    OpenOptions, PrecopyOptions, Progress, Stats, VerifyOptions,
};
pub use state::Store;
