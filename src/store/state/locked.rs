//! The three locks of a store as values. The owner of the value has the lock.
//!
//! The locks are taken in this order: maintenance lock, persist lock, state lock. A function that
//! needs a lock is a method of its guard, or takes the guard as a parameter.

use std::ops::{Deref, DerefMut};

use parking_lot::MutexGuard;

use super::durability::Durability;
use super::parts::State;
use super::store::Store;
use crate::journal::RecordLog;
use crate::store::options::LogLevel;
use crate::{Error, Result};

/// The state of a store, while one call holds the state lock. A panic during the call poisons the
/// store, because the call is half done.
pub(in crate::store) struct Locked<'a> {
    pub(in crate::store) store: &'a Store,
    state: MutexGuard<'a, State>,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Locked<'_> {
    /// Logs a warning if the journal's high-water mark could not be written for the last record.
    pub(in crate::store) fn warn_about_high_water(&mut self) {
        let journal = self.unpersisted.journal.as_mut();
        if let Some(error) = journal.and_then(RecordLog::take_high_water_failure) {
            self.store.log(LogLevel::Warning, || {
                format!(
                    "the journal's high-water mark was not written; if the end of the journal is lost, the next open cannot detect the loss: {error}"
                )
            });
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        drop(self.store.poison_on_panic());
    }
}

/// The persist lock. A persist holds it from beginning to end. A call that gives a rewritten file
/// its name holds it too, because a running persist may be syncing the old file.
pub(in crate::store) struct PersistGuard<'a> {
    pub(in crate::store) store: &'a Store,
    durability: MutexGuard<'a, Durability>,
}

impl<'a> PersistGuard<'a> {
    /// Takes the state lock too, for a call that changes the store.
    pub(in crate::store) fn enter_to_write(&self) -> Result<Locked<'a>> {
        self.store.enter_to_write()
    }
}

impl Deref for PersistGuard<'_> {
    type Target = Durability;

    fn deref(&self) -> &Durability {
        &self.durability
    }
}

impl DerefMut for PersistGuard<'_> {
    fn deref_mut(&mut self) -> &mut Durability {
        &mut self.durability
    }
}

/// The maintenance lock. Delete, compact and import hold it, because they change the set of files
/// in other ways than a commit does. Verify, read, diff, clone and export hold it, because they
/// need the set of files to stay as it is. Commits and persists go on meanwhile.
pub(in crate::store) struct MaintenanceGuard<'a> {
    pub(in crate::store) store: &'a Store,
    _lock: MutexGuard<'a, ()>,
}

impl<'a> MaintenanceGuard<'a> {
    /// Takes the persist lock too.
    pub(in crate::store) fn lock_persist(&self) -> PersistGuard<'a> {
        self.store.lock_persist()
    }
}

impl Store {
    /// Takes the state lock for one call. No other call has the state until the guard is dropped.
    pub(in crate::store) fn enter(&self) -> Result<Locked<'_>> {
        self.check_reentry()?;
        let state = self.lock_state();
        if self.is_closed() {
            return Err(Error::Handle {
                argument: "store",
                why: "it was closed earlier",
            });
        }
        Ok(state)
    }

    /// Takes the state lock for a call that changes the store.
    pub(in crate::store) fn enter_to_write(&self) -> Result<Locked<'_>> {
        let state = self.enter()?;
        if self.0.read_only {
            return Err(Error::ReadOnly {
                what: "the store was opened read-only".into(),
                why: "this call would change it",
            });
        }
        self.check_poison()?;
        Ok(state)
    }

    /// Takes the state lock without any check. A call uses this to end what it has begun.
    pub(in crate::store) fn lock_state(&self) -> Locked<'_> {
        Locked {
            store: self,
            state: self.0.state.lock(),
        }
    }

    /// Takes the persist lock.
    pub(in crate::store) fn lock_persist(&self) -> PersistGuard<'_> {
        PersistGuard {
            store: self,
            durability: self.0.persist_lock.lock(),
        }
    }

    /// Takes the maintenance lock, unless the call comes from a forked child or a callback.
    pub(in crate::store) fn lock_maintenance(&self) -> Result<MaintenanceGuard<'_>> {
        self.check_reentry()?;
        Ok(MaintenanceGuard {
            store: self,
            _lock: self.0.maintenance_lock.lock(),
        })
    }
}
