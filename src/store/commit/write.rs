//! The second half of a commit: the captured pages are written, the files get their names, and a record makes
//! the commit.

use std::sync::Arc;
use std::time::Instant;

use crate::Result;
use crate::format::commit::{Commit, Event, ModuleEntry};
use crate::format::name;
use crate::layer::{Draft, Finished, Reading, place};
use crate::store::options::CommitOptions;
use crate::store::state::{Captured, Locked, ModuleState, State, Store, SyncState, UnsyncedFile};
use crate::sys::arena::Arena;
use crate::sys::fs::Place;
use crate::sys::host;

/// The files of a commit that has no record yet. If the commit is not made, dropping this value
/// removes the files and makes the pages dirty again.
struct UnmadeCommit<'a> {
    store: &'a Store,
    /// `None` once the commit is made.
    captured: Option<Captured>,
    drafts: Vec<Draft>,
    finished: Vec<Finished>,
    /// How many files of `finished` have their final names.
    named: usize,
}

impl<'a> UnmadeCommit<'a> {
    fn new(store: &'a Store, mut captured: Captured) -> Self {
        let drafts = captured.modules.iter_mut();
        let mut drafts: Vec<Draft> = drafts.filter_map(|module| module.draft.take()).collect();
        // `name_files` takes drafts from the end of the list, therefore the first module is last.
        drafts.reverse();
        Self {
            store,
            captured: Some(captured),
            drafts,
            finished: Vec::new(),
            named: 0,
        }
    }

    /// Gives every draft its index, its footer and its name. Drafts without changes are removed.
    fn name_files(&mut self) -> Result<()> {
        let layers = &self.store.0.layers;
        while let Some(draft) = self.drafts.pop() {
            if draft.is_empty() {
                draft.discard(layers);
            } else {
                self.finished.push(draft.finish(layers)?);
            }
        }
        for file in &self.finished {
            let place = place(&file.index.module, file.index.commit);
            self.store.0.files.rename(&file.temporary, &place)?;
            self.named += 1;
        }
        Ok(())
    }

    /// The commit is made: dropping this value undoes nothing any more.
    fn commit(mut self) -> (Option<Captured>, Vec<Finished>) {
        (self.captured.take(), std::mem::take(&mut self.finished))
    }
}

impl Drop for UnmadeCommit<'_> {
    fn drop(&mut self) {
        let Some(captured) = self.captured.take() else {
            return;
        };
        for captured in &captured.modules {
            captured.module.dirty.add_all(&captured.runs);
        }
        for (at, file) in self.finished.iter().enumerate() {
            let name = place(&file.index.module, file.index.commit);
            let name = if at < self.named {
                &name
            } else {
                &file.temporary
            };
            // The next open removes a file that cannot be removed here.
            let _ = self.store.0.files.unlink(name);
        }
        while let Some(draft) = self.drafts.pop() {
            draft.discard(&self.store.0.layers);
        }
    }
}

impl Locked<'_> {
    /// Makes the commit of a capture. After a failure the capture's pages are dirty again, and its
    /// files are removed.
    pub(super) fn write_commit(&mut self, mut captured: Captured) -> Result<u64> {
        let begun = Instant::now();
        let arena = self.captures.arena.take();
        let drained = match &arena {
            Some(arena) => self.drain(&mut captured, arena),
            None => Ok(()),
        };
        self.captures.arena = arena;
        if let Err(error) = drained {
            self.discard_capture(captured);
            return Err(error);
        }
        let changed = self.count_pages(&captured);
        let options = std::mem::take(&mut captured.options);
        if !changed && !has_label_or_data(&options) && self.history.head() != 0 {
            self.captures.lists.keep(captured.modules);
            self.stats.last_write_ns = host::nanoseconds_since(begun);
            return Ok(self.history.head());
        }
        let old = self.history.head_commit().cloned();
        let mut unmade = UnmadeCommit::new(self.store, captured);
        unmade.name_files()?;
        let commit = Commit {
            number: self.history.next_number(),
            unique_id: host::random_id()?,
            parent: self.history.head(),
            time: host::wall_clock(),
            label: options.label,
            user_data: options.user_data.unwrap_or_default(),
            modules: map_of(self, &unmade.finished),
        };
        let number = commit.number;
        // The commit point.
        let sequence = self.record(vec![Event::Committed(Arc::new(commit))])?;
        let (captured, finished) = unmade.commit();
        if let Some(captured) = captured {
            self.captures.lists.keep(captured.modules);
        }
        self.follow_commit(finished, number, sequence)?;
        self.move_links(old.as_deref());
        self.sync_oldest_files();
        self.stats.last_write_ns = host::nanoseconds_since(begun);
        Ok(number)
    }

    /// Begins the file of a captured module. Its parent and the number of the commit are those of
    /// the moment of the capture, because nothing changes them while a capture is outstanding.
    fn begin_draft(&self, state: &ModuleState, number: usize) -> Result<Draft> {
        let (layers, module) = (&self.store.0.layers, &state.module);
        let parent = match state.module_commit {
            None => None,
            Some(commit) => Some(layers.index(&module.id, commit)?),
        };
        let temporary = Place::hidden(format!("{}{number}", name::TEMPORARY));
        let commit = self.history.next_number();
        let (id, size) = (&module.id, module.size());
        Ok(match parent {
            None => Draft::image(layers, temporary, id, size, commit),
            Some(parent) => Draft::delta(layers, temporary, size, commit, &parent),
        })
    }

    /// Writes the pages that wait in the arena to the drafts.
    pub(super) fn drain(&self, captured: &mut Captured, arena: &Arena) -> Result<()> {
        let layers = &self.store.0.layers;
        for (number, module) in captured.modules.iter_mut().enumerate() {
            let Some(state) = self.modules.get(&module.module.id) else {
                continue;
            };
            let draft = match &mut module.draft {
                Some(draft) => draft,
                none => none.insert(self.begin_draft(state, number)?),
            };
            let mut reading = Reading::new(layers);
            let waiting = module.waiting.drain(..).map(|(run, start)| {
                let length = (run.count * layers.page_size) as usize;
                (run, arena.bytes(start, length))
            });
            draft.feed(&mut reading, layers, &state.table, waiting)?;
        }
        Ok(())
    }

    /// Counts the captured pages for the statistics: written, zero and unchanged ones. Returns
    /// whether a draft has anything to write.
    fn count_pages(&mut self, captured: &Captured) -> bool {
        let mut changed = false;
        let (mut data, mut zero, mut unchanged) = (0, 0, 0);
        for draft in captured.modules.iter().filter_map(|m| m.draft.as_ref()) {
            data += draft.counts.data;
            zero += draft.counts.zero;
            unchanged += draft.counts.unchanged;
            changed |= !draft.is_empty();
        }
        self.stats.last_written_pages = data;
        self.stats.last_zero_pages = zero;
        self.stats.last_unchanged_pages = unchanged;
        changed
    }

    /// After the commit point: brings the tables, the caches and the list of unsynced files up to
    /// date.
    fn follow_commit(&mut self, finished: Vec<Finished>, number: u64, sequence: u64) -> Result<()> {
        let layers = &self.store.0.layers;
        for file in finished {
            let id = file.index.module.clone();
            self.stats.bytes_written += file.bytes;
            self.unpersisted.files.push(UnsyncedFile {
                module: id.clone(),
                commit: number,
                sequence,
                bytes: file.bytes,
                state: SyncState::Open(file.file),
            });
            if let Some(state) = self.modules.get_mut(&id) {
                state.module_commit = Some(number);
                if let Err(error) = state.table.apply(&file.index) {
                    // The commit is made, but the page table of the module is wrong.
                    self.store.poison(&error);
                    return Err(error);
                }
            }
            layers.remember(file.index);
        }
        let commit = self.history.get(number)?.commit.clone();
        self.count_in(layers, &[commit]);
        Ok(())
    }
}

/// Whether the options have a label or user data. Such a commit is made even if no page changed.
fn has_label_or_data(options: &CommitOptions) -> bool {
    !options.label.is_empty() || options.user_data.as_ref().is_some_and(|d| !d.is_empty())
}

/// The map of a new commit: the map of the head, in which the new files replace the old files of
/// their modules.
fn map_of(state: &State, finished: &[Finished]) -> Vec<ModuleEntry> {
    let head = state.history.head_commit();
    let mut modules = head.map_or(Vec::new(), |head| head.modules.clone());
    for file in finished {
        let entry = ModuleEntry {
            id: file.index.module.clone(),
            module_commit: file.index.commit,
            size: file.index.size,
            digest: file.index.digest,
        };
        match modules.binary_search_by(|module| module.id.cmp(&entry.id)) {
            Ok(at) => modules[at] = entry,
            Err(at) => modules.insert(at, entry),
        }
    }
    modules
}
