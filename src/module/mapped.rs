//! A mapped module in this process: its memory, its tracker, and the set of pages known to be
//! dirty.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::dirty::{KernelTracker, MemoryKind, Span, Tracker, Tracking};
use crate::page_set::{PageSet, Run};
use crate::sys::fs::File;
use crate::sys::memory::Memory;
use crate::sys::{host, memfd};
use crate::{Error, Result};

/// How a module is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum MapMode {
    /// Anonymous memory. The head's image is mapped over it, copy-on-write.
    #[default]
    Private = 0,
    /// A shared mapping of the backing file.
    Shared = 1,
    /// A shared mapping of a memfd. The library makes the memfd, or the caller passes it.
    Memfd = 2,
    /// Memory that the caller has mapped.
    Adopt = 4,
}

/// The descriptor of a module's memory.
pub(crate) enum Descriptor {
    /// No descriptor: the module is private or adopted.
    None,
    /// The backing file.
    File(Arc<dyn File>),
    /// A memfd that the library made.
    Own(OwnedFd),
    /// A copy of the caller's descriptor, the offset of the module in the file, and the device and
    /// inode of the file.
    Borrowed(OwnedFd, u64, (u64, u64)),
}

impl Descriptor {
    /// The descriptor, and the offset of the module in its file.
    pub(crate) fn raw(&self) -> Option<(RawFd, u64)> {
        match self {
            Self::None => None,
            Self::File(file) => file.descriptor().map(|fd| (fd, 0)),
            Self::Own(fd) => Some((fd.as_raw_fd(), 0)),
            Self::Borrowed(fd, offset, _) => Some((fd.as_raw_fd(), *offset)),
        }
    }
}

/// A module in this process. Its address, size and dirty set can be used without the store's lock.
pub(crate) struct MappedModule {
    pub(crate) id: String,
    pub(crate) mode: MapMode,
    /// How the memory got its bytes, as text.
    pub(crate) mode_reason: String,
    pub(crate) memory: Memory,
    pub(super) tracking: Tracking,
    pub(crate) tracker_reason: String,
    /// The caller asked for `AUTO`, and the kernel tracker could not be used.
    pub(crate) fell_back: bool,
    /// The caller has writers that the tracker cannot see.
    pub(crate) foreign_writers: bool,
    /// The parts of the memory, in order and without gaps. An empty list: the module was unmapped.
    pub(super) spans: RwLock<Vec<Span>>,
    /// Dirty pages that the tracker will not report: pages that the caller marked, and pages of
    /// failed and cancelled captures.
    pub(crate) dirty: PageSet,
    /// How many bytes were mapped from an image without being verified.
    pub(crate) unverified: u64,
    pub(crate) descriptor: Descriptor,
    /// The page size of the memory in bytes: larger than the host's for huge pages.
    pub(crate) granule: u64,
    /// A hole in the descriptor's file is a page that was never touched and is zero.
    holes_are_zero: bool,
}

/// Memory that has the head's bytes and does not have its tracker yet.
pub(crate) struct Populated {
    pub(crate) id: String,
    pub(crate) mode: MapMode,
    pub(crate) mode_reason: String,
    pub(crate) memory: Memory,
    pub(crate) spans: Vec<Span>,
    pub(crate) unverified: u64,
    pub(crate) descriptor: Descriptor,
    pub(crate) granule: u64,
    /// A hole in the descriptor's file is a page that was never touched and is zero.
    pub(crate) holes_are_zero: bool,
    /// Pages that may differ from the head, because the memory had bytes before it was mapped.
    pub(crate) dirty: Vec<Run>,
}

/// The kernel tracker of the store, or why the store has none.
pub(crate) type Kernel = std::result::Result<Arc<KernelTracker>, Error>;

impl MappedModule {
    /// Puts a tracker on populated memory. If `wanted` is `None`, the best tracker that works is
    /// used.
    pub(crate) fn new(
        populated: Populated,
        wanted: Option<Tracker>,
        foreign_writers: bool,
        kernel: &Kernel,
    ) -> Result<Self> {
        let page = host::page_size();
        let dirty = PageSet::new(populated.memory.length() / page)?;
        dirty.add_all(&populated.dirty);
        let asked = || "the caller asked for it".to_owned();
        let mut fell_back = false;
        let (tracking, tracker_reason) = match wanted {
            Some(Tracker::Caller) => (Tracking::Caller, asked()),
            Some(Tracker::Compare) => (Tracking::Compare, asked()),
            Some(Tracker::Kernel) | None => {
                let started = kernel.clone().and_then(|kernel| {
                    let granule = match populated.mode {
                        MapMode::Adopt => 0,
                        _ => populated.granule / page,
                    };
                    Tracking::kernel(kernel, granule, &populated.spans, &populated.memory)
                });
                match started {
                    Ok(tracking) => (tracking, "its self-test passed".to_owned()),
                    Err(error) if wanted.is_some() || error.errno() == libc::EBUSY => {
                        return Err(no_kernel_tracker(&populated.id, &error));
                    }
                    Err(error) => {
                        fell_back = true;
                        (Tracking::Compare, format!("no kernel tracker: {error}"))
                    }
                }
            }
        };
        Ok(Self {
            id: populated.id,
            mode: populated.mode,
            mode_reason: populated.mode_reason,
            memory: populated.memory,
            tracking,
            tracker_reason,
            fell_back,
            foreign_writers,
            spans: RwLock::new(populated.spans),
            dirty,
            unverified: populated.unverified,
            descriptor: populated.descriptor,
            granule: populated.granule,
            holes_are_zero: populated.holes_are_zero,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.memory.length()
    }

    pub(crate) fn pages(&self) -> u64 {
        self.size() / host::page_size()
    }

    /// All pages of the module.
    pub(crate) fn whole(&self) -> Run {
        Run {
            start: 0,
            count: self.pages(),
        }
    }

    pub(crate) fn tracker(&self) -> Tracker {
        self.tracking.name()
    }

    /// Whether pages that no tracker reports have to be compared with the head.
    pub(crate) fn compares(&self) -> bool {
        self.foreign_writers || self.tracker() == Tracker::Compare
    }

    /// The pages that may be other than zero. Reading the other pages would allocate memory for the
    /// holes of a memfd.
    pub(crate) fn populated(&self) -> Vec<Run> {
        match self.descriptor.raw() {
            Some((fd, offset)) if self.holes_are_zero => memfd::data_runs(fd, offset, self.size()),
            _ => vec![self.whole()],
        }
    }

    /// The descriptor of the module's memory, and the offset of the module in its file.
    pub(crate) fn fd(&self) -> Result<(RawFd, u64)> {
        self.descriptor.raw().ok_or_else(|| Error::Unsupported {
            what: format!("a descriptor of module \"{}\"", self.id),
            why: "private and adopted modules have none; map the module with VMSTORE_MAP_SHARED or VMSTORE_MAP_MEMFD".into(),
        })
    }

    /// The pages that a range of bytes touches. `None`: the range is empty.
    fn pages_of(&self, offset: u64, length: u64) -> Result<Option<Run>> {
        let size = self.size();
        let Some(end) = offset.checked_add(length).filter(|end| *end <= size) else {
            return Err(Error::invalid(
                format!("offset {offset}, length {length}"),
                format!(
                    "the range must end within module \"{}\" of {size} bytes",
                    self.id
                ),
            ));
        };
        let page = host::page_size();
        let start = offset / page;
        Ok((length > 0).then(|| Run {
            start,
            count: end.div_ceil(page) - start,
        }))
    }

    /// The pages of a range of bytes that must consist of whole pages.
    pub(super) fn whole_pages_of(&self, offset: u64, length: u64) -> Result<Option<Run>> {
        let page = host::page_size();
        if offset % page != 0 || length % page != 0 {
            return Err(Error::invalid(
                format!("offset {offset}, length {length}"),
                format!("both must be multiples of the page size, {page}"),
            ));
        }
        self.pages_of(offset, length)
    }

    /// Adds the pages that a range of bytes touches to the dirty pages.
    pub(crate) fn mark_dirty(&self, offset: u64, length: u64) -> Result<()> {
        if let Some(run) = self.pages_of(offset, length)? {
            self.dirty.add(run);
        }
        Ok(())
    }

    /// Adds the pages whose bits are set to the dirty pages. Each bit stands for one page, from
    /// `offset` on.
    pub(crate) fn import_bitmap(
        &self,
        offset: u64,
        page_count: u64,
        bitmap: impl Iterator<Item = u64>,
    ) -> Result<()> {
        let length = page_count
            .checked_mul(host::page_size())
            .ok_or_else(|| Error::invalid(format!("page_count {page_count}"), "it is too large"))?;
        if let Some(run) = self.whole_pages_of(offset, length)? {
            self.dirty.adding().add_bitmap(run.start, run.count, bitmap);
        }
        Ok(())
    }

    /// Adds the pages that the tracker reports to the dirty pages.
    pub(crate) fn collect(&self) -> Result<()> {
        let spans = self.spans.read();
        let collected = self.tracking.collect(&self.memory, &spans, &self.dirty);
        explain_scan_error(&self.id, collected)
    }

    /// The same, for a caller that is about to write to those pages. The tracker does not arm the
    /// pages again, so the caller's writes cause no faults. The tracker reports the pages again
    /// until `forget` is called.
    pub(crate) fn peek_dirty(&self) -> Result<()> {
        let spans = self.spans.read();
        let peeked = self.tracking.peek_dirty(&self.memory, &spans, &self.dirty);
        explain_scan_error(&self.id, peeked)
    }

    /// Forgets writes to these pages, because the library itself made them. Writers are paused.
    pub(crate) fn forget(&self, runs: &[Run]) -> Result<()> {
        self.tracking.forget(&self.memory, &self.spans.read(), runs)
    }

    /// Ends the library's use of the memory, which may be the caller's. After this no thread that
    /// still has the module can change the memory through the library. Waits for a discard that is
    /// running.
    pub(crate) fn retire(&self) {
        let mut spans = self.spans.write();
        if !spans.is_empty() {
            spans.clear();
            self.tracking.stop(&self.memory);
        }
    }

    /// Makes memory that was mapped after the module's end a part of the module. If the new
    /// pages may have other bytes than zeros, the caller passes `dirty`. A failure changes nothing.
    pub(crate) fn grow(&self, size: u64, kind: MemoryKind, dirty: bool) -> Result<()> {
        let page = host::page_size();
        let (old, new) = (self.pages(), size / page);
        let added = Run {
            start: old,
            count: new - old,
        };
        let mut spans = self.spans.write();
        spans.try_reserve(1).map_err(|_| Error::NoMemory {
            what: "a module's parts".into(),
        })?;
        self.dirty.grow(new)?;
        let span = Span { pages: added, kind };
        self.tracking.begin(&self.memory, span)?;
        match spans.last_mut() {
            Some(last) if last.kind == kind => last.pages.count += added.count,
            _ => spans.push(span),
        }
        if dirty {
            self.dirty.add(added);
        }
        self.memory.grow(size);
        Ok(())
    }
}

/// Checks that the kernel tracker works on memory that has bytes already. Callers make this check
/// before they change those bytes.
pub(crate) fn check_tracker(
    id: &str,
    memory: &Memory,
    wanted: Option<Tracker>,
    kernel: &Kernel,
) -> Result<()> {
    if !matches!(wanted, None | Some(Tracker::Kernel)) {
        return Ok(());
    }
    match kernel
        .clone()
        .and_then(|kernel| kernel.check_memory(memory))
    {
        Err(error) if wanted.is_some() || error.errno() == libc::EBUSY => {
            Err(no_kernel_tracker(id, &error))
        }
        _ => Ok(()),
    }
}

/// Explains the error of a scan of module `id`.
fn explain_scan_error(id: &str, outcome: Result<()>) -> Result<()> {
    outcome.map_err(|error| {
        if error.errno() == libc::EPERM {
            return Error::invalid(
                format!("module \"{id}\""),
                "a part of its memory is no longer under the library's userfaultfd: something was mapped over it",
            );
        }
        error
    })
}

fn no_kernel_tracker(id: &str, error: &Error) -> Error {
    Error::Unsupported {
        what: format!("the kernel tracker for module \"{id}\""),
        why: if error.errno() == libc::EBUSY {
            "another userfaultfd has a part of the range; use VMSTORE_TRACKER_CALLER and report the writes that \
             the other userfaultfd sees, or use VMSTORE_TRACKER_COMPARE"
                .into()
        } else {
            error.to_string()
        },
    }
}

impl Drop for MappedModule {
    fn drop(&mut self) {
        self.retire();
    }
}
