//! Rules for all descriptors and calls. Interrupted calls are repeated. No descriptor is 0, 1 or 2.
//! A file size limit gives an error and no signal.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::{Error, Result};

/// Repeats a system call that a signal interrupted, and turns -1 into an error.
pub(super) fn retry(
    operation: impl Fn() -> String,
    mut call: impl FnMut() -> isize,
) -> Result<isize> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result);
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(Error::io(operation(), &error));
        }
    }
}

pub(super) fn is(error: &Error, errno: c_int) -> bool {
    error.errno() == errno
}

/// Takes ownership of a descriptor that the kernel just made, and moves it away from 0, 1 and 2. A
/// host that has closed those descriptors would otherwise print into a file of the store.
pub(super) fn take(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: the kernel just made the descriptor, and nothing else has it.
    let own = unsafe { OwnedFd::from_raw_fd(fd) };
    if own.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(own);
    }
    let above = retry(
        || format!("fcntl({fd}, F_DUPFD_CLOEXEC)"),
        // SAFETY: the descriptor is open.
        || unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1) } as isize,
    )?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(above as RawFd) })
}

/// Blocks a signal in this thread until the value is dropped. A write above RLIMIT_FSIZE (SIGXFSZ),
/// or to a pipe without a reader (SIGPIPE), then fails with an error and does not kill the host.
/// [`BlockedSignal::take`] removes the pending signal, unless the host itself had blocked the
/// signal before.
pub(super) struct BlockedSignal {
    number: c_int,
    signal: libc::sigset_t,
    before: libc::sigset_t,
}

impl BlockedSignal {
    pub(super) fn new(number: c_int) -> Self {
        // SAFETY: all sets are ours; the callers name valid signals.
        unsafe {
            let mut signal: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut signal);
            libc::sigaddset(&raw mut signal, number);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signal, &raw mut before);
            Self {
                number,
                signal,
                before,
            }
        }
    }

    /// Removes the signal that a failed write has left pending.
    pub(super) fn take(&self) {
        // SAFETY: the sets are ours; the wait has a timeout of zero.
        unsafe {
            if libc::sigismember(&raw const self.before, self.number) == 0 {
                let now = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                libc::sigtimedwait(&raw const self.signal, std::ptr::null_mut(), &raw const now);
            }
        }
    }
}

impl Drop for BlockedSignal {
    fn drop(&mut self) {
        // Unblocks this signal only. Another value may have blocked another signal, and values may
        // be dropped in any order.
        // SAFETY: the sets are ours.
        unsafe {
            if libc::sigismember(&raw const self.before, self.number) == 0 {
                libc::pthread_sigmask(
                    libc::SIG_UNBLOCK,
                    &raw const self.signal,
                    std::ptr::null_mut(),
                );
            }
        }
    }
}

/// Makes a call that may exceed the file size limit. The call then fails with EFBIG, without a
/// signal.
pub(super) fn without_size_signal(
    operation: impl Fn() -> String,
    call: impl FnMut() -> isize,
) -> Result<isize> {
    let mask = BlockedSignal::new(libc::SIGXFSZ);
    let result = retry(operation, call);
    if let Err(error) = &result {
        if is(error, libc::EFBIG) {
            mask.take();
        }
    }
    result
}
