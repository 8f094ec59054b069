//! A mapped module: its memory, its tracker, and the set of pages known to be dirty.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;

use crate::dirty::{KernelTracker, Span, Tracker, Tracking};
use crate::page::{PageSet, Run};
use crate::sys::fs::File;
use crate::sys::host;
use crate::sys::memory::Memory;
use crate::sys::pagemap::Written;
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
}

/// A module in this process. Its address, size and dirty set can be used without a lock.
pub(crate) struct MappedModule {
    pub(crate) id: String,
    pub(crate) mode: MapMode,
    pub(crate) memory: Memory,
    pub(crate) tracking: Tracking,
    pub(crate) tracker_reason: String,
    /// Pages that the tracker does not know to be dirty any more, or never did: marked ones, and
    /// those of failed and cancelled captures.
    pub(crate) dirty: PageSet,
    /// Bytes that come straight from an image and were not verified.
    pub(crate) unverified: u64,
    /// The backing file in shared mode.
    file: Option<Arc<dyn File>>,
}

/// Memory that was filled with the head's bytes, and waits for its tracker.
pub(crate) struct Filled {
    pub(crate) id: String,
    pub(crate) mode: MapMode,
    pub(crate) memory: Memory,
    /// The parts that are a private mapping of an image.
    pub(crate) from_image: Vec<Run>,
    pub(crate) unverified: u64,
    pub(crate) file: Option<Arc<dyn File>>,
}

/// The kernel tracker of the store, or why there is none.
pub(crate) type Kernel = std::result::Result<Arc<KernelTracker>, Error>;

impl MappedModule {
    /// Puts a tracker on filled memory. `wanted` `None` takes the best that works.
    pub(crate) fn new(filled: Filled, wanted: Option<Tracker>, kernel: &Kernel) -> Result<Self> {
        let pages = filled.memory.length() / host::page_size();
        let dirty = PageSet::new(pages)?;
        let (tracking, tracker_reason) = match wanted {
            Some(Tracker::Caller) => (Tracking::Caller, "the caller asked for it".to_owned()),
            Some(Tracker::Compare) => (Tracking::Compare, "the caller asked for it".to_owned()),
            Some(Tracker::Kernel) | None => {
                let started = kernel.clone().and_then(|kernel| {
                    Tracking::kernel(kernel, spans(pages, &filled.from_image), &filled.memory)
                });
                match started {
                    Ok(tracking) => (tracking, "its self-test passed".to_owned()),
                    Err(error) if wanted.is_some() => {
                        return Err(Error::Unsupported {
                            what: format!("the kernel tracker for module \"{}\"", filled.id),
                            why: error.to_string(),
                        });
                    }
                    Err(error) => (Tracking::Compare, format!("no kernel tracker: {error}")),
                }
            }
        };
        Ok(Self {
            id: filled.id,
            mode: filled.mode,
            memory: filled.memory,
            tracking,
            tracker_reason,
            dirty,
            unverified: filled.unverified,
            file: filled.file,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.memory.length()
    }

    pub(crate) fn fd(&self) -> Result<RawFd> {
        self.file
            .as_ref()
            .and_then(|file| file.descriptor())
            .ok_or_else(|| Error::Unsupported {
                what: format!("a descriptor of module \"{}\"", self.id),
                why: "it is mapped in private mode; VMSTORE_MAP_SHARED has one".into(),
            })
    }

    /// Adds the pages that a range of bytes touches to the dirty ones.
    pub(crate) fn mark_dirty(&self, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size());
        let Some(end) = end else {
            return Err(Error::invalid(
                format!("offset {offset}, length {length}"),
                format!(
                    "the range must end within module \"{}\" of {} bytes",
                    self.id,
                    self.size()
                ),
            ));
        };
        if length > 0 {
            let page = host::page_size();
            let start = offset / page;
            self.dirty.add(Run {
                start,
                count: end.div_ceil(page) - start,
            });
        }
        Ok(())
    }

    /// Adds what the tracker saw to the dirty pages.
    pub(crate) fn collect(&self) -> Result<()> {
        self.tracking.collect(&self.memory, &self.dirty).map_err(|error| {
            if error.errno() == libc::EPERM {
                return Error::invalid(
                    format!("module \"{}\"", self.id),
                    "its memory is no longer the mapping that the library made: something was mapped over it",
                );
            }
            error
        })
    }
}

impl Drop for MappedModule {
    fn drop(&mut self) {
        self.tracking.stop(&self.memory);
    }
}

/// The parts of a module by the way in which the kernel tracker has to look at them.
fn spans(pages: u64, from_image: &[Run]) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut next = 0;
    for run in from_image {
        if next < run.start {
            let pages = Run {
                start: next,
                count: run.start - next,
            };
            spans.push(Span {
                pages,
                written: Written::Unarmed,
            });
        }
        spans.push(Span {
            pages: *run,
            written: Written::PrivateCopy,
        });
        next = run.end();
    }
    if next < pages {
        let pages = Run {
            start: next,
            count: pages - next,
        };
        spans.push(Span {
            pages,
            written: Written::Unarmed,
        });
    }
    spans
}
