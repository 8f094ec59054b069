//! Restore in place, compared with other ways to put pages back.

use std::fs::File;
use std::io::Write as _;

use vmstore::MapOptions;

use super::{Bench, base, commit, open};
use crate::contest::{Player, hold};
use crate::machine::{file_system, page_size};
use crate::memory::{self, Region};
use crate::report::Target;

/// Maps the same file privately over memory again, which drops the private copies.
fn remap(region: &Region, file: &File) {
    use std::os::fd::AsRawFd;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: it replaces a mapping of ours.
    let base = unsafe {
        libc::mmap(
            region.base.cast(),
            region.length,
            protection,
            flags,
            file.as_raw_fd(),
            0,
        )
    };
    assert_eq!(base, region.base.cast());
}

pub fn restore(bench: &mut Bench) {
    let directory = bench.directories[0].clone();
    let scratch = bench.scratch(&directory);
    let store = open(&scratch.path().join("store"));
    let length = bench.module_bytes();
    let module = bench.module(&store, length, &MapOptions::default());
    let head = commit(&store);
    let path = scratch.path().join("plain");
    File::create_new(&path)
        .and_then(|mut file| {
            // SAFETY: the module is mapped, and nobody writes to it now.
            file.write_all(unsafe { std::slice::from_raw_parts(base(&module), length) })
        })
        .expect("a plain file");
    let file = File::open(&path).expect("the plain file");
    let mapped = Region::private(&file, length);
    let kept = Region::arena(length / 2);
    // As large as piecrust's memories. Pages of 64 KiB are piecrust's own choice: fewer faults.
    let small = length / 4;
    let mut crumbs = crumbles::Mmap::new(small / 65536, 65536).expect("a mapping of crumbles");
    memory::fill(crumbs.as_mut_ptr(), small, &mut bench.rng);
    crumbs.snap().expect("a snapshot");
    for count in bench.dirty_sets(&[100, 1000, 10_000]) {
        let pages = &bench.rng.scattered(count, length / page_size());
        let fewer = &bench.rng.scattered(count, small / page_size());
        memory::gather(base(&module), pages, &kept);
        let players: Vec<Player<'_>> = vec![
            Box::new(|sheet, rng| {
                memory::dirty(base(&module), pages, rng.next());
                sheet.time("vmstore", || store.restore(head, None).expect("a restore"));
            }),
            Box::new(|sheet, rng| {
                memory::dirty(base(&module), pages, rng.next());
                sheet.time("memcpy", || memory::scatter(&kept, base(&module), pages));
            }),
            Box::new(|sheet, rng| {
                memory::dirty(mapped.base, pages, rng.next());
                // A guest that made these pages dirty writes to most of them again.
                sheet.time("remap", || {
                    remap(&mapped, &file);
                    memory::dirty(mapped.base, pages, 1);
                });
            }),
            Box::new(|sheet, rng| {
                memory::dirty(crumbs.as_mut_ptr(), fewer, rng.next());
                sheet.time("crumbles", || crumbs.revert().expect("a revert"));
            }),
        ];
        let sheet = hold(bench.rounds.div_ceil(2), 2, &mut bench.rng, players);
        let case = format!(
            "{count} pages of {} MiB, {}",
            length >> 20,
            file_system(&directory)
        );
        let ours = || ("restore", sheet.get("vmstore"));
        let large = count >= 10_000;
        let judged = |target| if count >= 1000 { target } else { Target::Shown };
        let within = if large {
            Target::Within(2.0)
        } else {
            Target::Shown
        };
        let memcpy = Some(("memcpy", sheet.get("memcpy")));
        bench
            .report
            .line("restore", case.as_str(), "us", ours(), memcpy, within);
        let remap = Some(("remap + refault by writing", sheet.get("remap")));
        bench.report.line(
            "restore",
            case.as_str(),
            "us",
            ours(),
            remap,
            judged(Target::Faster(3.0)),
        );
        let crumbles = sheet.get("crumbles");
        let name = format!("revert of crumbles, {} MiB", small >> 20);
        bench.report.line(
            "restore",
            case.as_str(),
            "us",
            ours(),
            Some((&name, crumbles)),
            judged(Target::Faster(10.0)),
        );
        if large {
            let rate = crate::contest::Times::of(count as f64 / sheet.get("vmstore").median());
            bench.report.line(
                "restore",
                case,
                "million pages/s",
                ("restore", rate),
                None,
                Target::Above(1.2),
            );
        }
    }
}
