//! `.vmstore/identity`: the file that makes a directory a store. It has 64 bytes and is written
//! once.

use super::bytes::{Reader, Writer};
use super::{StoreId, VERSION, checksum};
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"VMSTORE\n";
pub(crate) const LENGTH: usize = 64;

/// The facts about a store that never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store: StoreId,
    pub(crate) page_size: u32,
    /// When the store was made, nanoseconds since 1970.
    pub(crate) made: u64,
}

impl Identity {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH);
        let mut w = Writer(&mut bytes);
        w.bytes(&MAGIC)
            .u32(VERSION)
            .u32(0)
            .bytes(&self.store)
            .u32(self.page_size)
            .u32(0);
        w.u64(self.made).pad_to(LENGTH - 8);
        let sum = checksum::plain(&bytes);
        Writer(&mut bytes).u64(sum);
        bytes
    }

    /// Decodes the file. `file` names it in error texts.
    pub(crate) fn decode(bytes: &[u8], file: &str) -> Result<Self> {
        let bad = |why: &str| Error::corrupt(file, why);
        if bytes.len() != LENGTH {
            return Err(bad(&format!(
                "it has {} bytes instead of {LENGTH}",
                bytes.len()
            )));
        }
        let (body, sum) = bytes.split_at(LENGTH - 8);
        if body[..8] != MAGIC {
            return Err(bad("it does not begin with the magic of a store"));
        }
        if sum != checksum::plain(body).to_le_bytes() {
            return Err(bad("its checksum does not match"));
        }
        let mut r = Reader(&body[8..]);
        let fields = (|| Some((r.u32()?, r.u32()?, r.array()?, r.u32()?, r.u32()?, r.u64()?)))();
        let Some((version, flags, store, page_size, _, made)) = fields else {
            return Err(bad("it is too short"));
        };
        if version != VERSION || flags != 0 {
            return Err(Error::Version {
                file: file.into(),
                why: format!(
                    "format version {version}, flags {flags:#x}; this library knows version {VERSION}"
                ),
            });
        }
        if !page_size.is_power_of_two() || page_size < 512 {
            return Err(bad(&format!(
                "its page size {page_size} is not a power of two, or is less than 512"
            )));
        }
        Ok(Self {
            store,
            page_size,
            made,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let identity = Identity {
            store: *b"a store's own id",
            page_size: 4096,
            made: 5,
        };
        let bytes = identity.encode();
        assert_eq!(Identity::decode(&bytes, "identity").unwrap(), identity);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bad, "identity").is_err(), "bit {bit}");
        }
        assert!(Identity::decode(&bytes[..63], "identity").is_err());
    }

    #[test]
    fn page_sizes_are_powers_of_two_from_512_on() {
        for (page_size, good) in [
            (0, false),
            (256, false),
            (512, true),
            (513, false),
            (6144, false),
            (65536, true),
        ] {
            let identity = Identity {
                store: [1; 16],
                page_size,
                made: 5,
            };
            let decoded = Identity::decode(&identity.encode(), "identity");
            assert_eq!(decoded.is_ok(), good, "{page_size}");
        }
    }

    #[test]
    fn another_version_or_flag_is_a_version_error() {
        let identity = Identity {
            store: [1; 16],
            page_size: 4096,
            made: 5,
        };
        for at in [8, 12] {
            let mut bytes = identity.encode();
            bytes[at] ^= 2;
            let sum = checksum::plain(&bytes[..LENGTH - 8]);
            bytes[LENGTH - 8..].copy_from_slice(&sum.to_le_bytes());
            let refused = Identity::decode(&bytes, "identity");
            assert!(matches!(refused, Err(Error::Version { .. })), "byte {at}");
        }
    }
}
