//! Memory with a descriptor: memfds of the library, files of the caller, huge pages, holes.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{descriptor, host};
use crate::page_set::{Run, push_run};
use crate::{Error, Result};

/// Numbers of linux/magic.h and linux/memfd.h that the libc crate does not have everywhere.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
const TMPFS_MAGIC: u64 = 0x0102_1994;
const MFD_HUGE_SHIFT: u32 = 26;

/// Makes a file without a name, with `length` zero bytes. `huge` is the size of its huge pages in
/// bytes, or 0 for the host's normal pages. The file can grow and cannot shrink, because access to
/// a truncated mapping raises SIGBUS.
pub(crate) fn create(name: &str, length: u64, huge: u64) -> Result<OwnedFd> {
    let text = CString::new(name).unwrap_or_default();
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if huge != 0 {
        flags |= libc::MFD_HUGETLB | huge.trailing_zeros() << MFD_HUGE_SHIFT;
    }
    // SAFETY: the name is NUL-terminated.
    let fd = unsafe { libc::memfd_create(text.as_ptr(), flags) };
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        return Err(if huge == 0 {
            Error::io(format!("memfd_create({name})"), &error)
        } else {
            no_huge_pages(huge, length, &error.to_string())
        });
    }
    let own = descriptor::take(fd)?;
    let fd = own.as_raw_fd();
    set_length(fd, length)?;
    // SAFETY: the descriptor is ours.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) } != 0 {
        return Err(Error::last_os("fcntl(F_ADD_SEALS, F_SEAL_SHRINK)"));
    }
    Ok(own)
}

/// Sets the length of a memfd.
pub(crate) fn set_length(fd: RawFd, length: u64) -> Result<()> {
    descriptor::without_size_signal(
        || format!("ftruncate(memfd, {length})"),
        // SAFETY: ftruncate has no preconditions.
        || unsafe { libc::ftruncate(fd, length as i64) } as isize,
    )
    .map(drop)
}

/// The length of a file.
pub(crate) fn length(fd: RawFd) -> Result<u64> {
    // SAFETY: all-zero is a value of this plain struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: fstat checks the descriptor, and the struct is ours.
    if unsafe { libc::fstat(fd, &raw mut stat) } != 0 {
        return Err(Error::last_os("fstat(a module's descriptor)"));
    }
    Ok(stat.st_size as u64)
}

/// The error for huge pages that the host refused. The text says how many are free.
pub(crate) fn no_huge_pages(huge: u64, length: u64, why: &str) -> Error {
    let free = match host::free_huge_pages(huge) {
        Some(free) => format!("{free} are free"),
        None => "this host has no pages of that size".into(),
    };
    Error::Unsupported {
        what: format!("{} pages of {huge} bytes", length / huge),
        why: format!("{why}; {free} (/sys/kernel/mm/hugepages)"),
    }
}

/// A copy of the caller's descriptor, and facts about its file.
pub(crate) struct Borrowed {
    pub(crate) fd: OwnedFd,
    pub(crate) length: u64,
    /// The size of the file's huge pages, or of the host's pages.
    pub(crate) granule: u64,
    /// The file is on tmpfs, as every memfd is. A hole in such a file was never written.
    pub(crate) tmpfs: bool,
    /// Device and inode number. They show whether two descriptors belong to one file.
    pub(crate) identity: (u64, u64),
}

/// Copies and checks a descriptor that the caller wants to map.
pub(crate) fn borrow(fd: RawFd) -> Result<Borrowed> {
    let what = || format!("vmstore_map_options.fd {fd}");
    // SAFETY: fcntl checks the descriptor.
    let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if own < 0 {
        let error = std::io::Error::last_os_error();
        return Err(if error.raw_os_error() == Some(libc::EBADF) {
            Error::invalid(what(), "it must be an open descriptor")
        } else {
            Error::io(format!("fcntl({fd}, F_DUPFD_CLOEXEC)"), &error)
        });
    }
    // SAFETY: the kernel just made the descriptor, and nothing else has it.
    let own = unsafe { OwnedFd::from_raw_fd(own) };
    // SAFETY: all-zero is a value of these plain structs.
    let (mut stat, mut system): (libc::stat, libc::statfs) = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is ours, and so are the structs.
    let failed = unsafe {
        libc::fstat(own.as_raw_fd(), &raw mut stat) != 0
            || libc::fstatfs(own.as_raw_fd(), &raw mut system) != 0
    };
    if failed {
        return Err(Error::last_os(format!("fstat({fd})")));
    }
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Error::invalid(
            what(),
            "it must be a memfd or another regular file",
        ));
    }
    // SAFETY: fcntl with F_GETFL has no preconditions.
    let flags = unsafe { libc::fcntl(own.as_raw_fd(), libc::F_GETFL) };
    if flags & libc::O_ACCMODE != libc::O_RDWR {
        return Err(Error::invalid(
            what(),
            "it must be open for reading and writing",
        ));
    }
    // SAFETY: fcntl with F_GET_SEALS has no preconditions; -1 where there are no seals.
    let seals = unsafe { libc::fcntl(own.as_raw_fd(), libc::F_GET_SEALS) };
    if seals > 0 && seals & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) != 0 {
        return Err(Error::invalid(
            what(),
            "it must not be sealed against writing (F_SEAL_WRITE, F_SEAL_FUTURE_WRITE)",
        ));
    }
    let magic = system.f_type as u64 & 0xffff_ffff;
    let huge = magic == HUGETLBFS_MAGIC;
    Ok(Borrowed {
        fd: own,
        length: stat.st_size as u64,
        granule: if huge {
            system.f_bsize as u64
        } else {
            host::page_size()
        },
        tmpfs: magic == TMPFS_MAGIC,
        identity: (stat.st_dev, stat.st_ino),
    })
}

/// The pages of a part of a file that are not holes. Page numbers count from the beginning of the
/// part. If the file system does not report holes, the result is all pages.
pub(crate) fn data_runs(fd: RawFd, offset: u64, length: u64) -> Vec<Run> {
    let page = host::page_size();
    let mut runs = Vec::new();
    let mut next = offset;
    let end = offset + length;
    // The caller's descriptor shares this file position, so the position is set back at the end.
    // SAFETY: lseek has no preconditions.
    let position = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) };
    while next < end {
        // SAFETY: as above.
        let data = unsafe { libc::lseek(fd, next as i64, libc::SEEK_DATA) };
        if data < 0 {
            if std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) {
                break;
            }
            let rest = Run {
                start: (next - offset) / page,
                count: (end - next).div_ceil(page),
            };
            push_run(&mut runs, rest);
            break;
        }
        let data = data as u64;
        if data >= end {
            break;
        }
        // SAFETY: as above.
        let hole = unsafe { libc::lseek(fd, data as i64, libc::SEEK_HOLE) };
        let hole = if hole < 0 {
            end
        } else {
            (hole as u64).min(end)
        };
        let start = (data - offset) / page;
        let run = Run {
            start,
            count: (hole - offset).div_ceil(page) - start,
        };
        push_run(&mut runs, run);
        next = hole.max(data + 1);
    }
    // SAFETY: as above.
    unsafe { libc::lseek(fd, position.max(0), libc::SEEK_SET) };
    runs
}

/// Gives the memory of a part of a file back to the host. Afterwards the part reads as zeros in
/// every mapping. With `keep_blocks` the disk blocks stay reserved, if the file system can do that.
pub(crate) fn give_back(fd: RawFd, offset: u64, length: u64, keep_blocks: bool) -> Result<()> {
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let zero = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    let modes: &[i32] = if keep_blocks {
        &[zero, punch]
    } else {
        &[punch]
    };
    let mut last = None;
    for mode in modes {
        loop {
            // SAFETY: fallocate has no preconditions.
            if unsafe { libc::fallocate(fd, *mode, offset as i64, length as i64) } == 0 {
                return Ok(());
            }
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINTR) {
                let call = format!("fallocate(mode {mode:#x}, {length} bytes at {offset})");
                last = Some(Error::io(call, &error));
                break;
            }
        }
    }
    last.map_or(Ok(()), Err)
}
