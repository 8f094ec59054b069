//! Reads from and writes to a descriptor of the caller: a pipe, a socket or a file.

use std::os::fd::RawFd;

use super::descriptor::{BlockedSignal, is, retry};
use crate::{Error, Result};

/// Waits until a non-blocking descriptor is ready.
fn wait(fd: RawFd, events: libc::c_short) -> Result<()> {
    let mut poll = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    retry(
        || format!("poll({fd})"),
        // SAFETY: the struct is ours, and the count is one.
        || unsafe { libc::poll(&raw mut poll, 1, -1) } as isize,
    )
    .map(drop)
}

/// Reads up to `buffer.len()` bytes. Reads fewer only at the end of the stream.
pub(crate) fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let got = retry(
            || format!("read({fd})"),
            // SAFETY: the buffer is ours and of the given length.
            || unsafe { libc::read(fd, rest.as_mut_ptr().cast(), rest.len()) },
        );
        match got {
            Ok(0) => break,
            Ok(got) => done += got as usize,
            Err(error) if is(&error, libc::EAGAIN) => wait(fd, libc::POLLIN)?,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all bytes. A pipe without a reader gives EPIPE and no signal.
pub(crate) fn write(fd: RawFd, bytes: &[u8]) -> Result<()> {
    let blocked = [libc::SIGPIPE, libc::SIGXFSZ].map(BlockedSignal::new);
    let mut rest = bytes;
    while !rest.is_empty() {
        let wrote = retry(
            || format!("write({fd})"),
            // SAFETY: the bytes are ours and of the given length.
            || unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len()) },
        );
        match wrote {
            Ok(wrote) => rest = &rest[wrote as usize..],
            Err(error) if is(&error, libc::EAGAIN) => wait(fd, libc::POLLOUT)?,
            Err(error) => {
                if is(&error, libc::EPIPE) || is(&error, libc::EFBIG) {
                    blocked.iter().for_each(BlockedSignal::take);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Fails if `fd` is not an open descriptor. Callers check this before they begin any work.
pub(crate) fn check(fd: RawFd) -> Result<()> {
    // SAFETY: fcntl(F_GETFD) has no preconditions.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(Error::invalid(
            format!("fd {fd}"),
            "it must be an open descriptor",
        ));
    }
    Ok(())
}
