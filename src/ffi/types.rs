//! The types of the C interface: opaque handles, option structs (in) and info structs (out).

use std::ffi::{c_char, c_int, c_void};

/// A store: one directory, opened. Opaque; made by `store_open`, ended by `store_close`.
pub struct vmstore {
    _opaque: u8,
}

/// A mapped module of a store. Opaque; made by `store_map_module`, ended by `store_unmap_module`
/// or by closing its store.
pub struct vmstore_module {
    _opaque: u8,
}

/// A captured, not yet written commit. Opaque; made by `store_capture`, ended by
/// `store_capture_commit`, `store_capture_cancel`, or by closing its store.
pub struct vmstore_capture {
    _opaque: u8,
}

/// Receives what the library did on its own: recovery, repairs, fallbacks. `level` is one of
/// `VMSTORE_LOG_...`; `message` is one line without a newline, valid during the call only. Calls
/// into the same store from inside the callback fail with `VMSTORE_E_BUSY`. It must not unwind or
/// longjmp.
pub type vmstore_log_callback =
    Option<unsafe extern "C" fn(level: c_int, message: *const c_char, user_data: *mut c_void)>;

/// Receives the progress of long work, in bytes. A non-zero return cancels the work: the call
/// then fails with `VMSTORE_E_CANCELLED` and leaves everything as it was, unless the text of the
/// function says what it keeps. Calls into the same store from inside the callback fail with
/// `VMSTORE_E_BUSY`. It must not unwind or longjmp.
pub type vmstore_progress_callback =
    Option<unsafe extern "C" fn(done: u64, total: u64, user_data: *mut c_void) -> c_int>;

/// Receives one range of bytes of `store_diff`. The id is valid during the call only. A non-zero return ends
/// the listing early; `store_diff` then returns `VMSTORE_OK`.
pub type vmstore_range_callback = Option<
    unsafe extern "C" fn(
        module_id: *const c_char,
        offset: u64,
        length: u64,
        user_data: *mut c_void,
    ) -> c_int,
>;

/// Receives one file of `store_list_files`. The struct and its string are valid during the call only. A
/// non-zero return ends the listing early; `store_list_files` then returns `VMSTORE_OK`.
pub type vmstore_file_callback =
    Option<unsafe extern "C" fn(info: *const vmstore_file_info, user_data: *mut c_void) -> c_int>;

/// Receives one module of `store_list_modules`. The struct and its strings are valid during the
/// call only. A non-zero return ends the listing early; `store_list_modules` then returns
/// `VMSTORE_OK`.
pub type vmstore_module_callback =
    Option<unsafe extern "C" fn(info: *const vmstore_module_info, user_data: *mut c_void) -> c_int>;

/// Log level: something is wrong and was worked around or must be looked at.
pub const VMSTORE_LOG_WARNING: c_int = 1;
/// Log level: what recovery or a fallback did; normal after a crash, and after a close without a
/// `store_persist` before it.
pub const VMSTORE_LOG_INFO: c_int = 2;

/// Open flag, the default: make the directory and the store if they are not there.
pub const VMSTORE_OPEN_CREATE: u32 = 0;
/// Open flag: take no lock, change nothing on disk. Works beside a writer, and sees the history
/// as it was when it was opened. Commit and persist fail with `VMSTORE_E_READ_ONLY`; map
/// (in all modes but shared) and restore work and stay private to this process. What is mapped stays, whatever
/// the writer does; where a call needs a file that the writer has deleted or rewritten since, it fails
/// with `VMSTORE_E_STALE`: open the store again. (`store_verify` calls such a file damaged: open the store
/// again, and verify again.) So many processes map clones of one commit, and share its image's page cache.
/// Where there is no store: `VMSTORE_E_NOT_FOUND`. After a power cut a store may have to be opened for
/// writing once before: `VMSTORE_E_READ_ONLY`. A journal that lost its end looks to a reader like one that a writer is
/// at; who opens it for writing is told of the damage.
pub const VMSTORE_OPEN_READ_ONLY: u32 = 1;
/// Open flag: fail with `VMSTORE_E_NOT_FOUND` where there is no store yet.
pub const VMSTORE_OPEN_NO_CREATE: u32 = 2;
/// Open flag: read-only, and where `commits` or the journal is damaged, open with the commits
/// that are intact instead of failing with `VMSTORE_E_CORRUPT`. Takes no lock and removes
/// nothing.
pub const VMSTORE_OPEN_SALVAGE: u32 = 4;

/// Options of `store_open`. Zero-initialise, set `struct_size`, set what you need.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_open_options {
    /// `sizeof(vmstore_open_options)`.
    pub struct_size: usize,
    /// `VMSTORE_OPEN_...` flags, or-ed.
    pub flags: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Told what recovery and fallbacks did; may be NULL.
    pub log: vmstore_log_callback,
    /// Passed to `log`.
    pub user_data: *mut c_void,
    /// The most memory, in bytes, that a capture may use for copied pages; 0 takes the default, 1
    /// GiB. A capture of more than that still works: what does not fit is written to the store's
    /// files during the capture, which makes the pause longer. The memory is kept for the next
    /// capture.
    pub arena_limit: u64,
}

/// Mapping mode, the default: private memory. Where the head has an image of the module, the
/// image file is mapped copy-on-write, so that starting costs nothing and clones share the page
/// cache.
pub const VMSTORE_MAP_PRIVATE: u32 = 0;
/// Mapping mode: the backing file `<module>` itself, mapped shared, with its blocks reserved,
/// so that other processes can map the same memory (vhost-user). Best on tmpfs. Not on btrfs
/// when the disk may fill up: btrfs does not honour the reservation, and a store into a full
/// disk is a SIGBUS.
pub const VMSTORE_MAP_SHARED: u32 = 1;
/// Mapping mode: a memfd, mapped shared. One is made here, sealed against shrinking, unless
/// `VMSTORE_MAP_FD` brings the caller's. For vhost-user and VFIO with a store on a disk, and for huge
/// pages. `store_module_fd` gives the descriptor to pass on. The guest runs in the mapping at
/// `store_module_address`; writes through any other one are hidden from the kernel tracker.
pub const VMSTORE_MAP_MEMFD: u32 = 2;
/// Mapping mode: memory that the caller has mapped already, at `address`, of any kind, readable and
/// writable. The library copies into it and out of it, and never maps, unmaps, advises or protects
/// anything there (`store_discard` apart, which is asked for). It stays the caller's: unmap the module,
/// or close the store, before it goes.
pub const VMSTORE_MAP_ADOPT: u32 = 4;
/// Mapping flag: read and verify the whole module now, instead of mapping its image and leaving
/// the reading to page faults. Without it, pages that come straight from an image are not
/// checked against their checksums by the library (see `unverified_bytes` in
/// vmstore_module_info).
pub const VMSTORE_MAP_EAGER: u32 = 0x100;
/// Mapping flag: `address` lies in a range that the caller has reserved: private anonymous memory
/// with PROT_NONE. The module is mapped over that part of it, and unmapping makes it a reservation
/// again. A range that is anything else is `VMSTORE_E_EXISTS`, and nothing is replaced.
pub const VMSTORE_MAP_RESERVED: u32 = 0x200;
/// Mapping flag, with `VMSTORE_MAP_MEMFD`: the memory is the caller's `fd`, from `fd_offset`.
pub const VMSTORE_MAP_FD: u32 = 0x400;
/// Mapping flag, with `VMSTORE_MAP_MEMFD`: huge pages of 2 MiB. Size and address are then
/// multiples of that, the pages are reserved now, and a write makes the kernel tracker report the
/// whole huge page; a commit still writes only those small pages whose bytes changed. Where the host
/// has not enough of them free: `VMSTORE_E_UNSUPPORTED`.
pub const VMSTORE_MAP_HUGE_2M: u32 = 0x800;
/// Mapping flag: the same with huge pages of 1 GiB.
pub const VMSTORE_MAP_HUGE_1G: u32 = 0x1000;
/// Mapping flag: there are writers that the tracker cannot see, and they are not going to be marked.
/// Every capture then compares the pages that were not reported with the head, which reads the whole
/// module in the pause. With `VMSTORE_TRACKER_KERNEL` or `_CALLER` the reported pages are not
/// compared first; `VMSTORE_TRACKER_COMPARE` implies it.
pub const VMSTORE_MAP_FOREIGN_WRITERS: u32 = 0x2000;

/// Tracker, the default: `KERNEL` where it passed its self-test, else `COMPARE`. Which one it
/// was, and why, is in vmstore_module_info. Adopted memory a part of which another userfaultfd has is
/// `VMSTORE_E_UNSUPPORTED`: reading it may wait for that one's handler, so the caller has to choose
/// `CALLER` or `COMPARE`.
pub const VMSTORE_TRACKER_AUTO: u32 = 0;
/// Tracker: userfaultfd in asynchronous write-protect mode and the PAGEMAP_SCAN ioctl (Linux
/// 6.7). The first write to a page after a commit costs about a microsecond; a capture costs a
/// scan and the written pages. It sees what goes through the module's own mapping: stores of
/// this process, vCPUs under KVM_RUN, read(2) and other copies by the kernel, memory dropped
/// with madvise. It does not see: writes through another mapping of the same memory or through
/// its descriptor (vhost-user), holes punched into that, DMA into pages pinned before the last commit
/// (VFIO, io_uring fixed buffers), and MADV_DONTNEED or MADV_FREE on memory that came from an image
/// file or is a private mapping of a file of the caller's. Mark those; docs/tracking.md has the whole
/// table.
pub const VMSTORE_TRACKER_KERNEL: u32 = 1;
/// Tracker: none. The caller reports every write with `store_mark_dirty`; what is not reported is
/// lost.
pub const VMSTORE_TRACKER_CALLER: u32 = 2;
/// Tracker: every capture compares all of the module's memory with its last commit. Sees every
/// writer, costs the reading of the whole module in the pause.
pub const VMSTORE_TRACKER_COMPARE: u32 = 3;

/// Options of `store_map_module`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_map_options {
    /// `sizeof(vmstore_map_options)`.
    pub struct_size: usize,
    /// One mode and any mapping flags, or-ed.
    pub flags: u32,
    /// One of `VMSTORE_TRACKER_...`.
    pub tracker: u32,
    /// The exact address wanted, page-aligned, in a range where nothing is mapped; NULL:
    /// anywhere. An occupied range is `VMSTORE_E_EXISTS`. With `VMSTORE_MAP_RESERVED` a place in the
    /// caller's reservation, with `VMSTORE_MAP_ADOPT` the memory to adopt.
    pub address: *mut c_void,
    /// With `VMSTORE_MAP_FD` a memfd, or another regular file on tmpfs, hugetlbfs or a disk, open for
    /// reading and writing, at least `fd_offset` + `size` bytes long. The library keeps a copy of
    /// the descriptor, and does not close this one. Seal it against shrinking (F_SEAL_SHRINK): if
    /// it is truncated while it is mapped, touching it is a SIGBUS. Without the flag it is not looked at.
    pub fd: c_int,
    /// Must be 0.
    pub reserved: u32,
    /// Where the module begins in `fd`, in bytes, a multiple of its page size.
    pub fd_offset: u64,
    /// Address space to set aside now for growing (see `store_grow_module`), in bytes from the module's
    /// beginning; at least its size. Set it if the module will ever grow: without it, whether
    /// there is room is chance. No limit: beyond it, growing depends on what is mapped behind. 0: none, and
    /// so it must be with `VMSTORE_MAP_RESERVED` and `VMSTORE_MAP_ADOPT`, where the room is the caller's.
    pub max_size: u64,
}

/// Options of `store_precopy`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_precopy_options {
    /// `sizeof(vmstore_precopy_options)`.
    pub struct_size: usize,
    /// Stop when a round leaves at most so many pages to copy; 0 takes the default, 1024.
    pub target_pages: u64,
    /// The most rounds; 0 takes the default, 16. It stops earlier when a round leaves no fewer pages
    /// than the one before.
    pub max_rounds: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Called before each round and at the end with bytes copied and bytes known to be written; may be
    /// NULL. What was copied when it cancels is kept.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

/// Options of `store_commit` and `store_capture`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_commit_options {
    /// `sizeof(vmstore_commit_options)`.
    pub struct_size: usize,
    /// A name for people: UTF-8, at most 255 bytes, no control characters. NULL or "": none.
    /// Copied.
    pub label: *const c_char,
    /// Bytes of the caller's, kept with the commit, at most 16 MiB. NULL: none. Copied.
    pub user_data: *const c_void,
    /// The length of `user_data` in bytes; 0 when it is NULL.
    pub user_data_length: usize,
    /// Threads that may help to copy in a capture of 4,096 pages or more, at most 15; 0, the default: none. They
    /// are made and gone within the call, with all signals blocked; where the host refuses to make them, the capture goes
    /// on without. They need processors of their own, and room for all the pages in the arena.
    pub helpers: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// Options of `store_persist`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_persist_options {
    /// `sizeof(vmstore_persist_options)`.
    pub struct_size: usize,
    /// Called before and between files with bytes made durable and bytes to make durable; may
    /// be NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

/// Options of `store_export_with` and `store_import_with`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_transfer_options {
    /// `sizeof(vmstore_transfer_options)`.
    pub struct_size: usize,
    /// Called between pieces of the stream with bytes of pages done and bytes of pages to do, at most; may
    /// be NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

/// Options of `store_restore`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_restore_options {
    /// `sizeof(vmstore_restore_options)`.
    pub struct_size: usize,
    /// Called while pages are read and verified, before memory is touched; may be NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

/// Finding: a file is damaged, or one of its pages.
pub const VMSTORE_FINDING_DAMAGE: u32 = 1;
/// Finding: everything that a commit needs is intact.
pub const VMSTORE_FINDING_GOOD: u32 = 2;
/// Finding: a commit needs something that is damaged.
pub const VMSTORE_FINDING_LOST: u32 = 3;
/// The page of a finding that is about a file as a whole, or about a commit.
pub const VMSTORE_NO_PAGE: u64 = 0xffff_ffff_ffff_ffff;

/// What `store_verify` finds. The struct and its strings are valid during the call only.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_finding {
    /// `sizeof(vmstore_finding)` of the library.
    pub struct_size: usize,
    /// One of `VMSTORE_FINDING_...`.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// The commit that is good or lost; with damage, the one that wrote the file, 0 for `commits` and
    /// the journal.
    pub commit: u64,
    /// The damaged page of the module, or `VMSTORE_NO_PAGE`.
    pub page: u64,
    /// The damaged file, relative to the store; "" with commits.
    pub file: *const c_char,
    /// The module that the file belongs to; "" for `commits`, the journal, and with commits.
    pub module_id: *const c_char,
    /// What is wrong, in words; "" with commits.
    pub message: *const c_char,
}

/// Receives the findings of `store_verify`: all damage as it is found, then for each commit, ascending,
/// whether it is good or lost. A non-zero return ends the call with `VMSTORE_E_CANCELLED`. Calls into
/// the same store from inside the callback fail with `VMSTORE_E_BUSY`.
pub type vmstore_finding_callback =
    Option<unsafe extern "C" fn(finding: *const vmstore_finding, user_data: *mut c_void) -> c_int>;

/// Verify flag: check `commits`, the journal, footers and indexes, but do not read the pages.
pub const VMSTORE_VERIFY_METADATA: u32 = 1;

/// Options of `store_verify`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_verify_options {
    /// `sizeof(vmstore_verify_options)`.
    pub struct_size: usize,
    /// `VMSTORE_VERIFY_...` flags, or-ed.
    pub flags: u32,
    /// Must be 0.
    pub reserved: u32,
    /// The commit to verify; 0: every commit of the store.
    pub commit: u64,
    /// Called between files with bytes verified and bytes to verify; may be NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress` and `finding`.
    pub user_data: *mut c_void,
    /// Told of everything that is found, and then the verification goes on to its end; NULL: the first
    /// damage ends it.
    pub finding: vmstore_finding_callback,
}

/// Compact flag, a rule of retention: keep commits that have a label.
pub const VMSTORE_COMPACT_KEEP_LABELLED: u32 = 1;
/// Compact flag: make no images, but where a chain of deltas has lost its own.
pub const VMSTORE_COMPACT_NO_IMAGES: u32 = 2;

/// Options of `store_compact`. The `keep_...` fields and flag are rules of retention: a commit that at
/// least one of them keeps stays, and so does the head; the others are deleted. With no rule, none is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_compact_options {
    /// `sizeof(vmstore_compact_options)`.
    pub struct_size: usize,
    /// `VMSTORE_COMPACT_...` flags, or-ed.
    pub flags: u32,
    /// Between two images of a module, deltas hold at most this many times its pages, in percent; 0 takes
    /// the default, 200. More saves disk, less makes fresh starts faster.
    pub image_percent: u32,
    /// Keep this many of the newest commits; 0: no such rule.
    pub keep_last: u64,
    /// Keep commits whose number is a multiple of this; 0: no such rule.
    pub keep_every: u64,
    /// Keep commits that are younger than this by the wall clock; 0: no such rule.
    pub keep_seconds: u64,
    /// Called with bytes copied and bytes to copy at most, (0, 0) before anything is done; may be
    /// NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

/// What `store_commit_info` tells of one commit. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_commit_info {
    /// `sizeof(vmstore_commit_info)`.
    pub struct_size: usize,
    /// Its number, from 1.
    pub commit: u64,
    /// The commit it was made on or, if that was deleted, the nearest before it that is there; 0:
    /// none.
    pub parent: u64,
    /// When it was made: nanoseconds since 1970-01-01 UTC by the host's wall clock.
    pub time: u64,
    /// A random number of its own, which no other commit of any store has.
    pub unique_id: [u8; 16],
    /// Its label, NUL-terminated; empty: none.
    pub label: [c_char; 256],
    /// The length of its user data in bytes.
    pub user_data_length: u64,
    /// How many modules it holds.
    pub modules: u32,
    /// 1 when it survives a power cut (see `store_persist`), else 0.
    pub persisted: u32,
}

/// What `store_list_modules` tells of one module.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_module_info {
    /// `sizeof(vmstore_module_info)` of the library.
    pub struct_size: usize,
    /// Its id.
    pub module_id: *const c_char,
    /// Its size in bytes.
    pub size: u64,
    /// The number of the module commit that holds its bytes, in the file `<module>_Commit<N>`; 0
    /// for a module that is mapped but in no commit yet.
    pub module_commit: u64,
    /// A digest of its bytes: equal bytes have equal digests, in any commit (docs/format.md).
    pub digest: [u8; 16],
    /// Where it is mapped; NULL: it is not.
    pub address: *mut c_void,
    /// Its mapping mode when mapped, one of `VMSTORE_MAP_PRIVATE`, `_SHARED`, `_MEMFD` and `_ADOPT`, without
    /// the flags.
    pub mode: u32,
    /// The tracker in use when mapped, one of `VMSTORE_TRACKER_...`, never `AUTO`.
    pub tracker: u32,
    /// Why it is this tracker; "" when not mapped.
    pub tracker_reason: *const c_char,
    /// Bytes of the mapping that come straight from an image file and were not verified when
    /// mapped.
    pub unverified_bytes: u64,
    /// How its bytes got into memory, in words: mapped from which image, copied and why, adopted; ""
    /// when not mapped.
    pub mode_reason: *const c_char,
    /// Its size where it is mapped, which is larger than `size` when it grew since the head; 0 when
    /// not mapped.
    pub mapped_size: u64,
    /// 1 when `VMSTORE_TRACKER_AUTO` could not take the kernel tracker: `tracker_reason` says why.
    pub fell_back: u32,
    /// 1 when every capture compares pages that were not reported: the tracker is
    /// `VMSTORE_TRACKER_COMPARE`, or `VMSTORE_MAP_FOREIGN_WRITERS` was given.
    pub compared: u32,
}

/// What `store_list_files` tells of one file that a commit needs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_file_info {
    /// `sizeof(vmstore_file_info)` of the library.
    pub struct_size: usize,
    /// The module.
    pub module_id: *const c_char,
    /// The number in the file's name, `<module>_Commit<N>`.
    pub module_commit: u64,
    /// The module commit below it; 0: none, it is an image, and holds the whole module.
    pub parent: u64,
    /// The module's size there, in bytes.
    pub module_size: u64,
    /// The file's length in bytes. Zero pages of an image are holes.
    pub length: u64,
    /// Pages whose bytes are in it.
    pub data_pages: u64,
    /// Pages that it says became zero; an image says nothing of pages that are zero.
    pub zero_pages: u64,
}

/// What `store_stats` tells. Counters run from `store_open`. Set `struct_size` before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_stats {
    /// `sizeof(vmstore_stats)`.
    pub struct_size: usize,
    /// Commits in the history.
    pub commits: u64,
    /// Commits that a power cut would lose: those since the last persist.
    pub unpersisted_commits: u64,
    /// Modules mapped now.
    pub mapped_modules: u64,
    /// Bytes of modules mapped now.
    pub mapped_bytes: u64,
    /// The page size of the store in bytes.
    pub page_size: u64,
    /// Memory held for captures, in bytes.
    pub arena_bytes: u64,
    /// Captures taken, by `store_capture` and `store_commit`.
    pub captures: u64,
    /// The last capture: pages that the tracker or the caller reported.
    pub last_dirty_pages: u64,
    /// The last capture: of those, pages that `store_precopy` had copied before. Those that were written
    /// since were copied again.
    pub last_precopied_pages: u64,
    /// The last capture: pages copied while the guest was paused for it: those that were not precopied or
    /// were written since; all of them where `arena_limit` has no room for both.
    pub last_copied_pages: u64,
    /// The last capture: nanoseconds in the tracker's scan.
    pub last_scan_ns: u64,
    /// The last capture: nanoseconds in all, which is what the guest had to be paused for.
    pub last_capture_ns: u64,
    /// The last commit: nanoseconds after the capture: checksums, writing, renaming.
    pub last_write_ns: u64,
    /// The last commit: pages written with their bytes.
    pub last_written_pages: u64,
    /// The last commit: pages recorded as zero, without bytes.
    pub last_zero_pages: u64,
    /// The last commit: pages that were reported but have the bytes they had, and were left out.
    pub last_unchanged_pages: u64,
    /// The last restore: pages put back.
    pub last_restored_pages: u64,
    /// The last restore: nanoseconds in all.
    pub last_restore_ns: u64,
    /// Bytes written to module commit files, the journal and `commits`.
    pub bytes_written: u64,
    /// fsync and fdatasync calls.
    pub syncs: u64,
    /// Captures that outgrew the arena and wrote during the pause.
    pub arena_spills: u64,
    /// Modules mapped now whose captures compare memory with the head.
    pub compared_modules: u64,
    /// Modules mapped now for which `VMSTORE_TRACKER_AUTO` could not take the kernel tracker.
    pub fallbacks: u64,
    /// 1 after a failed sync or a caught internal error: see `VMSTORE_E_POISONED`.
    pub poisoned: u32,
    /// 1 when the store is open read-only.
    pub read_only: u32,
}

/// What `store_probe` tells of this kernel and of a directory's file system. Set `struct_size`
/// before the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_capabilities {
    /// `sizeof(vmstore_capabilities)`.
    pub struct_size: usize,
    /// 1 when the kernel tracker works here: it was tried, not guessed from a version.
    pub kernel_tracker: u32,
    /// The tracker that `VMSTORE_TRACKER_AUTO` chooses.
    pub auto_tracker: u32,
    /// Why, in words; NUL-terminated.
    pub tracker_reason: [c_char; 160],
    /// The host's page size in bytes.
    pub page_size: u64,
    /// The file system's name or, where unknown, its magic number; "" when no directory was
    /// given.
    pub file_system: [c_char; 32],
    /// Bytes free for this user on it.
    pub free_bytes: u64,
    /// 1 when reserved blocks are honoured there, so that `VMSTORE_MAP_SHARED` cannot meet a full
    /// disk.
    pub shared_is_safe: u32,
    /// 1 when there is a store in the directory.
    pub is_store: u32,
    /// 1 when memfds can be made and sealed, for `VMSTORE_MAP_MEMFD`.
    pub memfd: u32,
    /// 1 when the host has huge pages of 2 MiB, be they free or not.
    pub has_huge_2m: u32,
    /// How many huge pages of 2 MiB are free.
    pub free_huge_2m: u64,
    /// How many huge pages of 1 GiB are free.
    pub free_huge_1g: u64,
}
