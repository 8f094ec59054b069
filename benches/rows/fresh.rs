//! A new process starts at the head. This program runs itself again for each round.

use std::path::Path;
use std::process::Command;
use vmstore::MapOptions;

use super::{Bench, base, commit, open};
use crate::contest::{Player, Sheet, hold};
use crate::machine::{file_system, page_size};
use crate::memory::{self, Region};
use crate::report::Target;

/// The child's work for each kind of start. It prints its figures in microseconds.
pub fn child(kind: &str, path: &Path) {
    let begun = crate::contest::begin();
    let page = page_size();
    let (address, length, _keep): (usize, usize, Box<dyn std::any::Any>) = match kind {
        "store" => {
            let store = open(&path.join("store"));
            let module = store
                .map_module("ram", 0, &MapOptions::default())
                .expect("the module");
            (
                module.address(),
                module.size() as usize,
                Box::new((store, module)),
            )
        }
        _ => {
            let file = std::fs::File::open(path.join("plain")).expect("the file");
            let length = file.metadata().expect("its length").len() as usize;
            let region = if kind == "map" {
                Region::private(&file, length)
            } else {
                Region::anonymous(length)
            };
            if kind == "read" {
                use std::os::unix::fs::FileExt;
                // SAFETY: the mapping is ours.
                let bytes = unsafe { std::slice::from_raw_parts_mut(region.base, length) };
                file.read_exact_at(bytes, 0).expect("all of it");
            }
            (region.base as usize, length, Box::new(region))
        }
    };
    memory::read(address as *const u8, &[length / page / 2]);
    let first = begun.microseconds();
    let pages: Vec<usize> = (0..length / page).collect();
    let begun = crate::contest::begin();
    memory::read(address as *const u8, &pages);
    println!("{first} {}", begun.microseconds());
}

fn start(kind: &str, path: &Path, sheet: &mut Sheet, first: &'static str, reads: &'static str) {
    let own = std::env::current_exe().expect("this program");
    let output = Command::new(own)
        .arg("--child")
        .arg(kind)
        .arg(path)
        .output()
        .expect("a child");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let mut figures = text
        .split_whitespace()
        .map(|figure| figure.parse().expect("a figure"));
    sheet.add(first, figures.next().expect("the first byte"));
    sheet.add(reads, figures.next().expect("the reads"));
}

pub fn fresh(bench: &mut Bench) {
    for directory in bench.directories.clone() {
        let scratch = bench.scratch(&directory);
        let length = bench.module_bytes();
        let overlay = *bench.dirty_sets(&[1000, 10_000]).last().expect("a number");
        let kept = Region::arena(overlay * page_size());
        let pages = bench.rng.scattered(overlay, length / page_size());
        {
            let store = open(&scratch.path().join("store"));
            let module = bench.module(&store, length, &MapOptions::default());
            memory::dirty(base(&module), &pages, bench.rng.next());
            commit(&store);
            store.persist(None).expect("a persist");
            store.close().expect("a close");
        }
        let image = scratch.path().join("store/ram_Commit1");
        let plain = std::fs::copy(image, scratch.path().join("plain")).expect("a plain file");
        let file = std::fs::File::options()
            .write(true)
            .open(scratch.path().join("plain"));
        assert!(plain >= length as u64);
        file.and_then(|file| file.set_len(length as u64))
            .expect("its length");
        let target = Region::anonymous(length);
        memory::dirty(target.base, &pages, 1);
        let path = scratch.path();
        let players: Vec<Player<'_>> = vec![
            Box::new(|sheet, _| start("store", path, sheet, "store", "its reads")),
            Box::new(|sheet, _| start("map", path, sheet, "map", "plain reads")),
            Box::new(|sheet, _| start("read", path, sheet, "read", "reads of read memory")),
            Box::new(|sheet, _| {
                sheet.time("memcpy", || memory::scatter(&kept, target.base, &pages))
            }),
        ];
        let sheet = hold(bench.rounds.div_ceil(3), 1, &mut bench.rng, players);
        let memcpy = sheet.get("memcpy").median();
        let case = format!(
            "image of {} MiB, {overlay} pages above it, {}",
            length >> 20,
            file_system(&directory)
        );
        let ours = || ("open, map, first byte", sheet.get("store"));
        let bound = 2000.0 + memcpy;
        bench.report.line(
            "fresh",
            case.as_str(),
            "us",
            ours(),
            None,
            Target::Below(bound),
        );
        let map = Some(("bare MAP_PRIVATE", sheet.get("map")));
        bench
            .report
            .line("fresh", case.as_str(), "us", ours(), map, Target::Shown);
        let read = Some(("read all into fresh memory", sheet.get("read")));
        bench.report.line(
            "fresh",
            case.as_str(),
            "us",
            ours(),
            read,
            Target::Faster(20.0),
        );
        let reads = ("first read of each page", sheet.get("its reads"));
        let plain = Some(("of a plain MAP_PRIVATE", sheet.get("plain reads")));
        bench
            .report
            .line("fresh", case, "us", reads, plain, Target::Within(1.1));
    }
}
