//! An inline persist: the whole files of small commits are written into the journal, after the
//! records that refer to them. One sync of the journal then makes records and files durable. A
//! later checkpoint syncs the files themselves, when the journal carries a certain amount.

use std::sync::Arc;

use crate::Result;
use crate::format::commit::Event;
use crate::format::inline::{InlineFile, InlineFiles};
use crate::journal::SequencedEvent;
use crate::layer::place;
use crate::store::options::Progress;
use crate::store::state::{InlineUsage, PersistGuard, State, SyncState};
use crate::sys::fs::{Dir, File, read_exact};

/// The most bytes of files that one persist writes inline, which is a second write of the same
/// bytes. At 128 pages of 4 KiB the second write begins to cost as much as it saves
/// (docs/performance.md, row durable).
const MAX_INLINE_BYTES: u64 = 256 << 10;
/// The most that the journal carries inline. This limits what a later checkpoint has to sync, and
/// what a recovery has to write.
const MAX_USAGE: InlineUsage = InlineUsage {
    bytes: 4 << 20,
    files: 256,
};

/// What one persist writes into the journal.
struct InlineWork {
    events: Vec<SequencedEvent>,
    files: Vec<SmallFile>,
}

/// A module commit that is small enough for the journal.
struct SmallFile {
    module: String,
    commit: u64,
    bytes: u64,
    file: Arc<dyn File>,
}

impl PersistGuard<'_> {
    /// Makes every commit so far durable by one sync of the journal. Does nothing if all commits
    /// are durable already. Returns `false` if the files are too large, or if the journal has no
    /// room. `use_reserve` allows the use of the room that is kept for restore and delete.
    pub(super) fn persist_inline(
        &mut self,
        progress: &mut Progress<'_>,
        use_reserve: bool,
    ) -> Result<bool> {
        let store = self.store;
        let Some(work) = self.inline_work()? else {
            return Ok(false);
        };
        let Some(last) = work.events.last().map(|event| event.sequence) else {
            return Ok(true);
        };
        let total = work.files.iter().map(|file| file.bytes).sum();
        store.report_progress(progress, 0, total)?;
        let Some(inline) = read_files(work.files, last)? else {
            return Ok(false);
        };
        store.report_progress(progress, total, total)?;
        let _panic = store.poison_on_panic();
        let Some(journal) = self.append_inline(&inline, use_reserve)? else {
            return Ok(false);
        };
        self.inlined_upto = last;
        // Commits and captures may go on from here.
        let synced = self.sync_hidden_names().and_then(|()| journal.sync());
        let mut locked = store.lock_state();
        if let Err(error) = synced {
            store.poison(&error);
            locked.clear_sync_mark();
            return Err(error);
        }
        locked.stats.syncs += 1;
        store.check_poison()?;
        if let Some(journal) = &mut locked.unpersisted.journal {
            if let Err(error) = journal.set_durable_upto(last) {
                // The next open would doubt the commits that were just made durable, therefore this
                // is an error.
                locked.clear_sync_mark();
                return Err(error);
            }
        }
        for file in &inline.files {
            self.inline.add(file.bytes.len() as u64);
        }
        self.durable_upto = last;
        locked.warn_about_high_water();
        locked.set_persisted(&work.events);
        Ok(true)
    }

    /// Appends the files to the journal. Returns the file of the journal, which the caller has to
    /// sync. `None`: the journal has no room.
    fn append_inline(
        &self,
        inline: &InlineFiles,
        use_reserve: bool,
    ) -> Result<Option<Arc<dyn File>>> {
        let mut locked = self.enter_to_write()?;
        let sequence = locked.unpersisted.next_sequence - 1;
        let Some(journal) = &mut locked.unpersisted.journal else {
            return Ok(None);
        };
        journal.set_syncing(true)?;
        let before = journal.end();
        let appended = journal.append_inline(sequence, inline, use_reserve);
        let (after, file) = (journal.end(), journal.file());
        if let Err(error) = appended {
            locked.clear_sync_mark();
            if error.is_disk_full() {
                return Ok(None);
            }
            return Err(error);
        }
        locked.stats.bytes_written += after - before;
        Ok(Some(file))
    }

    /// Makes the names of the journal and the identity durable. Each owner does this once, because
    /// the owner before may have been killed after it made the names and before it synced their
    /// directory.
    pub(super) fn sync_hidden_names(&mut self) -> Result<()> {
        if !self.hidden_names_synced {
            self.store.0.files.sync_dir(Dir::Hidden)?;
            self.hidden_names_synced = true;
        }
        Ok(())
    }

    /// What is not durable yet, if the journal can carry it. It can carry only commits and
    /// restores, and only small files that this owner has open.
    fn inline_work(&self) -> Result<Option<InlineWork>> {
        let mut locked = self.enter_to_write()?;
        locked.catch_up_links();
        // Only a checkpoint makes `commits` and removes files.
        if self.commits.is_none() || !locked.unpersisted.unlinks.is_empty() {
            return Ok(None);
        }
        Ok(self.inline_work_of(&locked))
    }

    fn inline_work_of(&self, state: &State) -> Option<InlineWork> {
        let durable_upto = self.durable_upto;
        let known = |event: &SequencedEvent| event.sequence <= durable_upto;
        let events = &state.unpersisted.events;
        let new = &events[events.partition_point(known)..];
        let simple = |event: &SequencedEvent| {
            matches!(event.event, Event::Committed(_) | Event::HeadMoved(_))
        };
        if !new.iter().all(simple) {
            return None;
        }
        let mut files = Vec::new();
        let (mut bytes, mut usage) = (0, self.inline);
        let unsynced = state.unpersisted.files.iter();
        for file in unsynced.filter(|file| file.sequence > durable_upto) {
            let SyncState::Open(open) = &file.state else {
                return None;
            };
            bytes += file.bytes;
            usage.add(file.bytes);
            let too_much = bytes > MAX_INLINE_BYTES || usage.bytes > MAX_USAGE.bytes;
            if too_much || usage.files > MAX_USAGE.files {
                return None;
            }
            files.push(SmallFile {
                module: file.module.clone(),
                commit: file.commit,
                bytes: file.bytes,
                file: open.clone(),
            });
        }
        let events = new.to_vec();
        Some(InlineWork { events, files })
    }
}

/// Reads the files. `None` if a file is too long. An image of few pages can be long, because the
/// rest of it is holes.
fn read_files(files: Vec<SmallFile>, upto: u64) -> Result<Option<InlineFiles>> {
    let mut inline = InlineFiles {
        upto,
        files: Vec::new(),
    };
    for small in files {
        let length = small.file.len()?;
        if length > MAX_INLINE_BYTES {
            return Ok(None);
        }
        let mut bytes = crate::error::try_filled(length as usize, 0u8, "a small file")?;
        let (module, commit) = (small.module, small.commit);
        read_exact(&*small.file, &mut bytes, 0, &place(&module, commit))?;
        inline.files.push(InlineFile {
            module,
            commit,
            bytes,
        });
    }
    Ok(Some(inline))
}
