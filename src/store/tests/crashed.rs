//! What a crash leaves of a recording: which parts of it are certain, which are left to chance, and
//! the directory that any choice of those makes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Random;
use super::recorded::{Disk, Node, Operation, RecordedFiles, content, put};
use crate::format::name;
use crate::sys::fs::{Dir, Place};

/// What the disk tears writes into.
const SECTOR: usize = 512;

/// How a process and its host end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Only the process died: everything that was written is there.
    Kill,
    /// The host lost what it had not been told to keep.
    PowerCut,
    /// The process died after a failed sync, and the host dropped what that sync could not write.
    Evicted,
}

/// One step from a durable directory to a crashed one.
enum Step {
    Sector {
        inode: usize,
        offset: usize,
        bytes: Arc<[u8]>,
        from: usize,
        to: usize,
    },
    Length {
        inode: usize,
        length: usize,
    },
    Name {
        free: Option<Place>,
        set: Option<(Place, Node)>,
    },
}

impl Step {
    fn apply(&self, disk: &mut Disk) {
        match self {
            Self::Sector {
                inode,
                offset,
                bytes,
                from,
                to,
            } => put(content(disk, *inode), *offset, &bytes[*from..*to]),
            Self::Length { inode, length } => content(disk, *inode).resize(*length, 0),
            Self::Name { free, set } => {
                if let Some(place) = free {
                    disk.names.remove(place);
                }
                disk.names.extend(set.clone());
            }
        }
    }

    /// What is left of a write whose bytes are gone.
    fn apply_length(&self, disk: &mut Disk) {
        if let Self::Sector {
            inode,
            offset,
            from,
            to,
            ..
        } = self
        {
            put(content(disk, *inode), offset + to - from, &[]);
        }
    }
}

/// Numbers what may be missing. `by_sector`: what was written into one sector of this file goes together.
fn numbered(
    steps: Vec<(Step, bool)>,
    by_sector: impl Fn(usize) -> bool,
) -> (Vec<(Step, Option<usize>)>, usize) {
    let mut sectors = HashMap::new();
    let mut count = 0;
    let mut new = || {
        count += 1;
        count - 1
    };
    let number = |(step, uncertain): (Step, bool)| {
        let number = uncertain.then(|| match &step {
            Step::Sector { inode, offset, .. } if by_sector(*inode) => *sectors
                .entry((*inode, offset / SECTOR))
                .or_insert_with(&mut new),
            _ => new(),
        });
        (step, number)
    };
    let steps = steps.into_iter().map(number).collect();
    (steps, count)
}

/// All crashes of one kind after a number of operations.
pub(crate) struct Crashes {
    /// With the steps before the first uncertain one.
    base: Disk,
    /// What may be missing has a number; what goes together has the same.
    steps: Vec<(Step, Option<usize>)>,
    pub(crate) uncertain: usize,
    /// Which of them is that files whose bytes are gone keep their length, while the host goes on.
    length: Option<usize>,
    boot: u8,
}

/// Up to where each file and directory is durable: operations before that position are.
struct Durable {
    files: Vec<usize>,
    root: usize,
    hidden: usize,
}

/// What syncs among the first operations have made durable, by position.
fn durable(log: &[Operation], inodes: usize) -> Durable {
    let mut durable = Durable {
        files: vec![0; inodes],
        root: 0,
        hidden: 0,
    };
    for (at, operation) in log.iter().enumerate() {
        match operation {
            Operation::Sync { inode } => durable.files[*inode] = at + 1,
            Operation::SyncDir(Dir::Root) => durable.root = at + 1,
            Operation::SyncDir(Dir::Hidden) => durable.hidden = at + 1,
            _ => {}
        }
    }
    durable
}

/// Whether a write at a position was given up by a sync that failed: no later one writes it.
fn given_up(log: &[Operation], position: usize, inode: usize) -> bool {
    log[position..]
        .iter()
        .find_map(|operation| match operation {
            Operation::Sync { inode: other } if *other == inode => Some(false),
            Operation::FailedSync { inode: other } if *other == inode => Some(true),
            _ => None,
        })
        .unwrap_or(false)
}

/// The files that ever were the journal's high-water mark.
fn high_water(log: &[Operation], base: &Disk) -> Vec<usize> {
    let named = log.iter().filter_map(|operation| match operation {
        Operation::Name { set, .. } => set.as_ref().map(|(place, node)| (place, node)),
        _ => None,
    });
    base.names
        .iter()
        .chain(named)
        .filter(|(place, _)| **place == Place::hidden(name::HIGH_WATER))
        .filter_map(|(_, node)| match node {
            Node::File(inode) => Some(*inode),
            Node::Link(_) => None,
        })
        .collect()
}

impl Crashes {
    /// Of a recording that began in a durable directory, after its first `count` operations.
    pub(crate) fn new(recording: &RecordedFiles, base: &Disk, count: usize, crash: Crash) -> Self {
        Self::of_log(&recording.log()[..count], recording, base, crash)
    }

    pub(crate) fn of_log(
        log: &[Operation],
        recording: &RecordedFiles,
        base: &Disk,
        crash: Crash,
    ) -> Self {
        let inodes = recording.inodes();
        let durable = durable(log, inodes);
        let failed = log
            .iter()
            .any(|operation| matches!(operation, Operation::FailedSync { .. }));
        let mut steps: Vec<(Step, bool)> = Vec::new();
        let content_is_uncertain = |at: usize, inode: usize| {
            let lost = failed && given_up(log, at, inode);
            match crash {
                Crash::Kill => false,
                Crash::PowerCut => lost || durable.files[inode] <= at,
                Crash::Evicted => lost,
            }
        };
        for (at, operation) in log.iter().enumerate() {
            match operation {
                Operation::Write {
                    inode,
                    offset,
                    bytes,
                } => {
                    let uncertain = content_is_uncertain(at, *inode);
                    let (start, mut from) = (*offset as usize, 0);
                    while from < bytes.len() {
                        let to = if uncertain {
                            let end = ((start + from) / SECTOR + 1) * SECTOR;
                            bytes.len().min(end - start)
                        } else {
                            bytes.len()
                        };
                        let step = Step::Sector {
                            inode: *inode,
                            offset: start + from,
                            bytes: bytes.clone(),
                            from,
                            to,
                        };
                        steps.push((step, uncertain));
                        from = to;
                    }
                }
                Operation::SetLen { inode, length } => {
                    let step = Step::Length {
                        inode: *inode,
                        length: *length as usize,
                    };
                    let uncertain = crash == Crash::PowerCut && content_is_uncertain(at, *inode);
                    steps.push((step, uncertain));
                }
                Operation::Name { free, set } => {
                    let place = set.as_ref().map(|(place, _)| place).or(free.as_ref());
                    let synced = match place.map(|place| place.dir) {
                        Some(Dir::Hidden) => durable.hidden,
                        _ => durable.root,
                    };
                    let uncertain = crash == Crash::PowerCut && synced <= at;
                    let step = |free: &Option<Place>, set: &Option<(Place, Node)>| Step::Name {
                        free: free.clone(),
                        set: set.clone(),
                    };
                    match (free, set) {
                        // Between directories the new name may come without the old one going: an
                        // old name never goes without the new one.
                        (Some(old), Some((new, _))) if uncertain && old.dir != new.dir => {
                            steps.push((step(&None, set), true));
                            steps.push((step(free, set), true));
                        }
                        _ => steps.push((step(free, set), uncertain)),
                    }
                }
                Operation::Sync { .. } | Operation::SyncDir(_) | Operation::FailedSync { .. } => {}
            }
        }
        let certain = steps.iter().position(|(_, uncertain)| *uncertain);
        let certain = certain.unwrap_or(steps.len());
        let mut start = base.clone();
        start.inodes.resize(inodes, Arc::default());
        for (step, _) in steps.drain(..certain) {
            step.apply(&mut start);
        }
        let evicted = crash == Crash::Evicted;
        let high_water = high_water(log, base);
        // So does the host drop it, whose memory has no smaller pieces. The high-water mark is never synced, and never
        // asked after a power cut: as many states as it has would stand in the way of the others.
        let by_sector = |inode: usize| evicted || high_water.contains(&inode);
        let (steps, mut uncertain) = numbered(steps, by_sector);
        let length = (evicted && uncertain > 0).then_some(uncertain);
        uncertain += usize::from(length.is_some());
        Self {
            base: start,
            uncertain,
            steps,
            length,
            boot: recording.boot + u8::from(recording.boot != 0 && crash == Crash::PowerCut),
        }
    }

    /// The directory in which of the uncertain steps those for which `survives` says so are made.
    pub(crate) fn left(&self, mut survives: impl FnMut(usize) -> bool) -> Disk {
        let mut disk = self.base.clone();
        let survives: Vec<bool> = (0..self.uncertain).map(&mut survives).collect();
        for (step, number) in &self.steps {
            if number.is_none_or(|number| survives[number]) {
                step.apply(&mut disk);
            } else if self.length.is_some_and(|number| survives[number]) {
                step.apply_length(&mut disk);
            }
        }
        disk
    }

    /// As `left`, as files that can be opened.
    pub(crate) fn files(&self, survives: impl FnMut(usize) -> bool) -> Arc<RecordedFiles> {
        RecordedFiles::holding(self.left(survives), self.boot)
    }

    /// Of every hundred uncertain steps this many survive, by chance.
    pub(crate) fn by_chance(&self, percent: u64, random: &mut Random) -> Arc<RecordedFiles> {
        self.files(|_| random.below(100) < percent)
    }

    pub(crate) fn boot(&self) -> u8 {
        self.boot
    }

    /// Calls `each` with choices of what survives, at most `most` of them: every subset where there are
    /// no more than that; else nothing, everything, all but one step, one step only, every prefix and
    /// every suffix in turn, and then subsets by chance. Says whether those were all.
    pub(crate) fn choices(
        &self,
        most: u64,
        random: &mut Random,
        mut each: impl FnMut(&dyn Fn(usize) -> bool),
    ) -> bool {
        let count = self.uncertain;
        if count < 63 && 1u64 << count <= most {
            for mask in 0..1u64 << count {
                each(&|at| mask >> at & 1 == 1);
            }
            return true;
        }
        each(&|_| false);
        each(&|_| true);
        let mut left = most.saturating_sub(2);
        // When there is no room for all of a family, it begins anywhere.
        let turn = random.below(count as u64) as usize;
        for number in 0..count * 4 {
            if left <= most / 2 {
                break;
            }
            let (family, pivot) = (number % 4, (number / 4 + turn) % count);
            match family {
                0 => each(&|at| at != pivot),
                1 => each(&|at| at == pivot),
                2 => each(&|at| at < pivot),
                _ => each(&|at| at > pivot),
            }
            left -= 1;
        }
        for _ in 0..left {
            let percent = [3, 10, 25, 50, 75, 90, 97][random.below(7) as usize];
            let words: Vec<bool> = (0..count).map(|_| random.below(100) < percent).collect();
            each(&|at| words[at]);
        }
        false
    }
}
