//! What tracking costs the guest: its first write to a page after a commit.

use vmstore::{MapMode, MapOptions};

use super::{Bench, base, commit, open};
use crate::contest::{Player, hold};
use crate::machine::page_size;
use crate::memory::{self, Armed, Guarded, Region};
use crate::report::Target;

pub fn tax(bench: &mut Bench) {
    let length = bench.module_bytes() / 4;
    // mprotect splits the mapping at each page, and the kernel allows 65,530 pieces.
    let count = (length / page_size() / 4).min(8192);
    let pages = &bench.rng.scattered(count, length / page_size());
    let per_page = 1.0 / count as f64;
    let write = |base: *mut u8, value: u64| {
        let begun = crate::contest::begin();
        memory::dirty(base, pages, value);
        begun.microseconds() * per_page
    };
    let scratch = bench.scratch(&bench.quiet_directory());
    let stores = [("private", MapMode::Private), ("memfd", MapMode::Memfd)].map(|(name, mode)| {
        let store = open(&scratch.path().join(name));
        let options = MapOptions {
            mode,
            ..MapOptions::default()
        };
        let module = bench.module(&store, length, &options);
        (name, store, module)
    });
    let filled = |bench: &mut Bench| {
        let region = Region::anonymous(length);
        memory::fill(region.base, length, &mut bench.rng);
        region
    };
    let (plain, guarded) = (filled(bench), Guarded::new(filled(bench)));
    let mut armed = Armed::new(filled(bench));
    let mut crumbs = crumbles::Mmap::new(length / 65536, 65536).expect("a mapping of crumbles");
    memory::fill(crumbs.as_mut_ptr(), length, &mut bench.rng);
    let mut players: Vec<Player<'_>> = vec![
        Box::new(|sheet, rng| sheet.add("untracked", write(plain.base, rng.next()))),
        Box::new(|sheet, rng| {
            armed.scan();
            sheet.add("bare tracking", write(armed.region.base, rng.next()));
        }),
        Box::new(|sheet, rng| {
            guarded.arm();
            let time = write(guarded.region.base, rng.next());
            assert_eq!(guarded.disarm(), count);
            sheet.add("mprotect", time);
        }),
        Box::new(|sheet, rng| {
            crumbs.snap().expect("a snapshot");
            sheet.add("crumbles", write(crumbs.as_mut_ptr(), rng.next()));
        }),
    ];
    for (name, store, module) in &stores {
        players.push(Box::new(|sheet, rng| {
            commit(store);
            sheet.add(name, write(base(module), rng.next()));
        }));
    }
    let sheet = hold(bench.rounds.div_ceil(2), 1, &mut bench.rng, players);
    let case = format!("{count} scattered pages of {} MiB", length >> 20);
    for (name, ..) in &stores {
        let ours = || (*name, sheet.get(name));
        bench
            .report
            .line("tax", case.as_str(), "us", ours(), None, Target::Below(1.2));
        for (other, target) in [
            ("mprotect", Target::Faster(4.0)),
            ("crumbles", Target::Shown),
            ("bare tracking", Target::Shown),
            ("untracked", Target::Shown),
        ] {
            let long = if other == "mprotect" {
                "mprotect + SIGSEGV"
            } else {
                other
            };
            bench.report.line(
                "tax",
                case.as_str(),
                "us",
                ours(),
                Some((long, sheet.get(other))),
                target,
            );
        }
    }
}
