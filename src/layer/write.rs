//! Writes a module commit file under a temporary name: first the pages in ascending order, then
//! index and footer.

use std::io::IoSlice;
use std::sync::Arc;

use super::files::LayerFiles;
use super::read::Reading;
use super::table::PageTable;
use crate::Result;
use crate::format::checksum::{self, Digest};
use crate::format::index::{Checksums, Content, Index, Shape};
use crate::page_set::Run;
use crate::sys::fs::{File, Place};

/// A module commit that is being written.
pub(crate) struct Draft {
    file: Option<Arc<dyn File>>,
    temporary: Place,
    index: Index,
    checksums: Vec<u64>,
    /// How many bytes of pages were written so far. In a delta the next page goes to this offset.
    written: u64,
    /// The module is larger than at the parent.
    grown: bool,
    pub(crate) counts: Counts,
}

/// How many captured pages had data, were zero, or were unchanged.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) data: u64,
    pub(crate) zero: u64,
    pub(crate) unchanged: u64,
}

/// A file with its footer. It does not have its final name yet.
pub(crate) struct Finished {
    pub(crate) index: Arc<Index>,
    pub(crate) file: Arc<dyn File>,
    pub(crate) temporary: Place,
    pub(crate) bytes: u64,
}

impl Draft {
    /// A draft of an image: the first module commit of a module.
    pub(crate) fn image(
        layers: &LayerFiles,
        temporary: Place,
        module: &str,
        size: u64,
        commit: u64,
    ) -> Self {
        let index = Index {
            module: module.to_owned(),
            commit,
            parent: 0,
            shape: Shape::Image,
            page_size: layers.page_size,
            size,
            digest: Digest::default(),
            changed: None,
            former: None,
            runs: Vec::new(),
            checksums: Checksums::default(),
        };
        Self {
            file: None,
            temporary,
            index,
            checksums: Vec::new(),
            written: 0,
            grown: false,
            counts: Counts::default(),
        }
    }

    /// A draft of a delta on `parent`, for a module that has `size` bytes now.
    pub(crate) fn delta(
        layers: &LayerFiles,
        temporary: Place,
        size: u64,
        commit: u64,
        parent: &Index,
    ) -> Self {
        let mut draft = Self::image(layers, temporary, &parent.module, size, commit);
        draft.index.parent = parent.commit;
        draft.index.shape = Shape::Delta;
        draft.index.digest = parent.digest;
        draft.grown = parent.size != size;
        draft
    }

    /// Whether the draft has no changes: it is a delta without pages and of the same module size.
    pub(crate) fn is_empty(&self) -> bool {
        self.index.runs.is_empty() && self.index.shape == Shape::Delta && !self.grown
    }

    fn file(&mut self, layers: &LayerFiles) -> Result<Arc<dyn File>> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        layers.files.unlink(&self.temporary)?;
        let file = layers.files.create(&self.temporary)?;
        self.file = Some(file.clone());
        if self.index.shape == Shape::Image {
            file.set_len(self.index.size)?;
        }
        Ok(file)
    }

    /// Adds captured pages. Pages that are the same as in the head's `table` are left out, zero
    /// pages are only recorded in the index, and the other pages are written. Runs must ascend over
    /// all calls.
    pub(crate) fn feed<'a>(
        &mut self,
        reading: &mut Reading<'_>,
        layers: &LayerFiles,
        table: &PageTable,
        captured: impl Iterator<Item = (Run, &'a [u8])>,
    ) -> Result<()> {
        let page_size = layers.page_size as usize;
        let mut batch = PageBatch::default();
        for (run, bytes) in captured {
            // The first page of the current stretch of data pages, counted from the start of the
            // run.
            let mut stretch_start = None;
            for (number, page) in bytes.chunks_exact(page_size).enumerate() {
                let data =
                    self.take_page(reading, layers, table, run.start + number as u64, page)?;
                if data {
                    stretch_start.get_or_insert(number);
                } else if let Some(from) = stretch_start.take() {
                    let stretch = &bytes[from * page_size..number * page_size];
                    self.write(layers, &mut batch, run.start + from as u64, stretch)?;
                }
            }
            if let Some(from) = stretch_start {
                let stretch = &bytes[from * page_size..];
                self.write(layers, &mut batch, run.start + from as u64, stretch)?;
            }
        }
        self.flush(layers, &mut batch)
    }

    /// Records one captured page. `true`: its bytes have to be written.
    fn take_page(
        &mut self,
        reading: &mut Reading<'_>,
        layers: &LayerFiles,
        table: &PageTable,
        at: u64,
        page: &[u8],
    ) -> Result<bool> {
        let old = table.checksum(layers, at)?;
        Ok(match self.classify(reading, table, at, old, page) {
            Verdict::Data(sum) => {
                self.index.push(at, 1, Content::Data);
                self.checksums.push(sum);
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
        })
    }

    /// Compares a captured page with the head. If the page has changed, the old page is removed
    /// from the digest.
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
            // Equal checksums are not enough: the bytes are compared too.
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
        if !matches!(verdict, Verdict::Unchanged) {
            if let Some(old) = old {
                self.index.digest.remove(at, old);
            }
        }
        verdict
    }

    /// Adds a stretch of data pages to the batch that is written with one call.
    fn write<'a>(
        &mut self,
        layers: &LayerFiles,
        batch: &mut PageBatch<'a>,
        start: u64,
        bytes: &'a [u8],
    ) -> Result<()> {
        let offset = match self.index.shape {
            Shape::Image => start * layers.page_size,
            Shape::Delta => self.written,
        };
        self.written += bytes.len() as u64;
        if batch.offset + batch.length != offset || batch.slices.len() == PageBatch::SLICES {
            self.flush(layers, batch)?;
            batch.offset = offset;
        }
        batch.length += bytes.len() as u64;
        batch.slices.push(IoSlice::new(bytes));
        Ok(())
    }

    fn flush(&mut self, layers: &LayerFiles, batch: &mut PageBatch<'_>) -> Result<()> {
        if !batch.slices.is_empty() {
            self.file(layers)?.write_at(&batch.slices, batch.offset)?;
        }
        batch.offset += batch.length;
        batch.length = 0;
        batch.slices.clear();
        Ok(())
    }

    /// Writes index and footer.
    pub(crate) fn finish(mut self, layers: &LayerFiles) -> Result<Finished> {
        self.index.checksums = Checksums::known(std::mem::take(&mut self.checksums));
        let end = self.index.encode(&layers.store);
        let written = self.file(layers).and_then(|file| {
            file.write_at(&[IoSlice::new(&end)], self.index.index_offset())?;
            Ok(file)
        });
        let file = match written {
            Ok(file) => file,
            Err(error) => {
                self.discard(layers);
                return Err(error);
            }
        };
        Ok(Finished {
            bytes: self.written + end.len() as u64,
            index: Arc::new(self.index),
            file,
            temporary: self.temporary,
        })
    }

    /// Gives the draft up and removes its file.
    pub(crate) fn discard(self, layers: &LayerFiles) {
        if self.file.is_some() {
            // If this fails, the next open of the store removes the file.
            let _ = layers.files.unlink(&self.temporary);
        }
    }
}

/// Stretches of pages that follow one another in the file and are written with one call.
#[derive(Default)]
struct PageBatch<'a> {
    offset: u64,
    length: u64,
    slices: Vec<IoSlice<'a>>,
}

impl PageBatch<'_> {
    /// The most slices of one system call (`UIO_MAXIOV`).
    const SLICES: usize = 1024;
}

enum Verdict {
    Data(u64),
    Zero,
    Unchanged,
}

/// Whether all bytes are zero. The loop ends at the first chunk that is not zero.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(64)
        .all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
