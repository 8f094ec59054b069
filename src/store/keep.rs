//! Persisting little: the files of small commits are written into the journal, whole, behind the records that
//! speak of them, so that one sync makes them durable. They are synced themselves when enough has come together.

use super::options::Progress;
use super::{Gate, LogLevel, PoisonOnPanic, State, Store, SyncState};
use crate::format::commit::Event;
use crate::format::index::FOOTER;
use crate::format::kept::{Carried, Kept};
use crate::format::name;
use crate::journal::Numbered;
use crate::pages::{self, PageFiles};
use crate::sys::fs::{Access, Dir, File, Place, read_exact};
use crate::{Error, Result};
use std::io::IoSlice;
use std::sync::Arc;

/// The most bytes of files that one persist writes twice rather than sync. At 128 pages of 4 KiB writing
/// them a second time begins to cost what it saves (docs/performance.md, row durable).
const LITTLE: u64 = 256 << 10;
/// The most that the journal carries, which bounds what the next persist but these has to sync, and a recovery
/// to write.
const MOST: Carrying = Carrying {
    bytes: 4 << 20,
    files: 256,
};

/// What the journal carries.
#[derive(Clone, Copy, Default)]
pub(super) struct Carrying {
    bytes: u64,
    files: usize,
}

impl Carrying {
    pub(super) fn of(kept: &[Kept]) -> Self {
        let mut all = Self::default();
        for file in kept.iter().flat_map(|kept| &kept.files) {
            all.add(file.bytes.len() as u64);
        }
        all
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.files += 1;
    }
}

/// What one persist writes into the journal.
struct Work {
    events: Vec<Numbered>,
    files: Vec<(String, u64, u64, Arc<dyn File>)>,
}

impl Store {
    /// Makes every commit so far durable by a sync of the journal alone, or finds it so; `false` if it is too much
    /// for that or the journal has no room. `spare`: it may take the room that is kept for restore and delete.
    pub(super) fn keep(
        &self,
        gate: &mut Gate,
        progress: &mut Progress<'_>,
        spare: bool,
    ) -> Result<bool> {
        let Some(work) = self.little_work(gate)? else {
            return Ok(false);
        };
        let Some(last) = work.events.last().map(|event| event.sequence) else {
            return Ok(true);
        };
        let total = work.files.iter().map(|(_, _, bytes, _)| bytes).sum();
        self.tell(progress, 0, total)?;
        let mut kept = Kept {
            upto: last,
            files: Vec::new(),
        };
        for (module, commit, _, file) in work.files {
            let length = file.len()?;
            if length > LITTLE {
                // An image of few pages, the rest of it holes.
                return Ok(false);
            }
            let mut bytes = crate::error::try_filled(length as usize, 0u8, "a small file")?;
            read_exact(&*file, &mut bytes, 0, &pages::place(&module, commit))?;
            kept.files.push(Carried {
                module,
                commit,
                bytes,
            });
        }
        self.tell(progress, total, total)?;
        let _panic = PoisonOnPanic(self);
        let file = {
            let mut state = self.enter_to_write()?;
            let sequence = state.next_sequence - 1;
            let Some(journal) = &mut state.journal else {
                return Ok(false);
            };
            journal.set_syncing(true)?;
            let before = journal.end();
            let appended = journal.append_kept(sequence, &kept, spare);
            let (after, file) = (journal.end(), journal.file());
            if let Err(error) = appended {
                self.leave_sync_mark(&mut state);
                if error.lacks_room() {
                    return Ok(false);
                }
                return Err(error);
            }
            state.stats.bytes_written += after - before;
            file
        };
        gate.promised = last;
        // Commits and captures may go on from here.
        let synced = (|| {
            self.sync_hidden_names(gate)?;
            file.sync()
        })();
        let mut state = self.lock_state();
        if let Err(error) = synced {
            self.poison(&error);
            self.leave_sync_mark(&mut state);
            return Err(error);
        }
        state.stats.syncs += 1;
        self.check_poison()?;
        if let Some(journal) = &mut state.journal {
            if let Err(error) = journal.set_kept(last) {
                // The next open would take what was just made durable for doubtful, so this is no success.
                self.leave_sync_mark(&mut state);
                return Err(error);
            }
        }
        for file in &kept.files {
            gate.carrying.add(file.bytes.len() as u64);
        }
        gate.kept = last;
        self.tell_of_high_water(&mut state);
        state.set_persisted(&work.events);
        Ok(true)
    }

    /// Makes the names of the journal and the identity durable, once by each owner: the one before may have been killed
    /// between giving them and syncing them.
    pub(super) fn sync_hidden_names(&self, gate: &mut Gate) -> Result<()> {
        if !gate.hidden_named {
            self.0.files.sync_dir(Dir::Hidden)?;
            gate.hidden_named = true;
        }
        Ok(())
    }

    /// What is not durable yet, if it is little: commits and restores alone, by this owner, of files that are open.
    fn little_work(&self, gate: &Gate) -> Result<Option<Work>> {
        let mut state = self.enter_to_write()?;
        if state.links_behind {
            self.update_links(&mut state);
        }
        // `commits` is made by a persist that syncs all.
        if gate.commits.is_none() || !state.condemned.is_empty() {
            return Ok(None);
        }
        Ok(state.little_work(gate))
    }
}

impl State {
    fn little_work(&self, gate: &Gate) -> Option<Work> {
        let known = |event: &Numbered| event.sequence <= gate.kept;
        let new = &self.pending[self.pending.partition_point(known)..];
        let simple =
            |event: &Numbered| matches!(event.event, Event::Committed(_) | Event::HeadMoved(_));
        if !new.iter().all(simple) {
            return None;
        }
        let mut files = Vec::new();
        let (mut bytes, mut carrying) = (0, gate.carrying);
        for file in self.unsynced.iter().filter(|f| f.sequence > gate.kept) {
            let SyncState::Open(open) = &file.state else {
                return None;
            };
            bytes += file.bytes;
            carrying.add(file.bytes);
            let most = bytes > LITTLE || carrying.bytes > MOST.bytes;
            if most || carrying.files > MOST.files {
                return None;
            }
            files.push((file.module.clone(), file.commit, file.bytes, open.clone()));
        }
        let events = new.to_vec();
        Some(Work { events, files })
    }
}

/// Makes the files that the journal carries durable by themselves, so that it may forget them. `suspect`: a sync
/// may have failed, after which another one proves nothing.
pub(super) fn unload(
    pages: &PageFiles,
    kept: &[Kept],
    suspect: bool,
    note: &mut dyn FnMut(LogLevel, String),
) -> Result<()> {
    let mut written = 0;
    for file in kept.iter().flat_map(|kept| &kept.files) {
        let there = standing(pages, file, suspect)?;
        if there == Standing::Newer || (!suspect && there == Standing::AsCarried) {
            continue;
        }
        let temporary = Place::hidden(format!("{}carried", name::TEMPORARY));
        pages.files.unlink(&temporary)?;
        let new = pages.files.create(&temporary)?;
        let named = (|| {
            new.write_at(&[IoSlice::new(&file.bytes)], 0)?;
            new.sync()?;
            let place = pages::place(&file.module, file.commit);
            pages.files.rename(&temporary, &place)
        })();
        named.inspect_err(|_| drop(pages.files.unlink(&temporary)))?;
        written += 1;
    }
    if written > 0 {
        note(
            LogLevel::Info,
            format!("written again from the journal: {written} file(s)"),
        );
    }
    // Also of names that are there: they may be in memory only.
    pages.files.sync_dir(Dir::Root)
}

/// What is there under the name of a carried file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing, or nothing whole, or another commit's.
    Damaged,
    AsCarried,
    /// Of the same commit and bytes, written anew since. That was synced before it took the name, and what the carried
    /// one was made on may be gone.
    Newer,
}

/// Looks at what is there of a carried file, after a sync unless that would prove nothing.
fn standing(pages: &PageFiles, file: &Carried, suspect: bool) -> Result<Standing> {
    let place = pages::place(&file.module, file.commit);
    let there = match pages.files.open(&place, Access::Read) {
        Ok(Some(there)) => there,
        Ok(None) | Err(Error::Corrupt { .. }) => return Ok(Standing::Damaged),
        Err(error) => return Err(error),
    };
    if !suspect {
        there.sync()?;
    }
    let wanted = pages.footer_of(&file.module, file.commit, &file.bytes)?;
    let same = pages.load(&file.module, file.commit).and_then(|index| {
        // One of the same name may be what is left of an import that failed.
        let same = index.digest == wanted.head().digest;
        super::verify::check_pages(pages, &Arc::new(index)).map(|()| same)
    });
    match same {
        Ok(true) if is_as_carried(&*there, &place, file)? => Ok(Standing::AsCarried),
        Ok(true) => Ok(Standing::Newer),
        Ok(false) | Err(Error::Corrupt { .. } | Error::Version { .. }) => Ok(Standing::Damaged),
        Err(error) => Err(error),
    }
}

/// Whether a whole file of the same bytes ends as the carried one, and so is the same.
fn is_as_carried(there: &dyn File, place: &Place, file: &Carried) -> Result<bool> {
    let mut end = [0; FOOTER];
    let at = there.len()?.saturating_sub(FOOTER as u64);
    read_exact(there, &mut end, at, place)?;
    Ok(file.bytes.ends_with(&end))
}

/// What a reader says of a store that lost power and that no owner has opened since.
pub(super) fn needs_an_owner(why: &Error) -> Error {
    Error::ReadOnly {
        what: format!("recovery has to write ({why})"),
        why: "so that the store has to be opened for writing once",
    }
}
