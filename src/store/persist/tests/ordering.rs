//! Promise 2: the order of writes and syncs, checked in a recording of the file operations.

use crate::format::name;
use crate::store::tests::recorded::{Node, Operation, RecordedFiles};
use crate::store::tests::{Random, Rig};
use crate::sys::fs::{Dir, Place};

/// The position of the last operation of each kind before `end`.
fn last(log: &[Operation], end: usize, wanted: impl Fn(&Operation) -> bool) -> Option<usize> {
    log[..end].iter().rposition(wanted)
}

/// The inode that a name has after `end` operations.
fn inode(log: &[Operation], end: usize, place: &Place) -> Option<usize> {
    let mut found = None;
    for operation in &log[..end] {
        if let Operation::Name { free, set } = operation {
            if free.as_ref() == Some(place) {
                found = None;
            }
            if let Some((name, Node::File(inode))) = set {
                if name == place {
                    found = Some(*inode);
                }
            }
        }
    }
    found
}

/// Checks one persist that ended at `end`. Every file of a commit that it made durable was synced after its last
/// write, and was named before the directory was synced. Both came before the records. The records were synced
/// before the journal was emptied.
fn check_persist(log: &[Operation], end: usize, begun: usize) -> usize {
    let commits = inode(log, end, &Place::root(name::COMMITS)).expect("commits is there");
    let journal = inode(log, end, &Place::hidden(name::JOURNAL)).expect("the journal is there");
    let written = last(
        log,
        end,
        |o| matches!(o, Operation::Write { inode, offset, .. } if *inode == commits && *offset > 0),
    )
    .expect("records were appended");
    let synced = last(
        log,
        end,
        |o| matches!(o, Operation::Sync { inode } if *inode == commits),
    )
    .expect("commits was synced");
    assert!(
        begun < written && written < synced,
        "the records come before their sync"
    );
    let named = last(
        log,
        end,
        |o| matches!(o, Operation::Name { set: Some((p, _)), .. } if *p == Place::root(name::COMMITS)),
    );
    if named > Some(begun) {
        let dir = last(log, end, |o| matches!(o, Operation::SyncDir(Dir::Root)));
        assert!(
            named > Some(synced) && dir > named,
            "commits gets its name last, and the name is synced"
        );
    }
    let emptied = last(
        log,
        end,
        |o| matches!(o, Operation::SetLen { inode, .. } if *inode == journal),
    );
    assert!(
        emptied > Some(synced),
        "the journal is emptied after the records are durable"
    );
    let mut files = 0;
    for (at, operation) in log[..written].iter().enumerate() {
        let Operation::Name {
            set: Some((place, Node::File(inode))),
            ..
        } = operation
        else {
            continue;
        };
        if name::parse_module_commit(&place.name).is_none() {
            continue;
        }
        let wrote = last(
            log,
            end,
            |o| matches!(o, Operation::Write { inode: i, .. } if i == inode),
        );
        let synced = last(
            log,
            written,
            |o| matches!(o, Operation::Sync { inode: i } if i == inode),
        );
        assert!(
            synced > wrote && wrote.is_some(),
            "{place} was synced after its last write"
        );
        assert!(wrote < Some(at), "{place} got its name when it was whole");
        let dir = last(log, written, |o| matches!(o, Operation::SyncDir(Dir::Root)));
        assert!(
            dir > Some(at),
            "the name of {place} was synced before the records"
        );
        files += 1;
    }
    files
}

#[test]
fn promise_2_data_then_names_then_records() {
    let mut random = Random(2024);
    let mut rig = Rig::new(RecordedFiles::new(true));
    rig.map("a");
    rig.map("b");
    let (mut persists, mut files) = (0, 0);
    for round in 0..20 {
        for _ in 0..=random.below(3) {
            rig.scribble(&mut random);
            rig.commit();
        }
        let before = rig.oracle.persisted;
        let begun = rig.files.recorded();
        rig.persist_in_files();
        if rig.oracle.persisted > before {
            files += check_persist(&rig.files.log(), rig.files.recorded(), begun);
            persists += 1;
        } else {
            assert_eq!(
                rig.files.recorded(),
                begun,
                "round {round}: nothing new costs nothing"
            );
        }
    }
    assert!(
        persists > 10 && files > 100,
        "{persists} persists, {files} files"
    );
    println!("{persists} persists of {files} files: data, names, records, journal, in this order");
}

#[test]
fn promise_2_small_files_are_inline_in_the_journal_and_synced_once() {
    let mut rig = Rig::new(RecordedFiles::new(true));
    rig.map("a");
    rig.map("b");
    rig.write();
    rig.commit();
    rig.persist();
    let (mut inlined, mut in_files) = (0, 0);
    for round in 0..600 {
        rig.write();
        rig.commit();
        let begun = rig.files.recorded();
        rig.persist();
        let log = rig.files.log();
        let log = &log[begun..];
        let syncs = |inode: Option<usize>| {
            let all = log.iter().enumerate();
            let of = all.filter(|(_, o)| match (o, inode) {
                (Operation::Sync { inode: i }, Some(inode)) => *i == inode,
                (Operation::Sync { .. }, None) => true,
                _ => false,
            });
            of.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let all = rig.files.log();
        let [journal, mark] = [name::JOURNAL, name::HIGH_WATER]
            .map(|name| inode(&all, all.len(), &Place::hidden(name)));
        if syncs(None).len() > 1 {
            in_files += 1;
            assert!(syncs(journal).is_empty(), "round {round}");
            continue;
        }
        inlined += 1;
        let [synced] = syncs(journal)[..] else {
            panic!("round {round}: no sync of the journal");
        };
        // Everything that the sync makes durable was written before. Only the journal's header and high-water mark
        // were written after.
        for (at, operation) in log.iter().enumerate() {
            if let Operation::Write { inode, offset, .. } = operation {
                let header = Some(*inode) == journal && *offset == 0;
                let mark = Some(*inode) == mark;
                assert!(
                    at < synced || header || mark,
                    "round {round}: {operation:?}"
                );
            }
        }
    }
    // The number and size of inline files in the journal are limited.
    assert!(in_files > 2 && inlined > 500, "{in_files}, {inlined}");
    println!("{inlined} persists with one sync each, {in_files} that emptied the journal");
}

#[test]
fn an_image_of_holes_is_not_inline() {
    let mut rig = Rig::new(RecordedFiles::new(true));
    rig.map("a");
    rig.write();
    rig.commit();
    rig.persist();
    let module = rig
        .store
        .map_module("large", 8 << 20, &crate::store::tests::map_options())
        .unwrap();
    module.mapped().memory.write(0, &[1]);
    module.mark_dirty(0, 1).unwrap();
    rig.store.commit(&crate::CommitOptions::default()).unwrap();
    let begun = rig.files.recorded();
    rig.store.persist(None).unwrap();
    let log = rig.files.log();
    let most = log[begun..].iter().map(|operation| match operation {
        Operation::Write { bytes, .. } => bytes.len(),
        _ => 0,
    });
    assert!(most.max() < Some(64 << 10), "the file was copied");
    let syncs = log[begun..]
        .iter()
        .filter(|operation| matches!(operation, Operation::Sync { .. }));
    assert_eq!(syncs.count(), 2, "of the file and of commits");
}

#[test]
fn promise_1_a_commit_is_recorded_when_its_files_have_their_names() {
    let mut random = Random(77);
    let mut rig = Rig::new(RecordedFiles::new(true));
    rig.map("a");
    for _ in 0..10 {
        rig.scribble(&mut random);
        rig.commit();
        let log = rig.files.log();
        let journal = inode(&log, log.len(), &Place::hidden(name::JOURNAL)).unwrap();
        let record = last(
            &log,
            log.len(),
            |o| matches!(o, Operation::Write { inode, .. } if *inode == journal),
        );
        let named = last(&log, log.len(), |o| match o {
            Operation::Name {
                set: Some((place, Node::File(_))),
                ..
            } => name::parse_module_commit(&place.name).is_some(),
            _ => false,
        });
        assert!(record > named, "the record comes after the names");
    }
}

#[test]
fn promise_1_a_store_has_its_directory_before_it_has_commits() {
    let rig = Rig::new(RecordedFiles::new(true));
    let log = rig.files.log();
    let dir = last(&log, log.len(), |o| {
        matches!(o, Operation::SyncDir(Dir::Root))
    });
    let named = inode(&log, log.len(), &Place::hidden(name::IDENTITY));
    // The recording begins when the hidden directory exists, and its name is not durable yet.
    assert!(
        named.is_some() && dir.is_some(),
        "the name of the hidden directory is synced when a store is made"
    );
}
