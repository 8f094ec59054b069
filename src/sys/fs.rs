//! The one door to the disk. Everything the store does to files goes through these two traits, so
//! that a test can record, lose, reorder and fail every operation.

use std::fmt;
use std::io::IoSlice;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::{Error, Result};

/// The two directories of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Dir {
    /// The store directory itself.
    Root,
    /// `.vmstore` inside it.
    Hidden,
}

/// A name in one of the directories. Never a path: `name` has no slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) dir: Dir,
    pub(crate) name: String,
}

impl Place {
    pub(crate) fn root(name: impl Into<String>) -> Self {
        Self {
            dir: Dir::Root,
            name: name.into(),
        }
    }

    pub(crate) fn hidden(name: impl Into<String>) -> Self {
        Self {
            dir: Dir::Hidden,
            name: name.into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dir {
            Dir::Root => f.write_str(&self.name),
            Dir::Hidden => write!(f, ".vmstore/{}", self.name),
        }
    }
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    Link,
    Other,
}

/// One directory entry.
#[derive(Debug, Clone)]
pub(crate) struct DirEntry {
    pub(crate) name: String,
    pub(crate) kind: EntryKind,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The files of one store directory. Opening follows no symbolic links and takes regular files
/// only.
pub(crate) trait Files: Send + Sync {
    /// Makes a new, empty file for reading and writing. Fails if the name exists.
    fn create(&self, place: &Place) -> Result<Arc<dyn File>>;
    /// Opens a file; `None` if there is none.
    fn open(&self, place: &Place, access: Access) -> Result<Option<Arc<dyn File>>>;
    /// Renames, replacing what has the new name.
    fn rename(&self, from: &Place, to: &Place) -> Result<()>;
    /// Gives a file a second name. Fails if the name exists.
    fn link(&self, from: &Place, to: &Place) -> Result<()>;
    /// Gives a file of another directory a name here. False: it cannot have one, and has to be copied.
    fn adopt(&self, file: &dyn File, place: &Place) -> Result<bool>;
    /// Makes a symbolic link. Fails if the name exists.
    fn symlink(&self, target: &str, place: &Place) -> Result<()>;
    /// The target of a symbolic link; `None` if there is no link of that name.
    fn read_link(&self, place: &Place) -> Result<Option<String>>;
    /// Removes a name; none is no failure.
    fn unlink(&self, place: &Place) -> Result<()>;
    /// The entries of a directory, without "." and "..", in no order.
    fn list(&self, dir: Dir) -> Result<Vec<DirEntry>>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: Dir) -> Result<()>;
    /// An id that changes when the host boots: what was written but not synced survives unless it
    /// changed.
    fn boot_id(&self) -> [u8; 16];
    /// Releases the exclusive lock, if this has one.
    fn unlock(&self);
}

/// An open regular file. Offsets and lengths are in bytes.
pub(crate) trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all of the slices, one behind the other.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> Result<()>;
    /// The file's length.
    fn len(&self) -> Result<u64>;
    /// Cuts or extends with zeros.
    fn set_len(&self, length: u64) -> Result<()>;
    /// Reserves blocks for a range; `keep_size` leaves the length as it is.
    fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> Result<()>;
    /// Takes `length` bytes at `from` of another file over as bytes at `at`, sharing their blocks. `false`: that
    /// cannot be here, or not with these numbers, and they have to be copied.
    fn share(&self, other: &dyn File, from: u64, length: u64, at: u64) -> bool;
    /// Begins to write the file's data out, so that the syncs of several files wait together. Promises
    /// nothing, and hides no error from the sync.
    fn begin_sync(&self);
    /// Makes the file's data and length durable.
    fn sync(&self) -> Result<()>;
    /// The descriptor, where there is one that can be mapped.
    fn descriptor(&self) -> Option<RawFd>;
}

/// Reads exactly `buffer.len()` bytes; `name` is what an error calls the file.
pub(crate) fn read_exact(
    file: &dyn File,
    buffer: &mut [u8],
    offset: u64,
    name: &dyn fmt::Display,
) -> Result<()> {
    let got = file.read_at(buffer, offset)?;
    if got != buffer.len() {
        return Err(Error::corrupt(
            name.to_string(),
            format!(
                "it is cut: of {} bytes wanted at {offset}, {got} are there",
                buffer.len()
            ),
        ));
    }
    Ok(())
}
