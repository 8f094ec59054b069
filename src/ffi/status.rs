//! Status codes: their numbers, their texts, and the one place that maps errors to them. Also the
//! callback by which long calls report progress, which several nouns share.

use std::ffi::{c_char, c_int, c_void};

use crate::Error;

/// Success.
pub const VMSTORE_OK: c_int = 0;
/// An argument breaks a rule. The text of store_last_error names the argument and the rule.
pub const VMSTORE_E_INVALID: c_int = -5001;
/// A handle is NULL, closed, stale, of another kind, or not a handle of this library.
pub const VMSTORE_E_HANDLE: c_int = -5002;
/// There is no such store, commit, module or file.
pub const VMSTORE_E_NOT_FOUND: c_int = -5003;
/// Something else is there already: a file at the store's path, a mapped module, an occupied
/// address.
pub const VMSTORE_E_EXISTS: c_int = -5004;
/// Another owner, in this process or in another one, has the store open for writing.
pub const VMSTORE_E_LOCKED: c_int = -5005;
/// Not now: a capture is outstanding, or the call came from inside a callback of the same store.
pub const VMSTORE_E_BUSY: c_int = -5006;
/// The module has another size than the given one.
pub const VMSTORE_E_SIZE: c_int = -5007;
/// The store was opened read-only, or its file system is read-only.
pub const VMSTORE_E_READ_ONLY: c_int = -5008;
/// A file of the store is damaged, or its end is missing. The text names the file. Open the store
/// with VMSTORE_OPEN_SALVAGE to read what is intact.
pub const VMSTORE_E_CORRUPT: c_int = -5009;
/// A file of the store has a version, or needs a feature, that this library does not know.
pub const VMSTORE_E_VERSION: c_int = -5010;
/// A system call failed. store_last_errno has the reason.
pub const VMSTORE_E_IO: c_int = -5011;
/// The file system or the quota is full. Where the file system honours reserved blocks (ext4,
/// XFS, tmpfs), commits leave room in the journal for 64 calls of store_restore and
/// store_delete_commit. Those calls go on working on a full disk. The space of deleted commits
/// becomes free with the persist of the deletion. That persist needs room for the records of
/// everything that was not persisted before.
pub const VMSTORE_E_NO_SPACE: c_int = -5012;
/// The system did not give the memory that the call needs.
pub const VMSTORE_E_NO_MEMORY: c_int = -5013;
/// This kernel, file system or mapping mode cannot do it. The text says which one, and why.
pub const VMSTORE_E_UNSUPPORTED: c_int = -5014;
/// A sync failed, or an internal error was caught, in an earlier call. Close the store and open
/// it again.
pub const VMSTORE_E_POISONED: c_int = -5015;
/// This process is a forked child, and the handle belongs to its parent.
pub const VMSTORE_E_FORKED: c_int = -5016;
/// A callback asked the call to stop.
pub const VMSTORE_E_CANCELLED: c_int = -5017;
/// The library caught a defect of its own before the defect could do harm.
pub const VMSTORE_E_INTERNAL: c_int = -5018;
/// A store that was opened read-only needs a file that the writer has deleted or rewritten since.
/// Close the store and open it again.
pub const VMSTORE_E_STALE: c_int = -5019;

/// Receives the progress of a long call, in bytes: `done` of `total`. A non-zero return cancels
/// the call. The call then fails with VMSTORE_E_CANCELLED and leaves everything as it was before,
/// unless the text of the function says what stays done. The callback must not unwind or longjmp.
pub type vmstore_progress_callback =
    Option<unsafe extern "C" fn(done: u64, total: u64, user_data: *mut c_void) -> c_int>;

/// The status of an error.
pub(super) fn of(error: &Error) -> c_int {
    match error {
        Error::Invalid { .. } => VMSTORE_E_INVALID,
        Error::Handle { .. } => VMSTORE_E_HANDLE,
        Error::NotFound { .. } => VMSTORE_E_NOT_FOUND,
        Error::Exists { .. } => VMSTORE_E_EXISTS,
        Error::Locked { .. } => VMSTORE_E_LOCKED,
        Error::Busy { .. } => VMSTORE_E_BUSY,
        Error::Size { .. } => VMSTORE_E_SIZE,
        Error::ReadOnly { .. } => VMSTORE_E_READ_ONLY,
        Error::Corrupt { .. } => VMSTORE_E_CORRUPT,
        Error::Version { .. } => VMSTORE_E_VERSION,
        Error::Io { errno, .. } | Error::Sync { errno, .. } => match *errno {
            libc::ENOSPC | libc::EDQUOT => VMSTORE_E_NO_SPACE,
            libc::ENOMEM => VMSTORE_E_NO_MEMORY,
            libc::EROFS => VMSTORE_E_READ_ONLY,
            _ => VMSTORE_E_IO,
        },
        Error::NoMemory { .. } => VMSTORE_E_NO_MEMORY,
        Error::Unsupported { .. } => VMSTORE_E_UNSUPPORTED,
        Error::Poisoned { .. } => VMSTORE_E_POISONED,
        Error::Forked => VMSTORE_E_FORKED,
        Error::Cancelled => VMSTORE_E_CANCELLED,
        Error::Internal { .. } => VMSTORE_E_INTERNAL,
        Error::Stale { .. } => VMSTORE_E_STALE,
    }
}

/// The meaning of a status in a few words. Static text: do not free it. Never NULL; an unknown
/// number gives "unknown status".
#[unsafe(no_mangle)]
pub extern "C" fn store_strerror(status: c_int) -> *const c_char {
    let text = match status {
        VMSTORE_OK => c"success",
        VMSTORE_E_INVALID => c"invalid argument",
        VMSTORE_E_HANDLE => c"bad handle",
        VMSTORE_E_NOT_FOUND => c"not found",
        VMSTORE_E_EXISTS => c"already exists",
        VMSTORE_E_LOCKED => c"store is locked by another owner",
        VMSTORE_E_BUSY => c"busy",
        VMSTORE_E_SIZE => c"module has another size",
        VMSTORE_E_READ_ONLY => c"store is read-only",
        VMSTORE_E_CORRUPT => c"store is damaged",
        VMSTORE_E_VERSION => c"unknown format version or feature",
        VMSTORE_E_IO => c"system call failed",
        VMSTORE_E_NO_SPACE => c"no space left",
        VMSTORE_E_NO_MEMORY => c"out of memory",
        VMSTORE_E_UNSUPPORTED => c"not supported here",
        VMSTORE_E_POISONED => c"store failed earlier; close and reopen it",
        VMSTORE_E_FORKED => c"handle belongs to the parent process",
        VMSTORE_E_CANCELLED => c"cancelled by the caller",
        VMSTORE_E_INTERNAL => c"internal error",
        VMSTORE_E_STALE => c"store changed since it was opened read-only; reopen it",
        _ => c"unknown status",
    };
    text.as_ptr()
}
