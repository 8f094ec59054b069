//! Tests of module commits: writing, reading and rewriting them, and the caches.

mod caches;
mod drafts;
mod reads;
mod rewrites;
