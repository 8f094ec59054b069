//! Syncs that fail, owners that are killed before they could note it, and what the host then drops of the files. The
//! next owner finds what is left, and makes no promise of what a second sync would lie about.

use std::io::IoSlice;
use std::sync::Arc;

use super::crashed::{Crash, Crashes};
use super::recorded::{Fuse, Operation, RecordedFiles};
use super::rig::open_options;
use super::steps::{Player, Step};
use super::{Moment, OpenOptions, Random, Rig, Store};
use super::{check_bytes, check_reopened, map_options, open};
use crate::Error;
use crate::journal::journal_place;
use crate::sys::fs::{Access, Files as _};
use crate::sys::host::repeatable;

/// The owner is killed between a failed sync and the end of its call, and the host has dropped what that sync
/// could not write, in at most `most` ways. The next owner opens the store, makes it durable, and then the power
/// goes. Returns the states tried, and how often the store had to be salvaged.
pub(super) fn killed_after_the_sync(
    rig: &Rig,
    empty: &RecordedFiles,
    random: &mut Random,
    most: u64,
    what: &dyn Fn() -> String,
) -> (u64, u64) {
    let (mut states, mut salvaged) = (0, 0);
    let log = rig.files.log();
    let failed = |at: &usize| matches!(log[*at], Operation::FailedSync { .. });
    let end = log.len();
    let first = (0..end).find(failed).unwrap_or(end);
    for count in first + 1..=end {
        let crashes = Crashes::of_log(&log[..count], &rig.files, &empty.disk(), Crash::Evicted);
        let mut disks = Vec::new();
        crashes.choices(most, random, |survives| disks.push(crashes.left(survives)));
        for (number, left) in disks.into_iter().enumerate() {
            let what = || format!("{}; killed after {count} operations, {number}", what());
            let files = RecordedFiles::killed(left, crashes.boot(), log[..count].to_vec());
            let allowed = rig.allowed(count, Crash::Evicted);
            let Some(store) = open_or_salvage(&files, rig, *allowed.start(), &what) else {
                salvaged += 1;
                continue;
            };
            let found = check_reopened(&store, &rig.oracle, allowed, &what);
            let head = store.restore(rig.oracle.moments[found].head, None);
            assert!(head.is_ok() || found == 0, "{}: {head:?}", what());
            store
                .persist(None)
                .unwrap_or_else(|error| panic!("{}: persist: {error}", what()));
            let holds = Moment::of(&store);
            drop(store);
            let crashes = Crashes::new(&files, &empty.disk(), files.recorded(), Crash::PowerCut);
            for percent in [0, 50] {
                let what = || format!("{}; {percent} of 100", what());
                let store = open(&crashes.by_chance(percent, random), &what);
                assert_eq!(Moment::of(&store), holds, "{}: not durable", what());
                check_bytes(&store, &rig.oracle, &what);
                states += 1;
            }
            states += 1;
        }
    }
    (states, salvaged)
}

/// A failed sync of the journal may take back the header that says so, and leave the records behind it torn. Then the
/// store is not opened, and salvaging finds all that was persisted.
pub(super) fn open_or_salvage(
    files: &Arc<RecordedFiles>,
    rig: &Rig,
    least: usize,
    what: &dyn Fn() -> String,
) -> Option<Store> {
    match Store::open_files(files.clone(), "test", open_options()) {
        Ok(store) => return Some(store),
        Err(Error::Corrupt { file, .. }) if file == ".vmstore/journal" => {}
        Err(error) => panic!("{}: it cannot be opened: {error}", what()),
    }
    for commit in &rig.oracle.moments[least].commits {
        let options = OpenOptions {
            salvage: true,
            ..OpenOptions::default()
        };
        let salvaged = || {
            let store = Store::open_files(files.clone(), "test", options)?;
            store.restore(*commit, None)?;
            for (id, bytes) in rig.oracle.bytes[commit].iter() {
                let module = store.map_module(id, 0, &map_options())?;
                assert!(module.mapped().memory.equals(0, bytes), "{}: {id}", what());
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = salvaged() {
            panic!("{}: commit {commit} is not salvaged: {error}", what());
        }
    }
    None
}

/// Three commits in files, and six records of moved heads, which fill the journal's first sector. The head was never
/// where they leave it when the last persist succeeded.
fn move_about(player: &mut Player) {
    for step in [
        Step::Map,
        Step::Commit,
        Step::Commit,
        Step::Commit,
        Step::Persist,
    ] {
        player.step(step);
    }
    for _ in 0..3 {
        player.rig.restore(1);
        player.rig.restore(2);
    }
}

/// What comes before a sync fails, and the step in which it does.
type History = (fn(&mut Player), Step);

const HISTORIES: [History; 6] = [
    // Of the first files, of `commits` and of its name.
    (
        |player| {
            for step in [Step::Map, Step::Commit] {
                player.step(step);
            }
        },
        Step::Persist,
    ),
    // Of the journal, with records of moved heads alone.
    (move_about, Step::Persist),
    // Of the journal, with a commit and its file.
    (
        |player| {
            for step in [Step::Map, Step::Commit, Step::Persist, Step::Commit] {
                player.step(step);
            }
        },
        Step::Persist,
    ),
    // Of a file that the journal carries, and is to let go of.
    (
        |player| {
            for step in [Step::Map, Step::Commit, Step::Persist, Step::Commit] {
                player.step(step);
            }
            player.step(Step::Persist);
        },
        Step::PersistInFiles,
    ),
    // Of the journal, whose beginning is durable since it was written anew, before any of this had begun.
    (
        |player| {
            move_about(player);
            // A half record, as an owner leaves it that was killed.
            let journal = player.rig.files.open(&journal_place(), Access::Write);
            let journal = journal.unwrap().unwrap();
            let end = journal.len().unwrap();
            journal.write_at(&[IoSlice::new(b"VREC")], end).unwrap();
            player.step(Step::Reopen);
            player.step(Step::Commit);
        },
        Step::Persist,
    ),
    // Of more files, and of `commits`, which goes on for more than a sector.
    (
        |player| {
            for step in [Step::Map, Step::Commit, Step::PersistInFiles] {
                player.step(step);
            }
            for _ in 0..8 {
                player.step(Step::Commit);
            }
        },
        Step::PersistInFiles,
    ),
];

/// Plays a history, and lets the operation `at` of its last step fail.
fn fail_last(
    (before, last): History,
    tells_boot: bool,
    at: u64,
) -> (Player, Arc<RecordedFiles>, Fuse) {
    repeatable::begin(1);
    let empty = RecordedFiles::new(tells_boot);
    let mut player = Player::new(empty.copy());
    before(&mut player);
    player.rig.patience = 0;
    player.rig.files.set_fuse(Fuse {
        at,
        times: 1,
        errno: libc::EIO,
        ..Fuse::default()
    });
    player.step(last);
    let fuse = player.rig.files.set_fuse(Fuse::default());
    (player, empty, fuse)
}

/// The owner lives, opens the store anew, and makes more of it durable, and is killed or loses power at any time of
/// that; or opens it twice, so that it is doubted for what the first one wrote of it, and leaves the journal empty.
/// Returns the states tried.
fn opened_anew(
    rig: &mut Rig,
    empty: &RecordedFiles,
    random: &mut Random,
    twice: bool,
    what: &dyn Fn() -> String,
) -> u64 {
    let mut states = 0;
    let begun = rig.files.recorded();
    rig.patience = 1;
    rig.reopen();
    if twice {
        rig.reopen();
    }
    rig.write();
    rig.commit();
    if twice {
        rig.persist_in_files();
    } else {
        rig.persist();
    }
    for count in begun..=rig.files.recorded() {
        let cuts = [0, 50, 100].map(|percent| (Crash::PowerCut, percent));
        for (crash, percent) in cuts.into_iter().chain([(Crash::Kill, 100)]) {
            let what = || format!("{}; {crash:?} {percent} after {count} operations", what());
            let crashes = Crashes::new(&rig.files, &empty.disk(), count, crash);
            let store = open(&crashes.by_chance(percent, random), &what);
            check_reopened(&store, &rig.oracle, rig.allowed(count, crash), &what);
            states += 1;
        }
    }
    states
}

#[test]
fn promise_2_nothing_that_a_failed_sync_gave_up_is_taken_for_durable() {
    let (mut faults, mut states, mut salvaged) = (0, 0, 0);
    for tells_boot in [false, true] {
        for (number, history) in HISTORIES.into_iter().enumerate() {
            for at in 1.. {
                let (mut player, empty, fuse) = fail_last(history, tells_boot, at);
                if fuse.burnt == 0 {
                    break;
                }
                if !fuse.sync_failed {
                    continue;
                }
                let what = || format!("history {number}, boot id {tells_boot}: {at} fails");
                let mut random = Random(at);
                let tried = killed_after_the_sync(&player.rig, &empty, &mut random, 256, &what);
                faults += 1;
                states += tried.0 + opened_anew(&mut player.rig, &empty, &mut random, false, &what);
                salvaged += tried.1;
                let what = || format!("{}, opened twice", what());
                let (mut player, empty, _) = fail_last(history, tells_boot, at);
                states += opened_anew(&mut player.rig, &empty, &mut random, true, &what);
            }
        }
    }
    println!(
        "{faults} syncs failed, and their owner was killed or went on: {states} states that the host, a kill and a power cut \
         left, {salvaged} more that were salvaged"
    );
    assert!(faults >= 10 && states > 500 && salvaged < states / 80);
}
