//! The kernel tracker: userfaultfd write protection and the page map of this process.

use crate::Result;
use crate::sys::fork::ForkMarker;
use crate::sys::memory::Memory;
use crate::sys::pagemap::PageMap;
use crate::sys::userfault::Userfault;

/// How the library finds the pages of a module that were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Tracker {
    /// userfaultfd and `PAGEMAP_SCAN`.
    Kernel = 1,
    /// The caller reports every write.
    Caller = 2,
    /// Every capture compares all memory with the last commit.
    Compare = 3,
}

/// The kernel objects of the kernel tracker. A store opens them once.
pub(crate) struct KernelTracker {
    pub(super) marker: ForkMarker,
    pub(super) userfault: Userfault,
    pub(super) pagemap: PageMap,
    /// A scan that does not arm reports the same pages as a scan that arms. On some kernels it
    /// misses pages that were dropped.
    pub(super) complete_without_arming: bool,
}

impl KernelTracker {
    /// Checks that memory can be registered with this tracker. The memory stays unregistered.
    pub(crate) fn check_memory(&self, memory: &Memory) -> Result<()> {
        let (address, length) = (memory.address(), memory.length());
        self.userfault.register(address, length)?;
        self.userfault.unregister(address, length)
    }

    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            marker: ForkMarker::new()?,
            userfault: Userfault::new()?,
            pagemap: PageMap::new()?,
            complete_without_arming: true,
        })
    }
}
