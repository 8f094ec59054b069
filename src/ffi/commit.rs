//! Commit, capture, persist and restore.

use std::ffi::c_int;

use super::convert::{self, In, Out};
use super::guard;
use super::handle::{self, Object};
use super::types::{
    vmstore, vmstore_capture, vmstore_commit_options, vmstore_persist_options,
    vmstore_restore_options,
};

/// Makes a commit: an atomic snapshot of all modules.
///
/// The caller has paused every writer of the modules, for the whole call (or uses store_capture
/// to pause for less). The commit holds every mapped module as it is now, and every other
/// module of the head unchanged. Its parent is the head, and it becomes the head. Costs what
/// was written since the last commit. When this returns VMSTORE_OK, the commit survives the
/// death of the process; it survives a power cut after the next store_persist. Numbers ascend
/// and are never reused (but for those that a power cut takes with commits that were not
/// persisted), and order commits better than their times do.
///
/// If nothing changed since the head, no module is new, and `options` give neither label nor
/// user data, no commit is made and `*commit` is the head; compare with store_head before the
/// call to know. Writing the bytes that were there before is no change. The first commit of a
/// store is always made.
///
/// On failure there is no new commit, and the next commit takes everything that this one would
/// have. `options` may be NULL; `commit` may not.
///
/// Errors: VMSTORE_E_INVALID (also: something was mapped over a module), VMSTORE_E_HANDLE,
/// VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED,
/// VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_IO, VMSTORE_E_CORRUPT (a module commit of
/// the head is damaged), VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_commit(
    store: *mut vmstore,
    options: *const vmstore_commit_options,
    commit: *mut u64,
) -> c_int {
    guard("store_commit", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_commit_options", options) }?;
        // SAFETY: the strings and bytes inside are as the struct's documentation demands.
        let options = unsafe { convert::commit_options(&options) }?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let commit = unsafe { Out::new("commit", commit) }?;
        commit.write(store.commit(&options)?);
        Ok(())
    })
}

/// The first half of a commit, the only one for which the guest must be paused: finds the
/// written pages and copies them into the library's memory. When this returns, let the guest
/// run, then call store_capture_commit, from any thread.
///
/// There is one capture at a time. While it is outstanding, which is until store_capture_commit
/// or store_capture_cancel has returned, capture, commit, precopy, restore, audit, map, grow and
/// unmap fail with VMSTORE_E_BUSY at once, and an import at its last step; all other calls work.
/// store_persist and store_verify of other threads delay a capture only for the moments in which
/// they hold the store, not while they wait for the disk.
///
/// On failure nothing is lost: the pages are still known to be dirty. The first captures of
/// many pages are slower than later ones, because the library's memory is touched for the first
/// time. `options` may be NULL; its label and user data are copied. `*capture` is written on
/// success only.
///
/// Errors: as store_commit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_capture(
    store: *mut vmstore,
    options: *const vmstore_commit_options,
    capture: *mut *mut vmstore_capture,
) -> c_int {
    guard("store_capture", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_commit_options", options) }?;
        // SAFETY: the strings and bytes inside are as the struct's documentation demands.
        let options = unsafe { convert::commit_options(&options) }?;
        // SAFETY: the caller passes NULL or a place for a pointer.
        let capture = unsafe { Out::new("capture", capture) }?;
        let taken = store.capture(&options)?;
        let handle = handle::insert(Object::Capture(taken.clone()), &store);
        capture.write(handle.inspect_err(|_| drop(taken.cancel()))?.cast());
        Ok(())
    })
}

/// The second half: checksums and writes what was captured, and makes the commit, with the
/// promises and the "nothing changed" rule of store_commit. The guest runs meanwhile; what it
/// writes belongs to the next commit.
///
/// Ends the capture, whether it succeeds or fails; only VMSTORE_E_INVALID, VMSTORE_E_HANDLE,
/// VMSTORE_E_FORKED and a call from inside a callback leave it as it was. After a failure the
/// captured pages are dirty again, beside those written since.
///
/// Errors: as store_commit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_capture_commit(
    capture: *mut vmstore_capture,
    commit: *mut u64,
) -> c_int {
    guard("store_capture_commit", |at| {
        let taken = at.capture(capture)?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let commit = unsafe { Out::new("commit", commit) }?;
        taken.check_reentry()?;
        handle::remove(capture);
        commit.write(taken.commit()?);
        Ok(())
    })
}

/// Gives a capture up: its pages are dirty again, and the next commit takes them.
///
/// Errors: VMSTORE_E_HANDLE, VMSTORE_E_BUSY (from inside a callback), VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub extern "C" fn store_capture_cancel(capture: *mut vmstore_capture) -> c_int {
    guard("store_capture_cancel", |at| {
        let taken = at.capture(capture)?;
        taken.check_reentry()?;
        handle::remove(capture);
        taken.cancel()
    })
}

/// Makes every commit so far survive the loss of power.
///
/// When this returns VMSTORE_OK, all commits that had returned before the call are durable. A
/// power cut at any other moment keeps, of the commits made since, the oldest few, whole and
/// without a hole, or none. Costs one flush where up to 256 KiB of pages are new (they are written twice then),
/// else a few; with nothing new it costs nothing. The guest
/// need not be paused, and other threads may capture and commit meanwhile. store_close does not
/// persist.
///
/// If a flush fails, the store is poisoned (VMSTORE_E_POISONED): the kernel may have dropped
/// data it could not write, and a second try would lie. What was persisted before is safe;
/// reopening recovers what can be. A cancelled persist may be repeated.
///
/// `options` may be NULL. Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY,
/// VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY,
/// VMSTORE_E_IO, VMSTORE_E_CORRUPT (a file that a killed owner left is damaged),
/// VMSTORE_E_CANCELLED, VMSTORE_E_FORKED.
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

/// Brings every mapped module to the bytes it had at `commit`, in place, and makes that commit
/// the head.
///
/// The caller has paused every writer. Addresses, KVM slots, registrations and the pages behind
/// shared descriptors stay: bytes are copied in. Costs the pages that differ between the head
/// and `commit` or were written since. Every page put back was checked against its checksum
/// before the first byte of memory was changed; pages that need not be put back are not read.
///
/// Writes since the last commit are dropped, as far as they are known: a write that the tracker
/// cannot see and that nobody marked stays in memory. A module that `commit` does not know
/// becomes zeros; one that is not mapped comes up at `commit` when it is mapped. So a fresh
/// process may restore first and map then, or map first. Commits after `commit` stay in the
/// history and can be restored; the next commit becomes its child. Restoring the head itself
/// undoes all known writes since. Survives the death of the process like a commit.
///
/// On failure memory, head and the knowledge of dirty pages are as before the call.
/// `options` may be NULL.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit),
/// VMSTORE_E_SIZE (a mapped module is larger there: grow it, then restore), VMSTORE_E_STALE (read-only,
/// and the writer has gone on: open the store again), VMSTORE_E_CORRUPT, VMSTORE_E_BUSY
/// (a capture is outstanding), VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY,
/// VMSTORE_E_IO, VMSTORE_E_CANCELLED, VMSTORE_E_FORKED.
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
