//! Promise 3: every file operation fails in turn, once, a few times and for ever. The call reports the failure,
//! nothing is half done, and when the call is made again nothing is missing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::crashed::{Crash, Crashes};
use super::evicted::{killed_after_the_sync, open_or_salvage};
use super::parts::in_parts;
use super::recorded::{Fuse, RecordedFiles, Short};
use super::steps::{Step, StepHistory};
use super::{Moment, Random, Rig, check_power_cuts, check_reopened, long, open, setting};
use crate::sys::host::repeatable;

/// Plays one history with one fault. Returns how many operations the history took and how many calls failed.
fn live_with(seed: u64, at: u64, times: u64, deletes: bool) -> (u64, u64) {
    let mut random = Random(seed);
    let empty = RecordedFiles::new(true);
    let mut rig = Rig::new(empty.copy());
    rig.files.set_fuse(Fuse {
        at,
        times,
        ..Fuse::default()
    });
    if deletes {
        rig.grow_and_delete(&mut random, 4, seed % 4 == 0);
    } else {
        rig.live(&mut random, 10);
    }
    rig.persist();
    rig.scribble(&mut random);
    rig.commit();
    let fuse = rig.files.set_fuse(Fuse::default());
    for number in rig.oracle.now().commits.clone() {
        rig.restore(number);
    }
    rig.store
        .verify(&crate::VerifyOptions::default(), None)
        .unwrap();
    for (crash, percent) in [(Crash::Kill, 100), (Crash::PowerCut, 50)] {
        let count = rig.files.recorded();
        let left = Crashes::new(&rig.files, &empty.disk(), count, crash);
        let what = || format!("{crash:?}");
        let store = open(&left.by_chance(percent, &mut random), &what);
        let allowed = rig.allowed(count, crash);
        check_reopened(&store, &rig.oracle.after(crash), allowed, &what);
    }
    (fuse.count, rig.failures)
}

/// How an operation fails.
pub(crate) const KINDS: [(i32, Short); 9] = [
    (libc::EIO, Short::Half),
    (libc::ENOSPC, Short::Half),
    (libc::EDQUOT, Short::Nothing),
    (libc::EINTR, Short::Nothing),
    // A short write, and no space for the rest.
    (libc::ENOSPC, Short::AllButOneByte),
    (libc::EMFILE, Short::Nothing),
    (libc::ENOMEM, Short::Nothing),
    (libc::EFBIG, Short::Half),
    // The file system became read-only after an error.
    (libc::EROFS, Short::Nothing),
];

/// The number of ways in which the host drops what a failed sync could not write.
const MOST: u64 = 3;

/// What was tried.
#[derive(Default)]
struct FaultCounts {
    runs: u64,
    /// Calls that failed. The other calls succeeded without the operation that failed.
    failed: u64,
    poisoned: u64,
    states: u64,
    /// Kills after a failed sync of the journal that lost the note of the failure.
    salvaged: u64,
    /// Deletions and restores that failed because their record could not be written, and were whole after a power
    /// cut.
    half_done: u64,
}

/// How long the failure lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Once,
    ForEver,
    /// Only operations of the same kind fail.
    ForEverAlike,
}

/// Whether a call may succeed although this operation failed, because no promise depends on it. All other failures
/// must be reported; syncs and the writes of commits are among these.
fn may_be_passed_over(step: Step, kind: &str, errno: i32) -> bool {
    let names = matches!(
        step,
        Step::Commit | Step::Capture | Step::Restore | Step::Import | Step::Compact | Step::Delete
    );
    // A persist removes the files of commits that were deleted before.
    let removes = matches!(step, Step::Persist | Step::PersistInFiles);
    match kind {
        // The audit reads page by page what it could not read at once.
        "open" | "len" | "read" if step == Step::Audit => true,
        // The links `_last`, which repeat other information, and files that no commit needs any more.
        "symlink" => names,
        "rename" | "unlink" => names || removes,
        // The high-water mark, which is written after the record. Space that is reserved ahead: without it, a later
        // write reports a full disk. A journal that is not shortened.
        "mark" | "allocate" => true,
        "set_len" => matches!(
            step,
            Step::Persist | Step::PersistInFiles | Step::Compact | Step::Delete
        ),
        // A file that cannot be opened now: the failure is reported when the file is needed.
        "open" => removes || matches!(step, Step::Delete | Step::Compact | Step::Reopen),
        // A backing file that cannot be linked to its image is made empty.
        "link" => {
            removes
                || matches!(
                    step,
                    Step::Map | Step::Delete | Step::Compact | Step::Reopen
                )
        }
        "list" | "len" | "read_link" => step == Step::Reopen,
        // A child that is not merged needs its parent's file.
        "create" | "read" => step == Step::Delete,
        // The same; and a persist writes to files what the journal has no space for.
        "write" => {
            step == Step::Delete
                || (step == Step::Persist && matches!(errno, libc::ENOSPC | libc::EDQUOT))
        }
        _ => false,
    }
}

/// Plays the last step of a history with one fault. Returns `None` if the step has no such operation: then nothing
/// failed.
fn fail(
    history: &StepHistory,
    at: u64,
    kind: (i32, Short),
    lasting: Lasting,
    counts: &mut FaultCounts,
) -> Option<()> {
    repeatable::begin(1);
    let mut random = Random(at + 1);
    let empty = RecordedFiles::new(history.has_boot_id);
    let (mut player, last) = history.play(empty.copy())?;
    let what = format!("{history:?}: operation {at} fails with {kind:?}, {lasting:?}");
    let what = || what.clone();
    let opens = player.closed;
    if !opens {
        player.rig.write();
    }
    let fuse = Fuse {
        at,
        times: if lasting == Lasting::Once {
            1
        } else {
            u64::MAX
        },
        alike: lasting == Lasting::ForEverAlike,
        errno: kind.0,
        short: kind.1,
        ..Fuse::default()
    };
    player.rig.files.set_fuse(fuse);
    player.rig.patience = 0;
    player.step(last);
    let failed = player.rig.failure.is_some() && !player.closed;
    if lasting != Lasting::Once && failed && player.allows(last) {
        // Making the call again while the cause persists does no harm either.
        player.step(last);
    }
    let fuse = player.rig.files.set_fuse(Fuse::default());
    if fuse.burnt == 0 {
        return None;
    }
    counts.runs += 1;
    let rig = &mut player.rig;
    if let Some(error) = rig.failure.take() {
        counts.failed += 1;
        if let crate::Error::Io { errno, .. } | crate::Error::Sync { errno, .. } = error {
            assert_eq!(errno, kind.0, "{}: the call has another error", what());
        }
    } else {
        let operation = fuse.kind.expect("something failed");
        let may = |step| may_be_passed_over(step, operation, kind.0);
        assert!(
            may(last) || (opens && may(Step::Reopen)),
            "{}: no call reported the failed {operation}",
            what()
        );
    }
    crash(rig, &empty, &mut random, counts, &what);
    if fuse.sync_failed && kind.0 == libc::EIO {
        let (states, salvaged) = killed_after_the_sync(rig, &empty, &mut random, MOST, &what);
        counts.states += states;
        counts.salvaged += salvaged;
    }
    rig.patience = 1;
    if player.closed {
        assert!(rig.open(), "{}: the store does not open afterwards", what());
    } else if fuse.sync_failed {
        check_poisoned(rig, &what);
        counts.poisoned += 1;
        rig.reopen();
    }
    rig.patience = 0;
    // The cause is gone: what was written and dirty is in the next commit.
    for step in [Step::Commit, Step::Persist, Step::Commit, Step::Restore] {
        player.step(step);
        let failure = player.rig.failure.take();
        assert!(failure.is_none(), "{}: then {step:?}: {failure:?}", what());
        if player.rig.oracle.begun.is_some() {
            crash(&mut player.rig, &empty, &mut random, counts, &what);
        }
    }
    crash(&mut player.rig, &empty, &mut random, counts, &what);
    Some(())
}

/// After a failed sync the store accepts nothing until it is opened again, but still answers questions.
pub(crate) fn check_poisoned(rig: &Rig, what: &dyn Fn() -> String) {
    let store = &rig.store;
    let now = rig.oracle.now();
    let first = now.commits.first().copied();
    assert!(store.stats().unwrap().poisoned, "{}: not poisoned", what());
    let refused = |call: &str, outcome: crate::Result<()>| {
        assert!(
            matches!(outcome, Err(crate::Error::Poisoned { .. })),
            "{}: {call}: {outcome:?}",
            what()
        );
    };
    for _ in 0..2 {
        let options = crate::CommitOptions::default();
        refused("commit", store.commit(&options).map(drop));
        refused("capture", store.capture(&options).map(drop));
        refused(
            "precopy",
            store
                .precopy(&crate::PrecopyOptions::default(), None)
                .map(drop),
        );
        refused("persist", store.persist(None));
        refused(
            "compact",
            store
                .compact(&crate::CompactOptions::default(), None)
                .map(drop),
        );
        refused("import", super::streams::import_first(store).map(drop));
        let late = store.map_module("late", 4096, &super::map_options());
        refused("map", late.map(drop));
        for module in rig.modules.values() {
            let size = module.mapped().size();
            refused("grow", module.grow(size + 4096));
            assert_eq!(module.mapped().size(), size, "{}: it grew", what());
        }
        if let Some(first) = first {
            refused("restore", store.restore(first, None));
        }
        for commit in rig.deletable() {
            refused("delete", store.delete_commit(commit));
        }
        assert_eq!(store.commits().unwrap(), now.commits);
        assert_eq!(store.head().unwrap(), now.head);
    }
    // The store answers questions, and the answers are right.
    let compared = super::check_about(store, &rig.oracle, what);
    assert_eq!(compared, now.commits.len(), "{}", what());
}

/// What crashes may leave at this point.
fn crash(
    rig: &mut Rig,
    empty: &RecordedFiles,
    random: &mut Random,
    counts: &mut FaultCounts,
    what: &dyn Fn() -> String,
) {
    let count = rig.files.recorded();
    for (crash, percent) in [
        (Crash::Kill, 100),
        (Crash::Evicted, 0),
        (Crash::Evicted, 50),
        (Crash::PowerCut, 0),
        (Crash::PowerCut, 50),
        (Crash::PowerCut, 100),
    ] {
        let crashes = Crashes::new(&rig.files, &empty.disk(), count, crash);
        if crash == Crash::Evicted && crashes.uncertain == 0 {
            continue;
        }
        let left = crashes.by_chance(percent, random);
        let what = || format!("{}; then {crash:?} {percent}", what());
        let allowed = rig.allowed(count, crash);
        let store = if crash == Crash::Evicted {
            let Some(store) = open_or_salvage(&left, rig, *allowed.start(), &what) else {
                counts.salvaged += 1;
                continue;
            };
            store
        } else {
            open(&left, &what)
        };
        let found = Moment::of(&store);
        let moment = check_reopened(&store, &rig.oracle.after(crash), allowed, &what);
        counts.states += 1;
        counts.half_done += u64::from(found != rig.oracle.moments[moment]);
    }
}

/// Tries every `parts`-th history: each operation of its last step, each kind of failure, once and for ever.
fn fail_all(longest: u64, part: usize, parts: usize) -> FaultCounts {
    let mut counts = FaultCounts::default();
    let histories = [StepHistory::all(longest), StepHistory::of_more(longest)].concat();
    for history in histories.iter().skip(part).step_by(parts) {
        for kind in KINDS {
            for lasting in [Lasting::Once, Lasting::ForEver, Lasting::ForEverAlike] {
                let mut at = 1;
                while fail(history, at, kind, lasting, &mut counts).is_some() {
                    at += 1;
                }
            }
        }
    }
    counts
}

#[test]
fn promise_3_every_operation_of_every_short_history_fails_in_every_way() {
    let test =
        "store::tests::faults::promise_3_every_operation_of_every_short_history_fails_in_every_way";
    // The most steps of a history.
    let longest = setting("VMSTORE_FAULTS", 1);
    let search = |part, parts| {
        let c = fail_all(longest, part, parts);
        [
            c.runs,
            c.failed,
            c.poisoned,
            c.states,
            c.salvaged,
            c.half_done,
        ]
    };
    let Some([runs, failed, poisoned, states, salvaged, half_done]) = in_parts(test, search) else {
        return;
    };
    println!(
        "{runs} faults (histories of up to {longest} steps): {failed} calls failed with that error and left nothing half \
         visible, {poisoned} stores were poisoned until reopened; all continued exactly, and {states} crash states \
         among them opened with all that was durable; {salvaged}, of owners killed while the sync of the journal failed, were salvaged; \
         {half_done} had, whole, a deletion or restore whose record could neither be written nor removed"
    );
    assert!(runs > 5000 && failed > runs / 3 && poisoned > 100);
    // A few times the usual share: stores that are refused must stay rare.
    assert!(salvaged < states / 2000 && half_done < states / 50_000 + 1);
}

#[test]
fn promise_3_every_operation_fails_and_nothing_is_lost() {
    let (mut runs, mut failures) = (0, 0);
    for seed in 11..11 + 5 * long() {
        let deletes = seed % 2 == 0;
        let (operations, failed) = live_with(seed, 0, 0, deletes);
        assert_eq!(failed, 0, "without a fault");
        for times in [1, 3] {
            for at in 1..=operations {
                let run = AssertUnwindSafe(|| live_with(seed, at, times, deletes));
                let Ok((_, failed)) = catch_unwind(run) else {
                    panic!("seed {seed}: operation {at} fails {times} times");
                };
                failures += failed;
                runs += 1;
            }
        }
    }
    assert!(
        failures > runs / 2,
        "only {failures} calls failed in {runs} runs"
    );
    println!(
        "{runs} runs with a fault each, {failures} calls failed and were repeated: nothing lost"
    );
}

/// Plays a persist in which one operation fails, then more history, deletions, and crashes. Returns `None` if the
/// persist has no such operation.
fn delete_after_a_failed_persist(at: u64, order: u64, random: &mut Random) -> Option<u64> {
    repeatable::begin(1);
    let empty = RecordedFiles::new(order & 1 == 0);
    let mut rig = Rig::small(empty.copy());
    rig.map("a");
    for number in 1..4 {
        rig.write();
        rig.commit();
        if number == 1 && order & 2 != 0 {
            rig.persist();
        }
    }
    rig.patience = 0;
    rig.files.set_fuse(Fuse {
        at,
        times: 1,
        errno: libc::EIO,
        ..Fuse::default()
    });
    if order & 16 == 0 {
        rig.persist();
    } else {
        rig.persist_in_files();
    }
    let fuse = rig.files.set_fuse(Fuse::default());
    if fuse.burnt == 0 {
        return None;
    }
    if rig.store.stats().unwrap().poisoned {
        return Some(0);
    }
    rig.write();
    rig.commit();
    if order & 4 != 0 {
        rig.delete(2);
    }
    if order & 8 != 0 {
        rig.restore(1);
        for commit in rig.deletable() {
            rig.delete(commit);
        }
    }
    let percents = [0, 100].into_iter().chain([5, 20, 50, 80, 95].repeat(10));
    let what = |percent| format!("a persist fails at {at}, order {order}, power cut {percent}");
    let base = empty.disk();
    Some(check_power_cuts(&rig, &base, percents, random, &what))
}

#[test]
fn promise_2_records_that_a_failed_persist_appended_may_be_durable() {
    let mut random = Random(5);
    let (mut faults, mut states) = (0, 0);
    for order in 0..32 {
        let tried = |at| delete_after_a_failed_persist(at, order, &mut random);
        for tried in (1..).map_while(tried) {
            faults += 1;
            states += tried;
        }
    }
    println!(
        "{faults} faults of a persist before deletions: {states} power cuts left what stays whole"
    );
    assert!(
        faults > 100 && states > 3000,
        "{faults} faults, {states} states"
    );
}

#[test]
fn promise_3_an_operation_that_fails_in_opening_spoils_no_later_persist() {
    let (mut faults, mut failed) = (0, 0);
    for at in 1.. {
        let mut rig = Rig::small(RecordedFiles::new(true));
        rig.map("a");
        for _ in 0..2 {
            rig.write();
            rig.commit();
        }
        rig.delete(1);
        rig.files.set_fuse(Fuse {
            at,
            times: 1,
            errno: libc::EMFILE,
            ..Fuse::default()
        });
        rig.reopen();
        if rig.files.set_fuse(Fuse::default()).burnt == 0 {
            break;
        }
        faults += 1;
        failed += rig.failures;
        (rig.patience, rig.failure) = (0, None);
        rig.persist();
        assert!(rig.failure.is_none(), "operation {at}: {:?}", rig.failure);
    }
    println!(
        "{faults} operations failed once, {failed} opens with them; each later persist succeeded"
    );
    assert!(failed > 10);
}
