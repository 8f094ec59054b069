//! Opening a store: it is found or made, its lock is taken, and what the last owner left is
//! recovered.

mod capabilities;
mod close;
mod identity;
mod inline_files;
mod leftovers;
mod opening;
mod recover;
mod reread;
mod whole;

#[cfg(test)]
mod tests;

pub use capabilities::probe;
pub(in crate::store) use identity::{
    identity_place, make, read_identity, refuse_foreign, write_identity,
};
