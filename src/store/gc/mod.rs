//! Garbage collection: deleting commits, and compaction.
//!
//! `delete` deletes one commit and merges its files into their only child. `compact` applies rules
//! of retention, flattens chains and writes `commits` anew. `plan` decides which files a compaction
//! rewrites. `replace` puts a rewritten file in the place of the old file.

mod compact;
mod delete;
mod plan;
mod replace;

#[cfg(test)]
mod tests;
