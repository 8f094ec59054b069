//! What is durable, and what is not yet.

use std::sync::Arc;

use super::file_refs::Unreferenced;
use crate::format::inline::InlineFiles;
use crate::journal::{RecordLog, SequencedEvent};
use crate::sys::fs::File;

/// What is durable. The persist lock protects this value.
pub(in crate::store) struct Durability {
    /// The log `commits`. `None` until the first persist makes it.
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
    /// This owner has synced the directory with the names of the journal and the identity.
    pub(in crate::store) hidden_names_synced: bool,
}

impl Durability {
    /// The last record that a persist tried to make durable. All records up to it may be durable,
    /// also if that persist failed.
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

/// What no persist has made durable yet.
pub(in crate::store) struct Unpersisted {
    /// `None` in a read-only store.
    pub(in crate::store) journal: Option<RecordLog>,
    /// The sequence number of the next record.
    pub(in crate::store) next_sequence: u64,
    /// The events that are in the journal and not in `commits`. Some of them may be durable in the
    /// journal.
    pub(in crate::store) events: Vec<SequencedEvent>,
    /// Files that no persist has synced, oldest first.
    pub(in crate::store) files: Vec<UnsyncedFile>,
    /// Files that are removed when the deletions of their commits are durable.
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
    /// The record of the commit that made the file.
    pub(in crate::store) sequence: u64,
    pub(in crate::store) bytes: u64,
    pub(in crate::store) state: SyncState,
}

#[derive(Clone)]
pub(in crate::store) enum SyncState {
    /// The file is open since its first write, therefore its sync reports every write error.
    Open(Arc<dyn File>),
    /// The file was synced ahead of the persist and closed, to free its descriptor.
    Synced,
    /// The file was written by an owner that died. The kernel may have reported write errors to
    /// that owner alone, therefore the file is read back after the sync.
    Inherited,
    /// A sync of the file may have failed. The kernel then takes the file's pages for clean and
    /// does not write them again. Therefore the file is written again, as a new file.
    Suspect,
}

/// A file that is removed when a record is durable.
pub(in crate::store) struct PendingUnlink {
    pub(in crate::store) file: Unreferenced,
    /// The record of the deletion.
    pub(in crate::store) sequence: u64,
}
