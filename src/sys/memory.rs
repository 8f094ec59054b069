//! Guest memory, mapped by the library or by its caller. The bytes are only copied; no reference to
//! them is ever made.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use super::mappings;
use crate::{Error, Result};

/// A range to which the guest writes. All offsets are checked against its length.
pub(crate) struct Memory {
    base: *mut u8,
    /// The length grows and never shrinks.
    length: AtomicU64,
    /// How much address space from `base` belongs to this object. At least `length`.
    claimed: AtomicU64,
    on_drop: OnDrop,
}

/// What happens to the address space when the object is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnDrop {
    /// The library claimed it and unmaps it.
    Unmap,
    /// It is a reservation of the caller and becomes a reservation again.
    GiveBack,
    /// It is memory of the caller and stays as it is.
    Leave,
}

/// At which address memory is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spot {
    /// At an address that the kernel chooses.
    Anywhere,
    /// At this address. Nothing may be mapped there.
    Free(usize),
    /// At this address, in a range that the caller has reserved as private anonymous memory without
    /// any access.
    Reserved(usize),
}

/// What is mapped into a part of a [`Memory`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Backing {
    /// Private memory that reads as zeros.
    Anonymous,
    /// A part of a file from this offset, copy-on-write. The file has all of these bytes and
    /// does not change.
    Private(RawFd, u64),
    /// A part of a file from this offset, shared with every other mapping of the file.
    Shared(RawFd, u64),
}

// SAFETY: the range is only accessed through bounds-checked copies. The guest may write at the same
// time. The caller pauses writers when the bytes matter.
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
        // A kernel before 4.17 treats the address as a hint.
        // SAFETY: the mapping was just made, and no other code has its address.
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

/// Unmaps address space that `claim` has returned.
fn unclaim(base: *mut u8, length: u64) {
    if length > 0 {
        // SAFETY: the range was claimed by `claim`, and no code uses it any more.
        unsafe { libc::munmap(base.cast(), length as usize) };
    }
}

impl Memory {
    /// Claims address space for `length` bytes, which can grow up to `room` bytes later. The range
    /// cannot be read or written until something is mapped into it. `align` is a power of two.
    pub(crate) fn claim(spot: Spot, length: u64, room: u64, align: u64) -> Result<Self> {
        let room = room.max(length);
        let (base, claimed, on_drop) = match spot {
            Spot::Anywhere if align > super::host::page_size() => {
                let whole = room.checked_add(align).ok_or_else(|| Error::NoMemory {
                    what: format!("address space of {room} bytes").into(),
                })?;
                let base = claim(0, whole)?;
                let skip = base.addr().next_multiple_of(align as usize) - base.addr();
                // SAFETY: both lie within the mapping just made, which is `align` bytes longer than
                // `room`.
                let (aligned, behind) = unsafe { (base.add(skip), base.add(skip + room as usize)) };
                unclaim(base, skip as u64);
                unclaim(behind, align - skip as u64);
                (aligned, room, OnDrop::Unmap)
            }
            Spot::Anywhere => (claim(0, room)?, room, OnDrop::Unmap),
            Spot::Free(address) => (claim(address, room)?, room, OnDrop::Unmap),
            Spot::Reserved(address) => {
                mappings::check_reservation(address, length)?;
                let base = std::ptr::with_exposed_provenance_mut(address);
                (base, length, OnDrop::GiveBack)
            }
        };
        Ok(Self {
            base,
            length: AtomicU64::new(length),
            claimed: AtomicU64::new(claimed),
            on_drop,
        })
    }

    /// Uses memory that the caller has mapped, readable and writable, and keeps mapped.
    pub(crate) fn adopt(address: usize, length: u64) -> Self {
        Self {
            base: std::ptr::with_exposed_provenance_mut(address),
            length: AtomicU64::new(length),
            claimed: AtomicU64::new(length),
            on_drop: OnDrop::Leave,
        }
    }

    /// Maps private memory at any address. It reads as zeros.
    pub(crate) fn anonymous(length: u64) -> Result<Self> {
        let memory = Self::claim(Spot::Anywhere, length, length, 1)?;
        memory.map(0, length, Backing::Anonymous)?;
        Ok(memory)
    }

    /// Maps `backing` into a part of the claimed range and replaces what was mapped there. The part
    /// is page-aligned.
    pub(crate) fn map(&self, offset: u64, length: u64, backing: Backing) -> Result<()> {
        let inside = offset.checked_add(length);
        let claimed = self.claimed.load(Ordering::Relaxed);
        assert!(
            self.on_drop != OnDrop::Leave && inside.is_some_and(|end| end <= claimed),
            "{length} bytes at {offset} are not claimed"
        );
        let (flags, fd, from) = match backing {
            Backing::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
            Backing::Private(fd, from) => (libc::MAP_PRIVATE, fd, from),
            Backing::Shared(fd, from) => (libc::MAP_SHARED, fd, from),
        };
        // Without MAP_NORESERVE the kernel reserves the huge pages of shared memory when they are
        // mapped.
        let noreserve = match backing {
            Backing::Shared(..) => 0,
            _ => libc::MAP_NORESERVE,
        };
        // SAFETY: the range lies inside the claimed range, whose mappings this object may replace.
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

    /// Makes sure that the object has address space for `length` bytes, and that nothing is mapped
    /// in it after the present length. Adopted memory is not checked: the caller has mapped it.
    pub(crate) fn claim_behind(&self, length: u64) -> Result<()> {
        let claimed = self.claimed.load(Ordering::Relaxed);
        let have = self.length();
        if length <= have {
            return Ok(());
        }
        let behind = self.address() + have as usize;
        match self.on_drop {
            OnDrop::Leave => return Ok(()),
            OnDrop::GiveBack => mappings::check_reservation(behind, length - have)?,
            OnDrop::Unmap if length <= claimed => return Ok(()),
            OnDrop::Unmap => {
                claim(self.address() + claimed as usize, length - claimed)?;
            }
        }
        self.claimed.fetch_max(length, Ordering::Relaxed);
        Ok(())
    }

    /// Undoes `map` after the present length. That address space has no access again.
    pub(crate) fn unmap_behind(&self) {
        let (have, claimed) = (self.length(), self.claimed.load(Ordering::Relaxed));
        if self.on_drop != OnDrop::Leave && have < claimed {
            // SAFETY: the range is claimed, and no code uses memory after the length.
            unsafe { give_back(self.base.add(have as usize), claimed - have) };
        }
        if self.on_drop == OnDrop::GiveBack {
            self.claimed.store(have, Ordering::Relaxed);
        }
    }

    /// Makes what is mapped after the present length a part of the memory.
    pub(crate) fn grow(&self, length: u64) {
        assert!(self.on_drop == OnDrop::Leave || length <= self.claimed.load(Ordering::Relaxed));
        self.length.fetch_max(length, Ordering::Release);
    }

    pub(crate) fn address(&self) -> usize {
        self.base.addr()
    }

    pub(crate) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Panics for a range outside of the memory, before the range becomes a wild pointer. Callers
    /// have checked their page numbers before; this check is the last one.
    fn check(&self, offset: u64, length: u64) {
        let whole = self.length();
        assert!(
            offset.checked_add(length).is_some_and(|end| end <= whole),
            "{length} bytes at {offset} are outside of a module of {whole} bytes"
        );
    }

    /// Copies bytes out of guest memory. During a precopy the guest may write at the same time.
    /// Such bytes are copied again later, and nothing uses them before.
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

    /// Copies bytes into guest memory.
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

    /// Drops pages and gives their memory back to the host. Afterwards anonymous pages read as
    /// zeros, and file-backed pages read as the file. Fails on locked memory.
    pub(crate) fn drop_pages(&self, offset: u64, length: u64) -> Result<()> {
        self.advise(offset, length, libc::MADV_DONTNEED, "MADV_DONTNEED")
    }

    /// Punches a hole into the file of a shared part and gives its memory back to the host. The
    /// part reads as zeros in every mapping. Fails on locked memory, and if the file system has no
    /// holes.
    pub(crate) fn remove_pages(&self, offset: u64, length: u64) -> Result<()> {
        self.advise(offset, length, libc::MADV_REMOVE, "MADV_REMOVE")
    }

    fn advise(&self, offset: u64, length: u64, advice: i32, name: &str) -> Result<()> {
        self.check(offset, length);
        loop {
            // SAFETY: the range was checked. The advice drops bytes, which is what the caller asked
            // for.
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

    /// Whether guest memory has these bytes at `offset`.
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

/// Replaces the mappings of a range by address space without access.
///
/// # Safety
/// The caller may replace these mappings, and no code uses what is in them.
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
        match self.on_drop {
            OnDrop::Unmap => unclaim(self.base, claimed),
            // SAFETY: the range is a reservation that the caller has lent to this object.
            OnDrop::GiveBack => unsafe { give_back(self.base, claimed) },
            OnDrop::Leave => {}
        }
    }
}
