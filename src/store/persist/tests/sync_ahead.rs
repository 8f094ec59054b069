//! Files that are synced before a persist and closed, because too many are open.

use crate::store::tests::crashed::{Crash, Crashes};
use crate::store::tests::recorded::{Fuse, RecordedFiles};
use crate::store::tests::{Random, Rig, check_power_cuts, check_reopened, open};
use crate::sys::host::repeatable;

/// Makes commits that leave more files open than allowed. The host has few descriptors, and a quarter of them may
/// be used for these files.
const COMMITS: u64 = 40;
const OPEN: u64 = 16;

fn begin() -> (Rig, crate::store::tests::recorded::Disk) {
    repeatable::begin(1);
    repeatable::limit_descriptors(4 * OPEN);
    let empty = RecordedFiles::new(true);
    let disk = empty.disk();
    let mut rig = Rig::small(empty);
    rig.map("a");
    rig.map("b");
    rig.write();
    rig.commit();
    rig.persist_in_files();
    (rig, disk)
}

#[test]
fn promise_2_files_that_were_synced_ahead_of_a_persist_are_durable() {
    let (mut rig, empty) = begin();
    let mut states = 0;
    let mut random = Random(1);
    for persisted in [false, true] {
        for _ in 0..COMMITS {
            rig.write();
            rig.commit();
        }
        let syncs = rig.store.stats().unwrap().syncs;
        assert!(syncs > COMMITS - OPEN, "{syncs} syncs");
        if persisted {
            rig.persist_in_files();
        }
        let percents = [0, 0, 30, 50, 70, 100, 100];
        let what = |percent| format!("{COMMITS} commits, persisted {persisted}, {percent} of 100");
        states += check_power_cuts(&rig, &empty, percents, &mut random, &what);
    }
    println!("{states} power cuts after syncs ahead of a persist");
}

#[test]
fn promise_2_a_sync_ahead_of_a_persist_that_fails_poisons() {
    let (mut rig, empty) = begin();
    rig.patience = 0;
    rig.files.set_fuse(Fuse::every_sync());
    let mut commits = 0;
    while !rig.store.stats().unwrap().poisoned {
        assert!(
            commits < COMMITS,
            "no sync failed, or its failure had no effect"
        );
        rig.write();
        rig.commit();
        commits += 1;
    }
    assert!(rig.files.set_fuse(Fuse::default()).sync_failed);
    assert!(commits >= OPEN / 2, "{commits} commits");
    rig.store.persist(None).unwrap_err();
    // The host drops what it could not write. The next owner continues with what is left.
    let count = rig.files.recorded();
    let crashes = Crashes::new(&rig.files, &empty, count, Crash::Evicted);
    let mut random = Random(1);
    for percent in [0, 0, 30, 50, 70, 100] {
        let what = || format!("{commits} commits, a failed sync, {percent} of 100");
        let store = open(&crashes.by_chance(percent, &mut random), &what);
        let allowed = rig.allowed(count, Crash::Evicted);
        check_reopened(&store, &rig.oracle, allowed, &what);
    }
}
