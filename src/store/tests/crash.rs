//! Promises 1 and 2 over long random histories: what a killed process or a power cut leaves is enough, after every
//! operation, also when recovery itself is interrupted. `explorer.rs` tries all short histories.

use super::crashed::{Crash, Crashes};
use super::recorded::{Disk, Node, RecordedFiles, content};
use super::{CommitOptions, Moment, OpenOptions, Random, Rig, Store};
use super::{check_power_cuts, check_reopened, long, map_options, open, seed};
use crate::Error;
use crate::format::name;
use crate::journal::journal_place;
use crate::sys::fs::Place;
use std::sync::Arc;

/// Crashes one history after every operation from the one that `live` returns, and its recovery after a few.
/// Returns how many states were tried.
fn explore(seed: u64, again: u64, live: impl Fn(&mut Rig, &mut Random) -> usize) -> u64 {
    let mut random = Random(seed);
    let empty = RecordedFiles::new(seed % 4 != 0);
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
                // After a killed owner, the page cache also survives the kill of the recovery.
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
fn promise_1_and_2_every_crash_leaves_a_prefix_with_all_that_is_durable() {
    let mut states = 0;
    for number in 1..=24 * long() {
        states += explore((seed() - 1 + number) * 7919, 1, |rig, random| {
            rig.live(random, 2 + number % 7);
            rig.made()
        });
    }
    assert!(states > 5_000, "only {states} states");
    println!(
        "seed {}: {states} crash states of long histories: nothing durable was lost, no history had a hole",
        seed()
    );
}

#[test]
fn promise_1_and_2_deleting_changes_nothing_that_stays_whatever_a_crash_leaves() {
    let mut states = 0;
    for number in 1..=24 * long() {
        states += explore((seed() - 1 + number) * 104_729, 1, |rig, random| {
            rig.grow_and_delete(random, 3 + number % 4, false)
        });
    }
    assert!(states > 5_000, "only {states} states");
    println!(
        "seed {}: {states} crash states of deletions: what stays is whole, what is deleted went whole",
        seed()
    );
}

#[test]
fn promise_1_and_2_compacting_changes_nothing_that_stays_whatever_a_crash_leaves() {
    let mut states = 0;
    for number in 1..=24 * long() {
        states += explore((seed() - 1 + number) * 15_485_863, 1, |rig, random| {
            rig.grow_and_delete(random, 3 + number % 4, true)
        });
    }
    assert!(states > 5_000, "only {states} states");
    println!(
        "seed {}: {states} crash states of compactions: what stays is whole, what is deleted went whole",
        seed()
    );
}

#[test]
fn promise_2_commits_whose_deletion_a_power_cut_takes_are_checked_themselves() {
    let mut states = 0;
    for has_boot_id in [false, true] {
        let mut random = Random(17);
        let empty = RecordedFiles::new(has_boot_id);
        let mut rig = Rig::small(empty.copy());
        rig.map("a");
        for number in 1..6 {
            rig.write();
            rig.commit();
            if number > 1 {
                rig.delete(number - 1);
            }
        }
        let what = |percent| format!("boot id {has_boot_id}, {percent} of 100");
        let percents = [50, 80, 90, 95].repeat(750);
        states += check_power_cuts(&rig, &empty.disk(), percents, &mut random, &what);
    }
    println!("{states} power cuts of commits that were deleted: whole, or not there");
}

#[test]
fn promise_2_a_reader_sees_inline_files_or_says_that_an_owner_must_open_first() {
    let (mut seen, mut refused) = (0, 0);
    for has_boot_id in [false, true] {
        let mut random = Random(23);
        let empty = RecordedFiles::new(has_boot_id);
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
        "{seen} readers after a power cut saw all that was persisted, {refused} said that an owner must open first"
    );
}

/// Kills an owner at each operation while it opens what is on this disk. The next owner opens the store and makes
/// it durable, and then the power is cut. Returns how many states were tried.
fn killed_while_it_opened(
    files: &Arc<RecordedFiles>,
    durable: &Disk,
    begun: usize,
    random: &mut Random,
    in_files: bool,
) -> u64 {
    let mut states = 0;
    let log = files.log();
    for cut in begun..=log.len() {
        let what = || format!("opening killed after {} operations", cut - begun);
        let left = Crashes::of_log(&log[..cut], files, durable, Crash::Kill);
        let disk = left.left(|_| true);
        let files = RecordedFiles::killed(disk, left.boot(), log[..cut].to_vec());
        let store = open(&files, &what);
        let size = 2 * crate::sys::host::page_size();
        let module = store.map_module("a", size, &map_options()).unwrap();
        for version in [1, 2] {
            module.mapped().memory.write(0, &[cut as u8 | version; 700]);
            module.mark_dirty(0, 700).unwrap();
            store.commit(&CommitOptions::default()).unwrap();
            if in_files {
                store.checkpoint(None).unwrap();
            } else {
                store.persist(None).unwrap();
            }
        }
        let holds = Moment::of(&store);
        drop((module, store));
        let crashes = Crashes::new(&files, durable, files.recorded(), Crash::PowerCut);
        for percent in [0, 100].into_iter().chain([50; 20]) {
            let store = open(&crashes.by_chance(percent, random), &what);
            assert_eq!(Moment::of(&store), holds, "{}: lost", what());
            store
                .verify(&crate::VerifyOptions::default(), None)
                .unwrap();
            states += 1;
        }
    }
    states
}

#[test]
fn promise_2_an_owner_killed_while_it_made_the_store_takes_nothing_from_the_next() {
    let mut states = 0;
    for (has_boot_id, in_files) in [(false, false), (false, true), (true, false), (true, true)] {
        let empty = RecordedFiles::new(has_boot_id);
        let files = empty.copy();
        drop(open(&files, &|| "making it".to_owned()));
        let mut random = Random(37);
        states += killed_while_it_opened(&files, &empty.disk(), 0, &mut random, in_files);
    }
    println!("{states} power cuts after an owner was killed while it made the store: nothing lost");
    assert!(states > 1000, "{states}");
}

#[test]
fn promise_2_an_owner_killed_while_it_opened_leaves_the_next_one_nothing_that_is_not_durable() {
    let mut states = 0;
    for has_boot_id in [false, true] {
        let mut random = Random(29);
        let empty = RecordedFiles::new(has_boot_id);
        let mut rig = Rig::small(empty.copy());
        rig.map("a");
        for _ in 0..3 {
            rig.write();
            rig.commit();
            rig.persist();
        }
        let begun = rig.files.recorded();
        rig.reopen();
        states += killed_while_it_opened(&rig.files, &empty.disk(), begun, &mut random, false);
    }
    println!("{states} power cuts after an owner was killed while it opened: nothing lost");
    assert!(states > 200);
}

#[test]
fn promise_2_a_journal_that_a_killed_owner_wrote_anew_has_all_that_was_persisted_in_it() {
    let mut states = 0;
    for has_boot_id in [false, true] {
        let mut rig = Rig::small(RecordedFiles::new(has_boot_id));
        rig.map("a");
        rig.write();
        rig.commit();
        rig.persist_in_files();
        rig.write();
        let before = rig.files.disk();
        rig.commit();
        // The last record is torn, so the journal is rewritten. The owner is killed before the new record is whole.
        let mut disk = rig.files.disk();
        let inode = |name| match disk.names[&Place::hidden(name)] {
            Node::File(inode) => inode,
            Node::Link(_) => panic!("{name} is a file"),
        };
        let (journal, mark) = (inode(name::JOURNAL), inode(name::HIGH_WATER));
        content(&mut disk, journal).pop();
        disk.inodes[mark] = before.inodes[mark].clone();
        let files = RecordedFiles::holding(disk.clone(), u8::from(has_boot_id));
        drop(open(&files, &|| "a torn journal".to_owned()));
        let now = files.disk().names[&journal_place()].clone();
        assert_ne!(now, Node::File(journal), "the journal was rewritten");
        states += killed_while_it_opened(&files, &disk, 0, &mut Random(31), false);
    }
    println!("{states} power cuts after an owner was killed while it rewrote the journal");
    assert!(states > 200);
}

#[test]
fn promise_2_a_reader_finds_the_file_of_a_persisted_commit_until_its_deletion_is_durable() {
    let mut states = 0;
    for in_files in [false, true] {
        let empty = RecordedFiles::new(true);
        let mut rig = Rig::small(empty.copy());
        rig.map("a");
        rig.write();
        rig.commit();
        rig.persist();
        rig.write();
        rig.commit();
        rig.restore(1);
        rig.write();
        rig.commit();
        if in_files {
            rig.persist_in_files();
        } else {
            rig.persist();
        }
        let power_cut = |rig: &Rig| {
            let count = rig.files.recorded();
            Crashes::new(&rig.files, &empty.disk(), count, Crash::PowerCut)
        };
        let before = power_cut(&rig).uncertain;
        rig.delete(2);
        let after = power_cut(&rig);
        // The bytes from before had time to be written. Of the deletion any part may be there.
        let count = after.uncertain - before;
        assert!((1..10).contains(&count), "{count} steps");
        for mask in 0..1u32 << count {
            let left = after.files(|at| at < before || mask >> (at - before) & 1 == 1);
            let what = || format!("in files {in_files}: {mask:b} of a deletion");
            let read_only = OpenOptions {
                read_only: true,
                ..OpenOptions::default()
            };
            let reader = Store::open_files(left, "test", read_only);
            let reader = reader.unwrap_or_else(|error| panic!("{}: {error}", what()));
            let last = rig.oracle.last();
            check_reopened(&reader, &rig.oracle, last - 1..=last, &what);
            states += 1;
        }
    }
    println!("{states} power cuts of a deletion: a reader sees all of before or after");
}
