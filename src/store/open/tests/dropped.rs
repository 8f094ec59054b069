//! Syncs that fail, owners that are killed before they can note the failure, and what the host then drops from the
//! files. The next owner finds what is left. A second sync of lost bytes must not count as success.

use std::io::IoSlice;
use std::sync::Arc;

use crate::journal::journal_place;
use crate::store::tests::crashed::{Crash, Crashes};
use crate::store::tests::evicted::killed_after_the_sync;
use crate::store::tests::recorded::{Fuse, RecordedFiles};
use crate::store::tests::steps::{Player, Step};
use crate::store::tests::{Random, Rig, check_reopened, open};
use crate::sys::fs::{Access, Files as _};
use crate::sys::host::repeatable;

/// Three commits in files, and six records of moved heads, which fill the journal's first sector. They leave the
/// head at a commit that was not the head when the last persist succeeded.
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

/// The steps before a sync fails, and the step in which it fails.
type FailingHistory = (fn(&mut Player), Step);

const HISTORIES: [FailingHistory; 6] = [
    // A sync of the first files, of `commits` and of its name.
    (
        |player| {
            for step in [Step::Map, Step::Commit] {
                player.step(step);
            }
        },
        Step::Persist,
    ),
    // A sync of the journal, which has only records of moved heads.
    (move_about, Step::Persist),
    // A sync of the journal, with a commit and its file.
    (
        |player| {
            for step in [Step::Map, Step::Commit, Step::Persist, Step::Commit] {
                player.step(step);
            }
        },
        Step::Persist,
    ),
    // A sync of an inline file of the journal by a checkpoint.
    (
        |player| {
            for step in [Step::Map, Step::Commit, Step::Persist, Step::Commit] {
                player.step(step);
            }
            player.step(Step::Persist);
        },
        Step::PersistInFiles,
    ),
    // A sync of the journal. The journal's beginning was rewritten earlier and is durable.
    (
        |player| {
            move_about(player);
            // Half a record, as a killed owner may leave it.
            let journal = player.rig.files.open(&journal_place(), Access::Write);
            let journal = journal.unwrap().unwrap();
            let end = journal.len().unwrap();
            journal.write_at(&[IoSlice::new(b"VREC")], end).unwrap();
            player.step(Step::Reopen);
            player.step(Step::Commit);
        },
        Step::Persist,
    ),
    // A sync of more files, and of `commits`, which is longer than a sector.
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
    (before, last): FailingHistory,
    has_boot_id: bool,
    at: u64,
) -> (Player, Arc<RecordedFiles>, Fuse) {
    repeatable::begin(1);
    let empty = RecordedFiles::new(has_boot_id);
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

/// The owner survives, opens the store again, makes more of it durable, and is killed or loses power at any time.
/// Or it opens the store twice: the second open finds a journal that the first open wrote and that may not be
/// durable, and leaves the journal empty. Returns how many states were tried.
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
fn promise_2_nothing_that_a_failed_sync_lost_counts_as_durable() {
    let (mut faults, mut states, mut salvaged) = (0, 0, 0);
    for has_boot_id in [false, true] {
        for (number, history) in HISTORIES.into_iter().enumerate() {
            for at in 1.. {
                let (mut player, empty, fuse) = fail_last(history, has_boot_id, at);
                if fuse.burnt == 0 {
                    break;
                }
                if !fuse.sync_failed {
                    continue;
                }
                let what = || format!("history {number}, boot id {has_boot_id}: {at} fails");
                let mut random = Random(at);
                let tried = killed_after_the_sync(&player.rig, &empty, &mut random, 256, &what);
                faults += 1;
                states += tried.0 + opened_anew(&mut player.rig, &empty, &mut random, false, &what);
                salvaged += tried.1;
                let what = || format!("{}, opened twice", what());
                let (mut player, empty, _) = fail_last(history, has_boot_id, at);
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
