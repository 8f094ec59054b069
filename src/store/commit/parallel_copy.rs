//! Copying of a large capture with helper threads, if the caller allows them.

use crate::page_set::{Run, pages_in};
use crate::store::state::Captured;
use crate::sys::arena::Arena;
use crate::sys::threads;

/// With fewer pages than this, the copying takes about as long as making a thread. With pages of 4
/// KiB, this is 16 MiB.
const WORTH: u64 = 4096;
/// Parts for each thread. With several parts, a slow thread does not delay the whole copy.
const PARTS: u64 = 4;

/// Pages to copy into the arena.
pub(super) struct ToCopy<'a> {
    /// For each module: the runs to copy. `None`: all captured runs.
    pub(super) fresh: Option<&'a [Vec<Run>]>,
    /// The bytes of the arena that are in use.
    pub(super) used: usize,
    /// Bytes of a page.
    pub(super) page: usize,
}

impl ToCopy<'_> {
    /// A run of the module with the number `module`. `None`: the module has no more runs.
    pub(super) fn run(&self, captured: &Captured, module: usize, at: usize) -> Option<Run> {
        let runs = match self.fresh {
            Some(fresh) => &fresh[module],
            None => &captured.modules[module].runs,
        };
        runs.get(at).copied()
    }
}

/// Pages to copy, each run with the number of its module, and the part of the arena for their
/// bytes.
struct CopyPart<'a> {
    pages: Vec<(usize, Run)>,
    room: &'a mut [u8],
}

/// Copies runs into the arena. Returns `false` and does nothing if the caller allows no helpers, if
/// the runs have few pages, or if the arena has no room for them.
pub(super) fn copy_runs(captured: &mut Captured, arena: &mut Arena, to_copy: &ToCopy<'_>) -> bool {
    let ToCopy { fresh, used, page } = *to_copy;
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
        CopyPart { pages, room: own }
    });
    let parts: Vec<CopyPart<'_>> = parts.collect();
    let modules: Vec<_> = captured.modules.iter().map(|m| &m.module.memory).collect();
    threads::share(helpers as usize, parts, |part: CopyPart<'_>| {
        let mut room = part.room;
        for (number, run) in part.pages {
            let (own, behind) = room.split_at_mut(run.count as usize * page);
            modules[number].read(run.start * page as u64, own);
            room = behind;
        }
    });
    true
}
