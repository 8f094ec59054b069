//! What callers pass in and get back: options, infos, statistics.

use std::sync::Arc;

use crate::dirty::Tracker;
use crate::format::commit::{MAX_LABEL, MAX_USER_DATA};
use crate::module::MapMode;
use crate::{Error, Result};

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum LogLevel {
    /// Something is wrong and was worked around.
    Warning = 1,
    /// What recovery or a fallback did.
    Info = 2,
}

/// Receives what the library did on its own.
pub type Log = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// Receives bytes done and bytes to do; `false` cancels.
pub type Progress<'a> = Option<&'a mut dyn FnMut(u64, u64) -> bool>;

/// Options of [`Store::open`](super::Store::open).
#[derive(Default)]
pub struct OpenOptions {
    /// Take no lock, change nothing on disk.
    pub read_only: bool,
    /// Fail where there is no store.
    pub no_create: bool,
    /// Open what is intact of a damaged store, read-only.
    pub salvage: bool,
    /// Told what recovery and fallbacks did.
    pub log: Option<Log>,
    /// The most bytes for captured pages; 0 takes the default.
    pub arena_limit: u64,
}

/// Options of [`Store::map_module`](super::Store::map_module).
#[derive(Debug, Clone, Copy, Default)]
pub struct MapOptions {
    /// Where the memory comes from.
    pub mode: MapMode,
    /// Read and verify everything now.
    pub eager: bool,
    /// How writes are found; `None` takes the best that works.
    pub tracker: Option<Tracker>,
    /// The exact address wanted; 0: anywhere.
    pub address: usize,
}

/// Options of [`Store::commit`](super::Store::commit) and
/// [`Store::capture`](super::Store::capture).
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// A name for people.
    pub label: String,
    /// The caller's bytes; shared, not copied.
    pub user_data: Arc<Vec<u8>>,
}

impl CommitOptions {
    pub(crate) fn check_user_data_length(length: usize) -> Result<()> {
        if length > MAX_USER_DATA {
            return Err(Error::invalid(
                format!("user_data of {length} bytes"),
                format!("it may have at most {MAX_USER_DATA}; put more into a module"),
            ));
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<()> {
        Self::check_user_data_length(self.user_data.len())?;
        if self.label.len() > MAX_LABEL {
            return Err(Error::invalid(
                format!("vmstore_commit_options.label of {} bytes", self.label.len()),
                format!("it may have at most {MAX_LABEL}"),
            ));
        }
        if self.label.chars().any(char::is_control) {
            return Err(Error::invalid(
                "vmstore_commit_options.label",
                "it must not contain control characters",
            ));
        }
        Ok(())
    }
}

/// Options of [`Store::verify`](super::Store::verify).
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// Do not read pages.
    pub metadata_only: bool,
    /// The commit; 0: all.
    pub commit: u64,
}

/// What is known of a commit.
#[derive(Debug, Clone)]
pub struct CommitInfo {
    /// Its number.
    pub commit: u64,
    /// The commit it was made on; 0: none.
    pub parent: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// A random number of its own.
    pub unique_id: [u8; 16],
    /// Its label.
    pub label: String,
    /// Its user data.
    pub user_data: Arc<Vec<u8>>,
    /// How many modules it holds.
    pub modules: u32,
    /// Whether it survives a power cut.
    pub persisted: bool,
}

/// What is known of a module at a commit, and of its mapping.
#[derive(Debug, Clone)]
pub struct ModuleInfo {
    /// Its id.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
    /// The module commit that holds its bytes; 0: none yet.
    pub module_commit: u64,
    /// The digest of its bytes.
    pub digest: [u8; 16],
    /// Where it is mapped; 0: it is not.
    pub address: usize,
    /// How it is mapped.
    pub mode: Option<MapMode>,
    /// The tracker in use.
    pub tracker: Option<Tracker>,
    /// Why this one.
    pub tracker_reason: String,
    /// Bytes mapped from an image without verification.
    pub unverified_bytes: u64,
}

/// Counters since the store was opened, and figures of the last calls.
#[derive(Debug, Clone, Copy, Default)]
#[allow(
    missing_docs,
    reason = "the C struct of the same fields documents them"
)]
pub struct Stats {
    pub commits: u64,
    pub unpersisted_commits: u64,
    pub mapped_modules: u64,
    pub mapped_bytes: u64,
    pub page_size: u64,
    pub arena_bytes: u64,
    pub captures: u64,
    pub last_dirty_pages: u64,
    pub last_scan_ns: u64,
    pub last_capture_ns: u64,
    pub last_write_ns: u64,
    pub last_written_pages: u64,
    pub last_zero_pages: u64,
    pub last_unchanged_pages: u64,
    pub last_restored_pages: u64,
    pub last_restore_ns: u64,
    pub bytes_written: u64,
    pub syncs: u64,
    pub arena_spills: u64,
    pub poisoned: bool,
    pub read_only: bool,
}

/// What this host and a file system can do.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// Whether the kernel tracker passed its self-test.
    pub kernel_tracker: bool,
    /// What `None` chooses in [`MapOptions::tracker`].
    pub auto_tracker: Tracker,
    /// Why.
    pub tracker_reason: String,
    /// The host's page size.
    pub page_size: u64,
    /// The file system's name; empty when no directory was given.
    pub file_system: String,
    /// Bytes free for this user.
    pub free_bytes: u64,
    /// Whether reserved blocks are honoured there.
    pub shared_is_safe: bool,
    /// Whether there is a store.
    pub is_store: bool,
}
