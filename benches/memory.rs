//! Memory for the floors: plain, armed for the kernel's tracker, or guarded by mprotect.

use std::cell::UnsafeCell;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::contest::Rng;
use crate::machine::page_size;

/// Memory that this program mapped.
pub struct Region {
    pub base: *mut u8,
    pub length: usize,
}

impl Region {
    pub fn anonymous(length: usize) -> Self {
        Self::map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// A copy-on-write mapping of a file.
    pub fn private(file: &File, length: usize) -> Self {
        Self::map(length, libc::MAP_PRIVATE, file.as_raw_fd())
    }

    pub fn shared(file: &File, length: usize) -> Self {
        Self::map(length, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn map(length: usize, flags: i32, fd: RawFd) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, which overlaps nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, 0) };
        assert_ne!(
            base,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Self {
            base: base.cast(),
            length,
        }
    }

    /// Touched memory to copy into. It uses huge pages if it can, as the arena of a store does.
    pub fn arena(length: usize) -> Self {
        let region = Self::anonymous(length);
        // SAFETY: the mapping is ours.
        unsafe {
            libc::madvise(region.base.cast(), length, libc::MADV_HUGEPAGE);
            region.base.write_bytes(1, length);
        }
        region
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is ours and lives as long as the borrow.
        unsafe { std::slice::from_raw_parts(self.base, self.length) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}

/// Touches all of a mapping. All pages differ.
pub fn fill(base: *mut u8, length: usize, rng: &mut Rng) {
    for word in 0..length / 8 {
        // SAFETY: inside the mapping, and aligned.
        unsafe { base.cast::<u64>().add(word).write(rng.next()) };
    }
}

/// Writes a new value to each page, with one store.
pub fn dirty(base: *mut u8, pages: &[usize], value: u64) {
    let page = page_size();
    for at in pages {
        // SAFETY: the pages are inside the mapping, and aligned.
        unsafe {
            base.add(at * page + 128)
                .cast::<u64>()
                .write_volatile(value)
        };
    }
}

/// Reads from each page, with one load.
pub fn read(base: *const u8, pages: &[usize]) {
    let page = page_size();
    for at in pages {
        // SAFETY: the pages are inside the mapping.
        unsafe { base.add(at * page).read_volatile() };
    }
}

/// Copies pages into one packed buffer: every capture needs at least this memcpy.
pub fn gather(base: *const u8, pages: &[usize], into: &Region) {
    let page = page_size();
    for (slot, at) in pages.iter().enumerate() {
        // SAFETY: both ranges are inside their mappings.
        unsafe {
            into.base
                .add(slot * page)
                .copy_from_nonoverlapping(base.add(at * page), page)
        };
    }
}

/// Copies packed pages back to their places.
pub fn scatter(from: &Region, base: *mut u8, pages: &[usize]) {
    let page = page_size();
    for (slot, at) in pages.iter().enumerate() {
        // SAFETY: both ranges are inside their mappings.
        unsafe {
            base.add(at * page)
                .copy_from_nonoverlapping(from.base.add(slot * page), page)
        };
    }
}

/// The bare ioctl.
pub struct Scanner {
    pagemap: File,
    found: Vec<[u64; 3]>,
    ranges: Vec<(u64, u64)>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            pagemap: File::open("/proc/self/pagemap").expect("the page map"),
            found: vec![[0; 3]; 1024],
            ranges: Vec::new(),
        }
    }
}

impl Scanner {
    /// Finds written pages of armed memory and arms them again, with one call for all of it. Returns their number.
    pub fn scan(&mut self, base: *const u8, length: usize) -> u64 {
        let mut pages = 0;
        self.scan_with(base as u64, length as u64, 3, |start, end| {
            pages += end - start
        });
        pages / page_size() as u64
    }

    /// The same in two steps: a scan, then the arming of each run of pages that the scan found. The kernel makes a KVM
    /// guest fault again on every page of a range that it arms, so narrow ranges cost the guest less.
    pub fn scan_then_arm(&mut self, base: *const u8, length: usize) -> u64 {
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.clear();
        self.scan_with(base as u64, length as u64, 2, |start, end| {
            ranges.push((start, end));
        });
        let mut pages = 0;
        for (start, end) in &ranges {
            self.scan_with(*start, end - start, 3, |start, end| pages += end - start);
        }
        self.ranges = ranges;
        pages / page_size() as u64
    }

    /// One scan with these flags: 1 arms, 2 checks that the memory is registered.
    fn scan_with(
        &mut self,
        mut start: u64,
        length: u64,
        flags: u64,
        mut found: impl FnMut(u64, u64),
    ) {
        let end = start + length;
        let room = (self.found.as_mut_ptr() as u64, self.found.len() as u64);
        while start < end {
            let mut argument = [96, flags, start, end, 0, room.0, room.1, 0, 0, 2, 0, 2];
            // SAFETY: the argument and the vector it points to are ours.
            let got = unsafe {
                libc::ioctl(self.pagemap.as_raw_fd(), 0xc060_6610, argument.as_mut_ptr())
            };
            assert!(
                got >= 0,
                "PAGEMAP_SCAN: {}",
                std::io::Error::last_os_error()
            );
            self.found[..got as usize]
                .iter()
                .for_each(|r| found(r[0], r[1]));
            start = argument[4];
        }
    }
}

/// Memory under userfaultfd in its asynchronous mode.
pub struct Armed {
    pub region: Region,
    _userfault: File,
    scanner: Scanner,
}

impl Armed {
    pub fn new(region: Region) -> Self {
        // SAFETY: descriptors and structs of our own; UFFD_USER_MODE_ONLY is 1.
        let userfault = unsafe {
            let fd = libc::syscall(
                libc::SYS_userfaultfd,
                libc::O_CLOEXEC | libc::O_NONBLOCK | 1,
            );
            assert!(
                fd >= 0,
                "no userfaultfd: {}",
                std::io::Error::last_os_error()
            );
            let mut api = [0xaa_u64, 1 << 15 | 1 << 13 | 1 << 12, 0];
            assert_eq!(libc::ioctl(fd as RawFd, 0xc018_aa3f, api.as_mut_ptr()), 0);
            let mut register = [region.base as u64, region.length as u64, 2, 0];
            assert_eq!(
                libc::ioctl(fd as RawFd, 0xc020_aa00, register.as_mut_ptr()),
                0
            );
            File::from_raw_fd(fd as RawFd)
        };
        let mut armed = Self {
            region,
            _userfault: userfault,
            scanner: Scanner::default(),
        };
        armed.scan();
        armed
    }

    pub fn scan(&mut self) -> u64 {
        self.scanner.scan(self.region.base, self.region.length)
    }

    /// See [`Scanner::scan_then_arm`].
    pub fn scan_then_arm(&mut self) -> u64 {
        let Region { base, length } = self.region;
        self.scanner.scan_then_arm(base, length)
    }
}

/// Memory whose writes are found by mprotect and a handler of SIGSEGV.
pub struct Guarded {
    pub region: Region,
    before: UnsafeCell<libc::sigaction>,
}

static GUARDED_BASE: AtomicUsize = AtomicUsize::new(0);
static GUARDED_LENGTH: AtomicUsize = AtomicUsize::new(0);
static GUARDED_HITS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn unprotect(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands a valid siginfo to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let base = GUARDED_BASE.load(Ordering::Relaxed);
    if address.wrapping_sub(base) >= GUARDED_LENGTH.load(Ordering::Relaxed) {
        // SAFETY: a fault of somebody else's ends the process.
        unsafe { libc::abort() };
    }
    GUARDED_HITS.fetch_add(1, Ordering::Relaxed);
    let page = 4096;
    // SAFETY: a page of the guarded mapping.
    unsafe {
        libc::mprotect(
            (address & !(page - 1)) as *mut _,
            page,
            libc::PROT_READ | libc::PROT_WRITE,
        );
    }
}

impl Guarded {
    pub fn new(region: Region) -> Self {
        Self {
            region,
            // SAFETY: all-zero is a value of this plain struct.
            before: UnsafeCell::new(unsafe { std::mem::zeroed() }),
        }
    }

    /// Protects all of the memory, and installs the handler of SIGSEGV.
    pub fn arm(&self) {
        GUARDED_BASE.store(self.region.base as usize, Ordering::Relaxed);
        GUARDED_LENGTH.store(self.region.length, Ordering::Relaxed);
        GUARDED_HITS.store(0, Ordering::Relaxed);
        // SAFETY: structs of ours; the handler is as SA_SIGINFO wants it; the mapping is ours.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_flags = libc::SA_SIGINFO;
            action.sa_sigaction = unprotect as extern "C" fn(_, _, _) as usize;
            assert_eq!(
                libc::sigaction(libc::SIGSEGV, &raw const action, self.before.get()),
                0
            );
            assert_eq!(
                libc::mprotect(self.region.base.cast(), self.region.length, libc::PROT_READ),
                0
            );
        }
    }

    /// Restores the old handler of SIGSEGV. Returns the number of pages that were written.
    pub fn disarm(&self) -> usize {
        // SAFETY: what `arm` has kept.
        unsafe {
            libc::sigaction(libc::SIGSEGV, self.before.get(), std::ptr::null_mut());
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mprotect(self.region.base.cast(), self.region.length, access);
        }
        GUARDED_HITS.load(Ordering::Relaxed)
    }
}
