//! Replays both logs. Decides which records are durable, and whether a bad tail is damage or the
//! result of a power cut.

use std::sync::Arc;

use super::high_water;
use super::log::journal_place;
use super::scan::{self, Damage, RawLog, Role};
use crate::format::header::{LOG_HEADER, LogHeader, LogKind};
use crate::format::inline::InlineFiles;
use crate::format::record::{self, Record, Tail};
use crate::format::{StoreId, name};
use crate::sys::fs::{File, Files};
use crate::{Error, Result};

/// Whether the host rebooted since the journal was written. After a reboot, data that was not
/// synced may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebooted {
    No,
    /// The host or the journal has no boot id.
    Unknown,
    Yes,
}

/// The content of both logs.
pub(crate) struct Replay {
    /// The events of `commits`.
    pub(crate) durable: Vec<Record>,
    /// The events of the journal that are not in `commits`.
    pub(crate) recent: Vec<Record>,
    /// The inline files of `recent`, oldest first.
    pub(crate) inline: Vec<InlineFiles>,
    /// The events up to this sequence number are durable, or will be when the journal is synced.
    pub(crate) durable_upto: u64,
    /// Whether the host rebooted since the journal was written.
    pub(crate) rebooted: Rebooted,
    /// A sync was under way, or had failed, when the last owner ended.
    pub(crate) suspect: bool,
    /// The journal has a torn tail, or it ends before `commits` ends. It must be replaced by a new
    /// file.
    pub(crate) journal_torn: bool,
    /// The first damage, and the intact records after the damage.
    pub(crate) damage: Option<Error>,
    pub(crate) after_damage: Vec<Record>,
    pub(super) journal: FoundLog,
    pub(super) commits: Option<FoundLog>,
}

/// One log as it was found.
pub(super) struct FoundLog {
    /// `None`: the file does not exist or cannot be used.
    pub(super) file: Option<Arc<dyn File>>,
    pub(super) header: LogHeader,
    pub(super) end: u64,
    pub(super) prev_checksum: u64,
    pub(super) tail: Tail,
}

/// The facts by which a log is judged.
struct Judge<'a> {
    files: &'a dyn Files,
    store: &'a StoreId,
    role: Role,
    /// The journal's header.
    journal: LogHeader,
    /// The host has not rebooted, and no other process writes. In this case a tail that does not
    /// verify is damage, unless a sync was under way.
    strict: bool,
}

/// Reads both logs. Damage is not an error here: the result reports it, and the caller decides what
/// to do about it.
pub(crate) fn replay(files: &dyn Files, store: &StoreId, role: Role) -> Result<Replay> {
    let name = journal_place().to_string();
    let mut damage = Damage::default();
    let journal = scan::read(files, store, LogKind::Journal, role, &mut damage)?;
    let journal = journal.unwrap_or_else(|| {
        damage.note(Error::corrupt(name.clone(), "it is missing"));
        RawLog::unusable(Vec::new())
    });
    let rebooted = rebooted(&journal.header, files.boot_id());
    let judge = Judge {
        files,
        store,
        role,
        journal: journal.header.clone(),
        strict: rebooted == Rebooted::No && role != Role::ReadOnly,
    };

    let mut scanned = record::scan(&journal.bytes, &journal.header, store, &name)?;
    let (commits, durable) = judge.read_commits(&scanned.records, &mut damage)?;
    let last = durable.last().map_or(0, |record: &Record| record.sequence);
    // After a power cut `commits` may have records that the journal has lost. A new record would
    // not follow the last record that such a journal still has.
    let behind = scanned
        .records
        .last()
        .is_some_and(|record| record.sequence < last);
    judge.check_journal_end(&journal, &mut scanned, &mut damage)?;
    let recent: Vec<Record> = scanned
        .records
        .into_iter()
        .filter(|record| record.sequence > last)
        .collect();
    if let Some(first) = recent.first().filter(|first| first.sequence != last + 1) {
        let why = format!(
            "its first record is {}, but the last record of commits is {last}",
            first.sequence
        );
        damage.note(Error::corrupt(name, why));
    }
    let mut inline: Vec<InlineFiles> = scanned
        .inline
        .into_iter()
        .map(|record| record.inline)
        .collect();
    inline.retain(|inline| inline.upto > last);
    let inlined_upto = inline.last().map_or(0, |inline| inline.upto);
    let header = journal.header;
    let durable_upto = last.max(header.durable_upto).max(inlined_upto);
    // The header records when a sync of the journal begins and when it succeeds. If an inline
    // record is newer than the header, a failed sync has brought an older header back, or the host
    // has rebooted.
    let header_went_back = role == Role::Owner && inlined_upto > header.durable_upto;
    let newest = recent.last().map_or(last, |record| record.sequence);
    if durable_upto > newest {
        let why = format!("record {durable_upto} was durable, but the last record is {newest}");
        damage.note(Error::corrupt(journal_place().to_string(), why));
    }
    Ok(Replay {
        durable,
        recent,
        inline,
        durable_upto,
        rebooted,
        suspect: header.syncing || header_went_back,
        journal_torn: scanned.tail != Tail::Clean || behind,
        damage: damage.first,
        after_damage: damage.after,
        journal: FoundLog {
            file: journal.file,
            end: scanned.end,
            prev_checksum: scanned.prev_checksum,
            tail: scanned.tail,
            header,
        },
        commits,
    })
}

fn rebooted(journal: &LogHeader, boot_id: [u8; 16]) -> Rebooted {
    if boot_id == [0; 16] || journal.boot_id == [0; 16] {
        Rebooted::Unknown
    } else if journal.boot_id == boot_id {
        Rebooted::No
    } else {
        Rebooted::Yes
    }
}

impl Judge<'_> {
    /// Checks that the journal does not end too early.
    fn check_journal_end(
        &self,
        journal: &RawLog,
        scanned: &mut record::Scan,
        damage: &mut Damage,
    ) -> Result<()> {
        let name = journal_place().to_string();
        if let Tail::Bad(why) = &scanned.tail {
            // Only a power cut or a failed sync can lose a tail. If the host did not reboot and no
            // sync was under way, neither has happened.
            let is_damage = self.strict && !self.journal.syncing;
            if is_damage || self.role == Role::Salvager {
                damage.note(Error::corrupt(name.clone(), why.clone()));
                damage.after.append(&mut scanned.after_damage);
            }
        }
        if self.strict && journal.file.is_some() {
            // For the same reason the journal has every acknowledged record. While a sync is under
            // way the high-water mark is empty. The mark is checked even if the header names a sync
            // under way, because the header may be an older copy.
            match high_water::check(self.files, self.store, &self.journal, scanned.end) {
                Ok(Some(why)) => damage.note(Error::corrupt(name, why)),
                Ok(None) => {}
                Err(error @ Error::Corrupt { .. }) => damage.note(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads `commits`. `journal` has the records of the journal.
    fn read_commits(
        &self,
        journal: &[Record],
        damage: &mut Damage,
    ) -> Result<(Option<FoundLog>, Vec<Record>)> {
        let found = scan::read(self.files, self.store, LogKind::Commits, self.role, damage)?;
        let Some(found) = found else {
            if self.journal.durable.length > 0 {
                damage.note(Error::corrupt(name::COMMITS, "it is missing"));
            }
            return Ok((None, Vec::new()));
        };
        let known_length = self.journal.durable.of(&found.header);
        if known_length.is_none()
            && self.strict
            && found.file.is_some()
            && found.header.durable.generation != self.journal.durable.generation
        {
            // The owner may have been killed after it had replaced `commits` and before the journal
            // recorded that. The new `commits` names the generation that it replaced.
            let why =
                "it is neither the file that the journal names nor the replacement of that file";
            damage.note(Error::corrupt(name::COMMITS, why));
        }
        let mut scanned = record::scan(&found.bytes, &found.header, self.store, name::COMMITS)?;
        // The first write of `commits` was durable before the file got its name.
        let first_write = scanned.first;
        if let Some(known) = known_length {
            let known = known.max(first_write);
            let in_doubt = self.strict && self.journal.syncing && self.role == Role::Owner;
            if in_doubt && known < found.bytes.len() as u64 {
                self.cut_doubtful_tail(&mut scanned, &found, known, journal)?;
            }
        }
        if !scanned.inline.is_empty() {
            let why = "it has a record that only the journal may have";
            damage.note(Error::corrupt(name::COMMITS, why));
        }
        let lost = known_length.is_some_and(|known| scanned.end < known)
            || scanned.damaged
            || first_write == LOG_HEADER as u64;
        if lost || (self.strict && matches!(scanned.tail, Tail::Bad(_))) {
            let why = match &scanned.tail {
                Tail::Clean => "it ends before its last durable record",
                Tail::Cut => "it is cut off",
                Tail::Bad(why) => why.as_str(),
            };
            damage.note(Error::corrupt(name::COMMITS, why));
            damage.after.append(&mut scanned.after_damage);
        }
        let log = FoundLog {
            file: found.file,
            header: found.header,
            end: scanned.end,
            prev_checksum: scanned.prev_checksum,
            tail: scanned.tail,
        };
        Ok((Some(log), scanned.records))
    }

    /// A sync of `commits` may have failed. The bytes after `known` may then be in memory only,
    /// while the kernel treats them as written, so another sync would not write them. If the
    /// journal has those records too, they are cut off here and appended again. If the journal does
    /// not have them, its header is an older copy that a failed sync brought back, and nothing is
    /// cut off.
    fn cut_doubtful_tail(
        &self,
        scanned: &mut record::Scan,
        found: &RawLog,
        known: u64,
        journal: &[Record],
    ) -> Result<()> {
        let known = &found.bytes[..known as usize];
        let cut = record::scan(known, &found.header, self.store, name::COMMITS)?;
        let last = |scan: &record::Scan| scan.records.last().map_or(0, |r| r.sequence);
        let (from, to) = (last(&cut) + 1, last(scanned));
        let journal_has_them = match (journal.first(), journal.last()) {
            (Some(first), Some(last)) => first.sequence <= from && to <= last.sequence,
            _ => false,
        };
        if from > to || journal_has_them {
            *scanned = record::Scan {
                tail: Tail::Cut,
                ..cut
            };
        }
        Ok(())
    }
}
