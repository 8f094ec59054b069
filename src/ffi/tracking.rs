//! Telling of writes that no tracker sees, of memory that the guest gave back, and finding out what was
//! missed.

use std::ffi::c_int;

use super::convert::{self, In, Out};
use super::guard;
use super::types::{vmstore, vmstore_module, vmstore_precopy_options};
use crate::PrecopyOptions;

/// Reports writes to `length` bytes from `offset` of a module, whichever tracker it has.
/// Rounded outward to whole pages; `length` 0 within the module does nothing. Reporting a page that
/// did not change costs time only.
///
/// Write first, then mark, both before the capture that is to have them. Any thread may call it
/// at any time, also while a commit or persist of the store runs: it does not wait for them and
/// makes no system call.
///
/// Errors: VMSTORE_E_HANDLE, VMSTORE_E_INVALID (the range ends beyond the module),
/// VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub extern "C" fn store_mark_dirty(module: *mut vmstore_module, offset: u64, length: u64) -> c_int {
    guard("store_mark_dirty", |at| {
        at.module(module)?.mark_dirty(offset, length)
    })
}

/// Reports the pages whose bits are set in a bitmap: what KVM_GET_DIRTY_LOG, a vhost or a VFIO log gives,
/// whichever tracker the module has. Entries of KVM's dirty ring are reported with store_mark_dirty.
///
/// `offset`, in bytes, page-aligned, is where the first page of the bitmap is in the module. Page
/// `i` is bit `i % 64` of word `i / 64`, in the host's byte order; bits from `page_count` on are
/// ignored. The log must have the host's pages, and must have been taken after the writes that it tells
/// of: get the log, then import it, then capture. Never waits, and makes no system call.
///
/// Errors: VMSTORE_E_HANDLE, VMSTORE_E_INVALID (NULL, alignment, the range ends beyond the module),
/// VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_import_dirty_bitmap(
    module: *mut vmstore_module,
    offset: u64,
    bitmap: *const u64,
    page_count: u64,
) -> c_int {
    guard("store_import_dirty_bitmap", |at| {
        let module = at.module(module)?;
        // SAFETY: the caller passes a bitmap of `page_count` bits, or NULL.
        let words = unsafe { convert::words("bitmap", bitmap, page_count.div_ceil(64)) }?;
        module.import_dirty_bitmap(offset, page_count, words)
    })
}

/// Gives memory of the guest's back to the host, as a balloon or free page reporting does: the range
/// reads as zeros from now on, takes no memory until it is written again, and is dirty. `offset` and
/// `length` are in bytes, page-aligned. The guest may run, but must not use the range. Waits for no other
/// call but a scan of the same module; works in a read-only store and beside a capture, too.
///
/// In shared modes the range becomes a hole of the file, which all its mappings see; blocks of a
/// backing file stay reserved where the file system can (ext4, XFS), so that the guest can have the
/// memory back on a full disk; on tmpfs, memory that was given back may not be there again. In private
/// mode, pages that came from an image are replaced by anonymous memory: madvise and NUMA settings of
/// that range are gone, and beyond 1,024 parts it is zeroed in place instead. Memory that is locked,
/// and private file mappings in adopted memory, are zeroed in place. Pages that a device has pinned
/// (VFIO, io_uring) must not be discarded.
///
/// Errors: VMSTORE_E_HANDLE, VMSTORE_E_INVALID (alignment, the range ends beyond the module),
/// VMSTORE_E_BUSY (from inside a callback), VMSTORE_E_NO_MEMORY, VMSTORE_E_IO, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub extern "C" fn store_discard(module: *mut vmstore_module, offset: u64, length: u64) -> c_int {
    guard("store_discard", |at| {
        at.module(module)?.discard(offset, length)
    })
}

/// Finds out what tracking missed: compares all memory of all mapped modules with the head, and
/// writes into `*missed_pages` how many pages differ from it that neither a tracker nor the caller
/// reported. They are dirty from now on, so that the next commit is exact; the log names them.
///
/// For tests of a VMM, and for doubt: 0 is what it should be. Modules that are compared (see `compared` in
/// vmstore_module_info) are left out: their next capture finds everything. A page of the head that cannot be
/// read ends it with VMSTORE_E_CORRUPT, which names it. The caller has paused every writer. Reads
/// everything, so it takes about a second for 2 GiB; the state of tracking stays as it is otherwise.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY (a capture is outstanding),
/// VMSTORE_E_POISONED, VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT,
/// VMSTORE_E_IO, VMSTORE_E_NO_MEMORY, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_audit(store: *mut vmstore, missed_pages: *mut u64) -> c_int {
    guard("store_audit", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let missed = unsafe { Out::new("missed_pages", missed_pages) }?;
        missed.write(store.audit()?);
        Ok(())
    })
}

/// Does most of the next capture's copying while the guest runs, as live migration does: copies what
/// was written since the last commit, then what was written meanwhile, and so on, until little is
/// left. A capture that follows copies only what was written since the last round.
///
/// `*pages_left` is how many pages that would be now. Call it as often as you like; pause the guest and
/// capture when the number is small enough. What was copied is kept in the library's memory (at most
/// three quarters of `arena_limit`) until the next capture takes it; a restore, an unmap or an audit
/// gives it up, and nothing is lost. Modules that are compared (see `compared` in vmstore_module_info)
/// are left out. Calls of other threads on this store wait, store_mark_dirty and its like excepted.
///
/// With VMSTORE_TRACKER_CALLER: write first, then mark; a mark that comes before its write may be
/// used up by a round that copies the old bytes.
///
/// `options` may be NULL. Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY (a capture is
/// outstanding), VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_CANCELLED, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_precopy(
    store: *mut vmstore,
    options: *const vmstore_precopy_options,
    pages_left: *mut u64,
) -> c_int {
    guard("store_precopy", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_precopy_options", options) }?;
        convert::zero("vmstore_precopy_options.reserved", options.reserved)?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let left = unsafe { Out::new("pages_left", pages_left) }?;
        let mut progress = convert::progress(options.progress, options.user_data);
        let rounds = PrecopyOptions {
            target_pages: options.target_pages,
            max_rounds: options.max_rounds,
        };
        left.write(store.precopy(&rounds, progress.as_mut().map(|p| p as _))?);
        Ok(())
    })
}
