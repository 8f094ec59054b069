//! The gain from parts of the library: each row compares the same work with and without one part.

use std::fs::File;
use std::process::Command;

use vmstore::{MapOptions, Store};

use super::{Bench, base, commit, open};
use crate::contest::{Player, Times, hold};
use crate::machine::{file_system, page_size};
use crate::memory::{self, Armed, Region};
use crate::report::{Case, Target};

fn clear(base: *mut u8, pages: &[usize]) {
    for at in pages {
        // SAFETY: the pages are inside the module.
        unsafe { base.add(at * page_size()).write_bytes(0, page_size()) };
    }
}

pub fn worth(bench: &mut Bench) {
    elision(bench);
    arming(bench);
    bench
        .report
        .note("copying compared with remapping: see row restore, \"remap + refault by writing\"");
}

/// Three kinds of pages: written with the same bytes, written with zeros, and changed.
fn elision(bench: &mut Bench) {
    let directory = bench.directories[0].clone();
    let scratch = bench.scratch(&directory);
    let store = &open(&scratch.path().join("store"));
    let length = bench.module_bytes() / 4;
    let module = bench.module(store, length, &MapOptions::default());
    let count = if bench.smoke { 128 } else { 4096 };
    let pages = &bench.rng.scattered(count, length / page_size());
    let bytes = |store: &Store| store.stats().expect("stats").bytes_written as f64;
    let durable = |store: &Store| {
        commit(store);
        store.persist(None).expect("a persist");
    };
    let players: Vec<Player<'_>> = vec![Box::new(|sheet, rng| {
        let value = rng.next();
        memory::dirty(base(&module), pages, value);
        let before = bytes(store);
        sheet.time("changed", || durable(store));
        sheet.add("changed bytes", bytes(store) - before);
        // One more page differs, because a commit without any change would be skipped.
        memory::dirty(base(&module), pages, value);
        memory::dirty(base(&module), &pages[..1], value + 1);
        let before = bytes(store);
        sheet.time("unchanged", || durable(store));
        sheet.add("unchanged bytes", bytes(store) - before);
        clear(base(&module), &pages[1..]);
        memory::dirty(base(&module), &pages[..1], value + 2);
        let before = bytes(store);
        sheet.time("zero", || durable(store));
        sheet.add("zero bytes", bytes(store) - before);
    })];
    let sheet = hold(bench.rounds.div_ceil(3), 1, &mut bench.rng, players);
    let case = format!(
        "commit + persist of {count} pages, {}",
        file_system(&directory)
    );
    for (name, size, text) in [
        ("unchanged", "unchanged bytes", "written, as before"),
        ("zero", "zero bytes", "became zero"),
    ] {
        let changed = || Some(("all changed", sheet.get("changed")));
        bench.report.line(
            &Case::new("worth", case.as_str(), "us"),
            (text, sheet.get(name)),
            changed(),
            Target::Faster(2.0),
        );
        let written = Some(("all changed", sheet.get("changed bytes")));
        bench.report.line(
            &Case::new("worth", case.as_str(), "bytes"),
            (text, sheet.get(size)),
            written,
            Target::Faster(10.0),
        );
    }
    memory::fill(base(&module), length, &mut bench.rng);
    zero_check(bench, base(&module), pages, sheet.get("changed"));
}

/// The cost of looking for zeros in pages that have none: only the first words of each page are read. `changed` are
/// the times of the commits that write all pages.
fn zero_check(bench: &mut Bench, base: *mut u8, pages: &[usize], changed: Times) {
    let player: Player<'_> = Box::new(|sheet, _| {
        let page = page_size();
        sheet.time("zero check", || {
            for at in pages {
                // SAFETY: the page is inside the module.
                let bytes = unsafe { std::slice::from_raw_parts(base.add(at * page), page) };
                let zero = bytes
                    .chunks(64)
                    .all(|part| part.iter().fold(0, |all, byte| all | byte) == 0);
                std::hint::black_box(zero);
            }
        });
    });
    let check = hold(bench.rounds, 1, &mut bench.rng, vec![player]).get("zero check");
    let changed = Some(("commit + persist, all changed", changed));
    let count = pages.len();
    let case = format!("looking for zeros in {count} pages that have none");
    bench.report.line(
        &Case::new("worth", case, "us"),
        ("zero check", check),
        changed,
        Target::Within(0.05),
    );
}

/// First reads of a private mapping of an image that is in the page cache.
fn arming(bench: &mut Bench) {
    let scratch = bench.scratch(&bench.directories[0].clone());
    let length = bench.module_bytes() / 4;
    let path = scratch.path().join("store");
    {
        let store = open(&path);
        bench.module(&store, length, &MapOptions::default());
    }
    let image = File::open(path.join("ram_Commit1")).expect("the image");
    let pages: Vec<usize> = (0..length / page_size()).collect();
    let reads = |base: *const u8| {
        let begun = crate::contest::begin();
        memory::read(base, &pages);
        begun.microseconds()
    };
    let players: Vec<Player<'_>> = vec![
        Box::new(|sheet, _| {
            let store = open(&path);
            let module = store
                .map_module("ram", 0, &MapOptions::default())
                .expect("the module");
            sheet.add("lazy", reads(base(&module)));
        }),
        Box::new(|sheet, _| {
            let armed = Armed::new(Region::private(&image, length));
            sheet.add("armed", reads(armed.region.base));
        }),
        Box::new(|sheet, _| {
            let region = Region::private(&image, length);
            sheet.add("plain", reads(region.base));
        }),
    ];
    let sheet = hold(bench.rounds.div_ceil(3), 1, &mut bench.rng, players);
    let case = format!("first reads of an image of {} MiB, cached", length >> 20);
    let lazy = || ("armed lazily", sheet.get("lazy"));
    let armed = Some(("armed as a whole", sheet.get("armed")));
    bench.report.line(
        &Case::new("worth", case.as_str(), "us"),
        lazy(),
        armed,
        Target::Faster(2.0),
    );
    let plain = Some(("plain MAP_PRIVATE", sheet.get("plain")));
    bench.report.line(
        &Case::new("worth", case, "us"),
        lazy(),
        plain,
        Target::Within(1.1),
    );
}

/// Runs a program, which must succeed. `None`: the program is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<()> {
    let output = Command::new(program).args(arguments).output().ok()?;
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(())
}

/// The arguments with which qemu-io fills each of the pages with a byte.
fn writes(image: &str, pages: &[usize], pattern: usize) -> Vec<String> {
    let mut arguments = vec!["-t".to_owned(), "writeback".to_owned()];
    for at in pages {
        arguments.push("-c".into());
        arguments.push(format!(
            "write -q -P {pattern} {} {}",
            at * page_size(),
            page_size()
        ));
    }
    arguments.push(image.to_owned());
    arguments
}

/// Snapshots in a qcow2 file, made and restored by qemu-img. Each step starts a process; the mere start of
/// this process is measured too.
pub fn qemu(bench: &mut Bench) {
    let directory = bench.directories[0].clone();
    let scratch = bench.scratch(&directory);
    if run("qemu-img", &["--version"]).is_none() || run("qemu-io", &["--version"]).is_none() {
        bench
            .report
            .note("qemu: qemu-img is not installed (Debian: qemu-utils)");
        return;
    }
    let length = bench.module_bytes() / 4;
    let image = scratch.path().join("ram.qcow2");
    let image = image.to_str().expect("a plain path");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", image, &length.to_string()],
    );
    let store = open(&scratch.path().join("store"));
    let module = bench.module(&store, length, &MapOptions::default());
    run(
        "qemu-io",
        &["-c", &format!("write -q -P 1 0 {length}"), image],
    );
    let count = if bench.smoke { 16 } else { 128 };
    let pages = &bench.rng.scattered(count, length / page_size());
    let mut number = 0;
    let players: Vec<Player<'_>> = vec![
        Box::new(|sheet, rng| {
            memory::dirty(base(&module), pages, rng.next());
            let head = sheet.time("commit", || {
                let head = commit(&store);
                store.persist(None).expect("a persist");
                head
            });
            memory::dirty(base(&module), pages, rng.next());
            sheet.time("restore", || store.restore(head, None).expect("a restore"));
        }),
        Box::new(|sheet, rng| {
            number += 1;
            let name = number.to_string();
            let arguments = writes(image, pages, rng.below(255) + 1);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            sheet.time("start", || run("qemu-img", &["--version"]));
            sheet.time("qemu writes and snapshots", || {
                run("qemu-io", &arguments);
                run("qemu-img", &["snapshot", "-c", &name, image]);
            });
            sheet.time("qemu goes back", || {
                run("qemu-img", &["snapshot", "-a", &name, image])
            });
        }),
    ];
    let sheet = hold(bench.rounds.div_ceil(4), 1, &mut bench.rng, players);
    let start: Times = sheet.get("start");
    let case = format!(
        "{count} pages of {} MiB, {}",
        length >> 20,
        file_system(&directory)
    );
    let theirs = Some((
        "qemu-io writes + qemu-img snapshot -c",
        sheet.get("qemu writes and snapshots"),
    ));
    bench.report.line(
        &Case::new("qemu", case.as_str(), "us"),
        ("commit + persist", sheet.get("commit")),
        theirs,
        Target::Shown,
    );
    let theirs = Some(("qemu-img snapshot -a", sheet.get("qemu goes back")));
    bench.report.line(
        &Case::new("qemu", case, "us"),
        ("restore", sheet.get("restore")),
        theirs,
        Target::Shown,
    );
    bench.report.note(format!(
        "qemu: the start of a QEMU process takes {:.0} us; the first line has two starts",
        start.median()
    ));
}
