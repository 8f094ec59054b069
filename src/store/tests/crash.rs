//! Promises 1 and 2: what a killed process and a power cut leave is enough, at every operation,
//! also when recovery itself is cut short.

use std::sync::Arc;

use super::recorded::{Crash, RecordedFiles};
use super::{OpenOptions, Oracle, Random, Rig, Store, check_reopened, long};

/// What was promised once `count` operations had been made, and the most that may be there.
fn promised(rig: &Rig, count: usize) -> (&Oracle, &Oracle) {
    let done = rig.marks.iter().rev().find(|(at, _)| *at <= count);
    let begun = rig
        .marks
        .iter()
        .find(|(at, _)| *at > count)
        .or(rig.marks.last());
    (&done.unwrap_or(&rig.marks[0]).1, &begun.unwrap().1)
}

fn reopen(files: &Arc<RecordedFiles>, what: &dyn Fn() -> String) -> Store {
    Store::open_files(files.clone(), "test", OpenOptions::default())
        .unwrap_or_else(|error| panic!("{}: {error}", what()))
}

/// Crashes one history at every operation, and its recovery at a few. Returns the states tried.
fn explore(seed: u64, again: u64, live: impl Fn(&mut Rig, &mut Random)) -> u64 {
    let mut random = Random(seed);
    let empty = RecordedFiles::new(!seed.is_multiple_of(4));
    let mut rig = Rig::new(empty.copy());
    live(&mut rig, &mut random);
    let mut states = 0;
    for count in rig.from..=rig.files.recorded() {
        let crashes = [0, 10, 50, 90, 100].map(Crash::PowerCut);
        for crash in crashes.into_iter().chain([Crash::Kill]) {
            let what = || format!("seed {seed}, {crash:?} after {count} operations");
            let left = rig.files.crashed(&empty, count, crash, &mut random);
            let (done, begun) = promised(&rig, count);
            let least = match crash {
                Crash::Kill => done.steps(),
                Crash::PowerCut(_) => done.persisted,
            };
            for _ in 0..again {
                let recovering = left.copy();
                drop(reopen(&recovering, &what));
                let cut = random.below(recovering.recorded() as u64 + 1) as usize;
                let percent = random.below(101);
                let second = match crash {
                    // A killed owner's page cache outlives a killed recovery, too.
                    Crash::Kill => Crash::Kill,
                    Crash::PowerCut(_) => Crash::PowerCut(percent),
                };
                let left = recovering.crashed(&left, cut, second, &mut random);
                let store = reopen(&left, &|| {
                    format!("{}, then {second:?} after {cut}", what())
                });
                check_reopened(&store, begun, least, &what());
                states += 1;
            }
            let store = reopen(&left, &what);
            check_reopened(&store, begun, least, &what());
            states += 1;
        }
        // The next owner recovers, and then the power goes.
        let what = || format!("seed {seed}, killed after {count} operations, then a power cut");
        let killed = rig.files.killed(&empty, count, &mut random);
        drop(reopen(&killed, &what));
        let (done, begun) = promised(&rig, count);
        for percent in [20, 80] {
            let all = killed.recorded();
            let left = killed.crashed(&empty, all, Crash::PowerCut(percent), &mut random);
            check_reopened(&reopen(&left, &what), begun, done.persisted, &what());
            states += 1;
        }
    }
    states
}

#[test]
fn promise_1_and_2_every_crash_leaves_a_prefix_with_all_that_was_promised() {
    let mut states = 0;
    for seed in 1..=24 * long() {
        states += explore(seed * 7919, 1, |rig, random| rig.live(random, 2 + seed % 7));
    }
    assert!(states > 5_000, "only {states} states");
    println!("{states} crash states: nothing promised was lost, no history had a hole");
}

#[test]
fn promise_1_and_2_deleting_changes_nothing_that_stays_whatever_a_crash_leaves() {
    let mut states = 0;
    for seed in 1..=24 * long() {
        states += explore(seed * 104_729, 1, |rig, random| {
            rig.grow_and_prune(random, 3 + seed % 4, false);
        });
    }
    assert!(states > 5_000, "only {states} states");
    println!("{states} crash states of deletions: what stays is whole, what goes went whole");
}

#[test]
fn promise_1_and_2_compacting_changes_nothing_that_stays_whatever_a_crash_leaves() {
    let mut states = 0;
    for seed in 1..=24 * long() {
        states += explore(seed * 15_485_863, 1, |rig, random| {
            rig.grow_and_prune(random, 3 + seed % 4, true);
        });
    }
    assert!(states > 5_000, "only {states} states");
    println!("{states} crash states of compactions: what stays is whole, what goes went whole");
}

/// The negative control: without the sync before the records, the search must find a loss.
#[test]
fn the_search_sees_a_missing_sync() {
    let found = std::panic::catch_unwind(|| {
        let mut random = Random(5);
        let empty = RecordedFiles::new(true);
        let mut rig = Rig::new(empty.copy());
        rig.live(&mut random, 6);
        rig.persist();
        rig.files.forget_syncs();
        for _ in 0..50 {
            let count = rig.files.recorded();
            let left = rig
                .files
                .crashed(&empty, count, Crash::PowerCut(50), &mut random);
            let store = reopen(&left, &|| "without syncs".into());
            let (done, begun) = promised(&rig, count);
            check_reopened(&store, begun, done.persisted, "without syncs");
        }
    });
    assert!(found.is_err(), "a store whose syncs do nothing passed");
}
