//! Writing a module commit file: pages front to back, then index and footer, under a temporary name.

use std::io::IoSlice;
use std::sync::Arc;

use super::{PageFiles, PageTable, Reading};
use crate::Result;
use crate::format::checksum::{self, Digest};
use crate::format::index::{Content, Index, Shape};
use crate::page::Run;
use crate::sys::fs::{File, Place};

/// A module commit in the making.
pub(crate) struct Draft {
    file: Option<Arc<dyn File>>,
    temporary: Place,
    index: Index,
    /// Bytes of pages written so far, which in a delta is where the next ones go.
    written: u64,
    pub(crate) counts: Counts,
}

/// What became of the pages that were given to a draft.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) data: u64,
    pub(crate) zero: u64,
    pub(crate) unchanged: u64,
}

/// A file that has its footer, and waits for its name.
pub(crate) struct Finished {
    pub(crate) index: Arc<Index>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) temporary: Place,
    pub(crate) bytes: u64,
}

impl Draft {
    /// A draft for a module: an image where it has no commit yet, else a delta over `parent`, whose digest is `digest`.
    pub(crate) fn new(
        pages: &PageFiles,
        temporary: Place,
        module: &str,
        size: u64,
        commit: u64,
        parent: Option<u64>,
        digest: Digest,
    ) -> Self {
        let index = Index {
            module: module.to_owned(),
            commit,
            parent: parent.unwrap_or(0),
            shape: if parent.is_some() {
                Shape::Delta
            } else {
                Shape::Image
            },
            page_size: pages.page_size,
            size,
            digest,
            runs: Vec::new(),
            checksums: Vec::new(),
        };
        Self {
            file: None,
            temporary,
            index,
            written: 0,
            counts: Counts::default(),
        }
    }

    /// Whether it has anything to say.
    pub(crate) fn is_empty(&self) -> bool {
        self.index.runs.is_empty() && self.index.shape == Shape::Delta
    }

    fn file(&mut self, pages: &PageFiles) -> Result<Arc<dyn File>> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        pages.files.unlink(&self.temporary)?;
        let file = pages.files.create(&self.temporary)?;
        self.file = Some(file.clone());
        if self.index.shape == Shape::Image {
            file.set_len(self.index.size)?;
        }
        Ok(file)
    }

    /// Takes a run of captured pages: leaves out those that are as the head's `table` has them, notes
    /// zero pages, and writes the rest. Runs come in ascending order.
    pub(crate) fn feed(
        &mut self,
        reading: &mut Reading<'_>,
        pages: &PageFiles,
        table: &PageTable,
        run: Run,
        bytes: &[u8],
    ) -> Result<()> {
        let page_size = pages.page_size as usize;
        // Bytes of data pages that follow one another, both here and in the file.
        let mut stretch: Option<(u64, usize)> = None;
        for (number, page) in bytes.chunks_exact(page_size).enumerate() {
            let at = run.start + number as u64;
            let old = table.checksum(at);
            let is_data = match self.classify(reading, table, at, old, page) {
                Verdict::Data(sum) => {
                    self.index.push(at, 1, Content::Data);
                    self.index.checksums.push(sum);
                    self.index.digest.add(at, sum);
                    self.counts.data += 1;
                    true
                }
                Verdict::Zero => {
                    if self.index.shape == Shape::Delta {
                        self.index.push(at, 1, Content::Zero);
                    }
                    self.counts.zero += 1;
                    false
                }
                Verdict::Unchanged => {
                    self.counts.unchanged += 1;
                    false
                }
            };
            match (&stretch, is_data) {
                (None, true) => stretch = Some((at, number * page_size)),
                (Some((start, from)), false) => {
                    self.write(pages, *start, &bytes[*from..number * page_size])?;
                    stretch = None;
                }
                _ => {}
            }
        }
        match stretch {
            Some((start, from)) => self.write(pages, start, &bytes[from..]),
            None => Ok(()),
        }
    }

    /// What a captured page is, compared with the head. Takes the old page out of the digest unless it stays.
    fn classify(
        &mut self,
        reading: &mut Reading<'_>,
        table: &PageTable,
        at: u64,
        old: Option<u64>,
        page: &[u8],
    ) -> Verdict {
        let verdict = if is_zero(page) {
            if old.is_none() {
                Verdict::Unchanged
            } else {
                Verdict::Zero
            }
        } else {
            let sum = checksum::page(page);
            // Equal checksums are a hint; only equal bytes are believed.
            let same = old == Some(sum)
                && table
                    .source(at)
                    .is_some_and(|source| reading.page_is(source, at, page));
            if same {
                Verdict::Unchanged
            } else {
                Verdict::Data(sum)
            }
        };
        if !matches!(verdict, Verdict::Unchanged)
            && let Some(old) = old
        {
            self.index.digest.remove(at, old);
        }
        verdict
    }

    fn write(&mut self, pages: &PageFiles, start: u64, bytes: &[u8]) -> Result<()> {
        let file = self.file(pages)?;
        let offset = match self.index.shape {
            Shape::Image => start * pages.page_size,
            Shape::Delta => self.written,
        };
        file.write_at(&[IoSlice::new(bytes)], offset)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes index and footer.
    pub(crate) fn finish(mut self, pages: &PageFiles) -> Result<Finished> {
        let file = self.file(pages)?;
        let end = self.index.encode(&pages.store);
        file.write_at(&[IoSlice::new(&end)], self.index.index_offset())?;
        Ok(Finished {
            bytes: self.written + end.len() as u64,
            index: Arc::new(self.index),
            file,
            temporary: self.temporary,
        })
    }

    /// Gives the draft up and removes its file.
    pub(crate) fn discard(self, pages: &PageFiles) {
        if self.file.is_some() {
            // What stays is removed by the next open.
            let _ = pages.files.unlink(&self.temporary);
        }
    }
}

enum Verdict {
    Data(u64),
    Zero,
    Unchanged,
}

/// Whether all bytes are zero; random data is told after its first words.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(64)
        .all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
