//! The header of a record stream, and what the journal's says about `commits`.

use super::bytes::{Reader, Writer};
use super::{StoreId, VERSION, checksum};
use crate::{Error, Result};

/// Which stream a file is.
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

/// The header's length; less than a sector, so that the disk writes it whole or not at all.
pub(crate) const LOG_HEADER: usize = 128;
/// The first bytes of a stream. In the journal it is rewritten in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogHeader {
    /// What the first record is linked to; a new one whenever the stream starts anew.
    pub(crate) generation: u64,
    /// Journal: the generation before, whose records may still lie behind the header.
    pub(crate) previous: u64,
    /// Journal: how much of `commits` is known to be durable. `commits`: the same of the one in whose place it came.
    pub(crate) durable: Mark,
    /// Journal: the boot during which it was written.
    pub(crate) boot_id: [u8; 16],
    /// Journal: a sync of unpersisted files has begun and its success is not known.
    pub(crate) syncing: bool,
    /// Journal: the records up to this one are durable here, if they are not in `commits`; 0: none.
    pub(crate) durable_upto: u64,
}

const SYNCING: u32 = 1;

/// A length of `commits`. `commits` is made anew now and then, and is durable as a whole when it gets its
/// name, so that a length says nothing of a stream of another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub(crate) length: u64,
    /// 0: not noted, and then any.
    pub(crate) generation: u64,
}

impl Mark {
    /// The length, if it speaks of the stream with this header.
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
            of,
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
                generation: of,
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
    fn a_header_survives_and_is_of_its_stream() {
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
    fn another_version_or_flag_is_told_as_such() {
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
    fn a_mark_is_of_one_generation() {
        let of = |generation| LogHeader {
            generation,
            ..header()
        };
        let mark = header().durable;
        assert_eq!((mark.of(&of(77)), mark.of(&of(5))), (Some(999), None));
    }
}
