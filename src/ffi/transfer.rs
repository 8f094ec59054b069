//! Clones of a store, and commits as streams.

use std::ffi::{OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::convert::{self, In, Out};
use super::guard;
use super::types::{vmstore, vmstore_transfer_options};

/// Makes a second, independent store in `directory`, which must be new or empty, and not in the
/// directory of a store. `commit` 0 takes the whole history with its head; else the clone has that one
/// commit, as its head, with the number and unique id that it has here.
///
/// On one file system the files of the commits become second names (hard links) of the same data, so
/// that a clone costs a few microseconds for each file, however large. Both stores can commit,
/// delete and compact from then on without seeing one another: neither ever writes into a file that
/// has its name. Elsewhere the files are copied. The clone is durable when this returns; a store that
/// is not open read-only is persisted first, and a read-only one gives what is persisted.
///
/// Uncommitted writes are not cloned. The clone is not opened. The two have the same store id, so that
/// files can be shared; they are told apart by their directories alone. On failure there is no
/// store in `directory`.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit, or no directory
/// above `directory`), VMSTORE_E_EXISTS (something is in `directory`), VMSTORE_E_LOCKED,
/// VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT, VMSTORE_E_POISONED,
/// VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_IO, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
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

/// Writes commits to `fd`, a pipe, socket or file, as a stream for store_import: `to` and all it was made
/// on, back to `from`, which is not among them and must be one of those. `from` 0: all the way. The
/// importing store must have `from`.
///
/// That is one line of the history. A tree is sent as several streams: one line from 0 to the end of a
/// branch, and then each other branch from the commit where it left what was sent already. What the
/// importing store has it leaves as it is, so that a stream may also overlap what was sent.
///
/// Each commit costs its changed pages, wherever they are stored here. Every page is checked before it
/// is written, and the stream carries checksums, numbers and links, so that whatever is cut, changed
/// or put in another order is refused by the importer. Nothing in this store changes. Commits and
/// persists of other threads go on; deletions and compactions wait until the stream is written.
/// `fd` stays open. The call waits for the reader, also where `fd` is non-blocking; a pipe whose reading
/// end is closed is VMSTORE_E_IO with EPIPE, and no signal. On failure
/// an incomplete stream may have been written.
///
/// Errors: VMSTORE_E_INVALID (also: `to` was not made on `from`, or `fd` is not open),
/// VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND, VMSTORE_E_STALE (read-only, and the writer has gone on),
/// VMSTORE_E_CORRUPT, VMSTORE_E_IO, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY,
/// VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub extern "C" fn store_export(store: *const vmstore, from: u64, to: u64, fd: c_int) -> c_int {
    guard("store_export", |at| at.store(store)?.export(from, to, fd))
}

/// As store_export, with a progress callback. What it cancels is VMSTORE_E_CANCELLED, and an incomplete
/// stream may have been written, which the importer refuses.
///
/// `options` may be NULL. Errors: as store_export; VMSTORE_E_CANCELLED.
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

/// Reads a stream of store_export from `fd` and makes its commits part of this history, with their
/// unique ids, times, labels, user data and bytes, under new numbers. Writes the number here of the
/// stream's last commit to `*commit`. A commit that is here already, by its unique id, stays as it is;
/// if that is true of all, nothing changes.
///
/// All or nothing: the stream is read to its end and checked first, down to the digest of every
/// module, and then all its commits appear at once. They survive the death of the process then, and a
/// power cut after the next store_persist. Head and memory are not touched; in a store without
/// commits, which may have no mapped modules then, the last imported one becomes the head.
/// `fd` stays open, and nothing behind the stream is read. The call waits for the stream, also where
/// `fd` is non-blocking.
///
/// Commits and captures of other threads go on until the last step, which is quick; while a capture
/// is outstanding then, the call fails with VMSTORE_E_BUSY and nothing was imported. Whether a stream
/// can be trusted is the caller's question: checksums find accidents, not forgers.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_CORRUPT (the stream is cut, changed or out of
/// order, or a file of this store is), VMSTORE_E_VERSION, VMSTORE_E_NOT_FOUND (the commit that the
/// stream goes on from is not here), VMSTORE_E_UNSUPPORTED (another page size), VMSTORE_E_BUSY,
/// VMSTORE_E_READ_ONLY, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_IO,
/// VMSTORE_E_FORKED.
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

/// As store_import, with a progress callback. What it cancels is VMSTORE_E_CANCELLED, and nothing was
/// imported; a part of the stream has been read.
///
/// `options` may be NULL. Errors: as store_import; VMSTORE_E_CANCELLED.
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
