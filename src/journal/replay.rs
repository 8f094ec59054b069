//! Reading the two streams: replaying them, and telling what a power cut may leave from damage.

use std::io::IoSlice;
use std::sync::Arc;

use super::high_water::{self, HighWater};
use super::{Numbered, Stream, commits_place, journal_place, place};
use crate::format::header::{HEADER, Header, Mark, StreamKind};
use crate::format::kept::Kept;
use crate::format::record::{self, Record, Tail};
use crate::format::{StoreId, name};
use crate::sys::fs::{Access, File, Files, Place, read_exact};
use crate::sys::host;
use crate::{Error, Result};

/// Whether the host booted since: what was not synced may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Booted {
    No,
    /// It does not tell.
    Perhaps,
    Yes,
}

/// What both streams say.
pub(crate) struct Replay {
    /// Events of `commits`.
    pub(crate) durable: Vec<Record>,
    /// Events of the journal that are not in `commits`.
    pub(crate) recent: Vec<Record>,
    /// What the journal carries of them, oldest first.
    pub(crate) kept: Vec<Kept>,
    /// The events up to this one are durable, or will be when the journal is synced.
    pub(crate) promised: u64,
    /// Since the journal was written.
    pub(crate) booted: Booted,
    /// A sync was under way, or had failed, when the last owner ended.
    pub(crate) suspect: bool,
    /// The journal must be written anew: it ends in bytes that are no record, or before `commits` does.
    pub(crate) journal_torn: bool,
    /// What is damaged, and the intact records beyond the damage.
    pub(crate) damage: Option<Error>,
    pub(crate) beyond: Vec<Record>,
    journal: Half,
    commits: Option<Half>,
}

/// One stream as it was found. Without a file, where there is none that can be used.
struct Half {
    file: Option<Arc<dyn File>>,
    header: Header,
    end: u64,
    link: u64,
    tail: Tail,
}

/// How a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// By the owner of the lock: nobody is writing.
    Owner,
    /// Beside a writer, who may be in the middle of an append: what does not verify at the end is
    /// not judged.
    Bystander,
    /// To save what can be saved.
    Salvager,
}

/// What is damaged, and what lies beyond.
#[derive(Default)]
struct Damage {
    first: Option<Error>,
    beyond: Vec<Record>,
}

impl Damage {
    fn note(&mut self, error: Error) {
        self.first.get_or_insert(error);
    }
}

/// A stream's bytes and header, before its records are judged.
struct Found {
    file: Option<Arc<dyn File>>,
    bytes: Vec<u8>,
    header: Header,
}

impl Found {
    /// Stands for a stream that is not there or cannot be read. No record is linked to it; those
    /// that verify by themselves lie beyond the damage.
    fn nothing(bytes: Vec<u8>) -> Self {
        let header = Header {
            generation: 0,
            previous: 0,
            durable: Mark::default(),
            boot_id: [0; 16],
            syncing: false,
            kept: 0,
        };
        Self {
            file: None,
            bytes,
            header,
        }
    }
}

/// Reads a stream; `None` if there is no file. What is wrong with it is noted, and ends nothing
/// here.
fn find(
    files: &dyn Files,
    store: &StoreId,
    kind: StreamKind,
    reader: Reader,
    damage: &mut Damage,
) -> Result<Option<Found>> {
    let place = place(kind);
    let access = if reader == Reader::Owner {
        Access::Write
    } else {
        Access::Read
    };
    let file = match files.open(&place, access) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(error @ Error::Corrupt { .. }) => {
            damage.note(error);
            return Ok(Some(Found::nothing(Vec::new())));
        }
        Err(error) => return Err(error),
    };
    let bytes = read_stream(
        &*file,
        &place,
        (host::memory() / 8).max(record::MAX_PAYLOAD),
    )?;
    match Header::decode(&bytes, kind, store, &place.to_string()) {
        Ok(header) => Ok(Some(Found {
            file: Some(file),
            bytes,
            header,
        })),
        Err(error @ Error::Corrupt { .. }) => {
            damage.note(error);
            Ok(Some(Found::nothing(bytes)))
        }
        Err(error) => Err(error),
    }
}

/// Reads a stream, as far as it can have records: beyond more zeros than the largest record has
/// bytes nothing is looked for, so that a sparse file of any length costs little. More than `most` bytes are not
/// read: a sparse file with little in it would take more memory than disk.
fn read_stream(file: &dyn File, place: &Place, most: u64) -> Result<Vec<u8>> {
    const CHUNK: u64 = 1 << 20;
    let length = file.len()?;
    let mut bytes = Vec::new();
    let mut zeros = 0;
    while (bytes.len() as u64) < length && zeros <= record::MAX_PAYLOAD {
        let at = bytes.len();
        let chunk = CHUNK.min(length - at as u64) as usize;
        let no_memory = || Error::NoMemory {
            what: format!("{length} bytes of {place}").into(),
        };
        if (at + chunk) as u64 > most {
            return Err(no_memory());
        }
        bytes.try_reserve(chunk).map_err(|_| no_memory())?;
        bytes.resize(at + chunk, 0);
        read_exact(file, &mut bytes[at..], at as u64, place)?;
        zeros = if bytes[at..].iter().all(|byte| *byte == 0) {
            zeros + CHUNK
        } else {
            0
        };
    }
    Ok(bytes)
}

/// Reads both streams. Damage is told, not failed on: the caller decides.
pub(crate) fn replay(files: &dyn Files, store: &StoreId, reader: Reader) -> Result<Replay> {
    let name = journal_place().to_string();
    let mut damage = Damage::default();
    let journal = find(files, store, StreamKind::Journal, reader, &mut damage)?;
    let journal = journal.unwrap_or_else(|| {
        damage.note(Error::corrupt(name.clone(), "it is missing"));
        Found::nothing(Vec::new())
    });
    let header = journal.header;
    let boot_id = files.boot_id();
    let booted = if boot_id == [0; 16] || header.boot_id == [0; 16] {
        Booted::Perhaps
    } else if header.boot_id == boot_id {
        Booted::No
    } else {
        Booted::Yes
    };
    let judged = booted == Booted::No && reader != Reader::Bystander;

    let scanned = record::scan(&journal.bytes, &header, store, &name)?;
    let held = match (scanned.records.first(), scanned.records.last()) {
        (Some(first), Some(last)) => Some((first.sequence, last.sequence)),
        _ => None,
    };
    let (commits, durable) =
        read_commits(files, store, reader, (&header, held), judged, &mut damage)?;
    let last = durable.last().map_or(0, |record: &Record| record.sequence);
    // After a power cut `commits` may have records that the journal has lost: what is appended to the journal
    // would not follow those that it has left.
    let behind = scanned
        .records
        .last()
        .is_some_and(|record| record.sequence < last);
    let recent: Vec<Record> = scanned
        .records
        .into_iter()
        .filter(|record| record.sequence > last)
        .collect();
    if let Tail::Bad(why) = &scanned.tail {
        if (judged && !header.syncing) || reader == Reader::Salvager {
            // Nothing is lost but by a power cut or a failed sync, and there was none.
            damage.note(Error::corrupt(name.clone(), why.clone()));
            damage.beyond.extend(scanned.beyond);
        }
    }
    if judged && journal.file.is_some() {
        // All that was acknowledged is there, for the same reason. Not where a sync is under way; but then the mark says
        // nothing, and a header that says so may be an old one.
        match high_water::check(files, store, &header, scanned.end) {
            Ok(Some(why)) => damage.note(Error::corrupt(name.clone(), why)),
            Ok(None) => {}
            Err(error @ Error::Corrupt { .. }) => damage.note(error),
            Err(error) => return Err(error),
        }
    }
    if let Some(first) = recent.first().filter(|first| first.sequence != last + 1) {
        let why = format!(
            "its first record is {}, and commits ends with {last}",
            first.sequence
        );
        damage.note(Error::corrupt(name, why));
    }
    let mut kept: Vec<Kept> = scanned.kept.into_iter().map(|record| record.kept).collect();
    kept.retain(|kept| kept.upto > last);
    let upto = kept.last().map_or(0, |kept| kept.upto);
    let promised = last.max(header.kept).max(upto);
    // The header of one whose sync had begun says so, and of one whose sync had succeeded, that. If it says neither, a
    // failed sync has taken the header back to what it was, or the host has booted.
    let taken_back = reader == Reader::Owner && upto > header.kept;
    let there = recent.last().map_or(last, |record| record.sequence);
    if promised > there {
        let why = format!("record {promised} was durable, and it ends with {there}");
        damage.note(Error::corrupt(journal_place().to_string(), why));
    }
    Ok(Replay {
        durable,
        recent,
        kept,
        promised,
        booted,
        suspect: header.syncing || taken_back,
        journal_torn: scanned.tail != Tail::Clean || behind,
        damage: damage.first,
        beyond: damage.beyond,
        journal: Half {
            file: journal.file,
            end: scanned.end,
            link: scanned.link,
            tail: scanned.tail,
            header,
        },
        commits,
    })
}

type Durable = (Option<Half>, Vec<Record>);

fn read_commits(
    files: &dyn Files,
    store: &StoreId,
    reader: Reader,
    (journal, held): (&Header, Option<(u64, u64)>),
    judged: bool,
    damage: &mut Damage,
) -> Result<Durable> {
    let Some(found) = find(files, store, StreamKind::Commits, reader, damage)? else {
        if journal.durable.length > 0 {
            damage.note(Error::corrupt(name::COMMITS, "it is missing"));
        }
        return Ok((None, Vec::new()));
    };
    let length = found.bytes.len() as u64;
    let promised = journal.durable.of(&found.header);
    if promised.is_none()
        && judged
        && found.file.is_some()
        && found.header.durable.generation != journal.durable.generation
    {
        // The owner may have been killed before the journal knew of a new one, and then that says in whose place it came.
        let why =
            "it is not the one that the journal speaks of, nor the one that came in its place";
        damage.note(Error::corrupt(name::COMMITS, why));
    }
    let mut scanned = record::scan(&found.bytes, &found.header, store, name::COMMITS)?;
    // Its first write was durable before it got its name.
    let first = scanned.first;
    let known = promised.filter(|_| journal.syncing);
    let known = known.map(|known| known.max(first));
    let owned = judged && reader == Reader::Owner;
    if let Some(known) = known.filter(|known| owned && *known < length) {
        // A sync may have failed here. What was behind the last good one may be in memory only,
        // clean in the kernel's eyes, so that another sync would not write it. If the journal has it
        // too, it is cut off and appended again. If not, it is the journal's header that a failed sync has taken back to
        // an older one.
        let known = &found.bytes[..known as usize];
        let cut = record::scan(known, &found.header, store, name::COMMITS)?;
        let last = |scan: &record::Scan| scan.records.last().map_or(0, |r| r.sequence);
        let (from, to) = (last(&cut) + 1, last(&scanned));
        if from > to || held.is_some_and(|(first, last)| first <= from && to <= last) {
            scanned = record::Scan {
                tail: Tail::Cut,
                ..cut
            };
        }
    }
    if !scanned.kept.is_empty() {
        let why = "it has a record that only the journal may have";
        damage.note(Error::corrupt(name::COMMITS, why));
    }
    let why = match &scanned.tail {
        Tail::Clean => None,
        Tail::Cut => Some("it is cut off"),
        Tail::Bad(why) => Some(why.as_str()),
    };
    let lost = promised.is_some_and(|promised| scanned.end < promised)
        || scanned.damaged
        || first == HEADER as u64;
    if lost || (matches!(scanned.tail, Tail::Bad(_)) && judged) {
        let why = why
            .unwrap_or("it ends before its last durable record")
            .to_owned();
        damage.note(Error::corrupt(name::COMMITS, why));
        damage.beyond.extend(scanned.beyond);
    }
    let half = Half {
        file: found.file,
        header: found.header,
        end: scanned.end,
        link: scanned.link,
        tail: scanned.tail,
    };
    Ok((Some(half), scanned.records))
}

/// Writes what is between two offsets of a stream once more.
fn write_again(file: &dyn File, from: u64, to: u64) -> Result<()> {
    let length = to.saturating_sub(from) as usize;
    let mut bytes = crate::error::try_filled(length, 0u8, "records")?;
    read_exact(file, &mut bytes, from, &commits_place())?;
    if length == 0 {
        return Ok(());
    }
    file.write_at(&[IoSlice::new(&bytes)], from)
}

impl Replay {
    /// What is another when a writer has gone on since.
    pub(crate) fn seen(&self) -> (Header, u64, Option<u64>) {
        let commits = self.commits.as_ref().map(|half| half.end);
        (self.journal.header.clone(), self.journal.end, commits)
    }

    /// How long `commits` is durably, as far as the journal knows.
    fn promised_length(&self) -> Mark {
        self.journal.header.durable
    }

    /// Notes in the journal that a sync has begun, before recovery makes one of files whose only other copy is in it.
    pub(crate) fn set_syncing(&mut self, store: &StoreId) -> Result<()> {
        let Some(file) = &self.journal.file else {
            return Ok(());
        };
        self.journal.header.syncing = true;
        let bytes = self.journal.header.encode(StreamKind::Journal, store);
        file.write_at(&[IoSlice::new(&bytes)], 0)
    }

    /// Makes the streams ready for appending: cuts off what is no record, durably, before anything
    /// new can lie beside it, and writes the journal anew when it has to drop records.
    pub(crate) fn into_streams(
        self,
        files: &dyn Files,
        store: StoreId,
        keep: &[Numbered],
        rewrite_journal: bool,
        suspect: bool,
    ) -> Result<(Option<Stream>, Stream)> {
        let promised = self.promised_length();
        let kept = self.promised;
        let doubtful = self.suspect && self.booted != Booted::Yes;
        let ready = |half: Half, kind| {
            let file = half.file.ok_or_else(|| Error::Internal {
                what: "a stream without a file".into(),
            })?;
            if half.tail != Tail::Clean {
                file.set_len(half.end)?;
            }
            if kind == StreamKind::Commits && doubtful {
                // A sync of these records may have failed; only what is written again is synced again.
                let known = promised.of(&half.header).unwrap_or(HEADER as u64);
                write_again(&*file, known, half.end)?;
            }
            // A killed owner may have appended without the sync that makes it a promise.
            if half.tail != Tail::Clean
                || (kind == StreamKind::Commits && promised.of(&half.header) != Some(half.end))
            {
                file.sync()?;
                // The file's name may be in memory only, too.
                files.sync_dir(place(kind).dir)?;
            }
            Ok::<_, Error>(Stream {
                file,
                place: place(kind),
                kind,
                store,
                header: half.header,
                end: half.end,
                link: half.link,
                reserved: 0,
                ragged: false,
                high_water: None,
            })
        };
        let commits = self
            .commits
            .map(|half| ready(half, StreamKind::Commits))
            .transpose()?;
        let durable = commits.as_ref().map_or(Mark::default(), Stream::mark);
        let journal = if rewrite_journal || self.journal.tail != Tail::Clean {
            let known = (durable, suspect, kept);
            Stream::create(files, StreamKind::Journal, store, known, keep)?
        } else {
            let mut stream = ready(self.journal, StreamKind::Journal)?;
            // It may be of the boot before, or of what a failed sync has left.
            let mut high_water = HighWater::open(files, store)?;
            high_water.take_back()?;
            stream.high_water = Some(high_water);
            stream.header.boot_id = files.boot_id();
            stream.header.durable = durable;
            stream.header.syncing = suspect;
            stream.write_header()?;
            stream.set_high_water();
            stream
        };
        Ok((commits, journal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::commit::Event;
    use crate::sys::realfs;

    #[test]
    fn a_sparse_stream_takes_no_more_memory_than_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let root = realfs::make_root(&directory.path().join("store")).unwrap();
        let files = realfs::make_hidden(root).unwrap();
        let file = files.create(&journal_place()).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in 0..8 {
            file.write_at(&[IoSlice::new(&[1])], at << 23).unwrap();
        }
        let refused = read_stream(&*file, &journal_place(), 32 << 20);
        assert!(
            matches!(&refused, Err(Error::NoMemory { what }) if what.contains("67108864 bytes of")),
            "{refused:?}"
        );
        let read = read_stream(&*file, &journal_place(), 64 << 20).unwrap();
        assert_eq!(read.len(), 64 << 20);
    }

    #[test]
    fn a_stream_is_read_to_its_end_or_to_more_zeros_than_a_record_has() {
        let directory = tempfile::tempdir().unwrap();
        let root = realfs::make_root(&directory.path().join("store")).unwrap();
        let files = realfs::make_hidden(root).unwrap();
        let file = files.create(&journal_place()).unwrap();
        let mut damage = Damage::default();
        let mut read = |length: u64| {
            file.set_len(length).unwrap();
            let kind = StreamKind::Journal;
            let found = find(&files, &[7; 16], kind, Reader::Owner, &mut damage);
            found.unwrap().unwrap().bytes.len() as u64
        };
        for length in [0, 1, (1 << 20) + 1, 3 << 20] {
            assert_eq!(read(length), length);
        }
        let zeros = record::MAX_PAYLOAD.next_multiple_of(1 << 20);
        assert!((zeros..zeros + (2 << 20)).contains(&read(100 << 20)));
        file.write_at(&[IoSlice::new(&[1])], 10 << 20).unwrap();
        assert_eq!(read(20 << 20), 20 << 20);
    }

    #[test]
    fn the_journal_alone_tells_of_which_boot_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = realfs::make_root(&directory.path().join("store")).unwrap();
        let files = realfs::make_hidden(root).unwrap();
        let (store, boot) = ([7; 16], files.boot_id());
        assert_ne!(boot, [0; 16], "this host does not tell");
        for (kind, told) in [(StreamKind::Journal, boot), (StreamKind::Commits, [0; 16])] {
            Stream::create(&files, kind, store, (Mark::default(), false, 0), &[]).unwrap();
            let file = files.open(&place(kind), Access::Read).unwrap().unwrap();
            let bytes = read_stream(&*file, &place(kind), 1 << 20).unwrap();
            let header = Header::decode(&bytes, kind, &store, "").unwrap();
            assert_eq!(header.boot_id, told);
        }
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let root = realfs::make_root(&directory.path().join("store")).unwrap();
        let files = realfs::make_hidden(root).unwrap();
        let store = [7; 16];
        let kind = StreamKind::Journal;
        let mut journal =
            Stream::create(&files, kind, store, (Mark::default(), false, 0), &[]).unwrap();
        for (sequence, number) in [(record::LAST, 1), (1, record::LAST)] {
            for over in [1, 0] {
                let before = journal.end();
                let event = Event::Deleted(number + if number > 1 { over } else { 0 });
                let sequence = sequence + if sequence > 1 { over } else { 0 };
                let appended = journal.append(&[Numbered { sequence, event }]);
                assert_eq!(appended.is_err(), over == 1, "{appended:?}");
                assert_eq!(journal.end() == before, over == 1);
            }
        }
    }
}
