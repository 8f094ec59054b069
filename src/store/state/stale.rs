//! A read-only store beside a writer that deletes and rewrites files. What looks like damage may be
//! the work of the writer.

use super::store::Store;
use crate::format::name;
use crate::journal::{self, Role};
use crate::{Error, Result};

impl Store {
    /// Turns damage into [`Error::Stale`] where the work of the writer explains the damage.
    pub(in crate::store) fn or_stale<T>(&self, outcome: Result<T>) -> Result<T> {
        match outcome {
            Err(Error::Corrupt { file, why }) if self.0.read_only && self.has_changed(&file) => {
                Err(Error::Stale {
                    what: format!("{file}: {why}"),
                })
            }
            other => other,
        }
    }

    /// Whether the writer has appended records since this store was opened, or has rewritten the
    /// file.
    fn has_changed(&self, file: &str) -> bool {
        let layers = &self.0.layers;
        let seen = self.lock_state().unpersisted.next_sequence;
        let now = journal::replay(&*layers.files, &layers.store, Role::ReadOnly);
        let next = now.as_ref().map_or(seen, |replay| {
            let last = replay.recent.last().or(replay.durable.last());
            last.map_or(1, |record| record.sequence + 1)
        });
        if next != seen {
            return true;
        }
        let Some((module, commit)) = name::parse_module_commit(file) else {
            return false;
        };
        match (layers.index(module, commit), layers.load(module, commit)) {
            (Ok(old), Ok(new)) => {
                old.parent != new.parent || old.shape != new.shape || old.runs != new.runs
            }
            _ => false,
        }
    }
}
