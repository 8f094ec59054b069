//! Clones of a store, and commits as streams.

use std::ffi::{OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::call::guard;
use super::convert::{self, In, Out};
use super::handle::vmstore;
use super::status::vmstore_progress_callback;

/// Options of store_export_with and store_import_with.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_transfer_options {
    /// `sizeof(vmstore_transfer_options)`.
    pub struct_size: usize,
    /// Called between pieces of the stream with bytes of pages done and an upper bound of the
    /// bytes of pages to do. May be NULL.
    pub progress: vmstore_progress_callback,
    /// Passed to `progress`.
    pub user_data: *mut c_void,
}

// SAFETY: repr(C), struct_size first; integers, raw pointers and nullable function pointers.
unsafe impl In for vmstore_transfer_options {}

/// Makes a second, independent store in `directory`. The directory must be new or empty, and must
/// not lie in the directory of a store. `commit` 0 clones the whole history with its head.
/// Otherwise the clone has that one commit, as its head, with the number and unique id that it
/// has here.
///
/// On one file system the files of the clone are second names (hard links) of the same data: a
/// clone costs a few microseconds for each file, however large. On another file system the files
/// are copied. Afterwards both stores can commit, delete and compact, and neither affects the
/// other: no store ever writes into a module commit file that has got its name. The clone is
/// durable when the call returns. A store that is open for writing is persisted first. A
/// read-only store clones what is persisted.
///
/// Uncommitted writes are not cloned. The clone is not opened. Both stores have the same store
/// id, which lets them share files; only their directories tell them apart. On failure there is
/// no store in `directory`.
///
/// Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit; no parent of `directory`),
/// VMSTORE_E_EXISTS (something is in `directory`), VMSTORE_E_LOCKED, VMSTORE_E_POISONED,
/// VMSTORE_E_NO_SPACE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_clone(
    store: *const vmstore,
    commit: u64,
    directory: *const c_char,
) -> c_int {
    guard("store_clone", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let directory = unsafe { convert::text("directory", directory) }?;
        at.into = Some(directory.to_string_lossy().into_owned());
        store.clone_to(commit, Path::new(OsStr::from_bytes(directory.to_bytes())))
    })
}

/// Writes commits to `fd`, a pipe, socket or file, as a stream for store_import: `to`, and the
/// commits on which it was made, back to `from`. `from` itself is not in the stream, must be an
/// ancestor of `to`, and must be in the importing store. `from` 0: all ancestors.
///
/// A stream holds one line of the history. Send a tree as several streams: first one line from 0
/// to the end of a branch, then each other branch from the commit where it leaves what was sent
/// already. The importing store leaves commits that it has unchanged; streams may overlap.
///
/// Each commit costs its changed pages, wherever they are stored. Every page is checked before it
/// is written. The stream carries checksums, numbers and links: the importer refuses a stream
/// that is cut, changed or reordered. Nothing in this store changes. Commits and persists of
/// other threads go on. Deletions and compactions wait until the stream is written. `fd` stays
/// open. The call waits for the reader, even if `fd` is non-blocking. A pipe whose reading end is
/// closed is VMSTORE_E_IO with EPIPE, without a signal. On failure an incomplete stream may have
/// been written.
///
/// Errors: of reading; VMSTORE_E_INVALID (also: `from` is no ancestor of `to`; `fd` is not open),
/// VMSTORE_E_NOT_FOUND (no such commit), VMSTORE_E_NO_SPACE.
#[unsafe(no_mangle)]
pub extern "C" fn store_export(store: *const vmstore, from: u64, to: u64, fd: c_int) -> c_int {
    guard("store_export", |at| at.store(store)?.export(from, to, fd))
}

/// Like store_export, with a progress callback. A cancellation may leave an incomplete stream,
/// which the importer refuses. `options` may be NULL.
///
/// Errors: as store_export; VMSTORE_E_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_export_with(
    store: *const vmstore,
    from: u64,
    to: u64,
    fd: c_int,
    options: *const vmstore_transfer_options,
) -> c_int {
    guard("store_export_with", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_transfer_options", options) }?;
        let mut progress = convert::progress(options.progress, options.user_data);
        store.export_with(from, to, fd, progress.as_mut().map(|p| p as _))
    })
}

/// Reads a stream of store_export from `fd` and adds its commits to this history, with their
/// unique ids, times, labels, user data and bytes, under new numbers. Writes the number that the
/// stream's last commit has here to `*commit`. A commit that is here already, by its unique id,
/// stays as it is. If all are here already, nothing changes.
///
/// All or nothing: the stream is first read to its end and checked, down to the digest of every
/// module. Then all its commits appear at once. They survive the death of the process then, and a
/// power cut after the next store_persist. Head and memory are not touched, with one exception:
/// in a store without commits, the last imported commit becomes the head. Such a store must have
/// no mapped modules. `fd` stays open, and nothing behind the stream is read. The call waits for
/// the stream, even if `fd` is non-blocking.
///
/// Commits and captures of other threads go on until the last step, which is quick. If a capture
/// is outstanding at that step, the call fails with VMSTORE_E_BUSY and nothing was imported.
/// Checksums find accidents, not forgeries: import only from a source that you trust.
///
/// Errors: of writing; VMSTORE_E_CORRUPT (the stream is cut, changed or out of order; a file of
/// this store is damaged), VMSTORE_E_VERSION, VMSTORE_E_NOT_FOUND (the commit on which the stream
/// builds is not here), VMSTORE_E_UNSUPPORTED (another page size), VMSTORE_E_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_import(store: *mut vmstore, fd: c_int, commit: *mut u64) -> c_int {
    guard("store_import", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let commit = unsafe { Out::new("commit", commit) }?;
        commit.write(store.import(fd)?);
        Ok(())
    })
}

/// Like store_import, with a progress callback. After a cancellation nothing is imported, and a
/// part of the stream has been read. `options` may be NULL.
///
/// Errors: as store_import; VMSTORE_E_CANCELLED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_import_with(
    store: *mut vmstore,
    fd: c_int,
    options: *const vmstore_transfer_options,
    commit: *mut u64,
) -> c_int {
    guard("store_import_with", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_transfer_options", options) }?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let commit = unsafe { Out::new("commit", commit) }?;
        let mut progress = convert::progress(options.progress, options.user_data);
        commit.write(store.import_with(fd, progress.as_mut().map(|p| p as _))?);
        Ok(())
    })
}
