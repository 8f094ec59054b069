//! Tests of the logs on a real file system.

use std::io::IoSlice;

use super::log::{LogStart, RecordLog, SequencedEvent, journal_place, place};
use super::scan::{self, Damage, Role, read_bytes};
use crate::Error;
use crate::format::commit::Event;
use crate::format::header::{LogHeader, LogKind};
use crate::format::{LAST, record};
use crate::sys::fs::{Access, Files as _};
use crate::sys::realfs;

#[test]
fn a_sparse_log_takes_no_more_memory_than_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let root = realfs::make_root(&directory.path().join("store")).unwrap();
    let files = realfs::make_hidden(root).unwrap();
    let file = files.create(&journal_place()).unwrap();
    file.set_len(64 << 20).unwrap();
    for at in 0..8 {
        file.write_at(&[IoSlice::new(&[1])], at << 23).unwrap();
    }
    let refused = read_bytes(&*file, &journal_place(), 32 << 20);
    assert!(
        matches!(&refused, Err(Error::NoMemory { what }) if what.contains("67108864 bytes of")),
        "{refused:?}"
    );
    let read = read_bytes(&*file, &journal_place(), 64 << 20).unwrap();
    assert_eq!(read.len(), 64 << 20);
}

#[test]
fn a_log_is_read_to_its_end_or_to_more_zeros_than_a_record_has() {
    let directory = tempfile::tempdir().unwrap();
    let root = realfs::make_root(&directory.path().join("store")).unwrap();
    let files = realfs::make_hidden(root).unwrap();
    let file = files.create(&journal_place()).unwrap();
    let mut damage = Damage::default();
    let mut length_of = |length: u64| {
        file.set_len(length).unwrap();
        let kind = LogKind::Journal;
        let found = scan::read(&files, &[7; 16], kind, Role::Owner, &mut damage);
        found.unwrap().unwrap().bytes.len() as u64
    };
    for length in [0, 1, (1 << 20) + 1, 3 << 20] {
        assert_eq!(length_of(length), length);
    }
    let zeros = record::MAX_PAYLOAD.next_multiple_of(1 << 20);
    assert!((zeros..zeros + (2 << 20)).contains(&length_of(100 << 20)));
    file.write_at(&[IoSlice::new(&[1])], 10 << 20).unwrap();
    assert_eq!(length_of(20 << 20), 20 << 20);
}

#[test]
fn only_the_journal_has_a_boot_id() {
    let directory = tempfile::tempdir().unwrap();
    let root = realfs::make_root(&directory.path().join("store")).unwrap();
    let files = realfs::make_hidden(root).unwrap();
    let (store, boot) = ([7; 16], files.boot_id());
    assert_ne!(boot, [0; 16], "this host does not tell");
    for (kind, told) in [(LogKind::Journal, boot), (LogKind::Commits, [0; 16])] {
        RecordLog::create(&files, kind, store, LogStart::default(), &[]).unwrap();
        let file = files.open(&place(kind), Access::Read).unwrap().unwrap();
        let bytes = read_bytes(&*file, &place(kind), 1 << 20).unwrap();
        let header = LogHeader::decode(&bytes, kind, &store, "").unwrap();
        assert_eq!(header.boot_id, told);
    }
}

#[test]
fn records_that_could_not_be_read_again_are_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let root = realfs::make_root(&directory.path().join("store")).unwrap();
    let files = realfs::make_hidden(root).unwrap();
    let store = [7; 16];
    let kind = LogKind::Journal;
    let mut journal = RecordLog::create(&files, kind, store, LogStart::default(), &[]).unwrap();
    for (sequence, number) in [(LAST, 1), (1, LAST)] {
        for over in [1, 0] {
            let before = journal.end();
            let event = Event::Deleted(number + if number > 1 { over } else { 0 });
            let sequence = sequence + if sequence > 1 { over } else { 0 };
            let appended = journal.append(&[SequencedEvent { sequence, event }]);
            assert_eq!(appended.is_err(), over == 1, "{appended:?}");
            assert_eq!(journal.end() == before, over == 1);
        }
    }
}
