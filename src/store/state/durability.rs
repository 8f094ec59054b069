//! What is durable, and what is not yet.

use std::sync::Arc;

use super::file_refs::Unreferenced;
use crate::format::inline::InlineFiles;
use crate::journal::{RecordLog, SequencedEvent};
use crate::sys::fs::File;

/// What is durable. The persist lock protects it.
pub(in crate::store) struct Durability {
    /// `commits`; `None` until the first persist makes it.
    pub(in crate::store) commits: Option<RecordLog>,
    /// The last record that was appended to `commits`.
    pub(in crate::store) checkpointed_upto: u64,
    /// The last record that an inline persist tried to make durable in the journal, whether or not its sync
    /// succeeded.
    pub(in crate::store) inlined_upto: u64,
    /// The last record that is durable, in `commits` or in the journal.
    pub(in crate::store) durable_upto: u64,
    /// What the journal carries inline.
    pub(in crate::store) inline: InlineUsage,
    /// This owner has synced the names of the journal and the identity.
    pub(in crate::store) hidden_names_synced: bool,
}

impl Durability {
    /// Records up to this one may be durable, whether or not the persist that tried to make them durable
    /// succeeded.
    pub(in crate::store) fn may_be_durable_upto(&self) -> u64 {
        self.checkpointed_upto.max(self.inlined_upto)
    }
}

/// How much the journal carries inline.
#[derive(Clone, Copy, Default)]
pub(in crate::store) struct InlineUsage {
    pub(in crate::store) bytes: u64,
    pub(in crate::store) files: usize,
}

impl InlineUsage {
    pub(in crate::store) fn of(inline: &[InlineFiles]) -> Self {
        let mut usage = Self::default();
        for file in inline.iter().flat_map(|inline| &inline.files) {
            usage.add(file.bytes.len() as u64);
        }
        usage
    }

    pub(in crate::store) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.files += 1;
    }
}

/// What no persist has finished.
pub(in crate::store) struct Unpersisted {
    /// `None` in a read-only store.
    pub(in crate::store) journal: Option<RecordLog>,
    /// The sequence number of the next record.
    pub(in crate::store) next_sequence: u64,
    /// The events that are in the journal and not in `commits`. Some of them may be durable there.
    pub(in crate::store) events: Vec<SequencedEvent>,
    /// Files that no persist has synced, oldest first.
    pub(in crate::store) files: Vec<UnsyncedFile>,
    /// Files that go when the deletions of their commits are durable.
    pub(in crate::store) unlinks: Vec<PendingUnlink>,
}

impl Unpersisted {
    /// The unsynced file of a module commit.
    pub(in crate::store) fn file(
        &mut self,
        module: &str,
        commit: u64,
    ) -> Option<&mut UnsyncedFile> {
        self.files
            .iter_mut()
            .find(|file| file.commit == commit && file.module == module)
    }
}

/// A file that a persist has to sync.
#[derive(Clone)]
pub(in crate::store) struct UnsyncedFile {
    pub(in crate::store) module: String,
    pub(in crate::store) commit: u64,
    /// The record that made it.
    pub(in crate::store) sequence: u64,
    pub(in crate::store) bytes: u64,
    pub(in crate::store) state: SyncState,
}

#[derive(Clone)]
pub(in crate::store) enum SyncState {
    /// Open since its first write, so its sync reports every write error.
    Open(Arc<dyn File>),
    /// Synced ahead of the persist, to give its descriptor back.
    Synced,
    /// Written by an owner that died. The kernel may have reported write errors to that owner alone, so the file
    /// is read back after the sync.
    Inherited,
    /// A sync of it may have failed. The kernel then takes the file's pages for clean and would not write them
    /// again, so the file is written again, as a new file.
    Suspect,
}

/// A file that goes when a record is durable.
pub(in crate::store) struct PendingUnlink {
    pub(in crate::store) file: Unreferenced,
    /// The record of the deletion.
    pub(in crate::store) sequence: u64,
}
