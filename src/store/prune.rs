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
    synced: bool,
}

impl Store {
    /// Deletes a commit; see `store_delete_commit`.
    ///
    /// # Errors
    /// As `store_delete_commit`.
    pub fn delete_commit(&self, commit: u64) -> Result<()> {
        self.check_reentry()?;
        let _upkeep = self.0.upkeep.lock();
        let commit = deletable(&*self.enter_to_write()?, commit)?;
        self.know_lineage()?;
        // Commits go on meanwhile.
        for fold in self.folds(&commit)? {
            // Whether or not the commit is deleted after this, the child is what it was.
            match self.install_fold(fold) {
                Ok(()) => {}
                Err(error @ Error::Sync { .. }) => {
                    // Only a copy is lost; but a disk that fails to write is to be heard of.
                    self.poison(&error);
                    return Err(error);
                }
                Err(error) => self.note_kept(&error),
            }
        }
        let gate = self.0.gate.lock();
        let gone = {
            let mut state = self.enter_to_write()?;
            // Another thread may have restored it.
            let commit = deletable(&state, commit.number)?;
            // What can fail comes before the record, which is the deletion.
            state.lineage(self)?;
            let sequence = state.record(Event::Deleted(commit.number))?;
            let gone = state.lineage(self)?.remove(&commit);
            self.take_out(&mut state, gone, sequence, gate.told())
        };
        self.remove_files(&gone);
        Ok(())
    }

    fn note_kept(&self, error: &Error) {
        self.log(LogLevel::Warning, || {
            format!("a file of the deleted commit stays, for those that were made on it: {error}")
        });
    }

    /// Rewrites the children of the module commits that only `commit` names, where that is worth its
    /// cost. A failure, as on a full disk, leaves the file for its children, until a later deletion or a
    /// compaction can do without it.
    fn folds(&self, commit: &Commit) -> Result<Vec<Fold>> {
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
            let Some(links) = Self::foldable(&*self.enter()?, entry) else {
                continue;
            };
            match self.fold(&entry.id, &links, budget, folds.len()) {
                Ok(None) => {}
                Ok(Some(fold)) => {
                    budget = budget.saturating_sub(fold.rewritten.index.data_pages());
                    folds.push(fold);
                }
                Err(error) => self.note_kept(&error),
            }
        }
        Ok(folds)
    }

    /// The only child of a module commit that its session commit alone names, then that module commit, then
    /// those below it that nothing but the one above needs. `None`: it is needed, or has no child or several.
    fn foldable(state: &State, entry: &ModuleEntry) -> Option<Vec<u64>> {
        let family = state.lineage.as_ref()?.modules.get(&entry.id)?;
        let only_child = |commit: u64, named: usize| {
            let mut children = family.children(commit);
            let child = children.next()?;
            let alone = children.next().is_none()
                && !family.is_unclear(commit)
                && family.get(commit)?.named <= named;
            alone.then_some(child)
        };
        let mut links = vec![only_child(entry.module_commit, 1)?, entry.module_commit];
        let mut below = family.get(entry.module_commit)?.parent;
        while only_child(below, 0).is_some() {
            links.push(below);
            below = family.get(below)?.parent;
        }
        Some(links)
    }

    /// Writes the first of `links` anew, without the second, and without those below it that there is
    /// budget for. `None`: it would cost more than `budget` pages, or free too few.
    fn fold(
        &self,
        module: &str,
        links: &[u64],
        budget: u64,
        number: usize,
    ) -> Result<Option<Fold>> {
        let (pair, below) = links.split_at(2);
        let mut chain = Vec::new();
        for commit in pair {
            chain.push(self.0.pages.index(module, *commit)?);
        }
        let held = |index: &Index| index.data_pages() + index.zero_pages();
        let all = pages_of(&chain);
        let twice = held(&chain[0]) + held(&chain[1]) - all;
        let worth = all <= SMALL || twice * 4 >= all;
        if !worth || all > budget {
            return Ok(None);
        }
        for commit in below {
            chain.push(self.0.pages.index(module, *commit)?);
            if pages_of(&chain) > budget {
                chain.pop();
                break;
            }
        }
        let temporary = Place::hidden(format!("{}fold-{number}", name::TEMPORARY));
        let rewritten = rewrite(&self.0.pages, &chain, 0, &temporary, &mut |_| Ok(()))?;
        let synced = false;
        Ok(Some(Fold {
            rewritten,
            chain,
            synced,
        }))
    }

    /// Gives a fold its name, durably if the file that it replaces is durable under it: a rename may
    /// reach the disk at any time.
    fn install_fold(&self, mut fold: Fold) -> Result<()> {
        let module = fold.rewritten.index.module.clone();
        let child = fold.rewritten.index.commit;
        let image = fold.rewritten.index.shape == Shape::Image;
        let old = self.0.pages.open(&module, child);
        loop {
            // A persist under way has the file open that the fold replaces.
            let gate = self.0.gate.lock();
            let mut state = self.enter_to_write()?;
            if fold.synced || state.is_unsynced(&module, child, gate.told()) {
                state.stats.syncs += u64::from(fold.synced);
                self.install(&mut state, fold.rewritten, &fold.chain)?;
                break;
            }
            drop((gate, state));
            if let Err(error) = fold.rewritten.file.sync() {
                let _ = self.0.files.unlink(&fold.rewritten.temporary);
                return Err(error);
            }
            fold.synced = true;
        }
        // Its blocks are given back now, and not in the rename.
        drop(old);
        if image {
            self.let_go_of_images([module.as_str()]);
        }
        Ok(())
    }
}

/// The commit, if it is there and not the head.
fn deletable(state: &State, commit: u64) -> Result<Arc<Commit>> {
    let commit = state.history.get(commit)?.commit.clone();
    if commit.number == state.history.head() {
        return Err(Error::Busy {
            why: "the commit is the head; restore another one first",
        });
    }
    Ok(commit)
}
