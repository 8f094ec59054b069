//! Persist: making commits durable.
//!
//! A checkpoint syncs the files of the commits, then their names, then the records in `commits`
//! (`checkpoint`). Where the files are small, the journal carries them inline instead, and one sync is enough
//! (`inline`). Files whose records are not durable yet wait for that before they are removed (`unlink`).

mod checkpoint;
mod inline;
mod rewrite;
mod sync_ahead;
mod unlink;

#[cfg(test)]
mod tests;
