//! The end of a module commit file: the index of its pages, and the footer, which describes the
//! file.

use std::sync::OnceLock;

use super::bytes::{Reader, Writer, words};
use super::checksum::{self, Digest, Pieces};
use super::{StoreId, VERSION, name};
use crate::error::try_vec;
use crate::page_set::Run;
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"VMSPAGES";
/// The footer's length.
pub(crate) const FOOTER: usize = 512;
/// The length of a run in the index.
pub(crate) const RUN: usize = 24;
/// The length of a run in the list of pages that differ from the former base.
pub(crate) const FORMER_RUN: usize = 16;
/// Where the fields of the former base begin in the footer.
pub(crate) const FORMER: usize = FOOTER - 32;
/// Where the footer has the number of pages that the commit itself wrote.
const CHANGED: usize = FOOTER - 16;

/// Whether a file holds the changed pages of a module or all its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The pages that differ from the parent, packed one after another.
    Delta,
    /// The whole module. Each page lies at its own offset, and pages without an index entry are
    /// zero.
    Image,
}

/// What the pages of a run contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Zero,
    Data,
}

/// Consecutive pages with one kind of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexRun {
    pub(crate) start: u64,
    pub(crate) count: u64,
    pub(crate) content: Content,
    /// The number of data pages before this run. The run's checksums begin at this place in the
    /// list of checksums. In a delta its bytes begin at this page of the file.
    pub(crate) slot: u64,
}

impl IndexRun {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.count
    }
}

/// The former base of an image that was a delta before. The image differs from module commit
/// `commit` at most in the pages `runs`; that module commit may be deleted by now. With this list a
/// comparison of two commits can go past the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Former {
    pub(crate) commit: u64,
    pub(crate) runs: Vec<Run>,
}

/// A module commit's index and footer, decoded and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) module: String,
    pub(crate) commit: u64,
    /// The module commit below a delta; 0 for an image.
    pub(crate) parent: u64,
    pub(crate) shape: Shape,
    pub(crate) page_size: u64,
    /// The module's size in bytes.
    pub(crate) size: u64,
    /// The digest of the whole module at this commit.
    pub(crate) digest: Digest,
    /// How many pages the commit itself wrote. `None`: the file was never rewritten, and the commit
    /// wrote all data pages.
    pub(crate) changed: Option<u64>,
    /// Only images can have a former base.
    pub(crate) former: Option<Former>,
    /// Sorted. Two runs that touch have different content.
    pub(crate) runs: Vec<IndexRun>,
    /// One checksum for each data page, in page order.
    pub(crate) checksums: Checksums,
}

/// The checksums of a module commit's data pages. They are stored separately from the runs. A large
/// image can therefore be mapped before its checksums are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Checksums {
    known: OnceLock<Vec<u64>>,
    /// The checksum of the bytes of the list.
    sum: u64,
}

impl Checksums {
    /// The checksums of a file that is being written.
    pub(crate) fn known(list: Vec<u64>) -> Self {
        Self {
            known: OnceLock::from(list),
            sum: 0,
        }
    }

    /// The list, if it was read already.
    pub(crate) fn get(&self) -> Option<&[u64]> {
        self.known.get().map(Vec::as_slice)
    }
}

/// What an index says about a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageLookup {
    /// The index has no entry. In a delta the page is the same as in the parent. In an image it is
    /// zero.
    Absent,
    Zero,
    Data {
        slot: u64,
    },
}

impl Index {
    /// Appends pages to the index.
    pub(crate) fn push(&mut self, start: u64, count: u64, content: Content) {
        if let Some(last) = self.runs.last_mut() {
            if last.end() == start && last.content == content {
                last.count += count;
                return;
            }
        }
        let slot = self.data_pages();
        self.runs.push(IndexRun {
            start,
            count,
            content,
            slot,
        });
    }

    /// The number of pages with bytes in the file.
    pub(crate) fn data_pages(&self) -> u64 {
        self.runs.last().map_or(0, |run| match run.content {
            Content::Data => run.slot + run.count,
            Content::Zero => run.slot,
        })
    }

    /// How many pages the commit itself wrote.
    pub(crate) fn changed_pages(&self) -> u64 {
        self.changed.unwrap_or_else(|| self.data_pages())
    }

    pub(crate) fn zero_pages(&self) -> u64 {
        self.runs
            .iter()
            .filter(|run| run.content == Content::Zero)
            .map(|run| run.count)
            .sum()
    }

    /// The position of the run that holds a page. If no run holds the page: the position of the
    /// next run.
    pub(crate) fn run_at(&self, page: u64) -> usize {
        self.runs.partition_point(|run| run.end() <= page)
    }

    pub(crate) fn find(&self, page: u64) -> PageLookup {
        match self.runs.get(self.run_at(page)) {
            Some(run) if run.start <= page => match run.content {
                Content::Zero => PageLookup::Zero,
                Content::Data => PageLookup::Data {
                    slot: run.slot + (page - run.start),
                },
            },
            _ => PageLookup::Absent,
        }
    }

    /// Where a data page's bytes begin in the file.
    pub(crate) fn offset(&self, page: u64, slot: u64) -> u64 {
        match self.shape {
            Shape::Image => page * self.page_size,
            Shape::Delta => slot * self.page_size,
        }
    }

    /// Where the pages end and the index begins.
    pub(crate) fn index_offset(&self) -> u64 {
        match self.shape {
            Shape::Image => self.size,
            Shape::Delta => self.data_pages() * self.page_size,
        }
    }

    /// The offset of the checksums in the file, and their length in bytes.
    pub(crate) fn checksums_at(&self) -> (u64, u64) {
        let former = self.former.as_ref().map_or(0, |former| former.runs.len());
        let runs = (self.runs.len() * RUN + former * FORMER_RUN) as u64;
        (self.index_offset() + runs, self.data_pages() * 8)
    }

    /// Compares `sum`, the checksum of the list in the file, with the checksum in the footer.
    pub(crate) fn check_checksums(&self, sum: u64, file: &str) -> Result<()> {
        if sum == self.checksums.sum {
            return Ok(());
        }
        Err(Error::corrupt(
            file,
            "the checksum of its page checksums does not match",
        ))
    }

    /// Decodes the list of checksums from its bytes in the file, checks it and keeps it.
    pub(crate) fn learn_checksums(
        &self,
        bytes: &[u8],
        store: &StoreId,
        file: &str,
    ) -> Result<&[u64]> {
        if bytes.len() as u64 != self.data_pages() * 8 {
            return Err(Error::corrupt(
                file,
                "the list of its page checksums is cut off",
            ));
        }
        self.check_checksums(checksum::metadata(store, bytes), file)?;
        let mut list = try_vec(bytes.len() / 8, "an index")?;
        list.extend(words(bytes));
        // Another thread may have stored the same list first.
        Ok(self.checksums.known.get_or_init(|| list))
    }

    /// The bytes of the index and the footer, which follow the pages. The checksums must be known.
    pub(crate) fn encode(&self, store: &StoreId) -> Vec<u8> {
        let checksums = self.checksums.get().unwrap_or_default();
        let mut bytes = Vec::with_capacity(self.runs.len() * RUN + checksums.len() * 8 + FOOTER);
        let mut w = Writer(&mut bytes);
        for run in &self.runs {
            w.u64(run.start).u64(run.count).u64(match run.content {
                Content::Zero => 1,
                Content::Data => 2,
            });
        }
        for run in self.former.iter().flat_map(|former| &former.runs) {
            w.u64(run.start).u64(run.count);
        }
        let runs_sum = checksum::metadata(store, &bytes);
        let runs_length = bytes.len();
        let mut w = Writer(&mut bytes);
        for sum in checksums {
            w.u64(*sum);
        }
        let checksums_sum = checksum::metadata(store, &bytes[runs_length..]);
        let index_length = bytes.len() as u64;
        let mut footer = Vec::with_capacity(FOOTER);
        let mut w = Writer(&mut footer);
        w.bytes(&MAGIC)
            .u32(VERSION)
            .u32(0)
            .bytes(store)
            .u64(self.commit)
            .u64(self.parent);
        w.u32(match self.shape {
            Shape::Delta => 1,
            Shape::Image => 2,
        });
        w.u32(self.page_size as u32)
            .u64(self.size)
            .bytes(&self.digest.to_bytes());
        w.u64(self.data_pages())
            .u64(self.zero_pages())
            .u64(self.runs.len() as u64);
        w.u64(self.index_offset()).u64(index_length);
        w.u64(runs_sum).u64(checksums_sum);
        let former = self.former.as_ref();
        w.text(&self.module)
            .pad_to(FORMER)
            .u64(former.map_or(0, |former| former.commit))
            .u64(former.map_or(0, |former| former.runs.len() as u64))
            .u64(self.changed.map_or(0, |pages| pages + 1));
        let sum = checksum::metadata(store, &footer);
        Writer(&mut footer).u64(sum);
        bytes.extend_from_slice(&footer);
        bytes
    }
}

/// A footer whose checksum matches. Its index was not read yet.
#[derive(Debug, Clone)]
pub(crate) struct Footer {
    empty: Index,
    data_pages: u64,
    zero_pages: u64,
    run_count: u64,
    /// The former base of an image, and the number of runs that differ from the former base.
    former: (u64, u64),
    pub(crate) index_offset: u64,
    pub(crate) index_length: u64,
    runs_sum: u64,
}

impl Footer {
    /// The index without runs and checksums, which were not read yet.
    pub(crate) fn head(&self) -> &Index {
        &self.empty
    }

    /// Decodes and checks a footer. `length` is the length of the file. `file` names it in error
    /// texts.
    pub(crate) fn decode(bytes: &[u8], length: u64, store: &StoreId, file: &str) -> Result<Self> {
        let bad = |why: String| Error::corrupt(file, why);
        let Some((body, sum)) = bytes.split_at_checked(FOOTER - 8) else {
            return Err(bad("it has no footer".into()));
        };
        if body[..8] != MAGIC {
            return Err(bad(
                "it has no footer: it was cut off or never finished".into()
            ));
        }
        if sum != checksum::metadata(store, body).to_le_bytes() {
            return Err(bad(
                "the checksum of its footer does not match, or it belongs to another store".into(),
            ));
        }
        let mut r = Reader(&body[8..]);
        let footer =
            Self::fields(&mut r).ok_or_else(|| bad("its footer has impossible values".into()))?;
        let (version, flags, mut footer) = footer;
        let mut former = Reader(&body[FORMER..]);
        if let (Some(commit), Some(runs)) = (former.u64(), former.u64()) {
            footer.former = (commit, runs);
        }
        footer.empty.changed = Reader(&body[CHANGED..])
            .u64()
            .and_then(|n| n.checked_sub(1));
        if version != VERSION || flags != 0 {
            return Err(Error::Version {
                file: file.into(),
                why: format!(
                    "format version {version}, flags {flags:#x}; this library knows version {VERSION}"
                ),
            });
        }
        footer
            .check(length)
            .ok_or_else(|| bad("its footer contradicts itself".into()))?;
        Ok(footer)
    }

    fn fields(r: &mut Reader<'_>) -> Option<(u32, u32, Self)> {
        let (version, flags, _) = (r.u32()?, r.u32()?, r.take(16)?);
        let (commit, parent) = (r.u64()?, r.u64()?);
        let shape = match r.u32()? {
            1 => Shape::Delta,
            2 => Shape::Image,
            _ => return None,
        };
        let page_size = u64::from(r.u32()?);
        let size = r.u64()?;
        let digest = Digest::from_bytes(r.array()?);
        let (data_pages, zero_pages, run_count) = (r.u64()?, r.u64()?, r.u64()?);
        let (index_offset, index_length) = (r.u64()?, r.u64()?);
        let (runs_sum, sum) = (r.u64()?, r.u64()?);
        let module = r.text()?.to_owned();
        let empty = Index {
            module,
            commit,
            parent,
            shape,
            page_size,
            size,
            digest,
            changed: None,
            former: None,
            runs: Vec::new(),
            checksums: Checksums {
                known: OnceLock::new(),
                sum,
            },
        };
        let footer = Self {
            empty,
            data_pages,
            zero_pages,
            run_count,
            former: (0, 0),
            index_offset,
            index_length,
            runs_sum,
        };
        Some((version, flags, footer))
    }

    /// Checks every number of the footer against the other numbers and the file's length, before
    /// any number is used.
    fn check(&self, length: u64) -> Option<()> {
        let index = &self.empty;
        name::check_module_id(&index.module).ok()?;
        let page = index.page_size;
        let pages = (page.is_power_of_two() && page >= 512).then(|| index.size / page)?;
        let whole = index.size % page == 0 && pages > 0;
        let counts = self.data_pages.checked_add(self.zero_pages)? <= pages
            && self.run_count <= self.data_pages + self.zero_pages
            && index.changed.is_none_or(|changed| changed <= pages);
        let offset = match index.shape {
            Shape::Image => index.size,
            Shape::Delta => self.data_pages.checked_mul(page)?,
        };
        let (former, former_runs) = self.former;
        let former_length = former_runs.checked_mul(FORMER_RUN as u64)?;
        let index_length = self
            .run_count
            .checked_mul(RUN as u64)?
            .checked_add(former_length)?
            .checked_add(self.data_pages.checked_mul(8)?)?;
        let former_possible = match index.shape {
            Shape::Image => former < index.commit && former_runs <= pages,
            Shape::Delta => former == 0,
        } && (former > 0 || former_runs == 0);
        let parent_possible = match index.shape {
            Shape::Image => index.parent == 0,
            // A parent is always older than its child, so a chain has no cycle.
            Shape::Delta => index.parent > 0 && index.parent < index.commit,
        };
        let place = self.index_offset == offset
            && self.index_length == index_length
            && offset
                .checked_add(index_length)?
                .checked_add(FOOTER as u64)?
                == length;
        // The checks of parent and former base also refuse commit number 0.
        (whole && counts && parent_possible && former_possible && place).then_some(())
    }

    /// The length of the runs of both kinds. The index begins with them.
    pub(crate) fn runs_length(&self) -> u64 {
        self.run_count * RUN as u64 + self.former.1 * FORMER_RUN as u64
    }

    /// Begins to decode the index of this footer. The bytes of its runs go to [`Runs::add`].
    pub(crate) fn runs(self, store: &StoreId) -> Runs {
        let (commit, former_runs) = self.former;
        Runs {
            index: self.empty,
            former: Former {
                commit,
                runs: Vec::new(),
            },
            sum: Pieces::new(store),
            words: [0; 3],
            held: 0,
            wanted: (self.run_count, former_runs),
            data_pages: self.data_pages,
            zero_pages: self.zero_pages,
            wanted_sum: self.runs_sum,
        }
    }
}

/// Decodes an index whose runs are read in pieces. The first run that is not possible ends the
/// decoding, so a false number of runs in a footer takes no memory.
pub(crate) struct Runs {
    index: Index,
    former: Former,
    sum: Pieces,
    /// The words of a run that is not complete yet. A piece may end inside a run.
    words: [u64; 3],
    held: usize,
    /// The number of runs of each kind that the footer names.
    wanted: (u64, u64),
    data_pages: u64,
    zero_pages: u64,
    wanted_sum: u64,
}

impl Runs {
    /// Decodes the next piece. A piece has whole words.
    pub(crate) fn add(&mut self, bytes: &[u8], file: &str) -> Result<()> {
        self.sum.add(bytes);
        if bytes.len() % 8 != 0 {
            return Err(contradiction(file));
        }
        for word in words(bytes) {
            self.words[self.held] = word;
            self.held += 1;
            let [start, count, content] = self.words;
            let run = Run { start, count };
            if (self.index.runs.len() as u64) < self.wanted.0 {
                if self.held * 8 == RUN {
                    self.held = 0;
                    self.run(run, content, file)?;
                }
            } else if (self.former.runs.len() as u64) < self.wanted.1 {
                if self.held * 8 == FORMER_RUN {
                    self.held = 0;
                    self.former_run(run, file)?;
                }
            } else {
                return Err(contradiction(file));
            }
        }
        Ok(())
    }

    fn run(&mut self, run: Run, content: u64, file: &str) -> Result<()> {
        let index = &mut self.index;
        let content = match content {
            1 if index.shape == Shape::Delta => Content::Zero,
            2 => Content::Data,
            _ => return Err(contradiction(file)),
        };
        let before = index.runs.last().map_or(0, IndexRun::end);
        check_run(index, run, before, file)?;
        let slot = index.data_pages();
        index.runs.try_reserve(1).map_err(no_memory)?;
        index.runs.push(IndexRun {
            start: run.start,
            count: run.count,
            content,
            slot,
        });
        Ok(())
    }

    fn former_run(&mut self, run: Run, file: &str) -> Result<()> {
        let runs = &mut self.former.runs;
        let before = runs.last().map_or(0, |run| run.end());
        check_run(&self.index, run, before, file)?;
        runs.try_reserve(1).map_err(no_memory)?;
        runs.push(run);
        Ok(())
    }

    /// The index, after all its runs were added.
    pub(crate) fn finish(mut self, file: &str) -> Result<Index> {
        let (runs, former_runs) = self.wanted;
        if self.index.runs.len() as u64 != runs
            || self.former.runs.len() as u64 != former_runs
            || self.sum.sum() != self.wanted_sum
        {
            return Err(Error::corrupt(
                file,
                "the checksum of its index does not match",
            ));
        }
        if self.index.data_pages() != self.data_pages || self.index.zero_pages() != self.zero_pages
        {
            return Err(contradiction(file));
        }
        self.index.runs.shrink_to_fit();
        self.former.runs.shrink_to_fit();
        if self.former.commit > 0 {
            self.index.former = Some(self.former);
        }
        Ok(self.index)
    }
}

fn contradiction(file: &str) -> Error {
    Error::corrupt(file, "its index contradicts itself")
}

fn no_memory(_: std::collections::TryReserveError) -> Error {
    Error::NoMemory {
        what: "an index".into(),
    }
}

/// Checks that a run is not empty, does not overlap the run before it, and lies inside the module.
fn check_run(index: &Index, run: Run, before: u64, file: &str) -> Result<()> {
    let end = run.start.checked_add(run.count);
    let within = end.is_some_and(|end| end <= index.size / index.page_size);
    if run.start < before || run.count == 0 || !within {
        return Err(contradiction(file));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
