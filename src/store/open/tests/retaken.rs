//! The host wrote back a part of the journal before a sync of it failed. When the host drops what the sync could
//! not write, this older journal is read again, beside files that are newer.

use crate::journal::journal_place;
use crate::store::Store;
use crate::store::tests::crashed::{Crash, Crashes};
use crate::store::tests::evicted::open_or_salvage;
use crate::store::tests::recorded::{Disk, Fuse, Node, Operation, RecordedFiles, content, put};
use crate::store::tests::rig::open_options;
use crate::store::tests::{Random, Rig, check_power_cuts, check_reopened, open};
use crate::sys::fs::{Access, Files as _};
use crate::sys::host::repeatable;

/// The unit in which the host writes back.
const BLOCK: usize = 4096;

/// The number of the journal's file.
fn journal_of(disk: &Disk) -> usize {
    match disk.names.get(&journal_place()) {
        Some(Node::File(inode)) => *inode,
        other => panic!("the journal is {other:?}"),
    }
}

/// A file's bytes after some operations, all of them done.
fn bytes_after(log: &[Operation], file: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for operation in log {
        match operation {
            Operation::Write {
                inode,
                offset,
                bytes: new,
            } if *inode == file => put(&mut bytes, *offset as usize, new),
            Operation::SetLen { inode, length } if *inode == file => {
                bytes.resize(*length as usize, 0);
            }
            _ => {}
        }
    }
    bytes
}

/// How a third commit is persisted before the sync that fails.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Third {
    Missing,
    /// Only in the journal.
    InlineFile,
    InFiles,
}

/// Histories in which the last sync of the journal failed. The journal fits into one block.
fn last_sync_failed(third: Third, delete: bool) -> (Rig, Disk) {
    repeatable::begin(1);
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    for _ in 0..2 {
        rig.write();
        rig.commit();
    }
    rig.persist_in_files();
    if third != Third::Missing {
        // The commit has one page, which becomes zero.
        rig.write();
        rig.commit();
    }
    match third {
        Third::Missing => {}
        Third::InlineFile => rig.persist(),
        Third::InFiles => rig.persist_in_files(),
    }
    if delete {
        // Deletes the commit below the last one, which is the base of the inline file.
        rig.delete(if third == Third::Missing { 1 } else { 2 });
        rig.persist();
    }
    rig.write();
    rig.commit();
    rig.patience = 0;
    rig.files.set_fuse(Fuse::every_sync());
    rig.persist();
    assert!(rig.files.set_fuse(Fuse::default()).sync_failed);
    let disk = rig.files.disk();
    (rig, disk)
}

#[test]
fn a_journal_that_was_written_back_before_its_sync_failed_counts_for_what_it_has() {
    let (mut states, mut salvaged, mut random) = (0, 0, Random(1));
    for third in [Third::Missing, Third::InlineFile, Third::InFiles] {
        for delete in [false, true] {
            let (rig, disk) = last_sync_failed(third, delete);
            let (of, lost) = taken_up_again(&rig, &disk, &mut random);
            println!("third commit {third:?}, deletion {delete}: {of} crashes");
            states += of;
            salvaged += lost;
        }
    }
    println!(
        "{states} crashes of recoveries from journals that were written back, {salvaged} more journals were salvaged"
    );
    assert!(states > 1000 && salvaged < states / 8);
}

/// Opens the store with the journal as it was after each operation since its last successful sync, and after each
/// crash of these recoveries. Returns how many crashes were tried, and how many journals had to be salvaged.
fn taken_up_again(rig: &Rig, disk: &Disk, random: &mut Random) -> (u64, u64) {
    let log = rig.files.log();
    let journal = journal_of(disk);
    let synced =
        |operation: &Operation| matches!(operation, Operation::Sync { inode } if *inode == journal);
    let from = log.iter().rposition(synced).unwrap();
    let allowed = rig.allowed(log.len(), Crash::Evicted);
    let (mut states, mut salvaged) = (0, 0);
    for count in from..=log.len() {
        let mut left = disk.clone();
        let mut old = bytes_after(&log[..count], journal);
        // The bytes behind the block were freed when the journal was cut.
        old.truncate(BLOCK);
        let bytes = content(&mut left, journal);
        old.resize(bytes.len(), 0);
        *bytes = old;
        let what = || format!("the journal as after {count} of {} operations", log.len());
        let files = RecordedFiles::holding(left.clone(), rig.files.boot);
        let Some(store) = open_or_salvage(&files, rig, *allowed.start(), &what) else {
            salvaged += 1;
            continue;
        };
        let opened = files.recorded();
        check_reopened(&store, &rig.oracle, allowed.clone(), &what);
        for at in 0..=opened {
            for (crash, percent) in [
                (Crash::Kill, 100),
                (Crash::PowerCut, 0),
                (Crash::PowerCut, 50),
            ] {
                let what = || format!("{}; {crash:?} {percent} after {at} of its recovery", what());
                let crashes = Crashes::new(&files, &left, at, crash);
                let store = open(&crashes.by_chance(percent, random), &what);
                check_reopened(&store, &rig.oracle, allowed.clone(), &what);
                states += 1;
            }
        }
    }
    (states, salvaged)
}

#[test]
fn a_file_whose_sync_failed_in_an_open_does_not_count_as_durable_in_the_next() {
    let mut states = 0;
    for has_boot_id in [false, true] {
        for at in 1.. {
            repeatable::begin(1);
            let empty = RecordedFiles::new(has_boot_id);
            let mut rig = Rig::small(empty.copy());
            rig.map("a");
            rig.write();
            rig.commit();
            rig.persist_in_files();
            rig.write();
            rig.commit();
            rig.persist();
            // Half a record, as a killed owner may leave it.
            let file = rig.files.open(&journal_place(), Access::Write);
            let file = file.unwrap().unwrap();
            let end = file.len().unwrap();
            file.write_at(&[std::io::IoSlice::new(b"VREC")], end)
                .unwrap();
            rig.files.set_fuse(Fuse {
                at,
                times: 1,
                errno: libc::EIO,
                ..Fuse::default()
            });
            rig.patience = 0;
            let opened = rig.open();
            let fuse = rig.files.set_fuse(Fuse::default());
            if fuse.burnt == 0 {
                break;
            }
            if opened || !fuse.sync_failed {
                continue;
            }
            let what = |percent| {
                format!(
                    "boot id {has_boot_id}: operation {at} fails, opened again, {percent} of 100"
                )
            };
            rig.store = Store::open_files(rig.files.clone(), "test", open_options()).unwrap();
            let percents = [0, 50, 100];
            states += check_power_cuts(&rig, &empty.disk(), percents, &mut Random(at), &what);
        }
    }
    println!("{states} power cuts after an open that failed and an open that succeeded");
    assert!(states > 10);
}
