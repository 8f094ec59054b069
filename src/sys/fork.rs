//! Detects, without a system call, that this process is a forked child of the process that made an
//! object.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::{Error, Result};

/// A page that the kernel fills with zeros in every forked child (MADV_WIPEONFORK, Linux 4.14),
/// whichever call makes the child.
pub(crate) struct ForkMarker {
    page: *mut u8,
    length: usize,
}

// SAFETY: the page is written once, before it is shared, and only read afterwards.
unsafe impl Send for ForkMarker {}
// SAFETY: as above.
unsafe impl Sync for ForkMarker {}

impl ForkMarker {
    pub(crate) fn new() -> Result<Self> {
        let length = super::host::page_size() as usize;
        // SAFETY: a new anonymous mapping touches no other memory.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(Error::last_os("mmap(one page)"));
        }
        let marker = Self {
            page: page.cast(),
            length,
        };
        // SAFETY: the range is the mapping made above.
        if unsafe { libc::madvise(page, length, libc::MADV_WIPEONFORK) } != 0 {
            return Err(Error::last_os("madvise(MADV_WIPEONFORK)"));
        }
        // SAFETY: the mapping is writable, and no other code has its address yet.
        unsafe { marker.page.write(1) };
        Ok(marker)
    }

    /// Whether this process is a forked child of the process that made the marker.
    pub(crate) fn forked(&self) -> bool {
        // SAFETY: the page lives as long as `self`. The read is volatile, because fork changes the
        // page without the compiler's knowledge.
        unsafe { self.page.read_volatile() == 0 }
    }
}

impl Drop for ForkMarker {
    fn drop(&mut self) {
        // SAFETY: the range is the marker's own mapping, and no other code uses it.
        unsafe { libc::munmap(self.page.cast(), self.length) };
    }
}

/// Descriptors that hold locks. A lock of flock belongs to the open file description, and a forked
/// child shares that description. A child that outlives its parent would keep the parent's store
/// locked if it did not close these.
static LOCKS: [AtomicI32; 256] = [const { AtomicI32::new(-1) }; 256];

extern "C" fn close_locks_in_child() {
    for lock in &LOCKS {
        let fd = lock.swap(-1, Ordering::Relaxed);
        if fd >= 0 {
            // SAFETY: close is async-signal-safe. The descriptor is the library's, and the parent
            // has its own copy.
            unsafe { libc::close(fd) };
        }
    }
}

/// Makes forked children close `fd`, which must be a descriptor that is used only for a lock. The
/// table has 256 entries. If it is full, a child keeps the descriptor, and the lock lasts as long
/// as the child.
pub(crate) fn close_in_children(fd: i32) {
    // This is not a Once: a child that is forked while a Once runs would wait for ever.
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the handler only calls close. The handler stays valid, because the library is
        // never unloaded (-z nodelete).
        unsafe { libc::pthread_atfork(None, None, Some(close_locks_in_child)) };
    }
    for lock in &LOCKS {
        if lock
            .compare_exchange(-1, fd, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            return;
        }
    }
}

/// Removes a descriptor from the table, before its owner closes it.
pub(crate) fn forget(fd: i32) {
    for lock in &LOCKS {
        let _ = lock.compare_exchange(fd, -1, Ordering::Relaxed, Ordering::Relaxed);
    }
}
