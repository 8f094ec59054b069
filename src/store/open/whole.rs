//! Which records of the journal count: all records before the first commit whose files are not
//! whole.

use std::collections::HashSet;
use std::sync::Arc;

use super::inline_files::needs_an_owner;
use crate::format::commit::{Commit, Event};
use crate::format::record::Record;
use crate::journal::{self, Rebooted, Replay, Role, SequencedEvent};
use crate::layer::{LayerFiles, check_is};
use crate::store::callbacks::Note;
use crate::store::options::LogLevel;
use crate::store::state::History;
use crate::{Error, Result};

/// The records of the journal that count.
pub(super) struct Judged {
    /// The records that count. None of them is in `commits`.
    pub(super) pending: Vec<SequencedEvent>,
    /// The durable part of the history.
    pub(super) durable: History,
}

/// Applies the records of the journal up to the first commit that is not whole. After a power cut,
/// or after a sync that may have failed, the files are not trusted: every page is checked, and the
/// first commit that is not whole ends the history.
pub(super) fn keep_whole(
    layers: &LayerFiles,
    history: &mut History,
    replay: &mut Replay,
    role: Role,
    note: Note<'_>,
) -> Result<Judged> {
    let journal = journal::journal_place().to_string();
    let mut recent = std::mem::take(&mut replay.recent);
    if replay.rebooted != Rebooted::No || replay.suspect {
        recent = whole_part(layers, recent, replay, role, note)?;
    }
    let mut durable = history.clone();
    let mut pending = Vec::new();
    for record in recent {
        let is_durable = record.sequence <= replay.durable_upto;
        history.follow(&record, is_durable, &journal, role == Role::Salvager)?;
        if is_durable {
            durable.clone_from(history);
        }
        pending.push(SequencedEvent {
            sequence: record.sequence,
            event: record.event,
        });
    }
    if !pending.is_empty() {
        note(
            LogLevel::Info,
            format!(
                "replayed {} record(s) from the journal that the last owner did not move to commits",
                pending.len()
            ),
        );
    }
    Ok(Judged { pending, durable })
}

/// The records before the first commit that is not whole. A commit need not be whole if a later
/// record deletes it, and if that record counts.
fn whole_part(
    layers: &LayerFiles,
    mut records: Vec<Record>,
    replay: &Replay,
    role: Role,
    note: Note<'_>,
) -> Result<Vec<Record>> {
    let mut check = FileCheck {
        layers,
        oldest: 1,
        checked: HashSet::new(),
    };
    loop {
        let Some((at, error)) = first_broken(&mut check, &records, replay, role)? else {
            return Ok(records);
        };
        note(
            LogLevel::Warning,
            format!(
                "commit {} and all commits after it were not persisted and are lost: {error}",
                records[at].event.commit()
            ),
        );
        // The dropped records may include a deletion. Its commit then has to be whole, therefore
        // check again.
        records.truncate(at);
    }
}

/// The first record of a commit that is not whole, and the error of its files.
fn first_broken(
    check: &mut FileCheck<'_>,
    records: &[Record],
    replay: &Replay,
    role: Role,
) -> Result<Option<(usize, Error)>> {
    let deleted: HashSet<u64> = records
        .iter()
        .filter_map(|record| match record.event {
            Event::Deleted(number) => Some(number),
            _ => None,
        })
        .collect();
    let oldest = records.iter().find_map(|record| match &record.event {
        Event::Committed(commit) => Some(commit.number),
        _ => None,
    });
    check.oldest = oldest.unwrap_or(1);
    for (at, record) in records.iter().enumerate() {
        let Event::Committed(commit) = &record.event else {
            continue;
        };
        if deleted.contains(&commit.number) {
            continue;
        }
        let error = match check.files_of(commit) {
            Ok(()) => continue,
            Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => error,
            Err(error) => return Err(error),
        };
        if record.sequence > replay.durable_upto {
            return Ok(Some((at, error)));
        }
        match role {
            // A salvager keeps what is left of the commit.
            Role::Salvager => {}
            Role::ReadOnly if !replay.inline.is_empty() => return Err(needs_an_owner(&error)),
            _ => return Err(error),
        }
    }
    Ok(None)
}

/// Checks the files of commits of the journal.
struct FileCheck<'a> {
    layers: &'a LayerFiles,
    /// The first commit that is not in `commits`. The files of older commits are durable.
    oldest: u64,
    /// The files that were checked. A file is in the set only if all files below it are checked.
    checked: HashSet<(String, u64)>,
}

impl FileCheck<'_> {
    /// Checks every page of the files that a commit needs. Also checks that the commit's own files
    /// have the size and the digest that its record says.
    fn files_of(&mut self, commit: &Commit) -> Result<()> {
        for module in &commit.modules {
            let mut next = module.module_commit;
            if next == commit.number && self.is_checked(&module.id, next) {
                // The file was checked before, as the base of another file. Its size and digest
                // were not compared with this commit's record.
                check_is(&self.layers.load(&module.id, next)?, module)?;
            }
            let mut whole = Vec::new();
            while next >= self.oldest && !self.is_checked(&module.id, next) {
                let index = Arc::new(self.layers.load(&module.id, next)?);
                if next == module.module_commit {
                    check_is(&index, module)?;
                }
                self.layers.check_pages(&index)?;
                whole.push((module.id.clone(), next));
                next = index.parent;
            }
            self.checked.extend(whole);
        }
        Ok(())
    }

    fn is_checked(&self, module: &str, commit: u64) -> bool {
        self.checked.contains(&(module.to_owned(), commit))
    }
}
