//! Clones of a store.

use std::ffi::{OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::convert;
use super::guard;
use super::types::vmstore;

/// Makes a second, independent store in `directory`, which must be new or empty. `commit` 0 takes the
/// whole history with its head; else the clone has that one commit, as its head, with the number and
/// unique id that it has here.
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
/// VMSTORE_E_CORRUPT, VMSTORE_E_POISONED, VMSTORE_E_NO_SPACE, VMSTORE_E_NO_MEMORY, VMSTORE_E_IO,
/// VMSTORE_E_BUSY, VMSTORE_E_FORKED.
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
        store.clone_to(commit, Path::new(OsStr::from_bytes(directory.to_bytes())))
    })
}
