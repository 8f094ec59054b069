//! Tests of opening: what recovery makes of what an owner, the host or a person left.

mod beside;
mod boots;
mod dropped;
mod high_water;
mod leftovers;
mod retaken;
mod snapshot;
