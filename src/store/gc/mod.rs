//! Garbage collection: deleting commits, and compaction.
//!
//! `delete` deletes one commit and merges files into their only child, `compact` applies rules of retention,
//! flattens chains and writes `commits` anew, `plan` says which files a compaction rewrites, and `replace` puts a
//! rewritten file in the place of the old one.

mod compact;
mod delete;
mod plan;
mod replace;

#[cfg(test)]
mod tests;
