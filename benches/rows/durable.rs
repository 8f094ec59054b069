//! Commits that survive power loss, compared with other stores that make the same pages durable.

use std::cell::RefCell;

use vmstore::{MapOptions, Store};

use super::{Bench, base, commit, open};
use crate::contest::{Player, Sheet, Times, hold};
use crate::machine::{self, file_system, page_size};
use crate::memory::{self, Region};
use crate::peers::{self, Floors};
use crate::report::{Case, Target};

pub fn durable(bench: &mut Bench) {
    let directory = bench.directories[0].clone();
    let scratch = bench.scratch(&directory);
    let store = open(&scratch.path().join("store"));
    let length = if bench.smoke { 16 << 20 } else { 256 << 20 };
    let module = bench.module(&store, length, &MapOptions::default());
    let into = Region::arena(length);
    // SAFETY: the module is mapped as long as the handle lives, and nobody writes to it now.
    let bytes = unsafe { std::slice::from_raw_parts(base(&module), length) };
    let peers = peers::all(scratch.path(), bytes);
    let peers: Vec<RefCell<_>> = peers.into_iter().map(RefCell::new).collect();
    let floors = RefCell::new(Floors::new(&scratch.path().join("floors")));
    for configuration in peers::CONFIGURATIONS {
        bench.report.note(*configuration);
    }
    let counts: &[usize] = if bench.smoke {
        &[1, 128]
    } else {
        &[1, 128, 1024, 8192]
    };
    for (size, count) in counts.iter().enumerate() {
        let pages = &bench.rng.scattered(*count, length / page_size());
        let packed = count * page_size();
        // Each contestant copies the pages from the same memory.
        let taken = |value: u64| {
            memory::dirty(base(&module), pages, value);
            memory::gather(base(&module), pages, &into);
            &into.bytes()[..packed]
        };
        let mut players: Vec<Player<'_>> = vec![
            Box::new(|sheet, rng| {
                memory::dirty(base(&module), pages, rng.next());
                sheet.time("vmstore", || {
                    commit(&store);
                    store.persist(None).expect("a persist");
                });
            }),
            Box::new(|sheet, rng| {
                memory::dirty(base(&module), pages, rng.next());
                let mut floors = floors.borrow_mut();
                sheet.time("file steps", || {
                    memory::gather(base(&module), pages, &into);
                    let file = floors.create(&into.bytes()[..packed]);
                    floors.note();
                    file.sync_data().expect("a sync");
                    floors.sync_names();
                    floors.sync_record();
                });
            }),
            Box::new(|sheet, rng| {
                let bytes = taken(rng.next());
                sheet.time("append", || floors.borrow_mut().append(bytes));
            }),
        ];
        for peer in &peers {
            players.push(Box::new(|sheet, rng| {
                let bytes = taken(rng.next());
                let mut peer = peer.borrow_mut();
                let name = peer.name();
                sheet.time(name, || peer.commit(pages, bytes));
                peers::check(&**peer, pages, base(&module));
            }));
        }
        let sheet = hold(bench.rounds.div_ceil(2), 1, &mut bench.rng, players);
        let text = format!(
            "{count} pages of {} MiB, {}",
            length >> 20,
            file_system(&directory)
        );
        let case = Case::new("durable", text, "us");
        let names = peers.iter().map(|peer| peer.borrow().name());
        report(bench, &case, size, names, &sheet);
    }
}

/// `size` is the index of the page count: 0 for the smallest.
fn report(
    bench: &mut Bench,
    case: &Case,
    size: usize,
    peers: impl Iterator<Item = &'static str>,
    sheet: &Sheet,
) {
    let ours = || ("commit + persist", sheet.get("vmstore"));
    let steps = Some(("same file steps", sheet.get("file steps")));
    bench.report.line(case, ours(), steps, Target::Within(1.2));
    let append = Some(("append + fdatasync", sheet.get("append")));
    bench.report.line(case, ours(), append, Target::Shown);
    for name in peers {
        let least = match name {
            "LMDB" => [1.0, 3.0, 5.0, 5.0],
            "SQLite" => [1.0, 2.0, 8.0, 12.0],
            "msync" => [0.0, 1.0, 1.0, 1.0],
            _ => [1.0, 2.0, 5.0, 5.0],
        };
        let target = if least[size] > 0.0 {
            Target::Faster(least[size])
        } else {
            Target::Shown
        };
        let other = Some((name, sheet.get(name)));
        bench.report.line(case, ours(), other, target);
    }
}

/// Makes commits of 64 pages each, and persists none of them.
fn burst(store: &Store, at: *mut u8, count: usize, pages: usize, rng: &mut crate::contest::Rng) {
    for _ in 0..count {
        memory::dirty(at, &rng.scattered(64, pages), rng.next());
        commit(store);
    }
}

pub fn batch(bench: &mut Bench) {
    let directory = bench.directories[0].clone();
    let scratch = bench.scratch(&directory);
    let store = open(&scratch.path().join("store"));
    let length = if bench.smoke { 16 << 20 } else { 64 << 20 };
    let module = bench.module(&store, length, &MapOptions::default());
    let pages = length / page_size();
    let count = if bench.smoke { 10 } else { 100 };
    let packed = vec![7; 64 * page_size()];
    let floors = RefCell::new(Floors::new(&scratch.path().join("floors")));
    let players: Vec<Player<'_>> = vec![
        Box::new(|sheet, rng| {
            burst(&store, base(&module), count, pages, rng);
            sheet.time("one persist", || store.persist(None).expect("a persist"));
        }),
        Box::new(|sheet, rng| {
            let mut total = 0.0;
            for _ in 0..count {
                burst(&store, base(&module), 1, pages, rng);
                let begun = crate::contest::begin();
                store.persist(None).expect("a persist");
                total += begun.microseconds();
            }
            sheet.add("single persists", total);
        }),
        Box::new(|sheet, _| {
            let mut floors = floors.borrow_mut();
            let files: Vec<_> = (0..count).map(|_| floors.create(&packed)).collect();
            sheet.time("files one by one", || {
                files
                    .iter()
                    .for_each(|file| file.sync_data().expect("a sync"));
                floors.sync_names();
                floors.sync_record();
            });
        }),
    ];
    let sheet = hold(bench.rounds.div_ceil(4), 1, &mut bench.rng, players);
    let case = format!("{count} commits of 64 pages, {}", file_system(&directory));
    let ours = || ("one persist", sheet.get("one persist"));
    let files = Some(("same files one by one", sheet.get("files one by one")));
    bench.report.line(
        &Case::new("batch", case.as_str(), "us"),
        ours(),
        files,
        Target::Within(0.5),
    );
    let single = Some(("single persists", sheet.get("single persists")));
    bench.report.line(
        &Case::new("batch", case, "us"),
        ours(),
        single,
        Target::Faster(5.0),
    );
}

pub fn bytes(bench: &mut Bench) {
    let directory = bench.directories[0].clone();
    let scratch = bench.scratch(&directory);
    let store = open(&scratch.path().join("store"));
    let length = bench.module_bytes() / 4;
    let module = bench.module(&store, length, &MapOptions::default());
    for count in bench.dirty_sets(&[1, 128, 1024, 8192]) {
        let pages = bench.rng.scattered(count, length / page_size());
        let (mut said, mut process, mut device) =
            (Times::default(), Times::default(), Times::default());
        for _ in 0..5 {
            memory::dirty(base(&module), &pages, bench.rng.next());
            let before = store.stats().expect("stats").bytes_written;
            let (us, disk) = (
                machine::written_by_us(),
                machine::written_by_device(scratch.path()),
            );
            commit(&store);
            store.persist(None).expect("a persist");
            said.push((store.stats().expect("stats").bytes_written - before) as f64);
            process.push((machine::written_by_us() - us) as f64);
            if let (Some(before), Some(after)) = (disk, machine::written_by_device(scratch.path()))
            {
                device.push((after - before) as f64);
            }
        }
        let dirty = || Some(("dirty bytes", Times::of((count * page_size()) as f64)));
        let target = if count >= 128 {
            Target::Within(1.05)
        } else {
            Target::Shown
        };
        let case = format!("{count} pages, {}", file_system(&directory));
        bench.report.line(
            &Case::new("bytes", case.as_str(), "bytes"),
            ("the store's files", said),
            dirty(),
            target,
        );
        bench.report.line(
            &Case::new("bytes", case.as_str(), "bytes"),
            ("this process (/proc/self/io)", process),
            dirty(),
            target,
        );
        // This also counts writes of other processes and of the file system's journal, so the round with the fewest
        // bytes counts.
        let device = Times::of(device.at(0.0));
        bench.report.line(
            &Case::new("bytes", case, "bytes"),
            ("device, least of 5", device),
            dirty(),
            Target::Shown,
        );
    }
}
