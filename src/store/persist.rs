//! Persist: files first, then their names, then the records that speak of them. Where that is little, `keep` does it.

use super::keep::Carrying;
use super::options::Progress;
use super::{Condemned, Gate, LogLevel, PoisonOnPanic, State, Store, SyncState, Unsynced};
use crate::format::commit::Event;
use crate::format::header::{Mark, StreamKind};
use crate::journal::{Numbered, Stream};
use crate::sys::fs::Dir;
use crate::{Error, Result};

impl Store {
    /// Makes every commit so far durable; see `store_persist`.
    ///
    /// # Errors
    /// As `store_persist`.
    pub fn persist(&self, mut progress: Progress<'_>) -> Result<()> {
        self.check_reentry()?;
        let mut gate = self.0.gate.lock();
        if self.keep(&mut gate, &mut progress, false)? {
            return Ok(());
        }
        match self.all_in_files(&mut gate, &mut progress) {
            // There is room nowhere, but for what the journal keeps.
            Err(error) if error.lacks_room() && self.keep(&mut gate, &mut progress, true)? => {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Makes every commit so far durable in files of its own, and nothing else is needed for it.
    pub(super) fn persist_in_files(&self, mut progress: Progress<'_>) -> Result<()> {
        self.check_reentry()?;
        self.all_in_files(&mut self.0.gate.lock(), &mut progress)
    }

    fn all_in_files(&self, gate: &mut Gate, progress: &mut Progress<'_>) -> Result<()> {
        let (events, files) = {
            let mut state = self.enter_to_write()?;
            if state.links_behind {
                self.update_links(&mut state);
            }
            if state.pending.is_empty() {
                return Ok(());
            }
            let work = (state.pending.clone(), state.unsynced.clone());
            if let Some(journal) = &mut state.journal {
                journal.set_syncing(true)?;
            }
            work
        };
        // Commits and captures may go on from here.
        let _panic = PoisonOnPanic(self);
        let outcome = self.make_durable(gate, &events, &files, progress);
        let mut state = self.lock_state();
        match outcome {
            Ok(syncs) => state.stats.syncs += syncs,
            Err(error) => {
                if matches!(error, Error::Sync { .. }) {
                    self.poison(&error);
                }
                self.leave_sync_mark(&mut state);
                return Err(error);
            }
        }
        let durable = gate.commits.as_ref().map_or(Mark::default(), Stream::mark);
        if self.check_poison().is_err() {
            // A sync of another call failed meanwhile: the journal keeps saying so, for the next open.
            return self.check_poison();
        }
        let last = events.last().map_or(0, |event| event.sequence);
        let all = state
            .pending
            .last()
            .is_none_or(|event| event.sequence <= last);
        if let Some(journal) = &mut state.journal {
            if let Err(error) = journal.persisted(durable, all) {
                // The next open would take what was just made durable for doubtful, so this is no success. It
                // is made again from here: `gate` knows what `commits` has.
                self.leave_sync_mark(&mut state);
                return Err(error);
            }
        }
        gate.kept = last;
        if all {
            gate.carrying = Carrying::default();
        }
        self.tell_of_high_water(&mut state);
        state.set_persisted(&events);
        state.pending.retain(|event| event.sequence > last);
        state.unsynced.retain(|file| file.sequence > last);
        // Not before the journal has let go of the records: until then the next open may take the
        // history for what it was.
        let (gone, stay): (Vec<_>, _) = std::mem::take(&mut state.condemned)
            .into_iter()
            .partition(|file| file.sequence <= last);
        state.condemned = stay;
        drop(state);
        for condemned in &gone {
            self.remove_file(&condemned.file);
        }
        for Condemned { file, .. } in gone.iter().filter(|condemned| condemned.file.image) {
            self.let_go_of_image(&self.lock_state(), &file.module);
        }
        Ok(())
    }

    /// Takes the journal's mark of a sync under way back, unless there is reason for the next open to
    /// doubt what was written.
    pub(super) fn leave_sync_mark(&self, state: &mut State) {
        let doubt = |file: &Unsynced| matches!(file.state, SyncState::Suspect);
        let keep = self.check_poison().is_err() || state.unsynced.iter().any(doubt);
        if let Some(journal) = &mut state.journal {
            if let Err(error) = journal.set_syncing(keep) {
                // It stays, which costs the next open time only.
                self.log(LogLevel::Warning, || {
                    format!("the journal's header: {error}")
                });
            }
        }
    }

    /// The order that durability rests on: data, then names, then records.
    fn make_durable(
        &self,
        gate: &mut Gate,
        events: &[Numbered],
        files: &[Unsynced],
        progress: &mut Progress<'_>,
    ) -> Result<u64> {
        let total = files.iter().map(|file| file.bytes).sum();
        let (mut done, mut syncs) = (0, 0);
        // One file has nobody to wait with.
        for file in files.iter().skip(usize::from(files.len() == 1)) {
            if let SyncState::Open(open) = &file.state {
                open.begin_sync();
            }
        }
        for file in files {
            self.tell(progress, done, total)?;
            match &file.state {
                SyncState::Synced | SyncState::Suspect => {}
                SyncState::Open(open) => {
                    open.sync()?;
                    syncs += 1;
                }
                SyncState::Inherited => {
                    self.sync_inherited(file, file.sequence <= gate.kept)?;
                    syncs += 1;
                }
            }
            if let SyncState::Suspect = &file.state {
                super::recover::write_again(&self.0.pages, &file.module, file.commit)?;
                // What was read from is the old file.
                self.0.pages.forget(&file.module, file.commit);
                syncs += 1;
            }
            done += file.bytes;
        }
        self.tell(progress, total, total)?;
        self.0.files.sync_dir(Dir::Root)?;
        self.sync_hidden_names(gate)?;
        let known = events.partition_point(|event| event.sequence <= gate.last);
        if let Some(commits) = &mut gate.commits {
            commits.append(&events[known..])?;
            commits.sync()?;
        } else {
            let kind = StreamKind::Commits;
            let (files, store) = (&*self.0.files, self.0.pages.store);
            gate.commits = Some(Stream::create(
                files,
                kind,
                store,
                (Mark::default(), false, 0),
                events,
            )?);
        }
        gate.last = events.last().map_or(gate.last, |event| event.sequence);
        Ok(syncs + 2)
    }

    /// An error of writing a file may have been told to its dead owner alone; reading it back finds out. One that the
    /// journal carries is written again by the next open, as after a failed sync.
    fn sync_inherited(&self, file: &Unsynced, carried: bool) -> Result<()> {
        let (pages, module) = (&self.0.pages, &file.module);
        let whole = (|| {
            pages.open(module, file.commit)?.sync()?;
            let index = pages.load(module, file.commit)?;
            super::verify::check_pages(pages, &index.into())
        })();
        whole.map_err(|error| match error {
            Error::Corrupt { file, why } if carried => Error::Sync {
                operation: format!("fdatasync({file}), read back: {why}"),
                errno: libc::EIO,
            },
            other => other,
        })
    }
}

impl State {
    /// Notes that events are durable.
    pub(super) fn set_persisted(&mut self, events: &[Numbered]) {
        for event in events {
            if let Event::Committed(commit) = &event.event {
                self.history.set_persisted(commit.number);
            }
        }
    }
}
