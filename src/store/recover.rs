//! Recovery: from what the last owner left, however it ended, to a history that is whole.

use std::collections::HashSet;
use std::sync::Arc;

use super::history::History;
use super::keep::{self, Carrying};
use super::lineage::{Gone, Lineage};
use super::{Condemned, Gate, LogLevel, SyncState, Unsynced};
use crate::format::commit::{Commit, Event, ModuleEntry};
use crate::format::index::Index;
use crate::format::name;
use crate::format::record::Record;
use crate::journal::{self, Booted, Numbered, Reader, Replay, Stream};
use crate::pages::PageFiles;
use crate::sys::fs::{Access, Dir, Kind, Place};
use crate::{Error, Result};

/// A store's history, ready to go on.
pub(super) struct Recovered {
    pub(super) history: History,
    pub(super) pending: Vec<Numbered>,
    pub(super) unsynced: Vec<Unsynced>,
    pub(super) condemned: Vec<Condemned>,
    pub(super) next_sequence: u64,
    /// What is durable already.
    pub(super) gate: Gate,
    pub(super) journal: Option<Stream>,
}

/// How often a reader looks again while an owner goes on, and at what stays as it was.
const TRIES: u32 = 20;
const SAME: u32 = 2;

type Note<'a> = &'a mut dyn FnMut(LogLevel, String);

pub(super) fn recover(
    pages: &PageFiles,
    read_only: bool,
    salvage: bool,
    note: Note<'_>,
) -> Result<Recovered> {
    let who = match (salvage, read_only) {
        (true, _) => Reader::Salvager,
        (false, true) => return recover_beside_writer(pages, note),
        (false, false) => Reader::Owner,
    };
    let replay = journal::replay(&*pages.files, &pages.store, who)?;
    recover_from(pages, replay, who, note)
}

/// As a reader, while an owner may be at work: where something is missing and he has gone on since, it is looked
/// for again.
fn recover_beside_writer(pages: &PageFiles, note: Note<'_>) -> Result<Recovered> {
    let mut tries = 0;
    loop {
        let (replay, damaged) = replay_beside_writer(pages)?;
        let (seen, found) = (replay.seen(), replay.recent.len());
        let mut notes = Vec::new();
        let mut keep = |level, message| notes.push((level, message));
        let recovered = recover_from(pages, replay, Reader::Bystander, &mut keep);
        let whole = recovered
            .as_ref()
            .is_ok_and(|recovered| recovered.pending.len() == found);
        tries += 1;
        if whole
            || damaged
            || tries == TRIES
            || replay_beside_writer(pages).is_ok_and(|(now, _)| now.seen() == seen)
        {
            for (level, message) in notes {
                note(level, message);
            }
            return recovered;
        }
    }
}

fn recover_from(
    pages: &PageFiles,
    mut replay: Replay,
    who: Reader,
    note: Note<'_>,
) -> Result<Recovered> {
    let (read_only, salvage) = (who != Reader::Owner, who == Reader::Salvager);
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
    let doubtful = replay.booted != Booted::No || replay.suspect;
    let suspect = replay.suspect && replay.booted != Booted::Yes;
    // Where the journal stays as it is, so does what it carries.
    let unload = !read_only && !replay.kept.is_empty() && (doubtful || replay.journal_torn);
    if unload {
        if !suspect {
            // Should a sync fail here, the next open must not believe another one.
            replay.set_syncing(&pages.store)?;
        }
        keep::unload(pages, &replay.kept, suspect, note)?;
    }
    let (pending, promised) = keep_whole(pages, &mut history, &replay, recent, who, note)?;
    for record in std::mem::take(&mut replay.beyond) {
        history.salvage(&record.event);
    }
    let durable = replay.durable.last().map_or(0, |r| r.sequence);
    let last = pending.last().map_or(durable, |n| n.sequence);
    let mut recovered = Recovered {
        history,
        pending,
        unsynced: Vec::new(),
        condemned: Vec::new(),
        next_sequence: last + 1,
        gate: Gate {
            commits: None,
            last: durable,
            promised: replay.promised,
            kept: replay.promised,
            carrying: if unload {
                Carrying::default()
            } else {
                Carrying::of(&replay.kept)
            },
            hidden_named: false,
        },
        journal: None,
    };
    if read_only {
        return Ok(recovered);
    }
    let dropped = recovered.pending.len() < found || replay.journal_torn;
    let sync_failed = suspect;
    let suspect = suspect && !recovered.pending.is_empty();
    let (commits, journal) = replay.into_streams(
        &*pages.files,
        pages.store,
        &recovered.pending,
        // After a failed sync of it the kernel takes what it could not write for clean.
        dropped || unload || sync_failed,
        suspect,
    )?;
    recovered.gate.commits = commits;
    recovered.journal = Some(journal);
    recovered.condemned = remove_leftovers(pages, &recovered.history, &promised, last, note)?;
    // Of what is there now.
    recovered.unsynced = unsynced(pages, &recovered.pending, suspect)?;
    Ok(recovered)
}

/// Reads the streams while a writer may be changing them: what looks torn is read again, until it stays as it is,
/// which is returned too. He leaves nothing torn between his calls, and a reader that sees the same again and again sees
/// nothing of them.
fn replay_beside_writer(pages: &PageFiles) -> Result<(Replay, bool)> {
    let (mut before, mut same, mut tries) = (None, 0, 0);
    loop {
        let replay = journal::replay(&*pages.files, &pages.store, Reader::Bystander);
        tries += 1;
        let seen = match &replay {
            // A file that became shorter while it was read, or damage.
            Err(Error::Corrupt { .. }) => None,
            Ok(Replay {
                damage: Some(damage),
                ..
            }) => Some(damage.to_string()),
            _ => return replay.map(|replay| (replay, false)),
        };
        let seen = seen.zip(replay.as_ref().ok().map(Replay::seen));
        same = if seen.is_some() && seen == before {
            same + 1
        } else {
            0
        };
        if same == SAME || tries == TRIES {
            return replay.map(|replay| (replay, same == SAME));
        }
        before = seen;
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
/// whole ends the history. Returned is also the history that is durable.
fn keep_whole(
    pages: &PageFiles,
    history: &mut History,
    replay: &Replay,
    recent: Vec<Record>,
    who: Reader,
    note: Note<'_>,
) -> Result<(Vec<Numbered>, History)> {
    let mut kept: Vec<Numbered> = Vec::new();
    let journal = journal::journal_place().to_string();
    let mut recent = recent;
    if replay.booted != Booted::No || replay.suspect {
        recent = whole_part(pages, recent, replay, who, note)?;
    }
    let mut durable = history.clone();
    for record in recent {
        let promised = record.sequence <= replay.promised;
        let salvage = who == Reader::Salvager;
        follow(history, &record, promised, &journal, salvage)?;
        if promised {
            durable.clone_from(history);
        }
        kept.push(Numbered {
            sequence: record.sequence,
            event: record.event,
        });
    }
    if !kept.is_empty() {
        note(
            LogLevel::Info,
            format!(
                "not moved to commits by the last owner, and replayed from the journal: {} record(s)",
                kept.len()
            ),
        );
    }
    Ok((kept, durable))
}

/// The records up to the first of a commit that is not whole. One that is deleted further on need not be
/// whole, as long as the record of that stays.
fn whole_part(
    pages: &PageFiles,
    mut records: Vec<Record>,
    replay: &Replay,
    who: Reader,
    note: Note<'_>,
) -> Result<Vec<Record>> {
    let mut checked = HashSet::new();
    'again: loop {
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
        for at in 0..records.len() {
            let Event::Committed(commit) = &records[at].event else {
                continue;
            };
            if deleted.contains(&commit.number) {
                continue;
            }
            match check_files(pages, commit, oldest.unwrap_or(1), &mut checked) {
                Ok(()) => {}
                Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => {
                    if records[at].sequence <= replay.promised {
                        match who {
                            // As much as can be had of it.
                            Reader::Salvager => continue,
                            Reader::Bystander if !replay.kept.is_empty() => {
                                return Err(keep::needs_an_owner(&error));
                            }
                            _ => return Err(error),
                        }
                    }
                    note(
                        LogLevel::Warning,
                        format!(
                            "commit {} and what came after it were not persisted and are lost: {error}",
                            commit.number
                        ),
                    );
                    records.truncate(at);
                    continue 'again;
                }
                Err(error) => return Err(error),
            }
        }
        return Ok(records);
    }
}

/// The modules whose files a commit brought.
fn own_modules(commit: &Commit) -> impl Iterator<Item = &ModuleEntry> {
    commit
        .modules
        .iter()
        .filter(|module| module.module_commit == commit.number)
}

/// Checks every page of the files that a commit needs and that are not durable, being of commit `oldest` or
/// later; and that those it brought are the ones it means.
fn check_files(
    pages: &PageFiles,
    commit: &Commit,
    oldest: u64,
    checked: &mut HashSet<(String, u64)>,
) -> Result<()> {
    for module in &commit.modules {
        let mut next = module.module_commit;
        if next == commit.number && checked.contains(&(module.id.clone(), next)) {
            // As one that another is made on.
            super::verify::matches(&pages.load(&module.id, next)?, module)?;
        }
        // A file counts as checked when all that is below it does.
        let mut whole = Vec::new();
        while next >= oldest && !checked.contains(&(module.id.clone(), next)) {
            let index = Arc::new(pages.load(&module.id, next)?);
            if next == module.module_commit {
                super::verify::matches(&index, module)?;
            }
            super::verify::check_pages(pages, &index)?;
            whole.push((module.id.clone(), next));
            next = index.parent;
        }
        checked.extend(whole);
    }
    Ok(())
}

/// The files of unpersisted commits. `suspect`: a sync of them may have failed.
fn unsynced(pages: &PageFiles, pending: &[Numbered], suspect: bool) -> Result<Vec<Unsynced>> {
    let mut all = Vec::new();
    let deleted: HashSet<u64> = pending
        .iter()
        .filter_map(|later| match later.event {
            Event::Deleted(number) => Some(number),
            _ => None,
        })
        .collect();
    for numbered in pending {
        let Event::Committed(commit) = &numbered.event else {
            continue;
        };
        let deleted = deleted.contains(&commit.number);
        for module in own_modules(commit) {
            let place = crate::pages::place(&module.id, commit.number);
            let file = pages.files.open(&place, Access::Read);
            // Of a deleted commit it must be known: no persist can sync what is gone.
            if deleted && file.clone()?.is_none() {
                continue;
            }
            // For the progress of a persist alone.
            let bytes = file.map(|file| file.map_or(Ok(0), |file| file.len()));
            all.push(Unsynced {
                module: module.id.clone(),
                commit: commit.number,
                sequence: numbered.sequence,
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

/// Copies a module commit to a new file, page by checked page, and makes that one durable before it
/// takes the name.
pub(super) fn write_again(pages: &PageFiles, module: &str, commit: u64) -> Result<()> {
    let index: Arc<Index> = Arc::new(pages.load(module, commit)?);
    let temporary = Place::hidden(format!("{}again", name::TEMPORARY));
    let again = crate::pages::rewrite(pages, &[index], 0, &temporary, &mut |_| Ok(()))?;
    let named = again.file.sync().and_then(|()| {
        pages
            .files
            .rename(&temporary, &crate::pages::place(module, commit))
    });
    named.inspect_err(|_| drop(pages.files.unlink(&temporary)))
}

/// Removes what unfinished calls left behind: temporary files, and module commits that no commit
/// needs. Those that the `durable` history needs stay until the record `last` is durable too: they are
/// returned.
fn remove_leftovers(
    pages: &PageFiles,
    history: &History,
    durable: &History,
    last: u64,
    note: Note<'_>,
) -> Result<Vec<Condemned>> {
    let files = &*pages.files;
    let mut removed = 0;
    for entry in files.list(Dir::Hidden)? {
        if entry.name.starts_with(name::TEMPORARY) && entry.kind != Kind::Other {
            files.unlink(&Place::hidden(entry.name))?;
            removed += 1;
        }
    }
    let named = history.files();
    let mut unnamed = Vec::new();
    for entry in files.list(Dir::Root)? {
        if entry.kind != Kind::File || named.contains(&entry.name) {
            continue;
        }
        if let Some((module, commit)) = name::parse_module_commit(&entry.name) {
            if name::check_module_id(module).is_ok() {
                unnamed.push((module.to_owned(), commit, entry.name.clone()));
            }
        }
    }
    let mut condemned = Vec::new();
    let mut unneeded = Vec::new();
    if !unnamed.is_empty() {
        // Some may be there for their children alone.
        let needed = Lineage::of(pages, history)?;
        let promised = Lineage::of(pages, durable)?;
        let unclear = needed.unclear();
        for (module, commit, name) in unnamed {
            let known = name == name::module_commit(&module, commit);
            if known && (needed.contains(&module, commit) || unclear.contains(&module)) {
                continue;
            }
            if known && promised.contains(&module, commit) {
                let image = true;
                let file = Gone {
                    module,
                    commit,
                    image,
                };
                condemned.push(Condemned {
                    file,
                    sequence: last,
                });
                continue;
            }
            unneeded.push(name);
        }
    }
    if !unneeded.is_empty() {
        // What made them unneeded may be a file that was renamed over another, and not synced.
        files.sync_dir(Dir::Root)?;
    }
    for name in unneeded {
        files.unlink(&Place::root(name))?;
        removed += 1;
    }
    if removed > 0 {
        note(
            LogLevel::Info,
            format!("removed what unfinished calls left: {removed} file(s)"),
        );
    }
    Ok(condemned)
}
