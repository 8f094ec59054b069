//! Tests of module commits: writing and reading them, writing them anew, and the caches.

mod caches;
mod drafts;
mod reads;
mod rewrites;
