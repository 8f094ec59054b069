//! The only way to the disk. The store works on files only through these two traits. A test can
//! therefore record, lose, reorder and fail every operation.

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

/// A file name in one of the two directories. `name` is never a path: it has no slash.
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

/// The files of one store directory. `open` follows no symbolic links and opens regular files only.
pub(crate) trait Files: Send + Sync {
    /// Makes a new, empty file for reading and writing. Fails if the name exists.
    fn create(&self, place: &Place) -> Result<Arc<dyn File>>;
    /// Opens a file. `None`: the file does not exist.
    fn open(&self, place: &Place, access: Access) -> Result<Option<Arc<dyn File>>>;
    /// Renames a file. A file that has the new name is replaced.
    fn rename(&self, from: &Place, to: &Place) -> Result<()>;
    /// Gives a file a second name. Fails if the name exists.
    fn link(&self, from: &Place, to: &Place) -> Result<()>;
    /// Gives a file of another directory a name here. `false`: the file system cannot do that, and
    /// the caller has to copy the file.
    fn adopt(&self, file: &dyn File, place: &Place) -> Result<bool>;
    /// Makes a symbolic link. Fails if the name exists.
    fn symlink(&self, target: &str, place: &Place) -> Result<()>;
    /// The target of a symbolic link. `None`: no link has that name.
    fn read_link(&self, place: &Place) -> Result<Option<String>>;
    /// Removes a name. A name that does not exist is no error.
    fn unlink(&self, place: &Place) -> Result<()>;
    /// The entries of a directory, without "." and "..", in any order.
    fn list(&self, dir: Dir) -> Result<Vec<DirEntry>>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, dir: Dir) -> Result<()>;
    /// An id that changes when the host boots. Data that was written and not synced survives as
    /// long as the id stays the same. All zeros: the host does not report an id.
    fn boot_id(&self) -> [u8; 16];
    /// Releases the exclusive lock, if this object holds it.
    fn unlock(&self);
}

/// An open regular file. Offsets and lengths are in bytes.
pub(crate) trait File: Send + Sync {
    /// Reads up to `buffer.len()` bytes. Reads fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;
    /// Writes all slices, one after another.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> Result<()>;
    /// The file's length.
    fn len(&self) -> Result<u64>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, length: u64) -> Result<()>;
    /// Reserves blocks for a range. With `keep_size` the file's length does not change.
    fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> Result<()>;
    /// Makes the `length` bytes at offset `from` of `other` also the bytes at offset `at` of this
    /// file. The two files share the blocks. `false`: the file system cannot share blocks, or not
    /// with these offsets, and the caller has to copy the bytes.
    fn share(&self, other: &dyn File, from: u64, length: u64, at: u64) -> bool;
    /// Starts to write the file's data to the disk, which lets the syncs of several files wait
    /// together. The call makes nothing durable, and the later sync still reports every error.
    fn begin_sync(&self);
    /// Makes the file's data and length durable.
    fn sync(&self) -> Result<()>;
    /// The descriptor, if the file has a descriptor that can be mapped.
    fn descriptor(&self) -> Option<RawFd>;
}

/// Reads exactly `buffer.len()` bytes. `name` names the file in an error text.
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
                "truncated: wanted {} bytes at offset {offset}, found {got}",
                buffer.len()
            ),
        ));
    }
    Ok(())
}
