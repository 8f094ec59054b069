//! What callers pass in and get back: options, infos, statistics.

use std::os::fd::RawFd;
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
    /// There are writers that the tracker cannot see: what it does not report is compared.
    pub foreign_writers: bool,
    /// The exact address wanted, or that of the memory to adopt; 0: anywhere.
    pub address: usize,
    /// `address` is in a range that the caller has reserved with `PROT_NONE`.
    pub reserved: bool,
    /// The caller's descriptor, and where the module begins in it.
    pub fd: Option<(RawFd, u64)>,
    /// The size of its huge pages in bytes; 0: the host's pages.
    pub huge: u64,
    /// Address space to set aside for growing, in bytes from the module's beginning; 0: none.
    pub max_size: u64,
}

impl MapOptions {
    /// Checks what goes with what, for a module of `size` bytes on a host with pages of `page` bytes.
    pub(crate) fn check(&self, size: u64, page: u64) -> Result<()> {
        let flags = "vmstore_map_options.flags";
        let address = || format!("vmstore_map_options.address {:#x}", self.address);
        let granule = self.huge.max(page);
        if self.huge != 0 && (self.mode != MapMode::Memfd || self.fd.is_some()) {
            let rule = "huge pages go with VMSTORE_MAP_MEMFD and without VMSTORE_MAP_FD: a descriptor \
                        has a page size of its own";
            return Err(Error::invalid(flags, rule));
        }
        if self.fd.is_some() && self.mode != MapMode::Memfd {
            return Err(Error::invalid(
                flags,
                "VMSTORE_MAP_FD goes with VMSTORE_MAP_MEMFD",
            ));
        }
        if self.address as u64 % granule != 0 {
            let rule = format!("it must be a multiple of the page size, {granule}");
            return Err(Error::invalid(address(), rule));
        }
        if self.address == 0 && (self.reserved || self.mode == MapMode::Adopt) {
            let rule = "VMSTORE_MAP_ADOPT and VMSTORE_MAP_RESERVED need the address of the memory";
            return Err(Error::invalid(address(), rule));
        }
        if self.reserved && self.mode == MapMode::Adopt {
            let rule = "VMSTORE_MAP_RESERVED maps over a reservation, but VMSTORE_MAP_ADOPT takes memory that \
                        is mapped: they do not go together";
            return Err(Error::invalid(flags, rule));
        }
        if (self.address as u64).checked_add(size).is_none() {
            let rule = format!("{size} bytes from this address must lie in the address space");
            return Err(Error::invalid(address(), rule));
        }
        if size % granule != 0 {
            let rule = format!("it must be a multiple of the page size, {granule}");
            return Err(Error::invalid(format!("size {size}"), rule));
        }
        let max_size = format!("vmstore_map_options.max_size {}", self.max_size);
        if self.max_size != 0 && (self.reserved || self.mode == MapMode::Adopt) {
            let rule = "it must be 0 with VMSTORE_MAP_RESERVED and VMSTORE_MAP_ADOPT: the caller owns the \
                        address space";
            return Err(Error::invalid(max_size, rule));
        }
        if self.max_size != 0 && (self.max_size < size || self.max_size % granule != 0) {
            let rule = format!(
                "it must be at least the module's size, {size}, and a multiple of the page size, {granule}"
            );
            return Err(Error::invalid(max_size, rule));
        }
        Ok(())
    }
}

/// Options of [`Store::commit`](super::Store::commit) and
/// [`Store::capture`](super::Store::capture).
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// A name for people.
    pub label: String,
    /// The caller's bytes, if there are any; shared, not copied.
    pub user_data: Option<Arc<Vec<u8>>>,
    /// Threads that may help to copy a large capture, at most 15.
    pub helpers: u32,
}

/// The most threads that may help with a capture.
const MAX_HELPERS: u32 = 15;

impl CommitOptions {
    pub(crate) fn check_user_data_length(length: usize) -> Result<()> {
        if length > MAX_USER_DATA {
            return Err(Error::invalid(
                format!("user_data of {length} bytes"),
                format!("it may have at most {MAX_USER_DATA} bytes; put more data into a module"),
            ));
        }
        Ok(())
    }

    pub(crate) fn check(&self) -> Result<()> {
        Self::check_user_data_length(self.user_data.as_ref().map_or(0, |data| data.len()))?;
        if self.label.len() > MAX_LABEL {
            return Err(Error::invalid(
                format!("vmstore_commit_options.label of {} bytes", self.label.len()),
                format!("it may have at most {MAX_LABEL} bytes"),
            ));
        }
        if self.helpers > MAX_HELPERS {
            return Err(Error::invalid(
                format!("vmstore_commit_options.helpers {}", self.helpers),
                format!("it may be at most {MAX_HELPERS}"),
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

/// Options of [`Store::precopy`](super::Store::precopy).
#[derive(Debug, Clone, Copy, Default)]
pub struct PrecopyOptions {
    /// Stop when no more pages than this were written during a round; 0: 1024.
    pub target_pages: u64,
    /// The most rounds; 0: 16.
    pub max_rounds: u32,
}

/// Options of [`Store::verify`](super::Store::verify).
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// Do not read pages.
    pub metadata_only: bool,
    /// The commit; 0: all.
    pub commit: u64,
}

/// Options of [`Store::compact`](super::Store::compact). Commits that no `keep` rule keeps are deleted; without
/// a rule none is.
#[derive(Debug, Clone, Copy, Default)]
pub struct CompactOptions {
    /// Keep this many of the newest commits; 0: not a rule.
    pub keep_last: u64,
    /// Keep commits whose number is a multiple of this; 0: not a rule.
    pub keep_every: u64,
    /// Keep commits younger than this, in nanoseconds; 0: not a rule.
    pub keep_younger_ns: u64,
    /// Keep commits with a label.
    pub keep_labelled: bool,
    /// How many pages deltas may hold of those of the module, in percent, before one becomes an image; 0
    /// takes the default.
    pub image_percent: u32,
    /// Make no images but where a chain lost its own.
    pub no_images: bool,
}

/// What is known of a commit.
#[derive(Debug, Clone)]
pub struct CommitInfo {
    /// Its number.
    pub commit: u64,
    /// The commit it was made on, or the nearest before it that was not deleted; 0: none.
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
    /// How its bytes got there.
    pub mode_reason: String,
    /// `AUTO` could not take the kernel tracker.
    pub fell_back: bool,
    /// What no tracker reports is compared.
    pub compares: bool,
    /// Its size where it is mapped: larger than at the head when it grew since; 0: it is not.
    pub mapped_size: u64,
    /// Bytes mapped from an image without verification.
    pub unverified_bytes: u64,
}

impl ModuleInfo {
    /// A module of which nothing is known yet but its name and size.
    pub(crate) fn unmapped(id: &str, size: u64) -> Self {
        Self {
            id: id.to_owned(),
            size,
            module_commit: 0,
            digest: [0; 16],
            address: 0,
            mode: None,
            tracker: None,
            tracker_reason: String::new(),
            mode_reason: String::new(),
            fell_back: false,
            compares: false,
            mapped_size: 0,
            unverified_bytes: 0,
        }
    }
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
    pub last_precopied_pages: u64,
    pub last_copied_pages: u64,
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
    pub compared_modules: u64,
    pub fallbacks: u64,
    pub poisoned: bool,
    pub read_only: bool,
}

/// What this host and a file system can do.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
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
    /// Whether memfds can be sealed.
    pub memfd: bool,
    /// Free huge pages of 2 MiB; `None`: the host has none of that size.
    pub huge_2m: Option<u64>,
    /// Free huge pages of 1 GiB.
    pub huge_1g: Option<u64>,
}
