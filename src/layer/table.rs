//! The page table of a module at the head: which module commit file holds each page. With the
//! table, finding a page does not walk a chain.

use std::sync::Arc;

use super::chain::source_runs;
use super::files::LayerFiles;
use crate::error::try_filled;
use crate::format::index::{Index, PageLookup, Shape};
use crate::page_set::Run;
use crate::sys::host;
use crate::{Error, Result};

/// The pages of one chunk.
const CHUNK: u64 = 512;
/// A table of up to this many chunks is always allowed; with pages of 4 KiB this is a module of 2
/// TiB. A larger table is allowed if it takes at most 1/64 of the host's memory.
const ALWAYS_ALLOWED_CHUNKS: usize = 1 << 20;

/// The entries of the pages of a chunk. `None`: all of them are the same as in the base.
type Chunk = Option<Box<[u32]>>;

/// For each page the module commit that holds the page, or none for a zero page. Chunks whose pages
/// are all the same as in the base take no memory.
pub(crate) struct PageTable {
    pages: u64,
    /// The image that holds every page without an entry of its own. Without an image such pages are
    /// zero.
    base: Option<Arc<Index>>,
    /// One entry for each page: [`BASE`], [`ZERO`], or [`FIRST`] plus a position in `sources`.
    chunks: Vec<Chunk>,
    sources: Vec<Option<TableSource>>,
    /// The position in `sources` that was used last. Successive runs often have the same source.
    recent: usize,
}

/// The page is the same as in the base.
const BASE: u32 = 0;
/// The page is zero, even if the base has data for it.
const ZERO: u32 = 1;
/// The entry of the first source.
const FIRST: u32 = 2;

struct TableSource {
    index: Arc<Index>,
    /// How many pages point to this source. When no page does, the source is removed.
    pages: u64,
}

/// A run of pages with the same entry in the table.
#[derive(Clone)]
pub(crate) struct Located {
    pub(crate) run: Run,
    /// `None`: zero pages.
    pub(crate) source: Option<Arc<Index>>,
}

impl PageTable {
    /// The table of a module of zeros.
    pub(crate) fn new(pages: u64) -> Result<Self> {
        let mut table = Self {
            pages: 0,
            base: None,
            chunks: Vec::new(),
            sources: Vec::new(),
            recent: 0,
        };
        table.grow(pages)?;
        Ok(table)
    }

    /// The pages of the module.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Makes the table larger. The new pages are zero.
    pub(crate) fn grow(&mut self, pages: u64) -> Result<()> {
        let count = pages.div_ceil(CHUNK) as usize;
        let more = count.saturating_sub(self.chunks.len());
        let no_memory = || Error::NoMemory {
            what: "a page table".into(),
        };
        // A delta can name any module size, even if its file is short.
        if count > ALWAYS_ALLOWED_CHUNKS
            && count > host::memory() as usize / 64 / size_of::<Chunk>()
        {
            return Err(no_memory());
        }
        self.chunks
            .try_reserve_exact(more)
            .map_err(|_| no_memory())?;
        self.chunks.resize_with(self.chunks.len() + more, || None);
        self.pages = self.pages.max(pages);
        Ok(())
    }

    /// The table of a chain, which is given newest first.
    pub(crate) fn of_chain(pages: u64, chain: &[Arc<Index>]) -> Result<Self> {
        let mut table = Self::new(pages)?;
        for index in chain.iter().rev() {
            table.apply(index)?;
        }
        Ok(table)
    }

    /// Lays a module commit over the table.
    pub(crate) fn apply(&mut self, index: &Arc<Index>) -> Result<()> {
        if index
            .runs
            .last()
            .is_some_and(|last| last.end() > self.pages)
        {
            return Err(beyond());
        }
        if index.shape == Shape::Image {
            // An image holds all pages.
            self.chunks.iter_mut().for_each(|chunk| *chunk = None);
            self.sources.clear();
            self.base = Some(index.clone());
            return Ok(());
        }
        for (run, source) in source_runs(index) {
            self.set(run, source)?;
        }
        Ok(())
    }

    /// Points a run of pages to a module commit, or makes it zero.
    pub(crate) fn set(&mut self, run: Run, source: Option<&Arc<Index>>) -> Result<()> {
        if run.end() > self.pages {
            return Err(beyond());
        }
        let number = match (source, &self.base) {
            (None, None) => BASE,
            (None, Some(_)) => ZERO,
            (Some(index), Some(base)) if Arc::ptr_eq(index, base) => BASE,
            (Some(index), _) => self.number_of(index)?,
        };
        let mut page = run.start;
        while page < run.end() {
            let stop = run.end().min((page / CHUNK + 1) * CHUNK);
            let chunk = &mut self.chunks[(page / CHUNK) as usize];
            if chunk.is_none() && number != BASE {
                *chunk = Some(try_filled(CHUNK as usize, BASE, "a page table")?.into_boxed_slice());
            }
            if let Some(chunk) = chunk {
                let cells = &mut chunk[(page % CHUNK) as usize..][..(stop - page) as usize];
                if let Some(source) = source_at(&mut self.sources, number) {
                    source.pages += stop - page;
                }
                for same in cells.chunk_by(|a, b| a == b) {
                    let old = same[0];
                    if let Some(source) = source_at(&mut self.sources, old) {
                        source.pages -= same.len() as u64;
                        if source.pages == 0 {
                            if let Some(slot) = slot_of(old) {
                                self.sources[slot] = None;
                            }
                        }
                    }
                }
                cells.fill(number);
            }
            page = stop;
        }
        Ok(())
    }

    /// Points all pages of the module commits `old` to the module commit `new`, which must hold
    /// those pages too. If one of `old` is an image, `new` must be an image.
    pub(crate) fn replace(&mut self, old: &[u64], new: &Arc<Index>) {
        if self
            .base
            .as_ref()
            .is_some_and(|base| old.contains(&base.commit))
        {
            self.base = Some(new.clone());
        }
        for source in self.sources.iter_mut().flatten() {
            if old.contains(&source.index.commit) {
                source.index = new.clone();
            }
        }
    }

    fn number_of(&mut self, index: &Arc<Index>) -> Result<u32> {
        let same = |source: &Option<TableSource>| {
            source
                .as_ref()
                .is_some_and(|source| Arc::ptr_eq(&source.index, index))
        };
        if !self.sources.get(self.recent).is_some_and(same) {
            self.recent = match self.sources.iter().position(same) {
                Some(slot) => slot,
                None => self.new_source(index)?,
            };
        }
        Ok(self.recent as u32 + FIRST)
    }

    fn new_source(&mut self, index: &Arc<Index>) -> Result<usize> {
        let fresh = Some(TableSource {
            index: index.clone(),
            pages: 0,
        });
        if let Some(slot) = self.sources.iter().position(Option::is_none) {
            self.sources[slot] = fresh;
            return Ok(slot);
        }
        self.sources.try_reserve(1).map_err(|_| Error::NoMemory {
            what: "a page table".into(),
        })?;
        self.sources.push(fresh);
        Ok(self.sources.len() - 1)
    }

    fn number(&self, page: u64) -> u32 {
        self.chunks[(page / CHUNK) as usize]
            .as_ref()
            .map_or(BASE, |c| c[(page % CHUNK) as usize])
    }

    /// The module commit that holds a page; `None` for a zero page.
    pub(crate) fn source(&self, page: u64) -> Option<&Arc<Index>> {
        match self.number(page) {
            BASE => {
                let base = self.base.as_ref()?;
                matches!(base.find(page), PageLookup::Data { .. }).then_some(base)
            }
            number => {
                let source = slot_of(number).and_then(|slot| self.sources[slot].as_ref());
                source.map(|source| &source.index)
            }
        }
    }

    /// The checksum of a page; `None` for a zero page.
    pub(crate) fn checksum(&self, layers: &LayerFiles, page: u64) -> Result<Option<u64>> {
        let Some(index) = self.source(page) else {
            return Ok(None);
        };
        match index.find(page) {
            PageLookup::Data { slot } => {
                let checksums = layers.checksums(index)?;
                Ok(checksums.get(slot as usize).copied())
            }
            _ => Ok(None),
        }
    }

    /// Splits a run into parts that have the same source each.
    pub(crate) fn locate(&self, run: Run, mut each: impl FnMut(Located)) {
        let mut page = run.start;
        while page < run.end() {
            let number = self.number(page);
            let mut stop = page;
            while stop < run.end() {
                let border = run.end().min((stop / CHUNK + 1) * CHUNK);
                let alike = match &self.chunks[(stop / CHUNK) as usize] {
                    None if number == BASE => border - stop,
                    None => 0,
                    Some(cells) => {
                        let cells = &cells[(stop % CHUNK) as usize..][..(border - stop) as usize];
                        let other = cells.iter().position(|cell| *cell != number);
                        other.map_or(border - stop, |other| other as u64)
                    }
                };
                stop += alike;
                if stop < border {
                    break;
                }
            }
            let part = Run {
                start: page,
                count: stop - page,
            };
            if let (BASE, Some(base)) = (number, &self.base) {
                locate_in_image(base, part, &mut each);
            } else {
                let source = slot_of(number).and_then(|slot| self.sources[slot].as_ref());
                each(Located {
                    run: part,
                    source: source.map(|source| source.index.clone()),
                });
            }
            page = stop;
        }
    }
}

/// Splits a run of pages that have the entry [`BASE`].
fn locate_in_image(image: &Arc<Index>, run: Run, each: &mut impl FnMut(Located)) {
    let mut page = run.start;
    for data in &image.runs[image.run_at(page)..] {
        if data.start >= run.end() {
            break;
        }
        let (start, end) = (data.start.max(page), data.end().min(run.end()));
        let stretches = [(page, start, None), (start, end, Some(image.clone()))];
        for (start, end, source) in stretches {
            if start < end {
                let count = end - start;
                let run = Run { start, count };
                each(Located { run, source });
            }
        }
        page = end;
    }
    if page < run.end() {
        each(Located {
            run: Run {
                start: page,
                count: run.end() - page,
            },
            source: None,
        });
    }
}

fn slot_of(number: u32) -> Option<usize> {
    number.checked_sub(FIRST).map(|slot| slot as usize)
}

fn source_at(sources: &mut [Option<TableSource>], number: u32) -> Option<&mut TableSource> {
    sources[slot_of(number)?].as_mut()
}

fn beyond() -> Error {
    Error::Internal {
        what: "a page after the end of its module".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index::{Checksums, Content};

    const PAGES: u64 = 3 * CHUNK + 7;

    fn index(commit: u64, runs: &[Run]) -> Arc<Index> {
        let mut index = Index {
            module: "m".into(),
            commit,
            parent: commit - 1,
            shape: Shape::Delta,
            page_size: 4096,
            size: PAGES * 4096,
            digest: crate::format::checksum::Digest::default(),
            changed: None,
            former: None,
            runs: Vec::new(),
            checksums: Checksums::default(),
        };
        let mut checksums = Vec::new();
        for run in runs {
            index.push(run.start, run.count, Content::Data);
            checksums.extend((run.start..run.end()).map(|page| commit * 10_000 + page));
        }
        index.checksums = Checksums::known(checksums);
        Arc::new(index)
    }

    #[test]
    fn a_table_is_a_list_of_pages() {
        let mut state = 12345u64;
        let mut random = |limit: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % limit
        };
        let mut table = PageTable::new(PAGES).unwrap();
        let mut model = vec![0; PAGES as usize];
        for commit in 1..400 {
            let start = random(PAGES);
            let run = Run {
                start,
                count: 1 + random((PAGES - start).min(700)),
            };
            if random(40) == 0 {
                let mut image = Index::clone(&index(commit, &[run]));
                (image.shape, image.parent) = (Shape::Image, 0);
                table.apply(&Arc::new(image)).unwrap();
                model.fill(0);
                model[start as usize..run.end() as usize].fill(commit);
            } else if random(4) == 0 {
                table.set(run, None).unwrap();
                model[start as usize..run.end() as usize].fill(0);
            } else {
                table.apply(&index(commit, &[run])).unwrap();
                model[start as usize..run.end() as usize].fill(commit);
            }
            let mut seen = Vec::new();
            table.locate(
                Run {
                    start: 0,
                    count: PAGES,
                },
                |located| {
                    let commit = located.source.map_or(0, |source| source.commit);
                    seen.extend((0..located.run.count).map(|_| commit));
                },
            );
            assert_eq!(seen, model, "after commit {commit}");
            let page = random(PAGES);
            let sum = model[page as usize] * 10_000 + page;
            let found = table.source(page).map(|index| match index.find(page) {
                PageLookup::Data { slot } => index.checksums.get().unwrap()[slot as usize],
                other => panic!("{other:?}"),
            });
            assert_eq!(found, (model[page as usize] != 0).then_some(sum));
        }
        // A source to which no page points was removed.
        let live: std::collections::BTreeSet<_> = model.iter().filter(|c| **c != 0).collect();
        let base = table.base.as_ref().map(|base| base.commit);
        let other = live.iter().filter(|commit| Some(***commit) != base);
        assert_eq!(table.sources.iter().flatten().count(), other.count());
        assert!(
            table
                .set(
                    Run {
                        start: PAGES,
                        count: 1
                    },
                    None
                )
                .is_err()
        );
    }

    #[test]
    fn parts_of_the_same_source_extend_over_chunks() {
        let mut table = PageTable::new(PAGES).unwrap();
        let all = Run {
            start: 0,
            count: PAGES,
        };
        let located = |table: &PageTable| {
            let mut seen = Vec::new();
            table.locate(all, |part| {
                let commit = part.source.map_or(0, |source| source.commit);
                seen.push((part.run.start, part.run.end(), commit));
            });
            seen
        };
        assert_eq!(located(&table), [(0, PAGES, 0)]);
        let mut image = Index::clone(&index(1, &[all]));
        (image.shape, image.parent) = (Shape::Image, 0);
        let image = Arc::new(image);
        table.apply(&image).unwrap();
        // Pages that are the same as in the image take no memory.
        table.set(all, Some(&image)).unwrap();
        assert!(table.chunks.iter().all(Option::is_none) && table.sources.is_empty());
        assert_eq!(located(&table), [(0, PAGES, 1)]);
        let last = Run {
            start: CHUNK - 1,
            count: 1,
        };
        table.apply(&index(2, &[last])).unwrap();
        let seen = [(0, CHUNK - 1, 1), (CHUNK - 1, CHUNK, 2), (CHUNK, PAGES, 1)];
        assert_eq!(located(&table), seen);
        // Both module commits are rewritten into other files.
        table.replace(&[2], &index(3, &[last]));
        let seen = [(0, CHUNK - 1, 1), (CHUNK - 1, CHUNK, 3), (CHUNK, PAGES, 1)];
        assert_eq!(located(&table), seen);
        let mut image = Index::clone(&index(4, &[all]));
        (image.shape, image.parent) = (Shape::Image, 0);
        table.replace(&[1, 3], &Arc::new(image));
        let seen = [(0, CHUNK - 1, 4), (CHUNK - 1, CHUNK, 4), (CHUNK, PAGES, 4)];
        assert_eq!(located(&table), seen);
    }

    #[test]
    fn a_table_that_takes_much_of_the_memory_is_refused() {
        let chunks = host::memory() / 64 / size_of::<Chunk>() as u64;
        let most = chunks.max(ALWAYS_ALLOWED_CHUNKS as u64) * CHUNK;
        PageTable::new(most).unwrap();
        let refused = PageTable::new(most + 1);
        assert!(matches!(refused, Err(Error::NoMemory { .. })));
    }
}
