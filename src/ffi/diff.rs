//! What differs between commits, and commits by their labels.

use std::ffi::{CString, c_char, c_int, c_void};

use super::convert::{self, Out};
use super::guard;
use super::types::{vmstore, vmstore_range_callback};
use crate::Error;

/// Calls `callback` for each range of bytes that differs between two commits, module by module in the
/// order of their ids, ascending within one. The commits may be on different branches. 0
/// stands for a store without modules: with `from` 0, everything in `to` that is not zero is told.
///
/// Ranges are whole pages, and a page is told if and only if its bytes differ. What a commit does not
/// know of a module, and what is beyond its size there, is zeros. `module_id` NULL: all modules of
/// either commit. Costs the indexes on the path between the commits; pages are read only where
/// checksums are equal. The callback is made without any lock held.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no such commit, or neither knows
/// the module), VMSTORE_E_STALE (read-only, and the writer has gone on), VMSTORE_E_CORRUPT, VMSTORE_E_IO,
/// VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_diff(
    store: *const vmstore,
    from: u64,
    to: u64,
    module_id: *const c_char,
    callback: vmstore_range_callback,
    user_data: *mut c_void,
) -> c_int {
    guard("store_diff", |at| {
        let store = at.store(store)?;
        let callback = callback.ok_or_else(|| Error::invalid("callback", "it must not be NULL"))?;
        let module = if module_id.is_null() {
            None
        } else {
            // SAFETY: the caller passes a NUL-terminated string.
            let module = unsafe { convert::text("module_id", module_id) }?;
            Some(module.to_string_lossy())
        };
        let mut id = CString::default();
        for range in store.diff(from, to, module.as_deref())? {
            if id.as_bytes() != range.module.as_bytes() {
                id = CString::new(range.module).unwrap_or_default();
            }
            let _inside = store.entering_callback();
            // SAFETY: the callback is the caller's, made for exactly this; the id lives until it
            // returns.
            if unsafe { callback(id.as_ptr(), range.offset, range.length, user_data) } != 0 {
                break;
            }
        }
        Ok(())
    })
}

/// Finds the newest commit that has this label.
///
/// Errors: VMSTORE_E_INVALID (also: an empty label), VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (none
/// has), VMSTORE_E_BUSY, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_find_commit(
    store: *const vmstore,
    label: *const c_char,
    commit: *mut u64,
) -> c_int {
    guard("store_find_commit", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let label = unsafe { convert::text("label", label) }?;
        let label = label
            .to_str()
            .map_err(|_| Error::invalid("label", "it must be UTF-8"))?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let commit = unsafe { Out::new("commit", commit) }?;
        commit.write(store.find_commit(label)?);
        Ok(())
    })
}
