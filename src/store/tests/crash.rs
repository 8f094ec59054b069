//! Promises 1 and 2 over long histories by chance: what a killed process and a power cut leave is
//! enough, at every operation, also when recovery itself is cut short. `explorer.rs` has short
//! histories, all of them.

use super::crashed::{Crash, Crashes};
use super::recorded::RecordedFiles;
use super::{Moment, OpenOptions, Random, Rig, Store, check_reopened, long, open, seed};
use crate::Error;

/// Crashes one history at every operation from the one that `live` returns, and its recovery at a few. Returns
/// the states tried.
fn explore(seed: u64, again: u64, live: impl Fn(&mut Rig, &mut Random) -> usize) -> u64 {
    let mut random = Random(seed);
    let empty = RecordedFiles::new(!seed.is_multiple_of(4));
    let mut rig = Rig::new(empty.copy());
    let from = live(&mut rig, &mut random);
    let mut states = 0;
    for count in from..=rig.files.recorded() {
        let cuts = [0, 10, 50, 90, 100].map(|percent| (Crash::PowerCut, percent));
        for (crash, percent) in cuts.into_iter().chain([(Crash::Kill, 100)]) {
            let what = || format!("seed {seed}, {crash:?} {percent} after {count} operations");
            let crashes = Crashes::new(&rig.files, &empty.disk(), count, crash);
            let left = crashes.by_chance(percent, &mut random);
            let allowed = rig.allowed(count, crash);
            for _ in 0..again {
                let recovering = left.copy();
                drop(open(&recovering, &what));
                let cut = random.below(recovering.recorded() as u64 + 1) as usize;
                let percent = random.below(101);
                // A killed owner's page cache outlives a killed recovery, too.
                let second = Crashes::new(&recovering, &left.disk(), cut, crash);
                let what = || format!("{}, again {percent} after {cut}", what());
                let store = open(&second.by_chance(percent, &mut random), &what);
                check_reopened(&store, &rig.oracle, allowed.clone(), &what);
                states += 1;
            }
            let store = open(&left, &what);
            check_reopened(&store, &rig.oracle, allowed, &what);
            states += 1;
        }
    }
    states
}

#[test]
fn promise_1_and_2_every_crash_leaves_a_prefix_with_all_that_was_promised() {
    let mut states = 0;
    for number in 1..=24 * long() {
        states += explore((seed() - 1 + number) * 7919, 1, |rig, random| {
            rig.live(random, 2 + number % 7);
            rig.made()
        });
    }
    assert!(states > 5_000, "only {states} states");
    println!(
        "seed {}: {states} crash states of long histories: nothing promised was lost, no history had a hole",
        seed()
    );
}

#[test]
fn promise_1_and_2_deleting_changes_nothing_that_stays_whatever_a_crash_leaves() {
    let mut states = 0;
    for number in 1..=24 * long() {
        states += explore((seed() - 1 + number) * 104_729, 1, |rig, random| {
            rig.grow_and_prune(random, 3 + number % 4, false)
        });
    }
    assert!(states > 5_000, "only {states} states");
    println!(
        "seed {}: {states} crash states of deletions: what stays is whole, what goes went whole",
        seed()
    );
}

#[test]
fn promise_1_and_2_compacting_changes_nothing_that_stays_whatever_a_crash_leaves() {
    let mut states = 0;
    for number in 1..=24 * long() {
        states += explore((seed() - 1 + number) * 15_485_863, 1, |rig, random| {
            rig.grow_and_prune(random, 3 + number % 4, true)
        });
    }
    assert!(states > 5_000, "only {states} states");
    println!(
        "seed {}: {states} crash states of compactions: what stays is whole, what goes went whole",
        seed()
    );
}

#[test]
fn promise_2_commits_whose_deletion_a_power_cut_takes_are_checked_themselves() {
    let mut states = 0;
    for tells_boot in [false, true] {
        let mut random = Random(17);
        let empty = RecordedFiles::new(tells_boot);
        let mut rig = Rig::small(empty.copy());
        rig.map("a");
        for number in 1..6 {
            rig.write();
            rig.commit();
            if number > 1 {
                rig.delete(number - 1);
            }
        }
        let count = rig.files.recorded();
        let crashes = Crashes::new(&rig.files, &empty.disk(), count, Crash::PowerCut);
        for number in 0..3000 {
            let percent = [50, 80, 90, 95][number % 4];
            let what = || format!("state {number}, {percent} of 100");
            let store = open(&crashes.by_chance(percent, &mut random), &what);
            check_reopened(
                &store,
                &rig.oracle,
                rig.allowed(count, Crash::PowerCut),
                &what,
            );
            states += 1;
        }
    }
    println!("{states} power cuts of commits that were deleted: whole, or not there");
}

#[test]
fn promise_2_a_reader_sees_what_the_journal_carries_or_says_that_an_owner_must_come_first() {
    let (mut seen, mut refused) = (0, 0);
    for tells_boot in [false, true] {
        let mut random = Random(23);
        let empty = RecordedFiles::new(tells_boot);
        let mut rig = Rig::small(empty.copy());
        rig.map("a");
        for _ in 0..4 {
            rig.write();
            rig.commit();
            rig.persist();
        }
        let count = rig.files.recorded();
        let crashes = Crashes::new(&rig.files, &empty.disk(), count, Crash::PowerCut);
        for number in 0..200 {
            let percent = [0, 20, 50, 80, 100][number % 5];
            let left = crashes.by_chance(percent, &mut random);
            let read_only = OpenOptions {
                read_only: true,
                ..OpenOptions::default()
            };
            let what = || format!("state {number}, {percent} of 100");
            match Store::open_files(left.clone(), "test", read_only) {
                Ok(reader) => {
                    assert_eq!(Moment::of(&reader), *rig.oracle.now(), "{}", what());
                    seen += 1;
                }
                Err(Error::ReadOnly { .. }) => refused += 1,
                Err(error) => panic!("{}: {error}", what()),
            }
            let allowed = rig.allowed(count, Crash::PowerCut);
            check_reopened(&open(&left, &what), &rig.oracle, allowed, &what);
        }
    }
    assert!(seen > 50 && refused > 50, "{seen}, {refused}");
    println!(
        "{seen} readers after a power cut saw all that was persisted, {refused} sent for an owner"
    );
}
