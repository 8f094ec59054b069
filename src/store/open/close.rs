//! Closing a store.

use std::sync::atomic::Ordering;

use crate::Result;
use crate::store::state::Store;

impl Store {
    /// Closes the store; see `store_close`.
    ///
    /// # Errors
    /// From inside a callback, and in a forked child.
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
