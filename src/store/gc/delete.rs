//! Deleting commits. The file of a deleted commit is merged into its only child if that costs
//! little. Else the file stays for its children, until a later deletion or a compaction.

use std::sync::Arc;

use crate::format::commit::{Commit, Event, ModuleEntry};
use crate::format::index::{Index, Shape};
use crate::format::name;
use crate::layer::{Finished, pages_of, rewrite_layer};
use crate::store::options::LogLevel;
use crate::store::state::{MaintenanceGuard, State, Store};
use crate::sys::fs::Place;
use crate::{Error, Result};

/// Up to this many pages are merged even if that frees few pages, because merging keeps chains
/// short.
const SMALL: u64 = 1024;

/// A child that was rewritten and does not need the deleted module commit any more. It waits for
/// its name.
struct Merge {
    rewritten: Finished,
    /// The module commits that it was made of, newest first.
    chain: Vec<Arc<Index>>,
    synced: bool,
}

impl Store {
    /// Deletes a commit; see `store_delete_commit`.
    ///
    /// No other commit changes. Children of the commit get its parent as their parent. The deletion
    /// survives the death of the process, and a power cut after the next [`Store::persist`]. Disk
    /// blocks of a persisted commit are free after that persist. Blocks that other commits need
    /// stay. The guest need not be paused.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no such commit. [`Error::Busy`]: the commit is the head.
    /// [`Error::Sync`]: a flush failed. [`Error::ReadOnly`], [`Error::Poisoned`], [`Error::Io`],
    /// [`Error::NoMemory`].
    pub fn delete_commit(&self, commit: u64) -> Result<()> {
        let maintenance = self.lock_maintenance()?;
        let commit = deletable(&*self.enter_to_write()?, commit)?;
        maintenance.learn_file_refs()?;
        // Commits go on meanwhile.
        for merge in maintenance.merge_into_children(&commit)? {
            // The child has the same bytes as before, also if the commit is not deleted after this.
            match maintenance.install_merge(merge) {
                Ok(()) => {}
                Err(error @ Error::Sync { .. }) => {
                    // Only a copy is lost, but the store is poisoned: the caller has to know that
                    // the disk fails to write.
                    self.poison(&error);
                    return Err(error);
                }
                Err(error) => self.log_file_stays(&error),
            }
        }
        let persist = maintenance.lock_persist();
        let gone = {
            let mut locked = persist.enter_to_write()?;
            // Another thread may have made the commit the head meanwhile.
            let commit = deletable(&locked, commit.number)?;
            // Everything that can fail comes before the record. The record makes the deletion.
            locked.file_refs(&self.0.layers)?;
            let sequence = locked.record(vec![Event::Deleted(commit.number)])?;
            let gone = locked.file_refs(&self.0.layers)?.remove(&commit);
            locked.take_out(&persist, gone, sequence)
        };
        self.remove_files(&gone);
        Ok(())
    }

    fn log_file_stays(&self, error: &Error) {
        self.log(LogLevel::Warning, || {
            format!(
                "a file of the deleted commit stays, because the commits made on it need it: {error}"
            )
        });
    }
}

impl MaintenanceGuard<'_> {
    /// Rewrites the children of module commits that only `commit` refers to, where that is worth
    /// its cost. If a rewrite fails, for example on a full disk, the file stays for its children,
    /// until a later deletion or a compaction removes it.
    fn merge_into_children(&self, commit: &Commit) -> Result<Vec<Merge>> {
        let (store, layers) = (self.store, &self.store.0.layers);
        let mut merges = Vec::new();
        let own = |entry: &&ModuleEntry| entry.module_commit == commit.number;
        let changed = |entry: &ModuleEntry| {
            let index = layers.index(&entry.id, entry.module_commit);
            index.map_or(0, |index| index.changed_pages())
        };
        let mut budget = 2 * commit.modules.iter().filter(own).map(changed).sum::<u64>();
        // The commit's own files come first. Files of older commits that only this commit refers to
        // get the rest of the budget.
        let others = commit.modules.iter().filter(|entry| !own(entry));
        for entry in commit.modules.iter().filter(own).chain(others) {
            let Some(files) = mergeable(&*store.enter()?, entry) else {
                continue;
            };
            match self.merge(&entry.id, &files, budget, merges.len()) {
                Ok(None) => {}
                Ok(Some(merge)) => {
                    budget = budget.saturating_sub(merge.rewritten.index.data_pages());
                    merges.push(merge);
                }
                Err(error) => store.log_file_stays(&error),
            }
        }
        Ok(merges)
    }

    /// Writes the first of `files` anew, merged with the second, and with as many of the files
    /// below as the budget allows. `None`: this would write more than `budget` pages, or free too
    /// few pages.
    fn merge(
        &self,
        module: &str,
        files: &[u64],
        budget: u64,
        number: usize,
    ) -> Result<Option<Merge>> {
        let layers = &self.store.0.layers;
        let (pair, below) = files.split_at(2);
        let mut chain = Vec::new();
        for commit in pair {
            chain.push(layers.index(module, *commit)?);
        }
        let held = |index: &Index| index.data_pages() + index.zero_pages();
        let all = pages_of(&chain);
        let twice = held(&chain[0]) + held(&chain[1]) - all;
        let worth = all <= SMALL || twice * 4 >= all;
        if !worth || all > budget {
            return Ok(None);
        }
        for commit in below {
            chain.push(layers.index(module, *commit)?);
            if pages_of(&chain) > budget {
                chain.pop();
                break;
            }
        }
        let temporary = Place::hidden(format!("{}fold-{number}", name::TEMPORARY));
        let rewritten = rewrite_layer(layers, &chain, 0, &temporary, &mut |_| Ok(()))?;
        let synced = false;
        Ok(Some(Merge {
            rewritten,
            chain,
            synced,
        }))
    }

    /// Gives a merged file its name. If the replaced file is durable under that name, the merged
    /// file is synced first, because a rename may reach the disk at any time.
    fn install_merge(&self, mut merge: Merge) -> Result<()> {
        let store = self.store;
        let module = merge.rewritten.index.module.clone();
        let child = merge.rewritten.index.commit;
        let image = merge.rewritten.index.shape == Shape::Image;
        let old = store.0.layers.open(&module, child);
        loop {
            // The persist lock is needed, because a running persist may have the replaced file
            // open.
            let persist = self.lock_persist();
            let mut locked = persist.enter_to_write()?;
            if merge.synced || locked.is_unsynced(&persist, &module, child) {
                locked.stats.syncs += u64::from(merge.synced);
                locked.replace_file(&persist, merge.rewritten, &merge.chain)?;
                break;
            }
            drop((persist, locked));
            if let Err(error) = merge.rewritten.file.sync() {
                let _ = store.0.files.unlink(&merge.rewritten.temporary);
                return Err(error);
            }
            merge.synced = true;
        }
        // While `old` is open, the rename does not free the blocks of the old file. They are freed
        // here, after the state is unlocked.
        drop(old);
        if image {
            store.release_images([module.as_str()]);
        }
        Ok(())
    }
}

/// The files of a merge, newest first: the only child of a module commit, then the module commit
/// itself, then each file below that only the file above it needs. `None`: another commit needs the
/// module commit, or it has no child or several children.
fn mergeable(state: &State, entry: &ModuleEntry) -> Option<Vec<u64>> {
    let files = state.file_refs.as_ref()?.modules.get(&entry.id)?;
    let only_child = |commit: u64, most_refs: usize| {
        let mut children = files.children(commit);
        let child = children.next()?;
        let alone = children.next().is_none()
            && !files.is_unclear(commit)
            && files.get(commit)?.refcount <= most_refs;
        alone.then_some(child)
    };
    let mut chain = vec![only_child(entry.module_commit, 1)?, entry.module_commit];
    let mut below = files.get(entry.module_commit)?.parent;
    while only_child(below, 0).is_some() {
        chain.push(below);
        below = files.get(below)?.parent;
    }
    Some(chain)
}

/// Returns the commit if it exists and is not the head.
fn deletable(state: &State, commit: u64) -> Result<Arc<Commit>> {
    let commit = state.history.get(commit)?.commit.clone();
    if commit.number == state.history.head() {
        return Err(Error::Busy {
            why: "the commit is the head; restore another commit first",
        });
    }
    Ok(commit)
}
