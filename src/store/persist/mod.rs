//! Persist: makes commits durable.
//!
//! A checkpoint syncs the files of the commits, then their names, then the records in `commits`
//! (`checkpoint`). If the files are small, the journal carries them inline instead, and one sync is
//! enough (`inline`). A file that a durable history needs is removed only when the record of the
//! deletion is durable (`unlink`).

mod checkpoint;
mod inline;
mod rewrite;
mod sync_ahead;
mod unlink;

#[cfg(test)]
mod tests;
