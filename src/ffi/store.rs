//! Opening and closing a store, what it is doing, and what this host can do.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;

use super::call::guard;
use super::convert::{self, In, Out};
use super::handle::{self, Object, vmstore};
use crate::{Capabilities, Log, LogLevel, OpenOptions, Stats, Store};

/// Log level: something is wrong. The library worked around it, or you must look at it.
pub const VMSTORE_LOG_WARNING: c_int = 1;
/// Log level: what recovery or a fallback did. Normal after a crash, and after a store_close
/// without a store_persist before it.
pub const VMSTORE_LOG_INFO: c_int = 2;

/// Receives what the library did on its own: recovery, repairs, fallbacks. `level` is one of
/// VMSTORE_LOG_... `message` is one line without a newline, valid during the call only. The
/// callback must not unwind or longjmp.
pub type vmstore_log_callback =
    Option<unsafe extern "C" fn(level: c_int, message: *const c_char, user_data: *mut c_void)>;

/// Open flag, the default: make the directory and the store if they do not exist.
pub const VMSTORE_OPEN_CREATE: u32 = 0;
/// Open flag: take no lock and change nothing on disk. Works while another process writes to the
/// store, and shows the history as it was at the moment of opening.
///
/// Commit and persist fail with VMSTORE_E_READ_ONLY. Map (in every mode except shared) and
/// restore work, and their effect stays private to this process. Many processes can map clones of
/// one commit in this way and share the page cache of its image.
///
/// Mapped memory stays valid, whatever the writer does. A call that needs a file which the writer
/// has deleted or rewritten since fails with VMSTORE_E_STALE: open the store again. (store_verify
/// reports such a file as damaged: open the store again, and verify again.)
///
/// Without a store in the directory: VMSTORE_E_NOT_FOUND. After a power cut a store may need one
/// opening for writing first: VMSTORE_E_READ_ONLY says so. If the journal has lost its end, a
/// read-only store cannot tell this damage from a writer that is at work, and does not report it.
/// An opening for writing reports it.
pub const VMSTORE_OPEN_READ_ONLY: u32 = 1 << 0;
/// Open flag: fail with VMSTORE_E_NOT_FOUND if there is no store yet.
pub const VMSTORE_OPEN_NO_CREATE: u32 = 1 << 1;
/// Open flag: read-only; and if `commits` or the journal is damaged, open with the commits that
/// are intact instead of failing with VMSTORE_E_CORRUPT. Takes no lock and removes nothing.
pub const VMSTORE_OPEN_SALVAGE: u32 = 1 << 2;

/// Options of store_open.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_open_options {
    /// `sizeof(vmstore_open_options)`.
    pub struct_size: usize,
    /// VMSTORE_OPEN_... flags, or-ed.
    pub flags: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Receives what recovery and fallbacks did, now and until the store is closed. May be NULL.
    pub log: vmstore_log_callback,
    /// Passed to `log`.
    pub user_data: *mut c_void,
    /// The most memory, in bytes, that a capture may use for copied pages. 0 means 1 GiB. A
    /// larger capture still works: it writes the pages that do not fit to the store's files
    /// during the capture, which makes the pause longer. The memory is kept for the next capture.
    pub arena_limit: u64,
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_open_options {}

/// The result of store_stats. Counters run from store_open.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_stats {
    /// `sizeof(vmstore_stats)`.
    pub struct_size: usize,
    /// Commits in the history.
    pub commits: u64,
    /// Commits that a power cut would lose: those since the last persist.
    pub unpersisted_commits: u64,
    /// Modules that are mapped now.
    pub mapped_modules: u64,
    /// Bytes of the modules that are mapped now.
    pub mapped_bytes: u64,
    /// The page size of the store in bytes.
    pub page_size: u64,
    /// Memory held for captures, in bytes.
    pub arena_bytes: u64,
    /// Captures taken, by store_capture and store_commit.
    pub captures: u64,
    /// The last capture: pages that the tracker or the caller reported.
    pub last_dirty_pages: u64,
    /// The last capture: those of the reported pages that store_precopy had copied before. Pages
    /// that were written after their precopy were copied again.
    pub last_precopied_pages: u64,
    /// The last capture: pages copied during the pause. These are the pages that were not
    /// precopied, or were written after that; or all pages, when `arena_limit` has no room for
    /// both copies.
    pub last_copied_pages: u64,
    /// The last capture: nanoseconds in the tracker's scan.
    pub last_scan_ns: u64,
    /// The last capture: nanoseconds in all. The guest had to be paused for this time.
    pub last_capture_ns: u64,
    /// The last commit: nanoseconds after the capture, for checksums, writing and renaming.
    pub last_write_ns: u64,
    /// The last commit: pages written with their bytes.
    pub last_written_pages: u64,
    /// The last commit: pages recorded as zero, without bytes.
    pub last_zero_pages: u64,
    /// The last commit: pages that were reported but had not changed, and were left out.
    pub last_unchanged_pages: u64,
    /// The last restore: pages put back.
    pub last_restored_pages: u64,
    /// The last restore: nanoseconds in all.
    pub last_restore_ns: u64,
    /// Bytes written to module commit files, the journal and `commits`.
    pub bytes_written: u64,
    /// Calls of fsync and fdatasync.
    pub syncs: u64,
    /// Captures that outgrew the arena and wrote to files during the pause.
    pub arena_spills: u64,
    /// Modules that are mapped now and whose captures compare memory with the head.
    pub compared_modules: u64,
    /// Modules that are mapped now and for which VMSTORE_TRACKER_AUTO could not take the kernel
    /// tracker.
    pub fallbacks: u64,
    /// 1 after a failed sync or a caught internal error: see VMSTORE_E_POISONED.
    pub poisoned: u32,
    /// 1 when the store is open read-only.
    pub read_only: u32,
}

/// The result of store_probe: what this kernel, and the file system of a directory, can do.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_capabilities {
    /// `sizeof(vmstore_capabilities)`.
    pub struct_size: usize,
    /// 1 when the kernel tracker works here. The library tries the tracker, and does not guess
    /// from a version.
    pub kernel_tracker: u32,
    /// The tracker that VMSTORE_TRACKER_AUTO chooses.
    pub auto_tracker: u32,
    /// The reason for this choice, in words, NUL-terminated.
    pub tracker_reason: [c_char; 160],
    /// The host's page size in bytes.
    pub page_size: u64,
    /// The name of the file system, or its magic number if the name is unknown; "" when no
    /// directory was given.
    pub file_system: [c_char; 32],
    /// Bytes that are free for this user on the file system.
    pub free_bytes: u64,
    /// 1 when the file system honours reserved blocks. A write to a VMSTORE_MAP_SHARED module
    /// then cannot meet a full disk.
    pub shared_is_safe: u32,
    /// 1 when there is a store in the directory.
    pub is_store: u32,
    /// 1 when memfds can be made and sealed, for VMSTORE_MAP_MEMFD.
    pub memfd: u32,
    /// 1 when the host has huge pages of 2 MiB, free or in use.
    pub has_huge_2m: u32,
    /// How many huge pages of 2 MiB are free.
    pub free_huge_2m: u64,
    /// How many huge pages of 1 GiB are free.
    pub free_huge_1g: u64,
}

/// Opens the store in `directory`, and makes the store first if there is none.
///
/// The parent of the directory must exist. A new directory gets mode 0700. A directory that is
/// not empty and is not a store stays unchanged (VMSTORE_E_EXISTS). The opener gets an exclusive
/// lock. The kernel releases the lock when the process ends, however the process ends.
///
/// Opening recovers what a crash left behind. After a killed process, every commit that
/// store_commit returned is there again. After a power cut, every persisted commit is there
/// again. The head is what it was. Leftovers of unfinished calls are removed. `options->log`
/// receives what was done.
///
/// `options` may be NULL. End `*store` with store_close.
///
/// Errors: VMSTORE_E_INVALID (also: the new store would lie in the directory of another store),
/// VMSTORE_E_EXISTS (a file or a foreign directory is at the path), VMSTORE_E_NOT_FOUND (no
/// parent directory; no store, with VMSTORE_OPEN_NO_CREATE), VMSTORE_E_LOCKED,
/// VMSTORE_E_READ_ONLY (the file system is read-only), VMSTORE_E_CORRUPT, VMSTORE_E_VERSION,
/// VMSTORE_E_UNSUPPORTED (made on a host with another page size), VMSTORE_E_IO,
/// VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_open(
    directory: *const c_char,
    options: *const vmstore_open_options,
    store: *mut *mut vmstore,
) -> c_int {
    guard("store_open", |at| {
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let directory = unsafe { convert::text("directory", directory) }?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_open_options", options) }?;
        // SAFETY: the caller passes NULL or a place for a pointer.
        let store = unsafe { Out::new("store", store) }?;
        let known = VMSTORE_OPEN_CREATE
            | VMSTORE_OPEN_READ_ONLY
            | VMSTORE_OPEN_NO_CREATE
            | VMSTORE_OPEN_SALVAGE;
        convert::flags("vmstore_open_options.flags", options.flags, known)?;
        convert::zero("vmstore_open_options.reserved", options.reserved)?;
        at.opening = Some(directory.to_string_lossy().into_owned());
        let opened = Store::open(
            std::path::Path::new(std::ffi::OsStr::from_bytes(directory.to_bytes())),
            OpenOptions {
                read_only: options.flags & VMSTORE_OPEN_READ_ONLY != 0,
                no_create: options.flags & VMSTORE_OPEN_NO_CREATE != 0,
                salvage: options.flags & VMSTORE_OPEN_SALVAGE != 0,
                log: log(options.log, options.user_data),
                arena_limit: options.arena_limit,
            },
        )?;
        store.write(handle::insert(Object::Store(opened.clone()), &opened)?.cast());
        Ok(())
    })
}

/// Closes a store: cancels an outstanding capture, unmaps the modules, releases the lock.
///
/// Stop the guest first, because the addresses of the modules are unmapped. Writes since the last
/// commit are lost. store_close does not persist: commits that were not persisted stay restorable
/// until a power cut. The handles of the store, its modules and its capture are stale afterwards.
/// Waits for calls of other threads on this store.
#[unsafe(no_mangle)]
pub extern "C" fn store_close(store: *mut vmstore) -> c_int {
    guard("store_close", |at| {
        let opened = at.store(store)?;
        opened.close()?;
        handle::remove_store(store, &opened);
        Ok(())
    })
}

/// Fills `stats` with counters and with the figures of the last capture, commit and restore.
/// Initialise `*stats` with VMSTORE_INIT first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_stats(store: *const vmstore, stats: *mut vmstore_stats) -> c_int {
    guard("store_stats", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        unsafe {
            convert::fill("vmstore_stats", stats, || {
                Ok(vmstore_stats::from(store.stats()?))
            })
        }
    })
}

/// Fills `capabilities` with what this kernel, and the file system of `directory`, can do, and
/// with the choices that the library would make. Changes nothing. Initialise `*capabilities` with
/// VMSTORE_INIT first.
///
/// `directory` may be NULL; the file system is then left out. The directory need not hold a
/// store.
///
/// Errors: VMSTORE_E_NOT_FOUND (no such directory), VMSTORE_E_EXISTS (not a directory),
/// VMSTORE_E_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_probe(
    directory: *const c_char,
    capabilities: *mut vmstore_capabilities,
) -> c_int {
    guard("store_probe", |_| {
        let directory = if directory.is_null() {
            None
        } else {
            // SAFETY: not NULL, so a NUL-terminated string by the caller's contract.
            let text = unsafe { convert::text("directory", directory) }?;
            Some(std::path::Path::new(std::ffi::OsStr::from_bytes(
                text.to_bytes(),
            )))
        };
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        unsafe {
            convert::fill("vmstore_capabilities", capabilities, || {
                Ok(vmstore_capabilities::from(crate::probe(directory)?))
            })
        }
    })
}

impl From<Stats> for vmstore_stats {
    fn from(s: Stats) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            commits: s.commits,
            unpersisted_commits: s.unpersisted_commits,
            mapped_modules: s.mapped_modules,
            mapped_bytes: s.mapped_bytes,
            page_size: s.page_size,
            arena_bytes: s.arena_bytes,
            captures: s.captures,
            last_dirty_pages: s.last_dirty_pages,
            last_precopied_pages: s.last_precopied_pages,
            last_copied_pages: s.last_copied_pages,
            last_scan_ns: s.last_scan_ns,
            last_capture_ns: s.last_capture_ns,
            last_write_ns: s.last_write_ns,
            last_written_pages: s.last_written_pages,
            last_zero_pages: s.last_zero_pages,
            last_unchanged_pages: s.last_unchanged_pages,
            last_restored_pages: s.last_restored_pages,
            last_restore_ns: s.last_restore_ns,
            bytes_written: s.bytes_written,
            syncs: s.syncs,
            arena_spills: s.arena_spills,
            compared_modules: s.compared_modules,
            fallbacks: s.fallbacks,
            poisoned: u32::from(s.poisoned),
            read_only: u32::from(s.read_only),
        }
    }
}

impl From<Capabilities> for vmstore_capabilities {
    fn from(c: Capabilities) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            kernel_tracker: u32::from(c.kernel_tracker),
            auto_tracker: c.auto_tracker as u32,
            tracker_reason: convert::fixed(&c.tracker_reason),
            page_size: c.page_size,
            file_system: convert::fixed(&c.file_system),
            free_bytes: c.free_bytes,
            shared_is_safe: u32::from(c.shared_is_safe),
            is_store: u32::from(c.is_store),
            memfd: u32::from(c.memfd),
            has_huge_2m: u32::from(c.huge_2m.is_some()),
            free_huge_2m: c.huge_2m.unwrap_or(0),
            free_huge_1g: c.huge_1g.unwrap_or(0),
        }
    }
}

fn level_of(level: LogLevel) -> c_int {
    match level {
        LogLevel::Warning => VMSTORE_LOG_WARNING,
        LogLevel::Info => VMSTORE_LOG_INFO,
    }
}

/// The caller's log function as a closure.
fn log(callback: vmstore_log_callback, user_data: *mut c_void) -> Option<Log> {
    let callback = callback?;
    let user_data = convert::UserData(user_data);
    Some(Box::new(move |level: LogLevel, message: &str| {
        let user_data = &user_data;
        let text = CString::new(message.replace('\0', "?")).unwrap_or_default();
        // SAFETY: the callback is the caller's, made for exactly this; the text lives until it
        // returns.
        unsafe { callback(level_of(level), text.as_ptr(), user_data.0) };
    }))
}
