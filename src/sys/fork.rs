//! Knowing that this process is a fork of the one that made something, without a system call.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::{Error, Result};

/// A page that the kernel fills with zeros in every child (MADV_WIPEONFORK, Linux 4.14), whichever
/// way it is forked.
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
        // SAFETY: the mapping is writable and nobody else knows it yet.
        unsafe { marker.page.write(1) };
        Ok(marker)
    }

    /// Whether this process is a child of the one that made the marker.
    pub(crate) fn forked(&self) -> bool {
        // SAFETY: the page lives as long as `self`; volatile because fork changes it behind the
        // compiler's back.
        unsafe { self.page.read_volatile() == 0 }
    }
}

impl Drop for ForkMarker {
    fn drop(&mut self) {
        // SAFETY: the range is the marker's own mapping, and nobody else has it.
        unsafe { libc::munmap(self.page.cast(), self.length) };
    }
}

/// Descriptors that hold locks. flock belongs to the open file description, which a forked child
/// shares: without this, a child that outlives its parent would keep the parent's store locked.
static LOCKS: [AtomicI32; 256] = [const { AtomicI32::new(-1) }; 256];

extern "C" fn close_locks_in_child() {
    for lock in &LOCKS {
        let fd = lock.swap(-1, Ordering::Relaxed);
        if fd >= 0 {
            // SAFETY: async-signal-safe; the descriptor is the library's, and its owner in the
            // parent has its own copy.
            unsafe { libc::close(fd) };
        }
    }
}

/// Has forked children close `fd`, a descriptor used for nothing but a lock. Beyond 256 stores at
/// once the oldest rule applies: a child that lives on keeps the lock.
pub(crate) fn close_in_children(fd: i32) {
    // Not a Once: a child that is forked meanwhile would wait for it for ever.
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the handler calls close alone. The library is never unloaded (-z nodelete), so
        // it stays valid.
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

/// Forgets a descriptor that is about to be closed.
pub(crate) fn forget(fd: i32) {
    for lock in &LOCKS {
        let _ = lock.compare_exchange(fd, -1, Ordering::Relaxed, Ordering::Relaxed);
    }
}
