//! A snapshot of the disk below a store in use, or a file system that failed and was mounted again. The host has
//! not rebooted, so it assumes that all that was written is there, but it finds what a power cut leaves. It may
//! refuse the store, or report that commits which were never persisted are not whole. Everything persisted must be
//! there. Files that are inline in the journal come back when the second owner opens the store, after the first has
//! tried to persist them. No byte may be wrong.

use crate::store::tests::crashed::{Crash, Crashes};
use crate::store::tests::recorded::{Disk, RecordedFiles};
use crate::store::tests::rig::open_options;
use crate::store::tests::steps::StepHistory;
use crate::store::tests::{Random, Rig, long, map_options, seed};
use crate::store::{OpenOptions, Store};
use crate::{Error, Result};
use std::sync::Arc;

type Left = Arc<RecordedFiles>;

/// Opens what is left, restores a commit and compares its bytes.
fn restored(left: &Left, rig: &Rig, options: OpenOptions, commit: u64) -> Result<()> {
    let store = Store::open_files(left.clone(), "test", options)?;
    store.restore(commit, None)?;
    for (id, bytes) in rig.oracle.bytes[&commit].iter() {
        let module = store.map_module(id, 0, &map_options())?;
        assert!(
            module.mapped().memory.equals(0, bytes),
            "wrong bytes of {id} at {commit}"
        );
    }
    Ok(())
}

/// One owner tries to persist what is left, and finds that the host has lost a part. The next owner has the commit
/// again.
fn mended(left: &Left, rig: &Rig, commit: u64) -> Result<()> {
    let store = Store::open_files(left.clone(), "test", open_options())?;
    let lost = store.checkpoint(None);
    assert!(
        matches!(lost, Err(Error::Sync { .. })),
        "{commit}: {lost:?}"
    );
    drop(store);
    restored(left, rig, open_options(), commit)
}

#[derive(Default)]
struct SnapshotCounts {
    opened: u64,
    refused: u64,
    /// Restores of persisted commits, restores of other commits, and refusals of other commits.
    promised: u64,
    others: u64,
    not_whole: u64,
    /// Persisted commits that the second owner took from the journal.
    mended: u64,
    /// Persisted commits that a salvage refused. They are in the journal: an owner takes them from there after a
    /// reboot.
    for_an_owner: u64,
}

impl SnapshotCounts {
    fn explore(&mut self, history: &StepHistory, random: &mut Random, most: u64) {
        let empty = RecordedFiles::new(true);
        let Some((mut player, last)) = history.play(empty.copy()) else {
            return;
        };
        let begun = player.rig.made().max(player.rig.files.recorded());
        player.step(last);
        let rig = &player.rig;
        for count in begun..=rig.files.recorded() {
            let crashes = Crashes::new(&rig.files, &empty.disk(), count, Crash::PowerCut);
            let mut disks = Vec::new();
            crashes.choices(most, random, |survives| disks.push(crashes.left(survives)));
            for disk in disks {
                let what = || format!("{history:?} after {count} operations");
                self.look(rig, &disk, count, &what);
            }
        }
    }

    fn look(&mut self, rig: &Rig, disk: &Disk, count: usize, what: &dyn Fn() -> String) {
        let left = || RecordedFiles::holding(disk.clone(), rig.files.boot);
        let options = |salvage| OpenOptions {
            salvage,
            ..open_options()
        };
        let open = |salvage| Store::open_files(left(), "test", options(salvage));
        let salvage = match open(false) {
            Ok(_) => false,
            Err(Error::Corrupt { .. }) => true,
            Err(error) => panic!("{}: {error}", what()),
        };
        self.opened += u64::from(!salvage);
        self.refused += u64::from(salvage);
        let store = open(salvage).unwrap_or_else(|error| panic!("{}: {error}", what()));
        // A deletion may be durable before a persist returns.
        let moments = &rig.oracle.moments[rig.allowed(count, Crash::PowerCut)];
        let stays = |commit: &u64| {
            let mut all = moments.iter();
            all.all(|moment| moment.commits.contains(commit))
        };
        let found = store.commits().unwrap();
        for commit in moments[0].commits.iter().filter(|commit| stays(commit)) {
            assert!(found.contains(commit), "{}: {commit} is lost", what());
        }
        drop(store);
        for commit in found {
            match restored(&left(), rig, options(salvage), commit) {
                Ok(()) if stays(&commit) => self.promised += 1,
                Ok(()) => self.others += 1,
                Err(Error::Corrupt { .. }) if !stays(&commit) => self.not_whole += 1,
                Err(Error::Corrupt { .. }) if salvage => self.for_an_owner += 1,
                Err(Error::Corrupt { .. }) => {
                    let mended = mended(&left(), rig, commit);
                    mended.unwrap_or_else(|error| panic!("{}: {commit}: {error}", what()));
                    self.mended += 1;
                }
                Err(error) => panic!("{}: commit {commit}: {error}", what()),
            }
        }
    }
}

#[test]
fn promise_2_what_was_persisted_is_in_a_snapshot_of_the_disk_that_the_same_host_opens() {
    let mut counts = SnapshotCounts::default();
    let mut random = Random(seed());
    for history in StepHistory::all(2)
        .iter()
        .filter(|history| history.has_boot_id)
    {
        counts.explore(history, &mut random, 4 * long());
    }
    let SnapshotCounts {
        opened,
        refused,
        promised,
        others,
        not_whole,
        mended,
        for_an_owner,
    } = counts;
    println!(
        "seed {}: {opened} snapshots opened, {refused} salvaged: {promised} restores of what was persisted, {mended} more by \
         the second owner, {for_an_owner} left to one after a boot; of what was not, {others}, and {not_whole} refused; none \
         wrong",
        seed()
    );
    assert!(opened > 500 && refused > 50 && promised > 500 && others > 500 && not_whole > 50);
    assert!(mended > 50 && for_an_owner < refused / 100);
}
