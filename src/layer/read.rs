//! Reads pages out of module commit files and checks them. Pages that lie together are read with
//! one system call.

use std::collections::HashMap;
use std::sync::Arc;

use super::chain::source_runs;
use super::files::{LayerFiles, place};
use crate::error::try_filled;
use crate::format::checksum;
use crate::format::index::{Index, PageLookup};
use crate::page_set::Run;
use crate::sys::fs::{File, read_exact};
use crate::{Error, Result};

/// The most bytes of one read. Tests use a small number.
const MAX_READ: usize = if cfg!(test) { 16_384 } else { 1 << 20 };

/// Consecutive pages and the module commit that holds them.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) run: Run,
    pub(crate) source: Arc<Index>,
}

impl Piece {
    /// All data pages of a module commit.
    pub(crate) fn all_of(index: &Arc<Index>) -> Vec<Self> {
        source_runs(index)
            .filter(|(_, source)| source.is_some())
            .map(|(run, _)| Self {
                run,
                source: index.clone(),
            })
            .collect()
    }
}

/// A series of reads. It keeps its files open and its buffer allocated until it is dropped.
pub(crate) struct Reading<'a> {
    layers: &'a LayerFiles,
    open: HashMap<u64, Arc<dyn File>>,
    buffer: Vec<u8>,
}

/// The most files that one series of reads keeps open.
const MAX_OPEN: usize = 32;

impl<'a> Reading<'a> {
    pub(crate) fn new(layers: &'a LayerFiles) -> Self {
        Self {
            layers,
            open: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    pub(crate) fn page_size(&self) -> u64 {
        self.layers.page_size
    }

    /// The file of a module commit. Open files are known by their commit number only, so one value
    /// reads one module.
    fn file(&mut self, index: &Index) -> Result<Arc<dyn File>> {
        if let Some(file) = self.open.get(&index.commit) {
            return Ok(file.clone());
        }
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        let file = self.layers.open_to_read(&index.module, index.commit)?;
        self.open.insert(index.commit, file.clone());
        Ok(file)
    }

    /// Reads pages of one module and calls `each` with each run and its verified bytes. The pieces
    /// are sorted first, so each file is read forward.
    pub(crate) fn pieces(
        &mut self,
        pieces: Vec<Piece>,
        mut each: impl FnMut(Run, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.for_each_batch(pieces, |reading, parts, bytes| {
            if buffer.len() < bytes {
                buffer = try_filled(bytes, 0u8, "a buffer for pages")?;
            }
            reading.read(parts, &mut buffer[..bytes])?;
            let mut rest = &buffer[..bytes];
            for part in parts {
                let (own, behind) =
                    rest.split_at((part.run.count * reading.layers.page_size) as usize);
                rest = behind;
                each(part.run, own)?;
            }
            Ok(())
        });
        self.buffer = buffer;
        read
    }

    /// The same, into buffers of the caller. For each read, `read_to` gets the runs, the number of
    /// their bytes, and a function that reads those bytes into a buffer.
    pub(crate) fn pieces_to(
        &mut self,
        pieces: Vec<Piece>,
        mut read_to: impl FnMut(
            &mut dyn Iterator<Item = Run>,
            usize,
            &mut dyn FnMut(&mut [u8]) -> Result<()>,
        ) -> Result<()>,
    ) -> Result<()> {
        self.for_each_batch(pieces, |reading, parts, bytes| {
            let mut runs = parts.iter().map(|part| part.run);
            read_to(&mut runs, bytes, &mut |buffer| reading.read(parts, buffer))
        })
    }

    /// Groups pieces into batches that one read can get. Calls `each` with the parts of a batch and
    /// the number of their bytes.
    fn for_each_batch(
        &mut self,
        mut pieces: Vec<Piece>,
        mut each: impl FnMut(&mut Self, &[ReadPart], usize) -> Result<()>,
    ) -> Result<()> {
        pieces.sort_unstable_by_key(|piece| (piece.source.commit, piece.run.start));
        let page_size = self.layers.page_size;
        let mut parts: Vec<ReadPart> = Vec::new();
        let mut bytes = 0;
        for piece in &pieces {
            let max_pages = (MAX_READ as u64 / page_size).max(1);
            let mut start = piece.run.start;
            while start < piece.run.end() {
                let part = ReadPart::new(
                    &piece.source,
                    start,
                    (piece.run.end() - start).min(max_pages),
                )?;
                start += part.run.count;
                if let Some(last) = parts.last() {
                    if !last.is_followed_by(&part, bytes, page_size) {
                        each(self, &parts, bytes as usize)?;
                        parts.clear();
                        bytes = 0;
                    }
                }
                bytes += part.run.count * page_size;
                parts.push(part);
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        each(self, &parts, bytes as usize)
    }

    /// Reads parts that follow one another in the file, with one call, and checks their pages.
    fn read(&mut self, parts: &[ReadPart], buffer: &mut [u8]) -> Result<()> {
        let Some(first) = parts.first() else {
            return Ok(());
        };
        let page_size = self.layers.page_size as usize;
        let index = &first.source;
        let file = self.file(index)?;
        let name = LayerName(index);
        read_exact(&*file, buffer, first.offset, &name)?;
        let checksums = self.layers.checksums(index)?;
        let mut rest = &*buffer;
        for part in parts {
            let (own, behind) = rest.split_at(part.run.count as usize * page_size);
            rest = behind;
            for (number, page) in own.chunks_exact(page_size).enumerate() {
                if checksum::page(page) != checksums[part.slot as usize + number] {
                    let page = part.run.start + number as u64;
                    return Err(Error::corrupt(
                        name.to_string(),
                        format!(
                            "the checksum of page {page} of module \"{}\" at commit {} does not match",
                            index.module, index.commit
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a page in a file has these bytes. `false` also if the page cannot be read.
    pub(crate) fn page_is(&mut self, index: &Index, page: u64, bytes: &[u8]) -> bool {
        let PageLookup::Data { slot } = index.find(page) else {
            return false;
        };
        let Ok(file) = self.file(index) else {
            return false;
        };
        if self.buffer.len() < bytes.len() {
            let Ok(buffer) = try_filled(MAX_READ, 0u8, "a buffer for pages") else {
                return false;
            };
            self.buffer = buffer;
        }
        let buffer = &mut self.buffer[..bytes.len()];
        matches!(file.read_at(buffer, index.offset(page, slot)), Ok(got) if got == bytes.len())
            && buffer == bytes
    }
}

/// The name of a module commit file. The text is only made for an error.
struct LayerName<'a>(&'a Index);

impl std::fmt::Display for LayerName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        place(&self.0.module, self.0.commit).fmt(f)
    }
}

/// Consecutive pages at consecutive slots of one file.
struct ReadPart {
    source: Arc<Index>,
    run: Run,
    slot: u64,
    offset: u64,
}

impl ReadPart {
    fn new(source: &Arc<Index>, start: u64, count: u64) -> Result<Self> {
        let PageLookup::Data { slot } = source.find(start) else {
            return Err(Error::Internal {
                what: format!("page {start} is not in the file that should hold it"),
            });
        };
        // The run may span several runs of the index. Only the first of them is read here.
        let held = source.runs[source.run_at(start)].end() - start;
        Ok(Self {
            source: source.clone(),
            run: Run {
                start,
                count: count.min(held),
            },
            slot,
            offset: source.offset(start, slot),
        })
    }

    /// Whether `next` can join the batch of which `self` is the last part. The batch has `bytes`
    /// bytes.
    fn is_followed_by(&self, next: &Self, bytes: u64, page_size: u64) -> bool {
        Arc::ptr_eq(&self.source, &next.source)
            && self.offset + self.run.count * page_size == next.offset
            && bytes + next.run.count * page_size <= MAX_READ as u64
    }
}
