//! After a failed sync: the owner is killed before it can note the failure, the host drops what it could not write,
//! and the next owner opens what is left.

use std::sync::Arc;

use super::crashed::{Crash, Crashes};
use super::recorded::{Operation, RecordedFiles};
use super::rig::open_options;
use super::{Moment, OpenOptions, Random, Rig, Store};
use super::{check_bytes, check_reopened, map_options, open};
use crate::Error;

/// Kills the owner between a failed sync and the end of its call. The host has dropped what this sync could not
/// write, in at most `most` ways. The next owner opens the store and makes it durable, and then the power is cut.
/// Returns how many states were tried, and how often the store had to be salvaged.
pub(crate) fn killed_after_the_sync(
    rig: &Rig,
    empty: &RecordedFiles,
    random: &mut Random,
    most: u64,
    what: &dyn Fn() -> String,
) -> (u64, u64) {
    let (mut states, mut salvaged) = (0, 0);
    let log = rig.files.log();
    let failed = |at: &usize| matches!(log[*at], Operation::FailedSync { .. });
    let end = log.len();
    let first = (0..end).find(failed).unwrap_or(end);
    for count in first + 1..=end {
        let crashes = Crashes::of_log(&log[..count], &rig.files, &empty.disk(), Crash::Evicted);
        let mut disks = Vec::new();
        crashes.choices(most, random, |survives| disks.push(crashes.left(survives)));
        for (number, left) in disks.into_iter().enumerate() {
            let what = || format!("{}; killed after {count} operations, {number}", what());
            let files = RecordedFiles::killed(left, crashes.boot(), log[..count].to_vec());
            let allowed = rig.allowed(count, Crash::Evicted);
            let Some(store) = open_or_salvage(&files, rig, *allowed.start(), &what) else {
                salvaged += 1;
                continue;
            };
            let found = check_reopened(&store, &rig.oracle, allowed, &what);
            let head = store.restore(rig.oracle.moments[found].head, None);
            assert!(head.is_ok() || found == 0, "{}: {head:?}", what());
            store
                .persist(None)
                .unwrap_or_else(|error| panic!("{}: persist: {error}", what()));
            let holds = Moment::of(&store);
            drop(store);
            let crashes = Crashes::new(&files, &empty.disk(), files.recorded(), Crash::PowerCut);
            for percent in [0, 50] {
                let what = || format!("{}; {percent} of 100", what());
                let store = open(&crashes.by_chance(percent, random), &what);
                assert_eq!(Moment::of(&store), holds, "{}: not durable", what());
                check_bytes(&store, &rig.oracle, &what);
                states += 1;
            }
            states += 1;
        }
    }
    (states, salvaged)
}

/// A failed sync of the journal may lose the header that notes the failure, and leave torn records behind the
/// header. Then the store does not open, and a salvage finds all that was persisted.
pub(crate) fn open_or_salvage(
    files: &Arc<RecordedFiles>,
    rig: &Rig,
    least: usize,
    what: &dyn Fn() -> String,
) -> Option<Store> {
    match Store::open_files(files.clone(), "test", open_options()) {
        Ok(store) => return Some(store),
        Err(Error::Corrupt { file, .. }) if file == ".vmstore/journal" => {}
        Err(error) => panic!("{}: the store does not open: {error}", what()),
    }
    for commit in &rig.oracle.moments[least].commits {
        let options = OpenOptions {
            salvage: true,
            ..OpenOptions::default()
        };
        let salvaged = || {
            let store = Store::open_files(files.clone(), "test", options)?;
            store.restore(*commit, None)?;
            for (id, bytes) in rig.oracle.bytes[commit].iter() {
                let module = store.map_module(id, 0, &map_options())?;
                assert!(module.mapped().memory.equals(0, bytes), "{}: {id}", what());
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = salvaged() {
            panic!("{}: commit {commit} is not salvaged: {error}", what());
        }
    }
    None
}
