//! Promises 1 and 2 over short histories, all of them: every sequence of one to three operations on one and two
//! modules, crashed at every file operation, with subsets of what was not synced, tears and names lost one by
//! one; recovery crashed in the same way, and that recovery again.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::crashed::{Crash, Crashes};
use super::recorded::{Disk, Operation, RecordedFiles};
use super::{Random, Rig, check_goes_on, check_reopened, open, seed, setting};
use crate::sys::host::repeatable;

/// What a history is made of. Another operation is one more name here and one more line in `step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Map,
    Commit,
    Persist,
    Restore,
    Close,
    Reopen,
}

const STEPS: [Step; 6] = [
    Step::Map,
    Step::Commit,
    Step::Persist,
    Step::Restore,
    Step::Close,
    Step::Reopen,
];

/// What is there before the first operation.
const BEGINNINGS: [&[Step]; 5] = [
    &[],
    &[Step::Map],
    &[Step::Map, Step::Commit],
    &[Step::Map, Step::Commit, Step::Persist, Step::Commit],
    &[
        Step::Map,
        Step::Map,
        Step::Commit,
        Step::Persist,
        Step::Commit,
    ],
];

/// A rig, and whether its store is closed: the next operation opens it.
struct Player {
    rig: Rig,
    closed: bool,
}

impl Player {
    fn step(&mut self, step: Step) {
        if self.closed || step == Step::Reopen {
            self.rig.open();
        }
        self.closed = step == Step::Close;
        match step {
            Step::Map => self.rig.map(if self.rig.has("a") { "b" } else { "a" }),
            Step::Commit => {
                self.rig.write();
                self.rig.commit();
            }
            Step::Persist => self.rig.persist(),
            Step::Restore => {
                let first = self.rig.oracle.now().commits[0];
                self.rig.restore(first);
            }
            Step::Close => self.rig.close(),
            Step::Reopen => {}
        }
    }

    /// Whether a step can be taken here.
    fn allows(&self, step: Step) -> bool {
        match step {
            Step::Map => !self.rig.has("b"),
            Step::Restore => !self.rig.oracle.now().commits.is_empty(),
            Step::Close => !self.closed,
            _ => true,
        }
    }
}

/// One history to try: the crashes of its last step are its own, those before are another history's.
struct History {
    tells_boot: bool,
    beginning: usize,
    steps: Vec<Step>,
}

fn histories() -> Vec<History> {
    let mut sequences: Vec<Vec<Step>> = vec![Vec::new()];
    let mut all = Vec::new();
    for _ in 0..3 {
        sequences = sequences
            .iter()
            .flat_map(|before| STEPS.iter().map(|step| [&before[..], &[*step]].concat()))
            .collect();
        for (beginning, steps) in (0..BEGINNINGS.len()).flat_map(|b| sequences.iter().map(move |s| (b, s))) {
            for tells_boot in [true, false] {
                all.push(History {
                    tells_boot,
                    beginning,
                    steps: steps.clone(),
                });
            }
        }
    }
    all
}

/// What was tried.
#[derive(Default)]
struct Counts {
    histories: AtomicU64,
    impossible: AtomicU64,
    points: AtomicU64,
    exhausted: AtomicU64,
    states: AtomicU64,
    opened: AtomicU64,
    again: AtomicU64,
    went_on: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// A search through the crashes of one history.
struct Search<'a> {
    counts: &'a Counts,
    history: &'a History,
    random: Random,
    /// Hashes of the states that were opened already, with what they may hold.
    seen: HashSet<u64>,
    hasher: BuildHasherDefault<DefaultHasher>,
    /// States for each crash point.
    most: u64,
}

impl Search<'_> {
    fn what(&self, crash: Crash, count: usize) -> String {
        let History {
            tells_boot,
            beginning,
            steps,
        } = self.history;
        format!(
            "beginning {beginning}, then {steps:?}, boot id {tells_boot}: {crash:?} after {count} operations"
        )
    }

    fn run(&mut self) {
        let empty = RecordedFiles::new(self.history.tells_boot);
        let mut player = Player {
            rig: Rig::small(empty.copy()),
            closed: false,
        };
        let mut begun = 0;
        for step in BEGINNINGS[self.history.beginning]
            .iter()
            .chain(&self.history.steps)
        {
            if !player.allows(*step) {
                Counts::add(&self.counts.impossible, 1);
                return;
            }
            begun = player.rig.files.recorded();
            player.step(*step);
        }
        // The making of a store belongs to the shortest histories.
        if self.history.beginning == 0 && self.history.steps.len() == 1 {
            begun = 0;
        }
        Counts::add(&self.counts.histories, 1);
        let log = player.rig.files.log();
        for count in begun..=log.len() {
            // The last crash before this step was the one after the step before.
            if count == begun && begun != 0 {
                continue;
            }
            for crash in [Crash::Kill, Crash::PowerCut] {
                let allowed = player.rig.allowed(count, crash);
                self.crashes(&player.rig, &log[..count], &empty.disk(), crash, &allowed);
            }
        }
    }

    fn crashes(
        &mut self,
        rig: &Rig,
        log: &[Operation],
        base: &Disk,
        crash: Crash,
        allowed: &RangeInclusive<usize>,
    ) {
        let crashes = Crashes::of_log(log, &rig.files, base, crash);
        let mut disks = Vec::new();
        let all = crashes.choices(self.most, &mut self.random, |survives| {
            disks.push(crashes.left(survives));
        });
        Counts::add(&self.counts.points, 1);
        Counts::add(&self.counts.exhausted, u64::from(all));
        Counts::add(&self.counts.states, disks.len() as u64);
        for disk in disks {
            let key = (&disk, crash == Crash::Kill, allowed.start(), allowed.end());
            if !self.seen.insert(self.hasher.hash_one(key)) {
                continue;
            }
            let (further, deeper) = (self.random.below(16) == 0, self.random.below(3) == 0);
            let what = || self.what(crash, log.len());
            let files = RecordedFiles::holding(disk.clone(), crashes.boot());
            let store = open(&files, &what);
            let recovery = files.log();
            check_reopened(&store, &rig.oracle, allowed.clone(), &what);
            Counts::add(&self.counts.opened, 1);
            if further {
                check_goes_on(&store, &what);
                Counts::add(&self.counts.went_on, 1);
            }
            drop(store);
            if recovery.len() > 1 && deeper {
                self.again(rig, &files, &recovery, &disk, crash, allowed, 2);
            }
        }
    }

    /// Crashes a recovery at one of its operations, by chance, and its recovery, `deep` times.
    #[expect(clippy::too_many_arguments, reason = "all of it describes one state")]
    fn again(
        &mut self,
        rig: &Rig,
        files: &RecordedFiles,
        recovery: &[Operation],
        base: &Disk,
        crash: Crash,
        allowed: &RangeInclusive<usize>,
        deep: u32,
    ) {
        if deep == 0 || recovery.is_empty() {
            return;
        }
        let cut = 1 + self.random.below(recovery.len() as u64) as usize;
        let crashes = Crashes::of_log(&recovery[..cut], files, base, crash);
        let percent = [0, 50, 100][self.random.below(3) as usize];
        let left = crashes.by_chance(percent, &mut self.random);
        let disk = left.disk();
        Counts::add(&self.counts.states, 1);
        let what = || {
            let whence = self.what(crash, 0);
            format!("{whence} (at most), recovery crashed after {cut} operations, {deep} deep")
        };
        let store = open(&left, &what);
        let recovery = left.log();
        check_reopened(&store, &rig.oracle, allowed.clone(), &what);
        Counts::add(&self.counts.again, 1);
        drop(store);
        self.again(rig, &left, &recovery, &disk, crash, allowed, deep - 1);
    }
}

/// Tries all histories with so many states for each crash point, on all processors.
fn explore(most: u64, seed: u64) -> Counts {
    let counts = Counts::default();
    let histories = histories();
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(history) = histories.get(number) else {
                        return;
                    };
                    // What a history tries depends on the seed and its number alone.
                    repeatable::begin(1);
                    let own = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number as u64 + 1);
                    Search {
                        counts: &counts,
                        history,
                        random: Random(own.max(1)),
                        seen: HashSet::new(),
                        hasher: BuildHasherDefault::default(),
                        most,
                    }
                    .run();
                }
            });
        }
    });
    counts
}

#[test]
fn promise_1_and_2_every_short_history_survives_every_crash() {
    // `VMSTORE_CRASHES`: states for each crash point, beyond those that recovery adds.
    let most = setting("VMSTORE_CRASHES", 8);
    let begun = Instant::now();
    let counts = explore(most, seed());
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let different = of(&counts.opened) + of(&counts.again);
    println!(
        "seed {}: {} histories ({} impossible), {} crash points ({} with every subset): {} crash states, {different} different ones \
         opened and compared, {} of them with recovery crashed once or twice, {} went on; nothing was lost, nothing wrong, no \
         hole, all opened; {:.0} s",
        seed(),
        of(&counts.histories),
        of(&counts.impossible),
        of(&counts.points),
        of(&counts.exhausted),
        of(&counts.states),
        of(&counts.again),
        of(&counts.went_on),
        begun.elapsed().as_secs_f64(),
    );
    assert!(of(&counts.histories) > 1000 && of(&counts.points) > 10_000);
    assert!(different > of(&counts.points));
}
