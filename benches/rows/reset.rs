//! A fuzzer's reset: few pages, always the same commit.

use vmstore::{MapOptions, Tracker};

use super::{Bench, base, commit, open};
use crate::contest::{Player, Times, hold};
use crate::machine::{file_system, page_size};
use crate::memory::{self, Region};
use crate::report::{Case, Target};

pub fn reset(bench: &mut Bench) {
    let directory = bench.directories[0].clone();
    let scratch = bench.scratch(&directory);
    let store = open(&scratch.path().join("store"));
    let length = 64 << 20;
    let options = MapOptions {
        tracker: Some(Tracker::Caller),
        ..MapOptions::default()
    };
    let module = bench.module(&store, length, &options);
    let head = commit(&store);
    let page = page_size();
    let pages = &bench.rng.scattered(50, length / page);
    let kept = Region::arena(50 * page);
    memory::gather(base(&module), pages, &kept);
    let each = if bench.smoke { 20 } else { 500 };
    let reset = |value: u64| {
        memory::dirty(base(&module), pages, value);
        for at in pages {
            module
                .mark_dirty((at * page) as u64, page as u64)
                .expect("a page");
        }
        let begun = crate::contest::begin();
        store.restore(head, None).expect("a restore");
        begun.microseconds()
    };
    let players: Vec<Player<'_>> = vec![
        Box::new(|sheet, rng| {
            let mut times = Times::default();
            (0..each).for_each(|_| times.push(reset(rng.next())));
            sheet.add("restore", times.median());
        }),
        Box::new(|sheet, rng| {
            let mut times = Times::default();
            for _ in 0..each {
                memory::dirty(base(&module), pages, rng.next());
                let begun = crate::contest::begin();
                memory::scatter(&kept, base(&module), pages);
                times.push(begun.microseconds());
            }
            sheet.add("memcpy", times.median());
        }),
    ];
    let sheet = hold(bench.rounds, 2, &mut bench.rng, players);
    let case = format!("50 pages of 64 MiB, CALLER, {}", file_system(&directory));
    let restore = sheet.get("restore");
    let memcpy = Some(("memcpy", sheet.get("memcpy")));
    bench.report.line(
        &Case::new("reset", case.as_str(), "us"),
        ("restore", restore.clone()),
        memcpy,
        Target::Shown,
    );
    let rate = Times::of(1e6 / restore.median());
    bench.report.line(
        &Case::new("reset", case, "resets/s"),
        ("restore", rate),
        None,
        Target::Above(20_000.0),
    );
}
