//! A checkpoint: it syncs the files first, then their names, then the records in `commits` that
//! refer to the files.

use crate::format::header::{LogKind, Mark};
use crate::journal::{LogStart, RecordLog, SequencedEvent};
use crate::store::options::Progress;
use crate::store::state::{InlineUsage, PersistGuard, Store, SyncState, UnsyncedFile};
use crate::sys::fs::Dir;
use crate::{Error, Result};

impl Store {
    /// Makes every commit so far survive a power cut; see `store_persist`.
    ///
    /// The guest need not be paused, and other threads may capture and commit meanwhile. Costs one
    /// flush of the disk where up to 256 KiB of pages are new, else a few flushes, and nothing
    /// where nothing is new. During the call, a power cut keeps all, some or none of the new
    /// commits, whole and oldest first.
    ///
    /// If a flush fails, the store is poisoned: the kernel may have dropped data, and a second
    /// flush would wrongly succeed. Commits that were persisted before are safe. Close the store
    /// and open it again.
    ///
    /// # Errors
    /// [`Error::Sync`]: a flush failed. [`Error::Io`]: also the disk is full. [`Error::Corrupt`]: a
    /// file that a killed owner left is damaged. [`Error::Cancelled`]: persist again.
    /// [`Error::ReadOnly`], [`Error::Poisoned`], [`Error::NoMemory`].
    pub fn persist(&self, mut progress: Progress<'_>) -> Result<()> {
        self.check_reentry()?;
        let mut persist = self.lock_persist();
        if persist.persist_inline(&mut progress, false)? {
            return Ok(());
        }
        match persist.checkpoint(&mut progress) {
            // The disk is full. The journal's reserve may have room.
            Err(error)
                if error.is_disk_full() && persist.persist_inline(&mut progress, true)? =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Makes every commit so far durable in its own files and in `commits`. Afterwards the journal
    /// carries nothing inline.
    pub(in crate::store) fn checkpoint(&self, mut progress: Progress<'_>) -> Result<()> {
        self.check_reentry()?;
        self.lock_persist().checkpoint(&mut progress)
    }
}

impl PersistGuard<'_> {
    fn checkpoint(&mut self, progress: &mut Progress<'_>) -> Result<()> {
        let store = self.store;
        let (events, files) = {
            let mut locked = store.enter_to_write()?;
            locked.catch_up_links();
            if locked.unpersisted.events.is_empty() {
                return Ok(());
            }
            let unpersisted = &mut locked.unpersisted;
            let work = (unpersisted.events.clone(), unpersisted.files.clone());
            if let Some(journal) = &mut unpersisted.journal {
                journal.set_syncing(true)?;
            }
            work
        };
        // Commits and captures may go on from here.
        let _panic = store.poison_on_panic();
        let outcome = self.make_durable(&events, &files, progress);
        let mut locked = store.lock_state();
        match outcome {
            Ok(syncs) => locked.stats.syncs += syncs,
            Err(error) => {
                if matches!(error, Error::Sync { .. }) {
                    store.poison(&error);
                }
                locked.clear_sync_mark();
                return Err(error);
            }
        }
        // If a sync of another call failed meanwhile, the journal keeps the mark of a sync under
        // way. The next open then knows that files are in doubt.
        store.check_poison()?;
        let durable = self
            .commits
            .as_ref()
            .map_or(Mark::default(), RecordLog::mark);
        let last = events.last().map_or(0, |event| event.sequence);
        let newest = locked.unpersisted.events.last();
        let all = newest.is_none_or(|event| event.sequence <= last);
        if let Some(journal) = &mut locked.unpersisted.journal {
            if let Err(error) = journal.checkpointed(durable, all) {
                // The next open would doubt the commits that were just made durable, therefore this
                // is an error. The next persist goes on from here: `self` knows which records
                // `commits` has.
                locked.clear_sync_mark();
                return Err(error);
            }
        }
        self.durable_upto = last;
        if all {
            self.inline = InlineUsage::default();
        }
        locked.warn_about_high_water();
        locked.set_persisted(&events);
        locked
            .unpersisted
            .events
            .retain(|event| event.sequence > last);
        locked.unpersisted.files.retain(|file| file.sequence > last);
        // The files are removed after the journal has dropped the records. Until then, the next
        // open may find the history in which the commits are not deleted.
        let gone = locked.take_due_unlinks(last);
        drop(locked);
        store.remove_files(&gone);
        Ok(())
    }

    /// Durability depends on this order: data, then names, then records. Returns the number of
    /// syncs.
    fn make_durable(
        &mut self,
        events: &[SequencedEvent],
        files: &[UnsyncedFile],
        progress: &mut Progress<'_>,
    ) -> Result<u64> {
        let store = self.store;
        let total = files.iter().map(|file| file.bytes).sum();
        let (mut done, mut syncs) = (0, 0);
        // Several syncs that begin together share the flushes of the disk. A single file would gain
        // nothing.
        for file in files.iter().skip(usize::from(files.len() == 1)) {
            if let SyncState::Open(open) = &file.state {
                open.begin_sync();
            }
        }
        for file in files {
            store.report_progress(progress, done, total)?;
            match &file.state {
                SyncState::Synced => {}
                SyncState::Open(open) => {
                    open.sync()?;
                    syncs += 1;
                }
                SyncState::Inherited => {
                    store.sync_inherited(file, file.sequence <= self.durable_upto)?;
                    syncs += 1;
                }
                SyncState::Suspect => {
                    store.write_again(&file.module, file.commit)?;
                    syncs += 1;
                }
            }
            done += file.bytes;
        }
        store.report_progress(progress, total, total)?;
        store.0.files.sync_dir(Dir::Root)?;
        self.sync_hidden_names()?;
        let known = events.partition_point(|event| event.sequence <= self.checkpointed_upto);
        if let Some(commits) = &mut self.commits {
            commits.append(&events[known..])?;
            commits.sync()?;
        } else {
            let (files, kind, id) = (&*store.0.files, LogKind::Commits, store.0.layers.store);
            let commits = RecordLog::create(files, kind, id, LogStart::default(), events)?;
            self.commits = Some(commits);
        }
        let last = events.last().map(|event| event.sequence);
        self.checkpointed_upto = last.unwrap_or(self.checkpointed_upto);
        Ok(syncs + 2)
    }
}
