//! The error type of the library. An error names the operation and its arguments, or the rule that
//! was broken.

#![forbid(unsafe_code)]

use std::borrow::Cow;

/// Why a call failed. The text of `Display` names the object and the cause.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument breaks a rule.
    #[error("{what}: {rule}")]
    Invalid {
        /// The argument, with its value where that helps.
        what: Cow<'static, str>,
        /// The rule.
        rule: Cow<'static, str>,
    },
    /// A handle of the C interface cannot be used.
    #[error("{argument}: bad handle: {why}")]
    Handle {
        /// The argument's name.
        argument: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An object does not exist.
    #[error("there is no {what}{hint}")]
    NotFound {
        /// The object.
        what: String,
        /// What exists instead, or an empty text.
        hint: Cow<'static, str>,
    },
    /// A place is in use already.
    #[error("{what}: {why}")]
    Exists {
        /// The place.
        what: String,
        /// What is at the place.
        why: Cow<'static, str>,
    },
    /// Another owner has opened the store for writing.
    #[error("{store}: another owner, in this process or another, has the store open for writing")]
    Locked {
        /// The store's directory.
        store: String,
    },
    /// The call cannot be made at this time.
    #[error("{why}")]
    Busy {
        /// What prevents the call.
        why: &'static str,
    },
    /// The size of a module does not match.
    #[error("module \"{module}\": {why}: {recorded} bytes recorded, {given} given")]
    Size {
        /// The module.
        module: String,
        /// Where the two sizes were compared.
        why: String,
        /// The recorded size.
        recorded: u64,
        /// The size that was given.
        given: u64,
    },
    /// The store cannot be written.
    #[error("{what}: {why}")]
    ReadOnly {
        /// The call or the place.
        what: String,
        /// Why it cannot be written.
        why: &'static str,
    },
    /// A file is damaged.
    #[error("{file}: damaged: {why}")]
    Corrupt {
        /// The file, relative to the store.
        file: String,
        /// What is wrong in the file.
        why: String,
    },
    /// A writer changed the store after this handle had opened it read-only.
    #[error("the store has changed since it was opened read-only; open it again ({what})")]
    Stale {
        /// What showed the change.
        what: String,
    },
    /// A file needs a newer library.
    #[error("{file}: {why}")]
    Version {
        /// The file, relative to the store.
        file: String,
        /// What is unknown.
        why: String,
    },
    /// A system call failed.
    #[error("{operation}: {}", std::io::Error::from_raw_os_error(*.errno))]
    Io {
        /// The call with its arguments.
        operation: String,
        /// Its errno.
        errno: i32,
    },
    /// A sync failed. The data that it was to make durable may be lost later, even if the data can
    /// still be read now.
    #[error("{operation}: the sync failed: {}", std::io::Error::from_raw_os_error(*.errno))]
    Sync {
        /// The call with its arguments.
        operation: String,
        /// Its errno.
        errno: i32,
    },
    /// Memory could not be allocated.
    #[error("{what}: out of memory")]
    NoMemory {
        /// What the memory was for.
        what: Cow<'static, str>,
    },
    /// The host does not support the request.
    #[error("{what}: {why}")]
    Unsupported {
        /// The request.
        what: String,
        /// Why the host cannot serve it.
        why: String,
    },
    /// The store failed earlier and takes no more work.
    #[error("the store is poisoned ({why}); close it and open it again")]
    Poisoned {
        /// The first failure.
        why: String,
    },
    /// The handle was made by the parent of this process.
    #[error("the handle belongs to the parent process and does nothing in a forked child")]
    Forked,
    /// The caller's progress callback asked to stop.
    #[error("cancelled by the progress callback")]
    Cancelled,
    /// A defect of this library.
    #[error("{what} (a defect of vmstore)")]
    Internal {
        /// What went wrong.
        what: String,
    },
}

/// A result with the library's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn invalid(
        what: impl Into<Cow<'static, str>>,
        rule: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::Invalid {
            what: what.into(),
            rule: rule.into(),
        }
    }

    pub(crate) fn corrupt(file: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Corrupt {
            file: file.into(),
            why: why.into(),
        }
    }

    pub(crate) fn io(operation: impl Into<String>, error: &std::io::Error) -> Self {
        Self::Io {
            operation: operation.into(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// The errno of the calling thread, as the failure of `operation`.
    pub(crate) fn last_os(operation: impl Into<String>) -> Self {
        Self::io(operation, &std::io::Error::last_os_error())
    }

    /// Whether the call failed because the disk or the quota is full. Such a call has changed
    /// nothing.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Io {
                errno: libc::ENOSPC | libc::EDQUOT,
                ..
            }
        )
    }

    /// The errno of the system call that failed; 0 if the error has no system call as its cause.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { errno, .. } | Self::Sync { errno, .. } => *errno,
            _ => 0,
        }
    }
}

/// An empty vector with capacity for `count` values, or an error. A size that comes from the disk
/// or from the caller must not abort the host.
pub(crate) fn try_vec<T>(count: usize, what: &'static str) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(count)
        .map_err(|_| Error::NoMemory { what: what.into() })?;
    Ok(vec)
}

/// A vector with `count` copies of `value`, or an error.
pub(crate) fn try_filled<T: Clone>(count: usize, value: T, what: &'static str) -> Result<Vec<T>> {
    let mut vec = try_vec(count, what)?;
    vec.resize(count, value);
    Ok(vec)
}
