//! The state of a store: its history, its mapped modules, its captures, and what is durable. The
//! room also has the three locks that protect the state.
//!
//! The calls of the interface are in the rooms above this one. They take a lock as a value
//! ([`Locked`], [`PersistGuard`], [`MaintenanceGuard`]), and the value is the right to look at the
//! state or to change it.

mod captures;
mod durability;
mod file_refs;
mod history;
mod locked;
mod modules;
mod parts;
mod stale;
mod store;

pub(in crate::store) use captures::{Captured, Captures, ListPool, Precopied};
pub(in crate::store) use durability::{
    Durability, InlineUsage, PendingUnlink, SyncState, Unpersisted, UnsyncedFile,
};
pub(in crate::store) use file_refs::{FileRefs, ModuleRefs, Unreferenced};
pub(in crate::store) use history::History;
pub(in crate::store) use locked::{Locked, MaintenanceGuard, PersistGuard};
pub(in crate::store) use modules::ModuleState;
pub(in crate::store) use parts::State;
pub use store::Store;
pub(in crate::store) use store::{Inner, next_serial};
