//! Looking at the history, and verifying it.

use std::ffi::{CString, c_int, c_void};

use super::convert::{self, In, Out};
use super::guard;
use super::types::{
    VMSTORE_VERIFY_METADATA, vmstore, vmstore_commit_info, vmstore_module_callback,
    vmstore_module_info, vmstore_verify_options,
};
use crate::{Error, VerifyOptions};

/// The head: the commit that memory was last brought to, by a commit or a restore. 0: there is no
/// commit yet.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_head(store: *const vmstore, commit: *mut u64) -> c_int {
    guard("store_head", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a place for a 64-bit number.
        let commit = unsafe { Out::new("commit", commit) }?;
        commit.write(store.head()?);
        Ok(())
    })
}

/// Writes the numbers of the store's commits, ascending, into `commits`, as many as fit into
/// `capacity`, and how many there are in all into `*count`. `commits` may be NULL when `capacity`
/// is 0.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_BUSY, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_list_commits(
    store: *const vmstore,
    commits: *mut u64,
    capacity: usize,
    count: *mut usize,
) -> c_int {
    guard("store_list_commits", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes room for `capacity` numbers, or NULL.
        let room = unsafe { convert::room("commits", commits, capacity) }?;
        // SAFETY: the caller passes NULL or a place for a size.
        let count = unsafe { Out::new("count", count) }?;
        let all = store.commits()?;
        room.write(&all);
        count.write(all.len());
        Ok(())
    })
}

/// Fills `info` with what is known of one commit. Set `info->struct_size` first and zero the
/// rest.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND, VMSTORE_E_BUSY,
/// VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_commit_info(
    store: *const vmstore,
    commit: u64,
    info: *mut vmstore_commit_info,
) -> c_int {
    guard("store_commit_info", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        unsafe {
            convert::fill("vmstore_commit_info", info, || {
                Ok(vmstore_commit_info::from(store.commit_info(commit)?))
            })
        }
    })
}

/// Copies the user data of a commit into `buffer`, as much as fits into `capacity`, and writes
/// its whole length to `*length`. `buffer` may be NULL when `capacity` is 0.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND, VMSTORE_E_BUSY,
/// VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_commit_user_data(
    store: *const vmstore,
    commit: u64,
    buffer: *mut c_void,
    capacity: usize,
    length: *mut usize,
) -> c_int {
    guard("store_commit_user_data", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes room for `capacity` bytes, or NULL.
        let room = unsafe { convert::room("buffer", buffer.cast::<u8>(), capacity) }?;
        // SAFETY: the caller passes NULL or a place for a size.
        let length = unsafe { Out::new("length", length) }?;
        let data = store.commit_info(commit)?.user_data;
        room.write(&data);
        length.write(data.len());
        Ok(())
    })
}

/// Calls `callback` for each module of a commit, in order of their ids. `commit` 0 lists the
/// modules of the head and those that are mapped but in no commit yet, with where and how they
/// are mapped.
///
/// The callback is made without any lock held, but calls into the same store from inside it fail
/// with VMSTORE_E_BUSY, like those from every callback.
///
/// Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND, VMSTORE_E_BUSY,
/// VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_list_modules(
    store: *const vmstore,
    commit: u64,
    callback: vmstore_module_callback,
    user_data: *mut c_void,
) -> c_int {
    guard("store_list_modules", |at| {
        let store = at.store(store)?;
        let callback = callback.ok_or_else(|| Error::invalid("callback", "it must not be NULL"))?;
        for module in store.modules(commit)? {
            let id = CString::new(module.id.as_str()).unwrap_or_default();
            let tracker = CString::new(module.tracker_reason.as_str()).unwrap_or_default();
            let mode = CString::new(module.mode_reason.as_str()).unwrap_or_default();
            let info = vmstore_module_info::describe(&module, &id, &tracker, &mode);
            let _inside = store.entering_callback();
            // SAFETY: the callback is the caller's, made for exactly this; `info` and its strings
            // live until it returns.
            if unsafe { callback(&raw const info, user_data) } != 0 {
                break;
            }
        }
        Ok(())
    })
}

/// Verifies one commit, or the whole store: `commits` and journal, every file's footer and index,
/// and, unless told not to, every page against its checksum and every module against its digest.
///
/// Reads files only; mapped memory is neither read nor changed. The first damage found ends it
/// with VMSTORE_E_CORRUPT, and the text of store_last_error names file, commit and page. With a
/// `finding` callback it goes on, tells of every damaged file and page, also of files that cannot be
/// read, and of each commit whether it is good all the same; if there was damage, it then fails with
/// the status of the first. In a store that is open read-only, a file that the writer has deleted or
/// rewritten since counts as damaged: open it again, and verify again.
///
/// `options` may be NULL. Errors: VMSTORE_E_INVALID, VMSTORE_E_HANDLE, VMSTORE_E_NOT_FOUND (no
/// such commit), VMSTORE_E_CORRUPT, VMSTORE_E_IO, VMSTORE_E_NO_MEMORY, VMSTORE_E_BUSY,
/// VMSTORE_E_CANCELLED, VMSTORE_E_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn store_verify(
    store: *const vmstore,
    options: *const vmstore_verify_options,
) -> c_int {
    guard("store_verify", |at| {
        let store = at.store(store)?;
        // SAFETY: the caller passes NULL or a struct that begins with its size.
        let options = unsafe { In::read("vmstore_verify_options", options) }?;
        convert::flags(
            "vmstore_verify_options.flags",
            options.flags,
            VMSTORE_VERIFY_METADATA,
        )?;
        convert::zero("vmstore_verify_options.reserved", options.reserved)?;
        let mut progress = convert::progress(options.progress, options.user_data);
        let mut finding = convert::finding(options.finding, options.user_data);
        store.verify_all(
            &VerifyOptions {
                metadata_only: options.flags & VMSTORE_VERIFY_METADATA != 0,
                commit: options.commit,
            },
            finding.as_mut().map(|finding| finding as _),
            progress.as_mut().map(|p| p as _),
        )
    })
}
