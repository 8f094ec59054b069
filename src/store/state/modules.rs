//! What the store knows of a mapped module.

use std::sync::Arc;

use crate::layer::PageTable;
use crate::module::MappedModule;

/// A mapped module and what the store knows of it.
pub(in crate::store) struct ModuleState {
    pub(in crate::store) module: Arc<MappedModule>,
    /// In which files the module's pages are at the head.
    pub(in crate::store) table: PageTable,
    /// The module commit that the head names for the module. `None`: the head does not know the
    /// module, and its table is all zeros.
    pub(in crate::store) module_commit: Option<u64>,
}
