//! Syncing files ahead of a persist, which frees descriptors, and clearing the journal's mark of a
//! sync under way.

use crate::journal::RecordLog;
use crate::store::options::LogLevel;
use crate::store::state::{Locked, SyncState, UnsyncedFile};
use crate::sys::host;
use crate::{Error, Result};

fn is_open(file: &UnsyncedFile) -> bool {
    matches!(file.state, SyncState::Open(_))
}

impl Locked<'_> {
    /// Unpersisted files stay open, because only the descriptor that wrote a file reports all its
    /// write errors. When many files are open, this syncs and closes the oldest, because the
    /// process needs descriptors for other things.
    pub(in crate::store) fn sync_oldest_files(&mut self) {
        let most = (host::descriptor_limit() / 4).clamp(16, 1024) as usize;
        let files = &self.unpersisted.files;
        // The oldest files were closed first. Therefore the open files are at the end of the list,
        // except a few that were rewritten since.
        let open = files.iter().rev().take_while(|file| is_open(file)).count();
        if open <= most {
            return;
        }
        let oldest: Vec<usize> = (0..files.len())
            .filter(|at| is_open(&files[*at]))
            .take(open - most / 2)
            .collect();
        let journal = self.unpersisted.journal.as_ref();
        let already = journal.is_some_and(RecordLog::is_syncing);
        match self.sync_files(&oldest) {
            // A persist of another thread may be syncing too. Its mark stays until that persist
            // ends.
            Ok(()) if already => {}
            Ok(()) => self.clear_sync_mark(),
            Err(error) => {
                if matches!(error, Error::Sync { .. }) {
                    self.store.poison(&error);
                }
                self.store.log(LogLevel::Warning, || {
                    format!("a file of a commit could not be synced ahead of a persist: {error}")
                });
            }
        }
    }

    fn sync_files(&mut self, files: &[usize]) -> Result<()> {
        if let Some(journal) = &mut self.unpersisted.journal {
            journal.set_syncing(true)?;
        }
        for at in files {
            if let SyncState::Open(file) = self.unpersisted.files[*at].state.clone() {
                self.stats.syncs += 1;
                file.sync()?;
                self.unpersisted.files[*at].state = SyncState::Synced;
            }
        }
        Ok(())
    }

    /// Clears the journal's mark of a sync under way. The mark stays if the next open has to doubt
    /// the files that were written.
    pub(in crate::store) fn clear_sync_mark(&mut self) {
        let in_doubt = |file: &UnsyncedFile| matches!(file.state, SyncState::Suspect);
        let doubt = self.unpersisted.files.iter().any(in_doubt);
        let keep = self.store.check_poison().is_err() || doubt;
        if let Some(journal) = &mut self.unpersisted.journal {
            if let Err(error) = journal.set_syncing(keep) {
                // The mark stays in the journal, which costs only time in the next open.
                self.store.log(LogLevel::Warning, || {
                    format!("the journal's mark of a sync under way could not be cleared; the next open takes longer: {error}")
                });
            }
        }
    }
}
