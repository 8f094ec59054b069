//! The second half of a commit: what was captured is written, gets its names, and is recorded.

use std::sync::Arc;
use std::time::Instant;

use super::capture::Captured;
use super::{LogLevel, State, Store, SyncState, Unsynced};
use crate::format::commit::{Commit, Event, ModuleEntry};
use crate::journal::Stream;
use crate::pages::{Finished, place};
use crate::sys::host;
use crate::{Error, Result};

impl Store {
    /// Makes the commit of a capture. On failure the capture's pages are dirty again and its files
    /// gone.
    pub(super) fn write_commit(&self, state: &mut State, mut captured: Captured) -> Result<u64> {
        let begun = Instant::now();
        let arena = state.arena.take();
        let drained = match &arena {
            Some(arena) => self.drain(state, &mut captured, arena),
            None => Ok(()),
        };
        state.arena = arena;
        if let Err(error) = drained {
            captured.discard(&self.0.pages, &mut state.spare);
            return Err(error);
        }
        let drafts = || captured.modules.iter().filter_map(|m| m.draft.as_ref());
        let counts = drafts().map(|draft| draft.counts);
        let counts = counts.fold((0, 0, 0), |sum, c| {
            (sum.0 + c.data, sum.1 + c.zero, sum.2 + c.unchanged)
        });
        (
            state.stats.last_written_pages,
            state.stats.last_zero_pages,
            state.stats.last_unchanged_pages,
        ) = counts;
        let changed = drafts().any(|draft| !draft.is_empty());
        let options = std::mem::take(&mut captured.options);
        if !changed
            && options.label.is_empty()
            && options.user_data.as_ref().is_none_or(|d| d.is_empty())
            && state.history.head() != 0
        {
            state.spare.keep(captured.modules);
            state.stats.last_write_ns = host::nanoseconds_since(begun);
            return Ok(state.history.head());
        }
        let old = state.history.head_commit().cloned();
        // What a failure has to undo.
        let drafts = captured.modules.iter_mut().map(|m| m.draft.take());
        let drafts: Vec<_> = drafts.collect();
        let mut drafts = drafts.into_iter().flatten();
        let mut finished: Vec<Finished> = Vec::new();
        let mut named = 0;
        let result = (|| {
            for draft in drafts.by_ref() {
                if draft.is_empty() {
                    draft.discard(&self.0.pages);
                } else {
                    finished.push(draft.finish(&self.0.pages)?);
                }
            }
            for file in &finished {
                let place = place(&file.index.module, file.index.commit);
                self.0.files.rename(&file.temporary, &place)?;
                named += 1;
            }
            let commit = Commit {
                number: state.history.next_number(),
                unique_id: host::random_id()?,
                parent: state.history.head(),
                time: host::wall_clock(),
                label: options.label,
                user_data: options.user_data.unwrap_or_default(),
                modules: Self::map_of(state, &finished),
            };
            let number = commit.number;
            // The commit point.
            let sequence = state.record(Event::Committed(Arc::new(commit)))?;
            Ok((number, sequence))
        })();
        let (number, sequence) = match result {
            Ok(made) => made,
            Err(error) => {
                for captured in &captured.modules {
                    captured.module.dirty.add_all(&captured.runs);
                }
                for (at, file) in finished.iter().enumerate() {
                    let name = place(&file.index.module, file.index.commit);
                    // What cannot be removed is removed by the next open.
                    let _ = self
                        .0
                        .files
                        .unlink(if at < named { &name } else { &file.temporary });
                }
                drafts.for_each(|draft| draft.discard(&self.0.pages));
                return Err(error);
            }
        };
        state.spare.keep(captured.modules);
        self.take_over(state, finished, number, sequence)?;
        self.move_links(state, old.as_deref());
        self.give_descriptors_back(state);
        state.stats.last_write_ns = host::nanoseconds_since(begun);
        Ok(number)
    }

    /// The map of a new commit: the head's, with the new files in their modules' places.
    fn map_of(state: &State, finished: &[Finished]) -> Vec<ModuleEntry> {
        let mut modules = state
            .history
            .head_commit()
            .map_or(Vec::new(), |head| head.modules.clone());
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

    /// After the commit point: tables, caches and the list of what is to be synced follow.
    fn take_over(
        &self,
        state: &mut State,
        finished: Vec<Finished>,
        number: u64,
        sequence: u64,
    ) -> Result<()> {
        for file in finished {
            let id = file.index.module.clone();
            state.stats.bytes_written += file.bytes;
            state.unsynced.push(Unsynced {
                module: id.clone(),
                commit: number,
                sequence,
                bytes: file.bytes,
                state: SyncState::Open(file.file),
            });
            if let Some(bound) = state.modules.get_mut(&id) {
                bound.module_commit = Some(number);
                if let Err(error) = bound.table.apply(&file.index) {
                    // The commit stands, but what the store knows of it does not.
                    self.poison(&error);
                    return Err(error);
                }
            }
            self.0.pages.remember(file.index);
        }
        if let Some(lineage) = &mut state.lineage {
            let commit = state.history.get(number)?.commit.clone();
            if lineage.add(&self.0.pages, &commit).is_err() {
                state.lineage = None;
            }
        }
        Ok(())
    }

    /// Unpersisted files stay open so that their sync learns of every error. When they are many,
    /// the oldest are synced now and closed: the host needs its descriptors.
    fn give_descriptors_back(&self, state: &mut State) {
        let most = (host::descriptor_limit() / 4).clamp(16, 1024) as usize;
        let is_open = |file: &Unsynced| matches!(file.state, SyncState::Open(_));
        // The oldest were closed first: what is open is at the end, but for few that were rewritten since.
        let open = state
            .unsynced
            .iter()
            .rev()
            .take_while(|f| is_open(f))
            .count();
        if open <= most {
            return;
        }
        let oldest: Vec<usize> = (0..state.unsynced.len())
            .filter(|at| is_open(&state.unsynced[*at]))
            .take(open - most / 2)
            .collect();
        let already = state.journal.as_ref().is_some_and(Stream::is_syncing);
        let synced = (|| {
            if let Some(journal) = &mut state.journal {
                journal.set_syncing(true)?;
            }
            for at in oldest {
                if let SyncState::Open(file) = &state.unsynced[at].state {
                    state.stats.syncs += 1;
                    file.sync()?;
                    state.unsynced[at].state = SyncState::Synced;
                }
            }
            Ok(())
        })();
        // A persist of another thread may be syncing too; its mark stays until it ends.
        if synced.is_ok() && !already {
            self.leave_sync_mark(state);
        }
        if let Err(error) = synced {
            if matches!(error, Error::Sync { .. }) {
                self.poison(&error);
            }
            self.log(LogLevel::Warning, || {
                format!("syncing ahead of a persist: {error}")
            });
        }
    }
}
