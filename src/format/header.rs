//! The header of a log. The journal's header also says how much of `commits` is durable.

use super::bytes::{Reader, Writer};
use super::{StoreId, VERSION, checksum};
use crate::{Error, Result};

/// Which of the two logs a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogKind {
    Commits,
    Journal,
}

impl LogKind {
    fn magic(self) -> [u8; 8] {
        match self {
            Self::Commits => *b"VMSCMTS\n",
            Self::Journal => *b"VMSJRNL\n",
        }
    }
}

/// The header's length. It is less than a sector, so the disk writes all of the header or nothing.
pub(crate) const LOG_HEADER: usize = 128;

/// The first bytes of a log. The journal's header is rewritten in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogHeader {
    /// A random number. The first record of the log has it in the place of the previous record's
    /// checksum. The log gets a new generation whenever it starts again with no records.
    pub(crate) generation: u64,
    /// Journal: the generation before this one. Its records may still lie after the header.
    pub(crate) previous: u64,
    /// Journal: how much of `commits` is known to be durable. `commits`: the mark of the file that
    /// this file replaced.
    pub(crate) durable: Mark,
    /// Journal: the boot id of the host when the journal was written.
    pub(crate) boot_id: [u8; 16],
    /// Journal: a sync of unpersisted files has begun, and its result is not known.
    pub(crate) syncing: bool,
    /// Journal: the records up to this sequence number are durable in the journal or in `commits`;
    /// 0: none.
    pub(crate) durable_upto: u64,
}

const SYNCING: u32 = 1;

/// A length of a log, for one generation of the log. `commits` is replaced by a new file from time
/// to time, and the new file is durable as a whole before it gets its name. A length is therefore
/// only valid for its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub(crate) length: u64,
    /// 0: the generation is not recorded, and the length is valid for every generation.
    pub(crate) generation: u64,
}

impl Mark {
    /// The length, if it is valid for the log with this header.
    pub(crate) fn of(self, commits: &LogHeader) -> Option<u64> {
        let same = self.generation == 0 || self.generation == commits.generation;
        same.then_some(self.length)
    }
}

impl LogHeader {
    pub(crate) fn encode(&self, kind: LogKind, store: &StoreId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LOG_HEADER);
        let mut w = Writer(&mut bytes);
        w.bytes(&kind.magic())
            .u32(VERSION)
            .u32(0)
            .bytes(store)
            .u64(self.generation);
        w.u64(self.previous);
        w.u64(self.durable.length)
            .bytes(&self.boot_id)
            .u32(if self.syncing { SYNCING } else { 0 })
            .u32(0)
            .u64(self.durable.generation)
            .u64(self.durable_upto);
        w.pad_to(LOG_HEADER - 8);
        let sum = checksum::metadata(store, &bytes);
        Writer(&mut bytes).u64(sum);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], kind: LogKind, store: &StoreId, file: &str) -> Result<Self> {
        let bad = |why: &str| Error::corrupt(file, why);
        let Some((body, sum)) = bytes
            .get(..LOG_HEADER)
            .and_then(|b| b.split_at_checked(LOG_HEADER - 8))
        else {
            return Err(bad("it is shorter than its header"));
        };
        if body[..8] != kind.magic() {
            return Err(bad("it does not begin with its magic"));
        }
        if sum != checksum::metadata(store, body).to_le_bytes() {
            return Err(bad(
                "the checksum of its header does not match, or it belongs to another store",
            ));
        }
        let mut r = Reader(&body[8..]);
        let fields = (|| {
            Some((
                r.u32()?,
                r.u32()?,
                r.take(16)?,
                r.u64()?,
                r.u64()?,
                r.u64()?,
                r.array()?,
                r.u32()?,
                r.u32()?,
                r.u64()?,
                r.u64()?,
            ))
        })();
        let Some((
            version,
            flags,
            _,
            generation,
            previous,
            length,
            boot_id,
            state,
            _,
            durable_generation,
            durable_upto,
        )) = fields
        else {
            return Err(bad("it is shorter than its header"));
        };
        if version != VERSION || flags != 0 {
            return Err(Error::Version {
                file: file.into(),
                why: format!(
                    "format version {version}, flags {flags:#x}; this library knows version {VERSION}"
                ),
            });
        }
        Ok(Self {
            generation,
            previous,
            durable: Mark {
                length,
                generation: durable_generation,
            },
            boot_id,
            syncing: state & SYNCING != 0,
            durable_upto,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = *b"a store's own id";

    fn header() -> LogHeader {
        LogHeader {
            generation: 5,
            previous: 4,
            durable: Mark {
                length: 999,
                generation: 77,
            },
            boot_id: [3; 16],
            syncing: true,
            durable_upto: 8,
        }
    }

    #[test]
    fn a_header_survives_and_is_refused_in_the_other_log() {
        for (kind, magic) in [
            (LogKind::Commits, b"VMSCMTS\n"),
            (LogKind::Journal, b"VMSJRNL\n"),
        ] {
            let bytes = header().encode(kind, &STORE);
            assert_eq!(&bytes[..8], magic);
            let back = LogHeader::decode(&bytes, kind, &STORE, "f").unwrap();
            assert_eq!(back, header());
            let other = match kind {
                LogKind::Commits => LogKind::Journal,
                LogKind::Journal => LogKind::Commits,
            };
            assert!(LogHeader::decode(&bytes, other, &STORE, "f").is_err());
        }
    }

    #[test]
    fn another_version_or_flag_is_a_version_error() {
        for at in [8, 12] {
            let mut bytes = header().encode(LogKind::Commits, &STORE);
            bytes[at] ^= 2;
            let sum = checksum::metadata(&STORE, &bytes[..LOG_HEADER - 8]);
            bytes[LOG_HEADER - 8..LOG_HEADER].copy_from_slice(&sum.to_le_bytes());
            let refused = LogHeader::decode(&bytes, LogKind::Commits, &STORE, "f");
            assert!(matches!(refused, Err(Error::Version { .. })), "byte {at}");
        }
    }

    #[test]
    fn a_mark_is_valid_for_one_generation() {
        let of = |generation| LogHeader {
            generation,
            ..header()
        };
        let mark = header().durable;
        assert_eq!((mark.of(&of(77)), mark.of(&of(5))), (Some(999), None));
    }
}
