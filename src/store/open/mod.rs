//! Opening a store: finding or making it, taking its lock, and recovering what the last owner left.

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
