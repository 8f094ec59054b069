//! Tests of the store through its file traits: what reaches the disk, in which order, and what a
//! crash leaves of it.

mod crash;
mod faults;
mod ordering;
mod recorded;

use super::{CommitOptions, CompactOptions, MapOptions, Module, OpenOptions, Store};
use crate::{Error, Result};
use recorded::RecordedFiles;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many times as much as usual is to be tried: `VMSTORE_LONG`, 1 when it is not set.
pub(super) fn long() -> u64 {
    std::env::var("VMSTORE_LONG").map_or(1, |times| times.parse().expect("a number"))
}

/// A small generator of repeatable random numbers (xorshift64*).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The bytes of every module at a commit; absent modules are not mapped yet.
pub(super) type Bytes = BTreeMap<String, Vec<u8>>;

/// What must hold: which commits were made, with what bytes, and which are promised against what.
#[derive(Clone, Default)]
pub(super) struct Oracle {
    pub(super) commits: BTreeMap<u64, Bytes>,
    /// The commits that are there, in order.
    pub(super) committed: Vec<u64>,
    /// Which commits were there after each commit and deletion that returned, from none at all.
    pub(super) past: Vec<Vec<u64>>,
    /// How many of those steps had been persisted.
    pub(super) persisted: usize,
}

impl Oracle {
    /// Notes a commit or a deletion.
    fn step(&mut self) {
        self.past.push(self.committed.clone());
    }

    /// How many steps a killed process must have kept.
    pub(super) fn steps(&self) -> usize {
        self.past.len()
    }
}

/// A store under test with its modules and its model.
pub(super) struct Rig {
    pub(super) files: Arc<RecordedFiles>,
    pub(super) store: Store,
    modules: BTreeMap<String, Module>,
    now: Bytes,
    pub(super) oracle: Oracle,
    /// Calls that failed.
    pub(super) failures: u64,
    /// The commits that are there if a call that was given up did its work.
    doubtful: Option<Vec<u64>>,
    /// Crashes are of interest from this operation on.
    pub(super) from: usize,
    /// The oracle after each number of recorded operations.
    pub(super) marks: Vec<(usize, Oracle)>,
}

pub(super) const MODULE: u64 = 4;
/// Less than a commit may have, so that captures spill.
const ARENA: u64 = 20 << 10;

fn page() -> u64 {
    crate::sys::host::page_size()
}

impl Rig {
    pub(super) fn new(files: Arc<RecordedFiles>) -> Self {
        let options = OpenOptions {
            arena_limit: ARENA,
            ..OpenOptions::default()
        };
        let store = Store::open_files(files.clone(), "test", options).unwrap();
        let mut rig = Self {
            files,
            store,
            modules: BTreeMap::new(),
            now: Bytes::new(),
            oracle: Oracle::default(),
            failures: 0,
            doubtful: None,
            from: 0,
            marks: Vec::new(),
        };
        rig.mark();
        rig.from = rig.files.recorded();
        rig
    }

    /// Notes what holds from here on.
    fn mark(&mut self) {
        self.marks
            .push((self.files.recorded(), self.oracle.clone()));
    }

    /// Makes a call until it succeeds. A failed one has changed no memory. A poisoned store is opened
    /// anew, and the call is given up.
    fn again<T>(&mut self, what: &str, call: impl Fn(&Self) -> Result<T>) -> Option<T> {
        for _ in 0..20 {
            match call(self) {
                Ok(value) => return Some(value),
                Err(error) => {
                    self.failures += 1;
                    self.check_memory(&self.now);
                    if self.store.stats().unwrap().poisoned {
                        self.reopen();
                        return None;
                    }
                    assert!(!matches!(error, Error::Corrupt { .. }), "{what}: {error}");
                }
            }
        }
        panic!("{what} never succeeds");
    }

    /// Closes the store and opens it again, as often as it takes: everything committed is there.
    pub(super) fn reopen(&mut self) {
        let ids: Vec<String> = self.modules.keys().cloned().collect();
        self.modules.clear();
        self.store.close().unwrap();
        let mut opened = None;
        for _ in 0..20 {
            let options = OpenOptions {
                arena_limit: ARENA,
                ..OpenOptions::default()
            };
            opened = Store::open_files(self.files.clone(), "test", options).ok();
            if opened.is_some() {
                break;
            }
            self.failures += 1;
        }
        self.store = opened.expect("it can be opened at last");
        let found = self.store.commits().unwrap();
        if let Some(then) = self.doubtful.take().filter(|then| *then == found) {
            self.oracle.committed = then;
            self.oracle.step();
        }
        assert_eq!(found, self.oracle.committed);
        self.now.clear();
        for id in ids {
            self.map(&id);
        }
    }

    pub(super) fn map(&mut self, id: &str) {
        let size = MODULE * page();
        let map = |rig: &Self| rig.store.map_module(id, size, &MapOptions::default());
        let Some(module) = self.again("map", map) else {
            return;
        };
        let head = self.store.head().unwrap();
        let known = self
            .oracle
            .commits
            .get(&head)
            .and_then(|commit| commit.get(id));
        let bytes = known.cloned().unwrap_or(vec![0; size as usize]);
        assert!(
            module.mapped.memory.equals(0, &bytes),
            "{id} comes up with other bytes"
        );
        self.modules.insert(id.to_owned(), module);
        self.now.insert(id.to_owned(), bytes);
    }

    /// Writes a few random pages, zeros among them.
    pub(super) fn scribble(&mut self, random: &mut Random) {
        for (id, module) in &self.modules {
            for _ in 0..random.below(3) {
                let at = random.below(MODULE) * page();
                let byte = if random.below(4) == 0 {
                    0
                } else {
                    random.next() as u8
                };
                let bytes = vec![byte; page() as usize];
                module.mapped.memory.write(at, &bytes);
                let model = self.now.get_mut(id).unwrap();
                model[at as usize..(at + page()) as usize].copy_from_slice(&bytes);
            }
        }
    }

    pub(super) fn commit(&mut self) {
        let commit = |rig: &Self| rig.store.commit(&CommitOptions::default());
        if let Some(number) = self.again("commit", commit)
            && !self.oracle.committed.contains(&number)
        {
            self.oracle.committed.push(number);
            self.oracle.commits.insert(number, self.now.clone());
            self.oracle.step();
        }
        self.mark();
    }

    /// Deletes a commit that is not the head. A call that fails may be one that had its effect: it says so.
    pub(super) fn delete(&mut self, number: u64) {
        let delete = |rig: &Self| match rig.store.delete_commit(number) {
            Err(Error::NotFound { .. }) => panic!("commit {number} was there"),
            other => other,
        };
        if self.again("delete", delete).is_some() {
            self.oracle.committed.retain(|commit| *commit != number);
            self.oracle.step();
        }
        self.mark();
    }

    /// Compacts, keeping so many of the newest commits (0: all) and the head.
    pub(super) fn compact(&mut self, keep_last: u64, image_percent: u32) {
        let options = CompactOptions {
            keep_last,
            image_percent,
            ..CompactOptions::default()
        };
        let head = self.store.head().unwrap();
        let mut then = self.oracle.committed.clone();
        if keep_last > 0 {
            let from = then.len().saturating_sub(keep_last as usize);
            let newest = then.split_off(from);
            then.retain(|commit| *commit == head);
            then.extend(newest);
        }
        self.doubtful = Some(then.clone());
        let before = self.oracle.clone();
        // A deletion, and then a persist, which is promised when the call returns.
        if then != self.oracle.committed {
            self.oracle.committed.clone_from(&then);
            self.oracle.step();
        }
        let after = std::mem::replace(&mut self.oracle, before);
        self.marks
            .push((self.files.recorded(), self.oracle.clone()));
        if self
            .again("compact", |rig| rig.store.compact(&options, None))
            .is_some()
        {
            self.oracle = after;
            self.oracle.persisted = self.oracle.steps();
        }
        self.doubtful = None;
        self.mark();
    }

    /// Some commit that may be deleted.
    pub(super) fn deletable(&self, random: &mut Random) -> Option<u64> {
        let head = self.store.head().unwrap();
        let others = self.oracle.committed.iter().filter(|c| **c != head);
        let others: Vec<u64> = others.copied().collect();
        let at = random.below(others.len().max(1) as u64) as usize;
        others.get(at).copied()
    }

    pub(super) fn persist(&mut self) {
        if self
            .again("persist", |rig| rig.store.persist(None))
            .is_some()
        {
            self.oracle.persisted = self.oracle.steps();
        }
        self.mark();
    }

    pub(super) fn restore(&mut self, commit: u64) {
        if self
            .again("restore", |rig| rig.store.restore(commit, None))
            .is_some()
        {
            let known = &self.oracle.commits[&commit];
            for (id, bytes) in &mut self.now {
                match known.get(id) {
                    Some(then) => bytes.clone_from(then),
                    None => bytes.fill(0),
                }
            }
            self.check_memory(&self.now);
        }
        self.mark();
    }

    pub(super) fn check_memory(&self, wanted: &Bytes) {
        for (id, module) in &self.modules {
            assert!(
                module.mapped.memory.equals(0, &wanted[id]),
                "module {id} has other bytes"
            );
        }
    }

    /// A history that grows, persisted here and there, and is then cut down to its head in some order, with
    /// a commit or a persist between.
    pub(super) fn grow_and_prune(&mut self, random: &mut Random, commits: u64, compacts: bool) {
        self.map("a");
        self.map("b");
        for _ in 0..commits {
            self.scribble(random);
            self.commit();
            if random.below(3) == 0 {
                self.persist();
            }
            if random.below(4) == 0 {
                let at = random.below(self.oracle.committed.len() as u64) as usize;
                self.restore(self.oracle.committed[at]);
            }
        }
        if random.below(4) != 0 {
            self.persist();
        }
        self.from = self.files.recorded();
        while let Some(number) = self.deletable(random) {
            self.delete(number);
            match random.below(if compacts { 9 } else { 6 }) {
                6..=8 => {
                    let percent = [0, 1, 100][random.below(3) as usize];
                    self.compact(random.below(4), percent);
                }
                0 => self.persist(),
                1 if self.oracle.past.len() < 12 => {
                    self.scribble(random);
                    self.commit();
                }
                _ => {}
            }
            // What memory is compared with, and taken from, is still known.
            self.scribble(random);
            self.restore(self.store.head().unwrap());
        }
        if compacts {
            self.compact(0, 0);
        }
        self.persist();
    }

    /// A random history of a few operations.
    pub(super) fn live(&mut self, random: &mut Random, steps: u64) {
        self.map("a");
        for step in 0..steps {
            match random.below(11) {
                8..=10 => {
                    if let Some(number) = self.deletable(random) {
                        self.delete(number);
                    }
                }
                0 if !self.modules.contains_key("b") => self.map("b"),
                1 | 2 => self.persist(),
                3 if !self.oracle.committed.is_empty() => {
                    let at = random.below(self.oracle.committed.len() as u64) as usize;
                    self.restore(self.oracle.committed[at]);
                }
                _ => {
                    self.scribble(random);
                    self.commit();
                }
            }
            if step + 1 == steps {
                self.scribble(random);
                self.commit();
            }
        }
    }
}

/// Checks a reopened store: which commits it has is what was there after some step, the one of number
/// `least` or a later one, and each restores to its bytes.
pub(super) fn check_reopened(store: &Store, oracle: &Oracle, least: usize, what: &str) -> usize {
    let found = store.commits().unwrap();
    // Two steps may have left the same commits; which of them it was cannot be told.
    let steps = oracle.past.iter().rposition(|past| *past == found);
    let steps = match steps {
        Some(at) => at + 1,
        None if found.is_empty() => 0,
        None => panic!("{what}: {found:?} is none of {:?}", oracle.past),
    };
    assert!(
        steps >= least,
        "{what}: {found:?}, which is {steps} steps of {least} promised, {:?}",
        oracle.past
    );
    if found.is_empty() {
        return 0;
    }
    let mut ids: Vec<String> = Vec::new();
    let mut modules = Vec::new();
    for number in &found {
        store
            .restore(*number, None)
            .unwrap_or_else(|error| panic!("{what}: restore {number}: {error}"));
        let bytes = &oracle.commits[number];
        for id in bytes
            .keys()
            .filter(|id| !ids.contains(*id))
            .cloned()
            .collect::<Vec<_>>()
        {
            let module = store.map_module(&id, 0, &MapOptions::default()).unwrap();
            ids.push(id);
            modules.push(module);
        }
        for (id, module) in ids.iter().zip(&modules) {
            let zeros = vec![0; (MODULE * page()) as usize];
            let wanted = bytes.get(id).unwrap_or(&zeros);
            assert!(
                module.mapped.memory.equals(0, wanted),
                "{what}: module {id} at commit {number}"
            );
        }
    }
    found.len()
}
