//! The one error type. Errors carry the operation and its arguments, and say which rule was broken.

#![forbid(unsafe_code)]

use std::borrow::Cow;

/// Why a call failed. `Display` names the thing and the rule.
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
    /// A handle of the C interface is not what it should be.
    #[error("{argument}: bad handle: {why}")]
    Handle {
        /// The argument's name.
        argument: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something is not there.
    #[error("there is no {what}{hint}")]
    NotFound {
        /// What is not there.
        what: String,
        /// What there is instead, or an empty text.
        hint: Cow<'static, str>,
    },
    /// Something is in the way.
    #[error("{what}: {why}")]
    Exists {
        /// The place.
        what: String,
        /// What is there.
        why: Cow<'static, str>,
    },
    /// Another owner has the store.
    #[error("{store}: another owner, in this process or another, has the store open for writing")]
    Locked {
        /// The store's directory.
        store: String,
    },
    /// Not now.
    #[error("{why}")]
    Busy {
        /// What is in the way.
        why: &'static str,
    },
    /// A module has another size.
    #[error("module \"{module}\": {why}: {recorded} bytes recorded, {given} given")]
    Size {
        /// The module.
        module: String,
        /// Where the two sizes met.
        why: String,
        /// The recorded size.
        recorded: u64,
        /// The other one.
        given: u64,
    },
    /// The store cannot be written.
    #[error("{what}: {why}")]
    ReadOnly {
        /// The call or place.
        what: String,
        /// Why not.
        why: &'static str,
    },
    /// A file is damaged.
    #[error("{file}: damaged: {why}")]
    Corrupt {
        /// The file, relative to the store.
        file: String,
        /// What is wrong in it.
        why: String,
    },
    /// A read-only store fell behind its writer.
    #[error("the store has changed since it was opened read-only; open it again ({what})")]
    Stale {
        /// What showed it.
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
    /// A sync failed: what it was to make durable may be lost although it can still be read.
    #[error("{operation}: the sync failed: {}", std::io::Error::from_raw_os_error(*.errno))]
    Sync {
        /// The call with its arguments.
        operation: String,
        /// Its errno.
        errno: i32,
    },
    /// Memory could not be had.
    #[error("{what}: out of memory")]
    NoMemory {
        /// What it was for.
        what: Cow<'static, str>,
    },
    /// This host cannot do it.
    #[error("{what}: {why}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it cannot be had.
        why: String,
    },
    /// The store failed earlier and takes no more work.
    #[error("the store is poisoned ({why}); close it and open it again")]
    Poisoned {
        /// The first failure.
        why: String,
    },
    /// The handle was made by the parent of this process.
    #[error("the handle belongs to the process that this one was forked from")]
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

    /// Nothing was done, for want of space or quota.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Io {
                errno: libc::ENOSPC | libc::EDQUOT,
                ..
            }
        )
    }

    /// The errno behind the error; 0 when no system call is.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { errno, .. } | Self::Sync { errno, .. } => *errno,
            _ => 0,
        }
    }
}

/// An empty vector with room for `count` values, or an error: an allocation whose size comes from
/// disk or from the caller must not abort the host.
pub(crate) fn try_vec<T>(count: usize, what: &'static str) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(count)
        .map_err(|_| Error::NoMemory { what: what.into() })?;
    Ok(vec)
}

/// A vector of `count` times `value`, or an error.
pub(crate) fn try_filled<T: Clone>(count: usize, value: T, what: &'static str) -> Result<Vec<T>> {
    let mut vec = try_vec(count, what)?;
    vec.resize(count, value);
    Ok(vec)
}
