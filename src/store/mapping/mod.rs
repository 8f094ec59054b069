//! Mapped modules: memory with the head's bytes in each mode, and restore, which brings the memory
//! to other commits.
//!
//! `map` and `populate` make the memory of a module, `restore` brings all modules to a commit, and
//! `compare` finds writes that no tracker reports. `backing` and `links` keep the names that the
//! store directory has for people and for other processes: `<module>` and `<module>_last`.

mod backing;
mod callers_memory;
mod compare;
mod links;
mod map;
mod module;
mod overlay;
mod populate;
mod restore;

#[cfg(test)]
mod tests;

pub use module::Module;
pub(in crate::store) use module::check_module_size;
