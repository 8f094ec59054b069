//! Restore in place: everything is read and checked before the first byte of memory changes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use crate::format::commit::{Commit, Event};
use crate::layer::{Change, PageTable, Piece, Reading, Staging, check_is};
use crate::module::MappedModule;
use crate::page_set::{Run, pages_in, push_run, without};
use crate::store::options::Progress;
use crate::store::state::{Locked, ModuleState, Store};
use crate::sys::arena::Arena;
use crate::sys::host;
use crate::{Error, Result};

/// The bytes that are read between two calls of a progress callback.
const PROGRESS_STEP: u64 = 16 << 20;

/// What one module needs to be at the target.
struct Plan {
    module: Arc<MappedModule>,
    /// The pages that are known to be dirty. They were taken out of the dirty set.
    dirty: Vec<Run>,
    /// The changes of the module's page table.
    changes: Vec<Change>,
    /// A new page table, if the old one is replaced and not changed.
    table: Option<PageTable>,
    module_commit: Option<u64>,
    pieces: Vec<Piece>,
    zeros: Vec<Run>,
}

/// The plans of all modules. If the restore does not succeed, dropping this value makes their pages
/// dirty again.
#[derive(Default)]
struct Plans(Vec<Plan>);

impl Plans {
    /// The bytes that have to be read.
    fn bytes(&self, page: u64) -> u64 {
        let pieces = self.0.iter().flat_map(|plan| &plan.pieces);
        pieces.map(|piece| piece.run.count).sum::<u64>() * page
    }

    /// The restore succeeds: dropping this value undoes nothing any more.
    fn commit(mut self) -> Vec<Plan> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Plans {
    fn drop(&mut self) {
        for plan in &self.0 {
            plan.module.dirty.add_all(&plan.dirty);
        }
    }
}

impl Store {
    /// Brings every mapped module to the bytes that it had at `commit`, in place, and makes that
    /// commit the head; see `store_restore`.
    ///
    /// Pause every writer. The call copies bytes in: addresses, KVM slots and the pages behind
    /// shared descriptors stay. Every page that is put back is checked against its checksum before
    /// the first byte of memory changes. The call costs the pages that differ between the head and
    /// `commit`, and the pages that were written since. A write that no tracker saw and nobody
    /// reported stays in memory.
    ///
    /// A module that `commit` does not know becomes zeros. A module that is not mapped has the
    /// bytes of `commit` when it is mapped later. Later commits stay in the history, and the next
    /// commit becomes a child of `commit`. After an error, memory, head and dirty pages are as
    /// before the call.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no such commit. [`Error::Size`]: a mapped module is larger at
    /// `commit`; grow it first. [`Error::Busy`]: a capture is outstanding. [`Error::Corrupt`],
    /// [`Error::Stale`], [`Error::Poisoned`], [`Error::Io`], [`Error::NoMemory`],
    /// [`Error::Cancelled`].
    pub fn restore(&self, commit: u64, progress: Progress<'_>) -> Result<()> {
        self.or_stale(self.bring_to(commit, progress))
    }

    fn bring_to(&self, commit: u64, mut progress: Progress<'_>) -> Result<()> {
        let begun = Instant::now();
        self.check_no_capture()?;
        let mut locked = self.enter()?;
        self.check_poison()?;
        self.check_no_capture()?;
        let target = locked.history.get(commit)?.commit.clone();
        for state in locked.modules.values() {
            check_size(state, &target)?;
        }
        locked.forget_precopy();
        for state in locked.modules.values() {
            state.module.peek_dirty()?;
        }
        let old = locked.history.head_commit().cloned();
        let plans = locked.plan(&target)?;
        let page = self.page_size();
        let bytes = plans.bytes(page);
        // No capture is outstanding, therefore the arena is free for the pages that wait to be put
        // back.
        let own = locked
            .captures
            .arena
            .take_if(|arena| arena.capacity() as u64 >= bytes);
        let borrowed = own.is_some();
        let mut staging = Staging::new(match own {
            Some(arena) => arena,
            None => Arena::of_exactly(bytes.max(page))?,
        });
        let staged = self.stage(&plans, &mut staging, bytes, &mut progress);
        let moved = staged.and_then(|()| locked.move_head(commit));
        if moved.is_ok() {
            // From here on, no failure can leave memory half changed.
            staging.put(page, |module, run, bytes| {
                plans.0[module].module.memory.write(run.start * page, bytes);
            });
        }
        if borrowed {
            locked.captures.arena = Some(staging.into_arena());
        }
        moved?;
        let mut restored = 0;
        for mut plan in plans.commit() {
            for run in &plan.zeros {
                plan.module.memory.zero(run.start * page, run.count * page);
            }
            restored += locked.finish_restore(&mut plan)?;
        }
        if !self.0.read_only {
            locked.move_links(old.as_deref());
        }
        locked.stats.last_restored_pages = restored;
        locked.stats.last_restore_ns = host::nanoseconds_since(begun);
        Ok(())
    }

    /// The page table at the target, if the target is not on the head's image. Then all pages are
    /// in other files, also pages that have the same bytes, and the files of the present table may
    /// be removed.
    fn table_on_another_image(
        &self,
        state: &ModuleState,
        target: Option<u64>,
    ) -> Result<Option<PageTable>> {
        let (Some(from), Some(to)) = (state.module_commit, target) else {
            return Ok(None);
        };
        let (id, size) = (&state.module.id, state.module.size());
        if self.0.layers.share_an_image(id, from, to) {
            return Ok(None);
        }
        let chain = self.0.layers.chain(id, to, size)?;
        PageTable::of_chain(size / self.page_size(), &chain).map(Some)
    }

    /// Reads and checks the pages that the plans ask for.
    fn stage(
        &self,
        plans: &Plans,
        staging: &mut Staging,
        total: u64,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let mut next = 0;
        for (module, plan) in plans.0.iter().enumerate() {
            let mut reading = Reading::new(&self.0.layers);
            staging.read(&mut reading, module, plan.pieces.clone(), |used| {
                if used < next {
                    return Ok(());
                }
                next = used + PROGRESS_STEP;
                self.report_progress(progress, used, total)
            })?;
        }
        self.report_progress(progress, total, total)
    }
}

impl Locked<'_> {
    /// Finds what differs in every module.
    fn plan(&self, target: &Commit) -> Result<Plans> {
        let store = self.store;
        let mut plans = Plans::default();
        for state in self.modules.values() {
            let id = &state.module.id;
            let entry = target.module(id);
            let module_commit = entry.map(|entry| entry.module_commit);
            if let Some(entry) = entry {
                let index = store.0.layers.index(&entry.id, entry.module_commit)?;
                check_is(&index, entry)?;
            }
            plans.0.push(Plan {
                module: state.module.clone(),
                dirty: state.module.dirty.take(),
                changes: Vec::new(),
                table: None,
                module_commit,
                pieces: Vec::new(),
                zeros: Vec::new(),
            });
            let Some(plan) = plans.0.last_mut() else {
                break;
            };
            let (size, from) = (state.module.size(), state.module_commit);
            plan.changes = store.0.layers.changes(id, size, from, module_commit)?;
            plan.table = store.table_on_another_image(state, module_commit)?;
            let mut dirty = Cow::Borrowed(&plan.dirty);
            if state.module.compares() {
                dirty = Cow::Owned(store.differing(state, &[state.module.whole()])?);
            }
            (plan.pieces, plan.zeros) = locate(state, &dirty, &plan.changes);
        }
        Ok(plans)
    }

    /// Makes a commit the head. In a store that is open for writing, a record makes it the head for
    /// the next process too.
    fn move_head(&mut self, commit: u64) -> Result<()> {
        if self.history.head() == commit {
            return Ok(());
        }
        let event = Event::HeadMoved(commit);
        if self.store.0.read_only {
            let moved = self.history.apply(&event, true);
            return moved.map_err(|what| Error::Internal { what });
        }
        self.record(vec![event]).map(drop)
    }

    /// Brings the table and the dirty set of a module in line with its memory. Returns the number
    /// of pages put back.
    fn finish_restore(&mut self, plan: &mut Plan) -> Result<u64> {
        let store = self.store;
        let Some(state) = self.modules.get_mut(&plan.module.id) else {
            return Ok(0);
        };
        state.module_commit = plan.module_commit;
        if let Some(table) = plan.table.take() {
            state.table = table;
            plan.changes.clear();
        }
        for change in &plan.changes {
            if let Err(error) = state.table.set(change.run, change.source.as_ref()) {
                store.poison(&error);
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
            // The memory is right. The library's own writes count as writes of the guest, which
            // costs only time.
            plan.module.dirty.add_all(&runs);
        }
        Ok(pages_in(&runs))
    }
}

/// Refuses a module that is mapped smaller than it is at the target. A module that is mapped larger
/// is restored: the part beyond its size at the target becomes zeros.
fn check_size(state: &ModuleState, target: &Commit) -> Result<()> {
    match target.module(&state.module.id) {
        Some(entry) if entry.size > state.module.size() => Err(Error::Size {
            module: entry.id.clone(),
            why: format!(
                "it is mapped smaller than it is in commit {}; store_grow_module makes room",
                target.number
            ),
            recorded: entry.size,
            given: state.module.size(),
        }),
        _ => Ok(()),
    }
}

/// Where each page comes from that is dirty or that differs at the target. The second list has the
/// runs that become zeros.
fn locate(state: &ModuleState, dirty: &[Run], changes: &[Change]) -> (Vec<Piece>, Vec<Run>) {
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
        state.table.locate(run, |located| match located.source {
            Some(source) => pieces.push(Piece {
                run: located.run,
                source,
            }),
            None => zeros.push(located.run),
        });
    }
    (pieces, zeros)
}
