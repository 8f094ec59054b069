//! Mapped modules: their memory at the head's bytes, in each mode, and bringing it to other commits.
//!
//! `map` and `populate` bring a module up, `restore` brings all modules to a commit, `compare` finds what no
//! tracker reports. `backing` and `links` keep the names that the store directory has for people and for other
//! processes: `<module>` and `<module>_last`.

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
