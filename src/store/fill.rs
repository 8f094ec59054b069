//! Filling a module's memory with the head's bytes, in each mode.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::options::MapOptions;
use super::staging::Staging;
use super::{Bound, State, Store};
use crate::dirty::{Kind, Span, Tracker};
use crate::format::index::{Index, Shape};
use crate::module::{self, Descriptor, Filled, MapMode};
use crate::page::{Run, without};
use crate::pages::{PageFiles, PageTable, Piece, Reading, source_runs};
use crate::sys::arena::Arena;
use crate::sys::memory::{Backing, Memory, Spot};
use crate::sys::{mappings, memfd};
use crate::{Error, Result};

/// Fewer pages than this are copied rather than mapped: a mapping costs as much as copying about
/// 20 pages.
const WORTH_MAPPING: u64 = 32;
/// Holes up to this many pages are mapped along with their neighbours.
const BRIDGE: u64 = 16;
/// The most parts of an image that are mapped; a process has room for 65,530 mappings in all.
const MAPPINGS: usize = 512;
/// The fewest pages that a hole is worth a part of its own for: arming them costs about as much as three calls.
const HOLE: u64 = 256;

/// What is to be filled.
struct Fill<'a> {
    id: &'a str,
    size: u64,
    options: &'a MapOptions,
    /// The module commits that make up the head's bytes, newest first; none: it is new.
    chain: &'a [Arc<Index>],
    table: &'a PageTable,
}

impl Fill<'_> {
    fn whole(&self, page: u64) -> Run {
        Run {
            start: 0,
            count: self.size / page,
        }
    }

    fn claim(&self, align: u64) -> Result<Memory> {
        let options = self.options;
        let spot = match options.address {
            0 => Spot::Anywhere,
            address if options.reserved => Spot::Reserved(address),
            address => Spot::Free(address),
        };
        Memory::claim(spot, self.size, options.max_size, align)
    }

    fn filled(&self, memory: Memory, spans: Vec<Span>, granule: u64) -> Filled {
        Filled {
            id: self.id.to_owned(),
            mode: self.options.mode,
            mode_reason: String::new(),
            memory,
            spans,
            unverified: 0,
            descriptor: Descriptor::None,
            granule,
            holes_are_zero: false,
            dirty: Vec::new(),
        }
    }
}

impl Store {
    /// Makes a module's memory and fills it, or fills what the caller brought.
    pub(super) fn fill(
        &self,
        state: &State,
        id: &str,
        size: u64,
        options: &MapOptions,
        chain: &[Arc<Index>],
        table: &PageTable,
    ) -> Result<Filled> {
        let fill = Fill {
            id,
            size,
            options,
            chain,
            table,
        };
        match (options.mode, options.fd) {
            (MapMode::Private, _) => self.fill_private(state, &fill),
            (MapMode::Shared, _) => self.fill_shared(&fill),
            (MapMode::Memfd, None) => self.fill_memfd(&fill),
            (MapMode::Memfd, Some((fd, offset))) => self.fill_borrowed(state, &fill, fd, offset),
            (MapMode::Adopt, _) => self.fill_adopted(state, &fill),
        }
    }

    /// Private memory: the image under it where there is one, and what is newer copied over it.
    fn fill_private(&self, state: &State, fill: &Fill<'_>) -> Result<Filled> {
        let page = self.0.pages.page_size;
        let memory = fill.claim(page)?;
        memory.map(0, fill.size, Backing::Anonymous)?;
        let image = fill
            .chain
            .last()
            .filter(|index| index.shape == Shape::Image);
        // Comparing reads all memory, and a read error in a mapped image would be a signal.
        let compares = match fill.options.tracker {
            Some(tracker) => tracker == Tracker::Compare,
            None => state.kernel.is_err(),
        };
        let compares = compares || fill.options.foreign_writers;
        let mut from_image = Vec::new();
        let mode_reason = match image {
            None => "anonymous memory; the head does not have the module".to_owned(),
            Some(_) if fill.options.eager => "copied: VMSTORE_MAP_EAGER asks for it".to_owned(),
            Some(_) if compares => {
                "copied: a module that is compared is read as a whole".to_owned()
            }
            Some(image) => {
                let file = self.0.pages.open(fill.id, image.commit)?;
                if let Some(fd) = file.descriptor() {
                    from_image = worth_mapping(image);
                    for run in &from_image {
                        let (at, length) = (run.start * page, run.count * page);
                        memory.map(at, length, Backing::Private(fd, at))?;
                    }
                }
                let mapped: u64 = from_image.iter().map(|run| run.count * page).sum();
                let place = crate::pages::place(fill.id, image.commit);
                format!("{mapped} bytes of {place} mapped copy-on-write, the rest copied")
            }
        };
        let left = lay_over(&self.0.pages, &memory, fill.table, &from_image, image)?;
        let rests = self.0.read_only && !compares;
        let spans = spans(fill.whole(page), &from_image, rests.then_some(fill.table));
        Ok(Filled {
            mode_reason,
            unverified: left * page,
            ..fill.filled(memory, spans, page)
        })
    }

    /// The backing file, new and without its name yet, with its blocks reserved, mapped and filled.
    fn fill_shared(&self, fill: &Fill<'_>) -> Result<Filled> {
        let file = self.new_backing_file(|file| {
            file.set_len(fill.size)?;
            file.allocate(0, fill.size, false)
        })?;
        let descriptor = Descriptor::File(file);
        let Some((fd, _)) = descriptor.raw() else {
            return Err(Error::Unsupported {
                what: format!("module \"{}\" in shared mode", fill.id),
                why: "its files cannot be mapped".into(),
            });
        };
        let page = self.0.pages.page_size;
        let memory = fill.claim(page)?;
        memory.map(0, fill.size, Backing::Shared(fd, 0))?;
        lay_over(&self.0.pages, &memory, fill.table, &[], None)?;
        Ok(Filled {
            mode_reason: "the backing file, its blocks reserved".into(),
            descriptor,
            ..fill.filled(memory, shared(fill.whole(page)), page)
        })
    }

    /// A sealed memfd of the library's.
    fn fill_memfd(&self, fill: &Fill<'_>) -> Result<Filled> {
        let (page, huge) = (self.0.pages.page_size, fill.options.huge);
        // The name is for /proc/PID/maps alone; the kernel allows 249 bytes.
        let name = format!("vmstore:{}", fill.id);
        let fd = memfd::create(&name, fill.size, huge)?;
        let granule = huge.max(page);
        let memory = fill.claim(granule)?;
        let mapped = memory.map(0, fill.size, Backing::Shared(fd.as_raw_fd(), 0));
        mapped.map_err(|error| match error {
            Error::NoMemory { .. } if huge != 0 => {
                memfd::no_huge_pages(huge, fill.size, "they cannot be reserved")
            }
            other => other,
        })?;
        lay_over(&self.0.pages, &memory, fill.table, &[], None)?;
        let mode_reason = match huge {
            0 => "a sealed memfd".to_owned(),
            _ => format!("a sealed memfd of huge pages, {huge} bytes each"),
        };
        Ok(Filled {
            mode_reason,
            descriptor: Descriptor::Own(fd),
            holes_are_zero: huge == 0,
            ..fill.filled(memory, shared(fill.whole(page)), granule)
        })
    }

    /// A memfd, or another file, of the caller's.
    fn fill_borrowed(
        &self,
        state: &State,
        fill: &Fill<'_>,
        number: i32,
        offset: u64,
    ) -> Result<Filled> {
        let page = self.0.pages.page_size;
        let borrowed = memfd::borrow(number)?;
        let granule = borrowed.granule.max(page);
        if offset % granule != 0 || fill.size % granule != 0 {
            return Err(Error::invalid(
                format!("fd_offset {offset}, size {}", fill.size),
                format!("both must be multiples of the descriptor's page size, {granule}"),
            ));
        }
        let end = offset.checked_add(fill.size);
        if end.is_none_or(|end| end > borrowed.length) {
            return Err(Error::Size {
                module: fill.id.to_owned(),
                why: format!("the descriptor ends before the module, which begins at {offset}"),
                recorded: borrowed.length.saturating_sub(offset),
                given: fill.size,
            });
        }
        let shares = |b: &&Bound| match &b.module.descriptor {
            Descriptor::Borrowed(_, from, identity) => {
                let overlap = *from < offset + fill.size && offset < from + b.module.size();
                *identity == borrowed.identity && overlap
            }
            _ => false,
        };
        if let Some(bound) = state.modules.values().find(shares) {
            return Err(Error::Exists {
                what: format!("{} bytes of descriptor {number} from {offset}", fill.size),
                why: format!("a part of them is module \"{}\"", bound.module.id).into(),
            });
        }
        let fd = borrowed.fd.as_raw_fd();
        let memory = fill.claim(granule)?;
        memory.map(0, fill.size, Backing::Shared(fd, offset))?;
        let data = memfd::data_runs(fd, offset, fill.size);
        let spans = shared(fill.whole(page));
        let dirty = self.overwrite(state, fill, &memory, data)?;
        Ok(Filled {
            mode_reason: format!("the caller's descriptor {number}, from {offset}"),
            descriptor: Descriptor::Borrowed(borrowed.fd, offset, borrowed.identity),
            holes_are_zero: borrowed.tmpfs,
            dirty,
            ..fill.filled(memory, spans, granule)
        })
    }

    /// Memory that the caller has mapped.
    fn fill_adopted(&self, state: &State, fill: &Fill<'_>) -> Result<Filled> {
        let page = self.0.pages.page_size;
        let (address, size) = (fill.options.address, fill.size);
        let spans = adopted_spans(address, size, page)?;
        not_in_a_module(state, address, size)?;
        let memory = Memory::adopt(address, size);
        let dirty = self.overwrite(state, fill, &memory, vec![fill.whole(page)])?;
        Ok(Filled {
            mode_reason: format!("the caller's memory, {} mapping(s)", spans.len()),
            dirty,
            ..fill.filled(memory, spans, page)
        })
    }

    /// Brings memory that has bytes of its own to the head: `own` are the pages that may not be zero. A
    /// module that the head does not have keeps its bytes; the pages returned may differ from the head.
    /// Nothing is changed when it fails.
    fn overwrite(
        &self,
        state: &State,
        fill: &Fill<'_>,
        memory: &Memory,
        own: Vec<Run>,
    ) -> Result<Vec<Run>> {
        module::check_tracker(fill.id, memory, fill.options.tracker, &state.kernel)?;
        if fill.chain.is_empty() {
            return Ok(own);
        }
        let page = self.0.pages.page_size;
        let mut pieces = Vec::new();
        let mut kept = Vec::new();
        fill.table.locate(fill.whole(page), |located| {
            if let Some(source) = located.source {
                let run = located.run;
                kept.push(run);
                pieces.push(Piece { run, source });
            }
        });
        let bytes = kept.iter().map(|run| run.count * page).sum::<u64>();
        let mut staging = Staging::new(Arena::of_exactly(bytes.max(page))?);
        staging.read(&mut Reading::new(&self.0.pages), 0, pieces, |_| Ok(()))?;
        staging.put(page, |_, run, bytes| memory.write(run.start * page, bytes));
        let zeros = crate::error::try_filled(page as usize, 0u8, "a page")?;
        for run in without(&own, &kept) {
            for at in run.start..run.end() {
                if !memory.equals(at * page, &zeros) {
                    memory.zero(at * page, page);
                }
            }
        }
        Ok(Vec::new())
    }
}

/// Memory that is adopted must not be a module's already.
pub(super) fn not_in_a_module(state: &State, address: usize, length: u64) -> Result<()> {
    let end = address + length as usize;
    let overlaps = |memory: &Memory| {
        let start = memory.address();
        address < start + memory.length() as usize && start < end
    };
    match state.modules.values().find(|b| overlaps(&b.module.memory)) {
        None => Ok(()),
        Some(bound) => Err(Error::Exists {
            what: format!("{length} bytes at {address:#x}"),
            why: format!("a part of them is module \"{}\"", bound.module.id).into(),
        }),
    }
}

/// The parts of memory that the caller has mapped.
pub(super) fn adopted_spans(address: usize, length: u64, page: u64) -> Result<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::new();
    for mapping in mappings::check_adopted(address, length)? {
        let kind = match (mapping.shared, mapping.file) {
            (true, _) => Kind::Shared,
            (false, true) => Kind::PrivateFile,
            (false, false) => Kind::Anonymous,
        };
        let pages = Run {
            start: (mapping.start - address) as u64 / page,
            count: (mapping.end - mapping.start) as u64 / page,
        };
        match spans.last_mut() {
            Some(last) if last.kind == kind => last.pages.count += pages.count,
            _ => spans.push(Span { pages, kind }),
        }
    }
    Ok(spans)
}

fn shared(pages: Run) -> Vec<Span> {
    vec![Span {
        pages,
        kind: Kind::Shared,
    }]
}

/// Private memory, some of it an image. With a table, what is all zeros there may be a hole.
fn spans(whole: Run, from_image: &[Run], table: Option<&PageTable>) -> Vec<Span> {
    let least = HOLE.max(whole.count / MAPPINGS as u64);
    let mut spans: Vec<Span> = Vec::new();
    crate::page::split(&[whole], from_image, |pages, inside| match table {
        Some(table) if !inside => table.locate(pages, |located| {
            let hole = located.source.is_none() && located.run.count >= least;
            match spans.last_mut() {
                Some(last) if last.kind == Kind::Anonymous && !hole => {
                    last.pages.count += located.run.count;
                }
                _ => spans.push(Span {
                    pages: located.run,
                    kind: if hole { Kind::Hole } else { Kind::Anonymous },
                }),
            }
        }),
        _ => spans.push(Span {
            pages,
            kind: if inside { Kind::Image } else { Kind::Anonymous },
        }),
    });
    spans
}

/// The parts of an image that are mapped: its longest stretches of data, with short holes bridged,
/// sorted.
fn worth_mapping(image: &Index) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for run in &image.runs {
        match runs.last_mut() {
            Some(last) if run.start - last.end() <= BRIDGE => last.count = run.end() - last.start,
            _ => runs.push(Run {
                start: run.start,
                count: run.count,
            }),
        }
    }
    runs.retain(|run| run.count >= WORTH_MAPPING);
    if runs.len() > MAPPINGS {
        runs.sort_unstable_by_key(|run| std::cmp::Reverse(run.count));
        runs.truncate(MAPPINGS);
        runs.sort_unstable_by_key(|run| run.start);
    }
    runs
}

/// Copies the pages of `table` into fresh memory, verified, but for those that a mapped part of
/// `image` already shows. Returns how many those are.
fn lay_over(
    pages: &PageFiles,
    memory: &Memory,
    table: &PageTable,
    mapped: &[Run],
    image: Option<&Arc<Index>>,
) -> Result<u64> {
    let page = pages.page_size;
    let mut pieces = Vec::new();
    let mut left = 0;
    let mut place = |run: Run, inside: bool| {
        table.locate(run, |located| match located.source {
            Some(source) if inside && image.is_some_and(|image| Arc::ptr_eq(image, &source)) => {
                left += located.run.count;
            }
            Some(source) => pieces.push(Piece {
                run: located.run,
                source,
            }),
            // A page that the image shows and that became zero later.
            None if inside => zero_where_shown(memory, image, located.run, page),
            None => {}
        });
    };
    let mut next = 0;
    for run in mapped {
        place(
            Run {
                start: next,
                count: run.start - next,
            },
            false,
        );
        place(*run, true);
        next = run.end();
    }
    place(
        Run {
            start: next,
            count: memory.length() / page - next,
        },
        false,
    );
    Reading::new(pages).pieces(pieces, |run, bytes| {
        memory.write(run.start * page, bytes);
        Ok(())
    })?;
    Ok(left)
}

/// Writes zeros over those pages of a run for which an image has data; the others read as zeros
/// already.
fn zero_where_shown(memory: &Memory, image: Option<&Arc<Index>>, run: Run, page: u64) {
    let Some(image) = image else { return };
    for (data, _) in source_runs(image).skip(image.run_at(run.start)) {
        if data.start >= run.end() {
            return;
        }
        let (start, end) = (data.start.max(run.start), data.end().min(run.end()));
        memory.zero(start * page, (end - start) * page);
    }
}
