//! What a crash leaves of a recording: which parts are certain, which parts are uncertain, and the directory that
//! each choice makes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Random;
use super::recorded::{Disk, Node, Operation, RecordedFiles, content, put};
use crate::format::name;
use crate::sys::fs::{Dir, Place};

/// The size of the pieces into which the disk can tear a write.
const SECTOR: usize = 512;

/// How a process and its host end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Only the process died: everything that was written is there.
    Kill,
    /// The host lost everything that no sync had made durable.
    PowerCut,
    /// The process died after a failed sync, and the host dropped what this sync could not write.
    Evicted,
}

/// One change on the way from a durable directory to a crashed one.
enum DiskStep {
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

impl DiskStep {
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

    /// What is left of a write whose bytes are lost.
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

/// Gives each uncertain step a number. `by_sector`: all that was written into the same sector of this file gets the
/// same number.
fn numbered(
    steps: Vec<(DiskStep, bool)>,
    by_sector: impl Fn(usize) -> bool,
) -> (Vec<(DiskStep, Option<usize>)>, usize) {
    let mut sectors = HashMap::new();
    let mut count = 0;
    let mut new = || {
        count += 1;
        count - 1
    };
    let number = |(step, uncertain): (DiskStep, bool)| {
        let number = uncertain.then(|| match &step {
            DiskStep::Sector { inode, offset, .. } if by_sector(*inode) => *sectors
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
    /// The durable directory, with the steps before the first uncertain one.
    base: Disk,
    /// Each uncertain step has a number. Steps that survive or vanish together have the same number.
    steps: Vec<(DiskStep, Option<usize>)>,
    pub(crate) uncertain: usize,
    /// The number of the choice that files keep their length although their bytes are lost, while the host runs on.
    length: Option<usize>,
    boot: u8,
}

/// For each file and directory the position before which all operations are durable.
struct Durable {
    files: Vec<usize>,
    root: usize,
    hidden: usize,
}

/// Finds what the syncs in the log have made durable.
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

/// Whether a failed sync gave up a write: then no later sync writes it.
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

/// The files that were ever the journal's high-water mark.
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

/// Turns the operations of a recording into steps, and says of each whether a crash may lose it.
struct Unfolding<'a> {
    log: &'a [Operation],
    crash: Crash,
    durable: Durable,
    /// A sync in the recording failed.
    failed: bool,
}

impl<'a> Unfolding<'a> {
    fn new(log: &'a [Operation], inodes: usize, crash: Crash) -> Self {
        let is_failed = |operation: &Operation| matches!(operation, Operation::FailedSync { .. });
        Self {
            log,
            crash,
            durable: durable(log, inodes),
            failed: log.iter().any(is_failed),
        }
    }

    /// Whether the crash may lose what this operation wrote into a file.
    fn may_lose_content(&self, at: usize, inode: usize) -> bool {
        let lost = self.failed && given_up(self.log, at, inode);
        match self.crash {
            Crash::Kill => false,
            Crash::PowerCut => lost || self.durable.files[inode] <= at,
            Crash::Evicted => lost,
        }
    }

    fn steps(&self) -> Vec<(DiskStep, bool)> {
        let mut steps = Vec::new();
        for (at, operation) in self.log.iter().enumerate() {
            match operation {
                Operation::Write {
                    inode,
                    offset,
                    bytes,
                } => {
                    let uncertain = self.may_lose_content(at, *inode);
                    write_steps(&mut steps, (*inode, *offset as usize), bytes, uncertain);
                }
                Operation::SetLen { inode, length } => {
                    let step = DiskStep::Length {
                        inode: *inode,
                        length: *length as usize,
                    };
                    let power_cut = self.crash == Crash::PowerCut;
                    steps.push((step, power_cut && self.may_lose_content(at, *inode)));
                }
                Operation::Name { free, set } => {
                    self.name_steps(&mut steps, at, free.as_ref(), set.as_ref());
                }
                Operation::Sync { .. } | Operation::SyncDir(_) | Operation::FailedSync { .. } => {}
            }
        }
        steps
    }

    fn name_steps(
        &self,
        steps: &mut Vec<(DiskStep, bool)>,
        at: usize,
        free: Option<&Place>,
        set: Option<&(Place, Node)>,
    ) {
        let place = set.map(|(place, _)| place).or(free);
        let synced = match place.map(|place| place.dir) {
            Some(Dir::Hidden) => self.durable.hidden,
            _ => self.durable.root,
        };
        let uncertain = self.crash == Crash::PowerCut && synced <= at;
        let step = |free: Option<&Place>| DiskStep::Name {
            free: free.cloned(),
            set: set.cloned(),
        };
        match (free, set) {
            // Between directories the new name may appear before the old one vanishes. An old name never vanishes
            // before the new one appears.
            (Some(old), Some((new, _))) if uncertain && old.dir != new.dir => {
                steps.push((step(None), true));
                steps.push((step(free), true));
            }
            _ => steps.push((step(free), uncertain)),
        }
    }
}

/// One write, by sectors if it may be torn.
fn write_steps(
    steps: &mut Vec<(DiskStep, bool)>,
    (inode, start): (usize, usize),
    bytes: &Arc<[u8]>,
    uncertain: bool,
) {
    let mut from = 0;
    while from < bytes.len() {
        let to = if uncertain {
            let end = ((start + from) / SECTOR + 1) * SECTOR;
            bytes.len().min(end - start)
        } else {
            bytes.len()
        };
        let step = DiskStep::Sector {
            inode,
            offset: start + from,
            bytes: bytes.clone(),
            from,
            to,
        };
        steps.push((step, uncertain));
        from = to;
    }
}

impl Crashes {
    /// The crashes after the first `count` operations of a recording that began in a durable directory.
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
        let mut steps = Unfolding::new(log, inodes, crash).steps();
        let certain = steps.iter().position(|(_, uncertain)| *uncertain);
        let certain = certain.unwrap_or(steps.len());
        let mut start = base.clone();
        start.inodes.resize(inodes, Arc::default());
        for (step, _) in steps.drain(..certain) {
            step.apply(&mut start);
        }
        let evicted = crash == Crash::Evicted;
        let high_water = high_water(log, base);
        // The host's memory has no smaller pieces, so the host drops whole sectors. The high-water mark is never
        // synced, and is ignored after a power cut: its many states would only displace others.
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

    /// The directory after the crash. `survives` decides about each uncertain step.
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

    /// The same as `left`, as files that can be opened.
    pub(crate) fn files(&self, survives: impl FnMut(usize) -> bool) -> Arc<RecordedFiles> {
        RecordedFiles::holding(self.left(survives), self.boot)
    }

    /// A random choice: of every hundred uncertain steps this many survive.
    pub(crate) fn by_chance(&self, percent: u64, random: &mut Random) -> Arc<RecordedFiles> {
        self.files(|_| random.below(100) < percent)
    }

    pub(crate) fn boot(&self) -> u8 {
        self.boot
    }

    /// Calls `each` with choices of what survives, at most `most` of them. If there are no more subsets than that,
    /// every subset. Otherwise nothing, everything, all but one step, only one step, every prefix and every suffix
    /// in turn, and then random subsets. Returns whether these were all subsets.
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
        // If there is no room for the whole family, it starts at a random member.
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
