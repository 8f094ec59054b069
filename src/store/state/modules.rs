//! What the store knows of a mapped module.

use std::sync::Arc;

use crate::layer::PageTable;
use crate::module::MappedModule;

/// A mapped module and what the store knows about it.
pub(in crate::store) struct ModuleState {
    pub(in crate::store) module: Arc<MappedModule>,
    /// Where its pages are at the head.
    pub(in crate::store) table: PageTable,
    /// Its module commit at the head. `None`: the head does not know the module, and the table is all zeros.
    pub(in crate::store) module_commit: Option<u64>,
}
