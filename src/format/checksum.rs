//! XXH3 checksums of pages and metadata, and the digest of a module's contents.

use std::hash::Hasher as _;

use twox_hash::{XxHash3_64, XxHash3_128};

use super::StoreId;

/// The checksum of one page's bytes. It does not depend on where the page lies.
pub(crate) fn page(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The checksum of metadata of one store.
pub(crate) fn metadata(store: &StoreId, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(seed(store), bytes)
}

/// The checksum of metadata of one store, for metadata that is read in pieces.
#[derive(Clone)]
pub(crate) struct Pieces(XxHash3_64);

impl Pieces {
    pub(crate) fn new(store: &StoreId) -> Self {
        Self(XxHash3_64::with_seed(seed(store)))
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The same as the result of [`metadata`] for all pieces together.
    pub(crate) fn sum(&self) -> u64 {
        self.0.finish()
    }
}

/// The checksum of metadata that is read before the store's id is known.
pub(crate) fn plain(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

fn seed(store: &StoreId) -> u64 {
    let (low, high) = store.split_at(8);
    let half = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    half(low) ^ half(high).rotate_left(32)
}

/// The digest of a module's contents: the sum, modulo 2^128, of a hash of (page number, page
/// checksum) over all pages that are not zero. A commit updates the digest at the cost of its
/// changed pages. The digest does not depend on how the pages are spread over files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Digest(pub(crate) u128);

impl Digest {
    fn term(page: u64, checksum: u64) -> u128 {
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&page.to_le_bytes());
        pair[8..].copy_from_slice(&checksum.to_le_bytes());
        XxHash3_128::oneshot(&pair)
    }

    /// Adds a page to the digest.
    pub(crate) fn add(&mut self, page: u64, checksum: u64) {
        self.0 = self.0.wrapping_add(Self::term(page, checksum));
    }

    /// Removes a page from the digest.
    pub(crate) fn remove(&mut self, page: u64, checksum: u64) {
        self.0 = self.0.wrapping_sub(Self::term(page, checksum));
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }
}
