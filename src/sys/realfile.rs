//! A regular file on a real file system, through pread, pwritev and fdatasync. No call raises
//! SIGXFSZ.

use std::ffi::c_int;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::descriptor::{retry, without_size_signal};
use super::fs::{File, Place};
use crate::{Error, Result};

/// Turns the error of a call into a sync error. After a failed sync, data may be lost that was
/// written earlier.
pub(super) fn as_sync(result: Result<isize>) -> Result<()> {
    match result {
        Err(Error::Io { operation, errno }) => Err(Error::Sync { operation, errno }),
        other => other.map(drop),
    }
}

/// A regular file of the store.
pub(super) struct RealFile {
    fd: OwnedFd,
    place: Place,
}

impl RealFile {
    pub(super) fn new(fd: OwnedFd, place: Place) -> Self {
        Self { fd, place }
    }

    /// Makes a call that may exceed the file size limit.
    fn growing(
        &self,
        what: &str,
        at: u64,
        length: u64,
        call: impl FnMut() -> isize,
    ) -> Result<isize> {
        without_size_signal(
            || format!("{what}({}, {length} bytes at {at})", self.place),
            call,
        )
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            let (length, at) = (rest.len(), offset + done as u64);
            let got = retry(
                || format!("pread({}, {length} bytes at {at})", self.place),
                // SAFETY: the buffer is ours and of the given length.
                || unsafe {
                    libc::pread(
                        self.fd.as_raw_fd(),
                        rest.as_mut_ptr().cast(),
                        length,
                        at as i64,
                    )
                },
            )?;
            if got == 0 {
                break;
            }
            done += got as usize;
        }
        Ok(done)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> Result<()> {
        let mut offset = offset;
        let mut left: Vec<IoSlice<'_>> = slices.iter().filter(|s| !s.is_empty()).copied().collect();
        let mut left: &mut [IoSlice<'_>] = &mut left;
        while !left.is_empty() {
            let batch = &left[..left.len().min(libc::UIO_MAXIOV as usize)];
            let bytes = batch.iter().map(|s| s.len() as u64).sum();
            let wrote = self.growing("pwritev", offset, bytes, || {
                // SAFETY: IoSlice has the layout of iovec, and the slices outlive the call.
                unsafe {
                    libc::pwritev(
                        self.fd.as_raw_fd(),
                        batch.as_ptr().cast(),
                        batch.len() as c_int,
                        offset as i64,
                    )
                }
            })?;
            if wrote == 0 {
                return Err(Error::Io {
                    operation: format!("pwritev({}, wrote nothing at {offset})", self.place),
                    errno: libc::EIO,
                });
            }
            offset += wrote as u64;
            IoSlice::advance_slices(&mut left, wrote as usize);
        }
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        // SAFETY: all-zero is a value of this plain struct.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the struct is ours.
        if unsafe { libc::fstat(self.fd.as_raw_fd(), &raw mut stat) } != 0 {
            return Err(Error::last_os(format!("fstat({})", self.place)));
        }
        Ok(stat.st_size as u64)
    }

    fn set_len(&self, length: u64) -> Result<()> {
        // SAFETY: ftruncate has no preconditions.
        self.growing("ftruncate", 0, length, || unsafe {
            libc::ftruncate(self.fd.as_raw_fd(), length as i64) as isize
        })
        .map(drop)
    }

    fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> Result<()> {
        let mode = if keep_size {
            libc::FALLOC_FL_KEEP_SIZE
        } else {
            0
        };
        // SAFETY: fallocate has no preconditions.
        self.growing("fallocate", offset, length, || unsafe {
            libc::fallocate(self.fd.as_raw_fd(), mode, offset as i64, length as i64) as isize
        })
        .map(drop)
    }

    fn share(&self, other: &dyn File, from: u64, length: u64, at: u64) -> bool {
        let Some(other) = other.descriptor() else {
            return false;
        };
        let range = libc::file_clone_range {
            src_fd: other.into(),
            src_offset: from,
            src_length: length,
            dest_offset: at,
        };
        // The caller copies the bytes after any failure here. If the copy fails too, the copy's
        // error says why.
        // SAFETY: the struct is ours.
        self.growing("ioctl(FICLONERANGE)", at, length, || unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                libc::FICLONERANGE as _,
                &raw const range,
            ) as isize
        })
        .is_ok()
    }

    fn begin_sync(&self) {
        // Without the WAIT flags the call does not consume a write error: fdatasync still reports
        // the error.
        // SAFETY: sync_file_range has no preconditions.
        unsafe { libc::sync_file_range(self.fd.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
    }

    fn sync(&self) -> Result<()> {
        // SAFETY: fdatasync has no preconditions.
        as_sync(retry(
            || format!("fdatasync({})", self.place),
            || unsafe { libc::fdatasync(self.fd.as_raw_fd()) } as isize,
        ))
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.fd.as_raw_fd())
    }
}
