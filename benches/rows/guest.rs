//! What a commit costs the guest afterwards: a KVM guest that reads and writes resident memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vmstore::{MapOptions, Module, Store, Tracker};

use super::{Bench, base, commit, open};
use crate::contest::{Player, Sheet, Times, hold};
use crate::machine::page_size;
use crate::memory::{self, Armed, Region};
use crate::report::{Case, Target};
use crate::vcpu::Vcpu;

/// A guest whose memory is a module.
struct Tracked {
    store: Store,
    module: Module,
    vcpu: Vcpu,
    log: Vec<u64>,
}

impl Tracked {
    fn new(bench: &mut Bench, store: Store, length: usize, tracker: Tracker) -> Option<Self> {
        let options = MapOptions {
            tracker: Some(tracker),
            ..MapOptions::default()
        };
        let module = bench.module(&store, length, &options);
        let vcpu = Vcpu::new(base(&module), length, tracker == Tracker::Caller)?;
        Some(Self {
            store,
            module,
            vcpu,
            log: Vec::new(),
        })
    }

    /// Commits what the guest wrote. With `CALLER` KVM's dirty log says what that is.
    fn commit(&mut self) {
        if !self.log.is_empty() {
            self.vcpu.dirty_log(&mut self.log);
            let pages = (self.module.size() as usize / page_size()) as u64;
            let log = self.log.iter().copied();
            let imported = self.module.import_dirty_bitmap(0, pages, log);
            imported.expect("the log fits");
        }
        commit(&self.store);
    }
}

pub fn guest(bench: &mut Bench) {
    let length = if bench.smoke { 32 << 20 } else { 256 << 20 };
    let pages = length / page_size();
    let scratch = bench.scratch(&bench.quiet_directory());
    let plain = Region::anonymous(length);
    memory::fill(plain.base, length, &mut bench.rng);
    let Some(plain_cpu) = Vcpu::new(plain.base, length, false) else {
        bench
            .report
            .note("Row guest is left out: this host has no /dev/kvm, or is no x86-64.");
        return;
    };
    let bare = Region::anonymous(length);
    memory::fill(bare.base, length, &mut bench.rng);
    let mut bare = Armed::new(bare);
    let bare_cpu = Vcpu::new(bare.region.base, length, false).expect("a second vCPU");
    let open_in = |name: &str| open(&scratch.path().join(name));
    let kernel = Tracked::new(bench, open_in("kernel"), length, Tracker::Kernel);
    let caller = Tracked::new(bench, open_in("caller"), length, Tracker::Caller);
    let (mut kernel, mut caller) = (kernel.expect("a vCPU"), caller.expect("a vCPU"));
    caller.log.push(0);
    for count in [1, 1024, 8192]
        .into_iter()
        .filter(|count| count * 4 <= pages)
    {
        let dirty = bench.rng.scattered(count, pages);
        let mut is_dirty = vec![false; pages];
        dirty.iter().for_each(|page| is_dirty[*page] = true);
        let clean = (0..pages).filter(|page| !is_dirty[*page]);
        let clean: Vec<usize> = clean.collect();
        let (dirty, clean) = (&dirty, &clean);
        let turn = |vcpu: &Vcpu, sheet: &mut Sheet, names: [&'static str; 2], value: u32| {
            vcpu.set_list(dirty);
            sheet.add(names[0], vcpu.write(count, value) / count as f64);
        };
        let look = |vcpu: &Vcpu, sheet: &mut Sheet, names: [&'static str; 2]| {
            vcpu.set_list(clean);
            sheet.add(names[1], vcpu.read(clean.len()) / clean.len() as f64);
        };
        let players: Vec<Player<'_>> = vec![
            Box::new(|sheet, rng| {
                let names = ["write no store", "read no store"];
                turn(&plain_cpu, sheet, names, rng.next() as u32);
                look(&plain_cpu, sheet, names);
            }),
            Box::new(|sheet, rng| {
                let names = ["write bare", "read bare"];
                turn(&bare_cpu, sheet, names, rng.next() as u32);
                let begun = crate::contest::begin();
                assert_eq!(bare.scan_then_arm(), count as u64);
                sheet.add("bare scan", begun.microseconds());
                look(&bare_cpu, sheet, names);
            }),
            Box::new(|sheet, rng| {
                let names = ["write kernel", "read kernel"];
                turn(&kernel.vcpu, sheet, names, rng.next() as u32);
                kernel.commit();
                let stats = kernel.store.stats().expect("stats");
                assert_eq!(stats.last_dirty_pages, count as u64);
                sheet.add("kernel scan", stats.last_scan_ns as f64 / 1000.0);
                look(&kernel.vcpu, sheet, names);
            }),
            Box::new(|sheet, rng| {
                let names = ["write caller", "read caller"];
                turn(&caller.vcpu, sheet, names, rng.next() as u32);
                caller.commit();
                look(&caller.vcpu, sheet, names);
            }),
        ];
        let sheet = hold(bench.rounds.div_ceil(2), 1, &mut bench.rng, players);
        report(bench, count, length, &sheet);
    }
    report_reading(bench, length, &plain_cpu, &kernel);
}

fn report(bench: &mut Bench, count: usize, length: usize, sheet: &Sheet) {
    let of = format!("{count} scattered pages of {} MiB", length >> 20);
    for (what, target) in [("read", Target::Within(1.1)), ("write", Target::Shown)] {
        let pages = if what == "read" { "clean" } else { "the same" };
        let case = format!("{what} of {pages} pages after a commit of {of}");
        let case = Case::new("guest", case, "ns a page");
        let get = |who: &str| sheet.get(&format!("{what} {who}"));
        let free = || Some(("no store", get("no store")));
        bench
            .report
            .line(&case, ("KERNEL", get("kernel")), free(), target);
        for (name, who) in [("CALLER", "caller"), ("bare scan, then arming", "bare")] {
            bench
                .report
                .line(&case, (name, get(who)), free(), Target::Shown);
        }
    }
    let case = Case::new("guest", format!("scan of {of}"), "us");
    let bare = Some(("bare scan, then arming", sheet.get("bare scan")));
    let ours = ("its scan", sheet.get("kernel scan"));
    bench.report.line(&case, ours, bare, Target::Shown);
}

/// The rate of a guest that reads, with commits and without a store.
fn report_reading(bench: &mut Bench, length: usize, plain_cpu: &Vcpu, kernel: &Tracked) {
    let free = reading(bench, length, plain_cpu, None);
    let tracked = Some((&kernel.store, &kernel.module));
    let tracked = reading(bench, length, &kernel.vcpu, tracked);
    let case = format!("a guest reads {} MiB, a commit each 100 ms", length >> 21);
    bench.report.line(
        &Case::new("guest", case, "million pages/s"),
        ("KERNEL", Times::of(tracked)),
        Some(("no store", Times::of(free))),
        Target::AtLeast(0.9),
    );
}

/// Pages per second of a guest that reads half of its memory, with a commit of one page each 100 ms.
fn reading(bench: &mut Bench, length: usize, vcpu: &Vcpu, store: Option<(&Store, &Module)>) -> f64 {
    let pages: Vec<usize> = (0..length / page_size() / 2).collect();
    let written = length / page_size() - 1;
    vcpu.set_list(&pages);
    let time = Duration::from_millis(if bench.smoke { 200 } else { 3000 });
    let (stop, read) = (AtomicBool::new(false), AtomicU64::new(0));
    let rate: f64 = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                vcpu.read(pages.len());
                read.fetch_add(pages.len() as u64, Ordering::Relaxed);
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < time {
            std::thread::sleep(Duration::from_millis(100));
            if let Some((store, module)) = store {
                memory::dirty(base(module), &[written], bench.rng.next());
                commit(store);
            }
        }
        let rate = read.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        rate
    });
    rate / 1e6
}
