//! Comparing memory with the head: what no tracker can tell.

use super::{Bound, LogLevel, Store};
use crate::Result;
use crate::page::{Run, pages_in, push_run, split, without};
use crate::pages::{Piece, Reading};

impl Store {
    /// Compares all memory with the head; see `store_audit`.
    ///
    /// # Errors
    /// As `store_audit`.
    pub fn audit(&self) -> Result<u64> {
        self.no_capture()?;
        let mut state = self.enter()?;
        self.check_poison()?;
        self.no_capture()?;
        // What was precopied is known to be dirty, and goes with the rest of it.
        state.forget_precopy();
        let mut missed = 0;
        for bound in state.modules.values() {
            let module = &bound.module;
            module.collect()?;
            let unknown = without(&[module.whole()], &module.dirty.runs());
            let found = self.differing(bound, &unknown)?;
            module.dirty.add_all(&found);
            if let Some(first) = found.first() {
                let (count, id, first) = (pages_in(&found), &module.id, first.start);
                self.log(LogLevel::Warning, || {
                    format!(
                        "audit: {count} page(s) of module \"{id}\" differ from the head and were not reported, the first is page {first}"
                    )
                });
            }
            missed += pages_in(&found);
        }
        Ok(missed)
    }

    /// Those of `runs` whose memory differs from the head. A page of the head that cannot be read
    /// counts as different.
    pub(super) fn differing(&self, bound: &Bound, runs: &[Run]) -> Result<Vec<Run>> {
        let page = self.0.pages.page_size;
        let memory = &bound.module.memory;
        let zeros = crate::error::try_filled(page as usize, 0u8, "a page")?;
        let mut different = Vec::new();
        let mut pieces = Vec::new();
        let populated = bound.module.populated();
        for run in runs {
            bound.table.locate(*run, |located| {
                let run = located.run;
                if let Some(source) = located.source {
                    pieces.push(Piece { run, source });
                    return;
                }
                let first = populated.partition_point(|other| other.end() <= run.start);
                split(&[run], &populated[first..], |part, inside| {
                    let not_zero = |at: &u64| inside && !memory.equals(at * page, &zeros);
                    let pages = (part.start..part.end()).filter(not_zero);
                    different.extend(pages.map(|start| Run { start, count: 1 }));
                });
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
