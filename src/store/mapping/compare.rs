//! Comparing memory with the head, which finds writes that no tracker reported.

use crate::layer::{Piece, Reading};
use crate::page_set::{Run, pages_in, push_run, split, without};
use crate::store::options::LogLevel;
use crate::store::state::{ModuleState, Store};
use crate::{Error, Result};

impl Store {
    /// Finds writes that tracking missed: compares the memory of all mapped modules with the head.
    /// Returns how many pages differ that nobody reported; see `store_audit`.
    ///
    /// These pages are dirty from now on, and the log function receives a warning. Use it in the
    /// tests of a VMM: the result must be 0. Pause every writer. The call reads all memory, about a
    /// second for 2 GiB. Modules that are compared are left out, because their next capture finds
    /// everything.
    ///
    /// # Errors
    /// [`Error::Busy`]: a capture is outstanding. [`Error::Corrupt`]: a page of the head cannot be
    /// read. [`Error::Stale`], [`Error::Poisoned`], [`Error::Io`], [`Error::NoMemory`].
    pub fn audit(&self) -> Result<u64> {
        self.or_stale(self.audit_modules())
    }

    fn audit_modules(&self) -> Result<u64> {
        self.check_no_capture()?;
        let mut locked = self.enter()?;
        self.check_poison()?;
        self.check_no_capture()?;
        // Precopied pages are known to be dirty. They become part of the dirty set again.
        locked.forget_precopy();
        let mut missed = 0;
        // A module that is compared needs no audit: its next capture compares all pages that were
        // not reported.
        for state in locked.modules.values() {
            let module = &state.module;
            module.collect()?;
            if module.compares() {
                continue;
            }
            let unknown = without(&[module.whole()], &module.dirty.runs());
            let (found, damage) = self.differing_and_damaged(state, &unknown)?;
            if let Some(damage) = damage {
                return Err(damage);
            }
            module.dirty.add_all(&found);
            if let Some(first) = found.first() {
                let (count, id, first) = (pages_in(&found), &module.id, first.start);
                self.log(LogLevel::Warning, || {
                    format!(
                        "audit: {count} page(s) of module \"{id}\" differ from the head and were not reported; the first of them is page {first}"
                    )
                });
            }
            missed += pages_in(&found);
        }
        Ok(missed)
    }

    /// The pages of `runs` whose memory differs from the head. A page counts as different if its
    /// bytes at the head cannot be read.
    pub(in crate::store) fn differing(
        &self,
        state: &ModuleState,
        runs: &[Run],
    ) -> Result<Vec<Run>> {
        self.differing_and_damaged(state, runs)
            .map(|(runs, _)| runs)
    }

    /// As [`Store::differing`]. Also returns the first error if pages of the head cannot be read.
    fn differing_and_damaged(
        &self,
        state: &ModuleState,
        runs: &[Run],
    ) -> Result<(Vec<Run>, Option<Error>)> {
        let page = self.page_size();
        let memory = &state.module.memory;
        let zeros = crate::error::try_filled(page as usize, 0u8, "a page")?;
        let mut different = Vec::new();
        let mut pieces = Vec::new();
        let populated = state.module.populated();
        for run in runs {
            state.table.locate(*run, |located| {
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
        let (mut damaged, mut damage) = (Vec::new(), None);
        if Reading::new(&self.0.layers)
            .pieces(pieces.clone(), &mut compare)
            .is_err()
        {
            // Read once more, page by page, to find the pages that cannot be read.
            let mut reading = Reading::new(&self.0.layers);
            for Piece { run, source } in &pieces {
                for start in run.start..run.end() {
                    let run = Run { start, count: 1 };
                    let source = source.clone();
                    let one = vec![Piece { run, source }];
                    if let Err(error) = reading.pieces(one, &mut compare) {
                        damage.get_or_insert(error);
                        damaged.push(run);
                    }
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
        Ok((merged, damage))
    }
}
