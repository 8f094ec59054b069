//! The two record streams of a store: `commits`, which is durable, and the journal of what is not persisted
//! yet. Appending, replaying, and telling what a power cut may leave from damage.

#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::sync::Arc;

use crate::error::try_filled;
use crate::format::commit::Event;
use crate::format::record::{self, HEADER, Header, Record, StreamKind, Tail};
use crate::format::{StoreId, name};
use crate::sys::fs::{Access, File, Files, Place, read_exact};
use crate::sys::host;
use crate::{Error, Result};

/// Space kept reserved behind the journal's end, so that restore and delete work on a full disk.
const RESERVE: u64 = 4096;

/// A stream that is open for appending.
pub(crate) struct Stream {
    file: Arc<dyn File>,
    place: Place,
    kind: StreamKind,
    store: StoreId,
    pub(crate) header: Header,
    end: u64,
    link: u64,
    /// Up to where blocks are reserved.
    reserved: u64,
    /// A failed append left bytes behind the end, which have to go before the next one.
    ragged: bool,
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

fn fresh_generation() -> Result<u64> {
    let id = host::random_id()?;
    Ok(u64::from_le_bytes(std::array::from_fn(|i| id[i])))
}

impl Stream {
    /// Makes a stream with its first records under a temporary name, durable, and gives it its name.
    /// A reader and a crash see all of it or nothing.
    pub(crate) fn create(
        files: &dyn Files,
        kind: StreamKind,
        store: StoreId,
        durable: u64,
        events: &[Numbered],
    ) -> Result<Self> {
        let place = place(kind);
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
            syncing: false,
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
        };
        let made = (|| {
            stream.write_header()?;
            stream.append(events)?;
            stream.file.sync()?;
            files.rename(&temporary, &stream.place)?;
            files.sync_dir(stream.place.dir)
        })();
        if let Err(error) = made {
            let _ = files.unlink(&temporary);
            return Err(error);
        }
        Ok(stream)
    }

    fn write_header(&self) -> Result<()> {
        let bytes = self.header.encode(self.kind, &self.store);
        self.file.write_at(&[IoSlice::new(&bytes)], 0)
    }

    /// Appends records in one write. On failure the stream is as before.
    pub(crate) fn append(&mut self, events: &[Numbered]) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        if self.ragged {
            self.file.set_len(self.end)?;
            self.ragged = false;
        }
        let mut bytes = Vec::new();
        let mut link = self.link;
        for Numbered { sequence, event } in events {
            link = record::encode(&mut bytes, &self.store, link, self.end, *sequence, event);
        }
        let end = self.end + bytes.len() as u64;
        if end > self.reserved {
            self.reserve(end)?;
        }
        if let Err(error) = self.file.write_at(&[IoSlice::new(&bytes)], self.end) {
            self.ragged = self.file.set_len(self.end).is_err();
            return Err(error);
        }
        self.end = end;
        self.link = link;
        Ok(())
    }

    /// Reserves blocks beyond `end`. File systems without reservations go without.
    fn reserve(&mut self, end: u64) -> Result<()> {
        let until = (end + RESERVE).next_multiple_of(16 * RESERVE);
        match self.file.allocate(0, until, true) {
            Ok(()) => self.reserved = until,
            Err(error) if error.errno() == libc::ENOSPC && end < self.reserved + RESERVE => {}
            Err(error) if error.errno() == libc::EOPNOTSUPP => self.reserved = u64::MAX,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// Journal: notes that syncing has begun, so that a crash before its outcome is known is met with doubt.
    pub(crate) fn set_syncing(&mut self, syncing: bool) -> Result<()> {
        self.header.syncing = syncing;
        self.write_header()
    }

    /// Journal: notes how long `commits` is, and forgets the records when all of them are in it.
    pub(crate) fn persisted(&mut self, durable: u64, all: bool) -> Result<()> {
        self.header.durable = durable;
        self.header.syncing = false;
        if !all {
            return self.write_header();
        }
        // The header first, in one write: with its new generation the old records no longer count, whether or
        // not they are still there.
        let old = (self.header.generation, self.header.previous);
        (self.header.generation, self.header.previous) = (fresh_generation()?, old.0);
        if let Err(error) = self.write_header() {
            (self.header.generation, self.header.previous) = old;
            return Err(error);
        }
        self.link = self.header.generation;
        self.end = HEADER as u64;
        self.reserved = 0;
        self.ragged = true;
        self.file.set_len(self.end)?;
        self.ragged = false;
        // Best effort: without it a later append reserves for itself.
        let _ = self.reserve(self.end);
        Ok(())
    }
}

/// What both streams say.
pub(crate) struct Replay {
    /// Events of `commits`.
    pub(crate) durable: Vec<Record>,
    /// Events of the journal that are not in `commits`.
    pub(crate) recent: Vec<Record>,
    /// The host booted since the journal was written: what was not synced may be lost.
    pub(crate) rebooted: bool,
    /// A sync was under way, or had failed, when the last owner ended.
    pub(crate) suspect: bool,
    /// The journal must be written anew: it ends in bytes that are no record.
    pub(crate) journal_torn: bool,
    /// What is damaged, and the intact records beyond the damage.
    pub(crate) damage: Option<Error>,
    pub(crate) beyond: Vec<Record>,
    journal: Half,
    commits: Option<Half>,
}

/// One stream as it was found.
struct Half {
    file: Arc<dyn File>,
    header: Header,
    end: u64,
    link: u64,
    tail: Tail,
}

fn read_all(file: &dyn File, place: &Place) -> Result<Vec<u8>> {
    let length = file.len()?;
    let mut bytes = try_filled(length as usize, 0u8, "a stream of records")?;
    read_exact(file, &mut bytes, 0, place)?;
    Ok(bytes)
}

/// Reads both streams. `salvage` reads on where a header is damaged.
pub(crate) fn replay(files: &dyn Files, store: &StoreId, access: Access) -> Result<Replay> {
    let name = journal_place().to_string();
    let file = files
        .open(&journal_place(), access)?
        .ok_or_else(|| Error::corrupt(name.clone(), "it is missing"))?;
    let bytes = read_all(&*file, &journal_place())?;
    let header = Header::decode(&bytes, StreamKind::Journal, store, &name)?;
    let rebooted = header.boot_id != files.boot_id();

    let mut damage = None;
    let mut beyond = Vec::new();
    let (commits, durable) = read_commits(
        files,
        store,
        access,
        &header,
        rebooted,
        &mut damage,
        &mut beyond,
    )?;

    let scanned = record::scan(&bytes, &header, store, &name)?;
    let last = durable.last().map_or(0, |record: &Record| record.sequence);
    let recent: Vec<Record> = scanned
        .records
        .into_iter()
        .filter(|record| record.sequence > last)
        .collect();
    let gap = recent
        .first()
        .is_some_and(|first| first.sequence != last + 1);
    if let Tail::Bad(why) = &scanned.tail
        && !rebooted
        && access == Access::Write
    {
        // Nothing is lost but by a power cut, and there was none.
        damage.get_or_insert(Error::corrupt(name.clone(), why.clone()));
        beyond.extend(scanned.beyond);
    }
    if gap {
        let why = format!(
            "its first record is {}, and commits ends with {last}",
            recent[0].sequence
        );
        damage.get_or_insert(Error::corrupt(name, why));
    }
    let journal = Half {
        file,
        end: scanned.end,
        link: scanned.link,
        tail: scanned.tail,
        header: header.clone(),
    };
    Ok(Replay {
        durable,
        recent,
        rebooted,
        suspect: header.syncing,
        journal_torn: journal.tail != Tail::Clean,
        damage,
        beyond,
        journal,
        commits,
    })
}

type Durable = (Option<Half>, Vec<Record>);

fn read_commits(
    files: &dyn Files,
    store: &StoreId,
    access: Access,
    journal: &Header,
    rebooted: bool,
    damage: &mut Option<Error>,
    beyond: &mut Vec<Record>,
) -> Result<Durable> {
    let place = commits_place();
    let Some(file) = files.open(&place, access)? else {
        if journal.durable > 0 {
            *damage = Some(Error::corrupt(name::COMMITS, "it is missing"));
        }
        return Ok((None, Vec::new()));
    };
    let mut bytes = read_all(&*file, &place)?;
    let length = bytes.len();
    if journal.syncing && !rebooted && access == Access::Write {
        // A sync may have failed here. What was behind the last good one may be in memory only, clean in the kernel's eyes, so that
        // another sync would not write it. The journal has it too: it is cut off and appended again.
        bytes.truncate((journal.durable as usize).max(HEADER));
    }
    let header = match Header::decode(&bytes, StreamKind::Commits, store, name::COMMITS) {
        Ok(header) => header,
        Err(error @ Error::Corrupt { .. }) => {
            // Its records may still be good, for salvage.
            *damage = Some(error);
            Header {
                generation: 0,
                previous: 0,
                durable: 0,
                boot_id: [0; 16],
                syncing: false,
            }
        }
        Err(error) => return Err(error),
    };
    let scanned = record::scan(&bytes, &header, store, name::COMMITS)?;
    let why = match &scanned.tail {
        Tail::Clean => None,
        Tail::Cut => Some("it is cut off"),
        Tail::Bad(why) => Some(why.as_str()),
    };
    let lost = scanned.end < journal.durable || scanned.damaged;
    let impossible = matches!(scanned.tail, Tail::Bad(_)) && !rebooted && access == Access::Write;
    if lost || impossible {
        let why = why
            .unwrap_or("it ends before its last durable record")
            .to_owned();
        damage.get_or_insert(Error::corrupt(name::COMMITS, why));
        beyond.extend(scanned.beyond);
    }
    let tail = if bytes.len() < length {
        Tail::Cut
    } else {
        scanned.tail
    };
    let half = Half {
        file,
        header,
        end: scanned.end,
        link: scanned.link,
        tail,
    };
    Ok((Some(half), scanned.records))
}

impl Replay {
    /// How long `commits` is durably, as far as the journal knows.
    fn promised(&self) -> u64 {
        self.journal.header.durable
    }

    /// Makes the streams ready for appending: cuts off what is no record, durably, before anything new
    /// can lie beside it, and writes the journal anew when it has to drop records.
    pub(crate) fn into_streams(
        self,
        files: &dyn Files,
        store: StoreId,
        keep: &[Numbered],
        rewrite_journal: bool,
    ) -> Result<(Option<Stream>, Stream)> {
        let promised = self.promised();
        let ready = |half: Half, kind| {
            if half.tail != Tail::Clean {
                half.file.set_len(half.end)?;
            }
            // A killed owner may have appended without the sync that makes it a promise.
            if half.tail != Tail::Clean || (kind == StreamKind::Commits && half.end != promised) {
                half.file.sync()?;
            }
            Ok::<_, Error>(Stream {
                file: half.file,
                place: place(kind),
                kind,
                store,
                header: half.header,
                end: half.end,
                link: half.link,
                reserved: 0,
                ragged: false,
            })
        };
        let commits = self
            .commits
            .map(|half| ready(half, StreamKind::Commits))
            .transpose()?;
        let durable = commits.as_ref().map_or(0, Stream::end);
        let journal = if rewrite_journal || self.journal.tail != Tail::Clean {
            Stream::create(files, StreamKind::Journal, store, durable, keep)?
        } else {
            let mut stream = ready(self.journal, StreamKind::Journal)?;
            stream.header.boot_id = files.boot_id();
            stream.header.durable = durable;
            stream.write_header()?;
            stream
        };
        Ok((commits, journal))
    }
}
