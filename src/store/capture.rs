//! Capturing: the part of a commit for which the guest is paused.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::helpers;
use super::options::CommitOptions;
use super::precopy::{self, Precopied};
use super::{Bound, State, Store};
use crate::format::name;
use crate::module::MappedModule;
use crate::page::{Run, pages_in, union, without};
use crate::pages::{Draft, PageFiles, Reading};
use crate::sys::arena::Arena;
use crate::sys::fs::Place;
use crate::sys::host;
use crate::{Error, Result};

/// A captured, not yet written commit. Clones are the same capture.
#[derive(Clone)]
pub struct Capture {
    store: Store,
    serial: u64,
}

/// What a capture holds until it is committed or cancelled. Dropping it makes its pages dirty
/// again.
pub(super) struct Captured {
    pub(super) serial: u64,
    pub(super) options: CommitOptions,
    pub(super) modules: Vec<CapturedModule>,
    /// Pages copied while the guest was paused.
    copied: u64,
}

pub(super) struct CapturedModule {
    pub(super) module: Arc<MappedModule>,
    /// All of its pages in the capture.
    pub(super) runs: Vec<Run>,
    /// Those whose bytes wait in the arena, and where.
    pub(super) waiting: Vec<(Run, usize)>,
    /// Begun when the first of them is written.
    pub(super) draft: Option<Draft>,
}

type Lists = (Vec<Run>, Vec<(Run, usize)>);

/// The lists of earlier captures, kept for the next one: a warm one allocates nothing.
#[derive(Default)]
pub(super) struct Spare {
    modules: Vec<CapturedModule>,
    lists: Vec<Lists>,
}

impl Spare {
    /// Takes the lists of a capture that has ended.
    pub(super) fn keep(&mut self, mut modules: Vec<CapturedModule>) {
        for module in modules.drain(..) {
            let (mut runs, mut waiting) = (module.runs, module.waiting);
            runs.clear();
            waiting.clear();
            self.lists.push((runs, waiting));
        }
        self.modules = modules;
    }

    /// Makes lists for one more module, of so many pages: enough for most captures, so that not even the
    /// first one allocates. Without the memory for it, captures allocate.
    pub(super) fn prepare(&mut self, pages: u64) {
        const RUNS: u64 = 4096;
        let runs = pages.div_ceil(2).min(RUNS) as usize;
        let (mut list, mut waiting) = (Vec::new(), Vec::new());
        let had = list.try_reserve_exact(runs).is_ok()
            && waiting.try_reserve_exact(runs).is_ok()
            && self.lists.try_reserve(1).is_ok()
            && self.modules.try_reserve(self.lists.len() + 1).is_ok();
        if had {
            self.lists.push((list, waiting));
        }
    }

    fn module(&mut self, module: &Arc<MappedModule>) -> CapturedModule {
        let (runs, waiting) = self.lists.pop().unwrap_or_default();
        CapturedModule {
            module: module.clone(),
            runs,
            waiting,
            draft: None,
        }
    }
}

impl Captured {
    pub(super) fn pages(&self) -> u64 {
        self.modules.iter().map(|m| pages_in(&m.runs)).sum()
    }

    /// Gives up: pages are dirty again, files go.
    pub(super) fn discard(mut self, pages: &PageFiles, spare: &mut Spare) {
        for captured in &mut self.modules {
            captured.module.dirty.add_all(&captured.runs);
            if let Some(draft) = captured.draft.take() {
                draft.discard(pages);
            }
        }
        spare.keep(self.modules);
    }
}

impl Capture {
    /// The store it belongs to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether it may be used from here, which consumes nothing.
    pub(crate) fn check_reentry(&self) -> Result<()> {
        self.store.check_reentry()
    }

    fn take(&self, state: &mut State) -> Result<Captured> {
        match state.capture.take() {
            Some(captured) if captured.serial == self.serial => Ok(captured),
            other => {
                state.capture = other;
                Err(Error::Handle {
                    argument: "capture",
                    why: "it was consumed earlier",
                })
            }
        }
    }

    /// Writes it and makes the commit; see `store_capture_commit`.
    ///
    /// # Errors
    /// As `store_commit`.
    pub fn commit(&self) -> Result<u64> {
        let mut state = self.store.enter()?;
        let captured = self.take(&mut state)?;
        let _ended = Ended(&self.store);
        if let Err(error) = self.store.check_poison() {
            captured.discard(&self.store.0.pages, &mut state.spare);
            return Err(error);
        }
        self.store.write_commit(&mut state, captured)
    }

    /// Gives it up; see `store_capture_cancel`.
    ///
    /// # Errors
    /// When it was consumed.
    pub fn cancel(&self) -> Result<()> {
        let mut state = self.store.enter()?;
        let captured = self.take(&mut state)?;
        let _ended = Ended(&self.store);
        captured.discard(&self.store.0.pages, &mut state.spare);
        Ok(())
    }
}

/// Ends a capture, however its commit or cancel ends.
struct Ended<'a>(&'a Store);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.0.capturing.store(false, Ordering::Release);
    }
}

impl Store {
    /// Captures all modules; see `store_capture`.
    ///
    /// # Errors
    /// As `store_commit`.
    pub fn capture(&self, options: &CommitOptions) -> Result<Capture> {
        options.check()?;
        self.check_reentry()?;
        self.no_capture()?;
        let mut state = self.enter_to_write()?;
        let captured = self.take_capture(&mut state, options)?;
        let serial = captured.serial;
        state.capture = Some(captured);
        self.0.capturing.store(true, Ordering::Release);
        Ok(Capture {
            store: self.clone(),
            serial,
        })
    }

    /// Makes a commit; see `store_commit`.
    ///
    /// # Errors
    /// As `store_commit`.
    pub fn commit(&self, options: &CommitOptions) -> Result<u64> {
        options.check()?;
        self.check_reentry()?;
        self.no_capture()?;
        let mut state = self.enter_to_write()?;
        let captured = self.take_capture(&mut state, options)?;
        self.write_commit(&mut state, captured)
    }

    fn take_capture(&self, state: &mut State, options: &CommitOptions) -> Result<Captured> {
        self.no_capture()?;
        let begun = Instant::now();
        for bound in state.modules.values() {
            // What it finds is in the dirty set, where a failure leaves it.
            bound.module.collect()?;
        }
        let scan_ns = host::nanoseconds_since(begun);
        let mut arena = state.arena.take();
        let precopied = state.precopied.take();
        let mut spare = std::mem::take(&mut state.spare);
        let mut captured = Captured {
            serial: super::next_serial(),
            options: options.clone(),
            modules: std::mem::take(&mut spare.modules),
            copied: 0,
        };
        let copied = self.copy_all(
            state,
            &mut captured,
            &mut arena,
            precopied.as_ref(),
            &mut spare,
        );
        state.arena = arena;
        state.spare = spare;
        match copied {
            Ok(spills) => state.stats.arena_spills += u64::from(spills),
            Err(error) => {
                if let Some(precopied) = precopied {
                    precopied.give_back(state);
                }
                captured.discard(&self.0.pages, &mut state.spare);
                return Err(error);
            }
        }
        let stats = &mut state.stats;
        stats.captures += 1;
        stats.last_dirty_pages = captured.pages();
        stats.last_copied_pages = captured.copied;
        stats.last_precopied_pages = precopied.map_or(0, |precopied| precopied.pages());
        stats.last_scan_ns = scan_ns;
        stats.last_capture_ns = host::nanoseconds_since(begun);
        Ok(captured)
    }

    /// Copies the dirty pages of all modules into the arena, but for those that were precopied and not
    /// written since. When it is full, what is in it is written to the drafts, and the copying goes
    /// on. Says whether that happened.
    fn copy_all(
        &self,
        state: &State,
        captured: &mut Captured,
        arena: &mut Option<Arena>,
        precopied: Option<&Precopied>,
        spare: &mut Spare,
    ) -> Result<bool> {
        for bound in state.modules.values() {
            captured.modules.push(spare.module(&bound.module));
            let Some(last) = captured.modules.last_mut() else {
                break;
            };
            bound.module.dirty.take_into(&mut last.runs);
            if bound.module.compares() {
                let unknown = without(&[bound.module.whole()], &last.runs);
                last.runs = union(&last.runs, &self.differing(bound, &unknown)?);
            }
        }
        let Some(arena) = arena else {
            return Ok(false);
        };
        let mut fresh = None;
        let mut used = 0;
        captured.copied = captured.pages();
        if let Some(precopied) = precopied {
            (fresh, used) = self.merge(precopied, captured, arena);
        }
        if fresh.is_none() {
            captured.copied = captured.pages();
        }
        let page = self.0.pages.page_size as usize;
        let spilled = if helpers::copy_runs(captured, arena, fresh.as_deref(), used, page) {
            false
        } else {
            self.copy_runs(state, captured, arena, fresh.as_deref(), used)?
        };
        if fresh.is_some() {
            for module in &mut captured.modules {
                module.waiting.sort_unstable_by_key(|(run, _)| run.start);
            }
        }
        Ok(spilled)
    }

    /// Takes precopied pages into a capture: those that were written since are copied again into their
    /// places. Returns what has to be copied anew, by module, and how much of the arena is used. When
    /// the arena has no room for that, the precopied pages are copied anew like all others.
    fn merge(
        &self,
        precopied: &Precopied,
        captured: &mut Captured,
        arena: &mut Arena,
    ) -> (Option<Vec<Vec<Run>>>, usize) {
        let page = self.0.pages.page_size;
        let mut fresh = Vec::with_capacity(captured.modules.len());
        for captured in &mut captured.modules {
            let mut new = Vec::new();
            captured
                .waiting
                .extend_from_slice(precopied.waiting(&captured.module.id));
            let (memory, waiting) = (&captured.module.memory, &captured.waiting);
            precopy::refresh(memory, page, arena, waiting, &captured.runs, &mut new);
            let before: Vec<Run> = waiting.iter().map(|(run, _)| *run).collect();
            captured.runs = union(&captured.runs, &before);
            fresh.push(new);
        }
        let wanted: u64 = fresh.iter().map(|runs| pages_in(runs) * page).sum();
        if precopied.used() as u64 + wanted <= arena.capacity() as u64 {
            return (Some(fresh), precopied.used());
        }
        for captured in &mut captured.modules {
            captured.waiting.clear();
        }
        (None, 0)
    }

    /// Copies runs into the arena from `used` on: those of `fresh`, or all that were captured. Lists are
    /// gone through by number, because a spill writes to the drafts beside them.
    fn copy_runs(
        &self,
        state: &State,
        captured: &mut Captured,
        arena: &mut Arena,
        fresh: Option<&[Vec<Run>]>,
        mut used: usize,
    ) -> Result<bool> {
        let page = self.0.pages.page_size as usize;
        let mut spilled = false;
        for number in 0..captured.modules.len() {
            for at in 0.. {
                let run = match fresh {
                    Some(fresh) => fresh[number].get(at),
                    None => captured.modules[number].runs.get(at),
                };
                let Some(mut rest) = run.copied() else { break };
                while rest.count > 0 {
                    let room = ((arena.capacity() - used) / page) as u64;
                    if room == 0 {
                        self.drain(state, captured, arena)?;
                        (used, spilled) = (0, true);
                        continue;
                    }
                    let part = Run {
                        start: rest.start,
                        count: rest.count.min(room),
                    };
                    let bytes = part.count as usize * page;
                    let module = &mut captured.modules[number];
                    let memory = &module.module.memory;
                    memory.read(part.start * page as u64, arena.room(used, bytes));
                    module.waiting.push((part, used));
                    used += bytes;
                    rest = Run {
                        start: part.end(),
                        count: rest.count - part.count,
                    };
                }
            }
        }
        Ok(spilled)
    }

    /// Begins the file of a captured module. Its parent, and the commit's number, are what they were when
    /// it was captured: nothing changes them meanwhile.
    fn begin_draft(&self, state: &State, bound: &Bound, number: usize) -> Result<Draft> {
        let module = &bound.module;
        let parent = match bound.module_commit {
            None => None,
            Some(commit) => Some(self.0.pages.index(&module.id, commit)?),
        };
        Ok(Draft::new(
            &self.0.pages,
            Place::hidden(format!("{}{number}", name::TEMPORARY)),
            &module.id,
            module.size(),
            state.history.next_number(),
            parent.as_deref(),
        ))
    }

    /// Writes what waits in the arena to the drafts.
    pub(super) fn drain(
        &self,
        state: &State,
        captured: &mut Captured,
        arena: &Arena,
    ) -> Result<()> {
        let page = self.0.pages.page_size;
        for (number, module) in captured.modules.iter_mut().enumerate() {
            let Some(bound) = state.modules.get(&module.module.id) else {
                continue;
            };
            let draft = match &mut module.draft {
                Some(draft) => draft,
                none => none.insert(self.begin_draft(state, bound, number)?),
            };
            let mut reading = Reading::new(&self.0.pages);
            let waiting = module
                .waiting
                .drain(..)
                .map(|(run, start)| (run, arena.bytes(start, (run.count * page) as usize)));
            draft.feed(&mut reading, &self.0.pages, &bound.table, waiting)?;
        }
        Ok(())
    }
}
