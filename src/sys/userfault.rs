//! userfaultfd in asynchronous write-protect mode. The kernel notes the first write to each armed
//! page, and the writer goes on at once. No thread has to handle faults.

use std::os::fd::{AsRawFd, OwnedFd};

use super::descriptor;
use crate::{Error, Result};

// Numbers of linux/userfaultfd.h.
const UFFD_USER_MODE_ONLY: i32 = 1;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;

#[repr(C)]
struct Api {
    version: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdRange {
    start: u64,
    length: u64,
}

#[repr(C)]
struct Register {
    range: UffdRange,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    range: UffdRange,
    mode: u64,
}

/// A userfaultfd.
pub(crate) struct Userfault(OwnedFd);

impl Userfault {
    /// Opens a userfaultfd that needs no privilege and tracks writes asynchronously.
    pub(crate) fn new() -> Result<Self> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: the system call takes flags only.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd < 0 {
            return Err(Error::last_os("userfaultfd(UFFD_USER_MODE_ONLY)"));
        }
        let own = Self(descriptor::take(fd as i32)?);
        let mut api = Api {
            version: UFFD_API,
            features: UFFD_FEATURE_WP_ASYNC
                | UFFD_FEATURE_WP_UNPOPULATED
                | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
            ioctls: 0,
        };
        own.call("UFFDIO_API(WP_ASYNC, WP_UNPOPULATED)", UFFDIO_API, &mut api)?;
        Ok(own)
    }

    fn call<T>(&self, name: &str, request: u64, argument: &mut T) -> Result<()> {
        loop {
            // SAFETY: each request gets a struct of its own type, and the struct outlives the call.
            let result = unsafe {
                libc::ioctl(
                    self.0.as_raw_fd(),
                    request as _,
                    std::ptr::from_mut(argument),
                )
            };
            if result >= 0 {
                return Ok(());
            }
            let error = std::io::Error::last_os_error();
            // EAGAIN: another thread was changing the memory map.
            if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) {
                return Err(Error::io(format!("ioctl({name})"), &error));
            }
        }
    }

    /// Registers a range for write tracking. No page is armed yet.
    pub(crate) fn register(&self, address: usize, length: u64) -> Result<()> {
        let range = UffdRange {
            start: address as u64,
            length,
        };
        let mut argument = Register {
            range,
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        self.call("UFFDIO_REGISTER(WP)", UFFDIO_REGISTER, &mut argument)
    }

    pub(crate) fn unregister(&self, address: usize, length: u64) -> Result<()> {
        let mut argument = UffdRange {
            start: address as u64,
            length,
        };
        self.call("UFFDIO_UNREGISTER", UFFDIO_UNREGISTER, &mut argument)
    }

    /// Arms every page of a range, including pages that do not exist yet.
    pub(crate) fn arm(&self, address: usize, length: u64) -> Result<()> {
        let range = UffdRange {
            start: address as u64,
            length,
        };
        let mut argument = WriteProtect {
            range,
            mode: UFFDIO_WRITEPROTECT_MODE_WP,
        };
        self.call(
            "UFFDIO_WRITEPROTECT(WP)",
            UFFDIO_WRITEPROTECT,
            &mut argument,
        )
    }
}
