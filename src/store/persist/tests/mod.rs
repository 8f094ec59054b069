//! Tests of persist: the order of writes and syncs, inline files, the reserve, and lost writes.

mod inline;
mod ordering;
mod reserve;
mod sync_ahead;
mod writeback;
