//! Long chains and long histories must cost nothing.

use vmstore::{CommitOptions, MapOptions, Store};

use super::{Bench, base, commit, open};
use crate::contest::{Player, Sheet, Times, hold};
use crate::machine::{file_system, page_size};
use crate::memory;
use crate::report::Target;

/// A store whose module has a chain of `depth` commits. Together they always hold the same pages.
fn chain(
    bench: &mut Bench,
    store: &Store,
    depth: usize,
    pages: &[usize],
    length: usize,
) -> vmstore::Module {
    let module = bench.module(store, length, &MapOptions::default());
    let each = pages.len().div_ceil(depth).max(1);
    for step in 0..depth {
        let from = step * each % pages.len();
        let some = &pages[from..(from + each).min(pages.len())];
        memory::dirty(base(&module), some, bench.rng.next());
        commit(store);
    }
    module
}

pub fn depth(bench: &mut Bench) {
    let scratch = bench.scratch(&bench.quiet_directory());
    let length = if bench.smoke { 16 << 20 } else { 64 << 20 };
    let depths: &[usize] = if bench.smoke {
        &[5, 50]
    } else {
        &[5, 50, 500, 2500]
    };
    let pages = bench.rng.scattered(1000, length / page_size());
    let mut stores = Vec::new();
    for depth in depths {
        let store = open(&scratch.path().join(depth.to_string()));
        let module = chain(bench, &store, *depth, &pages, length);
        stores.push((*depth, store, module));
    }
    const NAMES: [&str; 4] = ["shallow", "second", "third", "deepest"];
    let mut players: Vec<Player<'_>> = Vec::new();
    for (name, (_, store, module)) in NAMES.iter().zip(&stores) {
        let (pages, head) = (&pages, store.head().expect("a head"));
        players.push(Box::new(move |sheet: &mut Sheet, rng| {
            memory::dirty(base(module), pages, rng.next());
            sheet.time(name, || store.restore(head, None).expect("a restore"));
        }));
    }
    let sheet = hold(bench.rounds.div_ceil(2), 2, &mut bench.rng, players);
    let mut points = Vec::new();
    for (name, (depth, ..)) in NAMES.iter().zip(&stores) {
        points.push((*depth as f64, sheet.get(name).median()));
        if *depth != depths[0] {
            let case = format!("1000 dirty pages put back, depth {depth}");
            let target = if *depth == 2500 {
                Target::Within(1.3)
            } else {
                Target::Shown
            };
            let shallow = Some(("depth 5", sheet.get("shallow")));
            bench.report.line(
                "depth",
                case,
                "us",
                ("restore", sheet.get(name)),
                shallow,
                target,
            );
        }
    }
    bench.plots.add("depth", "restore", points);
    drop(stores);
    history(bench);
}

/// Writes to every page the bytes that it has, and makes a commit in which nothing differs.
fn touch(store: &Store, module: &vmstore::Module, length: usize) {
    for at in (0..length).step_by(page_size()) {
        // SAFETY: inside the module, which nobody else writes.
        unsafe {
            let byte = base(module).add(at);
            byte.write_volatile(byte.read_volatile());
        }
    }
    commit(store);
}

/// 10,000 commits of one page each.
fn history(bench: &mut Bench) {
    let directory = bench.quiet_directory();
    let scratch = bench.scratch(&directory);
    let path = scratch.path().join("history");
    let total = if bench.smoke { 300 } else { 10_000 };
    let length = 16 << 20;
    let (mut first, mut last) = (Times::default(), Times::default());
    let (mut commits, mut opens) = (Vec::new(), Vec::new());
    let mut store = open(&path);
    let mut module = bench.module(&store, length, &MapOptions::default());
    let window = total / 10;
    let mut now = Times::default();
    for number in 1..=total {
        memory::dirty(
            base(&module),
            &[bench.rng.below(length / page_size())],
            bench.rng.next(),
        );
        let begun = crate::contest::begin();
        store.commit(&CommitOptions::default()).expect("a commit");
        let time = begun.microseconds();
        now.push(time);
        if number > total / 100 && number <= window {
            first.push(time);
        }
        if number > total - window {
            last.push(time);
        }
        if number == total / 100 {
            // How long the kernel scans a page depends on whether the page is present, and on whether it came from a file.
            // So from here on the memory of every window is mapped over an image, and touched.
            store.close().expect("a close");
            store = open(&path);
            module = store
                .map_module("ram", 0, &MapOptions::default())
                .expect("the module");
            touch(&store, &module, length);
        }
        if number % window == 0 {
            commits.push((number as f64, now.median()));
            now = Times::default();
            let mut times = Times::default();
            store.persist(None).expect("a persist");
            for _ in 0..3 {
                store.close().expect("a close");
                let begun = crate::contest::begin();
                store = open(&path);
                times.push(begun.microseconds());
            }
            opens.push((number as f64, times.median()));
            if number == total {
                let case = format!("{total} commits, {}", file_system(&directory));
                bench.report.line(
                    "depth",
                    case.as_str(),
                    "us",
                    ("open", times),
                    None,
                    Target::Below(50_000.0),
                );
            }
            let begun = crate::contest::begin();
            module = store
                .map_module("ram", 0, &MapOptions::default())
                .expect("the module");
            if number == total {
                let case = format!(
                    "{total} commits, a chain of as many, {}",
                    file_system(&directory)
                );
                let map = Times::of(begun.microseconds());
                bench.report.line(
                    "depth",
                    case,
                    "us",
                    ("map at the head", map),
                    None,
                    Target::Shown,
                );
            }
            touch(&store, &module, length);
        }
    }
    let case = format!("commit of 1 page, the last {window} of {total} beside the first");
    bench.report.line(
        "depth",
        case,
        "us",
        ("last", last),
        Some(("first", first)),
        Target::Within(1.3),
    );
    bench.plots.add("history", "commit of 1 page", commits);
    bench.plots.add("history", "open", opens);
}
