//! Mapped modules: the memory of a module, the tracker on it, and the set of pages known to be dirty.
//!
//! Nothing here knows of files or history. A [`MappedModule`] can be used without the store's lock.

#![forbid(unsafe_code)]

mod discard;
mod mapped;

pub use mapped::MapMode;
pub(crate) use mapped::{Descriptor, Kernel, MappedModule, Populated, check_tracker};
