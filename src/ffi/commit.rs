//! Commit, capture and precopy.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use super::call::guard;
use super::convert::{self, In, Out};
use super::handle::{self, Object, vmstore, vmstore_capture};
use super::status::vmstore_progress_callback;
use crate::{CommitOptions, Error, PrecopyOptions, Result};

/// Options of store_commit and store_capture.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_commit_options {
    /// `sizeof(vmstore_commit_options)`.
    pub struct_size: usize,
    /// A name for people: UTF-8, at most 255 bytes, no control characters. NULL or "": none.
    /// Copied.
    pub label: *const c_char,
    /// Bytes of your own, kept with the commit, at most 16 MiB. NULL: none. Copied.
    pub user_data: *const c_void,
    /// The length of `user_data` in bytes. 0 when `user_data` is NULL.
    pub user_data_length: usize,
    /// Threads that may help to copy in a capture of 4,096 pages or more, at most 15. 0, the
    /// default: none. The threads are made within the call and end within it, with all signals
    /// blocked. If the host refuses to make them, the capture goes on without them. They need
    /// processors of their own, and room for all the pages in the arena.
    pub helpers: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_commit_options {}

/// Options of store_precopy.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_precopy_options {
    /// `sizeof(vmstore_precopy_options)`.
    pub struct_size: usize,
    /// Stop when a round leaves at most this many pages to copy. 0 takes the default, 1024.
    pub target_pages: u64,
    /// The most rounds. 0 takes the default, 16. The call also stops when a round leaves as many
    /// pages as the round before, or more.
    pub max_rounds: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Called before each round and at the end with bytes copied and bytes known to be written.
    /// May be NULL. After a cancellation the pages that were copied stay copied.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_precopy_options {}

/// Makes a commit: an atomic snapshot of all modules.
///
/// Pause every writer of the modules for the whole call, or use store_capture for a shorter
/// pause. The commit holds every mapped module as it is now, and every other module of the head
/// unchanged. Its parent is the head, and the commit becomes the head. The cost depends on what
/// was written since the last commit. After VMSTORE_OK the commit survives the death of the
/// process. It survives a power cut after the next store_persist.
///
/// Commit numbers ascend. A number is used again only if a power cut took its commit, which was
/// not persisted then. Use the numbers to order commits, not their times.
///
/// No commit is made, and `*commit` is the head, if nothing changed since the head, no module is
/// new, and `options` give neither label nor user data. Compare with store_head before the call
/// to detect this. Writing bytes that were there before is no change. The first commit of a store
/// is always made.
///
/// On failure there is no new commit, and the next commit takes everything that this one would
/// have taken. `options` may be NULL; `commit` may not.
///
/// Errors: of writing; VMSTORE_E_INVALID (also: something was mapped over a module),
/// VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_CORRUPT (a module commit of the head is
/// damaged).
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
        let options = unsafe { core_options(&options) }?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let commit = unsafe { Out::new("commit", commit) }?;
        commit.write(store.commit(&options)?);
        Ok(())
    })
}

/// The first half of a commit, and the only half that needs a paused guest. Finds the written
/// pages and copies them into memory of the library. When this returns, let the guest run, and
/// call store_capture_commit from any thread.
///
/// There is one capture at a time. It is outstanding until store_capture_commit or
/// store_capture_cancel has returned. Meanwhile capture, commit, precopy, restore, audit, map,
/// grow and unmap fail at once with VMSTORE_E_BUSY, and so does the last step of an import. All
/// other calls work. store_persist and store_verify of other threads delay a capture only for
/// short moments, not while they wait for the disk.
///
/// On failure nothing is lost: the pages are still known to be dirty. The first captures of many
/// pages are slower than later ones, because the library touches its memory for the first time.
/// `options` may be NULL; its label and user data are copied.
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
        let options = unsafe { core_options(&options) }?;
        // SAFETY: the caller passes NULL or a place for a pointer.
        let capture = unsafe { Out::new("capture", capture) }?;
        let taken = store.capture(&options)?;
        let handle = handle::insert(Object::Capture(taken.clone()), &store);
        capture.write(handle.inspect_err(|_| drop(taken.cancel()))?.cast());
        Ok(())
    })
}

/// The second half of a commit: computes the checksums, writes what was captured, and makes the
/// commit. It gives the same promises as store_commit, and also makes no commit if nothing
/// changed. The guest may run meanwhile; what it writes belongs to the next commit.
///
/// The call ends the capture, whether it succeeds or fails. Only VMSTORE_E_INVALID,
/// VMSTORE_E_HANDLE, VMSTORE_E_FORKED and a call from inside a callback leave the capture as it
/// was. After a failure the captured pages are dirty again, beside the pages written since.
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

/// Gives a capture up. Its pages are dirty again, and the next commit takes them.
#[unsafe(no_mangle)]
pub extern "C" fn store_capture_cancel(capture: *mut vmstore_capture) -> c_int {
    guard("store_capture_cancel", |at| {
        let taken = at.capture(capture)?;
        taken.check_reentry()?;
        handle::remove(capture);
        taken.cancel()
    })
}

/// Does most of the copying of the next capture while the guest runs, as live migration does.
/// Copies what was written since the last commit, then what was written meanwhile, and so on,
/// until little is left. The next capture copies only what was written since the last round.
///
/// `*pages_left` is the number of pages that a capture would have to copy now. Call store_precopy
/// as often as you like. Pause the guest and capture when the number is small enough. The copies
/// stay in memory of the library (at most three quarters of `arena_limit`) until the next capture
/// takes them. A restore, an unmap or an audit drops the copies, and no write is lost. Modules
/// that are compared (see `compared` in vmstore_module_info) are left out. Calls of other threads
/// on this store wait, except those that never wait, like store_mark_dirty.
///
/// With VMSTORE_TRACKER_CALLER: write first, then mark. If the mark comes before the write, a
/// round may use up the mark and copy the old bytes.
///
/// `options` may be NULL.
///
/// Errors: VMSTORE_E_BUSY (a capture is outstanding), VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED,
/// VMSTORE_E_CANCELLED.
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

/// # Safety
/// `label` is NULL or NUL-terminated; `user_data` has `user_data_length` readable bytes.
unsafe fn core_options(options: &vmstore_commit_options) -> Result<CommitOptions> {
    let label = if options.label.is_null() {
        String::new()
    } else {
        // SAFETY: not NULL, so NUL-terminated by this function's contract.
        let label = unsafe { convert::text("vmstore_commit_options.label", options.label) }?;
        label
            .to_str()
            .map_err(|_| Error::invalid("vmstore_commit_options.label", "it must be UTF-8"))?
            .to_owned()
    };
    convert::zero("vmstore_commit_options.reserved", options.reserved)?;
    let length = options.user_data_length;
    if options.user_data.is_null() && length != 0 {
        return Err(Error::invalid(
            "vmstore_commit_options.user_data",
            "it must not be NULL when user_data_length is not 0",
        ));
    }
    CommitOptions::check_user_data_length(length)?;
    let mut user_data = Vec::new();
    user_data
        .try_reserve_exact(length)
        .map_err(|_| Error::NoMemory {
            what: "a copy of user_data".into(),
        })?;
    if length != 0 {
        // SAFETY: `user_data` is not NULL and has `length` readable bytes, by this function's
        // contract.
        user_data.extend_from_slice(unsafe {
            std::slice::from_raw_parts(options.user_data.cast::<u8>(), length)
        });
    }
    Ok(CommitOptions {
        label,
        user_data: (length != 0).then(|| Arc::new(user_data)),
        helpers: options.helpers,
    })
}
