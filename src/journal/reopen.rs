//! Opens the logs for appending after recovery has read them.

use std::io::IoSlice;

use super::high_water::HighWater;
use super::log::{LogStart, RecordLog, SequencedEvent, commits_place, place};
use super::replay::{FoundLog, Rebooted, Replay};
use crate::format::StoreId;
use crate::format::header::{LOG_HEADER, LogHeader, LogKind, Mark};
use crate::format::record::Tail;
use crate::sys::fs::{File, Files, read_exact};
use crate::{Error, Result};

/// Writes the bytes between two offsets of `commits` again.
fn write_again(file: &dyn File, from: u64, to: u64) -> Result<()> {
    let length = to.saturating_sub(from) as usize;
    let mut bytes = crate::error::try_filled(length, 0u8, "records")?;
    read_exact(file, &mut bytes, from, &commits_place())?;
    if length == 0 {
        return Ok(());
    }
    file.write_at(&[IoSlice::new(&bytes)], from)
}

/// How recovery leaves the journal.
#[derive(Clone, Copy)]
pub(crate) struct JournalFate<'a> {
    /// The records that stay in the journal.
    pub(crate) keep: &'a [SequencedEvent],
    /// Records or inline files have to be removed, so the journal is replaced by a new file.
    pub(crate) rewrite: bool,
    /// A sync of the records or their files may have failed. The journal's header keeps the mark of
    /// a sync under way.
    pub(crate) suspect: bool,
}

impl Replay {
    /// A value that changes when a writer appends to a log or replaces it.
    pub(crate) fn fingerprint(&self) -> (LogHeader, u64, Option<u64>) {
        let commits = self.commits.as_ref().map(|log| log.end);
        (self.journal.header.clone(), self.journal.end, commits)
    }

    /// Records in the journal that a sync has begun. Recovery calls this before it syncs files
    /// whose only other copy is in the journal.
    pub(crate) fn set_syncing(&mut self, store: &StoreId) -> Result<()> {
        let Some(file) = &self.journal.file else {
            return Ok(());
        };
        self.journal.header.syncing = true;
        let bytes = self.journal.header.encode(LogKind::Journal, store);
        file.write_at(&[IoSlice::new(&bytes)], 0)
    }

    /// Opens the logs for appending. A torn tail of `commits` is cut off, and the cut is synced
    /// before any new record is appended. A journal with a torn tail, or for which `fate` asks so,
    /// is replaced by a new file. Returns `commits` and the journal.
    pub(crate) fn into_logs(
        self,
        files: &dyn Files,
        store: StoreId,
        fate: JournalFate<'_>,
    ) -> Result<(Option<RecordLog>, RecordLog)> {
        let known = self.journal.header.durable;
        let durable_upto = self.durable_upto;
        let in_doubt = self.suspect && self.rebooted != Rebooted::Yes;
        let commits = match self.commits {
            None => None,
            Some(log) => Some(commits_for_appending(log, files, store, known, in_doubt)?),
        };
        let durable = commits.as_ref().map_or(Mark::default(), RecordLog::mark);
        if fate.rewrite || self.journal.tail != Tail::Clean {
            let start = LogStart {
                durable,
                syncing: fate.suspect,
                durable_upto,
            };
            let journal = RecordLog::create(files, LogKind::Journal, store, start, fate.keep)?;
            return Ok((commits, journal));
        }
        let mut journal = open_for_appending(self.journal, LogKind::Journal, store)?;
        // The mark may be from an earlier boot, or may not fit the journal that a failed sync has
        // left.
        let mut high_water = HighWater::open(files, store)?;
        high_water.clear()?;
        journal.high_water = Some(high_water);
        journal.header.boot_id = files.boot_id();
        journal.header.durable = durable;
        journal.header.syncing = fate.suspect;
        journal.write_header()?;
        journal.set_high_water();
        Ok((commits, journal))
    }
}

/// Opens `commits` for appending, without a torn tail and durable up to its end. `known` is the
/// length that the journal records as durable.
fn commits_for_appending(
    log: FoundLog,
    files: &dyn Files,
    store: StoreId,
    known: Mark,
    in_doubt: bool,
) -> Result<RecordLog> {
    let torn = log.tail != Tail::Clean;
    let known = known.of(&log.header);
    let log = open_for_appending(log, LogKind::Commits, store)?;
    if torn {
        log.file.set_len(log.end)?;
    }
    if in_doubt {
        // A sync of these records may have failed. After a failed sync the kernel only syncs data
        // that is written again.
        write_again(&*log.file, known.unwrap_or(LOG_HEADER as u64), log.end)?;
    }
    // A killed owner may have appended records without the sync that makes them durable.
    if torn || known != Some(log.end) {
        log.file.sync()?;
        // The file's name may be in memory only, too.
        files.sync_dir(log.place.dir)?;
    }
    Ok(log)
}

fn open_for_appending(log: FoundLog, kind: LogKind, store: StoreId) -> Result<RecordLog> {
    let file = log.file.ok_or_else(|| Error::Internal {
        what: "a log without a file".into(),
    })?;
    Ok(RecordLog {
        file,
        place: place(kind),
        kind,
        store,
        header: log.header,
        end: log.end,
        prev_checksum: log.prev_checksum,
        reserved: 0,
        torn_tail: false,
        high_water: None,
    })
}
