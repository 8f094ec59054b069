//! The two record streams of a store: `commits`, which is durable, and the journal of what is not
//! persisted yet, or only in it. Appending to them; reading them is `replay`.

#![forbid(unsafe_code)]

mod high_water;
mod replay;

pub(crate) use replay::{Booted, Reader, Replay, replay};

use std::io::IoSlice;
use std::sync::Arc;

use crate::format::commit::Event;
use crate::format::header::{HEADER, Header, Mark, StreamKind};
use crate::format::kept::Kept;
use crate::format::{StoreId, name, record};
use crate::sys::fs::{File, Files, Place};
use crate::sys::host;
use crate::{Error, Result};
use high_water::HighWater;

/// Space kept reserved behind the journal's end, so that restore and delete work on a full disk: it has 64 of their
/// records. Small persists may take it, if there is room nowhere else.
const RESERVE: u64 = 4096;

/// A stream that is open for appending.
pub(crate) struct Stream {
    file: Arc<dyn File>,
    place: Place,
    kind: StreamKind,
    store: StoreId,
    header: Header,
    end: u64,
    link: u64,
    /// Up to where blocks are reserved.
    reserved: u64,
    /// A failed append left bytes behind the end, which have to go before the next one.
    ragged: bool,
    /// Journal: that of the file with its name.
    high_water: Option<HighWater>,
}

/// An event and its place in history.
#[derive(Clone)]
pub(crate) struct Numbered {
    pub(crate) sequence: u64,
    pub(crate) event: Event,
}

pub(crate) fn commits_place() -> Place {
    Place::root(name::COMMITS)
}

pub(crate) fn journal_place() -> Place {
    Place::hidden(name::JOURNAL)
}

fn place(kind: StreamKind) -> Place {
    match kind {
        StreamKind::Commits => commits_place(),
        StreamKind::Journal => journal_place(),
    }
}

/// What a new journal knows: how long `commits` is durably, whether a sync has begun whose outcome is not known, and
/// up to which record it is durable itself.
pub(crate) type Known = (Mark, bool, u64);

fn fresh_generation() -> Result<u64> {
    let id = host::random_id()?;
    Ok(u64::from_le_bytes(std::array::from_fn(|i| id[i])))
}

fn room(length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve(length).map_err(|_| Error::NoMemory {
        what: format!("{length} bytes of records").into(),
    })?;
    Ok(bytes)
}

impl Stream {
    /// Makes a stream with its first records under a temporary name, durable, and gives it its
    /// name. A reader and a crash see all of it or nothing.
    pub(crate) fn create(
        files: &dyn Files,
        kind: StreamKind,
        store: StoreId,
        (durable, syncing, kept): Known,
        events: &[Numbered],
    ) -> Result<Self> {
        let place = place(kind);
        let mut high_water = None;
        if kind == StreamKind::Journal {
            // Until the new journal has its name, it would speak of the old one.
            let mut opened = HighWater::open(files, store)?;
            opened.take_back()?;
            high_water = Some(opened);
        }
        let temporary = Place::hidden(format!("{}{}", name::TEMPORARY, place.name));
        files.unlink(&temporary)?;
        let file = files.create(&temporary)?;
        let header = Header {
            generation: fresh_generation()?,
            previous: 0,
            durable,
            boot_id: if kind == StreamKind::Journal {
                files.boot_id()
            } else {
                [0; 16]
            },
            syncing,
            kept,
        };
        let link = header.generation;
        let mut stream = Self {
            file,
            place,
            kind,
            store,
            header,
            end: HEADER as u64,
            link,
            reserved: 0,
            ragged: false,
            high_water: None,
        };
        let made = (|| {
            stream.write_header()?;
            stream.append_from(events, true)?;
            // For restore and delete, if they come before a commit does. Best effort.
            let _ = stream.file.allocate(0, stream.end + RESERVE, true);
            stream.file.sync()?;
            files.rename(&temporary, &stream.place)?;
            files.sync_dir(stream.place.dir)
        })();
        if let Err(error) = made {
            let _ = files.unlink(&temporary);
            return Err(error);
        }
        stream.high_water = high_water;
        stream.set_high_water();
        Ok(stream)
    }

    /// Journal: says up to where it is written, unless a sync is under way.
    fn set_high_water(&mut self) {
        let mark = self.mark();
        if let Some(high_water) = &mut self.high_water {
            if !self.header.syncing {
                high_water.set(mark);
            }
        }
    }

    /// Journal: why the last record is not covered by the high-water mark.
    pub(crate) fn take_passed_over(&mut self) -> Option<Error> {
        self.high_water.as_mut()?.take_failure()
    }

    fn take_high_water_back(&mut self) -> Result<()> {
        self.high_water
            .as_mut()
            .map_or(Ok(()), HighWater::take_back)
    }

    fn write_header(&self) -> Result<()> {
        let bytes = self.header.encode(self.kind, &self.store);
        self.file.write_at(&[IoSlice::new(&bytes)], 0)
    }

    /// Appends records in one write. On failure the stream is as before.
    pub(crate) fn append(&mut self, events: &[Numbered]) -> Result<()> {
        let spare = |n: &Numbered| matches!(n.event, Event::HeadMoved(_) | Event::Deleted(_));
        self.append_from(events, events.iter().all(spare))
    }

    fn append_from(&mut self, events: &[Numbered], spare: bool) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let over = |n: &&Numbered| n.sequence > record::LAST || n.event.commit() > record::LAST;
        if let Some(Numbered { sequence, event }) = events.iter().find(over) {
            // It could be written, and not be read again.
            let number = event.commit();
            return Err(Error::corrupt(
                place(self.kind).to_string(),
                format!("record {sequence} of commit {number}: its numbers are used up"),
            ));
        }
        let events_length = events.iter().map(|n| n.event.length() + record::HEAD + 8);
        let most = events_length.sum();
        let mut bytes = room(most)?;
        let mut link = self.link;
        for (at, Numbered { sequence, event }) in events.iter().enumerate() {
            let more = at + 1 < events.len();
            link = record::encode(
                &mut bytes,
                &self.store,
                link,
                self.end,
                more,
                *sequence,
                event,
            );
        }
        debug_assert!(bytes.len() <= most, "more than there was memory for");
        self.write(&bytes, link, spare)
    }

    /// Journal: appends what makes its records durable; `sequence` is that of the last of them. The sync is the
    /// caller's. Without files it is little, and always `spare`.
    pub(crate) fn append_kept(&mut self, sequence: u64, kept: &Kept, spare: bool) -> Result<()> {
        let most = kept.length() + record::HEAD + 8;
        let mut bytes = room(most)?;
        let link =
            record::encode_kept(&mut bytes, &self.store, self.link, self.end, sequence, kept);
        debug_assert!(bytes.len() <= most, "more than there was memory for");
        self.write(&bytes, link, spare || kept.files.is_empty())
    }

    /// Writes whole records at the end; `spare` are those that the space behind it is kept for.
    fn write(&mut self, bytes: &[u8], link: u64, spare: bool) -> Result<()> {
        if self.ragged {
            self.file.set_len(self.end)?;
            (self.ragged, self.reserved) = (false, 0);
        }
        let end = self.end + bytes.len() as u64;
        if end.saturating_add(RESERVE) > self.reserved {
            self.reserve(end, spare || self.kind == StreamKind::Commits)?;
        }
        if let Err(error) = self.file.write_at(&[IoSlice::new(bytes)], self.end) {
            self.ragged = self.file.set_len(self.end).is_err();
            // That gave back what was reserved.
            self.reserved = 0;
            let _ = self.reserve(self.end, true);
            return Err(error);
        }
        self.end = end;
        self.link = link;
        self.set_high_water();
        Ok(())
    }

    /// Reserves blocks beyond `end`: a good piece, or as few as will do; those that are `spare` are content with `end`.
    /// File systems without reservations go without.
    fn reserve(&mut self, end: u64, spare: bool) -> Result<()> {
        let least = end + RESERVE;
        let pieces = [16 * RESERVE, RESERVE].map(|piece| least.next_multiple_of(piece));
        let mut refused = Ok(());
        for until in pieces.into_iter().chain(spare.then_some(end)) {
            if until <= self.reserved {
                return Ok(());
            }
            match self.file.allocate(0, until, true) {
                Ok(()) => {
                    self.reserved = until;
                    return Ok(());
                }
                Err(error) if error.lacks_room() => refused = Err(error),
                Err(error) if error.errno() == libc::EOPNOTSUPP => {
                    self.reserved = u64::MAX;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        if spare && self.reserved == 0 {
            // What there is of a stream that was just opened may be enough; the write will tell.
            return Ok(());
        }
        // A write that fails would take what is reserved with it.
        refused
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Where it ends, for the journal to note.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            length: self.end,
            generation: self.header.generation,
        }
    }

    /// Journal: notes that `commits` is another file now.
    pub(crate) fn set_durable(&mut self, durable: Mark) -> Result<()> {
        self.header.durable = durable;
        self.write_header()
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// The file, to sync it while others append.
    pub(crate) fn file(&self) -> Arc<dyn File> {
        self.file.clone()
    }

    /// Journal: notes that syncing has begun, so that a crash before its outcome is known is met
    /// with doubt.
    pub(crate) fn set_syncing(&mut self, syncing: bool) -> Result<()> {
        if syncing {
            self.take_high_water_back()?;
        }
        let was = std::mem::replace(&mut self.header.syncing, syncing);
        let written = self.write_header();
        if written.is_err() && syncing {
            // None begins.
            self.header.syncing = was;
        }
        self.set_high_water();
        written
    }

    pub(crate) fn is_syncing(&self) -> bool {
        self.header.syncing
    }

    /// Journal: notes that it was synced and is durable up to a record.
    pub(crate) fn set_kept(&mut self, upto: u64) -> Result<()> {
        self.header.kept = upto;
        self.header.syncing = false;
        self.write_header()?;
        self.set_high_water();
        Ok(())
    }

    /// Journal: notes how long `commits` is, and forgets the records when all of them are in it. A sync was under way, so
    /// that the high-water mark does not speak of them.
    pub(crate) fn persisted(&mut self, durable: Mark, all: bool) -> Result<()> {
        self.header.durable = durable;
        self.header.syncing = false;
        if !all {
            self.write_header()?;
            self.set_high_water();
            return Ok(());
        }
        // The header first, in one write: with its new generation the old records no longer count,
        // whether or not they are still there.
        let old = self.header.clone();
        self.header.previous = old.generation;
        self.header.generation = fresh_generation()?;
        self.header.kept = 0;
        if let Err(error) = self.write_header() {
            self.header = old;
            return Err(error);
        }
        self.link = self.header.generation;
        self.end = HEADER as u64;
        self.reserved = 0;
        // They go now, or before the next record comes.
        self.ragged = self.file.set_len(self.end).is_err();
        // Best effort: without it a later append reserves for itself.
        let _ = self.reserve(self.end, true);
        self.set_high_water();
        Ok(())
    }
}
