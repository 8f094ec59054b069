//! The reserve after the journal's end: commits do not use it, restore and delete may.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use crate::Result;
use crate::format::commit::{Commit, Event};
use crate::format::header::{LOG_HEADER, LogKind, Mark};
use crate::journal::{LogStart, RecordLog, SequencedEvent};
use crate::store::CommitOptions;
use crate::store::tests::Rig;
use crate::store::tests::recorded::{Fuse, RecordedFiles};
use crate::sys::fs::Files;
use crate::sys::realfs;

const RESERVE: u64 = 4096;
const STEP: u64 = 16 * RESERVE;
/// The length of a record that restore and delete append.
const RECORD: u64 = 64;

/// A log and the sequence number of its next record.
struct Growing(RecordLog, u64);

impl Growing {
    fn new(files: &dyn Files, kind: LogKind) -> Self {
        let known = LogStart::default();
        Self(
            RecordLog::create(files, kind, [7; 16], known, &[]).unwrap(),
            1,
        )
    }

    fn append(&mut self, event: Event) -> Result<()> {
        let sequence = self.1;
        self.0.append(&[SequencedEvent { sequence, event }])?;
        self.1 += 1;
        Ok(())
    }

    /// Appends a commit with this many bytes of user data.
    fn commit(&mut self, data: u64) -> Result<()> {
        self.append(Event::Committed(Arc::new(Commit {
            number: self.1,
            unique_id: [9; 16],
            parent: self.1 - 1,
            time: 1,
            label: String::new(),
            user_data: Arc::new(vec![5; data as usize]),
            modules: Vec::new(),
        })))
    }

    /// Appends commits up to exactly this end.
    fn commit_to(&mut self, end: u64) -> Result<()> {
        let begin = self.0.end();
        self.commit(0).unwrap();
        let least = self.0.end() - begin;
        let data = end.checked_sub(self.0.end() + least).unwrap();
        self.commit(data)?;
        assert_eq!(self.0.end(), end);
        Ok(())
    }
}

#[test]
fn after_every_record_there_is_room_for_more() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("store");
    let files = realfs::make_hidden(realfs::make_root(&at).unwrap()).unwrap();
    let mut growing = Growing::new(&files, LogKind::Journal);
    for data in (0..STEP).step_by(1000) {
        growing.commit(data).unwrap();
        growing.append(Event::HeadMoved(1)).unwrap();
        let (end, file) = (growing.0.end(), at.join(".vmstore/journal"));
        let room = file.metadata().unwrap().blocks() * 512;
        // Besides the file's blocks there may be blocks that say where they are.
        let slack = 2 * RESERVE;
        assert!(
            (end + RESERVE..end + RESERVE + STEP + slack).contains(&room) && room % STEP <= slack,
            "{room} bytes of blocks for {end}"
        );
    }
}

#[test]
fn commits_leave_the_reserve_to_restore_and_delete() {
    for errno in [libc::ENOSPC, libc::EDQUOT] {
        let files = RecordedFiles::new(true);
        let mut growing = Growing::new(&*files, LogKind::Journal);
        // Reserves the first piece.
        growing.commit(100).unwrap();
        files.fail_allocations(errno);
        growing.commit_to(STEP - RESERVE).unwrap();
        assert_eq!(files.set_fuse(Fuse::default()).burnt, 0);
        files.fail_allocations(errno);
        let end = growing.0.end();
        assert_eq!(growing.commit(0).unwrap_err().errno(), errno);
        assert_eq!(growing.0.end(), end);
        for number in 0..RESERVE / RECORD {
            let event = [Event::HeadMoved(1), Event::Deleted(number + 2)];
            growing.append(event[number as usize % 2].clone()).unwrap();
        }
        assert_eq!(growing.0.end(), STEP);
        assert_eq!(growing.commit(0).unwrap_err().errno(), errno);
        // A write that failed could also lose what is reserved.
        let refused = growing.append(Event::HeadMoved(1)).unwrap_err();
        assert!(refused.errno() == errno && refused.to_string().contains("allocate"));
        assert_eq!(
            files.set_fuse(Fuse::default()).burnt,
            2 * (2 + RESERVE / RECORD) + 3,
            "each asks for a large piece, for a small one, and the last for exactly its length"
        );
        // There is space for a small piece.
        files.fail_allocations(errno);
        let mut fuse = files.set_fuse(Fuse::default());
        fuse.times = 1;
        files.set_fuse(fuse);
        growing.commit(0).unwrap();
        assert_eq!(files.set_fuse(Fuse::default()).burnt, 1);
        growing.commit(0).unwrap();
        // What becomes durable in `commits` was committed before: it may use the reserve.
        let mut commits = Growing::new(&*files, LogKind::Commits);
        files.fail_allocations(errno);
        commits.commit(2 * STEP).unwrap();
        files.set_fuse(Fuse::default());
    }
}

#[test]
fn other_failures_to_reserve_are_failures_and_none_where_nothing_can_be_reserved() {
    let files = RecordedFiles::new(true);
    let mut growing = Growing::new(&*files, LogKind::Journal);
    let end = growing.0.end();
    assert_eq!(end, LOG_HEADER as u64);
    files.fail_allocations(libc::EIO);
    for event in [Event::HeadMoved(1), Event::Deleted(1)] {
        assert_eq!(growing.append(event).unwrap_err().errno(), libc::EIO);
    }
    assert_eq!(growing.0.end(), end);
    files.fail_allocations(libc::EOPNOTSUPP);
    for _ in 0..3 {
        growing.commit(STEP).unwrap();
    }
    assert_eq!(
        files.set_fuse(Fuse::default()).burnt,
        1,
        "the allocation failed"
    );
}

#[test]
fn logs_differ_in_their_generation_and_note_a_sync_under_way() {
    let mut marks = Vec::new();
    for _ in 0..2 {
        let mut growing = Growing::new(&*RecordedFiles::new(true), LogKind::Journal);
        for syncing in [false, true, false] {
            growing.0.set_syncing(syncing).unwrap();
            assert_eq!(growing.0.is_syncing(), syncing);
        }
        marks.push(growing.0.mark());
        growing.0.checkpointed(Mark::default(), true).unwrap();
        marks.push(growing.0.mark());
    }
    for (at, mark) in marks.iter().enumerate() {
        assert!(!marks[..at].contains(mark));
    }
}

#[test]
fn a_persist_without_room_in_the_journal_is_a_checkpoint() {
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    rig.write();
    rig.commit();
    rig.persist();
    rig.write();
    // Leaves space for about one page and its index. In each round at least one of the limits is too small for the
    // journal.
    let (mut asked, mut emptied) = (0, 0);
    for most in (STEP - 3 * RESERVE..STEP - RESERVE).step_by(512) {
        let end = rig
            .store
            .lock_state()
            .unpersisted
            .journal
            .as_ref()
            .unwrap()
            .end();
        let data = (most - 2048).saturating_sub(end);
        rig.write();
        let options = CommitOptions {
            user_data: Some(Arc::new(vec![3; data as usize])),
            ..CommitOptions::default()
        };
        rig.store.commit(&options).unwrap();
        let before = rig
            .store
            .lock_state()
            .unpersisted
            .journal
            .as_ref()
            .unwrap()
            .end();
        rig.files.fail_allocations(libc::ENOSPC);
        rig.store.persist(None).unwrap();
        asked += rig.files.set_fuse(Fuse::default()).burnt;
        let after = rig
            .store
            .lock_state()
            .unpersisted
            .journal
            .as_ref()
            .unwrap()
            .end();
        emptied += u64::from(after == LOG_HEADER as u64);
        assert!(after == LOG_HEADER as u64 || after > before);
    }
    // This goes on while `commits` has space. After that the persist uses the journal's reserve.
    assert!(asked > 2 && (1..4).contains(&emptied), "{asked}, {emptied}");
}
