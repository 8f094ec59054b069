//! Promises 1 and 2 over short histories, all of them: every sequence of one to three operations on one and two
//! modules, crashed at every file operation, with subsets of what was not synced, tears and names lost one by
//! one; recovery crashed in the same way, and that recovery again.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::time::Instant;

use xxhash_rust::xxh3::Xxh3Builder;

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

impl History {
    fn what(&self, crash: Crash, count: usize) -> String {
        let History {
            tells_boot,
            beginning,
            steps,
        } = self;
        format!(
            "beginning {beginning}, then {steps:?}, boot id {tells_boot}: {crash:?} after {count} operations"
        )
    }
}

fn histories() -> Vec<History> {
    let mut sequences: Vec<Vec<Step>> = vec![Vec::new()];
    let mut all = Vec::new();
    for _ in 0..3 {
        sequences = sequences
            .iter()
            .flat_map(|before| STEPS.iter().map(|step| [&before[..], &[*step]].concat()))
            .collect();
        for (beginning, steps) in
            (0..BEGINNINGS.len()).flat_map(|b| sequences.iter().map(move |s| (b, s)))
        {
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
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    histories: u64,
    impossible: u64,
    points: u64,
    exhausted: u64,
    states: u64,
    opened: u64,
    again: u64,
    went_on: u64,
}

impl Counts {
    const WORD: &str = "counts of this part:";

    fn each(&mut self) -> [&mut u64; 8] {
        [
            &mut self.histories,
            &mut self.impossible,
            &mut self.points,
            &mut self.exhausted,
            &mut self.states,
            &mut self.opened,
            &mut self.again,
            &mut self.went_on,
        ]
    }

    /// The line by which a process tells another one.
    fn tell(mut self) -> String {
        let numbers = self.each().map(|number| number.to_string());
        format!("{} {}", Self::WORD, numbers.join(" "))
    }

    fn add_told(&mut self, text: &str) {
        let told = text.lines().find_map(|line| line.split(Self::WORD).nth(1));
        let told = told.expect("a part says what it tried");
        for (own, word) in self.each().into_iter().zip(told.split_whitespace()) {
            *own += word.parse::<u64>().expect("a number");
        }
    }
}

/// A search through the crashes of one history.
struct Search<'a> {
    counts: &'a mut Counts,
    history: &'a History,
    random: Random,
    /// Hashes of the states that were opened already, with what they may hold.
    seen: HashSet<u64>,
    hasher: Xxh3Builder,
    /// States for each crash point.
    most: u64,
}

impl Search<'_> {
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
                self.counts.impossible += 1;
                return;
            }
            begun = player.rig.files.recorded();
            player.step(*step);
        }
        // The making of a store belongs to the shortest histories.
        if self.history.beginning == 0 && self.history.steps.len() == 1 {
            begun = 0;
        }
        self.counts.histories += 1;
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
            let what = || history.what(crash, log.len());
            let files = RecordedFiles::holding(disk.clone(), crashes.boot());
            let store = open(&files, &what);
            let recovery = files.log();
            check_reopened(&store, &rig.oracle, allowed.clone(), &what);
            self.counts.opened += 1;
            if further {
                check_goes_on(&store, &what);
                self.counts.went_on += 1;
            }
            drop(store);
            if recovery.len() > 1 && deeper {
                self.again(
                    rig,
                    &files,
                    &recovery,
                    &disk,
                    crash,
                    allowed,
                    (log.len(), 2),
                );
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
        (at, deep): (usize, u32),
    ) {
        if deep == 0 || recovery.is_empty() {
            return;
        }
        let cut = 1 + self.random.below(recovery.len() as u64) as usize;
        let crashes = Crashes::of_log(&recovery[..cut], files, base, crash);
        let percent = [0, 50, 100][self.random.below(3) as usize];
        let left = crashes.by_chance(percent, &mut self.random);
        let disk = left.disk();
        self.counts.states += 1;
        let history = self.history;
        let what = || {
            let whence = history.what(crash, at);
            format!(
                "{whence}, recovery crashed after {cut} operations, {percent} of a hundred, {deep} deep"
            )
        };
        let store = open(&left, &what);
        let recovery = left.log();
        check_reopened(&store, &rig.oracle, allowed.clone(), &what);
        self.counts.again += 1;
        drop(store);
        self.again(rig, &left, &recovery, &disk, crash, allowed, (at, deep - 1));
    }
}

/// Tries every `parts`-th history, from number `part` on, with so many states for each crash point. What a
/// history tries depends on the seed and its number alone.
fn explore(most: u64, seed: u64, part: usize, parts: usize) -> Counts {
    let mut counts = Counts::default();
    for (number, history) in histories().iter().enumerate().skip(part).step_by(parts) {
        repeatable::begin(1);
        let own = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (number as u64 + 1);
        Search {
            counts: &mut counts,
            history,
            random: Random(own.max(1)),
            seen: HashSet::new(),
            hasher: Xxh3Builder::new(),
            most,
        }
        .run();
    }
    counts
}

/// Has a process for each processor explore its part: the threads of one would wait for each other whenever a
/// store maps memory.
fn explore_all() -> Counts {
    let parts = std::thread::available_parallelism().map_or(2, usize::from);
    let start = |part: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(PART, format!("{part}/{parts}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut counts = Counts::default();
    let children: Vec<_> = (0..parts).map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        counts.add_told(&String::from_utf8_lossy(&output.stdout));
    }
    counts
}

const TEST: &str =
    "store::tests::explorer::promise_1_and_2_every_short_history_survives_every_crash";
/// Which part of the histories a process is to explore, and of how many.
const PART: &str = "VMSTORE_CRASHES_PART";

#[test]
fn promise_1_and_2_every_short_history_survives_every_crash() {
    // States for each crash point, beyond those that recovery adds.
    let most = setting("VMSTORE_CRASHES", 8);
    if let Ok(part) = std::env::var(PART) {
        let (part, parts) = part.split_once('/').expect("a part");
        let counts = explore(most, seed(), part.parse().unwrap(), parts.parse().unwrap());
        println!("{}", counts.tell());
        return;
    }
    let begun = Instant::now();
    let counts = explore_all();
    println!(
        "seed {}: {} histories ({} more are impossible), {} crash points ({} with every subset), {} crash states: opened and \
         compared were {} that differ, and {} more with recovery crashed once or twice; {} of them went on; nothing was lost, \
         nothing wrong, no hole, all opened; {:.0} s",
        seed(),
        counts.histories,
        counts.impossible,
        counts.points,
        counts.exhausted,
        counts.states,
        counts.opened,
        counts.again,
        counts.went_on,
        begun.elapsed().as_secs_f64(),
    );
    assert!(counts.histories > 1000 && counts.points > 10_000);
    assert!(counts.opened + counts.again > counts.points);
}
