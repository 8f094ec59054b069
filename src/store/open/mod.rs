//! Opening a store: finding or making it, taking its lock, and recovering what the last owner left.

mod close;
mod identity;
mod inline_files;
mod leftovers;
mod open;
mod probe;
mod recover;
mod reread;
mod whole;

pub(in crate::store) use identity::{
    identity_place, make, read_identity, refuse_foreign, write_identity,
};
pub use probe::probe;
