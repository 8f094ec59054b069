//! The module commit files of a store. Opens them, and reads and caches their indexes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::try_filled;
use crate::format::checksum::Pieces;
use crate::format::index::{FOOTER, Footer, Index, RUN, Shape};
use crate::format::{StoreId, name};
use crate::sys::fs::{Access, File, Files, Place, read_exact};
use crate::{Error, Result};

/// When the cache has more bytes than this, indexes that are not in use are dropped.
const CACHE_LIMIT: usize = 64 << 20;

// Tests use small limits. Even small indexes are then read in pieces.

/// An index up to this many bytes is read together with its checksums.
const SMALL_INDEX: u64 = if cfg!(test) { 64 } else { 64 << 10 };

/// A larger index is read in pieces of this many bytes.
const INDEX_PIECE: u64 = RUN as u64 * if cfg!(test) { 30 } else { 32 << 10 };
const _: () = assert!(SMALL_INDEX <= INDEX_PIECE);

/// A list of page checksums that is longer than this is verified in pieces before memory is
/// allocated for the whole list.
const LARGE_LIST: u64 = if cfg!(test) { 16 } else { 16 << 20 };

/// The module commit files of one store.
pub(crate) struct LayerFiles {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) store: StoreId,
    pub(crate) page_size: u64,
    cache: Mutex<Cache>,
    opened: Mutex<Opened>,
}

/// Files that are kept open after pages were read from them. With a deep chain a restore may read
/// each page from another file.
#[derive(Default)]
struct Opened {
    files: HashMap<(String, u64), Arc<dyn File>>,
    max_open: usize,
}

#[derive(Default)]
struct Cache {
    indexes: HashMap<(String, u64), Arc<Index>>,
    bytes: usize,
}

/// About how many bytes an index takes in the cache.
fn cached_bytes(index: &Index) -> usize {
    index.data_pages() as usize * 8 + index.runs.len() * 32 + 256
}

pub(crate) fn place(module: &str, commit: u64) -> Place {
    Place::root(name::module_commit(module, commit))
}

impl LayerFiles {
    pub(crate) fn new(files: Arc<dyn Files>, store: StoreId, page_size: u64) -> Self {
        Self {
            files,
            store,
            page_size,
            cache: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    /// Sets how many files may stay open after reading. At first no file stays open.
    pub(crate) fn set_most_open(&self, most: usize) {
        let mut opened = self.opened.lock();
        opened.max_open = most;
        opened.files.clear();
    }

    /// The file of a module commit, for reading pages. It may be open already.
    pub(super) fn open_to_read(&self, module: &str, commit: u64) -> Result<Arc<dyn File>> {
        let key = (module.to_owned(), commit);
        if let Some(file) = self.opened.lock().files.get(&key) {
            return Ok(file.clone());
        }
        let file = self.open(module, commit)?;
        let mut opened = self.opened.lock();
        if opened.files.len() >= opened.max_open {
            opened.files.clear();
        }
        if opened.max_open > 0 {
            opened.files.insert(key, file.clone());
        }
        Ok(file)
    }

    /// Opens the file of a module commit.
    pub(crate) fn open(&self, module: &str, commit: u64) -> Result<Arc<dyn File>> {
        let place = place(module, commit);
        self.files
            .open(&place, Access::Read)?
            .ok_or_else(|| Error::corrupt(place.to_string(), "it is missing"))
    }

    /// The index of a module commit, from the cache or its file.
    pub(crate) fn index(&self, module: &str, commit: u64) -> Result<Arc<Index>> {
        if let Some(index) = self.cache.lock().indexes.get(&(module.to_owned(), commit)) {
            return Ok(index.clone());
        }
        let index = Arc::new(self.load(module, commit)?);
        self.remember(index.clone());
        Ok(index)
    }

    /// Puts an index into the cache.
    pub(crate) fn remember(&self, index: Arc<Index>) {
        let mut cache = self.cache.lock();
        if cache.bytes > CACHE_LIMIT {
            cache
                .indexes
                .retain(|_, index| Arc::strong_count(index) > 1);
            cache.bytes = cache
                .indexes
                .values()
                .map(|index| cached_bytes(index))
                .sum();
        }
        cache.bytes += cached_bytes(&index);
        cache
            .indexes
            .insert((index.module.clone(), index.commit), index);
    }

    /// Drops the index and the open file of a module commit that was deleted or rewritten.
    pub(crate) fn forget(&self, module: &str, commit: u64) {
        let key = (module.to_owned(), commit);
        self.opened.lock().files.remove(&key);
        let mut cache = self.cache.lock();
        if let Some(index) = cache.indexes.remove(&key) {
            cache.bytes = cache.bytes.saturating_sub(cached_bytes(&index));
        }
    }

    /// The parent of a module commit; 0 for an image. Reads at most the footer.
    pub(crate) fn parent(&self, module: &str, commit: u64) -> Result<u64> {
        if let Some(index) = self.cache.lock().indexes.get(&(module.to_owned(), commit)) {
            return Ok(index.parent);
        }
        let file = self.open(module, commit)?;
        let footer = self.footer(&*file, module, commit)?;
        Ok(footer.head().parent)
    }

    /// Reads and checks footer and index of a module commit.
    pub(crate) fn load(&self, module: &str, commit: u64) -> Result<Index> {
        let place = place(module, commit);
        let file = self.open(module, commit)?;
        let footer = self.footer(&*file, module, commit)?;
        let name = place.to_string();
        // The footer's numbers fit the file's length, but a sparse file can have any length. So
        // memory is only allocated as far as the index was read.
        let runs_length = footer.runs_length();
        let whole = footer.index_length <= SMALL_INDEX;
        let (index_offset, index_length) = (footer.index_offset, footer.index_length);
        let length = if whole { index_length } else { runs_length };
        let mut bytes = try_filled(length.min(INDEX_PIECE) as usize, 0u8, "an index")?;
        let mut decoded = footer.runs(&self.store);
        let mut at = 0;
        while at < length {
            let piece = &mut bytes[..INDEX_PIECE.min(length - at) as usize];
            read_exact(&*file, piece, index_offset + at, &place)?;
            let runs = (runs_length - at).min(piece.len() as u64) as usize;
            decoded.add(&piece[..runs], &name)?;
            at += piece.len() as u64;
        }
        let index = decoded.finish(&name)?;
        if whole {
            index.learn_checksums(&bytes[runs_length as usize..], &self.store, &name)?;
        }
        Ok(index)
    }

    /// The footer of an inline file.
    pub(crate) fn footer_of(&self, module: &str, commit: u64, bytes: &[u8]) -> Result<Footer> {
        let length = bytes.len() as u64;
        let name = format!("{} (inline in the journal)", place(module, commit));
        let Some(footer) = bytes.last_chunk::<FOOTER>() else {
            let why = format!("it has {length} bytes, which is less than a footer");
            return Err(Error::corrupt(name, why));
        };
        self.check_footer(footer, length, module, commit, name)
    }

    /// Reads and checks the footer of a module commit.
    fn footer(&self, file: &dyn File, module: &str, commit: u64) -> Result<Footer> {
        let place = place(module, commit);
        let name = place.to_string();
        let length = file.len()?;
        let Some(footer_at) = length.checked_sub(FOOTER as u64) else {
            return Err(Error::corrupt(
                name,
                format!("it has {length} bytes, which is less than a footer"),
            ));
        };
        let mut footer = [0; FOOTER];
        read_exact(file, &mut footer, footer_at, &place)?;
        self.check_footer(&footer, length, module, commit, name)
    }

    fn check_footer(
        &self,
        footer: &[u8; FOOTER],
        length: u64,
        module: &str,
        commit: u64,
        name: String,
    ) -> Result<Footer> {
        let footer = Footer::decode(footer, length, &self.store, &name)?;
        let index = footer.head();
        if index.module != module || index.commit != commit || index.page_size != self.page_size {
            return Err(Error::corrupt(
                name,
                format!(
                    "it holds commit {} of module \"{}\" with pages of {} bytes",
                    index.commit, index.module, index.page_size
                ),
            ));
        }
        Ok(footer)
    }

    /// The checksums of a module commit's data pages. They are read at the first call.
    pub(crate) fn checksums<'a>(&self, index: &'a Index) -> Result<&'a [u64]> {
        if let Some(known) = index.checksums.get() {
            return Ok(known);
        }
        let place = place(&index.module, index.commit);
        let file = self.open(&index.module, index.commit)?;
        let (offset, length) = index.checksums_at();
        if length > LARGE_LIST {
            let mut piece = try_filled(LARGE_LIST as usize, 0u8, "an index")?;
            let mut sum = Pieces::new(&self.store);
            let mut at = 0;
            while at < length {
                let piece = &mut piece[..LARGE_LIST.min(length - at) as usize];
                read_exact(&*file, piece, offset + at, &place)?;
                sum.add(piece);
                at += piece.len() as u64;
            }
            index.check_checksums(sum.sum(), &place.to_string())?;
        }
        let mut bytes = try_filled(length as usize, 0u8, "an index")?;
        read_exact(&*file, &mut bytes, offset, &place)?;
        index.learn_checksums(&bytes, &self.store, &place.to_string())
    }

    /// The index of a module commit, whose module must not be larger than `size`. Modules only
    /// grow, so a module commit is never larger than the module commit above it.
    pub(crate) fn index_within(&self, module: &str, commit: u64, size: u64) -> Result<Arc<Index>> {
        let index = self.index(module, commit)?;
        if index.size > size {
            return Err(Error::corrupt(
                place(module, commit).to_string(),
                format!(
                    "its module has {} bytes, but the module commit above it has only {size}",
                    index.size
                ),
            ));
        }
        Ok(index)
    }

    /// The module commits that make up a module's bytes: newest first, with an image at the end.
    pub(crate) fn chain(&self, module: &str, commit: u64, size: u64) -> Result<Vec<Arc<Index>>> {
        let mut chain = vec![self.index_within(module, commit, size)?];
        loop {
            let last = &chain[chain.len() - 1];
            if last.shape == Shape::Image {
                return Ok(chain);
            }
            // The decoder has checked that parents are older than their children, so the loop ends.
            chain.push(self.index_within(module, last.parent, last.size)?);
        }
    }
}
