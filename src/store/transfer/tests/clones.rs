//! Clones of all short histories: crashed after every operation, and with every operation failing. The result is a
//! whole clone or no store, never a part of a clone.

use std::sync::Arc;

use crate::store::open::identity_place;
use crate::store::tests::crashed::{Crash, Crashes};
use crate::store::tests::recorded::{Fuse, RecordedFiles};
use crate::store::tests::steps::{Player, StepHistory};
use crate::store::tests::{Moment, Random, Rig, check_goes_on, check_reopened, rig, setting};
use crate::store::{OpenOptions, Store};
use crate::sys::fs::Dir;
use crate::sys::host::repeatable;
use crate::{Error, Result};

#[derive(Default)]
struct CloneCounts {
    clones: u64,
    whole: u64,
    nothing: u64,
    faults: u64,
    again: u64,
}

fn clone(rig: &Rig, to: &RecordedFiles) -> Result<()> {
    let part = rig.store.part_to_clone(0)?;
    rig.store.clone_into(to, &part)
}

/// Opens the clone, if there is one. It must be whole, or it must be no store.
fn look(files: &Arc<RecordedFiles>, rig: &Rig, what: &dyn Fn() -> String) -> Option<Store> {
    let options = OpenOptions {
        no_create: true,
        ..rig::open_options()
    };
    match Store::open_files(files.clone(), "clone", options) {
        Ok(store) => {
            let last = rig.oracle.last();
            check_reopened(&store, &rig.oracle, last..=last, what);
            Some(store)
        }
        // There are files, but no identity.
        Err(Error::NotFound { .. } | Error::Corrupt { .. }) => None,
        Err(error) => panic!("{}: {error}", what()),
    }
}

fn crash(rig: &Rig, history: &StepHistory, random: &mut Random, counts: &mut CloneCounts) {
    let to = RecordedFiles::new(true);
    clone(rig, &to).unwrap();
    counts.clones += 1;
    let (log, empty) = (to.log(), RecordedFiles::new(true).disk());
    for count in 0..=log.len() {
        for crash in [Crash::Kill, Crash::PowerCut] {
            let crashes = Crashes::of_log(&log[..count], &to, &empty, crash);
            let mut left = Vec::new();
            crashes.choices(setting("VMSTORE_CLONES", 12), random, |survives| {
                left.push(crashes.files(survives));
            });
            for left in left {
                let what = || format!("a clone of {history:?}, {crash:?} after {count}");
                match look(&left, rig, &what) {
                    None => {
                        assert!(count < log.len(), "{}: nothing is there", what());
                        counts.nothing += 1;
                    }
                    Some(store) => {
                        if random.below(16) == 0 {
                            check_goes_on(&store, &what);
                        }
                        counts.whole += 1;
                    }
                }
            }
        }
    }
}

fn fail(rig: &Rig, history: &StepHistory, counts: &mut CloneCounts) {
    for at in 1.. {
        let to = RecordedFiles::new(true);
        to.set_fuse(Fuse {
            at,
            times: 1,
            ..Fuse::default()
        });
        let cloned = clone(rig, &to);
        if to.set_fuse(Fuse::default()).burnt == 0 {
            return cloned.unwrap();
        }
        let what = || format!("a clone of {history:?}, operation {at} fails");
        counts.faults += 1;
        match (cloned, look(&to, rig, &what)) {
            // A failure to reserve space ahead does no harm.
            (Ok(()), there) => assert!(there.is_some(), "{}: the clone is not there", what()),
            // The last name may exist without being known to be durable.
            (Err(_), Some(_)) => {}
            (Err(_), None) => {
                let disk = to.disk();
                let left = disk.names.keys().filter(|place| place.dir == Dir::Root);
                let left: Vec<_> = left
                    .chain(
                        disk.names
                            .get_key_value(&identity_place())
                            .map(|(place, _)| place),
                    )
                    .collect();
                assert!(left.is_empty(), "{}: it leaves {left:?}", what());
                clone(rig, &to).unwrap_or_else(|error| panic!("{}: again: {error}", what()));
                assert!(look(&to, rig, &what).is_some(), "{}: then", what());
                counts.again += 1;
            }
        }
    }
}

#[test]
fn promise_2_a_clone_is_whole_or_absent_whatever_a_crash_leaves() {
    let mut counts = CloneCounts::default();
    let mut random = Random(3);
    for history in StepHistory::all(2) {
        repeatable::begin(1);
        let Some((mut player, last)) = history.play(RecordedFiles::new(true)) else {
            continue;
        };
        player.step(last);
        let Player { rig, closed } = player;
        if closed {
            continue;
        }
        crash(&rig, &history, &mut random, &mut counts);
        fail(&rig, &history, &mut counts);
        assert_eq!(Moment::of(&rig.store), *rig.oracle.now());
    }
    let CloneCounts {
        clones,
        whole,
        nothing,
        faults,
        again,
    } = counts;
    println!(
        "{clones} clones: crashes left {whole} whole and {nothing} that are none, and {faults} operations failed ({again} clones \
         were made again): none was there in part"
    );
    assert!(clones > 100 && whole > 1000 && nothing > 1000 && faults > 1000 && again > 500);
}
