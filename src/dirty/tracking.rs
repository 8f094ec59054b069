//! The tracker of one module: which of its pages were written since the last time it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::kernel::{KernelTracker, Tracker};
use crate::Result;
use crate::page_set::{PageSet, Run};
use crate::sys::host;
use crate::sys::memory::Memory;
use crate::sys::pagemap::Written;

/// What is behind a part of a module's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    /// Private anonymous memory.
    Anonymous,
    /// The same, with nothing in it and in a store that cannot commit.
    Hole,
    /// A private mapping of an image of the store.
    Image,
    /// A shared mapping of a file or memfd.
    Shared,
    /// A private mapping of a file of the caller's, or private huge pages.
    PrivateFile,
}

/// A part of a module.
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

/// The tracker of one module. Its memory, and the spans that make it up, are handed to every call.
pub(crate) enum Tracking {
    Kernel {
        kernel: Arc<KernelTracker>,
        /// The kernel arms so many pages at once: more than one where they are huge, 0 where that is not known.
        granule: u64,
        /// Parts that map an image are not registered yet: that takes away the kernel's fault-around, which
        /// makes first reads about ten times slower, and a clone may never commit. Neither are holes: arming them
        /// takes 10 ns a page, most of what a read-only clone's mapping would cost.
        resting: AtomicBool,
    },
    Caller,
    Compare,
}

impl Tracking {
    /// Puts a module's memory under the kernel tracker. Its pages count as unwritten from now on, but for those
    /// that are private copies of an image's: they count as written when they are first looked for.
    pub(crate) fn kernel(
        kernel: Arc<KernelTracker>,
        granule: u64,
        spans: &[Span],
        memory: &Memory,
    ) -> Result<Self> {
        let tracking = Self::Kernel {
            kernel,
            granule,
            resting: AtomicBool::new(true),
        };
        let begun = spans
            .iter()
            .try_for_each(|span| tracking.begin(memory, *span));
        begun.inspect_err(|_| tracking.stop(memory))?;
        Ok(tracking)
    }

    /// Puts a part of a module under the tracker: one that is new, or was mapped anew.
    pub(crate) fn begin(&self, memory: &Memory, span: Span) -> Result<()> {
        let Self::Kernel {
            kernel, resting, ..
        } = self
        else {
            return Ok(());
        };
        let (address, length) = range(memory, span.pages);
        if resting.load(Ordering::Relaxed) {
            match span.kind {
                // Fresh anonymous memory always can be.
                MemoryKind::Hole => return Ok(()),
                MemoryKind::Image => {
                    // It can be, and will be. Its first page tells: it is one mapping, and to take the whole out
                    // again would walk all of its page tables.
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
                .take_written(address, length, span.written(), |_, _| {})
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

    /// Adds every page that was written since the last collection to `dirty`, and starts anew. A
    /// failure loses nothing: every page is dirty then.
    pub(crate) fn collect(&self, memory: &Memory, spans: &[Span], dirty: &PageSet) -> Result<()> {
        self.add_written(memory, spans, dirty, true)
    }

    /// The same without starting anew, where the kernel can: writing to those pages costs nothing then.
    /// They are collected once more unless they are forgotten.
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
            kernel, resting, ..
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
            let scanned = if arm || !kernel.sees_unarming {
                pagemap.take_written(address, length, written, found)
            } else {
                pagemap.see_written(address, length, written, found)
            };
            // It may have armed pages that it did not come to tell of.
            scanned.inspect_err(|_| {
                adding.add(Run {
                    start: 0,
                    count: memory.length() / page,
                });
            })
        };
        if resting.load(Ordering::Relaxed) {
            for span in spans {
                let (address, length) = range(memory, span.pages);
                match span.kind {
                    MemoryKind::Image => kernel.userfault.register(address, length)?,
                    MemoryKind::Hole => {
                        kernel.userfault.register(address, length)?;
                        // What exists by now was written: writers pause for a restore and an audit, and a store
                        // with holes does nothing else that asks. Looked for first: what arming leaves where no
                        // page is looks like one that was swapped out.
                        scan(span, Written::PrivateCopy, true)?;
                        kernel.userfault.arm(address, length)?;
                    }
                    _ => {}
                }
            }
            resting.store(false, Ordering::Relaxed);
        }
        for span in spans {
            scan(span, span.written(), arm)?;
        }
        Ok(())
    }

    /// Forgets writes to these pages: they were the library's own. Writers are paused, and nothing
    /// else that the tracker knows matters any more.
    pub(crate) fn forget(&self, memory: &Memory, spans: &[Span], runs: &[Run]) -> Result<()> {
        let Self::Kernel {
            kernel,
            granule,
            resting,
        } = self
        else {
            return Ok(());
        };
        let resting = resting.load(Ordering::Relaxed);
        let forget = |pages: Run, span: Span| {
            let (address, length) = range(memory, pages);
            kernel
                .pagemap
                .take_written(address, length, span.written(), |_, _| {})
        };
        let rests =
            |span: &Span| resting && matches!(span.kind, MemoryKind::Image | MemoryKind::Hole);
        for span in spans.iter().filter(|span| !rests(span)) {
            // One call for each run, or one scan over all of them: a call costs about as much as
            // scanning 1024 armed pages. A part of a huge page cannot be armed.
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

    /// Takes the module's memory out of the kernel's hands before it is unmapped.
    pub(crate) fn stop(&self, memory: &Memory) {
        // In a forked child the descriptor is still about the parent's memory.
        if let Self::Kernel { kernel, .. } = self
            && !kernel.marker.forked()
        {
            // The host may have unmapped it already.
            let _ = kernel
                .userfault
                .unregister(memory.address(), memory.length());
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
