//! Capturing: the part of a commit for which the guest is paused.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::options::CommitOptions;
use super::{Bound, State, Store};
use crate::dirty::Tracker;
use crate::format::name;
use crate::module::MappedModule;
use crate::page::{Run, pages_in, push_run};
use crate::pages::{Draft, PageFiles, Piece, Reading};
use crate::sys::fs::Place;
use crate::sys::host;
use crate::sys::memory::Arena;
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
}

pub(super) struct CapturedModule {
    pub(super) module: Arc<MappedModule>,
    /// All of its pages in the capture.
    pub(super) runs: Vec<Run>,
    /// Those whose bytes wait in the arena, and where.
    pub(super) waiting: Vec<(Run, usize)>,
    pub(super) draft: Draft,
}

impl Captured {
    /// Gives up: pages are dirty again, files go.
    pub(super) fn discard(self, pages: &PageFiles) {
        for captured in self.modules {
            captured.module.dirty.add_all(&captured.runs);
            captured.draft.discard(pages);
        }
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
            captured.discard(&self.store.0.pages);
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
        captured.discard(&self.store.0.pages);
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
        let mut state = self.enter_to_write("store_capture")?;
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
        let mut state = self.enter_to_write("store_commit")?;
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
        let mut captured = Captured {
            serial: super::next_serial(),
            options: options.clone(),
            modules: Vec::new(),
        };
        let mut arena = state.arena.take();
        let copied = self.copy_all(state, &mut captured, &mut arena);
        state.arena = arena;
        match copied {
            Ok(spills) => state.stats.arena_spills += u64::from(spills),
            Err(error) => {
                captured.discard(&self.0.pages);
                return Err(error);
            }
        }
        let stats = &mut state.stats;
        stats.captures += 1;
        stats.last_dirty_pages = captured.modules.iter().map(|m| pages_in(&m.runs)).sum();
        stats.last_scan_ns = scan_ns;
        stats.last_capture_ns = host::nanoseconds_since(begun);
        Ok(captured)
    }

    /// Copies the dirty pages of all modules into the arena. When it is full, what is in it is
    /// written to the drafts, and the copying goes on. Says whether that happened.
    fn copy_all(
        &self,
        state: &State,
        captured: &mut Captured,
        arena: &mut Option<Arena>,
    ) -> Result<bool> {
        let page = self.0.pages.page_size as usize;
        let mut used = 0;
        let mut spilled = false;
        for (number, bound) in state.modules.values().enumerate() {
            captured
                .modules
                .push(self.begin_module(state, bound, number)?);
            let Some(last) = captured.modules.last_mut() else {
                break;
            };
            last.runs = bound.module.dirty.take();
            if bound.module.tracking.name() == Tracker::Compare {
                let candidates = std::mem::take(&mut last.runs);
                last.runs = self.differing(bound, &candidates).inspect_err(|_| {
                    bound.module.dirty.add_all(&candidates);
                })?;
            }
            let runs = last.runs.clone();
            for run in runs {
                let mut rest = run;
                while rest.count > 0 {
                    let arena = arena.as_mut().ok_or_else(|| Error::Internal {
                        what: "modules without an arena".into(),
                    })?;
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
                    bound
                        .module
                        .memory
                        .read(part.start * page as u64, arena.room(used, bytes));
                    if let Some(last) = captured.modules.last_mut() {
                        last.waiting.push((part, used));
                    }
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

    fn begin_module(&self, state: &State, bound: &Bound, number: usize) -> Result<CapturedModule> {
        let digest = match bound.module_commit {
            None => crate::format::checksum::Digest::default(),
            Some(commit) => self.0.pages.index(&bound.module.id, commit)?.digest,
        };
        Ok(CapturedModule {
            module: bound.module.clone(),
            runs: Vec::new(),
            waiting: Vec::new(),
            draft: Draft::new(
                &self.0.pages,
                Place::hidden(format!("{}{number}", name::TEMPORARY)),
                &bound.module.id,
                bound.module.size(),
                state.history.next_number(),
                bound.module_commit,
                digest,
            ),
        })
    }

    /// Writes what waits in the arena to the drafts.
    pub(super) fn drain(
        &self,
        state: &State,
        captured: &mut Captured,
        arena: &Arena,
    ) -> Result<()> {
        let page = self.0.pages.page_size;
        for module in &mut captured.modules {
            let Some(bound) = state.modules.get(&module.module.id) else {
                continue;
            };
            let mut reading = Reading::new(&self.0.pages);
            let waiting = module
                .waiting
                .drain(..)
                .map(|(run, start)| (run, arena.bytes(start, (run.count * page) as usize)));
            module
                .draft
                .feed(&mut reading, &self.0.pages, &bound.table, waiting)?;
        }
        Ok(())
    }

    /// Those of `runs` whose memory differs from the head. A page of the head that cannot be read
    /// counts as different.
    pub(super) fn differing(&self, bound: &Bound, runs: &[Run]) -> Result<Vec<Run>> {
        let page = self.0.pages.page_size;
        let memory = &bound.module.memory;
        let zeros = crate::error::try_filled(page as usize, 0u8, "a page")?;
        let mut different = Vec::new();
        let mut pieces = Vec::new();
        for run in runs {
            bound.table.locate(*run, |located| match located.source {
                Some(source) => pieces.push(Piece {
                    run: located.run,
                    source,
                }),
                None => {
                    for at in located.run.start..located.run.end() {
                        if !memory.equals(at * page, &zeros) {
                            different.push(Run {
                                start: at,
                                count: 1,
                            });
                        }
                    }
                }
            });
        }
        let mut compare = |run: Run, bytes: &[u8]| {
            for (at, bytes) in (run.start..).zip(bytes.chunks_exact(page as usize)) {
                if !memory.equals(at * page, bytes) {
                    different.push(Run {
                        start: at,
                        count: 1,
                    });
                }
            }
            Ok(())
        };
        let mut damaged = Vec::new();
        if Reading::new(&self.0.pages)
            .pieces(pieces.clone(), &mut compare)
            .is_err()
        {
            // Once more, piece by piece, to find the pages that cannot be read.
            for piece in pieces {
                if Reading::new(&self.0.pages)
                    .pieces(vec![piece.clone()], &mut compare)
                    .is_err()
                {
                    damaged.push(piece.run);
                }
            }
        }
        different.extend(damaged);
        different.sort_unstable_by_key(|run| run.start);
        let mut merged: Vec<Run> = Vec::new();
        for run in different {
            match merged.last_mut() {
                Some(last) if run.start <= last.end() => {
                    last.count = last.end().max(run.end()) - last.start;
                }
                _ => push_run(&mut merged, run),
            }
        }
        Ok(merged)
    }
}
