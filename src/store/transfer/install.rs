//! The end of an import: commits and files of the stream get their numbers and names, and one write
//! of the journal makes all commits.

use std::io::IoSlice;
use std::sync::Arc;

use super::import::{Held, Import, bad};
use crate::format::commit::{Commit, Event};
use crate::format::index::Index;
use crate::layer::place;
use crate::store::state::{Locked, Store, SyncState, UnsyncedFile};
use crate::sys::fs::{Access, Dir, Place};
use crate::{Error, Result};

/// Files that got their final names. If the commits are not made, dropping this value removes the
/// files.
struct NamedFiles<'a> {
    store: &'a Store,
    names: Vec<Place>,
}

impl NamedFiles<'_> {
    /// The commits are made: dropping this value removes nothing any more.
    fn commit(mut self) {
        self.names.clear();
    }
}

impl Drop for NamedFiles<'_> {
    fn drop(&mut self) {
        for place in &self.names {
            let _ = self.store.0.files.unlink(place);
        }
    }
}

/// The commits of a stream with their numbers in this store.
struct Numbered {
    commits: Vec<Arc<Commit>>,
    /// For each file that came with the stream: the number of its module commit.
    files: Vec<u64>,
    /// The number of the stream's last commit in this store.
    last: u64,
}

impl Import<'_, '_> {
    /// Numbers the commits, names the files, and records the commits. Returns the number of the
    /// stream's last commit in this store.
    pub(super) fn make_commits(&mut self) -> Result<u64> {
        let store = self.store;
        let last = self.commits.last();
        let last = last.ok_or_else(|| bad("it has no commits"))?;
        if let Some(here) = last.here {
            return Ok(here);
        }
        store.check_no_capture()?;
        for spooled in &self.spooled {
            // This sync comes before the locks, because commits would wait for the sync below.
            if let Some(file) = store.0.files.open(&spooled.place, Access::Write)? {
                file.sync()?;
            }
        }
        // The persist lock is needed, because a running persist does not know these files.
        let persist = self.maintenance.lock_persist();
        let mut locked = persist.enter_to_write()?;
        store.check_no_capture()?;
        let head = locked.history.head();
        if head == 0 && !locked.modules.is_empty() {
            return Err(Error::Busy {
                why: "modules are mapped in a store without commits; commit or unmap them first",
            });
        }
        let old = locked.history.head_commit().cloned();
        let numbered = self.number(locked.history.next_number())?;
        let made = numbered.commits.iter().cloned().map(Event::Committed);
        let mut events: Vec<Event> = made.collect();
        if head != 0 {
            events.push(Event::HeadMoved(head));
        }
        let mut named = NamedFiles {
            store,
            names: Vec::new(),
        };
        let indexes = self.name_files(&numbered.files, &mut named.names)?;
        store.0.files.sync_dir(Dir::Root)?;
        let sequence = locked.record(events)?;
        named.commit();
        follow_import(&mut locked, indexes, sequence);
        locked.count_in(&store.0.layers, &numbered.commits);
        locked.move_links(old.as_deref());
        Ok(numbered.last)
    }

    /// Numbers the commits that this store does not have yet, from `next` on.
    fn number(&self, mut next: u64) -> Result<Numbered> {
        let mut numbered = Numbered {
            commits: Vec::new(),
            files: vec![0; self.spooled.len()],
            last: self.base.as_ref().map_or(0, |base| base.number),
        };
        for incoming in &self.commits {
            if let Some(here) = incoming.here {
                numbered.last = here;
                continue;
            }
            let mut commit = Commit::clone(&incoming.commit);
            (commit.number, commit.parent) = (next, numbered.last);
            for entry in &mut commit.modules {
                entry.module_commit = match incoming.modules.get(&entry.id) {
                    Some((Held::Here(number), ..)) => *number,
                    Some((Held::Spooled(at), ..)) => {
                        if numbered.files[*at] == 0 {
                            numbered.files[*at] = next;
                        }
                        numbered.files[*at]
                    }
                    None => return Err(bad(format!("module \"{}\" is missing", entry.id))),
                };
            }
            numbered.commits.push(Arc::new(commit));
            (numbered.last, next) = (next, next + 1);
        }
        Ok(numbered)
    }

    /// Writes index and footer of every file, makes the files durable and gives them their names.
    /// Returns their indexes and lengths.
    fn name_files(
        &self,
        numbers: &[u64],
        names: &mut Vec<Place>,
    ) -> Result<Vec<(Arc<Index>, u64)>> {
        let layers = &self.store.0.layers;
        let mut indexes = Vec::new();
        for (at, spooled) in self.spooled.iter().enumerate() {
            let mut index = Index::clone(&spooled.index);
            index.commit = numbers[at];
            index.parent = match spooled.below {
                None => 0,
                Some(Held::Here(number)) => number,
                Some(Held::Spooled(below)) => numbers[below],
            };
            let file = layers.files.open(&spooled.place, Access::Write)?;
            let file =
                file.ok_or_else(|| Error::corrupt(spooled.place.to_string(), "it is missing"))?;
            let end = index.encode(&layers.store);
            file.write_at(&[IoSlice::new(&end)], index.index_offset())?;
            file.sync()?;
            let name = place(&index.module, index.commit);
            layers.files.rename(&spooled.place, &name)?;
            names.push(name);
            let bytes = index.index_offset() + end.len() as u64;
            indexes.push((Arc::new(index), bytes));
        }
        Ok(indexes)
    }
}

/// After the record: brings the caches and the list of unsynced files up to date.
fn follow_import(locked: &mut Locked<'_>, indexes: Vec<(Arc<Index>, u64)>, sequence: u64) {
    for (index, bytes) in indexes {
        locked.stats.bytes_written += bytes;
        locked.unpersisted.files.push(UnsyncedFile {
            module: index.module.clone(),
            commit: index.commit,
            sequence,
            bytes,
            state: SyncState::Synced,
        });
        locked.store.0.layers.remember(index);
    }
}
