//! One log that is open for appending, and the space and the marks that belong to it.

use std::io::IoSlice;
use std::sync::Arc;

use super::high_water::HighWater;
use crate::format::commit::Event;
use crate::format::header::{LOG_HEADER, LogHeader, LogKind, Mark};
use crate::format::inline::InlineFiles;
use crate::format::record::{self, RecordPlace};
use crate::format::{LAST, StoreId, name};
use crate::sys::fs::{File, Files, Place};
use crate::sys::host;
use crate::sys::temporary::Temporary;
use crate::{Error, Result};

/// Space that stays reserved behind the journal's end. It has room for 64 records of restore and delete, which
/// therefore work on a full disk. A small persist may use it when there is no other room.
const RESERVE: u64 = 4096;

/// A log that is open for appending: `commits`, or the journal.
pub(crate) struct RecordLog {
    pub(super) file: Arc<dyn File>,
    pub(super) place: Place,
    pub(super) kind: LogKind,
    pub(super) store: StoreId,
    pub(super) header: LogHeader,
    pub(super) end: u64,
    pub(super) prev_checksum: u64,
    /// Up to where blocks are reserved.
    pub(super) reserved: u64,
    /// A failed append left bytes behind the end, which have to go before the next one.
    pub(super) torn_tail: bool,
    /// Journal: that of the file with its name.
    pub(super) high_water: Option<HighWater>,
}

/// An event and its place in history.
#[derive(Clone)]
pub(crate) struct SequencedEvent {
    pub(crate) sequence: u64,
    pub(crate) event: Event,
}

pub(crate) fn commits_place() -> Place {
    Place::root(name::COMMITS)
}

pub(crate) fn journal_place() -> Place {
    Place::hidden(name::JOURNAL)
}

pub(super) fn place(kind: LogKind) -> Place {
    match kind {
        LogKind::Commits => commits_place(),
        LogKind::Journal => journal_place(),
    }
}

/// What the header of a new log says.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogStart {
    /// Journal: how much of `commits` is known to be durable. `commits`: the same of the file that it replaces.
    pub(crate) durable: Mark,
    /// Journal: a sync has begun, and its outcome is not known.
    pub(crate) syncing: bool,
    /// Journal: the records up to this one are durable here; 0: none.
    pub(crate) durable_upto: u64,
}

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

impl RecordLog {
    /// Makes a log with its first records under a temporary name, makes it durable, and gives it its name. A
    /// reader, and the next open after a crash, see all of it or nothing.
    pub(crate) fn create(
        files: &dyn Files,
        kind: LogKind,
        store: StoreId,
        start: LogStart,
        events: &[SequencedEvent],
    ) -> Result<Self> {
        let place = place(kind);
        let mut high_water = None;
        if kind == LogKind::Journal {
            // Until the new journal has its name, it would speak of the old one.
            let mut opened = HighWater::open(files, store)?;
            opened.clear()?;
            high_water = Some(opened);
        }
        let hidden = Place::hidden(format!("{}{}", name::TEMPORARY, place.name));
        let temporary = Temporary::create(files, &hidden)?;
        let header = LogHeader {
            generation: fresh_generation()?,
            previous: 0,
            durable: start.durable,
            boot_id: if kind == LogKind::Journal {
                files.boot_id()
            } else {
                [0; 16]
            },
            syncing: start.syncing,
            durable_upto: start.durable_upto,
        };
        let prev_checksum = header.generation;
        let mut log = Self {
            file: temporary.file.clone(),
            place,
            kind,
            store,
            header,
            end: LOG_HEADER as u64,
            prev_checksum,
            reserved: 0,
            torn_tail: false,
            high_water: None,
        };
        log.write_header()?;
        log.append_from(events, true)?;
        // For restore and delete, if they come before a commit does. Best effort.
        let _ = log.file.allocate(0, log.end + RESERVE, true);
        log.file.sync()?;
        temporary.rename(&log.place)?;
        files.sync_dir(log.place.dir)?;
        log.high_water = high_water;
        log.set_high_water();
        Ok(log)
    }

    /// Journal: says up to where it is written, unless a sync is under way.
    pub(super) fn set_high_water(&mut self) {
        let mark = self.mark();
        if let Some(high_water) = &mut self.high_water
            && !self.header.syncing
        {
            high_water.set(mark);
        }
    }

    /// Journal: why the last record is not covered by the high-water mark.
    pub(crate) fn take_high_water_failure(&mut self) -> Option<Error> {
        self.high_water.as_mut()?.take_failure()
    }

    fn clear_high_water(&mut self) -> Result<()> {
        self.high_water.as_mut().map_or(Ok(()), HighWater::clear)
    }

    pub(super) fn write_header(&self) -> Result<()> {
        let bytes = self.header.encode(self.kind, &self.store);
        self.file.write_at(&[IoSlice::new(&bytes)], 0)
    }

    /// Appends records in one write. On failure the stream is as before.
    pub(crate) fn append(&mut self, events: &[SequencedEvent]) -> Result<()> {
        let use_reserve =
            |n: &SequencedEvent| matches!(n.event, Event::HeadMoved(_) | Event::Deleted(_));
        self.append_from(events, events.iter().all(use_reserve))
    }

    fn append_from(&mut self, events: &[SequencedEvent], use_reserve: bool) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let over = |n: &&SequencedEvent| n.sequence > LAST || n.event.commit() > LAST;
        if let Some(SequencedEvent { sequence, event }) = events.iter().find(over) {
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
        let mut prev_checksum = self.prev_checksum;
        for (at, SequencedEvent { sequence, event }) in events.iter().enumerate() {
            let more = at + 1 < events.len();
            let place = RecordPlace {
                prev_checksum,
                write_start: self.end,
                sequence: *sequence,
            };
            prev_checksum = record::encode(&mut bytes, &self.store, place, more, event);
        }
        debug_assert!(bytes.len() <= most, "more than there was memory for");
        self.write(&bytes, prev_checksum, use_reserve)
    }

    /// Journal: appends what makes its records durable; `sequence` is that of the last of them. The sync is the
    /// caller's. Without files it is little, and always `use_reserve`.
    pub(crate) fn append_inline(
        &mut self,
        sequence: u64,
        inline: &InlineFiles,
        use_reserve: bool,
    ) -> Result<()> {
        let most = inline.length() + record::HEAD + 8;
        let mut bytes = room(most)?;
        let place = RecordPlace {
            prev_checksum: self.prev_checksum,
            write_start: self.end,
            sequence,
        };
        let prev_checksum = record::encode_inline(&mut bytes, &self.store, place, inline);
        debug_assert!(bytes.len() <= most, "more than there was memory for");
        self.write(
            &bytes,
            prev_checksum,
            use_reserve || inline.files.is_empty(),
        )
    }

    /// Writes whole records at the end; `use_reserve` are those that the space behind it is kept for.
    fn write(&mut self, bytes: &[u8], prev_checksum: u64, use_reserve: bool) -> Result<()> {
        if self.torn_tail {
            self.file.set_len(self.end)?;
            (self.torn_tail, self.reserved) = (false, 0);
        }
        let end = self.end + bytes.len() as u64;
        if end.saturating_add(RESERVE) > self.reserved {
            self.reserve(end, use_reserve || self.kind == LogKind::Commits)?;
        }
        if let Err(error) = self.file.write_at(&[IoSlice::new(bytes)], self.end) {
            self.torn_tail = self.file.set_len(self.end).is_err();
            // That gave back what was reserved.
            self.reserved = 0;
            let _ = self.reserve(self.end, true);
            return Err(error);
        }
        self.end = end;
        self.prev_checksum = prev_checksum;
        self.set_high_water();
        Ok(())
    }

    /// Reserves blocks beyond `end`: a good piece, or as few as will do; those that are `use_reserve` are content with `end`.
    /// File systems without reservations go without.
    fn reserve(&mut self, end: u64, use_reserve: bool) -> Result<()> {
        let least = end + RESERVE;
        let pieces = [16 * RESERVE, RESERVE].map(|piece| least.next_multiple_of(piece));
        let mut refused = Ok(());
        for until in pieces.into_iter().chain(use_reserve.then_some(end)) {
            if until <= self.reserved {
                return Ok(());
            }
            match self.file.allocate(0, until, true) {
                Ok(()) => {
                    self.reserved = until;
                    return Ok(());
                }
                Err(error) if error.is_disk_full() => refused = Err(error),
                Err(error) if error.errno() == libc::EOPNOTSUPP => {
                    self.reserved = u64::MAX;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        if use_reserve && self.reserved == 0 {
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
            self.clear_high_water()?;
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
    pub(crate) fn set_durable_upto(&mut self, upto: u64) -> Result<()> {
        self.header.durable_upto = upto;
        self.header.syncing = false;
        self.write_header()?;
        self.set_high_water();
        Ok(())
    }

    /// Journal: notes how long `commits` is, and forgets the records when all of them are in it. A sync was under way, so
    /// that the high-water mark does not speak of them.
    pub(crate) fn checkpointed(&mut self, durable: Mark, all: bool) -> Result<()> {
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
        self.header.durable_upto = 0;
        if let Err(error) = self.write_header() {
            self.header = old;
            return Err(error);
        }
        self.prev_checksum = self.header.generation;
        self.end = LOG_HEADER as u64;
        self.reserved = 0;
        // They go now, or before the next record comes.
        self.torn_tail = self.file.set_len(self.end).is_err();
        // Best effort: without it a later append reserves for itself.
        let _ = self.reserve(self.end, true);
        self.set_high_water();
        Ok(())
    }
}
