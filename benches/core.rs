//! What the core costs, beside the floors that no implementation can beat, in one run.
//!
//! `cargo bench --bench core [-- DIRECTORY [MIB [ROUNDS]]]`. One private module, every page
//! touched and different, committed and persisted once. Each round writes the same scattered pages
//! to the module and to plain memory that is armed in the same way, and times the contestants in
//! random order. Medians, with p10 and p90.

#![allow(clippy::cast_precision_loss, clippy::cast_ptr_alignment)]

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use vmstore::{CommitOptions, MapOptions, OpenOptions, Store};

/// Memory of the bench's own under the same kernel tracking, scanned with the bare ioctl.
struct Bare {
    base: *mut u8,
    length: usize,
    pagemap: File,
    _userfault: File,
    regions: Vec<[u64; 3]>,
}

impl Bare {
    fn new(length: usize) -> Self {
        // SAFETY: a fresh anonymous mapping, and ioctls on descriptors and structs of our own.
        unsafe {
            let base = libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(base, libc::MAP_FAILED);
            let fd = libc::syscall(
                libc::SYS_userfaultfd,
                libc::O_CLOEXEC | libc::O_NONBLOCK | 1,
            );
            assert!(
                fd >= 0,
                "no userfaultfd here: {}",
                std::io::Error::last_os_error()
            );
            let mut api = [0xaa_u64, 1 << 15 | 1 << 13 | 1 << 12, 0];
            assert_eq!(libc::ioctl(fd as i32, 0xc018_aa3f, api.as_mut_ptr()), 0);
            let mut register = [base as u64, length as u64, 2, 0];
            assert_eq!(
                libc::ioctl(fd as i32, 0xc020_aa00, register.as_mut_ptr()),
                0
            );
            Self {
                base: base.cast(),
                length,
                pagemap: File::open("/proc/self/pagemap").unwrap(),
                _userfault: File::from_raw_fd(fd as i32),
                regions: vec![[0; 3]; 1024],
            }
        }
    }

    /// Scans and re-arms; returns the pages found.
    fn scan(&mut self) -> u64 {
        let mut pages = 0;
        let mut start = self.base as u64;
        let end = start + self.length as u64;
        while start < end {
            let mut argument = [
                96,
                3,
                start,
                end,
                0,
                self.regions.as_mut_ptr() as u64,
                self.regions.len() as u64,
                0,
                0,
                2,
                0,
                2,
            ];
            // SAFETY: the argument and the vector it points to are ours.
            let got = unsafe {
                use std::os::fd::AsRawFd;
                libc::ioctl(self.pagemap.as_raw_fd(), 0xc060_6610, argument.as_mut_ptr())
            };
            assert!(got >= 0, "{}", std::io::Error::last_os_error());
            pages += self.regions[..got as usize]
                .iter()
                .map(|r| (r[1] - r[0]) / 4096)
                .sum::<u64>();
            start = argument[4];
        }
        pages
    }
}

/// Times in microseconds of one contestant.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn add(&mut self, begun: Instant) {
        self.0.push(begun.elapsed().as_nanos() as f64 / 1000.0);
    }

    fn at(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * quantile).round() as usize]
    }

    fn print(&self, name: &str) {
        let (low, median, high) = (self.at(0.1), self.at(0.5), self.at(0.9));
        println!("  {name:<42} {median:>10.1}   [{low:.1} .. {high:.1}]");
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// `count` different pages of `pages`, spread over all of them.
fn scattered(count: usize, pages: usize, seed: &mut u64) -> Vec<usize> {
    let stride = pages / count;
    (0..count)
        .map(|i| i * stride + random(seed) as usize % stride)
        .collect()
}

/// Writes a new value into each page, and returns nanoseconds per page.
fn write(base: *mut u8, pages: &[usize], page: usize, value: u64) -> f64 {
    let begun = Instant::now();
    for at in pages {
        // SAFETY: the pages are inside the mapping, and aligned.
        unsafe {
            base.add(at * page + 128)
                .cast::<u64>()
                .write_volatile(value);
        };
    }
    begun.elapsed().as_nanos() as f64 / pages.len() as f64
}

fn touch(base: *mut u8, length: usize, page: usize, seed: &mut u64) {
    for at in (0..length).step_by(page) {
        for word in 0..page / 8 {
            // SAFETY: inside the mapping, and aligned.
            unsafe {
                base.add(at)
                    .cast::<u64>()
                    .add(word)
                    .write_volatile(random(seed));
            };
        }
    }
}

#[allow(clippy::too_many_lines, reason = "one experiment, told in order")]
fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let directory = arguments.next();
    let mib: usize = arguments.next().map_or(1024, |a| a.parse().expect("MiB"));
    let rounds: usize = arguments.next().map_or(21, |a| a.parse().expect("rounds"));
    let own = tempfile::tempdir().unwrap();
    let directory = directory.map_or(own.path().to_path_buf(), Into::into);
    let page = vmstore::probe(None).unwrap().page_size as usize;
    let length = mib << 20;
    let seed = &mut 0x9e37_79b9_7f4a_7c15;

    let store = Store::open(&directory.join("bench.store"), OpenOptions::default()).unwrap();
    let module = store
        .map_module("ram", length as u64, &MapOptions::default())
        .unwrap();
    let base = module.address() as *mut u8;
    touch(base, length, page, seed);
    let mut bare = Bare::new(length);
    touch(bare.base, length, page, seed);
    bare.scan();
    let first = store.commit(&CommitOptions::default()).unwrap();
    store.persist(None).unwrap();
    let info = vmstore::probe(Some(&directory)).unwrap();
    println!(
        "vmstore core: one private module of {mib} MiB, pages of {page} bytes, all touched and different"
    );
    println!(
        "file system {}, tracker: {}, {} rounds, microseconds: median [p10 .. p90]",
        info.file_system, info.tracker_reason, rounds
    );

    let mut copy = memmap2::MmapOptions::new()
        .len(64 << 20)
        .map_anon()
        .unwrap();
    let _ = copy.advise(memmap2::Advice::HugePage);
    copy.fill(1);
    let mut plain = memmap2::MmapOptions::new().len(length).map_anon().unwrap();
    touch(plain.as_mut_ptr(), length, page, seed);
    let log = File::create(directory.join("floor.log")).unwrap();
    for dirty in [1, 1024, 8192] {
        let pages = scattered(dirty, length / page, seed);
        let mut t: [Times; 8] = Default::default();
        let (mut tracked, mut untracked) = (Times::default(), Times::default());
        let mut armed = Times::default();
        for round in 0..rounds + 3 {
            let warm = round >= 3;
            let value = random(seed);
            let mut order = [0, 1, 2];
            order.rotate_left(random(seed) as usize % 3);
            for contestant in order {
                let mut now: [Times; 8] = Default::default();
                let (mut with, mut without) = (Times::default(), Times::default());
                match contestant {
                    0 => without
                        .0
                        .push(write(plain.as_mut_ptr(), &pages, page, value)),
                    1 => {
                        armed.0.push(write(bare.base, &pages, page, value));
                        let begun = Instant::now();
                        assert_eq!(bare.scan(), dirty as u64);
                        now[1].add(begun);
                        let begun = Instant::now();
                        for (slot, at) in pages.iter().enumerate() {
                            // SAFETY: both ranges are inside their buffers.
                            unsafe {
                                std::ptr::copy_nonoverlapping(
                                    bare.base.add(at * page),
                                    copy.as_mut_ptr().add(slot * page),
                                    page,
                                );
                            }
                        }
                        now[0].add(begun);
                        // Kept, as the store keeps its files: so both need fresh page cache.
                        let name = directory.join(format!("floor.{dirty}.{round}"));
                        // The same bytes into a new file, and what makes such a file durable.
                        let begun = Instant::now();
                        let file = File::create_new(directory.join("floor.new")).unwrap();
                        file.write_all_at(&copy[..dirty * page], 0).unwrap();
                        std::fs::rename(directory.join("floor.new"), name).unwrap();
                        now[6].add(begun);
                        let begun = Instant::now();
                        file.sync_data().unwrap();
                        File::open(&directory).unwrap().sync_all().unwrap();
                        log.write_all_at(&[1; 200], 200 * round as u64).unwrap();
                        log.sync_data().unwrap();
                        now[7].add(begun);
                    }
                    _ => {
                        with.0.push(write(base, &pages, page, value));
                        let begun = Instant::now();
                        let capture = store.capture(&CommitOptions::default()).unwrap();
                        now[2].add(begun);
                        let begun = Instant::now();
                        capture.commit().unwrap();
                        now[3].add(begun);
                        let begun = Instant::now();
                        store.persist(None).unwrap();
                        now[4].add(begun);
                        let head = store.head().unwrap();
                        write(base, &pages, page, value + 3);
                        let begun = Instant::now();
                        store.restore(head, None).unwrap();
                        now[5].add(begun);
                    }
                }
                if warm {
                    for (all, one) in t.iter_mut().zip(now) {
                        all.0.extend(one.0);
                    }
                    tracked.0.extend(with.0);
                    untracked.0.extend(without.0);
                }
            }
        }
        println!("\n{dirty} dirty pages");
        for (name, times) in [
            "memcpy of the same pages",
            "bare scan and re-arm",
            "capture (the pause)",
            "commit after the capture",
            "persist",
            "restore in place, the same pages dirty",
            "floor: the same bytes into a new file",
            "floor: sync it, its directory, an append",
        ]
        .iter()
        .zip(&t)
        {
            times.print(name);
        }
        for (name, times) in [
            ("first write to a page, ns, vmstore", &tracked),
            ("first write to a page, ns, bare tracking", &armed),
            ("first write to a page, ns, untracked", &untracked),
        ] {
            times.print(name);
        }
        println!(
            "  capture / (scan + memcpy) = {:.2}; commit / file = {:.2}; persist / syncs = {:.2}; restore / memcpy = {:.2}",
            t[2].at(0.5) / (t[0].at(0.5) + t[1].at(0.5)),
            t[3].at(0.5) / t[6].at(0.5),
            t[4].at(0.5) / t[7].at(0.5),
            t[5].at(0.5) / t[0].at(0.5),
        );
    }
    let begun = Instant::now();
    store.restore(first, None).unwrap();
    let stats = store.stats().unwrap();
    println!(
        "\nback to commit {first} over {} commits: {} pages in {:.0} us",
        stats.commits - 1,
        stats.last_restored_pages,
        begun.elapsed().as_nanos() as f64 / 1000.0
    );
}
