//! Options that callers pass in, and information that they get back.

use std::os::fd::RawFd;
use std::sync::Arc;

use crate::dirty::Tracker;
use crate::format::commit::{MAX_LABEL, MAX_USER_DATA};
use crate::module::MapMode;
use crate::{Error, Result};

/// How important a log message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum LogLevel {
    /// Something is wrong. The library worked around it, or somebody must look at it.
    Warning = 1,
    /// Recovery or a fallback did something. This is normal after a crash, and after a close
    /// without a persist before it.
    Info = 2,
}

/// A log function: receives a level, and a message of one line without a newline.
///
/// The library calls it when it did something on its own: recovery, repairs, fallbacks. The call
/// comes from the thread that is inside a call of the store. A call into the same store from inside
/// the function gives [`Error::Busy`], except calls that never wait (see
/// [threads](crate#threads)).
pub type Log = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// A progress function, or `None`: receives the bytes done and the bytes to do in all.
///
/// `false` cancels the call. The call then fails with [`Error::Cancelled`] and leaves everything as
/// it was, unless its text says what it keeps. A call into the same store from inside the function
/// gives [`Error::Busy`], except calls that never wait (see [threads](crate#threads)).
pub type Progress<'a> = Option<&'a mut dyn FnMut(u64, u64) -> bool>;

/// Options of [`Store::open`](super::Store::open). The default opens for writing, and makes a store
/// if there is none.
#[derive(Default)]
pub struct OpenOptions {
    /// Take no lock and change nothing on disk.
    ///
    /// The store can be open for writing elsewhere at the same time. The history is that of the
    /// moment of the open. Calls that change the store give [`Error::ReadOnly`]. Mapping, in all
    /// modes except [`MapMode::Shared`], and restore work, and stay private to this process. A call
    /// gives [`Error::Stale`] if it needs a file that the writer has deleted or rewritten since.
    pub read_only: bool,
    /// Fail with [`Error::NotFound`] if there is no store, and do not make one.
    pub no_create: bool,
    /// Open read-only. If `commits` or the journal is damaged, open with the commits that are
    /// intact, and do not fail with [`Error::Corrupt`]. Takes no lock and removes nothing.
    pub salvage: bool,
    /// Receives messages of recovery and fallbacks.
    pub log: Option<Log>,
    /// The most bytes of memory that a capture may use for copied pages. 0: the default, 1 GiB.
    ///
    /// A larger capture works too. It writes pages that do not fit to files of the store, while the
    /// guest is paused. The library keeps the memory for the next capture until the store is
    /// closed.
    pub arena_limit: u64,
}

/// Options of [`Store::map_module`](super::Store::map_module). The default is private memory at any
/// address, with the best tracker that works.
///
/// `docs/integration.md` has tables that help to choose a mode and a tracker for a VMM.
#[derive(Debug, Clone, Copy, Default)]
pub struct MapOptions {
    /// Where the memory of the module comes from:
    ///
    /// - [`MapMode::Private`], the default: anonymous memory of this process. If the head has an
    ///   image of the module, the image is mapped copy-on-write, and newer pages are copied over it.
    /// - [`MapMode::Shared`]: the backing file in the store, with its blocks reserved. Other processes
    ///   can map it by its path. Best on tmpfs.
    /// - [`MapMode::Memfd`]: a sealed memfd of the library, or with `fd` the caller's descriptor. For
    ///   vhost-user and VFIO, and for huge pages.
    /// - [`MapMode::Adopt`]: memory that the caller has mapped at `address`. The library copies from
    ///   it and to it, and never maps anything there. Unmap the module before the memory goes.
    pub mode: MapMode,
    /// Read and verify the whole module now. Else pages of private memory can come straight from an
    /// image file, and the library does not check these pages.
    pub eager: bool,
    /// How the library finds written pages. `None`, the default: [`Tracker::Kernel`] if it passed its
    /// self-test, else [`Tracker::Compare`].
    ///
    /// - [`Tracker::Kernel`]: userfaultfd and the `PAGEMAP_SCAN` ioctl of Linux 6.7. Sees writes
    ///   through the module's own mapping by this process, its vCPUs and the kernel. A first write to
    ///   a page after a commit costs about a microsecond, and each capture costs a scan.
    /// - [`Tracker::Caller`]: the caller reports every write with [`mark_dirty`](super::Module::mark_dirty)
    ///   or [`import_dirty_bitmap`](super::Module::import_dirty_bitmap). A write that is not reported is lost.
    /// - [`Tracker::Compare`]: every capture compares all memory of the module with the head. Sees
    ///   every writer, and reads the whole module while the guest is paused.
    ///
    /// `docs/tracking.md` has the table of the writes that each tracker sees.
    ///
    /// If another userfaultfd has a part of adopted memory, `None` gives [`Error::Unsupported`]:
    /// choose [`Tracker::Caller`] or [`Tracker::Compare`].
    pub tracker: Option<Tracker>,
    /// There are writers that the tracker cannot see and that nobody reports. Every capture then
    /// compares the pages that were not reported with the head, which reads the whole module while
    /// the guest is paused.
    pub foreign_writers: bool,
    /// The exact address of the memory, a multiple of the page size. 0: any address.
    ///
    /// Nothing may be mapped in the range. With `reserved` the range lies in the caller's
    /// reservation. With [`MapMode::Adopt`] this is the address of the memory to adopt.
    pub address: usize,
    /// `address` lies in a range that the caller has reserved: private anonymous memory with
    /// `PROT_NONE`. The module is mapped over it. Unmapping makes it a reservation again.
    pub reserved: bool,
    /// With [`MapMode::Memfd`]: the caller's descriptor, and the offset in bytes at which the module
    /// begins.
    ///
    /// The descriptor is a memfd or another regular file on tmpfs, hugetlbfs or a disk, open for
    /// reading and writing, and at least offset + size bytes long. The library keeps a copy of the
    /// descriptor, and does not close the caller's. If somebody truncates the file, touching the
    /// memory is a SIGBUS: seal a memfd against shrinking.
    pub fd: Option<(RawFd, u64)>,
    /// With [`MapMode::Memfd`] and without `fd`: the size of the huge pages in bytes, 2 MiB or
    /// 1 GiB. 0: normal pages. Size and address of the module must be multiples of it.
    pub huge: u64,
    /// Address space to set aside for [`Module::grow`](super::Module::grow), in bytes from the
    /// module's beginning. 0: none. Without it, growing works only if nothing happens to be mapped
    /// behind the module. Must be 0 with `reserved` and with [`MapMode::Adopt`].
    pub max_size: u64,
}

impl MapOptions {
    /// Checks that the options fit together, for a module of `size` bytes on a host with pages of
    /// `page` bytes.
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
/// [`Store::capture`](super::Store::capture). The default is a commit without label and user data.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// A name for people, at most 255 bytes, without control characters. Empty: none.
    pub label: String,
    /// Bytes that the caller keeps with the commit, at most 16 MiB, for example the state of vCPUs
    /// and devices. The bytes are shared and not copied.
    pub user_data: Option<Arc<Vec<u8>>>,
    /// The most threads that may help to copy a capture of 4,096 pages or more; at most 15. 0: none.
    ///
    /// The threads begin and end inside the call, with all signals blocked. They help only if the
    /// arena has room for all pages of the capture.
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
    /// Stop when a round leaves at most this many pages to copy. 0: the default, 1024.
    pub target_pages: u64,
    /// The most rounds. 0: the default, 16. The call stops earlier when a round leaves as many pages
    /// as the round before.
    pub max_rounds: u32,
}

/// Options of [`Store::verify`](super::Store::verify). The default verifies everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// Check the logs, footers and indexes, and do not read pages.
    pub metadata_only: bool,
    /// The number of the commit to verify. 0: all commits, and the logs.
    pub commit: u64,
}

/// Options of [`Store::compact`](super::Store::compact). The default deletes no commit.
///
/// The `keep` fields are rules of retention. A commit stays if at least one rule keeps it. The head
/// always stays. All other commits are deleted. If there is no rule, no commit is deleted.
#[derive(Debug, Clone, Copy, Default)]
pub struct CompactOptions {
    /// Keep this many of the newest commits. 0: no such rule.
    pub keep_last: u64,
    /// Keep commits whose number is a multiple of this. 0: no such rule.
    pub keep_every: u64,
    /// Keep commits that are younger than this by the wall clock, in nanoseconds. 0: no such rule.
    pub keep_younger_ns: u64,
    /// Keep commits that have a label.
    pub keep_labelled: bool,
    /// Between two images of a module, the deltas hold at most this share of the module's pages, in
    /// percent. 0: the default, 200. A larger value saves disk. A smaller value makes the start of a
    /// new process faster.
    pub image_percent: u32,
    /// Make no images, except where a chain of deltas has lost its image.
    pub no_images: bool,
}

/// Information about a commit, from [`Store::commit_info`](super::Store::commit_info).
#[derive(Debug, Clone)]
pub struct CommitInfo {
    /// The number of the commit, from 1.
    pub commit: u64,
    /// The number of the parent. If the parent was deleted, the nearest ancestor that was not. 0:
    /// there is none.
    pub parent: u64,
    /// When the commit was made: nanoseconds since 1970-01-01 UTC by the wall clock of the host.
    pub time: u64,
    /// A random number that no other commit of any store has. Exports, imports and clones keep it.
    pub unique_id: [u8; 16],
    /// The label. Empty: none.
    pub label: String,
    /// The user data. Empty: none.
    pub user_data: Arc<Vec<u8>>,
    /// How many modules the commit holds.
    pub modules: u32,
    /// Whether the commit survives a power cut; see [`Store::persist`](super::Store::persist).
    pub persisted: bool,
}

/// Information about a module at a commit, and about its mapping, from
/// [`Store::modules`](super::Store::modules).
#[derive(Debug, Clone)]
pub struct ModuleInfo {
    /// The id of the module.
    pub id: String,
    /// The size at the commit, in bytes.
    pub size: u64,
    /// The number of the module commit that holds the bytes, in the file `<module>_Commit<N>`. 0:
    /// the module is mapped, but no commit has it yet.
    pub module_commit: u64,
    /// A digest of the bytes. Equal bytes have equal digests, in any commit (`docs/format.md`).
    pub digest: [u8; 16],
    /// The address of the mapping. 0: the module is not mapped.
    pub address: usize,
    /// The mode of the mapping. `None`: the module is not mapped.
    pub mode: Option<MapMode>,
    /// The tracker in use. `None`: the module is not mapped.
    pub tracker: Option<Tracker>,
    /// Why this tracker is in use, in words. Empty: the module is not mapped.
    pub tracker_reason: String,
    /// How the bytes got into memory, in words. Empty: the module is not mapped.
    pub mode_reason: String,
    /// The caller left the choice to the library, and the kernel tracker did not work.
    pub fell_back: bool,
    /// Every capture compares the pages that were not reported with the head.
    pub compares: bool,
    /// The size of the mapping in bytes, which is larger than `size` if the module grew since. 0: the
    /// module is not mapped.
    pub mapped_size: u64,
    /// Bytes that were mapped from an image file without verification.
    pub unverified_bytes: u64,
}

impl ModuleInfo {
    /// Information about a module of which only id and size are known yet.
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

/// Counters since the store was opened, and figures of the last capture, commit and restore; from
/// [`Store::stats`](super::Store::stats).
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Commits in the history.
    pub commits: u64,
    /// Commits since the last persist, which a power cut would lose.
    pub unpersisted_commits: u64,
    /// Modules that are mapped now.
    pub mapped_modules: u64,
    /// Bytes of the modules that are mapped now.
    pub mapped_bytes: u64,
    /// The page size of the store in bytes.
    pub page_size: u64,
    /// Bytes of memory that the library holds for captures.
    pub arena_bytes: u64,
    /// Captures taken, by `capture` and by `commit`.
    pub captures: u64,
    /// The last capture: pages in it, which are the pages that were reported or differed.
    pub last_dirty_pages: u64,
    /// The last capture: pages that a precopy had copied before.
    pub last_precopied_pages: u64,
    /// The last capture: pages that were copied while the guest was paused.
    pub last_copied_pages: u64,
    /// The last capture: nanoseconds in the scans of the trackers.
    pub last_scan_ns: u64,
    /// The last capture: nanoseconds in all, for which the guest had to be paused.
    pub last_capture_ns: u64,
    /// The last commit: nanoseconds after the capture, for checksums, writing and renaming.
    pub last_write_ns: u64,
    /// The last commit: pages that were written with their bytes.
    pub last_written_pages: u64,
    /// The last commit: pages that were recorded as zero, without bytes.
    pub last_zero_pages: u64,
    /// The last commit: captured pages that had the same bytes as before, and were left out.
    pub last_unchanged_pages: u64,
    /// The last restore: pages that were put back.
    pub last_restored_pages: u64,
    /// The last restore: nanoseconds in all.
    pub last_restore_ns: u64,
    /// Bytes that were written to module commit files, the journal and `commits`.
    pub bytes_written: u64,
    /// Calls of fsync and fdatasync.
    pub syncs: u64,
    /// Captures that were larger than the arena and wrote to files while the guest was paused.
    pub arena_spills: u64,
    /// Modules mapped now whose captures compare memory with the head.
    pub compared_modules: u64,
    /// Modules mapped now for which the kernel tracker did not work, although the library chose the
    /// tracker.
    pub fallbacks: u64,
    /// Whether the store is poisoned; see [`Error::Poisoned`].
    pub poisoned: bool,
    /// Whether the store is open read-only.
    pub read_only: bool,
}

/// What this host and a file system can do, from [`probe`](crate::probe).
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Capabilities {
    /// Whether the kernel tracker passed its self-test.
    pub kernel_tracker: bool,
    /// The tracker that `None` in [`MapOptions::tracker`] chooses.
    pub auto_tracker: Tracker,
    /// Why it is this tracker, in words.
    pub tracker_reason: String,
    /// The page size of the host in bytes.
    pub page_size: u64,
    /// The name of the file system, or its magic number if the name is not known. Empty: no directory
    /// was given.
    pub file_system: String,
    /// Bytes that are free for this user on the file system.
    pub free_bytes: u64,
    /// Whether the file system honours reserved blocks. Then [`MapMode::Shared`] cannot meet a full
    /// disk.
    pub shared_is_safe: bool,
    /// Whether there is a store in the directory.
    pub is_store: bool,
    /// Whether memfds can be made and sealed, for [`MapMode::Memfd`].
    pub memfd: bool,
    /// Free huge pages of 2 MiB. `None`: the host has no huge pages of this size.
    pub huge_2m: Option<u64>,
    /// Free huge pages of 1 GiB. `None`: the host has no huge pages of this size.
    pub huge_1g: Option<u64>,
}
