//! Restore in place: everything is read and checked before the first byte of memory changes.

use std::sync::Arc;
use std::time::Instant;

use super::options::Progress;
use super::staging::Staging;
use super::{Bound, State, Store};
use crate::format::commit::{Commit, Event};
use crate::module::MappedModule;
use crate::page::{Run, pages_in, push_run, without};
use crate::pages::{Change, PageTable, Piece, Reading};
use crate::sys::arena::Arena;
use crate::sys::host;
use crate::{Error, Result};

/// Bytes between two calls of a progress callback.
const TELL: u64 = 16 << 20;

/// What one module needs to get to the target.
struct Plan {
    module: Arc<MappedModule>,
    /// Pages known to be dirty, taken out of the dirty set.
    dirty: Vec<Run>,
    /// What changes in its table.
    changes: Vec<Change>,
    /// What becomes its table instead.
    table: Option<PageTable>,
    module_commit: Option<u64>,
    pieces: Vec<Piece>,
    zeros: Vec<Run>,
}

impl Store {
    /// Brings every mapped module to a commit; see `store_restore`.
    ///
    /// # Errors
    /// As `store_restore`.
    pub fn restore(&self, commit: u64, progress: Progress<'_>) -> Result<()> {
        self.or_stale(self.bring_to(commit, progress))
    }

    fn bring_to(&self, commit: u64, mut progress: Progress<'_>) -> Result<()> {
        let begun = Instant::now();
        self.no_capture()?;
        let mut state = self.enter()?;
        self.check_poison()?;
        self.no_capture()?;
        let target = state.history.get(commit)?.commit.clone();
        for bound in state.modules.values() {
            check_size(bound, &target)?;
        }
        state.forget_precopy();
        for bound in state.modules.values() {
            bound.module.look()?;
        }
        let old = state.history.head_commit().cloned();
        let mut plans = Vec::new();
        let undo = |plans: Vec<Plan>| {
            for plan in plans {
                plan.module.dirty.add_all(&plan.dirty);
            }
        };
        let total = match self.plan(&state, &target, &mut plans) {
            Ok(total) => total,
            Err(error) => {
                undo(plans);
                return Err(error);
            }
        };
        // No capture is outstanding, so its arena is free to hold what waits to be put back.
        let own = state
            .arena
            .take_if(|arena| arena.capacity() as u64 >= total);
        let borrowed = own.is_some();
        let staging = match own {
            Some(arena) => Ok(arena),
            None => Arena::of_exactly(total.max(self.0.pages.page_size)),
        };
        let staged = staging.and_then(|arena| {
            let mut staging = Staging::new(arena);
            let staged = self.stage(&plans, &mut staging, total, &mut progress);
            let moved = staged.and_then(|()| {
                if state.history.head() == commit {
                    return Ok(());
                }
                self.move_head(&mut state, commit)
            });
            match moved {
                Ok(()) => Ok(staging),
                Err(error) => {
                    if borrowed {
                        state.arena = Some(staging.into_arena());
                    }
                    Err(error)
                }
            }
        });
        let staging = match staged {
            Ok(staging) => staging,
            Err(error) => {
                undo(plans);
                return Err(error);
            }
        };
        // From here nothing fails that could leave memory half changed.
        let page = self.0.pages.page_size;
        staging.put(page, |module, run, bytes| {
            plans[module].module.memory.write(run.start * page, bytes);
        });
        if borrowed {
            state.arena = Some(staging.into_arena());
        }
        let mut restored = 0;
        for mut plan in plans {
            for run in &plan.zeros {
                plan.module.memory.zero(run.start * page, run.count * page);
            }
            restored += self.settle(&mut state, &mut plan)?;
        }
        if !self.0.read_only {
            self.move_links(&mut state, old.as_deref());
        }
        state.stats.last_restored_pages = restored;
        state.stats.last_restore_ns = host::nanoseconds_since(begun);
        Ok(())
    }

    /// Finds what differs in every module. Returns the bytes to be read.
    fn plan(&self, state: &State, target: &Commit, plans: &mut Vec<Plan>) -> Result<u64> {
        let page = self.0.pages.page_size;
        for bound in state.modules.values() {
            let module_commit = target
                .module(&bound.module.id)
                .map(|entry| entry.module_commit);
            if let Some(entry) = target.module(&bound.module.id) {
                let index = self.0.pages.index(&entry.id, entry.module_commit)?;
                super::verify::matches(&index, entry)?;
            }
            plans.push(Plan {
                module: bound.module.clone(),
                dirty: bound.module.dirty.take(),
                changes: Vec::new(),
                table: None,
                module_commit,
                pieces: Vec::new(),
                zeros: Vec::new(),
            });
            let Some(plan) = plans.last_mut() else { break };
            plan.changes = self.0.pages.changes(
                &bound.module.id,
                bound.module.size(),
                bound.module_commit,
                module_commit,
            )?;
            plan.table = self.table_on_another_image(bound, module_commit)?;
            let mut dirty = std::borrow::Cow::Borrowed(&plan.dirty);
            if bound.module.compares() {
                dirty = std::borrow::Cow::Owned(self.differing(bound, &[bound.module.whole()])?);
            }
            let (pieces, zeros) = locate(bound, &dirty, &plan.changes);
            (plan.pieces, plan.zeros) = (pieces, zeros);
        }
        let pages = |pieces: &[Piece]| pieces.iter().map(|piece| piece.run.count).sum::<u64>();
        Ok(plans.iter().map(|plan| pages(&plan.pieces)).sum::<u64>() * page)
    }

    /// The table at the target, where that is not on the head's image: what does not differ is in other files
    /// then, and those that it is in now may go.
    fn table_on_another_image(
        &self,
        bound: &Bound,
        target: Option<u64>,
    ) -> Result<Option<PageTable>> {
        let (Some(from), Some(to)) = (bound.module_commit, target) else {
            return Ok(None);
        };
        let (id, size) = (&bound.module.id, bound.module.size());
        if self.0.pages.share_an_image(id, from, to) {
            return Ok(None);
        }
        let chain = self.0.pages.chain(id, to, size)?;
        PageTable::of_chain(size / self.0.pages.page_size, &chain).map(Some)
    }

    /// Reads and checks what the plans ask for.
    fn stage(
        &self,
        plans: &[Plan],
        staging: &mut Staging,
        total: u64,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let mut next = 0;
        for (module, plan) in plans.iter().enumerate() {
            let mut reading = Reading::new(&self.0.pages);
            staging.read(&mut reading, module, plan.pieces.clone(), |used| {
                if used < next {
                    return Ok(());
                }
                next = used + TELL;
                self.tell(progress, used, total)
            })?;
        }
        self.tell(progress, total, total)
    }

    /// Makes a commit the head, from now on also for the next process.
    fn move_head(&self, state: &mut State, commit: u64) -> Result<()> {
        let event = Event::HeadMoved(commit);
        if self.0.read_only {
            return state
                .history
                .apply(&event, true)
                .map_err(|what| Error::Internal { what });
        }
        state.record(event).map(drop)
    }

    /// Brings what is known of a module in line with its memory. Returns the pages put back.
    fn settle(&self, state: &mut State, plan: &mut Plan) -> Result<u64> {
        let Some(bound) = state.modules.get_mut(&plan.module.id) else {
            return Ok(0);
        };
        bound.module_commit = plan.module_commit;
        if let Some(table) = plan.table.take() {
            bound.table = table;
            plan.changes.clear();
        }
        for change in &plan.changes {
            if let Err(error) = bound.table.set(change.run, change.source.as_ref()) {
                self.poison(&error);
                return Err(error);
            }
        }
        let mut written: Vec<Run> = plan.pieces.iter().map(|piece| piece.run).collect();
        written.extend(&plan.zeros);
        written.sort_unstable_by_key(|run| run.start);
        let mut runs = Vec::new();
        for run in written {
            push_run(&mut runs, run);
        }
        if plan.module.forget(&runs).is_err() {
            // Memory is right. The library's own writes count as the guest's, which costs time
            // only.
            plan.module.dirty.add_all(&runs);
        }
        Ok(pages_in(&runs))
    }
}

/// A module that grew since the target is mapped larger than it was: what is beyond becomes zeros.
fn check_size(bound: &Bound, target: &Commit) -> Result<()> {
    match target.module(&bound.module.id) {
        Some(entry) if entry.size > bound.module.size() => Err(Error::Size {
            module: entry.id.clone(),
            why: format!(
                "it is mapped smaller than it is in commit {}; store_grow_module makes room",
                target.number
            ),
            recorded: entry.size,
            given: bound.module.size(),
        }),
        _ => Ok(()),
    }
}

/// Where to take each page from that is dirty or differs at the target.
fn locate(bound: &Bound, dirty: &[Run], changes: &[Change]) -> (Vec<Piece>, Vec<Run>) {
    let mut pieces = Vec::new();
    let mut zeros = Vec::new();
    let mut changed: Vec<Run> = Vec::with_capacity(changes.len());
    for change in changes {
        push_run(&mut changed, change.run);
        match &change.source {
            Some(source) => pieces.push(Piece {
                run: change.run,
                source: source.clone(),
            }),
            None => zeros.push(change.run),
        }
    }
    for run in without(dirty, &changed) {
        bound.table.locate(run, |located| match located.source {
            Some(source) => pieces.push(Piece {
                run: located.run,
                source,
            }),
            None => zeros.push(located.run),
        });
    }
    (pieces, zeros)
}
