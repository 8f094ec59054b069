//! Copying a large capture with helper threads, where the caller allows them.

use super::capture::Captured;
use crate::page::{Run, pages_in};
use crate::sys::arena::Arena;
use crate::sys::threads;

/// Fewer pages than this are copied about as fast as a thread is made: 16 MiB.
const WORTH: u64 = 4096;
/// Parts for each thread, so that one which is held up does not hold up the rest.
const PARTS: u64 = 4;

/// Pages of modules, known by their numbers, and where their bytes go.
struct Part<'a> {
    pages: Vec<(usize, Run)>,
    room: &'a mut [u8],
}

/// Copies runs into the arena from `used` on: those of `fresh`, or all that were captured. `false`, and nothing
/// has happened, if no helpers are allowed, they are few, or the arena has no room for them.
pub(super) fn copy_runs(
    captured: &mut Captured,
    arena: &mut Arena,
    fresh: Option<&[Vec<Run>]>,
    used: usize,
    page: usize,
) -> bool {
    let helpers = u64::from(captured.options.helpers);
    let total: u64 = match fresh {
        Some(fresh) => fresh.iter().map(|runs| pages_in(runs)).sum(),
        None => captured.pages(),
    };
    let bytes = total as usize * page;
    if helpers == 0 || total < WORTH || bytes > arena.capacity() - used {
        return false;
    }
    let most = total.div_ceil(PARTS * (helpers + 1));
    let mut parts: Vec<(Vec<(usize, Run)>, u64)> = Vec::new();
    let mut at = used;
    for (number, module) in captured.modules.iter_mut().enumerate() {
        let runs = match fresh {
            Some(fresh) => &fresh[number],
            None => &module.runs,
        };
        for run in runs {
            module.waiting.push((*run, at));
            at += run.count as usize * page;
            let mut rest = *run;
            while rest.count > 0 {
                let part = match parts.last_mut() {
                    Some(last) if last.1 < most => last,
                    _ => {
                        parts.push((Vec::new(), 0));
                        continue;
                    }
                };
                let count = rest.count.min(most - part.1);
                let start = rest.start;
                part.0.push((number, Run { start, count }));
                part.1 += count;
                rest = Run {
                    start: start + count,
                    count: rest.count - count,
                };
            }
        }
    }
    let mut room = arena.room(used, bytes);
    let parts = parts.into_iter().map(|(pages, count)| {
        let (own, behind) = std::mem::take(&mut room).split_at_mut(count as usize * page);
        room = behind;
        Part { pages, room: own }
    });
    let parts: Vec<Part<'_>> = parts.collect();
    let modules: Vec<_> = captured.modules.iter().map(|m| &m.module.memory).collect();
    threads::share(helpers as usize, parts, |part: Part<'_>| {
        let mut room = part.room;
        for (number, run) in part.pages {
            let (own, behind) = room.split_at_mut(run.count as usize * page);
            modules[number].read(run.start * page as u64, own);
            room = behind;
        }
    });
    true
}
