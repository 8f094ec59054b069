//! The self-test of the kernel tracker. Kernels differ in more than their version, and a tracker that
//! misses a write loses that page from a commit.

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
                kernel = run(kernel)?;
                let passed = if kernel.sees_unarming { SEEING } else { BLIND };
                PASSED.store(passed, Ordering::Release);
            }
            passed => kernel.sees_unarming = passed == SEEING,
        }
        Ok(Arc::new(kernel))
    }
}

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
        // Pages that were private copies before count once.
        if kind == MemoryKind::Image {
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
        self.tracking
            .peek_dirty(&self.memory, &self.spans, &self.set)?;
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
    let tried = Tried::new(kernel, memory, MemoryKind::Anonymous)?;
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
    let tried = Tried::new(kernel, memory, MemoryKind::Image)?;
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
    let tried = Tried::new(kernel, memory, MemoryKind::Shared)?;
    tried.memory.read(3 * page, &mut [0]);
    tried.expect("a page of a shared file was read", &[])?;
    for _ in 0..2 {
        tried.memory.write(0, &[2]);
        tried.memory.write(3 * page, &[1]);
        tried.expect("two pages of a shared file were written", &[one(0), one(3)])?;
    }
    Ok(tried.sees.get())
}

/// One tracker for all stores of a thread: a third of the time of a search that opens millions of them, and tracks nothing.
#[cfg(test)]
pub(crate) mod shared {
    use std::sync::Arc;

    use super::KernelTracker;
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
