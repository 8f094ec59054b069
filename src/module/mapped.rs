//! A mapped module in this process: its memory, its tracker, and the set of pages known to be dirty.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::dirty::{KernelTracker, MemoryKind, Span, Tracker, Tracking};
use crate::page_set::{PageSet, Run};
use crate::sys::fs::File;
use crate::sys::memory::Memory;
use crate::sys::{host, memfd};
use crate::{Error, Result};

/// Where a module's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum MapMode {
    /// Anonymous memory, over it the head's image copy-on-write.
    #[default]
    Private = 0,
    /// The backing file, shared.
    Shared = 1,
    /// A memfd, made here or the caller's, shared.
    Memfd = 2,
    /// Memory that the caller has mapped.
    Adopt = 4,
}

/// What is behind a shared module.
pub(crate) enum Descriptor {
    /// None: it is private, or adopted.
    None,
    /// The backing file.
    File(Arc<dyn File>),
    /// A memfd that was made here.
    Own(OwnedFd),
    /// A copy of the caller's, from this offset, and the file that it is of.
    Borrowed(OwnedFd, u64, (u64, u64)),
}

impl Descriptor {
    /// The descriptor, and where the module begins in it.
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
    /// How its bytes got there, in words.
    pub(crate) mode_reason: String,
    pub(crate) memory: Memory,
    pub(super) tracking: Tracking,
    pub(crate) tracker_reason: String,
    /// `AUTO` could not take the kernel tracker.
    pub(crate) fell_back: bool,
    /// The caller has writers that the tracker cannot see.
    pub(crate) foreign_writers: bool,
    /// The parts of the memory, in order, without gaps. None: it was unmapped.
    pub(super) spans: RwLock<Vec<Span>>,
    /// Pages that the tracker does not know to be dirty any more, or never did: marked ones, and
    /// those of failed and cancelled captures.
    pub(crate) dirty: PageSet,
    /// Bytes that come straight from an image and were not verified.
    pub(crate) unverified: u64,
    pub(crate) descriptor: Descriptor,
    /// The bytes of one page of its memory: more than the host's where it is of huge pages.
    pub(crate) granule: u64,
    /// Its descriptor tells which pages were never touched.
    holes_are_zero: bool,
}

/// Memory that was filled with the head's bytes, and waits for its tracker.
pub(crate) struct Populated {
    pub(crate) id: String,
    pub(crate) mode: MapMode,
    pub(crate) mode_reason: String,
    pub(crate) memory: Memory,
    pub(crate) spans: Vec<Span>,
    pub(crate) unverified: u64,
    pub(crate) descriptor: Descriptor,
    pub(crate) granule: u64,
    /// Its descriptor tells which pages were never touched.
    pub(crate) holes_are_zero: bool,
    /// Pages that may differ from the head: memory came with bytes of its own.
    pub(crate) dirty: Vec<Run>,
}

/// The kernel tracker of the store, or why there is none.
pub(crate) type Kernel = std::result::Result<Arc<KernelTracker>, Error>;

impl MappedModule {
    /// Puts a tracker on filled memory. `wanted` `None` takes the best that works.
    pub(crate) fn new(
        filled: Populated,
        wanted: Option<Tracker>,
        foreign_writers: bool,
        kernel: &Kernel,
    ) -> Result<Self> {
        let page = host::page_size();
        let dirty = PageSet::new(filled.memory.length() / page)?;
        dirty.add_all(&filled.dirty);
        let asked = || "the caller asked for it".to_owned();
        let mut fell_back = false;
        let (tracking, tracker_reason) = match wanted {
            Some(Tracker::Caller) => (Tracking::Caller, asked()),
            Some(Tracker::Compare) => (Tracking::Compare, asked()),
            Some(Tracker::Kernel) | None => {
                let started = kernel.clone().and_then(|kernel| {
                    let granule = match filled.mode {
                        MapMode::Adopt => 0,
                        _ => filled.granule / page,
                    };
                    Tracking::kernel(kernel, granule, &filled.spans, &filled.memory)
                });
                match started {
                    Ok(tracking) => (tracking, "its self-test passed".to_owned()),
                    Err(error) if wanted.is_some() || error.errno() == libc::EBUSY => {
                        return Err(no_kernel_tracker(&filled.id, &error));
                    }
                    Err(error) => {
                        fell_back = true;
                        (Tracking::Compare, format!("no kernel tracker: {error}"))
                    }
                }
            }
        };
        Ok(Self {
            id: filled.id,
            mode: filled.mode,
            mode_reason: filled.mode_reason,
            memory: filled.memory,
            tracking,
            tracker_reason,
            fell_back,
            foreign_writers,
            spans: RwLock::new(filled.spans),
            dirty,
            unverified: filled.unverified,
            descriptor: filled.descriptor,
            granule: filled.granule,
            holes_are_zero: filled.holes_are_zero,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.memory.length()
    }

    pub(crate) fn pages(&self) -> u64 {
        self.size() / host::page_size()
    }

    /// All of its pages.
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

    /// The pages that may not be zero: reading the others would make memory of a memfd's holes.
    pub(crate) fn populated(&self) -> Vec<Run> {
        match self.descriptor.raw() {
            Some((fd, offset)) if self.holes_are_zero => memfd::data_runs(fd, offset, self.size()),
            _ => vec![self.whole()],
        }
    }

    /// The descriptor of its memory, and where it begins there.
    pub(crate) fn fd(&self) -> Result<(RawFd, u64)> {
        self.descriptor.raw().ok_or_else(|| Error::Unsupported {
            what: format!("a descriptor of module \"{}\"", self.id),
            why: "modules in private mode and adopted ones have none; VMSTORE_MAP_SHARED and VMSTORE_MAP_MEMFD do".into(),
        })
    }

    /// The pages that a range of bytes touches; `None` when it is empty.
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

    /// The pages of a range that must be whole pages.
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

    /// Adds the pages that a range of bytes touches to the dirty ones.
    pub(crate) fn mark_dirty(&self, offset: u64, length: u64) -> Result<()> {
        if let Some(run) = self.pages_of(offset, length)? {
            self.dirty.add(run);
        }
        Ok(())
    }

    /// Adds pages whose bits are set, one bit a page from `offset`.
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

    /// Adds what the tracker saw to the dirty pages.
    pub(crate) fn collect(&self) -> Result<()> {
        let spans = self.spans.read();
        let collected = self.tracking.collect(&self.memory, &spans, &self.dirty);
        self.scanned(collected)
    }

    /// The same ahead of writing to those pages: the tracker goes on reporting them until they are
    /// forgotten, so that the writing costs no faults.
    pub(crate) fn peek_dirty(&self) -> Result<()> {
        let spans = self.spans.read();
        let peeked = self.tracking.peek_dirty(&self.memory, &spans, &self.dirty);
        self.scanned(peeked)
    }

    fn scanned(&self, outcome: Result<()>) -> Result<()> {
        outcome.map_err(|error| {
            if error.errno() == libc::EPERM {
                return Error::invalid(
                    format!("module \"{}\"", self.id),
                    "a part of its memory is no longer under the library's userfaultfd: something was mapped over it",
                );
            }
            error
        })
    }

    /// Forgets writes to these pages: they were the library's own. Writers are paused.
    pub(crate) fn forget(&self, runs: &[Run]) -> Result<()> {
        self.tracking.forget(&self.memory, &self.spans.read(), runs)
    }

    /// Ends the library's say over its memory, which may be the caller's: whoever still holds the module
    /// cannot change a byte of it any more. Waits for a discard under way.
    pub(crate) fn retire(&self) {
        let mut spans = self.spans.write();
        if !spans.is_empty() {
            spans.clear();
            self.tracking.stop(&self.memory);
        }
    }

    /// Takes memory that was mapped behind its end as part of it. Its pages read as zeros, or are
    /// `dirty`. Nothing has happened when it fails.
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

/// Finds out whether memory with bytes of its own can have the kernel tracker that it is to get, before
/// those bytes are touched.
pub(crate) fn check_tracker(
    id: &str,
    memory: &Memory,
    wanted: Option<Tracker>,
    kernel: &Kernel,
) -> Result<()> {
    if !matches!(wanted, None | Some(Tracker::Kernel)) {
        return Ok(());
    }
    match kernel.clone().and_then(|kernel| kernel.try_out(memory)) {
        Err(error) if wanted.is_some() || error.errno() == libc::EBUSY => {
            Err(no_kernel_tracker(id, &error))
        }
        _ => Ok(()),
    }
}

fn no_kernel_tracker(id: &str, error: &Error) -> Error {
    Error::Unsupported {
        what: format!("the kernel tracker for module \"{id}\""),
        why: if error.errno() == libc::EBUSY {
            "another userfaultfd has a part of the range. Choose VMSTORE_TRACKER_CALLER and report what it \
             sees, or VMSTORE_TRACKER_COMPARE"
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
