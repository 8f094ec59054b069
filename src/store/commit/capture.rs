//! Capturing: the part of a commit for which the guest is paused.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::parallel_copy::{self, ToCopy};
use super::precopy;
use crate::page_set::{Run, pages_in, union, without};
use crate::store::options::CommitOptions;
use crate::store::state::{Captured, ListPool, Locked, Precopied, Store, next_serial};
use crate::sys::arena::Arena;
use crate::sys::host;
use crate::{Error, Result};

/// A commit that is captured and not written yet. A clone is another handle of the same capture.
///
/// [`Store::capture`] makes the value. [`Capture::commit`] and [`Capture::cancel`] end the capture,
/// from any thread. Dropping the value does not end it.
#[derive(Clone)]
pub struct Capture {
    store: Store,
    serial: u64,
}

impl Capture {
    /// The store that the capture belongs to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Refuses calls of a forked child, and calls from inside a callback. The capture stays as it is.
    pub(crate) fn check_reentry(&self) -> Result<()> {
        self.store.check_reentry()
    }

    /// Writes the captured pages and makes the commit. Returns the number of the commit; see
    /// `store_capture_commit`.
    ///
    /// The guest may run meanwhile. What it writes belongs to the next commit. If nothing changed,
    /// this makes no commit and returns the head, as [`Store::commit`] does. The call ends the
    /// capture, also when it fails. After an error the captured pages are dirty again, and the next
    /// commit takes them.
    ///
    /// # Errors
    /// As [`Store::commit`]. [`Error::Handle`]: the capture was ended before.
    pub fn commit(&self) -> Result<u64> {
        let mut locked = self.store.enter()?;
        let captured = locked.take_outstanding(self.serial)?;
        let _ended = Ended(&self.store);
        if let Err(error) = self.store.check_poison() {
            locked.discard_capture(captured);
            return Err(error);
        }
        locked.write_commit(captured)
    }

    /// Gives up the capture: its pages are dirty again, and the next commit takes them; see
    /// `store_capture_cancel`.
    ///
    /// # Errors
    /// [`Error::Handle`]: the capture was ended before.
    pub fn cancel(&self) -> Result<()> {
        let mut locked = self.store.enter()?;
        let captured = locked.take_outstanding(self.serial)?;
        let _ended = Ended(&self.store);
        locked.discard_capture(captured);
        Ok(())
    }
}

/// Ends a capture when it is dropped, whether its commit or cancel succeeded or failed.
struct Ended<'a>(&'a Store);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.0.capturing.store(false, Ordering::Release);
    }
}

impl Store {
    /// The first half of a commit: finds the written pages of all modules and copies them into
    /// memory of the library; see `store_capture`.
    ///
    /// Pause every writer for this call only. Afterwards let the guest run, and call
    /// [`Capture::commit`] from any thread. Until the capture is ended, another capture and commit,
    /// precopy, restore, audit, map, grow and unmap fail with [`Error::Busy`] at once, and so does
    /// the last step of an import. All other calls work. After an error the pages are still known
    /// to be dirty.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn capture(&self, options: &CommitOptions) -> Result<Capture> {
        let mut locked = self.enter_to_capture(options)?;
        let captured = locked.take_capture(options)?;
        let serial = captured.serial;
        locked.captures.outstanding = Some(captured);
        self.0.capturing.store(true, Ordering::Release);
        Ok(Capture {
            store: self.clone(),
            serial,
        })
    }

    /// Makes a commit: an atomic snapshot of all modules. Returns its number; see `store_commit`.
    ///
    /// Pause every writer for the whole call, or use [`Store::capture`] to pause for less. The
    /// commit holds every mapped module as it is now, and every other module of the head unchanged.
    /// Its parent is the head, and it becomes the head. The call costs the pages that were written
    /// since the last commit. After it returns, the commit survives the death of the process. It
    /// survives a power cut after the next [`Store::persist`].
    ///
    /// If no byte changed since the head, no module is new, and the options have neither label nor
    /// user data, this makes no commit and returns the head. The first commit of a store is always
    /// made. Numbers ascend and are not reused, except numbers of commits that a power cut took.
    /// After an error there is no new commit, and the next commit takes everything.
    ///
    /// # Errors
    /// [`Error::Invalid`]: an option breaks a rule, or something was mapped over a module.
    /// [`Error::Busy`]: a capture is outstanding. [`Error::ReadOnly`], [`Error::Poisoned`],
    /// [`Error::NoMemory`]. [`Error::Io`]: also the disk is full. [`Error::Corrupt`]: a module commit
    /// of the head is damaged.
    pub fn commit(&self, options: &CommitOptions) -> Result<u64> {
        let mut locked = self.enter_to_capture(options)?;
        let captured = locked.take_capture(options)?;
        locked.write_commit(captured)
    }

    fn enter_to_capture(&self, options: &CommitOptions) -> Result<Locked<'_>> {
        options.check()?;
        self.check_reentry()?;
        self.check_no_capture()?;
        self.enter_to_write()
    }
}

impl Locked<'_> {
    /// Takes the outstanding capture out, if it is the one with this serial number.
    fn take_outstanding(&mut self, serial: u64) -> Result<Captured> {
        let outstanding = &mut self.captures.outstanding;
        let taken = outstanding.take_if(|captured| captured.serial == serial);
        taken.ok_or(Error::Handle {
            argument: "capture",
            why: "it was consumed earlier",
        })
    }

    /// Gives up a capture: its pages are dirty again, and its files are removed.
    pub(super) fn discard_capture(&mut self, captured: Captured) {
        let layers = &self.store.0.layers;
        captured.discard(layers, &mut self.captures.lists);
    }

    fn take_capture(&mut self, options: &CommitOptions) -> Result<Captured> {
        self.store.check_no_capture()?;
        let begun = Instant::now();
        for state in self.modules.values() {
            // The pages that this finds are in the dirty set. After a failure they stay there.
            state.module.collect()?;
        }
        let scan_ns = host::nanoseconds_since(begun);
        let precopied = self.captures.precopied.take();
        let mut lists = std::mem::take(&mut self.captures.lists);
        let mut captured = Captured {
            serial: next_serial(),
            options: options.clone(),
            modules: std::mem::take(&mut lists.modules),
            copied: 0,
        };
        let mut arena = self.captures.arena.take();
        let copied = self
            .take_dirty(&mut captured, &mut lists)
            .and_then(|()| match &mut arena {
                Some(arena) => self.copy_all(&mut captured, arena, precopied.as_ref()),
                None => Ok(false),
            });
        self.captures.arena = arena;
        self.captures.lists = lists;
        match copied {
            Ok(spills) => self.stats.arena_spills += u64::from(spills),
            Err(error) => {
                if let Some(precopied) = precopied {
                    precopied.give_back(&self.modules);
                }
                self.discard_capture(captured);
                return Err(error);
            }
        }
        let stats = &mut self.stats;
        stats.captures += 1;
        stats.last_dirty_pages = captured.pages();
        stats.last_copied_pages = captured.copied;
        stats.last_precopied_pages = precopied.map_or(0, |precopied| precopied.pages());
        stats.last_scan_ns = scan_ns;
        stats.last_capture_ns = host::nanoseconds_since(begun);
        Ok(captured)
    }

    /// Moves the dirty pages of all modules into the capture. A module that is compared adds its
    /// pages that differ from the head.
    fn take_dirty(&self, captured: &mut Captured, lists: &mut ListPool) -> Result<()> {
        for state in self.modules.values() {
            captured.modules.push(lists.module(&state.module));
            let Some(last) = captured.modules.last_mut() else {
                break;
            };
            state.module.dirty.take_into(&mut last.runs);
            if state.module.compares() {
                let unknown = without(&[state.module.whole()], &last.runs);
                last.runs = union(&last.runs, &self.store.differing(state, &unknown)?);
            }
        }
        Ok(())
    }

    /// Copies the captured pages into the arena, except pages that were precopied and not written
    /// since. When the arena is full, its pages are written to the drafts, and the copying goes on.
    /// Returns whether the arena was full.
    fn copy_all(
        &self,
        captured: &mut Captured,
        arena: &mut Arena,
        precopied: Option<&Precopied>,
    ) -> Result<bool> {
        let mut fresh = None;
        let mut used = 0;
        captured.copied = captured.pages();
        if let Some(precopied) = precopied {
            (fresh, used) = self.merge_precopied(precopied, captured, arena);
        }
        if fresh.is_none() {
            captured.copied = captured.pages();
        }
        let to_copy = ToCopy {
            fresh: fresh.as_deref(),
            used,
            page: self.store.page_size() as usize,
        };
        let spilled = if parallel_copy::copy_runs(captured, arena, &to_copy) {
            false
        } else {
            self.copy_runs(captured, arena, &to_copy)?
        };
        if fresh.is_some() {
            for module in &mut captured.modules {
                module.waiting.sort_unstable_by_key(|(run, _)| run.start);
            }
        }
        Ok(spilled)
    }

    /// Takes precopied pages into a capture. Pages that were written since the precopy are copied
    /// again into their places in the arena. Returns the runs of each module that are still to be
    /// copied, and how many bytes of the arena are used. When the arena has no room for these runs,
    /// returns `None`: all pages, also the precopied pages, are then copied anew.
    fn merge_precopied(
        &self,
        precopied: &Precopied,
        captured: &mut Captured,
        arena: &mut Arena,
    ) -> (Option<Vec<Vec<Run>>>, usize) {
        let page = self.store.page_size();
        let mut fresh = Vec::with_capacity(captured.modules.len());
        for captured in &mut captured.modules {
            captured
                .waiting
                .extend_from_slice(precopied.waiting(&captured.module.id));
            let (memory, waiting) = (&captured.module.memory, &captured.waiting);
            let new = precopy::refresh(memory, page, arena, waiting, &captured.runs);
            let before: Vec<Run> = waiting.iter().map(|(run, _)| *run).collect();
            captured.runs = union(&captured.runs, &before);
            fresh.push(new);
        }
        let wanted: u64 = fresh.iter().map(|runs| pages_in(runs) * page).sum();
        if precopied.used as u64 + wanted <= arena.capacity() as u64 {
            return (Some(fresh), precopied.used);
        }
        for captured in &mut captured.modules {
            captured.waiting.clear();
        }
        (None, 0)
    }

    /// Copies runs into the arena. The loop uses numbers and no references, because `drain` changes
    /// the modules meanwhile. Returns whether the arena was full.
    fn copy_runs(
        &self,
        captured: &mut Captured,
        arena: &mut Arena,
        to_copy: &ToCopy<'_>,
    ) -> Result<bool> {
        let (page, mut used) = (to_copy.page, to_copy.used);
        let mut spilled = false;
        for number in 0..captured.modules.len() {
            for at in 0.. {
                let Some(mut rest) = to_copy.run(captured, number, at) else {
                    break;
                };
                while rest.count > 0 {
                    let room = ((arena.capacity() - used) / page) as u64;
                    if room == 0 {
                        self.drain(captured, arena)?;
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
}
