//! Guest memory: mapped here, and copied to and from, never referred to.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::{Error, Result};

/// A mapped range that the guest writes to. All offsets are checked against its length.
pub(crate) struct Memory {
    base: *mut u8,
    length: u64,
}

// SAFETY: the range is only touched through bounds-checked copies; that the bytes race with the
// guest is the caller's affair, who pauses writers when the bytes matter.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Maps `length` bytes, at exactly `address` unless it is 0.
fn map(address: usize, length: u64, flags: i32, fd: RawFd) -> Result<*mut u8> {
    let fixed = if address == 0 {
        0
    } else {
        libc::MAP_FIXED_NOREPLACE
    };
    // SAFETY: without MAP_FIXED no existing mapping is touched.
    let base = unsafe {
        libc::mmap(
            std::ptr::without_provenance_mut(address),
            length as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            flags | fixed,
            fd,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        let error = std::io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EEXIST) => Error::Exists {
                what: format!("address {address:#x}"),
                why: format!("something is mapped in the {length} bytes from there").into(),
            },
            Some(libc::ENOMEM) => Error::NoMemory {
                what: format!("mmap({length} bytes)").into(),
            },
            _ => Error::io(
                format!("mmap(address {address:#x}, {length} bytes)"),
                &error,
            ),
        });
    }
    if address != 0 && base.addr() != address {
        // A kernel before 4.17 takes the flag for a hint.
        // SAFETY: the mapping was just made and nobody knows it.
        unsafe { libc::munmap(base, length as usize) };
        return Err(Error::Exists {
            what: format!("address {address:#x}"),
            why: "something is mapped there".into(),
        });
    }
    Ok(base.cast())
}

impl Memory {
    /// Private memory that reads as zeros.
    pub(crate) fn anonymous(address: usize, length: u64) -> Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        Ok(Self {
            base: map(address, length, flags, -1)?,
            length,
        })
    }

    /// The first `length` bytes of a file, shared with everybody who maps it.
    pub(crate) fn shared(address: usize, length: u64, fd: RawFd) -> Result<Self> {
        Ok(Self {
            base: map(address, length, libc::MAP_SHARED, fd)?,
            length,
        })
    }

    /// Lays a part of a file over a part of this memory, copy-on-write. Page-aligned; the file
    /// has those bytes and keeps them (files of the store are immutable).
    pub(crate) fn map_over(
        &self,
        offset: u64,
        length: u64,
        fd: RawFd,
        file_offset: u64,
    ) -> Result<()> {
        self.check(offset, length);
        // SAFETY: the range is inside this mapping, which is ours to replace.
        let at = unsafe {
            libc::mmap(
                self.base.add(offset as usize).cast(),
                length as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                fd,
                file_offset as i64,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(Error::last_os(format!(
                "mmap(MAP_FIXED, {length} bytes at {offset})"
            )));
        }
        Ok(())
    }

    pub(crate) fn address(&self) -> usize {
        self.base.addr()
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Stops a wrong range before it becomes a wild pointer. Ranges come from page numbers that
    /// were bounded before; this is the last line.
    fn check(&self, offset: u64, length: u64) {
        assert!(
            offset
                .checked_add(length)
                .is_some_and(|end| end <= self.length),
            "{length} bytes at {offset} are outside of a module of {} bytes",
            self.length
        );
    }

    /// Copies out of guest memory.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) {
        self.check(offset, to.len() as u64);
        // SAFETY: the range was checked, and the buffer is ours and does not overlap guest memory.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.add(offset as usize),
                to.as_mut_ptr(),
                to.len(),
            );
        }
    }

    /// Copies into guest memory.
    pub(crate) fn write(&self, offset: u64, from: &[u8]) {
        self.check(offset, from.len() as u64);
        // SAFETY: as in `read`.
        unsafe {
            std::ptr::copy_nonoverlapping(
                from.as_ptr(),
                self.base.add(offset as usize),
                from.len(),
            );
        }
    }

    /// Writes zeros into guest memory.
    pub(crate) fn zero(&self, offset: u64, length: u64) {
        self.check(offset, length);
        // SAFETY: the range was checked.
        unsafe { std::ptr::write_bytes(self.base.add(offset as usize), 0, length as usize) };
    }

    /// Gives pages back to the host: anonymous ones read as zeros afterwards, file-backed ones as
    /// the file.
    pub(crate) fn drop_pages(&self, offset: u64, length: u64) {
        self.check(offset, length);
        // SAFETY: the range was checked.
        unsafe {
            let at = self.base.add(offset as usize).cast();
            libc::madvise(at, length as usize, libc::MADV_DONTNEED);
        }
    }

    /// Whether guest memory has these bytes.
    pub(crate) fn equals(&self, offset: u64, bytes: &[u8]) -> bool {
        self.check(offset, bytes.len() as u64);
        // SAFETY: both ranges are readable; memcmp makes no reference.
        unsafe {
            libc::memcmp(
                self.base.add(offset as usize).cast(),
                bytes.as_ptr().cast(),
                bytes.len(),
            ) == 0
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the range is this object's own mapping, including what was laid over it.
        unsafe { libc::munmap(self.base.cast(), self.length as usize) };
    }
}

/// A file without a name, of `length` zero bytes.
pub(crate) fn nameless_file(length: u64) -> Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let fd = unsafe { libc::memfd_create(c"vmstore".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(Error::last_os("memfd_create"));
    }
    // SAFETY: the kernel just made it, and nobody else has it.
    let own = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ftruncate has no preconditions.
    if unsafe { libc::ftruncate(fd, length as i64) } != 0 {
        return Err(Error::last_os(format!("ftruncate(memfd, {length})")));
    }
    Ok(own)
}

/// Memory of the library's own for captured pages: reserved once, touched as it is needed, kept.
pub(crate) struct Arena {
    map: memmap2::MmapMut,
    touched: usize,
}

impl Arena {
    /// Reserves up to `limit` bytes, less where the host refuses that much.
    pub(crate) fn new(limit: u64) -> Result<Self> {
        let mut length = limit as usize;
        loop {
            match memmap2::MmapOptions::new()
                .len(length)
                .no_reserve_swap()
                .map_anon()
            {
                Ok(map) => {
                    // Fewer, larger faults when it is first used; refused where the kernel has no
                    // huge pages.
                    let _ = map.advise(memmap2::Advice::HugePage);
                    return Ok(Self { map, touched: 0 });
                }
                Err(_) if length > 1 << 20 => length /= 2,
                Err(error) => {
                    return Err(Error::io(format!("mmap(arena of {length} bytes)"), &error));
                }
            }
        }
    }

    /// Reserves `length` bytes, or fails.
    pub(crate) fn of_exactly(length: u64) -> Result<Self> {
        let arena = Self::new(length)?;
        if (arena.capacity() as u64) < length {
            return Err(Error::NoMemory {
                what: format!("{length} bytes for pages").into(),
            });
        }
        Ok(arena)
    }

    /// The bytes it may hold.
    pub(crate) fn capacity(&self) -> usize {
        self.map.len()
    }

    /// The bytes that were ever used, which is what it costs.
    pub(crate) fn touched(&self) -> usize {
        self.touched
    }

    /// Room from `start`, of `length` bytes.
    pub(crate) fn room(&mut self, start: usize, length: usize) -> &mut [u8] {
        self.touched = self.touched.max(start + length);
        &mut self.map[start..start + length]
    }

    /// What was put there.
    pub(crate) fn bytes(&self, start: usize, length: usize) -> &[u8] {
        &self.map[start..start + length]
    }

    /// Touches the first `length` bytes now, so that the first capture need not.
    pub(crate) fn warm(&mut self, length: usize) {
        let length = length.min(self.map.len());
        if self.touched < length {
            // A kernel before 5.14 does not know it; the pages are then touched when they are used.
            let _ = self
                .map
                .advise_range(memmap2::Advice::PopulateWrite, 0, length);
            self.touched = length;
        }
    }
}
