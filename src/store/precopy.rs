//! Precopy: most of a capture's copying, done while the guest still runs. What it writes meanwhile is
//! copied again.

use std::collections::BTreeMap;

use super::options::{PrecopyOptions, Progress};
use super::{State, Store};
use crate::Result;
use crate::page::{Run, pages_in};
use crate::sys::arena::Arena;
use crate::sys::memory::Memory;

const TARGET: u64 = 1024;
const ROUNDS: u32 = 16;

/// Pages in the arena, each as it was at some moment after the tracker had taken note of its last known
/// write: one that was written since is dirty again.
#[derive(Default)]
pub(super) struct Precopied {
    /// By module: where each run is, in page order.
    modules: BTreeMap<String, Vec<(Run, usize)>>,
    used: usize,
}

impl Precopied {
    pub(super) fn waiting(&self, module: &str) -> &[(Run, usize)] {
        self.modules.get(module).map_or(&[], Vec::as_slice)
    }

    /// The bytes of the arena that are in use.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn pages(&self) -> u64 {
        let lists = self.modules.values().flatten();
        lists.map(|(run, _)| run.count).sum()
    }

    /// Makes its pages dirty again.
    pub(super) fn give_back(&self, state: &State) {
        for (id, waiting) in &self.modules {
            if let Some(bound) = state.modules.get(id) {
                let adding = bound.module.dirty.adding();
                let mut gathering = adding.gathering();
                for (run, _) in waiting {
                    gathering.add(*run);
                }
            }
        }
    }
}

impl State {
    /// Gives precopied pages up: they are dirty again, and the arena is free.
    pub(super) fn forget_precopy(&mut self) {
        if let Some(precopied) = self.precopied.take() {
            precopied.give_back(self);
        }
    }

    /// Asks the trackers, and returns how many pages a capture would have to copy now. Modules that are
    /// compared are left out: nothing tells what was written to them.
    fn count_written(&self) -> Result<u64> {
        let mut count = 0;
        for bound in self.modules.values().filter(|b| !b.module.compares()) {
            bound.module.collect()?;
            count += bound.module.dirty.count();
        }
        Ok(count)
    }
}

impl Store {
    /// Copies written pages ahead of a capture; see `store_precopy`.
    ///
    /// # Errors
    /// As `store_precopy`.
    pub fn precopy(&self, options: &PrecopyOptions, mut progress: Progress<'_>) -> Result<u64> {
        self.no_capture()?;
        let mut state = self.enter_to_write()?;
        self.no_capture()?;
        let page = self.0.pages.page_size;
        let target = match options.target_pages {
            0 => TARGET,
            pages => pages,
        };
        let rounds = match options.max_rounds {
            0 => ROUNDS,
            rounds => rounds,
        };
        let mut left = state.count_written()?;
        let mut done = 0;
        for _ in 0..rounds {
            self.tell(&mut progress, done * page, (done + left) * page)?;
            if left == 0 {
                break;
            }
            let copied = self.copy_round(&mut state);
            done += copied;
            let before = left;
            left = state.count_written()?;
            // As fast as the guest writes it will never be done, and without room neither.
            if left <= target || left >= before || copied < before {
                break;
            }
        }
        // The capture finds its memory touched.
        let used = state.precopied.as_ref().map_or(0, Precopied::used);
        let wanted = used.saturating_add((left.saturating_mul(2 * page)) as usize);
        if let Some(arena) = &mut state.arena {
            arena.warm(wanted);
        }
        self.tell(&mut progress, done * page, (done + left) * page)?;
        Ok(left)
    }

    /// Copies what is in the dirty sets, as far as there is room. Returns the pages copied.
    fn copy_round(&self, state: &mut State) -> u64 {
        let Some(mut arena) = state.arena.take() else {
            return 0;
        };
        let mut precopied = state.precopied.take().unwrap_or_default();
        let mut copied = 0;
        for (id, bound) in &state.modules {
            if !bound.module.compares() {
                let waiting = precopied.modules.entry(id.clone()).or_default();
                let runs = bound.module.dirty.take();
                let left = self.copy_module(
                    &bound.module.memory,
                    &mut arena,
                    &mut precopied.used,
                    waiting,
                    &runs,
                );
                bound.module.dirty.add_all(&left);
                copied += pages_in(&runs) - pages_in(&left);
            }
        }
        state.arena = Some(arena);
        state.precopied = Some(precopied);
        copied
    }

    /// Copies runs of one module, and returns those for which there is no room. A quarter of the arena
    /// is left for the capture.
    fn copy_module(
        &self,
        memory: &Memory,
        arena: &mut Arena,
        used: &mut usize,
        waiting: &mut Vec<(Run, usize)>,
        runs: &[Run],
    ) -> Vec<Run> {
        let page = self.0.pages.page_size;
        let mut fresh = Vec::new();
        refresh(memory, page, arena, waiting, runs, &mut fresh);
        let mut left = Vec::new();
        for run in fresh {
            let room = ((arena.capacity() / 4 * 3).saturating_sub(*used) as u64) / page;
            let part = Run {
                start: run.start,
                count: run.count.min(room),
            };
            if part.count > 0 {
                let bytes = (part.count * page) as usize;
                memory.read(part.start * page, arena.room(*used, bytes));
                waiting.push((part, *used));
                *used += bytes;
            }
            if part.count < run.count {
                left.push(Run {
                    start: part.end(),
                    count: run.count - part.count,
                });
            }
        }
        waiting.sort_unstable_by_key(|(run, _)| run.start);
        left
    }
}

/// Copies those pages of `runs` that wait in the arena already into their places there, and adds the
/// others to `fresh`. Both lists are sorted.
pub(super) fn refresh(
    memory: &Memory,
    page: u64,
    arena: &mut Arena,
    waiting: &[(Run, usize)],
    runs: &[Run],
    fresh: &mut Vec<Run>,
) {
    let mut at = 0;
    for run in runs {
        let mut start = run.start;
        while start < run.end() {
            while at < waiting.len() && waiting[at].0.end() <= start {
                at += 1;
            }
            let (end, place) = match waiting.get(at) {
                Some((old, place)) if old.start <= start => {
                    let place = place + ((start - old.start) * page) as usize;
                    (old.end().min(run.end()), Some(place))
                }
                Some((old, _)) => (old.start.min(run.end()), None),
                None => (run.end(), None),
            };
            let count = end - start;
            match place {
                Some(place) => {
                    let bytes = (count * page) as usize;
                    memory.read(start * page, arena.room(place, bytes));
                }
                None => fresh.push(Run { start, count }),
            }
            start = end;
        }
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn pages_that_wait_are_refreshed_in_their_places() {
        let page = crate::sys::host::page_size();
        let memory = Memory::anonymous(32 * page).unwrap();
        let mut arena = Arena::new(32 * page).unwrap();
        let run = |start, count| Run { start, count };
        let waiting = [(run(2, 3), 0), (run(10, 2), 3 * page as usize)];
        for number in 0..32 {
            memory.write(number * page, &[number as u8 + 1]);
        }
        let mut fresh = Vec::new();
        let runs = [run(0, 4), run(9, 4), run(20, 2)];
        refresh(&memory, page, &mut arena, &waiting, &runs, &mut fresh);
        assert_eq!(fresh, [run(0, 2), run(9, 1), run(12, 1), run(20, 2)]);
        let first = |place: u64| arena.bytes((place * page) as usize, 1)[0];
        // Page 4 was not written again, and keeps what was copied before.
        assert_eq!((0..5).map(first).collect::<Vec<_>>(), [3, 4, 0, 11, 12]);
    }
}
