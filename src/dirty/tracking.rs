//! The tracker of one module. It reports which pages of the module were written since the last
//! collection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::kernel::{KernelTracker, Tracker};
use crate::Result;
use crate::page_set::{PageSet, Run};
use crate::sys::host;
use crate::sys::memory::Memory;
use crate::sys::pagemap::Written;

/// What backs a part of a module's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    /// Private anonymous memory.
    Anonymous,
    /// Private anonymous memory without content, in a store that cannot commit.
    Hole,
    /// A private mapping of an image file of the store.
    Image,
    /// A shared mapping of a file or memfd.
    Shared,
    /// A private mapping of a file of the caller, or private huge pages.
    PrivateFile,
}

/// A part of a module's memory that is backed in one way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) pages: Run,
    pub(crate) kind: MemoryKind,
}

impl Span {
    fn written(self) -> Written {
        match self.kind {
            MemoryKind::Image => Written::PrivateCopy,
            _ => Written::Unarmed,
        }
    }
}

/// The tracker of one module. Every call gets the module's memory and the spans that make up the
/// memory.
pub(crate) enum Tracking {
    Kernel {
        kernel: Arc<KernelTracker>,
        /// How many pages the kernel arms at once: more than one for huge pages, 0 if unknown.
        granule: u64,
        /// Image spans and holes are not registered yet. The first scan registers them. Registering
        /// an image span turns the kernel's fault-around off, which makes first reads about ten
        /// times slower, and a clone may never commit. Arming a hole takes 10 ns a page, which
        /// would be most of the time for mapping a read-only clone.
        deferred: AtomicBool,
    },
    Caller,
    Compare,
}

impl Tracking {
    /// Puts a module's memory under the kernel tracker. From now on its pages count as unwritten.
    /// Private copies of image pages are an exception: the first scan reports them as written.
    pub(crate) fn kernel(
        kernel: Arc<KernelTracker>,
        granule: u64,
        spans: &[Span],
        memory: &Memory,
    ) -> Result<Self> {
        let tracking = Self::Kernel {
            kernel,
            granule,
            deferred: AtomicBool::new(true),
        };
        let begun = spans
            .iter()
            .try_for_each(|span| tracking.begin(memory, *span));
        begun.inspect_err(|_| tracking.stop(memory))?;
        Ok(tracking)
    }

    /// Puts a span that is new or was mapped again under the tracker.
    pub(crate) fn begin(&self, memory: &Memory, span: Span) -> Result<()> {
        let Self::Kernel {
            kernel, deferred, ..
        } = self
        else {
            return Ok(());
        };
        let (address, length) = range(memory, span.pages);
        if deferred.load(Ordering::Relaxed) {
            match span.kind {
                // New anonymous memory can always be registered later.
                MemoryKind::Hole => return Ok(()),
                MemoryKind::Image => {
                    // Only checks that the span can be registered later. The span is one mapping,
                    // so its first page is enough. Unregistering the whole span would walk all of
                    // its page tables.
                    let first = host::page_size();
                    kernel.userfault.register(address, first)?;
                    return kernel.userfault.unregister(address, first);
                }
                _ => {}
            }
        }
        kernel.userfault.register(address, length)?;
        let armed = match span.written() {
            Written::Unarmed => kernel.userfault.arm(address, length),
            Written::PrivateCopy => Ok(()),
        };
        let begun = armed.and_then(|()| {
            kernel
                .pagemap
                .scan_and_arm(address, length, span.written(), |_, _| {})
        });
        begun.inspect_err(|_| drop(kernel.userfault.unregister(address, length)))
    }

    pub(crate) fn name(&self) -> Tracker {
        match self {
            Self::Kernel { .. } => Tracker::Kernel,
            Self::Caller => Tracker::Caller,
            Self::Compare => Tracker::Compare,
        }
    }

    /// Adds every page that was written since the last collection to `dirty`, and arms those pages
    /// again. If a scan fails, all pages are added to `dirty`, so no write is lost.
    pub(crate) fn collect(&self, memory: &Memory, spans: &[Span], dirty: &PageSet) -> Result<()> {
        self.add_written(memory, spans, dirty, true)
    }

    /// The same without arming the pages again, if the kernel can do that. Further writes to those
    /// pages cause no faults. The next collection reports the pages again, unless `forget` was
    /// called for them.
    pub(crate) fn peek_dirty(
        &self,
        memory: &Memory,
        spans: &[Span],
        dirty: &PageSet,
    ) -> Result<()> {
        self.add_written(memory, spans, dirty, false)
    }

    fn add_written(
        &self,
        memory: &Memory,
        spans: &[Span],
        dirty: &PageSet,
        arm: bool,
    ) -> Result<()> {
        let Self::Kernel {
            kernel, deferred, ..
        } = self
        else {
            return Ok(());
        };
        let page = host::page_size();
        let shift = page.trailing_zeros();
        let base = memory.address() as u64;
        let adding = dirty.adding();
        let scan = |span: &Span, written: Written, arm: bool| {
            let (address, length) = range(memory, span.pages);
            let mut gathering = adding.gathering();
            let found = |start: u64, end: u64| {
                gathering.add(Run {
                    start: (start - base) >> shift,
                    count: (end - start) >> shift,
                });
            };
            let pagemap = &kernel.pagemap;
            let scanned = if arm || !kernel.complete_without_arming {
                pagemap.scan_and_arm(address, length, written, found)
            } else {
                pagemap.scan(address, length, written, found)
            };
            // A scan that fails may have armed pages that it has not reported.
            scanned.inspect_err(|_| {
                adding.add(Run {
                    start: 0,
                    count: memory.length() / page,
                });
            })
        };
        if deferred.load(Ordering::Relaxed) {
            for span in spans {
                let (address, length) = range(memory, span.pages);
                match span.kind {
                    MemoryKind::Image => kernel.userfault.register(address, length)?,
                    MemoryKind::Hole => {
                        kernel.userfault.register(address, length)?;
                        // Every page that exists by now was written. Only a restore and an audit
                        // scan a store with holes, and writers pause for both. The scan comes
                        // before the arming, because arming a missing page makes it look like a
                        // page that was swapped out.
                        scan(span, Written::PrivateCopy, true)?;
                        kernel.userfault.arm(address, length)?;
                    }
                    _ => {}
                }
            }
            deferred.store(false, Ordering::Relaxed);
        }
        for span in spans {
            scan(span, span.written(), arm)?;
        }
        Ok(())
    }

    /// Forgets writes to these pages, because the library itself made them. Writers are paused. The
    /// tracker may forget other writes too: its caller does not need them any more.
    pub(crate) fn forget(&self, memory: &Memory, spans: &[Span], runs: &[Run]) -> Result<()> {
        let Self::Kernel {
            kernel,
            granule,
            deferred,
        } = self
        else {
            return Ok(());
        };
        let deferred = deferred.load(Ordering::Relaxed);
        let forget = |pages: Run, span: Span| {
            let (address, length) = range(memory, pages);
            kernel
                .pagemap
                .scan_and_arm(address, length, span.written(), |_, _| {})
        };
        let is_deferred =
            |span: &Span| deferred && matches!(span.kind, MemoryKind::Image | MemoryKind::Hole);
        for span in spans.iter().filter(|span| !is_deferred(span)) {
            // Makes one call for each run, or one scan over the whole span. A call costs about as
            // much as scanning 1024 armed pages. A part of a huge page cannot be armed.
            let may_be_huge = *granule == 0 && span.kind != MemoryKind::Anonymous;
            if may_be_huge || runs.len() as u64 * 1024 >= span.pages.count {
                forget(span.pages, *span)?;
                continue;
            }
            for run in runs {
                let granule = (*granule).max(1);
                let start = run.start / granule * granule;
                let end = run.end().next_multiple_of(granule);
                let (start, end) = (start.max(span.pages.start), end.min(span.pages.end()));
                if start < end {
                    let count = end - start;
                    forget(Run { start, count }, *span)?;
                }
            }
        }
        Ok(())
    }

    /// Unregisters the module's memory before it is unmapped.
    pub(crate) fn stop(&self, memory: &Memory) {
        // In a forked child the descriptor still refers to the parent's memory.
        if let Self::Kernel { kernel, .. } = self {
            if !kernel.marker.forked() {
                // The host may have unmapped it already.
                let _ = kernel
                    .userfault
                    .unregister(memory.address(), memory.length());
            }
        }
    }
}

fn range(memory: &Memory, pages: Run) -> (usize, u64) {
    let page = host::page_size();
    (
        memory.address() + (pages.start * page) as usize,
        pages.count * page,
    )
}
