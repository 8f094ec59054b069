//! Reading what commits hold without mapping it.

use std::ffi::{CString, c_char, c_int, c_void};

use super::convert;
use super::guard;
use super::types::{vmstore, vmstore_file_callback, vmstore_file_info};
use crate::Error;

/// Reads `length` bytes of a module from `offset` on, as they are at a commit, into `buffer`. Nothing is
/// mapped, and what is mapped is neither read nor changed; a read-only store will do. Every page is
/// checked against its checksum. Offset and length need not be whole pages; they must lie within the
/// module. On failure the buffer's contents are undefined; where an argument is refused it is not
/// touched.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit, or it does not
/// know the module), VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT,
/// VMSTORE_E_IO, VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_read(
    store: *const vmstore,
    commit: u64,
    module_id: *const c_char,
    offset: u64,
    buffer: *mut c_void,
    length: usize,
) -> c_int {
    guard("store_read", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let module = unsafe { convert::text("module_id", module_id) }?.to_string_lossy();
        // SAFETY: the caller passes room for `length` bytes, or NULL.
        let room = unsafe { convert::room("buffer", buffer.cast::<u8>(), length) }?;
        // Not before the range is known to be one: a wrong length says nothing of the room there is.
        let zero = || room.zero();
        store.read_data(
            commit,
            &module,
            (offset, length as u64),
            zero,
            |at, bytes| {
                room.put(at, bytes);
            },
        )
    })
}

/// Calls `callback` for each file that a commit needs: for each of its modules the module commit that
/// its map names, and then those below it, down to an image. Files that several commits need are told
/// for each of them. `commit` 0: the files of all commits, each once, ascending within its module; damaged
/// ones are left out. What a file takes on the disk is for stat(2) on `<module>_Commit<N>` to say.
/// The callback is made without any lock held.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit),
/// VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT, VMSTORE_E_IO,
/// VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_list_files(
    store: *const vmstore,
    commit: u64,
    callback: vmstore_file_callback,
    user_data: *mut c_void,
) -> c_int {
    guard("store_list_files", |at| {
        let store = at.store(store)?;
        let callback = callback.ok_or_else(|| Error::invalid("callback", "it must not be NULL"))?;
        for file in store.files(commit)? {
            let id = CString::new(file.module.as_str()).unwrap_or_default();
            let info = vmstore_file_info {
                struct_size: size_of::<vmstore_file_info>(),
                module_id: id.as_ptr(),
                module_commit: file.module_commit,
                parent: file.parent,
                module_size: file.module_size,
                length: file.length,
                data_pages: file.data_pages,
                zero_pages: file.zero_pages,
            };
            let _inside = store.entering_callback();
            // SAFETY: the callback is the caller's, made for exactly this; `info` and its string live
            // until it returns.
            if unsafe { callback(&raw const info, user_data) } != 0 {
                break;
            }
        }
        Ok(())
    })
}
