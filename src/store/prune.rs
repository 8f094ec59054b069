//! Deleting commits. What is below a deleted commit's children is folded into them where that is cheap;
//! else the file stays, for them alone, until a compaction.

use std::sync::Arc;

use super::{LogLevel, State, Store};
use crate::format::commit::{Commit, Event, ModuleEntry};
use crate::format::index::{Index, Shape};
use crate::format::name;
use crate::pages::{Finished, pages_of, rewrite};
use crate::sys::fs::Place;
use crate::{Error, Result};

/// Up to this many pages are folded whether or not that frees many: it keeps chains short.
const SMALL: u64 = 1024;

/// A child that was rewritten to do without a deleted module commit, and waits for its name.
struct Fold {
    rewritten: Finished,
    chain: Vec<Arc<Index>>,
}

impl Store {
    /// Deletes a commit; see `store_delete_commit`.
    ///
    /// # Errors
    /// As `store_delete_commit`.
    pub fn delete_commit(&self, commit: u64) -> Result<()> {
        self.check_reentry()?;
        let _upkeep = self.0.upkeep.lock();
        // A persist under way has the files open that a fold would replace.
        let gate = self.0.gate.lock();
        let mut state = self.enter_to_write()?;
        let commit = state.history.get(commit)?.commit.clone();
        if commit.number == state.history.head() {
            return Err(Error::Busy {
                why: "the commit is the head; restore another one first",
            });
        }
        state.lineage(self)?;
        for fold in self.folds(&mut state, &commit, gate.told()) {
            // Whether or not the commit is deleted after this, the child is what it was.
            let module = fold.rewritten.index.module.clone();
            let image = fold.rewritten.index.shape == Shape::Image;
            match self.install(&mut state, fold.rewritten, &fold.chain) {
                Ok(()) if image => self.let_go_of_image(&state, &module),
                Ok(()) => {}
                Err(error) => self.note_kept(&error),
            }
        }
        let sequence = state.record(Event::Deleted(commit.number))?;
        let gone = state.lineage(self)?.remove(&commit);
        self.remove_unneeded(&mut state, gone, sequence, gate.told());
        Ok(())
    }

    fn note_kept(&self, error: &Error) {
        self.log(LogLevel::Warning, || {
            format!("a file of the deleted commit stays, for those that were made on it: {error}")
        });
    }

    /// Rewrites the children of the module commits that only `commit` names, where that is worth its
    /// cost. A failure leaves the file for its children.
    fn folds(&self, state: &mut State, commit: &Commit, told: u64) -> Vec<Fold> {
        let mut folds = Vec::new();
        let own = |entry: &&ModuleEntry| entry.module_commit == commit.number;
        let changed = |entry: &ModuleEntry| {
            let index = self.0.pages.index(&entry.id, entry.module_commit);
            index.map_or(0, |index| index.changed_pages())
        };
        let mut budget = 2 * commit.modules.iter().filter(own).map(changed).sum::<u64>();
        // Its own files first; others, which it was the last to name, for what that leaves.
        let others = commit.modules.iter().filter(|entry| !own(entry));
        for entry in commit.modules.iter().filter(own).chain(others) {
            match self.fold(state, entry, budget, folds.len(), told) {
                Ok(None) => {}
                Ok(Some(fold)) => {
                    budget = budget.saturating_sub(fold.rewritten.index.data_pages());
                    folds.push(fold);
                }
                Err(error) => self.note_kept(&error),
            }
        }
        folds
    }

    /// Writes the only child of a module commit anew, without it. `None`: it is needed, has no child or
    /// several, or it would cost more than `budget` pages.
    fn fold(
        &self,
        state: &mut State,
        entry: &ModuleEntry,
        budget: u64,
        number: usize,
        told: u64,
    ) -> Result<Option<Fold>> {
        let (module, commit) = (entry.id.as_str(), entry.module_commit);
        let lineage = state.lineage(self)?;
        let Some(family) = lineage.modules.get(module) else {
            return Ok(None);
        };
        let unclear = family.is_unclear(commit);
        let named = family.get(commit).map_or(0, |node| node.named);
        let children: Vec<u64> = family.children(commit).take(2).collect();
        let [child] = children[..] else {
            return Ok(None);
        };
        if named > 1 || unclear {
            return Ok(None);
        }
        let chain = vec![
            self.0.pages.index(module, child)?,
            self.0.pages.index(module, commit)?,
        ];
        let held = |index: &Index| index.data_pages() + index.zero_pages();
        let all = pages_of(&chain);
        let twice = held(&chain[0]) + held(&chain[1]) - all;
        let worth = all <= SMALL || twice * 4 >= all;
        if !worth || all > budget {
            return Ok(None);
        }
        let temporary = Place::hidden(format!("{}fold-{number}", name::TEMPORARY));
        let rewritten = rewrite(&self.0.pages, &chain, &temporary, &mut |_| Ok(()))?;
        if !state.is_unsynced(module, child, told) {
            // The old file is durable, and a rename may reach the disk at any time.
            state.stats.syncs += 1;
            if let Err(error) = rewritten.file.sync() {
                let _ = self.0.files.unlink(&temporary);
                return Err(error);
            }
        }
        Ok(Some(Fold { rewritten, chain }))
    }
}
