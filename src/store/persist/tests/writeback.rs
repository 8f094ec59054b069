//! Writes that the host could not write back. Only a sync through a descriptor that was open at that time reports
//! the error. A sync through another descriptor, or by the next owner, succeeds: it must not count for these
//! writes.

use std::os::fd::AsRawFd as _;

use crate::format::name;
use crate::store::tests::crashed::{Crash, Crashes};
use crate::store::tests::exported::{exported, source};
use crate::store::tests::recorded::{Disk, Fuse, Node, Operation, RecordedFiles};
use crate::store::tests::steps::{Step, StepHistory};
use crate::store::tests::{Random, Rig, check_reopened, open};
use crate::sys::fs::Place;
use crate::sys::host::repeatable;

/// The module commits that some operations have written.
fn module_commits(disk: &Disk, log: &[Operation]) -> Vec<usize> {
    let written = |file: &usize| {
        log.iter()
            .any(|operation| matches!(operation, Operation::Write { inode, .. } if inode == file))
    };
    let of_a_module = |(place, node): (&Place, &Node)| match node {
        Node::File(inode) if name::parse_module_commit(&place.name).is_some() => Some(*inode),
        _ => None,
    };
    disk.names
        .iter()
        .filter_map(of_a_module)
        .filter(written)
        .collect()
}

#[test]
fn promise_2_pages_that_a_dead_owner_lost_are_not_persisted() {
    let (mut lost, mut kept) = (0, 0);
    for commits in 1..5 {
        let empty = RecordedFiles::new(true);
        let mut rig = Rig::small(empty.copy());
        rig.map("a");
        rig.map("b");
        for _ in 0..commits {
            rig.write();
            rig.commit();
        }
        let disk = rig.files.disk();
        for inode in module_commits(&disk, &rig.files.log()) {
            let what = || format!("{commits} commits, file {inode} was not written back");
            let mut log = rig.files.log();
            log.push(Operation::FailedSync { inode });
            let crashes = Crashes::of_log(&log, &rig.files, &empty.disk(), Crash::Evicted);
            for lose in 0..crashes.uncertain {
                let files = crashes.files(|at| at != lose);
                let damaged = files.disk().inodes[inode] != disk.inodes[inode];
                let store = open(&files, &what);
                let persisted = store.persist(None);
                if damaged {
                    assert!(
                        persisted.is_err(),
                        "{}: a persist succeeded although its bytes are lost",
                        what()
                    );
                    lost += 1;
                } else {
                    persisted.unwrap_or_else(|error| panic!("{}: {error}", what()));
                    kept += 1;
                }
            }
        }
    }
    println!(
        "{lost} sectors lost by a dead owner: no persist counted them as written; {kept} zeros"
    );
    assert!(lost > 100);
}

#[test]
fn promise_1_pages_that_a_dead_owner_lost_come_back_from_the_journal() {
    let (mut mended, mut kept, mut states) = (0, 0, 0);
    for commits in 1..5 {
        repeatable::begin(1);
        let empty = RecordedFiles::new(true);
        let mut rig = Rig::small(empty.copy());
        rig.map("a");
        rig.map("b");
        rig.write();
        rig.commit();
        rig.persist_in_files();
        let synced = rig.files.recorded();
        for _ in 0..commits {
            rig.write();
            rig.commit();
        }
        rig.persist();
        let log = rig.files.log();
        for inode in module_commits(&rig.files.disk(), &log[synced..]) {
            let mut log = log.clone();
            log.push(Operation::FailedSync { inode });
            let crashes = Crashes::of_log(&log, &rig.files, &empty.disk(), Crash::Evicted);
            for lose in 0..crashes.uncertain {
                let what = || format!("{commits} commits, part {lose} of file {inode} is lost");
                let left = crashes.left(|at| at != lose);
                let files = RecordedFiles::holding(left.clone(), rig.files.boot);
                let persisted = open(&files, &what).checkpoint(None);
                if persisted.is_err() {
                    open(&files, &what)
                        .checkpoint(None)
                        .unwrap_or_else(|error| {
                            panic!("{}, and cannot be mended: {error}", what())
                        });
                    mended += 1;
                } else {
                    kept += 1;
                }
                let all = rig.oracle.last()..=rig.oracle.last();
                for percent in [0, 50, 100] {
                    let what = || format!("{}; {percent} of 100 left by a power cut", what());
                    let crashes = Crashes::new(&files, &left, files.recorded(), Crash::PowerCut);
                    let store = open(&crashes.by_chance(percent, &mut Random(lose as u64)), &what);
                    check_reopened(&store, &rig.oracle, all.clone(), &what);
                    states += 1;
                }
            }
        }
    }
    println!(
        "{mended} sectors lost by a dead owner came back from the journal, {kept} zeros; {states} power cuts"
    );
    assert!(mended > 100);
}

/// Checks what power cuts leave after a lost write, whether or not a call reported the loss.
fn cut(rig: &Rig, empty: &RecordedFiles, random: &mut Random, what: &dyn Fn() -> String) -> u64 {
    let count = rig.files.recorded();
    let crashes = Crashes::new(&rig.files, &empty.disk(), count, Crash::PowerCut);
    for percent in [0, 50, 100] {
        let what = || format!("{}; {percent} of 100 left", what());
        let store = open(&crashes.by_chance(percent, random), &what);
        let allowed = rig.allowed(count, Crash::PowerCut);
        check_reopened(&store, &rig.oracle, allowed, &what);
    }
    3
}

#[test]
fn promise_2_no_write_that_the_host_lost_is_persisted() {
    let (mut lost, mut reported, mut states) = (0, 0, 0);
    for history in StepHistory::all(2) {
        for lose in 1.. {
            repeatable::begin(1);
            let mut random = Random(lose);
            let empty = RecordedFiles::new(history.has_boot_id);
            let Some((mut player, last)) = history.play(empty.copy()) else {
                break;
            };
            player.rig.files.set_fuse(Fuse {
                lose,
                ..Fuse::default()
            });
            player.rig.patience = 0;
            for step in [last, Step::Commit, Step::Persist, Step::Persist] {
                player.step(step);
                if player.closed {
                    break; // the next owner would get the error, if no sync got it before
                }
            }
            let fuse = player.rig.files.set_fuse(Fuse::default());
            if fuse.writes < lose {
                break;
            }
            let what = || format!("{history:?}, write {lose} is lost");
            lost += 1;
            reported += u64::from(fuse.sync_failed);
            states += cut(&player.rig, &empty, &mut random, &what);
        }
    }
    println!(
        "{lost} writes lost by the host, of which a sync reported {reported}: {states} power cuts"
    );
    assert!(lost > 1000 && reported > 200);
}

#[test]
fn promise_2_no_write_of_an_import_that_the_host_lost_is_persisted() {
    let from = source();
    let (mut lost, mut states) = (0, 0);
    for lose in 1.. {
        repeatable::begin(1);
        let empty = RecordedFiles::new(true);
        let mut rig = Rig::small(empty.copy());
        rig.map("a");
        rig.write();
        rig.commit();
        rig.persist();
        rig.files.set_fuse(Fuse {
            lose,
            ..Fuse::default()
        });
        rig.patience = 0;
        rig.import(exported(&from).as_raw_fd(), &from.oracle);
        rig.persist();
        if rig.files.set_fuse(Fuse::default()).writes < lose {
            break;
        }
        lost += 1;
        let what = || format!("write {lose} of an import is lost");
        states += cut(&rig, &empty, &mut Random(lose), &what);
    }
    println!("{lost} writes of an import lost by the host: {states} power cuts");
    assert!(lost > 10);
}
