//! Promise 4: the journal's high-water mark. If the end of the journal is missing, and only damage can be the
//! cause, the store is refused. In all other cases the mark does not stop an open.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::format::header::{LOG_HEADER, LogHeader, LogKind};
use crate::format::{high_water, name, record};
use crate::journal::journal_place;
use crate::store::tests::alone::{BOOTED, SAME_BOOT, open_on, refused, with};
use crate::store::tests::crashed::{Crash, Crashes};
use crate::store::tests::damage::held;
use crate::store::tests::fuzz::places::{bytes_at, id_of};
use crate::store::tests::recorded::{Disk, Fuse, Node, RecordedFiles};
use crate::store::tests::rig::open_options;
use crate::store::tests::{Moment, Rig, map_options, open};
use crate::store::{CommitOptions, OpenOptions, Store};
use crate::sys::fs::{Files as _, Place};
use crate::sys::host::repeatable;

fn mark_place() -> Place {
    Place::hidden(name::HIGH_WATER)
}

/// Two commits in files, and three that are only in the journal.
fn store() -> Rig {
    repeatable::begin(1);
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    for number in 1..=5 {
        rig.write();
        rig.commit();
        if number == 2 {
            rig.persist_in_files();
        }
    }
    rig
}

/// The offsets of the journal's records, and the end of the last one.
fn ends(disk: &Disk) -> Vec<usize> {
    let (bytes, store) = (bytes_at(disk, &journal_place()), id_of(disk));
    let header = LogHeader::decode(bytes, LogKind::Journal, &store, "").unwrap();
    let scan = record::scan(bytes, &header, &store, "").unwrap();
    let mut ends: Vec<usize> = scan.records.iter().map(|r| r.offset as usize).collect();
    ends.push(scan.end as usize);
    ends
}

/// Cuts the journal at every length behind its header, and also fills it up with zeros. A host that has not
/// rebooted must refuse each of these journals if records are missing. Returns how many were refused.
fn every_end_is_missed(disk: &Disk) -> u64 {
    let place = journal_place();
    let (whole, length) = (*ends(disk).last().unwrap(), bytes_at(disk, &place).len());
    let mut tried = 0;
    for end in LOG_HEADER..whole {
        for zeros in [false, true] {
            let damaged = with(disk, &place, |bytes| {
                bytes.truncate(end);
                bytes.resize(if zeros { length } else { end }, 0);
            });
            if damaged == *disk {
                continue;
            }
            let what = || format!("cut to {end} of {length} bytes, zeros: {zeros}");
            refused(open_on(&damaged, SAME_BOOT), &place, &what);
            tried += 1;
        }
    }
    tried
}

#[test]
fn promise_4_a_missing_end_of_the_journal_is_damage() {
    let mut rig = store();
    let mut tried = every_end_is_missed(&rig.files.disk());
    // Another owner finds the records, and adds no record.
    rig.reopen();
    tried += every_end_is_missed(&rig.files.disk());
    // The same after a power cut: from then on this owner's mark covers the records.
    let files = RecordedFiles::holding(rig.files.disk(), BOOTED);
    drop(open(&files, &|| "after a power cut".into()));
    let booted = files.disk();
    for end in ends(&booted) {
        let damaged = with(&booted, &journal_place(), |bytes| bytes.truncate(end));
        if damaged != booted {
            let what = || format!("cut to {end} bytes, after a boot");
            refused(open_on(&damaged, BOOTED), &journal_place(), &what);
            tried += 1;
        }
    }
    // After a failed persist the records must still be in the journal.
    let mut failed = 0;
    for at in 1..24 {
        rig.patience = 0;
        rig.files.set_fuse(Fuse::every("write", at));
        rig.persist_in_files();
        rig.files.set_fuse(Fuse::default());
        if rig.failure.take().is_some() {
            failed += 1;
            tried += every_end_is_missed(&rig.files.disk());
        } else {
            rig.write();
            rig.commit();
        }
    }
    println!(
        "{tried} missing ends of the journal, each reported; {failed} failed persists among them"
    );
    assert!(tried > 1000 && failed > 5, "{tried}, {failed}");
}

#[test]
fn promise_4_an_older_journal_is_damage() {
    repeatable::begin(1);
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    for number in 1..=20 {
        rig.write();
        rig.commit();
        match number {
            // The inline files stay in the journal.
            2 | 3 | 9 | 10 | 15 => rig.persist(),
            // The journal gets a new generation.
            4 | 5 | 8 | 12 | 16 => rig.persist_in_files(),
            _ => {}
        }
    }
    let (disk, place) = (rig.files.disk(), journal_place());
    let (mut tried, mut missed) = (0, 0);
    // Also during a persist: the marks on the disk during a sync show that it is under way.
    for (number, old) in held(&rig)[&place].iter().enumerate() {
        // A disk that lost a write returns an older block, or an older file.
        for length in [512, 4096, usize::MAX] {
            let stale = with(&disk, &place, |bytes| {
                let length = length.min(old.len());
                bytes.resize(bytes.len().max(length), 0);
                bytes[..length].copy_from_slice(&old[..length]);
                if length == old.len() {
                    bytes.truncate(length);
                }
            });
            if stale == disk {
                continue;
            }
            tried += 1;
            let what = || format!("{length} bytes as in its state {number}");
            match open_on(&stale, SAME_BOOT) {
                // Only the header was older.
                Ok(store) => assert_eq!(Moment::of(&store), *rig.oracle.now(), "{}", what()),
                failed => {
                    refused(failed, &place, &what);
                    missed += 1;
                }
            }
        }
    }
    println!("{tried} older journals, {missed} refused; with the others nothing is lost");
    assert!(tried > 100 && missed > 100, "{missed} of {tried}");
}

#[test]
fn a_missing_end_that_a_power_cut_may_take_is_no_damage() {
    let rig = store();
    let disk = rig.files.disk();
    for (number, end) in ends(&disk).into_iter().enumerate() {
        let cut = with(&disk, &journal_place(), |bytes| bytes.truncate(end));
        for boot in [BOOTED, 0] {
            let what = || format!("cut to {end} bytes, boot {boot}");
            // The owner is killed anywhere in its recovery, and the next owner finds a mark of any age.
            let files = RecordedFiles::holding(cut.clone(), boot);
            let found = Moment::of(&open(&files, &what));
            assert_eq!(found.commits.len(), 2 + number, "{}", what());
            let log = files.log();
            for cut_at in 0..=log.len() {
                let what = || format!("{}, killed after {cut_at} operations", what());
                let crashes = Crashes::of_log(&log[..cut_at], &files, &cut, Crash::Kill);
                let next = open(&crashes.files(|_| true), &what);
                assert_eq!(Moment::of(&next), found, "{}", what());
            }
        }
    }
}

#[test]
fn an_empty_mark_refuses_no_open_and_is_made_anew() {
    let rig = store();
    let disk = rig.files.disk();
    let store = id_of(&disk);
    let length = bytes_at(&disk, &mark_place()).len();
    let mut left: Vec<Disk> = (0..length * 8)
        .map(|bit| {
            with(&disk, &mark_place(), |bytes| {
                bytes[bit / 8] ^= 1 << (bit % 8);
            })
        })
        .collect();
    left.extend((0..length).map(|end| with(&disk, &mark_place(), |bytes| bytes.truncate(end))));
    let mut missing = disk.clone();
    missing.names.remove(&mark_place());
    left.push(missing);
    let tried = left.len();
    for disk in left {
        let files = RecordedFiles::holding(disk, SAME_BOOT);
        let store_now = open(&files, &|| "a mark that says nothing".into());
        assert_eq!(Moment::of(&store_now), *rig.oracle.now());
        drop(store_now);
        let now = files.disk();
        let mark = high_water::decode(bytes_at(&now, &mark_place()), &store).unwrap();
        assert_eq!(Some(mark.length as usize), ends(&now).pop());
    }
    println!("{tried} marks that say nothing");
}

#[test]
fn another_file_under_the_name_of_the_mark_is_not_written_to() {
    let rig = store();
    let disk = rig.files.disk();
    let other = Place::root("somebody's");
    let files = RecordedFiles::holding(disk, SAME_BOOT);
    let theirs = vec![7; 4096];
    let file = files.create(&other).unwrap();
    file.write_at(&[std::io::IoSlice::new(&theirs)], 0).unwrap();
    files.unlink(&mark_place()).unwrap();
    files.link(&other, &mark_place()).unwrap();
    let store = open(&files, &|| "a second name of another file".into());
    let module = store.map_module("a", 0, &map_options()).unwrap();
    module.mapped().memory.write(0, &[9; 64]);
    module.mark_dirty(0, 64).unwrap();
    store.commit(&CommitOptions::default()).unwrap();
    let disk = files.disk();
    assert_eq!(bytes_at(&disk, &other), theirs);
    assert_ne!(disk.names[&other], disk.names[&mark_place()]);
    // The owner does not follow a symbolic link: it refuses the store.
    let mut linked = disk.clone();
    linked
        .names
        .insert(mark_place(), Node::Link("somewhere".into()));
    for boot in [SAME_BOOT, BOOTED] {
        refused(open_on(&linked, boot), &mark_place(), &|| "a link".into());
    }
}

#[test]
fn a_mark_that_cannot_be_read_or_made_refuses_no_open() {
    let rig = store();
    let mut disk = rig.files.disk();
    let fails = |disk: &Disk, kind, errno| {
        let files = RecordedFiles::holding(disk.clone(), SAME_BOOT);
        files.set_fuse(Fuse {
            errno,
            ..Fuse::every(kind, 1)
        });
        let store = Store::open_files(files.clone(), "test", open_options())?;
        assert_eq!(Moment::of(&store), *rig.oracle.now());
        store.restore(1, None).unwrap();
        // It has room behind the journal's end.
        store.persist(None).unwrap();
        assert!(files.fuse().burnt > 0);
        Ok(())
    };
    let went: crate::Result<()> = fails(&disk, "mark", libc::EIO);
    went.unwrap();
    disk.names.remove(&mark_place());
    for (kind, errno) in [("mark", libc::ENOSPC), ("create", libc::ENOSPC)] {
        fails(&disk, kind, errno).unwrap();
    }
    assert!(fails(&disk, "create", libc::EIO).is_err());
}

#[test]
fn a_mark_that_cannot_be_written_is_logged_and_the_call_succeeds() {
    let rig = store();
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let hears = told.clone();
    let options = OpenOptions {
        log: Some(Box::new(move |_, message: &str| {
            hears.lock().push(message.to_owned());
        })),
        ..open_options()
    };
    let files = RecordedFiles::holding(rig.files.disk(), SAME_BOOT);
    let store = Store::open_files(files.clone(), "test", options).unwrap();
    let module = store.map_module("a", 0, &map_options()).unwrap();
    let commit = |fails: bool| {
        told.lock().clear();
        files.set_fuse(Fuse::every("mark", u64::from(fails)));
        module.mapped().memory.write(0, &[8 + u8::from(fails); 64]);
        module.mark_dirty(0, 64).unwrap();
        store.commit(&CommitOptions::default()).unwrap();
        files.set_fuse(Fuse::default());
        told.lock().iter().filter(|m| m.contains("journal")).count()
    };
    assert_eq!(commit(true), 1);
    // The mark is too low, which is still valid. The next mark is exact again.
    let disk = files.disk();
    let last = ends(&disk).len() - 2;
    for (number, end) in ends(&disk).into_iter().enumerate() {
        let cut = with(&disk, &journal_place(), |bytes| bytes.truncate(end));
        assert_eq!(open_on(&cut, SAME_BOOT).is_ok(), number >= last, "{number}");
    }
    assert_eq!(commit(false), 0);
    every_end_is_missed(&files.disk());
}
