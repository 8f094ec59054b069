//! The store: everything that needs more than one of journal, layers and modules.
//!
//! Each room uses those that stand before it, and none after it: `state`, `history`, `mapping`, `persist`,
//! then `commit`, `gc`, `open`, and `transfer` (docs/architecture.md).

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
