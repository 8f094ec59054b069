//! Tests of opening: how recovery handles what an owner, the host or a person left.

mod beside;
mod boots;
mod dropped;
mod high_water;
mod leftovers;
mod retaken;
mod snapshot;
