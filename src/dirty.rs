//! Trackers: which pages of a module were written since the last time they were asked.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::page::{PageSet, Run};
use crate::sys::fork::ForkMarker;
use crate::sys::host;
use crate::sys::memory::Memory;
use crate::sys::pagemap::{PageMap, Written};
use crate::sys::userfault::Userfault;
use crate::{Error, Result};

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
    marker: ForkMarker,
    userfault: Userfault,
    pagemap: PageMap,
    /// A scan that does not arm finds all that one that arms finds; on some kernels it overlooks pages
    /// that were dropped.
    sees_unarming: bool,
}

impl KernelTracker {
    /// Opens it, or says why this host has none. The self-test runs once in a process.
    pub(crate) fn open() -> Result<Arc<Self>> {
        // Not a OnceLock: a child that is forked while another thread tests would wait for it for
        // ever. A host where it fails is tested again by the next open.
        static PASSED: AtomicU8 = AtomicU8::new(0);
        const BLIND: u8 = 1;
        const SEEING: u8 = 2;
        #[cfg(test)]
        if let Some(kernel) = shared::tracker() {
            return Ok(kernel);
        }
        let mut kernel = Self::new()?;
        match PASSED.load(Ordering::Acquire) {
            0 => {
                kernel = self_test::run(kernel)?;
                let passed = if kernel.sees_unarming { SEEING } else { BLIND };
                PASSED.store(passed, Ordering::Release);
            }
            passed => kernel.sees_unarming = passed == SEEING,
        }
        Ok(Arc::new(kernel))
    }

    /// Finds out whether memory can be put under it, and leaves it as it was.
    pub(crate) fn try_out(&self, memory: &Memory) -> Result<()> {
        let (address, length) = (memory.address(), memory.length());
        self.userfault.register(address, length)?;
        self.userfault.unregister(address, length)
    }

    fn new() -> Result<Self> {
        Ok(Self {
            marker: ForkMarker::new()?,
            userfault: Userfault::new()?,
            pagemap: PageMap::new()?,
            sees_unarming: true,
        })
    }
}

/// What is behind a part of a module's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
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
    pub(crate) kind: Kind,
}

impl Span {
    fn written(self) -> Written {
        match self.kind {
            Kind::Image => Written::PrivateCopy,
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
                Kind::Hole => return Ok(()),
                Kind::Image => {
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
    pub(crate) fn look(&self, memory: &Memory, spans: &[Span], dirty: &PageSet) -> Result<()> {
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
                    Kind::Image => kernel.userfault.register(address, length)?,
                    Kind::Hole => {
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
        let rests = |span: &Span| resting && matches!(span.kind, Kind::Image | Kind::Hole);
        for span in spans.iter().filter(|span| !rests(span)) {
            // One call for each run, or one scan over all of them: a call costs about as much as
            // scanning 1024 armed pages. A part of a huge page cannot be armed.
            let may_be_huge = *granule == 0 && span.kind != Kind::Anonymous;
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

/// Tries the kernel tracker on memory of its own, because kernels differ in more than their
/// version.
mod self_test {
    use super::{Error, KernelTracker, Kind, Memory, PageSet, Result, Run, Span, Tracking, host};
    use crate::sys::memfd;
    use crate::sys::memory::Backing;
    use std::cell::Cell;
    use std::os::fd::AsRawFd;
    use std::sync::Arc;

    /// A part of a test's memory under a tracker of its own.
    struct Tried {
        memory: Memory,
        spans: [Span; 1],
        tracking: Tracking,
        set: PageSet,
        /// So far, a scan that does not arm found what was to be found.
        sees: Cell<bool>,
    }

    impl Tried {
        fn new(kernel: &Arc<KernelTracker>, memory: Memory, kind: Kind) -> Result<Self> {
            let pages = memory.length() / host::page_size();
            let spans = [Span {
                pages: Run {
                    start: 0,
                    count: pages,
                },
                kind,
            }];
            let tracking = Tracking::kernel(kernel.clone(), 1, &spans, &memory)?;
            let set = PageSet::new(pages)?;
            // Pages that were private copies before count once.
            if kind == Kind::Image {
                tracking.collect(&memory, &spans, &set)?;
                set.take();
            }
            Ok(Self {
                memory,
                spans,
                tracking,
                set,
                sees: Cell::new(true),
            })
        }

        fn expect(&self, what: &str, wanted: &[Run]) -> Result<()> {
            self.tracking.look(&self.memory, &self.spans, &self.set)?;
            if self.set.take() != wanted {
                self.sees.set(false);
            }
            self.tracking
                .collect(&self.memory, &self.spans, &self.set)?;
            let got = self.set.take();
            if got == wanted {
                return Ok(());
            }
            Err(Error::Unsupported {
                what: "the kernel tracker".into(),
                why: format!("its self-test failed: {what}: {got:?} instead of {wanted:?}"),
            })
        }
    }

    impl Drop for Tried {
        fn drop(&mut self) {
            self.tracking.stop(&self.memory);
        }
    }

    fn one(start: u64) -> Run {
        Run { start, count: 1 }
    }

    /// Fails unless the tracker sees every write; finds out whether it does so without arming, too. It is part of
    /// each process's first open, which is to be quick: few scans, and not every page.
    pub(super) fn run(kernel: KernelTracker) -> Result<KernelTracker> {
        let kernel = Arc::new(kernel);
        let sees = [anonymous, private_file, shared_file]
            .into_iter()
            .try_fold(true, |sees, test| Ok(test(&kernel)? && sees))?;
        let kernel = Arc::into_inner(kernel).ok_or_else(|| Error::Internal {
            what: "the kernel tracker is held beyond its self-test".into(),
        })?;
        Ok(KernelTracker {
            sees_unarming: sees,
            ..kernel
        })
    }

    /// Memory that is armed as a whole.
    fn anonymous(kernel: &Arc<KernelTracker>) -> Result<bool> {
        let page = host::page_size();
        // Two page tables' worth, so that one is among them as a whole, wherever they begin.
        let per_table = page / 8;
        let pages = per_table * 2;
        let memory = Memory::anonymous(pages * page)?;
        memory.write(0, &[1]);
        let whole = Run {
            start: 0,
            count: pages,
        };
        let tried = Tried::new(kernel, memory, Kind::Anonymous)?;
        let memory = &tried.memory;

        tried.expect("nothing was written", &[])?;
        memory.write(5 * page, &[2]);
        memory.read(9 * page, &mut [0]);
        for table in 0..2 {
            memory.write(table * per_table * page, &[2]);
            memory.write(((table + 1) * per_table - 1) * page, &[2]);
        }
        let border = Run {
            start: per_table - 1,
            count: 2,
        };
        let wanted = [one(0), one(5), border, one(pages - 1)];
        tried.expect(
            "a page, and the first and last ones of page tables, were written",
            &wanted,
        )?;
        memory.write(5 * page, &[3]);
        memory.drop_pages(per_table * page, page)?;
        tried.expect(
            "a page was written again, and one was dropped",
            &[one(5), one(per_table)],
        )?;
        memory.drop_pages(0, pages * page)?;
        tried.expect("every page was dropped", &[whole])?;
        Ok(tried.sees.get())
    }

    /// A private mapping of a file, which is tracked without arming it first.
    fn private_file(kernel: &Arc<KernelTracker>) -> Result<bool> {
        let page = host::page_size();
        let file = memfd::create("vmstore-self-test", 8 * page, 0)?;
        let memory = Memory::anonymous(8 * page)?;
        memory.map(0, 8 * page, Backing::Private(file.as_raw_fd(), 0))?;
        memory.write(0, &[1]);
        let tried = Tried::new(kernel, memory, Kind::Image)?;
        tried.memory.read(3 * page, &mut [0]);
        tried.expect("a page of a private file was read", &[])?;
        for _ in 0..2 {
            tried.memory.write(3 * page, &[1]);
            tried.memory.write(0, &[2]);
            tried.expect(
                "two pages of a private file were written",
                &[one(0), one(3)],
            )?;
        }
        Ok(tried.sees.get())
    }

    /// A shared mapping, whose pages may lose their entries and are still armed.
    fn shared_file(kernel: &Arc<KernelTracker>) -> Result<bool> {
        let page = host::page_size();
        let file = memfd::create("vmstore-self-test", 8 * page, 0)?;
        let memory = Memory::anonymous(8 * page)?;
        memory.map(0, 8 * page, Backing::Shared(file.as_raw_fd(), 0))?;
        memory.write(0, &[1]);
        let tried = Tried::new(kernel, memory, Kind::Shared)?;
        tried.memory.read(3 * page, &mut [0]);
        tried.expect("a page of a shared file was read", &[])?;
        for _ in 0..2 {
            tried.memory.write(0, &[2]);
            tried.memory.write(3 * page, &[1]);
            tried.expect("two pages of a shared file were written", &[one(0), one(3)])?;
        }
        Ok(tried.sees.get())
    }
}

/// One tracker for all stores of a thread: a third of the time of a search that opens millions of them, and tracks nothing.
#[cfg(test)]
pub(crate) mod shared {
    use super::{Arc, KernelTracker};
    use std::cell::RefCell;

    thread_local! {
        static TRACKER: RefCell<Option<Arc<KernelTracker>>> = const { RefCell::new(None) };
    }

    /// This thread's stores share one from now on, where the host has any.
    pub(crate) fn begin() {
        let kernel = KernelTracker::open().ok();
        TRACKER.with_borrow_mut(|tracker| *tracker = kernel);
    }

    pub(super) fn tracker() -> Option<Arc<KernelTracker>> {
        TRACKER.with_borrow(Clone::clone)
    }
}
