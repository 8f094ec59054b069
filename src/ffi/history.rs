//! Looking at the history, and reading what commits hold without mapping it.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use super::call::guard;
use super::convert::{self, Out};
use super::handle::vmstore;
use crate::{CommitInfo, Error, FileInfo, ModuleInfo};

/// The result of store_commit_info: what is known of one commit.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_commit_info {
    /// `sizeof(vmstore_commit_info)`.
    pub struct_size: usize,
    /// The number of the commit, from 1.
    pub commit: u64,
    /// The commit on which this one was made. If that commit was deleted: its nearest ancestor
    /// that is still there. 0: none.
    pub parent: u64,
    /// When the commit was made: nanoseconds since 1970-01-01 UTC by the host's wall clock.
    pub time: u64,
    /// A random number that no other commit of any store has.
    pub unique_id: [u8; 16],
    /// The label, NUL-terminated; empty: none.
    pub label: [c_char; 256],
    /// The length of the user data in bytes.
    pub user_data_length: u64,
    /// How many modules the commit holds.
    pub modules: u32,
    /// 1 when the commit survives a power cut (see store_persist), else 0.
    pub persisted: u32,
}

/// One module, as store_list_modules describes it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_module_info {
    /// `sizeof(vmstore_module_info)` of the library.
    pub struct_size: usize,
    /// The id of the module.
    pub module_id: *const c_char,
    /// The size in bytes.
    pub size: u64,
    /// The number of the module commit that holds the bytes: N in `<module>_Commit<N>`. It is
    /// lower than the commit's own number if the module did not change in the commit. 0: the
    /// module is mapped but is in no commit yet.
    pub module_commit: u64,
    /// A digest of the bytes: equal bytes have equal digests, in any commit (docs/format.md).
    pub digest: [u8; 16],
    /// Where the module is mapped; NULL: it is not mapped.
    pub address: *mut c_void,
    /// The mapping mode of a mapped module: VMSTORE_MAP_PRIVATE, _SHARED, _MEMFD or _ADOPT,
    /// without the flags. store_mode_name gives the name.
    pub mode: u32,
    /// The tracker of a mapped module: one of VMSTORE_TRACKER_..., never AUTO. store_tracker_name
    /// gives the name.
    pub tracker: u32,
    /// Why the module has this tracker; "" when it is not mapped.
    pub tracker_reason: *const c_char,
    /// Bytes of the mapping that come straight from an image file and were not verified when
    /// mapped.
    pub unverified_bytes: u64,
    /// How the bytes got into memory, in words: mapped from which image, copied and why, or
    /// adopted; "" when the module is not mapped.
    pub mode_reason: *const c_char,
    /// The size of the mapping. It is larger than `size` if the module grew since the head. 0
    /// when the module is not mapped.
    pub mapped_size: u64,
    /// 1 when VMSTORE_TRACKER_AUTO could not take the kernel tracker; `tracker_reason` says why.
    pub fell_back: u32,
    /// 1 when every capture compares the pages that were not reported: the tracker is
    /// VMSTORE_TRACKER_COMPARE, or VMSTORE_MAP_FOREIGN_WRITERS was given.
    pub compared: u32,
}

/// Receives one module of store_list_modules. The struct and its strings are valid during the
/// call only. A non-zero return ends the listing early; store_list_modules then returns
/// VMSTORE_OK.
pub type vmstore_module_callback =
    Option<unsafe extern "C" fn(info: *const vmstore_module_info, user_data: *mut c_void) -> c_int>;

/// One file that a commit needs, as store_list_files describes it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vmstore_file_info {
    /// `sizeof(vmstore_file_info)` of the library.
    pub struct_size: usize,
    /// The id of the module.
    pub module_id: *const c_char,
    /// The number of the module commit: N in the file's name, `<module>_Commit<N>`.
    pub module_commit: u64,
    /// The module commit below this one. 0: none; the file is an image and holds the whole
    /// module.
    pub parent: u64,
    /// The module's size at this module commit, in bytes.
    pub module_size: u64,
    /// The file's length in bytes. Zero pages of an image are holes.
    pub length: u64,
    /// Pages whose bytes are in the file.
    pub data_pages: u64,
    /// Pages that became zero, by the file's record. An image records no zero pages.
    pub zero_pages: u64,
}

/// Receives one file of store_list_files. The struct and its string are valid during the call
/// only. A non-zero return ends the listing early; store_list_files then returns VMSTORE_OK.
pub type vmstore_file_callback =
    Option<unsafe extern "C" fn(info: *const vmstore_file_info, user_data: *mut c_void) -> c_int>;

/// Receives one range of bytes of store_diff. The id is valid during the call only. A non-zero
/// return ends the listing early; store_diff then returns VMSTORE_OK.
pub type vmstore_range_callback = Option<
    unsafe extern "C" fn(
        module_id: *const c_char,
        offset: u64,
        length: u64,
        user_data: *mut c_void,
    ) -> c_int,
>;

/// The head: the commit to which memory was last brought, by a commit or a restore. 0: there is
/// no commit yet.
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
/// `capacity`, and the number of all commits into `*count`. `commits` may be NULL when `capacity`
/// is 0.
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

/// Fills `info` with what is known of one commit. Initialise `*info` with VMSTORE_INIT first.
///
/// Errors: VMSTORE_E_NOT_FOUND (no such commit).
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
/// the whole length to `*length`. `buffer` may be NULL when `capacity` is 0.
///
/// Errors: VMSTORE_E_NOT_FOUND (no such commit).
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

/// Finds the newest commit with this label.
///
/// Errors: VMSTORE_E_INVALID (also: an empty label), VMSTORE_E_NOT_FOUND (no commit has it).
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

/// Calls `callback` for each module of a commit, in the order of their ids. `commit` 0 lists the
/// modules of the head, and the modules that are mapped but in no commit yet, with where and how
/// they are mapped. The callback is called without any lock held.
///
/// Errors: VMSTORE_E_NOT_FOUND (no such commit).
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

/// Calls `callback` for each file that a commit needs: for each module the module commit to which
/// the commit refers, and then the module commits below it, down to an image. `commit` 0: the
/// files of all commits, each file once, ascending within its module, without damaged files.
/// stat(2) on `<module>_Commit<N>` gives the disk space of a file. The callback is called without
/// any lock held.
///
/// Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit).
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
            let info = vmstore_file_info::describe(&file, &id);
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

/// Calls `callback` for each range of bytes that differs between two commits, module by module in
/// the order of their ids, ascending within a module. The commits may be on different branches. 0
/// stands for a store without modules: `from` 0 lists everything in `to` that is not zero.
///
/// Ranges are whole pages, and a page is listed if and only if its bytes differ. A module that a
/// commit does not know, and the part beyond the module's size at a commit, count as zeros.
/// `module_id` NULL: all modules of both commits. The call reads the indexes on the path between
/// the commits. It reads pages only where checksums are equal. The callback is called without any
/// lock held.
///
/// Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit; neither commit knows the module).
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

/// Reads `length` bytes of a module from `offset`, as they are at a commit, into `buffer`.
/// Nothing is mapped, and mapped memory is neither read nor changed. Works in a read-only store.
/// Every page is checked against its checksum. Offset and length need not be whole pages, and
/// must lie within the module. On failure the contents of the buffer are undefined. If an
/// argument is refused, the buffer is not touched.
///
/// Errors: of reading; VMSTORE_E_NOT_FOUND (no such commit; the commit does not know the module).
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

impl From<CommitInfo> for vmstore_commit_info {
    fn from(info: CommitInfo) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            commit: info.commit,
            parent: info.parent,
            time: info.time,
            unique_id: info.unique_id,
            label: convert::fixed(&info.label),
            user_data_length: info.user_data.len() as u64,
            modules: info.modules,
            persisted: u32::from(info.persisted),
        }
    }
}

impl vmstore_module_info {
    fn describe(module: &ModuleInfo, id: &CStr, tracker_reason: &CStr, mode_reason: &CStr) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            module_id: id.as_ptr(),
            size: module.size,
            module_commit: module.module_commit,
            digest: module.digest,
            address: module.address as *mut c_void,
            mode: module.mode.map_or(0, |mode| mode as u32),
            tracker: module.tracker.map_or(0, |tracker| tracker as u32),
            tracker_reason: tracker_reason.as_ptr(),
            unverified_bytes: module.unverified_bytes,
            mode_reason: mode_reason.as_ptr(),
            mapped_size: module.mapped_size,
            fell_back: u32::from(module.fell_back),
            compared: u32::from(module.compares),
        }
    }
}

impl vmstore_file_info {
    fn describe(file: &FileInfo, id: &CStr) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            module_id: id.as_ptr(),
            module_commit: file.module_commit,
            parent: file.parent,
            module_size: file.module_size,
            length: file.length,
            data_pages: file.data_pages,
            zero_pages: file.zero_pages,
        }
    }
}
