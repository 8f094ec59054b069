//! The end of a module commit file: an index of its pages, and the footer that says what it is.

use std::sync::OnceLock;

use super::bytes::{Reader, Writer};
use super::checksum::{self, Digest, Pieces};
use super::{StoreId, VERSION, name};
use crate::error::try_vec;
use crate::{Error, Result};

const MAGIC: [u8; 8] = *b"VMSPAGES";
/// The footer's length.
pub(crate) const FOOTER: usize = 512;
/// The bytes of a run.
pub(crate) const RUN: usize = 24;
/// Where the footer says how many pages the commit itself wrote.
const CHANGED: usize = FOOTER - 16;

/// Whether a file holds a module's changed pages or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The pages that differ from the parent, packed.
    Delta,
    /// The whole module, each page at its place; pages without an index entry are zero.
    Image,
}

/// What a run of pages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Zero,
    Data,
}

/// Consecutive pages of one content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexRun {
    pub(crate) start: u64,
    pub(crate) count: u64,
    pub(crate) content: Content,
    /// How many data pages lie before it, which is where its checksums and, in a delta, its bytes
    /// begin.
    pub(crate) slot: u64,
}

impl IndexRun {
    pub(crate) fn end(&self) -> u64 {
        self.start + self.count
    }
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
    /// How many pages the commit itself wrote, where the file was rewritten since.
    pub(crate) changed: Option<u64>,
    /// Sorted, apart from one another or of different content.
    pub(crate) runs: Vec<IndexRun>,
    /// One for each data page, in page order.
    pub(crate) checksums: Checksums,
}

/// The checksums of a module commit's data pages. They lie apart from its runs, so that a large image
/// can be mapped before they are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Checksums {
    known: OnceLock<Vec<u64>>,
    /// The checksum of their bytes.
    sum: u64,
}

impl Checksums {
    /// Those of a file that is being written.
    pub(crate) fn known(list: Vec<u64>) -> Self {
        Self {
            known: OnceLock::from(list),
            sum: 0,
        }
    }

    /// The list, if it was read.
    pub(crate) fn get(&self) -> Option<&[u64]> {
        self.known.get().map(Vec::as_slice)
    }
}

/// What an index says of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Absent,
    Zero,
    Data { slot: u64 },
}

impl Index {
    /// Adds pages behind the others.
    pub(crate) fn push(&mut self, start: u64, count: u64, content: Content) {
        if let Some(last) = self.runs.last_mut()
            && last.end() == start
            && last.content == content
        {
            last.count += count;
            return;
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

    /// The number of the run that holds a page or the first one behind it.
    pub(crate) fn run_at(&self, page: u64) -> usize {
        self.runs.partition_point(|run| run.end() <= page)
    }

    pub(crate) fn find(&self, page: u64) -> Found {
        match self.runs.get(self.run_at(page)) {
            Some(run) if run.start <= page => match run.content {
                Content::Zero => Found::Zero,
                Content::Data => Found::Data {
                    slot: run.slot + (page - run.start),
                },
            },
            _ if self.shape == Shape::Image => Found::Zero,
            _ => Found::Absent,
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

    /// Where the checksums are in the file, and how many bytes they have.
    pub(crate) fn checksums_at(&self) -> (u64, u64) {
        let runs = (self.runs.len() * RUN) as u64;
        (self.index_offset() + runs, self.data_pages() * 8)
    }

    /// Checks the checksum of the checksums, as they are in the file.
    pub(crate) fn check_checksums(&self, sum: u64, file: &str) -> Result<()> {
        if sum == self.checksums.sum {
            return Ok(());
        }
        Err(Error::corrupt(
            file,
            "the checksum of its page checksums does not match",
        ))
    }

    /// Takes the checksums, as they are in the file.
    pub(crate) fn learn_checksums(
        &self,
        bytes: &[u8],
        store: &StoreId,
        file: &str,
    ) -> Result<&[u64]> {
        if bytes.len() as u64 != self.data_pages() * 8 {
            return Err(Error::corrupt(file, "its page checksums are cut"));
        }
        self.check_checksums(checksum::metadata(store, bytes), file)?;
        let mut list = try_vec(bytes.len() / 8, "an index")?;
        let words = bytes.as_chunks::<8>().0.iter();
        list.extend(words.map(|word| u64::from_le_bytes(*word)));
        // Another thread may have been first, with the same ones.
        Ok(self.checksums.known.get_or_init(|| list))
    }

    /// The index and the footer as they follow the pages. The checksums are known.
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
        w.text(&self.module)
            .pad_to(CHANGED)
            .u64(self.changed.map_or(0, |pages| pages + 1));
        let sum = checksum::metadata(store, &footer);
        Writer(&mut footer).u64(sum);
        bytes.extend_from_slice(&footer);
        bytes
    }
}

/// A footer whose checksum held; its index has still to be read.
#[derive(Debug, Clone)]
pub(crate) struct Footer {
    empty: Index,
    data_pages: u64,
    zero_pages: u64,
    run_count: u64,
    pub(crate) index_offset: u64,
    pub(crate) index_length: u64,
    runs_sum: u64,
}

impl Footer {
    /// What it says of its file, whose index has not been read: no runs, no checksums.
    pub(crate) fn head(&self) -> &Index {
        &self.empty
    }

    /// Decodes and bounds a footer. `length` is the file's; `file` is what errors call it.
    pub(crate) fn decode(bytes: &[u8], length: u64, store: &StoreId, file: &str) -> Result<Self> {
        let bad = |why: String| Error::corrupt(file, why);
        let Some((body, sum)) = bytes.split_at_checked(FOOTER - 8) else {
            return Err(bad("it has no footer".into()));
        };
        if body[..8] != MAGIC {
            return Err(bad("it has no footer: it was cut or never finished".into()));
        }
        if sum != checksum::metadata(store, body).to_le_bytes() {
            return Err(bad(
                "the checksum of its footer does not match, or it belongs to another store".into(),
            ));
        }
        let mut r = Reader(&body[8..]);
        let footer = Self::fields(&mut r).ok_or_else(|| bad("its footer is nonsense".into()))?;
        let (version, flags, mut footer) = footer;
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
            index_offset,
            index_length,
            runs_sum,
        };
        Some((version, flags, footer))
    }

    /// Every number of the footer against the others and the file's length, before any is used.
    fn check(&self, length: u64) -> Option<()> {
        let index = &self.empty;
        name::check_module_id(&index.module).ok()?;
        let page = index.page_size;
        let pages = (page.is_power_of_two() && page >= 512).then(|| index.size / page)?;
        let whole = index.size.is_multiple_of(page) && pages > 0;
        let counts = self.data_pages.checked_add(self.zero_pages)? <= pages
            && self.run_count <= self.data_pages + self.zero_pages
            && index.changed.is_none_or(|changed| changed <= pages);
        let offset = match index.shape {
            Shape::Image => index.size,
            Shape::Delta => self.data_pages.checked_mul(page)?,
        };
        let index_length = self
            .run_count
            .checked_mul(RUN as u64)?
            .checked_add(self.data_pages.checked_mul(8)?)?;
        let lineage = match index.shape {
            Shape::Image => index.parent == 0,
            // A parent is always older, so that no chain can have a cycle.
            Shape::Delta => index.parent > 0 && index.parent < index.commit,
        };
        let place = self.index_offset == offset
            && self.index_length == index_length
            && offset
                .checked_add(index_length)?
                .checked_add(FOOTER as u64)?
                == length;
        (whole && counts && lineage && place && index.commit > 0).then_some(())
    }

    /// The bytes of the runs, with which the index begins.
    pub(crate) fn runs_length(&self) -> u64 {
        self.run_count * RUN as u64
    }

    /// Begins to decode the index that this footer describes, from the bytes of its runs.
    pub(crate) fn runs(self, store: &StoreId) -> Runs {
        Runs {
            sum: Pieces::new(store),
            index: self.empty,
            wanted: self.run_count,
            data_pages: self.data_pages,
            zero_pages: self.zero_pages,
            wanted_sum: self.runs_sum,
        }
    }
}

/// An index whose runs come in pieces: of a file that says it has more than make sense, no more are kept than do.
pub(crate) struct Runs {
    index: Index,
    sum: Pieces,
    wanted: u64,
    data_pages: u64,
    zero_pages: u64,
    wanted_sum: u64,
}

impl Runs {
    /// Takes the next piece, of whole runs.
    pub(crate) fn add(&mut self, bytes: &[u8], file: &str) -> Result<()> {
        let nonsense = || Error::corrupt(file, "its index contradicts itself");
        self.sum.add(bytes);
        let (runs, rest) = bytes.as_chunks::<RUN>();
        let Self { index, .. } = self;
        if !rest.is_empty() || index.runs.len() as u64 + runs.len() as u64 > self.wanted {
            return Err(nonsense());
        }
        let pages = index.size / index.page_size;
        for run in runs {
            let mut r = Reader(run);
            let (start, count, content) =
                (|| Some((r.u64()?, r.u64()?, r.u64()?)))().ok_or_else(nonsense)?;
            let content = match content {
                1 if index.shape == Shape::Delta => Content::Zero,
                2 => Content::Data,
                _ => return Err(nonsense()),
            };
            let end = start.checked_add(count).ok_or_else(nonsense)?;
            let next = index.runs.last().map_or(0, IndexRun::end);
            if start < next || count == 0 || end > pages {
                return Err(nonsense());
            }
            let slot = index.data_pages();
            let no_memory = |_| Error::NoMemory {
                what: "an index".into(),
            };
            index.runs.try_reserve(1).map_err(no_memory)?;
            index.runs.push(IndexRun {
                start,
                count,
                content,
                slot,
            });
        }
        Ok(())
    }

    /// The index, when all its runs came.
    pub(crate) fn finish(mut self, file: &str) -> Result<Index> {
        if self.index.runs.len() as u64 != self.wanted || self.sum.sum() != self.wanted_sum {
            return Err(Error::corrupt(
                file,
                "the checksum of its index does not match",
            ));
        }
        if self.index.data_pages() != self.data_pages || self.index.zero_pages() != self.zero_pages
        {
            return Err(Error::corrupt(file, "its index contradicts itself"));
        }
        self.index.runs.shrink_to_fit();
        Ok(self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = *b"a store's own id";

    fn delta() -> Index {
        let mut index = Index {
            module: "ram".into(),
            commit: 9,
            parent: 4,
            shape: Shape::Delta,
            page_size: 4096,
            size: 100 * 4096,
            digest: Digest(77),
            changed: Some(2),
            runs: Vec::new(),
            checksums: Checksums::known(vec![1, 2, 3, 4]),
        };
        index.push(3, 2, Content::Data);
        index.push(5, 1, Content::Zero);
        index.push(6, 1, Content::Data);
        index.push(50, 1, Content::Data);
        index
    }

    fn decode(bytes: &[u8], before: u64) -> Result<Index> {
        let split = bytes.len() - FOOTER;
        let footer = Footer::decode(&bytes[split..], before + bytes.len() as u64, &STORE, "f")?;
        let (runs, sums) = bytes[..split]
            .split_at_checked(footer.runs_length() as usize)
            .unwrap_or((&[], &[]));
        let mut pieces = footer.runs(&STORE);
        for piece in runs.chunks(RUN) {
            pieces.add(piece, "f")?;
        }
        let mut index = pieces.finish("f")?;
        index.learn_checksums(sums, &STORE, "f")?;
        // As it was before it was written.
        index.checksums.sum = 0;
        Ok(index)
    }

    #[test]
    fn an_index_survives_and_finds_its_pages() {
        let index = delta();
        let bytes = index.encode(&STORE);
        let back = decode(&bytes, 4 * 4096).unwrap();
        assert_eq!(back, index);
        assert_eq!(back.find(2), Found::Absent);
        assert_eq!(back.find(4), Found::Data { slot: 1 });
        assert_eq!(back.find(5), Found::Zero);
        assert_eq!(back.find(6), Found::Data { slot: 2 });
        assert_eq!(back.find(50), Found::Data { slot: 3 });
        assert_eq!(back.find(99), Found::Absent);
        assert_eq!(back.offset(50, 3), 3 * 4096);
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = delta().encode(&STORE);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad, 4 * 4096).is_err(), "bit {bit}");
        }
        assert!(
            decode(&bytes, 3 * 4096).is_err(),
            "a file of another length"
        );
        let footer = &bytes[bytes.len() - FOOTER..];
        let length = 4 * 4096 + bytes.len() as u64;
        assert!(Footer::decode(footer, length, b"another store's!", "f").is_err());
    }

    #[test]
    fn contradictions_are_refused_even_with_good_checksums() {
        type Change = fn(&mut Index);
        let changes: [Change; 8] = [
            |i| i.parent = 9,
            |i| i.parent = 0,
            |i| i.commit = 0,
            |i| i.page_size = 1000,
            |i| i.size = 4096,
            |i| i.runs[1].start = 4,
            |i| i.module = "a/b".into(),
            |i| i.checksums = Checksums::known(vec![1, 2, 3]),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut index = delta();
            change(&mut index);
            let bytes = index.encode(&STORE);
            assert!(decode(&bytes, 4 * 4096).is_err(), "change {number}");
        }
    }
}
