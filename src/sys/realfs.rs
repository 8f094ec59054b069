//! The file traits for a real directory. The calls (openat and others) are relative to two
//! directory descriptors.

use std::ffi::{CStr, CString, c_int};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::descriptor::{self, is, retry};
use super::fork;
use super::fs::{Access, Dir, DirEntry, EntryKind, File, Files, Place};
use super::realfile::{RealFile, as_sync};
use crate::{Error, Result};

const HIDDEN: &CStr = c".vmstore";

/// A store directory on a real file system.
pub(crate) struct RealFiles {
    root: OwnedFd,
    hidden: OwnedFd,
    /// The descriptor that holds the lock, and the process that took the lock.
    lock: Mutex<Option<(OwnedFd, u32)>>,
}

/// What `find` found at a path.
pub(crate) enum FoundDirectory {
    /// A directory with `.vmstore`: a store.
    Store(RealFiles),
    /// A directory without `.vmstore`.
    Directory(OwnedFd),
    /// Nothing. The parent directory may exist.
    Nothing,
}

fn c_name(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::invalid("a file name", "it must not contain a NUL byte"))
}

/// openat with close-on-exec.
fn open_at(dir: RawFd, name: &CStr, flags: c_int) -> Result<OwnedFd> {
    let fd = retry(
        || format!("openat({})", name.to_string_lossy()),
        // SAFETY: the name is NUL-terminated; the result is checked.
        || unsafe { libc::openat(dir, name.as_ptr(), flags | libc::O_CLOEXEC, 0o600) } as isize,
    )?;
    descriptor::take(fd as RawFd)
}

fn path_name(path: &Path) -> Result<CString> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("directory", "it must not be empty"));
    }
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::invalid("directory", "it must not contain a NUL byte"))
}

const DIRECTORY: c_int = libc::O_RDONLY | libc::O_DIRECTORY;

/// Looks at `path` without changing anything.
pub(crate) fn find(path: &Path) -> Result<FoundDirectory> {
    let root = match open_at(libc::AT_FDCWD, &path_name(path)?, DIRECTORY) {
        Ok(root) => root,
        Err(error) if is(&error, libc::ENOENT) => return Ok(FoundDirectory::Nothing),
        Err(error) if is(&error, libc::ENOTDIR) => {
            return Err(Error::Exists {
                what: path.display().to_string(),
                why: "it is not a directory; a store is a directory".into(),
            });
        }
        Err(error) => return Err(error),
    };
    match open_at(root.as_raw_fd(), HIDDEN, DIRECTORY | libc::O_NOFOLLOW) {
        Ok(hidden) => Ok(FoundDirectory::Store(RealFiles {
            root,
            hidden,
            lock: Mutex::new(None),
        })),
        Err(error) if is(&error, libc::ENOENT) => Ok(FoundDirectory::Directory(root)),
        Err(error) if is(&error, libc::ENOTDIR) || is(&error, libc::ELOOP) => Err(Error::corrupt(
            path.join(".vmstore").display().to_string(),
            "it must be a directory, not a file or link",
        )),
        Err(error) => Err(error),
    }
}

/// Makes the directory `path`, mode 0700, in a parent that exists.
pub(crate) fn make_root(path: &Path) -> Result<OwnedFd> {
    let name = path_name(path)?;
    let made = retry(
        || format!("mkdir({})", path.display()),
        // SAFETY: the name is NUL-terminated.
        || unsafe { libc::mkdir(name.as_ptr(), 0o700) } as isize,
    );
    match made {
        Err(error) if is(&error, libc::ENOENT) => {
            return Err(Error::NotFound {
                what: format!("parent directory of {}", path.display()),
                hint: "".into(),
            });
        }
        Err(error) if is(&error, libc::EEXIST) => {}
        other => drop(other?),
    }
    open_at(libc::AT_FDCWD, &name, DIRECTORY).map_err(|error| {
        if !is(&error, libc::ENOENT) {
            return error;
        }
        Error::NotFound {
            what: format!("directory that the link {} leads to", path.display()),
            hint: "".into(),
        }
    })
}

/// Makes the entry of a directory in its parent durable. A parent directory that this process may
/// not read is skipped.
fn sync_entry(root: &OwnedFd) -> Result<()> {
    match open_at(root.as_raw_fd(), c"..", DIRECTORY) {
        Ok(parent) => sync_fd(parent.as_raw_fd(), "the parent directory"),
        Err(error) if is(&error, libc::EACCES) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the directory's own entry durable, and makes `.vmstore` in the directory.
pub(crate) fn make_hidden(root: OwnedFd) -> Result<RealFiles> {
    sync_entry(&root)?;
    let made = retry(
        || "mkdirat(.vmstore)".into(),
        // SAFETY: the name is NUL-terminated.
        || unsafe { libc::mkdirat(root.as_raw_fd(), HIDDEN.as_ptr(), 0o700) } as isize,
    );
    match made {
        Err(error) if is(&error, libc::EEXIST) => {}
        other => drop(other?),
    }
    let hidden = open_at(root.as_raw_fd(), HIDDEN, DIRECTORY | libc::O_NOFOLLOW)?;
    Ok(RealFiles {
        root,
        hidden,
        lock: Mutex::new(None),
    })
}

/// The names in a directory.
pub(crate) fn list(dir: &OwnedFd) -> Result<Vec<DirEntry>> {
    // Reading moves the position of a descriptor, so this call opens its own.
    let own = open_at(dir.as_raw_fd(), c".", DIRECTORY)?;
    // SAFETY: the descriptor is open. On success the directory stream owns it.
    let stream = unsafe { libc::fdopendir(own.as_raw_fd()) };
    if stream.is_null() {
        return Err(Error::last_os("fdopendir"));
    }
    std::mem::forget(own);

    let mut entries = Vec::new();
    let mut failure = None;
    loop {
        // SAFETY: errno is this thread's.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: the directory stream is open, and only this thread uses it.
        let entry = unsafe { libc::readdir(stream) };
        if entry.is_null() {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() != Some(0) {
                failure = Some(Error::io("readdir", &error));
            }
            break;
        }
        // SAFETY: the entry is valid until the next call of readdir, and its name is
        // NUL-terminated.
        let (name, kind) = unsafe { (CStr::from_ptr((*entry).d_name.as_ptr()), (*entry).d_type) };
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match kind {
            libc::DT_REG => EntryKind::File,
            libc::DT_LNK => EntryKind::Link,
            libc::DT_UNKNOWN => kind_of(dir.as_raw_fd(), name),
            _ => EntryKind::Other,
        };
        // A name that is not UTF-8 is not a file of the store.
        let name = name
            .to_str()
            .map_or_else(|_| name.to_string_lossy().into_owned() + "?", str::to_owned);
        entries.push(DirEntry { name, kind });
    }
    // SAFETY: opened above, closed once.
    unsafe { libc::closedir(stream) };
    failure.map_or(Ok(entries), Err)
}

fn kind_of(dir: RawFd, name: &CStr) -> EntryKind {
    // SAFETY: all-zero is a value of this plain struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the name is NUL-terminated and the struct is ours.
    let failed =
        unsafe { libc::fstatat(dir, name.as_ptr(), &raw mut stat, libc::AT_SYMLINK_NOFOLLOW) };
    match (failed, stat.st_mode & libc::S_IFMT) {
        (0, libc::S_IFREG) => EntryKind::File,
        (0, libc::S_IFLNK) => EntryKind::Link,
        _ => EntryKind::Other,
    }
}

fn sync_fd(fd: RawFd, name: &str) -> Result<()> {
    // SAFETY: fsync has no preconditions.
    as_sync(retry(
        || format!("fsync({name})"),
        || unsafe { libc::fsync(fd) } as isize,
    ))
}

impl RealFiles {
    /// Takes the exclusive lock of the store. `false`: another owner has it.
    pub(crate) fn lock(&self) -> Result<bool> {
        // The descriptor is used only for the lock, so forked children can close it.
        let own = open_at(self.root.as_raw_fd(), c".", DIRECTORY)?;
        fork::close_in_children(own.as_raw_fd());
        let taken = retry(
            || "flock(LOCK_EX)".into(),
            // SAFETY: flock has no preconditions.
            || unsafe { libc::flock(own.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } as isize,
        );
        match taken {
            Ok(_) => {
                *self.lock.lock() = Some((own, std::process::id()));
                Ok(true)
            }
            Err(error) => {
                fork::forget(own.as_raw_fd());
                if is(&error, libc::EWOULDBLOCK) {
                    Ok(false)
                } else {
                    Err(error)
                }
            }
        }
    }

    fn dir(&self, dir: Dir) -> &OwnedFd {
        match dir {
            Dir::Root => &self.root,
            Dir::Hidden => &self.hidden,
        }
    }

    fn fd(&self, place: &Place) -> RawFd {
        self.dir(place.dir).as_raw_fd()
    }

    /// A call on two names.
    fn pair(
        &self,
        what: &str,
        from: &Place,
        to: &Place,
        call: impl Fn(RawFd, &CStr, RawFd, &CStr) -> c_int,
    ) -> Result<()> {
        let (old, new) = (c_name(&from.name)?, c_name(&to.name)?);
        retry(
            || format!("{what}({from}, {to})"),
            || call(self.fd(from), &old, self.fd(to), &new) as isize,
        )
        .map(drop)
    }
}

impl Drop for RealFiles {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl Files for RealFiles {
    fn create(&self, place: &Place) -> Result<Arc<dyn File>> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let fd = open_at(self.fd(place), &c_name(&place.name)?, flags)?;
        Ok(Arc::new(RealFile::new(fd, place.clone())))
    }

    fn open(&self, place: &Place, access: Access) -> Result<Option<Arc<dyn File>>> {
        let mode = match access {
            Access::Read => libc::O_RDONLY,
            Access::Write => libc::O_RDWR,
        };
        // O_NONBLOCK: a FIFO in the place of the file must not block the host.
        let flags = mode | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let not_a_file = || Error::corrupt(place.to_string(), "it is not a regular file");
        let fd = match open_at(self.fd(place), &c_name(&place.name)?, flags) {
            Ok(fd) => fd,
            Err(error) if is(&error, libc::ENOENT) => return Ok(None),
            Err(error)
                if [libc::ELOOP, libc::ENXIO, libc::EISDIR, libc::ENODEV]
                    .contains(&error.errno()) =>
            {
                return Err(not_a_file());
            }
            Err(error) => return Err(error),
        };
        // SAFETY: all-zero is a value of this plain struct.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the struct is ours.
        if unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) } != 0 {
            return Err(Error::last_os(format!("fstat({place})")));
        }
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(not_a_file());
        }
        Ok(Some(Arc::new(RealFile::new(fd, place.clone()))))
    }

    fn rename(&self, from: &Place, to: &Place) -> Result<()> {
        // SAFETY: both names are NUL-terminated.
        self.pair("renameat", from, to, |a, old, b, new| unsafe {
            libc::renameat(a, old.as_ptr(), b, new.as_ptr())
        })
    }

    fn link(&self, from: &Place, to: &Place) -> Result<()> {
        // SAFETY: both names are NUL-terminated. No AT_SYMLINK_FOLLOW: a link is not followed.
        self.pair("linkat", from, to, |a, old, b, new| unsafe {
            libc::linkat(a, old.as_ptr(), b, new.as_ptr(), 0)
        })
    }

    fn adopt(&self, file: &dyn File, place: &Place) -> Result<bool> {
        let Some(fd) = file.descriptor() else {
            return Ok(false);
        };
        let (from, to) = (
            c_name(&format!("/proc/self/fd/{fd}"))?,
            c_name(&place.name)?,
        );
        let linked = retry(
            || format!("linkat({place})"),
            // SAFETY: both names are NUL-terminated.
            || unsafe {
                libc::linkat(
                    libc::AT_FDCWD,
                    from.as_ptr(),
                    self.fd(place),
                    to.as_ptr(),
                    libc::AT_SYMLINK_FOLLOW,
                )
            } as isize,
        );
        // The file is on another file system, or the file system allows no second name or no
        // further name.
        let cannot = [
            libc::EXDEV,
            libc::EPERM,
            libc::EMLINK,
            libc::EOPNOTSUPP,
            libc::ENOENT,
            libc::EACCES,
        ];
        match linked {
            Ok(_) => Ok(true),
            Err(error) if cannot.contains(&error.errno()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn symlink(&self, target: &str, place: &Place) -> Result<()> {
        let (target, name) = (c_name(target)?, c_name(&place.name)?);
        retry(
            || format!("symlinkat({place})"),
            // SAFETY: both names are NUL-terminated.
            || unsafe { libc::symlinkat(target.as_ptr(), self.fd(place), name.as_ptr()) } as isize,
        )
        .map(drop)
    }

    fn read_link(&self, place: &Place) -> Result<Option<String>> {
        let name = c_name(&place.name)?;
        let mut buffer = [0u8; 512];
        let got = retry(
            || format!("readlinkat({place})"),
            // SAFETY: the name is NUL-terminated; the buffer is ours and of the given length.
            || unsafe {
                libc::readlinkat(
                    self.fd(place),
                    name.as_ptr(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                )
            },
        );
        match got {
            Ok(length) => Ok(Some(
                String::from_utf8_lossy(&buffer[..length as usize]).into_owned(),
            )),
            Err(error) if is(&error, libc::ENOENT) || is(&error, libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn unlink(&self, place: &Place) -> Result<()> {
        let name = c_name(&place.name)?;
        let gone = retry(
            || format!("unlinkat({place})"),
            // SAFETY: the name is NUL-terminated.
            || unsafe { libc::unlinkat(self.fd(place), name.as_ptr(), 0) } as isize,
        );
        match gone {
            Err(error) if is(&error, libc::ENOENT) => Ok(()),
            other => other.map(drop),
        }
    }

    fn list(&self, dir: Dir) -> Result<Vec<DirEntry>> {
        list(self.dir(dir))
    }

    fn sync_dir(&self, dir: Dir) -> Result<()> {
        sync_fd(
            self.dir(dir).as_raw_fd(),
            if dir == Dir::Root {
                "the store"
            } else {
                ".vmstore"
            },
        )
    }

    fn boot_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        if let Ok(text) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            let digits: Vec<u8> = text
                .bytes()
                .filter_map(|b| (b as char).to_digit(16).map(|d| d as u8))
                .collect();
            for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = pair[0] << 4 | pair[1];
            }
        }
        id
    }

    fn unlock(&self) {
        let Some((own, owner)) = self.lock.lock().take() else {
            return;
        };
        if owner != std::process::id() {
            // This is a forked child. Unlocking would take the lock from the parent, and the fork
            // handler has closed the descriptor already.
            std::mem::forget(own);
            return;
        }
        // Closing is not enough: a child that has a copy of the descriptor would keep the lock.
        // SAFETY: flock has no preconditions.
        unsafe { libc::flock(own.as_raw_fd(), libc::LOCK_UN) };
        fork::forget(own.as_raw_fd());
    }
}
