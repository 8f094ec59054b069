//! The bytes on disk: encoding, decoding, checksums. No I/O here; docs/format.md is the authority.

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

/// The version of every file of the store; another one is refused by name.
pub(crate) const VERSION: u32 = 1;

/// The last number of a record or a commit. No history gets there, but a forged one may begin there.
pub(crate) const LAST: u64 = u64::MAX / 2;

/// A store's own random number, part of every checksum seed so that a file of another store is
/// never taken for one of this.
pub(crate) type StoreId = [u8; 16];
