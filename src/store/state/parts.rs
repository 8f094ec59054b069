//! The state of a store and its parts. Each part is owned by one room. Only calls of that room
//! change the part.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::captures::Captures;
use super::durability::Unpersisted;
use super::file_refs::FileRefs;
use super::history::History;
use super::modules::ModuleState;
use crate::format::commit::{Commit, Event};
use crate::journal::SequencedEvent;
use crate::layer::LayerFiles;
use crate::module::{Kernel, MappedModule};
use crate::store::options::Stats;
use crate::{Error, Result};

/// What the state lock protects.
pub(in crate::store) struct State {
    /// All commits. Only [`State::record`] changes them.
    pub(in crate::store) history: History,
    /// What no persist has made durable yet. Owned by `persist`.
    pub(in crate::store) unpersisted: Unpersisted,
    /// The references to files, which say what files are needed. `None` until the first use. Owned
    /// by `gc`.
    pub(in crate::store) file_refs: Option<FileRefs>,
    /// The mapped modules. Owned by `mapping`.
    pub(in crate::store) modules: BTreeMap<String, ModuleState>,
    /// The kernel tracker that all modules share, or why there is none. Owned by `mapping`.
    pub(in crate::store) kernel: Kernel,
    /// The `_last` links could not be brought to the head. The next call tries again. Owned by
    /// `mapping`.
    pub(in crate::store) links_behind: bool,
    /// The captures and the memory for them. Owned by `commit`.
    pub(in crate::store) captures: Captures,
    pub(in crate::store) stats: Stats,
}

impl State {
    /// What the store knows about a mapped module.
    pub(in crate::store) fn module(
        &mut self,
        module: &Arc<MappedModule>,
    ) -> Result<&mut ModuleState> {
        match self.modules.get_mut(&module.id) {
            Some(state) if Arc::ptr_eq(&state.module, module) => Ok(state),
            _ => Err(Error::Handle {
                argument: "module",
                why: "it was unmapped earlier",
            }),
        }
    }

    /// Appends events to the journal with one write. From that moment the events survive the death
    /// of the process. Returns the sequence number of the last event. A failed call has changed
    /// nothing.
    pub(in crate::store) fn record(&mut self, events: Vec<Event>) -> Result<u64> {
        let first = self.unpersisted.next_sequence;
        let events: Vec<SequencedEvent> = (first..)
            .zip(events)
            .map(|(sequence, event)| SequencedEvent { sequence, event })
            .collect();
        let journal = self.unpersisted.journal.as_mut();
        let journal = journal.ok_or_else(|| Error::Internal {
            what: "a journal record in a read-only store".into(),
        })?;
        let before = journal.end();
        journal.append(&events)?;
        self.stats.bytes_written += journal.end() - before;
        self.unpersisted.next_sequence += events.len() as u64;
        for event in &events {
            if let Err(why) = self.history.apply(&event.event, false) {
                return Err(Error::Internal { what: why });
            }
        }
        self.unpersisted.events.extend(events);
        Ok(self.unpersisted.next_sequence - 1)
    }

    /// Notes in the history that events are durable.
    pub(in crate::store) fn set_persisted(&mut self, events: &[SequencedEvent]) {
        for event in events {
            if let Event::Committed(commit) = &event.event {
                self.history.set_persisted(commit.number);
            }
        }
    }

    /// Which files are needed. If this is not known yet, the footers of all files are read while
    /// commits wait. Call `learn_file_refs` before, without the state lock, where commits must not
    /// wait.
    pub(in crate::store) fn file_refs(&mut self, layers: &LayerFiles) -> Result<&mut FileRefs> {
        if self.file_refs.is_none() {
            self.file_refs = Some(FileRefs::of(layers, &self.history)?);
        }
        self.file_refs.as_mut().ok_or_else(|| Error::Internal {
            what: "file references that were just made".into(),
        })
    }

    /// Counts new commits into the file references, if the references are known. If this fails, the
    /// references are made anew at their next use.
    pub(in crate::store) fn count_in(&mut self, layers: &LayerFiles, commits: &[Arc<Commit>]) {
        if let Some(mut refs) = self.file_refs.take() {
            let added = commits
                .iter()
                .try_for_each(|commit| refs.add(layers, commit));
            self.file_refs = added.is_ok().then_some(refs);
        }
    }

    /// Gives up the precopied pages: the pages are dirty again, and the arena is free.
    pub(in crate::store) fn forget_precopy(&mut self) {
        if let Some(precopied) = self.captures.precopied.take() {
            precopied.give_back(&self.modules);
        }
    }
}
