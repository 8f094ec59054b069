//! A read-only store beside a writer that deletes and rewrites: what looks like damage may be that.

use super::Store;
use crate::format::name;
use crate::journal::{self, Reader};
use crate::{Error, Result};

impl Store {
    /// Tells damage from a writer's progress. Nothing else is touched.
    pub(super) fn or_stale<T>(&self, outcome: Result<T>) -> Result<T> {
        match outcome {
            Err(Error::Corrupt { file, why }) if self.0.read_only && self.has_changed(&file) => {
                Err(Error::Stale {
                    what: format!("{file}: {why}"),
                })
            }
            other => other,
        }
    }

    /// Whether the writer has gone on since this store was opened, or has written a file anew.
    fn has_changed(&self, file: &str) -> bool {
        let pages = &self.0.pages;
        let seen = self.0.state.lock().next_sequence;
        let now = journal::replay(&*pages.files, &pages.store, Reader::Bystander);
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
        match (pages.index(module, commit), pages.load(module, commit)) {
            (Ok(old), Ok(new)) => {
                old.parent != new.parent || old.shape != new.shape || old.runs != new.runs
            }
            _ => false,
        }
    }
}
