//! Files that a deletion had to leave, as on a full disk: the next deletion removes them.

use crate::store::tests::Rig;
use crate::store::tests::recorded::{Fuse, RecordedFiles};
use crate::sys::fs::{Dir, Files};

fn is_there(rig: &Rig, name: &str) -> bool {
    let mut entries = rig.files.list(Dir::Root).unwrap().into_iter();
    entries.any(|entry| entry.name == name)
}

/// Deletes two commits in a row. At one operation of the first deletion there is no space. Returns `None` if the
/// deletion has no such operation, otherwise whether a file stayed because its removal needs space.
fn delete_without_room(at: u64) -> Option<bool> {
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    for _ in 0..7 {
        rig.write();
        rig.commit();
    }
    rig.persist();
    rig.patience = 0;
    rig.files.set_fuse(Fuse {
        at,
        times: 1,
        ..Fuse::default()
    });
    rig.delete(4);
    if rig.files.set_fuse(Fuse::default()).burnt == 0 {
        return None;
    }
    if rig.failure.take().is_some() {
        return Some(false);
    }
    rig.persist();
    let stayed = is_there(&rig, "a_Commit4");
    rig.delete(5);
    rig.persist();
    for name in ["a_Commit4", "a_Commit5"] {
        assert!(
            !is_there(&rig, name),
            "operation {at}: {name} is still there"
        );
    }
    rig.reopen();
    for commit in [1, 2, 3, 6, 7] {
        rig.restore(commit);
    }
    Some(stayed)
}

#[test]
fn a_file_that_had_to_stay_goes_with_the_next_deletion() {
    let outcomes: Vec<bool> = (1..).map_while(delete_without_room).collect();
    let stayed = outcomes.iter().filter(|stayed| **stayed).count();
    println!(
        "{} operations without room, {stayed} of them left a file, until the next deletion",
        outcomes.len()
    );
    assert!(stayed >= 3, "{stayed} of {}", outcomes.len());
}

#[test]
fn restore_works_without_quota_for_what_is_reserved_ahead() {
    let mut rig = Rig::small(RecordedFiles::new(true));
    rig.map("a");
    for _ in 0..2 {
        rig.write();
        rig.commit();
    }
    for errno in [libc::ENOSPC, libc::EDQUOT] {
        rig.reopen();
        rig.patience = 0;
        rig.files.fail_allocations(errno);
        let head = rig.oracle.now().head;
        rig.restore(3 - head);
        assert!(rig.files.set_fuse(Fuse::default()).burnt > 0);
        assert!(rig.failure.take().is_none(), "{errno}");
        rig.patience = 1;
    }
}
