//! Recovery: from what the last owner left, however it ended, to a history that is whole.

use std::io::IoSlice;
use std::sync::Arc;

use super::history::History;
use super::{LogLevel, SyncState, Unsynced};
use crate::format::commit::{Commit, Event, ModuleEntry};
use crate::format::index::{Found, Index, Shape};
use crate::format::name;
use crate::format::record::Record;
use crate::journal::{self, Booted, Numbered, Reader, Replay, Stream};
use crate::page::Run;
use crate::pages::{PageFiles, Piece, Reading};
use crate::sys::fs::{Dir, File, Kind, Place};
use crate::{Error, Result};

/// A store's history, ready to go on.
pub(super) struct Recovered {
    pub(super) history: History,
    pub(super) pending: Vec<Numbered>,
    pub(super) unsynced: Vec<Unsynced>,
    pub(super) next_sequence: u64,
    /// The last record of `commits`.
    pub(super) durable: u64,
    pub(super) commits: Option<Stream>,
    pub(super) journal: Option<Stream>,
}

type Note<'a> = &'a mut dyn FnMut(LogLevel, String);

pub(super) fn recover(
    pages: &PageFiles,
    read_only: bool,
    salvage: bool,
    note: Note<'_>,
) -> Result<Recovered> {
    let mut replay = if salvage {
        journal::replay(&*pages.files, &pages.store, Reader::Salvager)?
    } else if read_only {
        replay_beside_writer(pages)?
    } else {
        journal::replay(&*pages.files, &pages.store, Reader::Owner)?
    };
    if let Some(damage) = &replay.damage {
        if !salvage {
            return Err(damage.clone());
        }
        note(LogLevel::Warning, format!("salvaging: {damage}"));
    }
    let mut history = History::default();
    for record in &replay.durable {
        follow(&mut history, record, true, name::COMMITS, salvage)?;
    }
    let recent = std::mem::take(&mut replay.recent);
    let found = recent.len();
    let pending = keep_whole(pages, &mut history, &replay, recent, salvage, note)?;
    for record in std::mem::take(&mut replay.beyond) {
        history.salvage(&record.event);
    }
    let durable = replay.durable.last().map_or(0, |r| r.sequence);
    let last = pending.last().map_or(durable, |n| n.sequence);
    let mut recovered = Recovered {
        history,
        pending,
        unsynced: Vec::new(),
        next_sequence: last + 1,
        durable,
        commits: None,
        journal: None,
    };
    if read_only {
        return Ok(recovered);
    }
    let dropped = recovered.pending.len() < found || replay.journal_torn;
    let suspect = replay.suspect && replay.booted != Booted::Yes && !recovered.pending.is_empty();
    recovered.unsynced = unsynced(pages, &recovered.pending, suspect);
    let (commits, journal) = replay.into_streams(
        &*pages.files,
        pages.store,
        &recovered.pending,
        dropped,
        suspect,
    )?;
    recovered.commits = commits;
    recovered.journal = Some(journal);
    remove_leftovers(pages, &recovered.history, note)?;
    Ok(recovered)
}

/// Reads the streams while a writer may be changing them: what looks torn is read again.
fn replay_beside_writer(pages: &PageFiles) -> Result<Replay> {
    let mut tries = 0;
    loop {
        let replay = journal::replay(&*pages.files, &pages.store, Reader::Bystander);
        let moving = match &replay {
            Ok(replay) => replay.damage.is_some(),
            Err(Error::Corrupt { .. }) => true,
            Err(_) => false,
        };
        tries += 1;
        if !moving || tries == 20 {
            return replay;
        }
        std::thread::yield_now();
    }
}

fn follow(
    history: &mut History,
    record: &Record,
    persisted: bool,
    file: &str,
    salvage: bool,
) -> Result<()> {
    match history.apply(&record.event, persisted) {
        Err(_) if salvage => {
            history.salvage(&record.event);
            Ok(())
        }
        other => other.map_err(|why| {
            Error::corrupt(
                file,
                format!(
                    "record {}, at byte {}: {why}",
                    record.sequence, record.offset
                ),
            )
        }),
    }
}

/// Replays the journal as far as its commits are whole. After a power cut, or a sync that may have
/// failed, files are not trusted: every page of them is checked, and the first commit that is not
/// whole ends the history.
fn keep_whole(
    pages: &PageFiles,
    history: &mut History,
    replay: &Replay,
    recent: Vec<Record>,
    salvage: bool,
    note: Note<'_>,
) -> Result<Vec<Numbered>> {
    let mut kept: Vec<Numbered> = Vec::new();
    let journal = journal::journal_place().to_string();
    for record in recent {
        if (replay.booted != Booted::No || replay.suspect)
            && let Event::Committed(commit) = &record.event
        {
            match check_files(pages, commit) {
                Ok(()) => {}
                Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => {
                    note(
                        LogLevel::Warning,
                        format!(
                            "commit {} and what came after it were not persisted and are lost: {error}",
                            commit.number
                        ),
                    );
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        follow(history, &record, false, &journal, salvage)?;
        kept.push(Numbered {
            sequence: record.sequence,
            event: record.event,
        });
    }
    if !kept.is_empty() {
        note(
            LogLevel::Info,
            format!(
                "not persisted by the last owner, and replayed from the journal: {} record(s)",
                kept.len()
            ),
        );
    }
    Ok(kept)
}

/// The modules whose files a commit brought.
fn own_modules(commit: &Commit) -> impl Iterator<Item = &ModuleEntry> {
    commit
        .modules
        .iter()
        .filter(|module| module.module_commit == commit.number)
}

/// Checks every page of the files that a commit brought, and that they are the ones it means.
fn check_files(pages: &PageFiles, commit: &Commit) -> Result<()> {
    for module in own_modules(commit) {
        let index = Arc::new(pages.load(&module.id, commit.number)?);
        super::verify::matches(&index, module)?;
        super::verify::check_pages(pages, &index)?;
    }
    Ok(())
}

/// The files of unpersisted commits. `suspect`: a sync of them may have failed.
fn unsynced(pages: &PageFiles, pending: &[Numbered], suspect: bool) -> Vec<Unsynced> {
    let mut all = Vec::new();
    for numbered in pending {
        let Event::Committed(commit) = &numbered.event else {
            continue;
        };
        for module in own_modules(commit) {
            // For the progress of a persist alone.
            let bytes = pages
                .open(&module.id, commit.number)
                .and_then(|file| file.len());
            all.push(Unsynced {
                module: module.id.clone(),
                commit: commit.number,
                sequence: numbered.sequence,
                bytes: bytes.unwrap_or(0),
                state: if suspect {
                    SyncState::Suspect
                } else {
                    SyncState::Inherited
                },
            });
        }
    }
    all
}

/// Copies a module commit to a new file, page by checked page, and makes that one durable before it
/// takes the name.
pub(super) fn write_again(pages: &PageFiles, module: &str, commit: u64) -> Result<()> {
    let index: Arc<Index> = Arc::new(pages.load(module, commit)?);
    let temporary = Place::hidden(format!("{}again", name::TEMPORARY));
    pages.files.unlink(&temporary)?;
    let file = pages.files.create(&temporary)?;
    let written = copy_into(pages, &index, &*file).and_then(|()| {
        file.sync()?;
        pages
            .files
            .rename(&temporary, &crate::pages::place(module, commit))
    });
    written.inspect_err(|_| drop(pages.files.unlink(&temporary)))
}

fn copy_into(pages: &PageFiles, index: &Arc<Index>, file: &dyn File) -> Result<()> {
    if index.shape == Shape::Image {
        file.set_len(index.size)?;
    }
    Reading::new(pages).pieces(Piece::all_of(index), |run: Run, bytes| {
        let Found::Data { slot } = index.find(run.start) else {
            return Err(Error::Internal {
                what: format!("page {} moved", run.start),
            });
        };
        file.write_at(&[IoSlice::new(bytes)], index.offset(run.start, slot))
    })?;
    pages.checksums(index)?;
    file.write_at(
        &[IoSlice::new(&index.encode(&pages.store))],
        index.index_offset(),
    )
}

/// Removes what unfinished calls left behind: temporary files, and module commits that no commit
/// uses.
fn remove_leftovers(pages: &PageFiles, history: &History, note: Note<'_>) -> Result<()> {
    let files = &*pages.files;
    let mut removed = 0;
    for entry in files.list(Dir::Hidden)? {
        if entry.name.starts_with(name::TEMPORARY) && entry.kind != Kind::Other {
            files.unlink(&Place::hidden(entry.name))?;
            removed += 1;
        }
    }
    let used = history.files();
    for entry in files.list(Dir::Root)? {
        let ours = name::parse_module_commit(&entry.name)
            .is_some_and(|(module, _)| name::check_module_id(module).is_ok());
        if ours && entry.kind == Kind::File && !used.contains(&entry.name) {
            files.unlink(&Place::root(entry.name))?;
            removed += 1;
        }
    }
    if removed > 0 {
        note(
            LogLevel::Info,
            format!("removed what unfinished calls left: {removed} file(s)"),
        );
    }
    Ok(())
}
