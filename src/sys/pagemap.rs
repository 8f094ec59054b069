//! The PAGEMAP_SCAN ioctl (Linux 6.7). One scan reports which pages of a range were written since
//! they were last armed (write-protected), and can arm those pages again.

use std::fs::File;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use parking_lot::Mutex;

use super::descriptor;
use crate::{Error, Result};

// Numbers of linux/fs.h.
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const PM_SCAN_WP_MATCHING: u64 = 1;
const PM_SCAN_CHECK_WPASYNC: u64 = 2;
const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// The regions that one call of the ioctl can report. With this number scattered pages need few
/// calls.
const REGIONS: usize = 1024;

/// Which pages a scan counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// For memory that was armed as a whole: all pages that are not armed any more. Pages that the
    /// host dropped (MADV_DONTNEED) count too, because their bytes changed.
    Unarmed,
    /// For a private file mapping that was never armed as a whole: all pages that are private
    /// copies and were not armed since they were copied. Arming such a mapping as a whole would
    /// give every page its own entry in the page table.
    PrivateCopy,
}

/// /proc/self/pagemap. The file stays bound to the process that opened it.
pub(crate) struct PageMap {
    file: OwnedFd,
    /// The buffer for the result of the ioctl. It is kept, and a capture need not allocate it.
    regions: Mutex<Vec<Region>>,
}

impl PageMap {
    pub(crate) fn new() -> Result<Self> {
        let file = File::open("/proc/self/pagemap")
            .map_err(|error| Error::io("open(/proc/self/pagemap)", &error))?;
        let none = Region {
            start: 0,
            end: 0,
            categories: 0,
        };
        Ok(Self {
            file: descriptor::take(file.into_raw_fd())?,
            regions: Mutex::new(vec![none; REGIONS]),
        })
    }

    /// Calls `found` with each written range of addresses, in order, and arms those pages again.
    /// Fails with EPERM if the range is not registered, or not any more.
    pub(crate) fn scan_and_arm(
        &self,
        start: usize,
        length: u64,
        written: Written,
        found: impl FnMut(u64, u64),
    ) -> Result<()> {
        self.scan_with(start, length, written, PM_SCAN_WP_MATCHING, found)
    }

    /// The same without arming. The next scan reports those pages again, and further writes to them
    /// cause no faults.
    pub(crate) fn scan(
        &self,
        start: usize,
        length: u64,
        written: Written,
        found: impl FnMut(u64, u64),
    ) -> Result<()> {
        self.scan_with(start, length, written, 0, found)
    }

    fn scan_with(
        &self,
        start: usize,
        length: u64,
        written: Written,
        arm_flag: u64,
        mut found: impl FnMut(u64, u64),
    ) -> Result<()> {
        let mut regions = self.regions.lock();
        let end = start as u64 + length;
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            flags: arm_flag | PM_SCAN_CHECK_WPASYNC,
            start: start as u64,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: REGIONS as u64,
            max_pages: 0,
            category_inverted: 0,
            category_mask: PAGE_IS_WRITTEN,
            category_anyof_mask: 0,
            return_mask: PAGE_IS_WRITTEN,
        };
        if written == Written::PrivateCopy {
            argument.category_inverted = PAGE_IS_FILE | PAGE_IS_PFNZERO;
            argument.category_mask |= PAGE_IS_FILE | PAGE_IS_PFNZERO;
            argument.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
        }
        while argument.start < end {
            // SAFETY: the argument and its vector outlive the call, and vec_len is the length of
            // the vector.
            let got =
                unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN as _, &raw mut argument) };
            if got < 0 {
                let error = std::io::Error::last_os_error();
                if error.raw_os_error() == Some(libc::EINTR) {
                    continue;
                }
                return Err(Error::io("ioctl(PAGEMAP_SCAN)", &error));
            }
            for region in &regions[..(got as usize).min(REGIONS)] {
                found(region.start, region.end);
            }
            if argument.walk_end <= argument.start {
                return Err(Error::Internal {
                    what: "the ioctl PAGEMAP_SCAN made no progress".into(),
                });
            }
            argument.start = argument.walk_end;
        }
        Ok(())
    }
}
