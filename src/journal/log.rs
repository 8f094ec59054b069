//! A log that is open for appending, with its reserved space and its marks.

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

/// Space that stays reserved after the end of the log. It can hold 64 records of restore and
/// delete, which therefore work on a full disk. A small persist may use this space if the disk has
/// no other.
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
    /// The offset up to which blocks are reserved.
    pub(super) reserved: u64,
    /// A failed append left bytes after the end. They have to be cut off before the next append.
    pub(super) torn_tail: bool,
    /// Journal: its high-water mark. `None` until the new journal has its name.
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

/// Values for the header of a new log.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogStart {
    /// Journal: how much of `commits` is known to be durable. `commits`: the mark of the file that
    /// this file replaces.
    pub(crate) durable: Mark,
    /// Journal: a sync has begun, and its result is not known.
    pub(crate) syncing: bool,
    /// Journal: the records up to this sequence number are durable in the journal or in `commits`;
    /// 0: none.
    pub(crate) durable_upto: u64,
}

fn fresh_generation() -> Result<u64> {
    let id = host::random_id()?;
    Ok(u64::from_le_bytes(std::array::from_fn(|i| id[i])))
}

/// An empty buffer with capacity for `length` bytes.
fn record_buffer(length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve(length).map_err(|_| Error::NoMemory {
        what: format!("{length} bytes of records").into(),
    })?;
    Ok(bytes)
}

impl RecordLog {
    /// Makes a log with its first records under a temporary name, makes it durable, and gives it
    /// its final name. A reader, or the next open after a crash, finds all of the new log or
    /// nothing of it.
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
            // The mark belongs to the old journal until the new journal has its name, so it is
            // cleared.
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
        // Restore and delete may be called before the first commit and need this space. A failure
        // is ignored.
        let _ = log.file.allocate(0, log.end + RESERVE, true);
        log.file.sync()?;
        temporary.rename(&log.place)?;
        files.sync_dir(log.place.dir)?;
        log.high_water = high_water;
        log.set_high_water();
        Ok(log)
    }

    /// Journal: sets the high-water mark to the end of the journal. During a sync the mark stays
    /// empty.
    pub(super) fn set_high_water(&mut self) {
        if self.header.syncing {
            return;
        }
        let mark = self.mark();
        if let Some(high_water) = &mut self.high_water {
            high_water.set(mark);
        }
    }

    /// Journal: why the high-water mark does not include the last record.
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

    /// Appends records in one write. A failure leaves the log as it was.
    pub(crate) fn append(&mut self, events: &[SequencedEvent]) -> Result<()> {
        let use_reserve =
            |e: &SequencedEvent| matches!(e.event, Event::HeadMoved(_) | Event::Deleted(_));
        self.append_from(events, events.iter().all(use_reserve))
    }

    fn append_from(&mut self, events: &[SequencedEvent], use_reserve: bool) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let too_large = |e: &&SequencedEvent| e.sequence > LAST || e.event.commit() > LAST;
        if let Some(SequencedEvent { sequence, event }) = events.iter().find(too_large) {
            // A reader would refuse the record.
            let number = event.commit();
            return Err(Error::corrupt(
                place(self.kind).to_string(),
                format!(
                    "record {sequence} of commit {number}: the largest possible number is {LAST}"
                ),
            ));
        }
        let lengths = events.iter().map(|e| e.event.length() + record::HEAD + 8);
        let max_length = lengths.sum();
        let mut bytes = record_buffer(max_length)?;
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
        debug_assert!(bytes.len() <= max_length, "longer than its buffer");
        self.write(&bytes, prev_checksum, use_reserve)
    }

    /// Journal: appends a record with inline files. `sequence` is the sequence number of the last
    /// record. The caller then syncs the journal, which makes its records durable. A record without
    /// files is small and may always use the reserve.
    pub(crate) fn append_inline(
        &mut self,
        sequence: u64,
        inline: &InlineFiles,
        use_reserve: bool,
    ) -> Result<()> {
        let max_length = inline.length() + record::HEAD + 8;
        let mut bytes = record_buffer(max_length)?;
        let place = RecordPlace {
            prev_checksum: self.prev_checksum,
            write_start: self.end,
            sequence,
        };
        let prev_checksum = record::encode_inline(&mut bytes, &self.store, place, inline);
        debug_assert!(bytes.len() <= max_length, "longer than its buffer");
        self.write(
            &bytes,
            prev_checksum,
            use_reserve || inline.files.is_empty(),
        )
    }

    /// Writes whole records at the end. With `use_reserve` the records may use the reserved space.
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

    /// Reserves blocks up to `end` and the reserve after it. It tries a large piece first and then
    /// a small piece. With `use_reserve` blocks up to `end` are enough. A file system that cannot
    /// reserve blocks is used without.
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
            // The log was just opened and may have blocks already. If they are too few, the write
            // fails.
            return Ok(());
        }
        // The write is not tried: after a failed write the log is cut, which frees the reserved
        // blocks.
        refused
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The end of the log and its generation. The journal records the mark of `commits`.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            length: self.end,
            generation: self.header.generation,
        }
    }

    /// Journal: records that `commits` was replaced by another file.
    pub(crate) fn set_durable(&mut self, durable: Mark) -> Result<()> {
        self.header.durable = durable;
        self.write_header()
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync()
    }

    /// The file. The caller can sync it while other threads append.
    pub(crate) fn file(&self) -> Arc<dyn File> {
        self.file.clone()
    }

    /// Journal: records that a sync has begun or has ended. If the owner crashes before the result
    /// of the sync is known, recovery does not trust what the sync was to make durable.
    pub(crate) fn set_syncing(&mut self, syncing: bool) -> Result<()> {
        if syncing {
            self.clear_high_water()?;
        }
        let was = std::mem::replace(&mut self.header.syncing, syncing);
        let written = self.write_header();
        if written.is_err() && syncing {
            // The caller does not begin the sync.
            self.header.syncing = was;
        }
        self.set_high_water();
        written
    }

    pub(crate) fn is_syncing(&self) -> bool {
        self.header.syncing
    }

    /// Journal: records that a sync succeeded and made the records up to `upto` durable.
    pub(crate) fn set_durable_upto(&mut self, upto: u64) -> Result<()> {
        self.header.durable_upto = upto;
        self.header.syncing = false;
        self.write_header()?;
        self.set_high_water();
        Ok(())
    }

    /// Journal: records the durable length of `commits`. If `commits` has `all` records of the
    /// journal, the journal becomes empty. The sync before this call has cleared the high-water
    /// mark.
    pub(crate) fn checkpointed(&mut self, durable: Mark, all: bool) -> Result<()> {
        self.header.durable = durable;
        self.header.syncing = false;
        if !all {
            self.write_header()?;
            self.set_high_water();
            return Ok(());
        }
        // The header is written first, in one write. It has a new generation, so the old records do
        // not count any more, even if they still lie in the file.
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
        // The old records are cut off now, or before the next append.
        self.torn_tail = self.file.set_len(self.end).is_err();
        // A failure is ignored: the next append reserves its own blocks.
        let _ = self.reserve(self.end, true);
        self.set_high_water();
        Ok(())
    }
}
