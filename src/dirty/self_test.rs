//! The self-test of the kernel tracker. A tracker that misses a write leaves that page out of a
//! commit. The version of a kernel does not show whether its tracker works, so the library tests
//! it.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::kernel::KernelTracker;
use super::tracking::{MemoryKind, Span, Tracking};
use crate::page_set::{PageSet, Run};
use crate::sys::memory::{Backing, Memory};
use crate::sys::{host, memfd};
use crate::{Error, Result};

impl KernelTracker {
    /// Opens the tracker, or says why the host has none. The self-test runs once in a process.
    pub(crate) fn open() -> Result<Arc<Self>> {
        // This is not a OnceLock: a child that is forked while another thread runs the self-test
        // would wait for the lock for ever. After a failure the next open runs the self-test again.
        static RESULT: AtomicU8 = AtomicU8::new(NOT_RUN);
        const NOT_RUN: u8 = 0;
        const COMPLETE_WITH_ARMING: u8 = 1;
        const COMPLETE_WITHOUT_ARMING: u8 = 2;
        #[cfg(test)]
        if let Some(kernel) = shared::tracker() {
            return Ok(kernel);
        }
        let mut kernel = Self::new()?;
        match RESULT.load(Ordering::Acquire) {
            NOT_RUN => {
                kernel = run(kernel)?;
                let result = if kernel.complete_without_arming {
                    COMPLETE_WITHOUT_ARMING
                } else {
                    COMPLETE_WITH_ARMING
                };
                RESULT.store(result, Ordering::Release);
            }
            result => kernel.complete_without_arming = result == COMPLETE_WITHOUT_ARMING,
        }
        Ok(Arc::new(kernel))
    }
}

/// Memory of one test, with its own tracker.
struct TestMemory {
    memory: Memory,
    spans: [Span; 1],
    tracking: Tracking,
    set: PageSet,
    /// So far every scan without arming has reported all written pages.
    complete_without_arming: Cell<bool>,
}

impl TestMemory {
    fn new(kernel: &Arc<KernelTracker>, memory: Memory, kind: MemoryKind) -> Result<Self> {
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
        // Pages that were private copies before tracking began are reported once.
        if kind == MemoryKind::Image {
            tracking.collect(&memory, &spans, &set)?;
            set.take();
        }
        Ok(Self {
            memory,
            spans,
            tracking,
            set,
            complete_without_arming: Cell::new(true),
        })
    }

    fn expect(&self, what: &str, wanted: &[Run]) -> Result<()> {
        self.tracking
            .peek_dirty(&self.memory, &self.spans, &self.set)?;
        if self.set.take() != wanted {
            self.complete_without_arming.set(false);
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

impl Drop for TestMemory {
    fn drop(&mut self) {
        self.tracking.stop(&self.memory);
    }
}

fn one(start: u64) -> Run {
    Run { start, count: 1 }
}

/// Fails unless the tracker reports every write. Also finds out whether a scan without arming
/// reports every write. The first open of each process runs this test and must be quick, so the
/// test makes few scans and does not write every page.
pub(super) fn run(kernel: KernelTracker) -> Result<KernelTracker> {
    let kernel = Arc::new(kernel);
    let complete_without_arming = [anonymous, private_file, shared_file]
        .into_iter()
        .try_fold(true, |complete, test| Ok(test(&kernel)? && complete))?;
    let kernel = Arc::into_inner(kernel).ok_or_else(|| Error::Internal {
        what: "the kernel tracker is still in use after its self-test".into(),
    })?;
    Ok(KernelTracker {
        complete_without_arming,
        ..kernel
    })
}

/// Memory that is armed as a whole.
fn anonymous(kernel: &Arc<KernelTracker>) -> Result<bool> {
    let page = host::page_size();
    // The pages of two page tables. At any address this range contains one whole page table.
    let per_table = page / 8;
    let pages = per_table * 2;
    let memory = Memory::anonymous(pages * page)?;
    memory.write(0, &[1]);
    let whole = Run {
        start: 0,
        count: pages,
    };
    let test = TestMemory::new(kernel, memory, MemoryKind::Anonymous)?;
    let memory = &test.memory;

    test.expect("nothing was written", &[])?;
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
    test.expect(
        "a page, and the first and last ones of page tables, were written",
        &wanted,
    )?;
    memory.write(5 * page, &[3]);
    memory.drop_pages(per_table * page, page)?;
    test.expect(
        "a page was written again, and one was dropped",
        &[one(5), one(per_table)],
    )?;
    memory.drop_pages(0, pages * page)?;
    test.expect("every page was dropped", &[whole])?;
    Ok(test.complete_without_arming.get())
}

/// A private mapping of a file. It is tracked without being armed first.
fn private_file(kernel: &Arc<KernelTracker>) -> Result<bool> {
    let page = host::page_size();
    let file = memfd::create("vmstore-self-test", 8 * page, 0)?;
    let memory = Memory::anonymous(8 * page)?;
    memory.map(0, 8 * page, Backing::Private(file.as_raw_fd(), 0))?;
    memory.write(0, &[1]);
    let test = TestMemory::new(kernel, memory, MemoryKind::Image)?;
    test.memory.read(3 * page, &mut [0]);
    test.expect("a page of a private file was read", &[])?;
    for _ in 0..2 {
        test.memory.write(3 * page, &[1]);
        test.memory.write(0, &[2]);
        test.expect(
            "two pages of a private file were written",
            &[one(0), one(3)],
        )?;
    }
    Ok(test.complete_without_arming.get())
}

/// A shared mapping. Its pages may lose their page table entries and stay armed.
fn shared_file(kernel: &Arc<KernelTracker>) -> Result<bool> {
    let page = host::page_size();
    let file = memfd::create("vmstore-self-test", 8 * page, 0)?;
    let memory = Memory::anonymous(8 * page)?;
    memory.map(0, 8 * page, Backing::Shared(file.as_raw_fd(), 0))?;
    memory.write(0, &[1]);
    let test = TestMemory::new(kernel, memory, MemoryKind::Shared)?;
    test.memory.read(3 * page, &mut [0]);
    test.expect("a page of a shared file was read", &[])?;
    for _ in 0..2 {
        test.memory.write(0, &[2]);
        test.memory.write(3 * page, &[1]);
        test.expect("two pages of a shared file were written", &[one(0), one(3)])?;
    }
    Ok(test.complete_without_arming.get())
}

/// One tracker for all stores of a thread. A search that opens millions of stores would spend a
/// third of its time on opening trackers that it does not use.
#[cfg(test)]
pub(crate) mod shared {
    use std::sync::Arc;

    use super::KernelTracker;
    use std::cell::RefCell;

    thread_local! {
        static TRACKER: RefCell<Option<Arc<KernelTracker>>> = const { RefCell::new(None) };
    }

    /// From now on the stores of this thread share one tracker, if the host has a kernel tracker.
    pub(crate) fn begin() {
        let kernel = KernelTracker::open().ok();
        TRACKER.with_borrow_mut(|tracker| *tracker = kernel);
    }

    pub(super) fn tracker() -> Option<Arc<KernelTracker>> {
        TRACKER.with_borrow(Clone::clone)
    }
}
