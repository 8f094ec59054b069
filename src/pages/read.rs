//! Reading pages out of module commit files, checked, in as few system calls as their places allow.

use std::collections::HashMap;
use std::sync::Arc;

use super::{PageFiles, place};
use crate::error::try_filled;
use crate::format::checksum;
use crate::format::index::{Found, Index};
use crate::page::Run;
use crate::sys::fs::{File, read_exact};
use crate::{Error, Result};

/// The most bytes of one read.
const READ: usize = 1 << 20;

/// Pages that lie together in one module commit.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) run: Run,
    pub(crate) source: Arc<Index>,
}

impl Piece {
    /// All data pages of a module commit.
    pub(crate) fn all_of(index: &Arc<Index>) -> Vec<Self> {
        super::source_runs(index)
            .filter(|(_, source)| source.is_some())
            .map(|(run, _)| Self {
                run,
                source: index.clone(),
            })
            .collect()
    }
}

/// An errand through the files: keeps them open and its buffer while it lasts.
pub(crate) struct Reading<'a> {
    pages: &'a PageFiles,
    open: HashMap<u64, Arc<dyn File>>,
    buffer: Vec<u8>,
}

/// Files kept open at once by one errand.
const OPEN: usize = 32;

impl<'a> Reading<'a> {
    pub(crate) fn new(pages: &'a PageFiles) -> Self {
        Self {
            pages,
            open: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    /// For one module at a time: the files of another are another's.
    fn file(&mut self, index: &Index) -> Result<Arc<dyn File>> {
        if let Some(file) = self.open.get(&index.commit) {
            return Ok(file.clone());
        }
        if self.open.len() >= OPEN {
            self.open.clear();
        }
        let file = self.pages.open(&index.module, index.commit)?;
        self.open.insert(index.commit, file.clone());
        Ok(file)
    }

    /// Reads pages of one module and hands them out, each run with its verified bytes. `pieces` are
    /// sorted here so that each file is read forward.
    pub(crate) fn pieces(
        &mut self,
        mut pieces: Vec<Piece>,
        mut each: impl FnMut(Run, &[u8]) -> Result<()>,
    ) -> Result<()> {
        pieces.sort_unstable_by_key(|piece| (piece.source.commit, piece.run.start));
        let page_size = self.pages.page_size;
        let mut parts: Vec<Part> = Vec::new();
        for piece in &pieces {
            let most = (READ as u64 / page_size).max(1);
            let mut start = piece.run.start;
            while start < piece.run.end() {
                let part = Part::new(&piece.source, start, (piece.run.end() - start).min(most))?;
                start += part.run.count;
                if let Some(last) = parts.last()
                    && !last.is_followed_by(&part, &parts, page_size)
                {
                    self.read(&parts, &mut each)?;
                    parts.clear();
                }
                parts.push(part);
            }
        }
        self.read(&parts, &mut each)
    }

    /// One read for parts that lie behind one another.
    fn read(
        &mut self,
        parts: &[Part],
        each: &mut impl FnMut(Run, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Some(first) = parts.first() else {
            return Ok(());
        };
        let page_size = self.pages.page_size as usize;
        let bytes = parts
            .iter()
            .map(|part| part.run.count as usize)
            .sum::<usize>()
            * page_size;
        if self.buffer.len() < bytes {
            self.buffer = try_filled(bytes, 0u8, "a buffer for pages")?;
        }
        let index = &first.source;
        let file = self.file(index)?;
        let name = place(&index.module, index.commit);
        read_exact(&*file, &mut self.buffer[..bytes], first.offset, &name)?;
        let checksums = self.pages.checksums(index)?;
        let mut rest = &self.buffer[..bytes];
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
            each(part.run, own)?;
        }
        Ok(())
    }

    /// Whether a page in a file has these bytes. A page that cannot be read has not.
    pub(crate) fn page_is(&mut self, index: &Index, page: u64, bytes: &[u8]) -> bool {
        let Found::Data { slot } = index.find(page) else {
            return false;
        };
        let Ok(file) = self.file(index) else {
            return false;
        };
        if self.buffer.len() < bytes.len() {
            let Ok(buffer) = try_filled(READ, 0u8, "a buffer for pages") else {
                return false;
            };
            self.buffer = buffer;
        }
        let buffer = &mut self.buffer[..bytes.len()];
        matches!(file.read_at(buffer, index.offset(page, slot)), Ok(got) if got == bytes.len())
            && buffer == bytes
    }
}

/// Consecutive pages at consecutive slots of one file.
struct Part {
    source: Arc<Index>,
    run: Run,
    slot: u64,
    offset: u64,
}

impl Part {
    fn new(source: &Arc<Index>, start: u64, count: u64) -> Result<Self> {
        let Found::Data { slot } = source.find(start) else {
            return Err(Error::Internal {
                what: format!("page {start} is not where it was"),
            });
        };
        // A table's run may span several runs of the index.
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

    fn is_followed_by(&self, next: &Self, parts: &[Self], page_size: u64) -> bool {
        let bytes = parts.iter().map(|part| part.run.count).sum::<u64>() * page_size;
        Arc::ptr_eq(&self.source, &next.source)
            && self.offset + self.run.count * page_size == next.offset
            && bytes + next.run.count * page_size <= READ as u64
    }
}
