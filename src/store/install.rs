//! Putting a rewritten module commit in the place of the old one, and taking away files that nothing
//! needs.

use std::collections::HashSet;
use std::sync::Arc;

use super::lineage::{Gone, Lineage};
use super::{Condemned, LogLevel, State, Store, SyncState, Unsynced};
use crate::format::commit::{Commit, Event};
use crate::format::index::Index;
use crate::module::MapMode;
use crate::pages::{Finished, place};
use crate::sys::fs::{Access, Place};
use crate::{Error, Result};

impl State {
    /// Which files are needed. `know_lineage` has made it, unless a commit since then could not be counted in.
    pub(super) fn lineage(&mut self, store: &Store) -> Result<&mut Lineage> {
        if self.lineage.is_none() {
            self.lineage = Some(Lineage::of(&store.0.pages, &self.history)?);
        }
        self.lineage.as_mut().ok_or_else(|| Error::Internal {
            what: "a lineage that was just made".into(),
        })
    }

    fn unsynced_of(&mut self, module: &str, commit: u64) -> Option<&mut Unsynced> {
        self.unsynced
            .iter_mut()
            .find(|file| file.commit == commit && file.module == module)
    }

    /// Whether a persist to come syncs this file before a record of it is durable. Records up to `told` are
    /// in `commits`, whether or not the persist that put them there succeeded.
    pub(super) fn is_unsynced(&mut self, module: &str, commit: u64, told: u64) -> bool {
        let file = self.unsynced_of(module, commit);
        file.is_some_and(|file| file.sequence > told)
    }
}

impl Store {
    /// Finds out which files are needed, at the cost of a footer for each, while commits go on. The caller has
    /// `upkeep`, so that nothing but commits comes and nothing goes.
    pub(super) fn know_lineage(&self) -> Result<()> {
        let history = {
            let state = self.enter()?;
            if state.lineage.is_some() {
                return Ok(());
            }
            state.history.clone()
        };
        let mut lineage = Lineage::of(&self.0.pages, &history)?;
        let mut state = self.enter()?;
        let newer = |commit: &&Arc<Commit>| commit.number >= history.next_number();
        for commit in state.history.commits().rev().take_while(newer) {
            lineage.add(&self.0.pages, commit)?;
        }
        state.lineage = Some(lineage);
        Ok(())
    }

    /// Gives a rewritten module commit its name. `chain` is what it was made of, newest first. It is
    /// durable already, unless a persist is still to sync the file that it replaces. The caller
    /// has the gate: a persist under way would sync the old file.
    pub(super) fn install(
        &self,
        state: &mut State,
        rewritten: Finished,
        chain: &[Arc<Index>],
    ) -> Result<()> {
        let Finished {
            index,
            file,
            temporary,
            bytes,
        } = rewritten;
        let above = self.modules_above(state, &index);
        let renamed = above.and_then(|above| {
            self.0
                .files
                .rename(&temporary, &place(&index.module, index.commit))?;
            Ok(above)
        });
        let above = renamed.inspect_err(|_| drop(self.0.files.unlink(&temporary)))?;
        state.stats.bytes_written += bytes;
        if let Some(unsynced) = state.unsynced_of(&index.module, index.commit) {
            unsynced.bytes = bytes;
            unsynced.state = SyncState::Open(file);
        }
        self.0.pages.forget(&index.module, index.commit);
        self.0.pages.remember(index.clone());
        if above {
            if let Some(bound) = state.modules.get_mut(&index.module) {
                let old: Vec<u64> = chain.iter().map(|index| index.commit).collect();
                bound.table.replace(&old, &index);
            }
        }
        if let Some(lineage) = &mut state.lineage {
            if let Some(family) = lineage.modules.get_mut(&index.module) {
                family.set_parent(index.commit, index.parent);
            }
        }
        Ok(())
    }

    /// Whether the module is mapped, and its head is this module commit or one made on it.
    fn modules_above(&self, state: &mut State, index: &Index) -> Result<bool> {
        let at = state.modules.get(&index.module);
        let Some(mut next) = at.and_then(|bound| bound.module_commit) else {
            return Ok(false);
        };
        let lineage = state.lineage.as_ref();
        let family = lineage.and_then(|lineage| lineage.modules.get(&index.module));
        while next > index.commit {
            // Without a look into the files, if that can be: commits wait.
            next = match family.and_then(|family| family.get(next)) {
                Some(node) => node.parent,
                None => self.0.pages.parent(&index.module, next)?,
            };
        }
        Ok(next == index.commit)
    }

    /// Takes files out that the history does not need since the record `sequence`. Returns those that no durable
    /// history can need either, to be removed; the others go when the record is durable. Records up to `told` are
    /// in `commits`.
    pub(super) fn take_out(
        &self,
        state: &mut State,
        gone: Vec<Gone>,
        sequence: u64,
        told: u64,
    ) -> Vec<Gone> {
        self.tell_of_high_water(state);
        if gone.is_empty() {
            return gone;
        }
        let names: HashSet<(&str, u64)> = gone.iter().map(|f| (&*f.module, f.commit)).collect();
        state
            .unsynced
            .retain(|file| !names.contains(&(&*file.module, file.commit)));
        let untold = state.pending.iter().filter(|event| event.sequence > told);
        let untold: HashSet<u64> = untold
            .filter_map(|pending| match &pending.event {
                Event::Committed(commit) => Some(commit.number),
                _ => None,
            })
            .collect();
        for file in &gone {
            self.0.pages.forget(&file.module, file.commit);
        }
        let (now, later): (Vec<_>, Vec<_>) = gone
            .into_iter()
            .partition(|file| untold.contains(&file.commit));
        let later = later.into_iter().map(|file| Condemned { file, sequence });
        state.condemned.extend(later);
        now
    }

    /// Removes files that no history needs. Commits go on meanwhile: the disk may take its time over large ones.
    pub(super) fn remove_files(&self, gone: &[Gone]) {
        for file in gone {
            self.remove_file(file);
        }
        let images = gone.iter().filter(|file| file.image);
        self.let_go_of_images(images.map(|file| file.module.as_str()));
    }

    /// Removes a file that no history needs.
    pub(super) fn remove_file(&self, file: &Gone) {
        let place = place(&file.module, file.commit);
        if let Err(error) = self.0.files.unlink(&place) {
            // The next open removes it.
            self.log(LogLevel::Warning, || {
                format!("{place} is not needed, and stays: {error}")
            });
        }
    }

    /// As `let_go_of_image`, for a caller without the state: what has to be read is read before it is taken.
    pub(super) fn let_go_of_images<'a>(&self, modules: impl IntoIterator<Item = &'a str>) {
        for module in modules {
            let head = self.lock_state().history.head_commit().cloned();
            let entry = head.as_ref().and_then(|head| head.module(module));
            // A failure is met again below.
            let warm =
                entry.map(|entry| self.0.pages.chain(module, entry.module_commit, entry.size));
            // Its blocks are given back when it is closed, and not in the rename.
            let old = self.0.files.open(&Place::root(module), Access::Read);
            self.let_go_of_image(&self.lock_state(), module);
            drop((warm, old));
        }
    }

    /// The backing file of a module may be another name of an image that is no more. It becomes one of the
    /// image below the head, or goes with the module.
    pub(super) fn let_go_of_image(&self, state: &State, module: &str) {
        let mapped = state.modules.get(module).map(|bound| &bound.module);
        if mapped.is_some_and(|mapped| mapped.mode == MapMode::Shared) {
            return;
        }
        let relinked = (|| {
            let backing = Place::root(module);
            if self.0.files.open(&backing, Access::Read)?.is_none() {
                return Ok(());
            }
            let head = state.history.head_commit();
            let (size, image) = match (head.and_then(|head| head.module(module)), mapped) {
                (Some(entry), _) => {
                    let pages = &self.0.pages;
                    let mut chain = pages.chain(module, entry.module_commit, entry.size)?;
                    (entry.size, chain.pop())
                }
                (None, Some(mapped)) => (mapped.size(), None),
                (None, None) => return self.0.files.unlink(&backing),
            };
            let size = mapped.map_or(size, |mapped| mapped.size());
            self.link_backing_file(module, size, image.as_ref())
        })();
        if let Err(error) = relinked {
            // The next mapping of the module makes it anew.
            self.log(LogLevel::Warning, || {
                format!("the backing file of module \"{module}\" stays: {error}")
            });
        }
    }
}
