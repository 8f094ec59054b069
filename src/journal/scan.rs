//! Reads the bytes and the header of one log from disk. This file does not judge the records.

use std::sync::Arc;

use super::log::place;
use crate::format::StoreId;
use crate::format::header::{LogHeader, LogKind, Mark};
use crate::format::record::{self, Record};
use crate::sys::fs::{Access, File, Files, Place, read_exact};
use crate::sys::host;
use crate::{Error, Result};

/// Who reads the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The owner of the store's lock. No other process writes.
    Owner,
    /// A reader without the lock. A writer may be appending at the same time, so a tail that does
    /// not verify is not damage for this reader.
    ReadOnly,
    /// A reader that saves the intact parts of a damaged store.
    Salvager,
}

/// The first damage that was found, and the intact records after it.
#[derive(Default)]
pub(super) struct Damage {
    pub(super) first: Option<Error>,
    pub(super) after: Vec<Record>,
}

impl Damage {
    pub(super) fn note(&mut self, error: Error) {
        self.first.get_or_insert(error);
    }
}

/// The bytes and the header of a log, before its records are judged.
pub(super) struct RawLog {
    /// `None`: the file does not exist or cannot be used.
    pub(super) file: Option<Arc<dyn File>>,
    pub(super) bytes: Vec<u8>,
    pub(super) header: LogHeader,
}

impl RawLog {
    /// Stands for a log that is missing or cannot be read. Its generation is 0, so no record
    /// belongs after its header. Records that verify by themselves count as records after the
    /// damage.
    pub(super) fn unusable(bytes: Vec<u8>) -> Self {
        let header = LogHeader {
            generation: 0,
            previous: 0,
            durable: Mark::default(),
            boot_id: [0; 16],
            syncing: false,
            durable_upto: 0,
        };
        Self {
            file: None,
            bytes,
            header,
        }
    }
}

/// Reads a log. `None`: the file does not exist. Damage goes to `damage`, and the caller decides
/// what to do about it.
pub(super) fn read(
    files: &dyn Files,
    store: &StoreId,
    kind: LogKind,
    role: Role,
    damage: &mut Damage,
) -> Result<Option<RawLog>> {
    let place = place(kind);
    let access = if role == Role::Owner {
        Access::Write
    } else {
        Access::Read
    };
    let file = match files.open(&place, access) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(error @ Error::Corrupt { .. }) => {
            damage.note(error);
            return Ok(Some(RawLog::unusable(Vec::new())));
        }
        Err(error) => return Err(error),
    };
    let max_bytes = (host::memory() / 8).max(record::MAX_PAYLOAD);
    let bytes = read_bytes(&*file, &place, max_bytes)?;
    match LogHeader::decode(&bytes, kind, store, &place.to_string()) {
        Ok(header) => Ok(Some(RawLog {
            file: Some(file),
            bytes,
            header,
        })),
        Err(error @ Error::Corrupt { .. }) => {
            damage.note(error);
            Ok(Some(RawLog::unusable(bytes)))
        }
        Err(error) => Err(error),
    }
}

/// Reads a log as far as it can have records. Reading stops after more zeros than the largest
/// record has bytes, because no record can follow them. A sparse file of any length therefore costs
/// little. A log of more than `max_bytes` is refused, because a sparse file can take much more
/// memory than disk.
pub(super) fn read_bytes(file: &dyn File, place: &Place, max_bytes: u64) -> Result<Vec<u8>> {
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
        if (at + chunk) as u64 > max_bytes {
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
