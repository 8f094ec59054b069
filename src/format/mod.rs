//! The bytes on disk: encoding, decoding, checksums. This room does no I/O. docs/format.md defines
//! the format.

#![forbid(unsafe_code)]

pub(crate) mod bytes;
pub(crate) mod checksum;
pub(crate) mod commit;
pub(crate) mod header;
pub(crate) mod high_water;
pub(crate) mod identity;
pub(crate) mod index;
pub(crate) mod inline;
pub(crate) mod name;
pub(crate) mod record;
pub(crate) mod transfer;

/// The version of every file of the store. A file of another version is refused, and the error
/// names the version.
pub(crate) const VERSION: u32 = 1;

/// The largest number of a record or a commit. No real history reaches it. A forged history may
/// begin near it.
pub(crate) const LAST: u64 = u64::MAX / 2;

/// The random id of a store. It is part of the seed of checksums, so a file of another store does
/// not verify.
pub(crate) type StoreId = [u8; 16];
