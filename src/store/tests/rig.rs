//! A store under test with its modules, its model, and the moments at which commits became durable.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use super::crashed::Crash;
use super::recorded::RecordedFiles;
use super::steps::Step;
use super::{About, Bytes, Moment, Oracle, Random, map_options};
use super::{CommitOptions, CompactOptions, MapOptions, Module, OpenOptions, Store};
use crate::{Error, PrecopyOptions, Result, VerifyOptions};

/// Less than a commit may need: captures then spill. Nothing is warmed up.
const ARENA: u64 = 20 << 10;

/// Pages of a module of a random history.
pub(crate) const PAGES: u64 = 4;

pub(crate) fn open_options() -> OpenOptions {
    OpenOptions {
        arena_limit: ARENA,
        ..OpenOptions::default()
    }
}

fn page() -> u64 {
    crate::sys::host::page_size()
}

/// What was durable after this many recorded operations.
struct RigMark {
    recorded: usize,
    moment: usize,
    persisted: usize,
}

pub(crate) struct Rig {
    pub(crate) files: Arc<RecordedFiles>,
    pub(crate) store: Store,
    pub(crate) modules: BTreeMap<String, Module>,
    now: Bytes,
    pub(crate) oracle: Oracle,
    /// The number of calls that failed, and the error of the last one.
    pub(crate) failures: u64,
    pub(crate) failure: Option<Error>,
    /// How often a failed call is repeated.
    pub(crate) patience: u64,
    /// What the store holds if a failed call did a part of its work that stays.
    doubtful: Option<Moment>,
    marks: Vec<RigMark>,
    map_options: MapOptions,
    pages: u64,
    /// The number of writes: it makes each commit different.
    version: u64,
}

impl Rig {
    /// A store whose modules are tracked as a VMM's modules are.
    pub(crate) fn new(files: Arc<RecordedFiles>) -> Self {
        Self::with(files, PAGES, MapOptions::default())
    }

    /// A store of small modules, whose writes are marked.
    pub(crate) fn small(files: Arc<RecordedFiles>) -> Self {
        Self::with(files, 2, map_options())
    }

    fn with(files: Arc<RecordedFiles>, pages: u64, map_options: MapOptions) -> Self {
        let store = Store::open_files(files.clone(), "test", open_options()).unwrap();
        let mut rig = Self {
            files,
            store,
            modules: BTreeMap::new(),
            now: Bytes::new(),
            oracle: Oracle::new(),
            failures: 0,
            failure: None,
            patience: 20,
            doubtful: None,
            marks: Vec::new(),
            map_options,
            pages,
            version: 0,
        };
        rig.mark();
        rig
    }

    /// Records what holds from here on.
    pub(crate) fn mark(&mut self) {
        self.marks.push(RigMark {
            recorded: self.files.recorded(),
            moment: self.oracle.last(),
            persisted: self.oracle.persisted,
        });
    }

    /// The number of operations that making the store took. The test's calls come after them.
    pub(crate) fn made(&self) -> usize {
        self.marks[0].recorded
    }

    /// The moments that a crash after `count` operations may leave: no durable moment is lost, and the operation
    /// that was under way may be there.
    pub(crate) fn allowed(&self, count: usize, crash: Crash) -> RangeInclusive<usize> {
        let done = self.marks.iter().rev().find(|mark| mark.recorded <= count);
        let begun = self.marks.iter().find(|mark| mark.recorded > count);
        let begun = begun.or(self.marks.last()).map_or(0, |mark| mark.moment);
        let least = done.map_or(0, |mark| match crash {
            Crash::Kill => mark.moment,
            Crash::PowerCut | Crash::Evicted => mark.persisted,
        });
        least..=begun
    }

    /// Makes a call until it succeeds. A failed call must change nothing. A poisoned store is opened again, and the
    /// call is not repeated. Without patience the call is made once.
    pub(crate) fn again<T>(&mut self, what: &str, call: impl Fn(&Self) -> Result<T>) -> Option<T> {
        for _ in 0..=self.patience {
            match call(self) {
                Ok(value) => return Some(value),
                Err(error) => {
                    self.failed(what, &error);
                    self.failure = Some(error);
                    if self.patience > 0 && self.store.stats().unwrap().poisoned {
                        self.reopen();
                        return None;
                    }
                }
            }
        }
        assert_eq!(
            self.patience, 0,
            "{what} never succeeds: {:?}",
            self.failure
        );
        None
    }

    /// After a failed call: memory and history must be unchanged, and the error must not be damage.
    fn failed(&mut self, what: &str, error: &Error) {
        self.failures += 1;
        self.check_memory(&self.now);
        assert!(!matches!(error, Error::Corrupt { .. }), "{what}: {error}");
        self.settle(what);
    }

    /// The store must hold what it held before, or the result of a call that is allowed to stop half-way.
    fn settle(&mut self, what: &str) {
        let found = Moment::of(&self.store);
        if let Some(then) = self.doubtful.take_if(|then| *then == found) {
            self.oracle.moments.push(then);
            self.mark();
        }
        assert_eq!(
            found,
            *self.oracle.now(),
            "{what} failed, but a part of it is visible"
        );
    }

    /// Closes the store and opens it again, with as many tries as needed: everything committed must be there.
    pub(crate) fn reopen(&mut self) {
        self.close();
        assert!(self.open(), "the store opens in the end");
    }

    /// Closes the store.
    pub(crate) fn close(&mut self) {
        self.store.close().unwrap();
        self.mark();
    }

    /// Opens the store, whether it was closed or its owner died, and maps the modules that were mapped. Returns
    /// whether the store could be opened.
    pub(crate) fn open(&mut self) -> bool {
        let mut opened = Err(Error::Cancelled);
        for _ in 0..=self.patience {
            opened = Store::open_files(self.files.clone(), "test", open_options());
            if opened.is_ok() {
                break;
            }
            self.failures += 1;
        }
        self.store = match opened {
            Ok(store) => store,
            Err(error) => {
                assert!(!matches!(error, Error::Corrupt { .. }), "open: {error}");
                self.failure = Some(error);
                return false;
            }
        };
        self.settle("reopening");
        let ids: Vec<String> = self.modules.keys().cloned().collect();
        self.modules.clear();
        self.now.clear();
        self.mark();
        for id in ids {
            self.map(&id);
        }
        true
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.modules.contains_key(id)
    }

    pub(crate) fn map(&mut self, id: &str) {
        let size = self.pages * page();
        let map = |rig: &Self| rig.store.map_module(id, size, &rig.map_options);
        let Some(module) = self.again("map", map) else {
            return;
        };
        let known = self.oracle.bytes.get(&self.oracle.now().head);
        let known = known.and_then(|commit| commit.get(id));
        let bytes = known.cloned().unwrap_or(vec![0; size as usize]);
        assert!(
            module.mapped().memory.equals(0, &bytes),
            "{id} is mapped with wrong bytes"
        );
        self.modules.insert(id.to_owned(), module);
        self.now.insert(id.to_owned(), bytes);
        self.mark();
    }

    /// Writes a page of every module, a different page each time, in which every sector has different bytes. Every
    /// third time writes zeros.
    pub(crate) fn write(&mut self) {
        self.version += 1;
        let version = self.version;
        let ids: Vec<String> = self.modules.keys().cloned().collect();
        for (number, id) in ids.iter().enumerate() {
            let at = (version + number as u64) % self.pages * page();
            let mut bytes = vec![0; page() as usize];
            if (version + number as u64) % 3 != 0 {
                for (sector, bytes) in bytes.chunks_mut(512).enumerate() {
                    bytes.fill(1 + (version as usize * 31 + number * 8 + sector) as u8 % 251);
                    bytes[..8].copy_from_slice(&version.to_le_bytes());
                }
            }
            self.put(id, at, &bytes);
        }
    }

    pub(crate) fn put(&mut self, id: &str, at: u64, bytes: &[u8]) {
        let module = &self.modules[id];
        module.mapped().memory.write(at, bytes);
        if self.map_options.tracker.is_some() {
            module.mark_dirty(at, bytes.len() as u64).unwrap();
        }
        let model = self.now.get_mut(id).unwrap();
        model[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes a few random pages, zeros among them.
    pub(crate) fn scribble(&mut self, random: &mut Random) {
        let ids: Vec<String> = self.modules.keys().cloned().collect();
        for id in ids {
            for _ in 0..random.below(3) {
                let at = random.below(self.pages) * page();
                let byte = if random.below(4) == 0 {
                    0
                } else {
                    random.next() as u8
                };
                self.put(&id, at, &vec![byte; page() as usize]);
            }
        }
    }

    /// Records what the store holds from now on.
    fn moment(&mut self, change: impl FnOnce(&mut Moment)) {
        let mut moment = self.oracle.now().clone();
        change(&mut moment);
        self.oracle.moments.push(moment);
    }

    /// Records what a failed call would have made of the last moment, if a part of a write was done.
    fn begun(&mut self, change: impl FnOnce(&mut Moment)) {
        if !self.files.fuse().wrote_part {
            return;
        }
        let mut moment = self.oracle.now().clone();
        change(&mut moment);
        self.oracle.begun = Some(moment);
    }

    pub(crate) fn commit(&mut self) {
        let commit = |rig: &Self| rig.store.commit(&rig.about_next());
        if let Some(number) = self.again("commit", commit) {
            self.committed(number);
        }
        self.mark();
    }

    /// The options of the next commit: nothing, a label, user data, or both, with various lengths.
    pub(crate) fn about_next(&self) -> CommitOptions {
        let next = self.oracle.bytes.len();
        CommitOptions {
            label: if next % 3 == 0 {
                String::new()
            } else {
                format!("after {next}")
            },
            user_data: (next % 4 != 1).then(|| Arc::new(vec![next as u8; 13 * next % 70])),
            ..CommitOptions::default()
        }
    }

    /// Records that a commit returned this number.
    pub(crate) fn committed(&mut self, number: u64) {
        if !self.oracle.bytes.contains_key(&number) {
            // Modules that are not mapped keep the head's bytes.
            let head = self.oracle.now().head;
            let mut bytes = self
                .oracle
                .bytes
                .get(&head)
                .map_or_else(Bytes::new, |bytes| (**bytes).clone());
            bytes.extend(self.now.clone());
            let said = self.about_next();
            let about = About::of(&self.store, number);
            assert_eq!(
                (about.parent, &about.label, &about.user_data, about.modules),
                (
                    head,
                    &said.label,
                    &said.user_data.unwrap_or_default(),
                    bytes.len() as u32
                )
            );
            self.oracle.about.insert(number, about);
            self.oracle.bytes.insert(number, Arc::new(bytes));
            self.moment(|moment| {
                moment.commits.push(number);
                moment.head = number;
            });
        }
    }

    /// Makes a capture, and then commits or cancels it.
    pub(crate) fn capture(&mut self, commits: bool) {
        let capture = |rig: &Self| rig.store.capture(&rig.about_next());
        if let Some(capture) = self.again("capture", capture) {
            if !commits {
                capture.cancel().unwrap();
            } else if let Some(number) = self.again("its commit", |_| capture.commit()) {
                self.committed(number);
            }
        }
        self.mark();
    }

    pub(crate) fn precopy(&mut self) {
        let options = PrecopyOptions::default();
        self.again("precopy", |rig| rig.store.precopy(&options, None));
        self.mark();
    }

    /// Discards the first page of a module.
    pub(crate) fn discard(&mut self, id: &str) {
        let discard = |rig: &Self| rig.modules[id].discard(0, page());
        if self.again("discard", discard).is_some() {
            self.now.get_mut(id).unwrap()[..page() as usize].fill(0);
        }
        self.mark();
    }

    pub(crate) fn unmap(&mut self, id: &str) {
        if self.again("unmap", |rig| rig.modules[id].unmap()).is_some() {
            self.modules.remove(id);
            self.now.remove(id);
        }
        self.mark();
    }

    /// Exports, verifies or audits.
    pub(crate) fn look(&mut self, step: Step) {
        let nowhere = std::fs::File::options().write(true).open("/dev/null");
        let nowhere = nowhere.unwrap();
        let head = self.oracle.now().head;
        self.again("looking", |rig| match step {
            Step::Export => rig.store.export(0, head, nowhere.as_raw_fd()),
            Step::Verify => rig.store.verify(&VerifyOptions::default(), None),
            _ => rig.store.audit().map(drop),
        });
        self.mark();
    }

    /// Imports a stream of all commits of another rig's store. None of them is in this store.
    pub(crate) fn import(&mut self, stream: std::os::fd::RawFd, from: &Oracle) {
        let before = self.store.commits().unwrap();
        let imported = self.again("import", |rig| rig.store.import(stream));
        if imported.is_some() {
            let new = self.store.commits().unwrap();
            let new: Vec<u64> = new.into_iter().filter(|n| !before.contains(n)).collect();
            assert_eq!(new.len(), from.bytes.len());
            for (number, (other, bytes)) in new.iter().zip(&from.bytes) {
                self.learn(*number, &from.about[other], bytes.clone());
            }
            self.moment(|moment| moment.commits.extend(&new));
        }
        self.mark();
    }

    /// Records a commit that came with an import: its info is as in the other store, except the parent's number.
    pub(crate) fn learn(&mut self, number: u64, was: &About, bytes: Arc<Bytes>) {
        let about = About::of(&self.store, number);
        let parent = about.parent;
        assert_eq!(
            about,
            About {
                parent,
                ..was.clone()
            }
        );
        self.oracle.about.insert(number, about);
        self.oracle.bytes.insert(number, bytes);
    }

    /// Deletes a commit that is not the head.
    pub(crate) fn delete(&mut self, number: u64) {
        let delete = |rig: &Self| rig.store.delete_commit(number);
        let done = self.again("delete", delete).is_some();
        let change = |moment: &mut Moment| moment.commits.retain(|commit| *commit != number);
        if done {
            self.moment(change);
        } else {
            self.begun(change);
        }
        self.mark();
    }

    /// Compacts, and keeps this many of the newest commits (0: all) and the head.
    pub(crate) fn compact(&mut self, keep_last: usize, image_percent: u32) {
        let options = CompactOptions {
            keep_last: keep_last as u64,
            image_percent,
            ..CompactOptions::default()
        };
        let mut then = self.oracle.now().clone();
        if keep_last > 0 {
            let newest = then.commits.len().saturating_sub(keep_last);
            let mut at = 0..;
            let head = then.head;
            then.commits
                .retain(|commit| at.next() >= Some(newest) || *commit == head);
        }
        // A compaction is a deletion, and then a persist, which is durable when the call returns.
        self.doubtful = Some(then).filter(|then| then != self.oracle.now());
        if self
            .again("compact", |rig| rig.store.compact(&options, None))
            .is_some()
        {
            if let Some(then) = self.doubtful.take() {
                self.oracle.moments.push(then);
            }
            self.oracle.persisted = self.oracle.last();
            self.oracle.begun = None;
        }
        self.doubtful = None;
        self.mark();
    }

    /// The commits that may be deleted.
    pub(crate) fn deletable(&self) -> Vec<u64> {
        let Moment { commits, head } = self.oracle.now();
        let others = commits.iter().filter(|commit| *commit != head);
        others.copied().collect()
    }

    pub(crate) fn persist(&mut self) {
        self.made_durable("persist", |store| store.persist(None));
    }

    /// Persists into files, as a large persist does.
    pub(crate) fn persist_in_files(&mut self) {
        self.made_durable("persist in files", |store| store.checkpoint(None));
    }

    fn made_durable(&mut self, name: &str, call: impl Fn(&Store) -> Result<()>) {
        if self.again(name, |rig| call(&rig.store)).is_some() {
            self.oracle.persisted = self.oracle.last();
            self.oracle.begun = None;
        }
        self.mark();
    }

    pub(crate) fn restore(&mut self, commit: u64) {
        if self
            .again("restore", |rig| rig.store.restore(commit, None))
            .is_some()
        {
            let known = self.oracle.bytes[&commit].clone();
            for (id, bytes) in &mut self.now {
                match known.get(id) {
                    Some(then) => bytes.clone_from(then),
                    None => bytes.fill(0),
                }
            }
            self.check_memory(&self.now);
            self.moment(|moment| moment.head = commit);
        } else {
            self.begun(|moment| moment.head = commit);
        }
        self.mark();
    }

    pub(crate) fn check_memory(&self, wanted: &Bytes) {
        for (id, module) in &self.modules {
            assert!(
                module.mapped().memory.equals(0, &wanted[id]),
                "module {id} has other bytes"
            );
        }
    }
}
