//! Replaying both logs: which records are durable, and what a power cut may leave against what is damage.

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

/// Whether the host rebooted since the journal was written. If it did, whatever was not synced may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rebooted {
    No,
    /// The host or the journal has no boot id.
    Unknown,
    Yes,
}

/// What both logs say.
pub(crate) struct Replay {
    /// The events of `commits`.
    pub(crate) durable: Vec<Record>,
    /// The events of the journal that are not in `commits`.
    pub(crate) recent: Vec<Record>,
    /// The files of `recent` that the journal carries inline, oldest first.
    pub(crate) inline: Vec<InlineFiles>,
    /// The events up to this sequence number are durable, or will be when the journal is synced.
    pub(crate) durable_upto: u64,
    /// Since the journal was written.
    pub(crate) rebooted: Rebooted,
    /// A sync was under way, or had failed, when the last owner ended.
    pub(crate) suspect: bool,
    /// The journal must be written anew: it has a torn tail, or it ends before `commits` does.
    pub(crate) journal_torn: bool,
    /// What is damaged, and the intact records after the damage.
    pub(crate) damage: Option<Error>,
    pub(crate) after_damage: Vec<Record>,
    pub(super) journal: FoundLog,
    pub(super) commits: Option<FoundLog>,
}

/// One log as it was found.
pub(super) struct FoundLog {
    /// `None` where there is no file, or none that can be used.
    pub(super) file: Option<Arc<dyn File>>,
    pub(super) header: LogHeader,
    pub(super) end: u64,
    pub(super) prev_checksum: u64,
    pub(super) tail: Tail,
}

/// What the judgement of a log rests on.
struct Judge<'a> {
    files: &'a dyn Files,
    store: &'a StoreId,
    role: Role,
    /// The journal's header.
    journal: LogHeader,
    /// The host has not rebooted and nobody else writes. A tail that does not verify is damage then, unless a
    /// sync was under way.
    strict: bool,
}

/// Reads both logs. Damage is reported in the result and fails nothing here: the caller decides.
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
    // After a power cut `commits` may have records that the journal has lost. What is appended to the journal
    // would not follow the records that the journal still has.
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
            "its first record is {}, and commits ends with {last}",
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
    // The header says so where a sync of the journal had begun, and where it had succeeded. If the header says
    // neither, a failed sync has taken the header back to an older state, or the host has rebooted.
    let header_went_back = role == Role::Owner && inlined_upto > header.durable_upto;
    let newest = recent.last().map_or(last, |record| record.sequence);
    if durable_upto > newest {
        let why = format!("record {durable_upto} was durable, and it ends with {newest}");
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
    /// Whether the journal ends where it should.
    fn check_journal_end(
        &self,
        journal: &RawLog,
        scanned: &mut record::Scan,
        damage: &mut Damage,
    ) -> Result<()> {
        let name = journal_place().to_string();
        if let Tail::Bad(why) = &scanned.tail {
            // Only a power cut or a failed sync loses a tail, and neither happened.
            let is_damage = self.strict && !self.journal.syncing;
            if is_damage || self.role == Role::Salvager {
                damage.note(Error::corrupt(name.clone(), why.clone()));
                damage.after.append(&mut scanned.after_damage);
            }
        }
        if self.strict && journal.file.is_some() {
            // For the same reason every acknowledged record is there. While a sync is under way the high-water mark
            // is empty; the mark is looked at all the same, since a header that says so may be an older one.
            match high_water::check(self.files, self.store, &self.journal, scanned.end) {
                Ok(Some(why)) => damage.note(Error::corrupt(name, why)),
                Ok(None) => {}
                Err(error @ Error::Corrupt { .. }) => damage.note(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads `commits`. `journal` are the records of the journal.
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
            // The owner may have been killed after it replaced `commits` and before the journal knew. The new
            // `commits` names the generation that it replaced.
            let why = "it is neither the file that the journal knows nor the one that replaced it";
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

    /// A sync of `commits` may have failed. What lies after byte `known` may be in memory only, clean in the
    /// kernel's eyes, and another sync would not write it. If the journal has those records too, they are cut off
    /// here and appended again. If it has not, the journal's header is an older one that a failed sync brought
    /// back, and nothing is cut off.
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
