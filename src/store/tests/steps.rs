//! All short histories: their steps, their beginnings, and their sequences.

use super::Rig;
use super::recorded::RecordedFiles;
use std::sync::Arc;

/// The steps of histories. A new step needs one more name here and in `STEPS`, and one more line in `Player::step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Map,
    Commit,
    Persist,
    PersistInFiles,
    Restore,
    Delete,
    Compact,
    Import,
    Close,
    Reopen,
    Capture,
    Abandon,
    Precopy,
    Discard,
    Unmap,
    Export,
    Verify,
    Audit,
}

/// More steps that can fail. They have no crash states of their own.
const MORE: [Step; 8] = [
    Step::Capture,
    Step::Abandon,
    Step::Precopy,
    Step::Discard,
    Step::Unmap,
    Step::Export,
    Step::Verify,
    Step::Audit,
];

pub(crate) const STEPS: [Step; 10] = [
    Step::Map,
    Step::Commit,
    Step::Persist,
    Step::PersistInFiles,
    Step::Restore,
    Step::Delete,
    Step::Compact,
    Step::Import,
    Step::Close,
    Step::Reopen,
];

/// The steps that come before a history.
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

/// A rig, and whether its store is closed. If so, the next step opens it.
pub(crate) struct Player {
    pub(crate) rig: Rig,
    pub(crate) closed: bool,
}

impl Player {
    pub(crate) fn new(files: Arc<RecordedFiles>) -> Self {
        Self {
            rig: Rig::small(files),
            closed: false,
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        if self.closed || step == Step::Reopen {
            self.closed = !self.rig.open();
            // A module that could not be mapped is missing for this step, which may then be impossible.
            if self.closed || !self.allows(step) {
                return;
            }
        }
        match step {
            Step::Map => self.rig.map(if self.rig.has("a") { "b" } else { "a" }),
            Step::Commit => {
                self.rig.write();
                self.rig.commit();
            }
            Step::Persist => self.rig.persist(),
            Step::PersistInFiles => self.rig.persist_in_files(),
            Step::Restore => {
                let first = self.rig.oracle.now().commits[0];
                self.rig.restore(first);
            }
            Step::Delete => {
                let first = self.rig.deletable()[0];
                self.rig.delete(first);
            }
            Step::Compact => self.rig.compact(1, 1),
            Step::Import => self.rig.import_next(),
            Step::Close => {
                self.rig.close();
                self.closed = true;
            }
            Step::Reopen => {}
            Step::Capture | Step::Abandon => {
                self.rig.write();
                self.rig.capture(step == Step::Capture);
            }
            Step::Precopy => {
                self.rig.write();
                self.rig.precopy();
            }
            Step::Discard => self.rig.discard("a"),
            Step::Unmap => self.rig.unmap("a"),
            Step::Export | Step::Verify | Step::Audit => self.rig.look(step),
        }
    }

    /// Whether a step can be taken here.
    pub(crate) fn allows(&self, step: Step) -> bool {
        match step {
            Step::Map => !self.rig.has("b"),
            Step::Restore => !self.rig.oracle.now().commits.is_empty(),
            Step::Delete => !self.rig.deletable().is_empty(),
            Step::Import => self.rig.can_import(),
            Step::Close => !self.closed,
            Step::Discard | Step::Unmap => self.rig.has("a"),
            Step::Export => self.rig.oracle.now().head != 0,
            _ => true,
        }
    }
}

/// A beginning and one to three steps. A search looks at the last step only: each shorter history is in the list
/// too.
#[derive(Debug, Clone)]
pub(crate) struct StepHistory {
    pub(crate) has_boot_id: bool,
    beginning: usize,
    steps: Vec<Step>,
}

impl StepHistory {
    pub(crate) fn all(longest: u64) -> Vec<Self> {
        let mut sequences: Vec<Vec<Step>> = vec![Vec::new()];
        let mut all = Vec::new();
        for _ in 0..longest {
            let with = |before: &Vec<Step>| STEPS.map(|step| [&before[..], &[step]].concat());
            sequences = sequences.iter().flat_map(with).collect();
            for beginning in 0..BEGINNINGS.len() {
                for steps in &sequences {
                    // An import needs the boot id for the same purposes as a commit.
                    let imports = steps.contains(&Step::Import);
                    for has_boot_id in [true, false].into_iter().take(2 - usize::from(imports)) {
                        all.push(Self {
                            has_boot_id,
                            beginning,
                            steps: steps.clone(),
                        });
                    }
                }
            }
        }
        all
    }

    /// The steps of `MORE` after each beginning, and with a step between if histories of two steps are wanted.
    pub(crate) fn of_more(longest: u64) -> Vec<Self> {
        let between = STEPS.map(Some).into_iter().filter(|_| longest > 1);
        let sequences = std::iter::once(None)
            .chain(between)
            .flat_map(|before| MORE.map(|last| before.into_iter().chain([last]).collect()));
        let sequences: Vec<Vec<Step>> = sequences.collect();
        let beginnings = 0..BEGINNINGS.len();
        let with = |beginning| {
            sequences.iter().map(move |steps| Self {
                has_boot_id: true,
                beginning,
                steps: steps.clone(),
            })
        };
        beginnings.flat_map(with).collect()
    }

    /// Whether the last step is the first one in an empty directory: it then also makes the store.
    pub(crate) fn makes_the_store(&self) -> bool {
        self.beginning == 0 && self.steps.len() == 1
    }

    /// Plays all steps except the last, and returns the last. Returns nothing if a step is not possible.
    pub(crate) fn play(&self, files: Arc<RecordedFiles>) -> Option<(Player, Step)> {
        let mut player = Player::new(files);
        let (last, before) = self.steps.split_last()?;
        for step in BEGINNINGS[self.beginning].iter().chain(before) {
            if !player.allows(*step) {
                return None;
            }
            player.step(*step);
        }
        player.allows(*last).then_some((player, *last))
    }
}
