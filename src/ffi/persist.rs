//! Persist and restore.

use std::ffi::{c_int, c_void};

use super::call::guard;
use super::convert::{self, In};
use super::handle::vmstore;
use super::status::vmstore_progress_callback;

/// Options of store_persist.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_persist_options {
    /// `sizeof(vmstore_persist_options)`.
    pub struct_size: usize,
    /// Called before and between files with bytes made durable and bytes to make durable. May be
    /// NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_persist_options {}

/// Options of store_restore.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_restore_options {
    /// `sizeof(vmstore_restore_options)`.
    pub struct_size: usize,
    /// Called while pages are read and verified, before memory is touched. May be NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_restore_options {}

/// Makes every commit so far survive the loss of power.
///
/// After VMSTORE_OK, all commits that had returned before the call are durable. Of the commits
/// made after that, a power cut keeps the oldest few, whole and without a gap, or none. The guest
/// need not be paused, and other threads may capture and commit meanwhile. store_close does not
/// persist.
///
/// Costs one flush if at most 256 KiB of pages are new (these pages are written twice then), else
/// a few flushes. Costs nothing if nothing is new.
///
/// If a flush fails, the store is poisoned (VMSTORE_E_POISONED): the kernel may have dropped data
/// that it could not write, and a second flush would report a false success. What was persisted
/// before is safe. Opening the store again recovers what can be recovered. A cancelled persist
/// may be repeated.
///
/// `options` may be NULL.
///
/// Errors: of writing; VMSTORE_E_CORRUPT (a file that a killed owner left is damaged),
/// VMSTORE_E_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_persist(
    store: *mut vmstore,
    options: *const vmstore_persist_options,
) -> c_int {
    guard("store_persist", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_persist_options", options) }?;
        let mut progress = convert::progress(options.progress, options.user_data);
        store.persist(progress.as_mut().map(|p| p as _))
    })
}

/// Brings every mapped module to the bytes that it had at `commit`, in place, and makes that
/// commit the head.
///
/// Pause every writer first. Addresses, KVM slots, registrations and the pages behind shared
/// descriptors stay, because the call copies bytes in. The cost depends on the pages that differ
/// between the head and `commit`, or were written since. Each of these pages is checked against
/// its checksum before the first byte of memory changes. Other pages are not read.
///
/// Known writes since the last commit are undone. A write that the tracker cannot see, and that
/// you did not mark, stays in memory. A module that `commit` does not know becomes zeros. A
/// module that is not mapped now comes up at `commit` when it is mapped: a fresh process may
/// restore first and map then, or map first. Commits after `commit` stay in the history and can
/// be restored; the next commit becomes a child of `commit`. Restoring the head itself undoes all
/// known writes since. Like a commit, the new head survives the death of the process.
///
/// If your VMM writes its BIOS, tables or kernel into memory after mapping, restore once more
/// just before the vCPUs start (chapter 6).
///
/// On failure memory, head and the knowledge of dirty pages are as before the call. `options` may
/// be NULL.
///
/// Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit), VMSTORE_E_SIZE (a mapped module is
/// larger at `commit`: grow it, then restore), VMSTORE_E_BUSY (a capture is outstanding),
/// VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_restore(
    store: *mut vmstore,
    commit: u64,
    options: *const vmstore_restore_options,
) -> c_int {
    guard("store_restore", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_restore_options", options) }?;
        let mut progress = convert::progress(options.progress, options.user_data);
        store.restore(commit, progress.as_mut().map(|p| p as _))
    })
}
