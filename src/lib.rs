//! A versioned store for guest memory: git for guest RAM.
//!
//! A virtual machine monitor maps named *modules* out of a store directory and runs its guest in
//! them. [`Store::commit`] takes an atomic snapshot of all modules, [`Store::persist`] makes the
//! history survive power loss, [`Store::restore`] puts all modules back to any commit.
//! `include/vmstore.h` is the manual, for Rust users too: every method here is the C function of
//! the same name.
//!
//! How the rooms stack, each using only those below it:
//!
//! ```text
//! ffi                         the C interface: handles, statuses, structs
//! store                       open and recover, map, capture, commit, persist, restore, verify
//! journal   pages   module    records of history | module commit files | mapped memory
//! dirty     format            trackers | bytes, checksums, no I/O
//! sys                         Linux: files, memory, userfaultfd, page map
//! page      error             leaves
//! ```

#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("vmstore needs Linux on a 64-bit machine");

mod dirty;
mod error;
mod ffi;
mod format;
mod journal;
mod layer;
mod module;
mod page_set;
mod store;
mod sys;

/// What the fuzzers of `fuzz/` run. Not in any other build.
#[cfg(fuzzing)]
pub fn fuzz(target: &str, input: &[u8]) {
    let found = store::tests::fuzz::TARGETS
        .iter()
        .find(|known| known.name == target);
    (found.expect("a target").run)(input);
}

pub use dirty::Tracker;
pub use error::{Error, Result};
pub use module::MapMode;
pub use store::{
    Capabilities, Capture, CommitInfo, CommitOptions, CompactOptions, FileInfo, Finding, Listener,
    Log, LogLevel, MapOptions, Module, ModuleInfo, OpenOptions, PrecopyOptions, Progress, Range,
    Stats, Store, VerifyOptions, probe,
};
