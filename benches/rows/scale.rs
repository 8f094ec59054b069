//! Large modules, many modules, and the memory that the library itself needs.

use vmstore::{CommitOptions, MapOptions, Module, OpenOptions, Store};

use super::{Bench, base, commit, open};
use crate::contest::{Player, Sheet, Times, hold};
use crate::machine::{anonymous_memory, page_size};
use crate::memory::{self, Region, Scanner};
use crate::report::{Case, Target};

/// A module of touched memory. It is zero, so its image needs no disk.
fn touched(store: &Store, name: &str, length: usize) -> Module {
    let module = store
        .map_module(name, length as u64, &MapOptions::default())
        .expect("a module");
    for at in (0..length).step_by(page_size()) {
        // SAFETY: inside the module.
        unsafe { base(&module).add(at).write_volatile(0) };
    }
    module
}

fn capture(store: &Store, name: &'static str, sheet: &mut Sheet) {
    let capture = sheet.time(name, || store.capture(&CommitOptions::default()));
    capture.expect("a capture").cancel().expect("a cancel");
}

pub fn scale(bench: &mut Bench) {
    let mut sizes = if bench.smoke {
        vec![16 << 20, 64 << 20]
    } else {
        vec![64 << 20, 256 << 20, 1 << 30, 4 << 30]
    };
    if bench.big {
        sizes.push(16_usize << 30);
    }
    let into = &Region::arena(64 << 20);
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for length in sizes {
        let scratch = bench.scratch(&bench.quiet_directory());
        let store = open(&scratch.path().join("store"));
        let module = touched(&store, "ram", length);
        commit(&store);
        let pages = &bench.rng.scattered(1024, length / page_size());
        let mut scanner = Scanner::default();
        let players: Vec<Player<'_>> = vec![
            Box::new(|sheet, rng| {
                memory::dirty(base(&module), pages, rng.next());
                capture(&store, "capture", sheet);
            }),
            // The floor's scan takes the marks of these writes, so the store does not learn of them. The store's turn
            // writes to the same pages, so nothing is missing.
            Box::new(|sheet, rng| {
                memory::dirty(base(&module), pages, rng.next());
                sheet.time("floor", || {
                    assert_eq!(scanner.scan(base(&module), length), 1024);
                    memory::gather(base(&module), pages, into);
                });
            }),
        ];
        let sheet = hold(bench.rounds, 3, &mut bench.rng, players);
        let case = format!("1024 pages of {} MiB", length >> 20);
        let floor = Some(("scan + memcpy", sheet.get("floor")));
        bench.report.line(
            &Case::new("scale", case, "us"),
            ("capture", sheet.get("capture")),
            floor,
            Target::Within(1.3),
        );
        ours.push(((length >> 20) as f64, sheet.get("capture").median()));
        floors.push(((length >> 20) as f64, sheet.get("floor").median()));
    }
    bench.plots.add("size", "capture", ours);
    bench.plots.add("size", "bare scan + memcpy", floors);
    many(bench);
}

fn many(bench: &mut Bench) {
    let scratch = bench.scratch(&bench.quiet_directory());
    let (count, length) = if bench.smoke {
        (16, 1 << 20)
    } else {
        (64, 16 << 20)
    };
    let whole = count * length;
    let (one, many) = (
        open(&scratch.path().join("one")),
        open(&scratch.path().join("many")),
    );
    let single = touched(&one, "ram", whole);
    let modules: Vec<Module> = (0..count)
        .map(|n| touched(&many, &format!("ram{n}"), length))
        .collect();
    commit(&one);
    commit(&many);
    let pages = &bench.rng.scattered(1024, whole / page_size());
    let per = length / page_size();
    let players: Vec<Player<'_>> = vec![
        Box::new(|sheet, rng| {
            memory::dirty(base(&single), pages, rng.next());
            capture(&one, "one", sheet);
        }),
        Box::new(|sheet, rng| {
            let value = rng.next();
            for at in pages {
                memory::dirty(base(&modules[at / per]), &[at % per], value);
            }
            capture(&many, "many", sheet);
        }),
    ];
    let sheet = hold(bench.rounds, 3, &mut bench.rng, players);
    let case = format!("1024 pages of {count} modules of {} MiB", length >> 20);
    let other = format!("one module of {} MiB", whole >> 20);
    let one = Some((other.as_str(), sheet.get("one")));
    bench.report.line(
        &Case::new("scale", case, "us"),
        ("capture", sheet.get("many")),
        one,
        Target::Within(1.3),
    );
}

pub fn memory(bench: &mut Bench) {
    let scratch = bench.scratch(&bench.quiet_directory());
    let length = bench.module_bytes();
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    // Memory that was given back to the allocator is not memory that the library holds.
    let trim = || {
        // SAFETY: it has no preconditions.
        unsafe { libc::malloc_trim(0) };
    };
    trim();
    let before = anonymous_memory();
    let options = OpenOptions {
        arena_limit: 16 << 20,
        ..OpenOptions::default()
    };
    let store = Store::open(&scratch.path().join("store"), options).expect("a store");
    let module = bench.module(&store, length, &MapOptions::default());
    let overhead = |store: &Store| {
        trim();
        let arena = store.stats().expect("stats").arena_bytes;
        mib(anonymous_memory() as f64 - before as f64 - length as f64 - arena as f64)
    };
    let gib = length as f64 / f64::from(1 << 30);
    let case = format!("module of {} MiB, all of it committed", length >> 20);
    let used = Times::of(overhead(&store));
    bench.report.line(
        &Case::new("memory", case, "MiB"),
        ("beside module and arena", used),
        None,
        Target::Below(4.0 * gib.max(0.25)),
    );
    let count = bench
        .dirty_sets(&[1024, 65536])
        .last()
        .copied()
        .unwrap_or(1024);
    let pages = bench.rng.scattered(count, length / page_size());
    for _ in 0..20 {
        let some = &pages[..count.min(1024)];
        memory::dirty(base(&module), some, bench.rng.next());
        commit(&store);
    }
    let used = Times::of(overhead(&store));
    let case = "the same after 20 commits of 1024 pages";
    bench.report.line(
        &Case::new("memory", case, "MiB"),
        ("beside module and arena", used),
        None,
        Target::Below(4.0 * gib.max(0.25)),
    );
    memory::dirty(base(&module), &pages, bench.rng.next());
    let head = commit(&store);
    let stats = store.stats().expect("stats");
    memory::dirty(base(&module), &pages, 0);
    store.restore(head, None).expect("a restore");
    bench.report.note(format!(
        "memory: with an arena of 16 MiB, {} dirty pages ({} MiB) were committed with {} spill(s), and restored; the arena then had {} MiB",
        count,
        (count * page_size()) >> 20,
        stats.arena_spills,
        stats.arena_bytes >> 20
    ));
}
