//! Files that the last owner left on the disk: files that no persist has synced, and files that no
//! commit needs.

use std::collections::HashSet;

use crate::Result;
use crate::format::commit::{Commit, Event, ModuleEntry};
use crate::format::name;
use crate::journal::SequencedEvent;
use crate::layer::{LayerFiles, place};
use crate::store::callbacks::Note;
use crate::store::options::LogLevel;
use crate::store::state::{
    FileRefs, History, PendingUnlink, SyncState, Unreferenced, UnsyncedFile,
};
use crate::sys::fs::{Access, Dir, EntryKind, Place};

/// The modules of which a commit has written a file.
fn own_modules(commit: &Commit) -> impl Iterator<Item = &ModuleEntry> {
    commit
        .modules
        .iter()
        .filter(|module| module.module_commit == commit.number)
}

/// The files of unpersisted commits. `suspect`: a sync of these files may have failed.
pub(super) fn unsynced_files(
    layers: &LayerFiles,
    pending: &[SequencedEvent],
    suspect: bool,
) -> Result<Vec<UnsyncedFile>> {
    let mut all = Vec::new();
    let deleted: HashSet<u64> = pending
        .iter()
        .filter_map(|later| match later.event {
            Event::Deleted(number) => Some(number),
            _ => None,
        })
        .collect();
    for event in pending {
        let Event::Committed(commit) = &event.event else {
            continue;
        };
        let deleted = deleted.contains(&commit.number);
        for module in own_modules(commit) {
            let place = place(&module.id, commit.number);
            let file = layers.files.open(&place, Access::Read);
            // The file of a deleted commit may be removed already, and no persist can sync such a
            // file.
            if deleted && file.clone()?.is_none() {
                continue;
            }
            // Only the progress of a persist uses the length.
            let bytes = file.map(|file| file.map_or(Ok(0), |file| file.len()));
            all.push(UnsyncedFile {
                module: module.id.clone(),
                commit: commit.number,
                sequence: event.sequence,
                bytes: bytes.and_then(|bytes| bytes).unwrap_or(0),
                state: if suspect {
                    SyncState::Suspect
                } else {
                    SyncState::Inherited
                },
            });
        }
    }
    Ok(all)
}

/// Removes what unfinished calls left behind: temporary files, and module commits that no commit
/// needs. Module commits that the `durable` history needs stay until the record `last` is durable
/// too. Returns the files that stay for this reason.
pub(super) fn remove_leftovers(
    layers: &LayerFiles,
    history: &History,
    durable: &History,
    last: u64,
    note: Note<'_>,
) -> Result<Vec<PendingUnlink>> {
    let files = &*layers.files;
    let mut removed = 0;
    for entry in files.list(Dir::Hidden)? {
        if entry.name.starts_with(name::TEMPORARY) && entry.kind != EntryKind::Other {
            files.unlink(&Place::hidden(entry.name))?;
            removed += 1;
        }
    }
    let unnamed = unnamed_files(layers, history)?;
    let (mut pending, mut unneeded) = (Vec::new(), Vec::new());
    if !unnamed.is_empty() {
        // A file that no map names may still be needed by its children.
        let needed = FileRefs::of(layers, history)?;
        let durable = FileRefs::of(layers, durable)?;
        let unclear = needed.unclear();
        for (module, commit, name) in unnamed {
            let known = name == name::module_commit(&module, commit);
            if known && (needed.contains(&module, commit) || unclear.contains(&module)) {
                continue;
            }
            if known && durable.contains(&module, commit) {
                let file = Unreferenced {
                    module,
                    commit,
                    image: true,
                };
                let sequence = last;
                pending.push(PendingUnlink { file, sequence });
                continue;
            }
            unneeded.push(name);
        }
    }
    if !unneeded.is_empty() {
        // The files may be unneeded because of a rename that is not durable yet. This makes the
        // rename durable before the files are removed.
        files.sync_dir(Dir::Root)?;
    }
    for name in unneeded {
        files.unlink(&Place::root(name))?;
        removed += 1;
    }
    if removed > 0 {
        note(
            LogLevel::Info,
            format!("removed {removed} file(s) that unfinished calls left behind"),
        );
    }
    Ok(pending)
}

/// The module commit files that no commit's map names: the module, the commit, and the name of the
/// file.
fn unnamed_files(layers: &LayerFiles, history: &History) -> Result<Vec<(String, u64, String)>> {
    let named = history.files();
    let mut unnamed = Vec::new();
    for entry in layers.files.list(Dir::Root)? {
        if entry.kind != EntryKind::File || named.contains(&entry.name) {
            continue;
        }
        if let Some((module, commit)) = name::parse_module_commit(&entry.name) {
            if name::check_module_id(module).is_ok() {
                unnamed.push((module.to_owned(), commit, entry.name.clone()));
            }
        }
    }
    Ok(unnamed)
}
