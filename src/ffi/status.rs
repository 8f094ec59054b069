//! Status codes: their numbers, their texts, and the one place that maps errors to them.

use std::ffi::{c_char, c_int};

use crate::Error;

/// The version of the binary interface that this header describes. It changes whenever a program
/// compiled with an older header could not run with a newer library; until 1.0 also with every
/// minor version.
pub const VMSTORE_ABI_VERSION: u32 = 0;

/// Success.
pub const VMSTORE_OK: c_int = 0;
/// An argument breaks a rule; the text of `store_last_error` names the argument and the rule.
pub const VMSTORE_E_INVALID: c_int = -5001;
/// A handle is NULL, stale, closed, of another kind, or never was one.
pub const VMSTORE_E_HANDLE: c_int = -5002;
/// There is no such store, commit or file.
pub const VMSTORE_E_NOT_FOUND: c_int = -5003;
/// Something else is already there: a file in the store's place, a mapped module, an occupied
/// address.
pub const VMSTORE_E_EXISTS: c_int = -5004;
/// Another owner, in this process or another, has the store open for writing.
pub const VMSTORE_E_LOCKED: c_int = -5005;
/// Not now: a capture is outstanding, or the call was made from inside a callback of the same
/// store.
pub const VMSTORE_E_BUSY: c_int = -5006;
/// A module has another size than the one asked for.
pub const VMSTORE_E_SIZE: c_int = -5007;
/// The store was opened read-only, or its file system is.
pub const VMSTORE_E_READ_ONLY: c_int = -5008;
/// A file of the store is damaged, or its end is gone; the text names it. What is intact can be had with
/// `VMSTORE_OPEN_SALVAGE`.
pub const VMSTORE_E_CORRUPT: c_int = -5009;
/// A file of the store has a version, or needs a feature, that this library does not know.
pub const VMSTORE_E_VERSION: c_int = -5010;
/// A system call failed; `store_last_errno` has the reason.
pub const VMSTORE_E_IO: c_int = -5011;
/// The file system or the quota is full. Where reserved blocks are honoured (ext4, XFS, tmpfs) commits
/// leave room in the journal for 64 calls of `store_restore` and `store_delete_commit`, which go on
/// working then. What is deleted gives its space back when that is persisted, which needs room for
/// the records of all that was not persisted before.
pub const VMSTORE_E_NO_SPACE: c_int = -5012;
/// Memory could not be had.
pub const VMSTORE_E_NO_MEMORY: c_int = -5013;
/// This kernel, file system or mapping mode cannot do it; the text says which and why.
pub const VMSTORE_E_UNSUPPORTED: c_int = -5014;
/// A sync failed or an internal error was caught earlier. Close the store and open it again.
pub const VMSTORE_E_POISONED: c_int = -5015;
/// The calling process is a fork of the one that made the handle.
pub const VMSTORE_E_FORKED: c_int = -5016;
/// A progress callback asked to stop; everything is as before the call.
pub const VMSTORE_E_CANCELLED: c_int = -5017;
/// A defect of this library, caught before it could do harm.
pub const VMSTORE_E_INTERNAL: c_int = -5018;
/// A store that was opened read-only needs a file that its writer has deleted or rewritten since. Close
/// it and open it again.
pub const VMSTORE_E_STALE: c_int = -5019;

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

/// What a status means, in a few words. The text is static: do not free it. Never NULL; an
/// unknown number gives "unknown status".
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
