//! Precopy: most of a capture's copying is done while the guest still runs. Pages that the guest
//! writes meanwhile are copied again.

use crate::Result;
use crate::page_set::{Run, pages_in};
use crate::store::options::{PrecopyOptions, Progress};
use crate::store::state::{Locked, Store};
use crate::sys::arena::Arena;
use crate::sys::memory::Memory;

const TARGET: u64 = 1024;
const ROUNDS: u32 = 16;

impl Store {
    /// Does most of the next capture's copying while the guest runs. Returns how many pages are
    /// left to copy now; see `store_precopy`.
    ///
    /// Copies the pages that were written since the last commit, then the pages that were written
    /// meanwhile, and so on, until few are left. The next capture then copies only pages that were
    /// written since. Call it as often as you like, and pause the guest when the returned number is
    /// small. The copies take up to three quarters of
    /// [`OpenOptions::arena_limit`](crate::OpenOptions::arena_limit). Modules that are compared
    /// take no part. With [`Tracker::Caller`](crate::Tracker::Caller): write first, then mark,
    /// because a mark that comes before its write can be used up by a round that copies the old
    /// bytes.
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy): a capture is outstanding.
    /// [`Error::Cancelled`](crate::Error::Cancelled): the pages that were copied are kept.
    /// [`Error::Invalid`](crate::Error::Invalid), [`Error::ReadOnly`](crate::Error::ReadOnly),
    /// [`Error::Poisoned`](crate::Error::Poisoned).
    pub fn precopy(&self, options: &PrecopyOptions, mut progress: Progress<'_>) -> Result<u64> {
        self.check_no_capture()?;
        let mut locked = self.enter_to_write()?;
        self.check_no_capture()?;
        let page = self.page_size();
        let target = match options.target_pages {
            0 => TARGET,
            pages => pages,
        };
        let rounds = match options.max_rounds {
            0 => ROUNDS,
            rounds => rounds,
        };
        let mut left = locked.count_written()?;
        let mut done = 0;
        for _ in 0..rounds {
            self.report_progress(&mut progress, done * page, (done + left) * page)?;
            if left == 0 {
                break;
            }
            let copied = locked.copy_round();
            done += copied;
            let before = left;
            left = locked.count_written()?;
            // More rounds do not help when the guest writes as fast as pages are copied, or when
            // the arena has no room.
            if left <= target || left >= before || copied < before {
                break;
            }
        }
        // Touch the arena memory that the capture will need now, while the guest runs.
        let used = locked.captures.precopied.as_ref();
        let used = used.map_or(0, |precopied| precopied.used);
        let wanted = used.saturating_add((left.saturating_mul(2 * page)) as usize);
        if let Some(arena) = &mut locked.captures.arena {
            arena.warm(wanted);
        }
        self.report_progress(&mut progress, done * page, (done + left) * page)?;
        Ok(left)
    }
}

impl Locked<'_> {
    /// Asks the trackers. Returns how many pages a capture would have to copy now. Modules that are
    /// compared are left out, because no tracker reports their writes.
    fn count_written(&self) -> Result<u64> {
        let mut count = 0;
        for state in self.modules.values().filter(|m| !m.module.compares()) {
            state.module.collect()?;
            count += state.module.dirty.count();
        }
        Ok(count)
    }

    /// Copies the pages of the dirty sets, as far as the arena has room. Returns the number of
    /// copied pages.
    fn copy_round(&mut self) -> u64 {
        let Some(mut arena) = self.captures.arena.take() else {
            return 0;
        };
        let mut precopied = self.captures.precopied.take().unwrap_or_default();
        let mut copied = 0;
        for (id, state) in &self.modules {
            if !state.module.compares() {
                let mut room = ModuleRoom {
                    page: self.store.page_size(),
                    arena: &mut arena,
                    used: &mut precopied.used,
                    waiting: precopied.modules.entry(id.clone()).or_default(),
                };
                let runs = state.module.dirty.take();
                let left = room.copy(&state.module.memory, &runs);
                state.module.dirty.add_all(&left);
                copied += pages_in(&runs) - pages_in(&left);
            }
        }
        self.captures.arena = Some(arena);
        self.captures.precopied = Some(precopied);
        copied
    }
}

/// The arena, and the places in the arena that hold pages of one module.
struct ModuleRoom<'a> {
    /// Bytes of a page.
    page: u64,
    arena: &'a mut Arena,
    /// The bytes of the arena that are in use.
    used: &'a mut usize,
    /// The runs of the module in page order, and the place of each run in the arena.
    waiting: &'a mut Vec<(Run, usize)>,
}

impl ModuleRoom<'_> {
    /// Copies runs of the module. Returns the runs for which there is no room. A quarter of the
    /// arena stays free for the capture.
    fn copy(&mut self, memory: &Memory, runs: &[Run]) -> Vec<Run> {
        let page = self.page;
        let fresh = refresh(memory, page, self.arena, self.waiting, runs);
        let mut left = Vec::new();
        for run in fresh {
            let limit = self.arena.capacity() / 4 * 3;
            let room = (limit.saturating_sub(*self.used) as u64) / page;
            let part = Run {
                start: run.start,
                count: run.count.min(room),
            };
            if part.count > 0 {
                let bytes = (part.count * page) as usize;
                memory.read(part.start * page, self.arena.room(*self.used, bytes));
                self.waiting.push((part, *self.used));
                *self.used += bytes;
            }
            if part.count < run.count {
                left.push(Run {
                    start: part.end(),
                    count: run.count - part.count,
                });
            }
        }
        self.waiting.sort_unstable_by_key(|(run, _)| run.start);
        left
    }
}

/// Copies again those pages of `runs` that already have a place in the arena, into these places.
/// Returns the other pages. All lists are sorted.
pub(super) fn refresh(
    memory: &Memory,
    page: u64,
    arena: &mut Arena,
    waiting: &[(Run, usize)],
    runs: &[Run],
) -> Vec<Run> {
    let mut fresh = Vec::new();
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
    fresh
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
        let runs = [run(0, 4), run(9, 4), run(20, 2)];
        let fresh = refresh(&memory, page, &mut arena, &waiting, &runs);
        assert_eq!(fresh, [run(0, 2), run(9, 1), run(12, 1), run(20, 2)]);
        let first = |place: u64| arena.bytes((place * page) as usize, 1)[0];
        // Page 4 was not written again, and keeps what was copied before.
        assert_eq!((0..5).map(first).collect::<Vec<_>>(), [3, 4, 0, 11, 12]);
    }
}
