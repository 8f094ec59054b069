//! Mapped modules: the memory of a module, the tracker on it, and the set of pages known to be
//! dirty.
//!
//! This room does not know the files or the history of the store. A [`MappedModule`] can be used
//! without the store's lock.

#![forbid(unsafe_code)]

mod discard;
mod mapped;

pub use mapped::MapMode;
pub(crate) use mapped::{Descriptor, Kernel, MappedModule, Populated, check_tracker};
