//! Trackers: which pages of a module were written since the last time they were asked.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
}

impl KernelTracker {
    /// Opens it, or says why this host has none. The self-test runs once in a process.
    pub(crate) fn open() -> Result<Arc<Self>> {
        // Not a OnceLock: a child that is forked while another thread tests would wait for it for
        // ever. A host where it fails is tested again by the next open.
        static PASSED: AtomicBool = AtomicBool::new(false);
        if !PASSED.load(Ordering::Acquire) {
            self_test::run()?;
            PASSED.store(true, Ordering::Release);
        }
        Ok(Arc::new(Self::new()?))
    }

    fn new() -> Result<Self> {
        Ok(Self {
            marker: ForkMarker::new()?,
            userfault: Userfault::new()?,
            pagemap: PageMap::new()?,
        })
    }
}

/// A part of a module and how its memory is backed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) pages: Run,
    pub(crate) written: Written,
}

/// The tracker of one module.
pub(crate) enum Tracking {
    Kernel {
        kernel: Arc<KernelTracker>,
        spans: Vec<Span>,
    },
    Caller,
    Compare,
}

impl Tracking {
    /// Puts a module's memory under the kernel tracker. Its pages count as unwritten from now on.
    pub(crate) fn kernel(
        kernel: Arc<KernelTracker>,
        spans: Vec<Span>,
        memory: &Memory,
    ) -> Result<Self> {
        kernel
            .userfault
            .register(memory.address(), memory.length())?;
        for span in spans.iter().filter(|span| span.written == Written::Unarmed) {
            let (address, length) = range(memory, span.pages);
            kernel.userfault.arm(address, length)?;
        }
        let tracking = Self::Kernel { kernel, spans };
        tracking.forget(memory, None)?;
        Ok(tracking)
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
    pub(crate) fn collect(&self, memory: &Memory, dirty: &PageSet) -> Result<()> {
        let all = Run {
            start: 0,
            count: memory.length() / host::page_size(),
        };
        match self {
            Self::Caller => Ok(()),
            Self::Compare => {
                dirty.add(all);
                Ok(())
            }
            Self::Kernel { kernel, spans } => {
                let page = host::page_size();
                let base = memory.address() as u64;
                for span in spans {
                    let (address, length) = range(memory, span.pages);
                    let found = |start: u64, end: u64| {
                        dirty.add(Run {
                            start: (start - base) / page,
                            count: (end - start) / page,
                        });
                    };
                    kernel
                        .pagemap
                        .take_written(address, length, span.written, found)
                        .inspect_err(|_| dirty.add(all))?;
                }
                Ok(())
            }
        }
    }

    /// Forgets writes to these pages, or to all: they were the library's own. Writers are paused.
    pub(crate) fn forget(&self, memory: &Memory, runs: Option<&[Run]>) -> Result<()> {
        let Self::Kernel { kernel, spans } = self else {
            return Ok(());
        };
        for span in spans {
            // One call for each run, or one scan over all of them: a call costs about as much as
            // scanning 1024 armed pages.
            match runs {
                Some(runs) if runs.len() as u64 * 1024 < span.pages.count => {
                    for run in runs {
                        let start = run.start.max(span.pages.start);
                        let end = run.end().min(span.pages.end());
                        if start < end {
                            let part = Run {
                                start,
                                count: end - start,
                            };
                            let (address, length) = range(memory, part);
                            kernel.pagemap.take_written(
                                address,
                                length,
                                span.written,
                                |_, _| {},
                            )?;
                        }
                    }
                }
                _ => {
                    let (address, length) = range(memory, span.pages);
                    kernel
                        .pagemap
                        .take_written(address, length, span.written, |_, _| {})?;
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

/// Tries the kernel tracker on memory of its own, because kernels differ in more than their
/// version.
mod self_test {
    use super::{
        Error, KernelTracker, Memory, PageSet, Result, Run, Span, Tracking, Written, host,
    };
    use crate::sys::memory::nameless_file;
    use std::os::fd::AsRawFd;
    use std::sync::Arc;

    fn expect(what: &str, set: &PageSet, wanted: &[Run]) -> Result<()> {
        let got = set.take();
        if got == wanted {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: "the kernel tracker".into(),
            why: format!("its self-test failed: {what}: {got:?} instead of {wanted:?}"),
        })
    }

    pub(super) fn run() -> Result<()> {
        let page = host::page_size();
        // More than two page-table pages' worth, so that one can be dropped as a whole.
        let per_table = page / 8;
        let pages = per_table * 3;
        let memory = Memory::anonymous(0, pages * page)?;
        memory.write(0, &[1]);
        let kernel = Arc::new(KernelTracker::new()?);
        let whole = Run {
            start: 0,
            count: pages,
        };
        let spans = vec![Span {
            pages: whole,
            written: Written::Unarmed,
        }];
        let tracking = Tracking::kernel(kernel, spans, &memory)?;
        let set = PageSet::new(pages)?;
        let one = |start| Run { start, count: 1 };

        tracking.collect(&memory, &set)?;
        expect("nothing was written", &set, &[])?;
        memory.write(0, &[2]);
        memory.write(5 * page, &[2]);
        memory.read(9 * page, &mut [0]);
        memory.write((pages - 1) * page, &[2]);
        tracking.collect(&memory, &set)?;
        expect(
            "three pages were written",
            &set,
            &[one(0), one(5), one(pages - 1)],
        )?;
        memory.write(5 * page, &[3]);
        tracking.collect(&memory, &set)?;
        expect("a page was written again", &set, &[one(5)])?;
        memory.drop_pages(5 * page, page);
        tracking.collect(&memory, &set)?;
        expect("a page was dropped", &set, &[one(5)])?;
        for index in 0..pages {
            memory.write(index * page, &[4]);
        }
        tracking.collect(&memory, &set)?;
        expect("every page was written", &set, &[whole])?;
        memory.drop_pages(0, pages * page);
        tracking.collect(&memory, &set)?;
        expect("every page was dropped", &set, &[whole])?;
        private_file(page)
    }

    /// A private mapping of a file, which is tracked without arming it first.
    fn private_file(page: u64) -> Result<()> {
        let whole = Run { start: 0, count: 8 };
        let memory = Memory::anonymous(0, 8 * page)?;
        let file = nameless_file(8 * page)?;
        memory.map_over(0, 8 * page, file.as_raw_fd(), 0)?;
        memory.write(0, &[1]);
        let kernel = Arc::new(KernelTracker::new()?);
        let spans = vec![Span {
            pages: whole,
            written: Written::PrivateCopy,
        }];
        let tracking = Tracking::kernel(kernel, spans, &memory)?;
        let set = PageSet::new(8)?;
        memory.read(3 * page, &mut [0]);
        tracking.collect(&memory, &set)?;
        expect("a page of a private file was read", &set, &[])?;
        for _ in 0..2 {
            memory.write(3 * page, &[1]);
            memory.write(0, &[2]);
            let wanted = [Run { start: 0, count: 1 }, Run { start: 3, count: 1 }];
            tracking.collect(&memory, &set)?;
            expect("two pages of a private file were written", &set, &wanted)?;
        }
        Ok(())
    }
}
