//! Closing a store.

use std::sync::atomic::Ordering;

use crate::Result;
use crate::store::state::Store;

impl Store {
    /// Closes the store for all its handles; see `store_close`.
    ///
    /// Cancels an outstanding capture, ends the tracking of all modules, and releases the lock.
    /// Does not persist. Writes since the last commit are dropped. Commits that were not persisted
    /// survive, until a power cut. Waits for calls of other threads. The memory of a module is
    /// unmapped when the last clone of its [`Module`](crate::Module) is dropped; adopted memory
    /// stays mapped.
    ///
    /// # Errors
    /// Only those that all methods of [`Store`] give. After an error the store is still open.
    pub fn close(&self) -> Result<()> {
        let maintenance = self.lock_maintenance()?;
        let mut persist = maintenance.lock_persist();
        let mut locked = self.enter()?;
        if let Some(captured) = locked.captures.outstanding.take() {
            captured.discard(&self.0.layers, &mut locked.captures.lists);
            self.0.capturing.store(false, Ordering::Release);
        }
        locked.catch_up_links();
        self.0.closed.store(true, Ordering::Release);
        locked.captures.precopied = None;
        for state in std::mem::take(&mut locked.modules).into_values() {
            state.module.retire();
        }
        locked.captures.arena = None;
        locked.unpersisted.files.clear();
        locked.unpersisted.journal = None;
        persist.commits = None;
        self.0.layers.set_most_open(0);
        self.0.files.unlock();
        Ok(())
    }
}
