//! Promises 1 and 2 over all short histories: every sequence of one to three operations on one and two modules is
//! crashed after every file operation, with subsets of what was not synced, with torn writes, and with names lost
//! one by one. The recovery is crashed in the same way, and the recovery after that again.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use twox_hash::XxHash3_64;

use super::crashed::{Crash, Crashes};
use super::parts::{PROGRESS, in_parts};
use super::recorded::{Disk, Operation, RecordedFiles};
use super::steps::StepHistory;
use super::{Moment, Random, Rig, check_goes_on, check_reopened, open, seed, setting};
use crate::sys::host::repeatable;

/// What was tried.
#[derive(Default)]
struct ExplorerCounts {
    histories: u64,
    impossible: u64,
    points: u64,
    exhausted: u64,
    states: u64,
    opened: u64,
    again: u64,
    went_on: u64,
}

/// A search through the crashes of one history.
struct Search<'a> {
    counts: &'a mut ExplorerCounts,
    history: &'a StepHistory,
    random: Random,
    /// Hashes of the states that were opened already, together with what they may hold.
    seen: HashSet<u64>,
    hasher: BuildHasherDefault<XxHash3_64>,
    /// States for each crash point.
    most: u64,
}

/// A crash of a history, and what the store may hold after the crash.
struct CrashPoint<'a> {
    rig: &'a Rig,
    /// The operations before the crash.
    log: &'a [Operation],
    /// The directory before these operations.
    base: &'a Disk,
    crash: Crash,
    /// The moments in which the store may be found.
    allowed: RangeInclusive<usize>,
}

/// A recovery that can itself be crashed.
struct Recovery<'a> {
    files: &'a RecordedFiles,
    log: &'a [Operation],
    /// The directory before the recovery.
    base: &'a Disk,
}

impl Search<'_> {
    fn run(&mut self) {
        let empty = RecordedFiles::new(self.history.has_boot_id);
        let Some((mut player, last)) = self.history.play(empty.copy()) else {
            self.counts.impossible += 1;
            return;
        };
        let begun = if self.history.makes_the_store() {
            0
        } else {
            // The crash before this step is the same as the crash after the step before.
            player.rig.files.recorded() + 1
        };
        player.step(last);
        self.counts.histories += 1;
        let log = player.rig.files.log();
        // A step that wrote nothing may still promise that something is durable.
        for count in begun.min(log.len())..=log.len() {
            for crash in [Crash::Kill, Crash::PowerCut] {
                self.crashes(&CrashPoint {
                    rig: &player.rig,
                    log: &log[..count],
                    base: &empty.disk(),
                    crash,
                    allowed: player.rig.allowed(count, crash),
                });
            }
        }
    }

    fn crashes(&mut self, point: &CrashPoint<'_>) {
        let (rig, log, crash, allowed) = (point.rig, point.log, point.crash, &point.allowed);
        let crashes = Crashes::of_log(log, &rig.files, point.base, crash);
        let mut disks = Vec::new();
        let all = crashes.choices(self.most, &mut self.random, |survives| {
            disks.push(crashes.left(survives));
        });
        self.counts.points += 1;
        self.counts.exhausted += u64::from(all);
        self.counts.states += disks.len() as u64;
        for disk in disks {
            let key = (&disk, crash == Crash::Kill, allowed.start(), allowed.end());
            if !self.seen.insert(self.hasher.hash_one(key)) {
                continue;
            }
            let (further, deeper) = (self.random.below(16) == 0, self.random.below(3) == 0);
            let history = self.history;
            let what = || format!("{history:?}: {crash:?} after {} operations", log.len());
            let files = RecordedFiles::holding(disk.clone(), crashes.boot());
            let store = open(&files, &what);
            let recovery = files.log();
            check_reopened(&store, &rig.oracle, allowed.clone(), &what);
            self.counts.opened += 1;
            if further {
                check_goes_on(&store, &what);
                self.counts.went_on += 1;
            }
            let holds = Moment::of(&store);
            drop(store);
            // What this owner writes during a restore must also be good for the next owner.
            assert_eq!(Moment::of(&open(&files, &what)), holds, "{}", what());
            if crash == Crash::Kill {
                for persist in [false, true] {
                    self.killed(point, (&disk, crashes.boot()), persist);
                }
            }
            if recovery.len() > 1 && deeper {
                let recovery = Recovery {
                    files: &files,
                    log: &recovery,
                    base: &disk,
                };
                self.again(point, &recovery, 2);
            }
        }
    }

    /// After a kill, what the dead process wrote is no more durable than before. The next owner opens the store,
    /// may make it durable, and then the power is cut.
    fn killed(&mut self, point: &CrashPoint<'_>, (disk, boot): (&Disk, u8), persist: bool) {
        let (rig, log) = (point.rig, point.log);
        let history = self.history;
        let at = log.len();
        let what =
            || format!("{history:?}: killed after {at} operations, persist {persist}, power cut");
        let files = RecordedFiles::killed(disk.clone(), boot, log.to_vec());
        let store = open(&files, &what);
        let holds = Moment::of(&store);
        let found = rig
            .oracle
            .moments
            .iter()
            .rposition(|moment| *moment == holds);
        let found = found.expect("it was checked");
        let least = if persist {
            store.persist(None).unwrap();
            found
        } else {
            *rig.allowed(at, Crash::PowerCut).start()
        };
        drop(store);
        let all = files.log();
        // Without the persist, crashes while the store is being opened are tried too.
        let first = if persist { all.len() } else { at + 1 };
        for cut in first..=all.len() {
            let crashes = Crashes::of_log(&all[..cut], &files, point.base, Crash::PowerCut);
            for percent in [0, 50, 100] {
                let left = crashes.by_chance(percent, &mut self.random);
                let store = open(&left, &what);
                check_reopened(&store, &rig.oracle, least..=found, &what);
                self.counts.states += 1;
                self.counts.again += 1;
            }
        }
    }

    /// Crashes a recovery at one random operation, and then its own recovery, `deep` times.
    fn again(&mut self, point: &CrashPoint<'_>, begun: &Recovery<'_>, deep: u32) {
        if deep == 0 || begun.log.is_empty() {
            return;
        }
        let (crash, at) = (point.crash, point.log.len());
        let cut = 1 + self.random.below(begun.log.len() as u64) as usize;
        let crashes = Crashes::of_log(&begun.log[..cut], begun.files, begun.base, crash);
        let percent = [0, 50, 100][self.random.below(3) as usize];
        let left = crashes.by_chance(percent, &mut self.random);
        let disk = left.disk();
        self.counts.states += 1;
        let history = self.history;
        let what = || {
            format!(
                "{history:?}: {crash:?} after {at} operations, recovery crashed after {cut} with {percent} % left, \
                 {deep} deep"
            )
        };
        let store = open(&left, &what);
        let log = left.log();
        check_reopened(&store, &point.rig.oracle, point.allowed.clone(), &what);
        self.counts.again += 1;
        drop(store);
        let next = Recovery {
            files: &left,
            log: &log,
            base: &disk,
        };
        self.again(point, &next, deep - 1);
    }
}

/// Tries every `parts`-th history from number `from` on, with this many states for each crash point. What a history
/// tries depends only on the seed and on the number of the history.
fn explore(most: u64, longest: u64, from: usize, (part, parts): (usize, usize)) -> ExplorerCounts {
    let mut counts = ExplorerCounts::default();
    let histories = StepHistory::all(longest);
    let mut reported = Instant::now();
    crate::dirty::shared::begin();
    for (number, history) in histories
        .iter()
        .enumerate()
        .skip(from + part)
        .step_by(parts)
    {
        repeatable::begin(1);
        let own = seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number as u64 + 1);
        Search {
            counts: &mut counts,
            history,
            random: Random(own.max(1)),
            seen: HashSet::new(),
            hasher: BuildHasherDefault::default(),
            most,
        }
        .run();
        if reported.elapsed() > Duration::from_secs(60) {
            reported = Instant::now();
            eprintln!(
                "{PROGRESS} part {part} of {parts}, {number} of {} sequences, {} crash states",
                histories.len(),
                counts.states
            );
        }
    }
    counts
}

#[test]
fn promise_1_and_2_every_short_history_survives_every_crash() {
    let test = "store::tests::explorer::promise_1_and_2_every_short_history_survives_every_crash";
    // States for each crash point, beyond those that recovery adds.
    let most = setting("VMSTORE_CRASHES", 8);
    // The most steps of a history.
    let longest = setting("VMSTORE_STEPS", 3);
    // The first history, counted from 0. With it an interrupted search can continue.
    let from = setting("VMSTORE_FROM", 0);
    let begun = Instant::now();
    let search = |part, parts| {
        let c = explore(most, longest, from as usize, (part, parts));
        [
            c.histories,
            c.impossible,
            c.points,
            c.exhausted,
            c.states,
            c.opened,
            c.again,
            c.went_on,
        ]
    };
    let Some(counts) = in_parts(test, search) else {
        return;
    };
    let [
        histories,
        impossible,
        points,
        exhausted,
        states,
        opened,
        again,
        went_on,
    ] = counts;
    println!(
        "seed {}, from sequence {from} on: {histories} histories ({impossible} more are impossible), {points} crash points ({exhausted} with every \
         subset), {states} crash states: opened and compared were {opened} that differ, and {again} more of recoveries that \
         were crashed once or twice, or of killed owners' successors that lost power; {went_on} of them took a new commit; nothing was lost, nothing wrong, no hole, all opened; {:.0} s",
        seed(),
        begun.elapsed().as_secs_f64(),
    );
    assert!(longest < 3 || from > 0 || (histories > 1000 && points > 10_000));
    assert!(opened + again > points);
    let least = super::setting("VMSTORE_LEAST", 0);
    assert!(
        opened + again >= least,
        "fewer than {least} states were opened"
    );
}
