//! Guest memory: mapped here or by the caller, and copied to and from, never referred to.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use super::mappings;
use crate::{Error, Result};

/// A range that the guest writes to. All offsets are checked against its length.
pub(crate) struct Memory {
    base: *mut u8,
    /// Grows, never shrinks.
    length: AtomicU64,
    /// The address space from `base` that is this object's, at least the length.
    claimed: AtomicU64,
    end: End,
}

/// What becomes of the address space at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was claimed here: unmapped.
    Unmap,
    /// It is the caller's reservation, and becomes one again.
    GiveBack,
    /// It is the caller's memory.
    Leave,
}

/// Where memory is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spot {
    /// Where the kernel likes.
    Anywhere,
    /// At this address, where nothing is mapped.
    Free(usize),
    /// At this address, in a range that the caller has reserved: private anonymous memory without any
    /// access.
    Reserved(usize),
}

/// What is mapped into a part of a [`Memory`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Backing {
    /// Private memory that reads as zeros.
    Anonymous,
    /// A part of a file, copy-on-write, from this offset. The file has those bytes and keeps them.
    Private(RawFd, u64),
    /// A part of a file, shared with everybody who maps it, from this offset.
    Shared(RawFd, u64),
}

// SAFETY: the range is only touched through bounds-checked copies; that the bytes race with the
// guest is the caller's affair, who pauses writers when the bytes matter.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Claims address space without any access, at exactly `address` unless it is 0.
fn claim(address: usize, length: u64) -> Result<*mut u8> {
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
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        let error = std::io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::EEXIST) => occupied(address, length),
            Some(libc::ENOMEM) => Error::NoMemory {
                what: format!("address space of {length} bytes").into(),
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
        return Err(occupied(address, length));
    }
    Ok(base.cast())
}

fn occupied(address: usize, length: u64) -> Error {
    Error::Exists {
        what: format!("address {address:#x}"),
        why: format!("something is mapped in the {length} bytes from there").into(),
    }
}

/// Unmaps address space that was claimed here.
fn unclaim(base: *mut u8, length: u64) {
    if length > 0 {
        // SAFETY: the range was claimed by this module and nobody uses it any more.
        unsafe { libc::munmap(base.cast(), length as usize) };
    }
}

impl Memory {
    /// Claims address space for `length` bytes, and for up to `room` bytes later. Nothing can be read or
    /// written there until something is mapped into it. `align` is a power of two.
    pub(crate) fn claim(spot: Spot, length: u64, room: u64, align: u64) -> Result<Self> {
        let room = room.max(length);
        let (base, claimed, end) = match spot {
            Spot::Anywhere if align > super::host::page_size() => {
                let whole = room.checked_add(align).ok_or_else(|| Error::NoMemory {
                    what: format!("address space of {room} bytes").into(),
                })?;
                let base = claim(0, whole)?;
                let skip = base.addr().next_multiple_of(align as usize) - base.addr();
                // SAFETY: within the mapping just made, which is `align` longer than `room`.
                let (aligned, behind) = unsafe { (base.add(skip), base.add(skip + room as usize)) };
                unclaim(base, skip as u64);
                unclaim(behind, align - skip as u64);
                (aligned, room, End::Unmap)
            }
            Spot::Anywhere => (claim(0, room)?, room, End::Unmap),
            Spot::Free(address) => (claim(address, room)?, room, End::Unmap),
            Spot::Reserved(address) => {
                mappings::check_reservation(address, length)?;
                let base = std::ptr::with_exposed_provenance_mut(address);
                (base, length, End::GiveBack)
            }
        };
        Ok(Self {
            base,
            length: AtomicU64::new(length),
            claimed: AtomicU64::new(claimed),
            end,
        })
    }

    /// Takes memory that the caller has mapped, readable and writable, and keeps mapped.
    pub(crate) fn adopt(address: usize, length: u64) -> Self {
        Self {
            base: std::ptr::with_exposed_provenance_mut(address),
            length: AtomicU64::new(length),
            claimed: AtomicU64::new(length),
            end: End::Leave,
        }
    }

    /// Private memory anywhere that reads as zeros.
    pub(crate) fn anonymous(length: u64) -> Result<Self> {
        let memory = Self::claim(Spot::Anywhere, length, length, 1)?;
        memory.map(0, length, Backing::Anonymous)?;
        Ok(memory)
    }

    /// Maps something into a part of the claimed range, in place of what is there. Page-aligned.
    pub(crate) fn map(&self, offset: u64, length: u64, backing: Backing) -> Result<()> {
        let inside = offset.checked_add(length);
        let claimed = self.claimed.load(Ordering::Relaxed);
        assert!(
            self.end != End::Leave && inside.is_some_and(|end| end <= claimed),
            "{length} bytes at {offset} are not claimed"
        );
        let (flags, fd, from) = match backing {
            Backing::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
            Backing::Private(fd, from) => (libc::MAP_PRIVATE, fd, from),
            Backing::Shared(fd, from) => (libc::MAP_SHARED, fd, from),
        };
        // Shared memory is accounted for when it is mapped, so that huge pages are reserved.
        let noreserve = match backing {
            Backing::Shared(..) => 0,
            _ => libc::MAP_NORESERVE,
        };
        // SAFETY: the range is inside the claimed one, which is ours to replace.
        let at = unsafe {
            libc::mmap(
                self.base.add(offset as usize).cast(),
                length as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | noreserve | libc::MAP_FIXED,
                fd,
                from as i64,
            )
        };
        if at != libc::MAP_FAILED {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        Err(match error.raw_os_error() {
            Some(libc::ENOMEM) => Error::NoMemory {
                what: format!("mmap({length} bytes)").into(),
            },
            _ => Error::io(
                format!("mmap(MAP_FIXED, {length} bytes at {offset})"),
                &error,
            ),
        })
    }

    /// Makes sure that there is address space for `length` bytes, which nothing is mapped into yet
    /// behind the present length; for adopted memory, that the caller has mapped it.
    pub(crate) fn claim_behind(&self, length: u64) -> Result<()> {
        let claimed = self.claimed.load(Ordering::Relaxed);
        let have = self.length();
        if length <= have {
            return Ok(());
        }
        let behind = self.address() + have as usize;
        match self.end {
            End::Leave => return Ok(()),
            End::GiveBack => mappings::check_reservation(behind, length - have)?,
            End::Unmap if length <= claimed => return Ok(()),
            End::Unmap => {
                claim(self.address() + claimed as usize, length - claimed)?;
            }
        }
        self.claimed.fetch_max(length, Ordering::Relaxed);
        Ok(())
    }

    /// Undoes `map` behind the present length: address space without access again.
    pub(crate) fn unmap_behind(&self) {
        let (have, claimed) = (self.length(), self.claimed.load(Ordering::Relaxed));
        if self.end != End::Leave && have < claimed {
            // SAFETY: the range is claimed, and behind the length, so that nobody uses it.
            unsafe { give_back(self.base.add(have as usize), claimed - have) };
        }
        if self.end == End::GiveBack {
            self.claimed.store(have, Ordering::Relaxed);
        }
    }

    /// Takes what is mapped behind the present length as part of it.
    pub(crate) fn grow(&self, length: u64) {
        assert!(self.end == End::Leave || length <= self.claimed.load(Ordering::Relaxed));
        self.length.fetch_max(length, Ordering::Release);
    }

    pub(crate) fn address(&self) -> usize {
        self.base.addr()
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Stops a wrong range before it becomes a wild pointer. Ranges come from page numbers that
    /// were bounded before; this is the last line.
    fn check(&self, offset: u64, length: u64) {
        let whole = self.length();
        assert!(
            offset.checked_add(length).is_some_and(|end| end <= whole),
            "{length} bytes at {offset} are outside of a module of {whole} bytes"
        );
    }

    /// Copies out of guest memory. During a precopy the guest may be writing: such bytes are copied
    /// again later, and never interpreted before.
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

    /// Drops pages: anonymous ones read as zeros afterwards, and their memory is the host's again.
    /// File-backed ones read as the file. Fails on locked memory.
    pub(crate) fn drop_pages(&self, offset: u64, length: u64) -> Result<()> {
        self.advise(offset, length, libc::MADV_DONTNEED, "MADV_DONTNEED")
    }

    /// Punches a hole into the file behind a shared part: it reads as zeros in every mapping, and its
    /// memory is the host's again. Fails where the file system cannot, and on locked memory.
    pub(crate) fn remove_pages(&self, offset: u64, length: u64) -> Result<()> {
        self.advise(offset, length, libc::MADV_REMOVE, "MADV_REMOVE")
    }

    fn advise(&self, offset: u64, length: u64, advice: i32, name: &str) -> Result<()> {
        self.check(offset, length);
        loop {
            // SAFETY: the range was checked; the advice drops bytes, and is the caller's will.
            let result = unsafe {
                libc::madvise(
                    self.base.add(offset as usize).cast(),
                    length as usize,
                    advice,
                )
            };
            if result == 0 {
                return Ok(());
            }
            let error = std::io::Error::last_os_error();
            if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
                return Err(Error::io(
                    format!("madvise({name}, {length} bytes at {offset})"),
                    &error,
                ));
            }
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

/// Makes a range address space without access.
///
/// # Safety
/// The range is the caller's to replace, and nobody uses what is in it.
unsafe fn give_back(base: *mut u8, length: u64) {
    // SAFETY: by this function's contract.
    unsafe {
        libc::mmap(
            base.cast(),
            length as usize,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        );
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let claimed = *self.claimed.get_mut();
        match self.end {
            End::Unmap => unclaim(self.base, claimed),
            // SAFETY: the range is the caller's reservation, lent to this object until now.
            End::GiveBack => unsafe { give_back(self.base, claimed) },
            End::Leave => {}
        }
    }
}
