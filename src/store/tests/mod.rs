//! Tests of the store through its file traits: what reaches the disk, in which order, and what a crash leaves.

#![cfg_attr(
    fuzzing,
    allow(dead_code, unused_imports, reason = "the fuzzers use a part of it")
)]

#[cfg(test)]
mod abandoned;
#[cfg(test)]
pub(crate) mod alone;
mod chance;
#[cfg(test)]
pub(crate) mod counted;
#[cfg(test)]
mod crash;
pub(crate) mod crashed;
#[cfg(test)]
pub(crate) mod damage;
pub(crate) mod evicted;
#[cfg(test)]
mod explorer;
#[cfg(test)]
pub(crate) mod exported;
mod faults;
#[cfg(test)]
mod forged;
pub(crate) mod fuzz;
mod parts;
pub(crate) mod recorded;
pub(crate) mod rig;
pub(crate) mod steps;
pub(crate) mod streams;
#[cfg(test)]
pub(crate) mod written;

use super::{CommitOptions, CompactOptions, MapOptions, Module, OpenOptions, Store};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::dirty::Tracker;
use crashed::{Crash, Crashes};
use recorded::RecordedFiles;
pub(crate) use rig::Rig;

/// A number from the environment, or the default.
pub(crate) fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: a number is needed"))
    })
}

/// How many times as much as usual is to be tried: `VMSTORE_LONG`, or 1 when it is not set.
pub(crate) fn long() -> u64 {
    setting("VMSTORE_LONG", 1)
}

/// The seed of random searches: `VMSTORE_SEED`.
pub(crate) fn seed() -> u64 {
    setting("VMSTORE_SEED", 1)
}

/// A small generator of repeatable random numbers (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The bytes of every module at a commit. A module that is absent is not mapped yet.
pub(crate) type Bytes = BTreeMap<String, Vec<u8>>;

/// What a store holds between two events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) commits: Vec<u64>,
    pub(crate) head: u64,
}

impl Moment {
    pub(crate) fn of(store: &Store) -> Self {
        Self {
            commits: store.commits().unwrap(),
            head: store.head().unwrap(),
        }
    }
}

/// What a commit's info holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) parent: u64,
    pub(crate) time: u64,
    pub(crate) unique_id: [u8; 16],
    pub(crate) label: String,
    pub(crate) user_data: Arc<Vec<u8>>,
    pub(crate) modules: u32,
}

impl About {
    pub(crate) fn of(store: &Store, number: u64) -> Self {
        let info = store.commit_info(number).unwrap();
        Self {
            parent: info.parent,
            time: info.time,
            unique_id: info.unique_id,
            label: info.label,
            user_data: info.user_data,
            modules: info.modules,
        }
    }
}

/// What must hold: the state of the store after each event, and the bytes and the info of every commit.
#[derive(Clone)]
pub(crate) struct Oracle {
    pub(crate) bytes: BTreeMap<u64, Arc<Bytes>>,
    /// The info of each commit, as it was made. After its parent is deleted, the nearest remaining ancestor is the
    /// parent.
    pub(crate) about: BTreeMap<u64, About>,
    /// From the empty store on: one more moment for each event that returned.
    pub(crate) moments: Vec<Moment>,
    /// The last moment that a power cut may not take back.
    pub(crate) persisted: usize,
    /// The moment that a failed deletion or restore would have made from the last one, if a part of its record was
    /// written. If the part could not be removed, or if its removal is lost, a power cut before the next persist
    /// may leave this moment, whole.
    pub(crate) begun: Option<Moment>,
}

impl Oracle {
    fn new() -> Self {
        let nothing = Moment {
            commits: Vec::new(),
            head: 0,
        };
        Self {
            bytes: BTreeMap::new(),
            about: BTreeMap::new(),
            moments: vec![nothing],
            persisted: 0,
            begun: None,
        }
    }

    /// The same oracle after a crash of this kind.
    pub(crate) fn after(&self, crash: Crash) -> Cow<'_, Self> {
        if crash == Crash::Kill && self.begun.is_some() {
            Cow::Owned(Self {
                begun: None,
                ..self.clone()
            })
        } else {
            Cow::Borrowed(self)
        }
    }

    /// The info of a commit when these commits exist.
    fn about_among(&self, number: u64, commits: &[u64]) -> Option<About> {
        let mut about = self.about.get(&number)?.clone();
        while about.parent != 0 && !commits.contains(&about.parent) {
            about.parent = self.about.get(&about.parent)?.parent;
        }
        Some(about)
    }

    pub(crate) fn last(&self) -> usize {
        self.moments.len() - 1
    }

    pub(crate) fn now(&self) -> &Moment {
        &self.moments[self.last()]
    }
}

/// Opens what a crash left, with small limits: room for few captured pages.
pub(crate) fn open(files: &Arc<RecordedFiles>, what: &dyn Fn() -> String) -> Store {
    Store::open_files(files.clone(), "test", rig::open_options())
        .unwrap_or_else(|error| panic!("{}: the store does not open: {error}", what()))
}

/// Checks a reopened store. It must be in one of the `allowed` moments, and each commit must restore to its bytes.
/// Returns the moment.
pub(crate) fn check_reopened(
    store: &Store,
    oracle: &Oracle,
    allowed: RangeInclusive<usize>,
    what: &dyn Fn() -> String,
) -> usize {
    let found = Moment::of(store);
    let moment = allowed
        .clone()
        .rev()
        .find(|at| oracle.moments[*at] == found);
    let begun = oracle.begun.as_ref().filter(|begun| **begun == found);
    let moment = moment.or(begun.map(|_| *allowed.end()));
    let Some(moment) = moment else {
        panic!(
            "{}: a commit is lost, or there is a hole: {found:?} instead of one of {:?}",
            what(),
            &oracle.moments[allowed]
        );
    };
    let compared = check_about(store, oracle, what);
    assert_eq!(compared, found.commits.len(), "{}: not compared", what());
    check_bytes(store, oracle, what);
    moment
}

/// Checks each commit's info. Returns how many were compared.
pub(crate) fn check_about(store: &Store, oracle: &Oracle, what: &dyn Fn() -> String) -> usize {
    let commits = store.commits().unwrap();
    let mut compared = 0;
    for number in &commits {
        if let Some(wanted) = oracle.about_among(*number, &commits) {
            assert_eq!(
                About::of(store, *number),
                wanted,
                "{}: commit {number}",
                what()
            );
            compared += 1;
        }
    }
    compared
}

/// Opens and checks what power cuts after all operations of a rig leave, once for each percentage of uncertain
/// steps that survive. Returns how many were tried.
pub(crate) fn check_power_cuts(
    rig: &Rig,
    base: &recorded::Disk,
    percents: impl IntoIterator<Item = u64>,
    random: &mut Random,
    what: &dyn Fn(u64) -> String,
) -> u64 {
    let count = rig.files.recorded();
    let crashes = Crashes::new(&rig.files, base, count, Crash::PowerCut);
    let mut states = 0;
    for percent in percents {
        let what = || what(percent);
        let store = open(&crashes.by_chance(percent, random), &what);
        let allowed = rig.allowed(count, Crash::PowerCut);
        check_reopened(&store, &rig.oracle, allowed, &what);
        states += 1;
    }
    states
}

/// Checks that each commit of a store restores to its bytes.
pub(crate) fn check_bytes(store: &Store, oracle: &Oracle, what: &dyn Fn() -> String) {
    let found = Moment::of(store);
    let mut modules: Vec<Module> = Vec::new();
    let others = found.commits.iter().filter(|number| **number != found.head);
    for number in std::iter::once(&found.head).chain(others) {
        let Some(bytes) = oracle.bytes.get(number) else {
            continue;
        };
        if *number != found.head {
            store
                .restore(*number, None)
                .unwrap_or_else(|error| panic!("{}: restore {number}: {error}", what()));
        }
        for id in bytes.keys() {
            if modules.iter().all(|module| module.mapped().id != *id) {
                let module = store.map_module(id, 0, &map_options());
                let module = module.unwrap_or_else(|error| panic!("{}: map {id}: {error}", what()));
                modules.push(module);
            }
        }
        for module in &modules {
            let memory = &module.mapped().memory;
            let right = match bytes.get(&module.mapped().id) {
                Some(wanted) => memory.equals(0, wanted),
                None => memory.equals(0, &vec![0; memory.length() as usize]),
            };
            assert!(
                right,
                "{}: wrong bytes in module {} at commit {number}",
                what(),
                module.mapped().id
            );
        }
    }
}

/// Checks that a store still works: makes a new commit durable, and finds it after a power cut.
pub(crate) fn check_goes_on(store: &Store, what: &dyn Fn() -> String) {
    let fail = |call: &str, error: crate::Error| -> ! { panic!("{}: {call}: {error}", what()) };
    let size = 2 * crate::sys::host::page_size();
    let module = store
        .map_module("more", size, &map_options())
        .unwrap_or_else(|error| fail("map", error));
    module.mapped().memory.write(0, &[7; 100]);
    module.mark_dirty(0, 100).unwrap();
    let before = store.commits().unwrap();
    let number = store
        .commit(&CommitOptions::default())
        .unwrap_or_else(|error| fail("commit", error));
    assert!(!before.contains(&number), "{}: a number used twice", what());
    store
        .persist(None)
        .unwrap_or_else(|error| fail("persist", error));
    store
        .verify(&crate::VerifyOptions::default(), None)
        .unwrap_or_else(|error| fail("verify", error));
}

/// Maps without the kernel tracker, which costs more than all other work on a small store.
pub(crate) fn map_options() -> MapOptions {
    MapOptions {
        tracker: Some(Tracker::Caller),
        ..MapOptions::default()
    }
}
