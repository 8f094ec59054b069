//! Putting a rewritten module commit in the place of the old one.

use std::sync::Arc;

use crate::Result;
use crate::format::commit::Commit;
use crate::format::index::Index;
use crate::layer::{Finished, place};
use crate::store::state::{FileRefs, Locked, MaintenanceGuard, PersistGuard, SyncState};

impl MaintenanceGuard<'_> {
    /// Finds out which files are needed. This reads a footer for each file. Commits go on
    /// meanwhile. No other call adds or removes files, because this call holds the maintenance
    /// lock.
    pub(super) fn learn_file_refs(&self) -> Result<()> {
        let (store, layers) = (self.store, &self.store.0.layers);
        let history = {
            let locked = store.enter()?;
            if locked.file_refs.is_some() {
                return Ok(());
            }
            locked.history.clone()
        };
        let mut refs = FileRefs::of(layers, &history)?;
        let mut locked = store.enter()?;
        let newer = |commit: &&Arc<Commit>| commit.number >= history.next_number();
        for commit in locked.history.commits().rev().take_while(newer) {
            refs.add(layers, commit)?;
        }
        locked.file_refs = Some(refs);
        Ok(())
    }
}

impl Locked<'_> {
    /// Gives a rewritten module commit its name. `chain` has the module commits that it was made
    /// of, newest first. The new file must be durable already, unless the replaced file waits for
    /// the sync of a persist. The persist lock is held, because a running persist would sync the
    /// old file.
    pub(super) fn replace_file(
        &mut self,
        _persist: &PersistGuard<'_>,
        rewritten: Finished,
        chain: &[Arc<Index>],
    ) -> Result<()> {
        let store = self.store;
        let Finished {
            index,
            file,
            temporary,
            bytes,
        } = rewritten;
        let renamed = self.is_below_a_module(&index).and_then(|below| {
            let name = place(&index.module, index.commit);
            store.0.files.rename(&temporary, &name)?;
            Ok(below)
        });
        let below = renamed.inspect_err(|_| drop(store.0.files.unlink(&temporary)))?;
        self.stats.bytes_written += bytes;
        if let Some(unsynced) = self.unpersisted.file(&index.module, index.commit) {
            unsynced.bytes = bytes;
            unsynced.state = SyncState::Open(file);
        }
        store.0.layers.forget(&index.module, index.commit);
        store.0.layers.remember(index.clone());
        if below {
            if let Some(state) = self.modules.get_mut(&index.module) {
                let old: Vec<u64> = chain.iter().map(|index| index.commit).collect();
                state.table.replace(&old, &index);
            }
        }
        let refs = self.file_refs.as_mut();
        if let Some(files) = refs.and_then(|refs| refs.modules.get_mut(&index.module)) {
            files.set_parent(index.commit, index.parent);
        }
        Ok(())
    }

    /// Whether the module is mapped, and its module commit at the head is this one or a layer above
    /// it.
    fn is_below_a_module(&self, index: &Index) -> Result<bool> {
        let at = self.modules.get(&index.module);
        let Some(mut next) = at.and_then(|state| state.module_commit) else {
            return Ok(false);
        };
        let refs = self.file_refs.as_ref();
        let files = refs.and_then(|refs| refs.modules.get(&index.module));
        while next > index.commit {
            // The file references are used if they are known: reading a footer takes time, and
            // commits wait.
            next = match files.and_then(|files| files.get(next)) {
                Some(file) => file.parent,
                None => self.store.0.layers.parent(&index.module, next)?,
            };
        }
        Ok(next == index.commit)
    }

    /// Whether a later persist will sync this file before any record of it is durable.
    pub(super) fn is_unsynced(
        &mut self,
        persist: &PersistGuard<'_>,
        module: &str,
        commit: u64,
    ) -> bool {
        let upto = persist.may_be_durable_upto();
        let file = self.unpersisted.file(module, commit);
        file.is_some_and(|file| file.sequence > upto)
    }
}
