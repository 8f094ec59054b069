//! The kernel tracker: userfaultfd write protection and the page map of this process.

use crate::Result;
use crate::sys::fork::ForkMarker;
use crate::sys::memory::Memory;
use crate::sys::pagemap::PageMap;
use crate::sys::userfault::Userfault;

/// How writes to a module are found.
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

/// What the kernel tracker needs, opened once for a store.
pub(crate) struct KernelTracker {
    pub(super) marker: ForkMarker,
    pub(super) userfault: Userfault,
    pub(super) pagemap: PageMap,
    /// A scan that does not arm finds all that one that arms finds; on some kernels it overlooks pages
    /// that were dropped.
    pub(super) sees_unarming: bool,
}

impl KernelTracker {
    /// Finds out whether memory can be put under it, and leaves it as it was.
    pub(crate) fn try_out(&self, memory: &Memory) -> Result<()> {
        let (address, length) = (memory.address(), memory.length());
        self.userfault.register(address, length)?;
        self.userfault.unregister(address, length)
    }

    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            marker: ForkMarker::new()?,
            userfault: Userfault::new()?,
            pagemap: PageMap::new()?,
            sees_unarming: true,
        })
    }
}
