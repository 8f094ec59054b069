//! Reporting writes that no tracker sees and memory that the guest gave back, and finding what was
//! missed.

use std::ffi::c_int;

use super::call::guard;
use super::convert::{self, Out};
use super::handle::{vmstore, vmstore_module};

/// Reports writes to `length` bytes from `offset` of a module, with any tracker. The range is
/// rounded outward to whole pages. `length` 0 within the module does nothing. Reporting a page
/// that did not change costs time only.
///
/// Write first, then mark; do both before the capture that has to contain the write. Any thread
/// may call this at any time, also during a commit or persist of the store: it never waits and
/// makes no system call.
///
/// Errors: VMSTORE_E_INVALID (the range ends beyond the module).
#[unsafe(no_mangle)]
pub extern "C" fn store_mark_dirty(module: *mut vmstore_module, offset: u64, length: u64) -> c_int {
    guard("store_mark_dirty", |at| {
        at.module(module)?.mark_dirty(offset, length)
    })
}

/// Reports the pages whose bits are set in a bitmap, with any tracker. KVM_GET_DIRTY_LOG, vhost
/// logs and VFIO logs give such bitmaps. For entries of KVM's dirty ring use store_mark_dirty.
///
/// `offset`, in bytes, page-aligned, is the place of the bitmap's first page in the module. Page
/// `i` is bit `i % 64` of word `i / 64`, in the host's byte order. Bits from `page_count` on are
/// ignored. The pages of the log must have the host's page size. The log must be taken after the
/// writes: get the log, then import it, then capture. Never waits, and makes no system call.
///
/// Errors: VMSTORE_E_INVALID (NULL, alignment, the range ends beyond the module).
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

/// Gives memory of the guest back to the host, as a balloon or free page reporting does. The
/// range reads as zeros from now on, takes no memory until it is written again, and is dirty.
/// `offset` and `length` are in bytes, page-aligned. The guest may run, but must not use the
/// range. Waits for no other call except a scan of the same module. Works also in a read-only
/// store and beside a capture.
///
/// In shared modes the range becomes a hole of the file, which all mappings of the file see.
/// Blocks of a backing file stay reserved where the file system can do that (ext4, XFS): the
/// guest can have the memory back on a full disk. On tmpfs the memory may not be available again
/// later. In private mode, anonymous memory replaces pages that came from an image: their madvise
/// and NUMA settings are lost, and beyond 1,024 such parts the range is zeroed in place instead.
/// Locked memory, and private file mappings in adopted memory, are zeroed in place. Do not
/// discard pages that a device has pinned (VFIO, io_uring).
///
/// Errors: VMSTORE_E_INVALID (alignment, the range ends beyond the module), VMSTORE_E_NO_MEMORY,
/// VMSTORE_E_IO.
#[unsafe(no_mangle)]
pub extern "C" fn store_discard(module: *mut vmstore_module, offset: u64, length: u64) -> c_int {
    guard("store_discard", |at| {
        at.module(module)?.discard(offset, length)
    })
}

/// Finds what tracking missed. Compares all memory of all mapped modules with the head, and
/// writes into `*missed_pages` the number of pages that differ and that neither a tracker nor the
/// caller reported. These pages are dirty from now on: the next commit is exact. The log names
/// them.
///
/// Use it in the tests of a VMM, where the result must be 0, and when you suspect a missed write.
/// Pause every writer first. Modules that are compared (see `compared` in vmstore_module_info)
/// are left out, because their next capture finds everything. A page of the head that cannot be
/// read ends the call with VMSTORE_E_CORRUPT, and the text names the page. The call reads all
/// memory: about a second for 2 GiB. It changes nothing else in the state of tracking.
///
/// Errors: of reading; VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_POISONED.
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
