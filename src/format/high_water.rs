//! `.vmstore/high-water`: how far the journal was written. It shows that the end of a journal is
//! missing. The file has 40 bytes, is rewritten in place and is never synced. It is only used on
//! the host that wrote it, and only until that host reboots.

use super::bytes::{Reader, Writer};
use super::header::Mark;
use super::{StoreId, VERSION, checksum};

const MAGIC: [u8; 8] = *b"VMSHIGH\n";
pub(crate) const LENGTH: usize = 40;

/// A mark of generation 0 is empty: it does not limit the journal.
pub(crate) fn encode(store: &StoreId, Mark { length, generation }: Mark) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LENGTH);
    Writer(&mut bytes)
        .bytes(&MAGIC)
        .u32(VERSION)
        .u32(0)
        .u64(generation)
        .u64(length);
    let sum = checksum::metadata(store, &bytes);
    Writer(&mut bytes).u64(sum);
    bytes
}

/// The mark in the file. `None`: the file cannot be read, or it belongs to another store or
/// version. That is no error, because the journal is complete without this file.
pub(crate) fn decode(bytes: &[u8], store: &StoreId) -> Option<Mark> {
    let (body, sum) = bytes.get(..LENGTH)?.split_at_checked(LENGTH - 8)?;
    if sum != checksum::metadata(store, body).to_le_bytes() {
        return None;
    }
    let mut r = Reader(body);
    let known = r.array() == Some(MAGIC) && r.u32()? == VERSION && r.u32()? == 0;
    let (generation, length) = (r.u64()?, r.u64()?);
    known.then_some(Mark { length, generation })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = *b"a store's own id";

    #[test]
    fn it_has_a_mark_or_none() {
        let mark = Mark {
            length: 999,
            generation: 7,
        };
        for written in [mark, Mark::default()] {
            let bytes = encode(&STORE, written);
            assert_eq!(bytes.len(), LENGTH);
            assert_eq!(decode(&bytes, &STORE), Some(written));
            assert_eq!(decode(&bytes[..LENGTH - 1], &STORE), None);
            assert_eq!(decode(&bytes, b"another store id"), None);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mark = Mark {
            length: 128,
            generation: 1,
        };
        let good = encode(&STORE, mark);
        for bit in 0..8 * LENGTH {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes, &STORE), None, "bit {bit}");
        }
    }

    #[test]
    fn another_version_has_no_mark() {
        for at in [0, 8, 12] {
            let mut bytes = encode(&STORE, Mark::default());
            bytes[at] ^= 2;
            let sum = checksum::metadata(&STORE, &bytes[..LENGTH - 8]);
            bytes[LENGTH - 8..].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(decode(&bytes, &STORE), None, "byte {at}");
        }
    }
}
