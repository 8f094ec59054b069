//! What a module's memory is filled from, and copying the pages of the head into it.

use std::sync::Arc;

use crate::Result;
use crate::dirty::{MemoryKind, Span};
use crate::format::index::Index;
use crate::layer::{LayerFiles, PageTable, Piece, Reading, source_runs};
use crate::module::{Descriptor, Populated};
use crate::page_set::Run;
use crate::store::options::MapOptions;
use crate::sys::memory::{Memory, Spot};

/// Runs of fewer pages than this are copied and not mapped: a mapping costs as much as copying
/// about 20 pages.
const WORTH_MAPPING: u64 = 32;
/// A hole of at most this many pages is mapped together with its neighbours.
const BRIDGE: u64 = 16;
/// The most parts of an image that are mapped. A process can have 65,530 mappings in all.
const MAPPINGS: usize = 512;
/// A hole of fewer pages than this gets no part of its own: arming this many pages costs about as
/// much as three calls.
const HOLE: u64 = 256;

/// A module that is being mapped.
pub(super) struct Population<'a> {
    pub(super) id: &'a str,
    pub(super) size: u64,
    pub(super) options: &'a MapOptions,
    /// The module commits that make up the head's bytes, newest first. Empty: the module is new.
    pub(super) chain: &'a [Arc<Index>],
    pub(super) table: &'a PageTable,
}

impl Population<'_> {
    pub(super) fn whole(&self, page: u64) -> Run {
        Run {
            start: 0,
            count: self.size / page,
        }
    }

    pub(super) fn claim(&self, align: u64) -> Result<Memory> {
        let options = self.options;
        let spot = match options.address {
            0 => Spot::Anywhere,
            address if options.reserved => Spot::Reserved(address),
            address => Spot::Free(address),
        };
        Memory::claim(spot, self.size, options.max_size, align)
    }

    pub(super) fn populated(&self, memory: Memory, spans: Vec<Span>, granule: u64) -> Populated {
        Populated {
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

/// The one part of a shared module.
pub(super) fn shared_spans(pages: Run) -> Vec<Span> {
    vec![Span {
        pages,
        kind: MemoryKind::Shared,
    }]
}

/// The parts of private memory, of which `from_image` is mapped from an image. With a table, runs
/// that are zeros in the table may be holes.
pub(super) fn private_spans(
    whole: Run,
    from_image: &[Run],
    table: Option<&PageTable>,
) -> Vec<Span> {
    let least = HOLE.max(whole.count / MAPPINGS as u64);
    let mut spans: Vec<Span> = Vec::new();
    crate::page_set::split(&[whole], from_image, |pages, inside| match table {
        Some(table) if !inside => table.locate(pages, |located| {
            let hole = located.source.is_none() && located.run.count >= least;
            match spans.last_mut() {
                Some(last) if last.kind == MemoryKind::Anonymous && !hole => {
                    last.pages.count += located.run.count;
                }
                _ => spans.push(Span {
                    pages: located.run,
                    kind: if hole {
                        MemoryKind::Hole
                    } else {
                        MemoryKind::Anonymous
                    },
                }),
            }
        }),
        _ => spans.push(Span {
            pages,
            kind: if inside {
                MemoryKind::Image
            } else {
                MemoryKind::Anonymous
            },
        }),
    });
    spans
}

/// The parts of an image that are mapped, sorted: its longest runs of data, together with the short
/// holes between them.
pub(super) fn worth_mapping(image: &Index) -> Vec<Run> {
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

/// Copies the pages of `table` into new memory and verifies them, except pages that a mapped part
/// of `image` already shows. Returns the number of these exceptions.
pub(super) fn overlay(
    layers: &LayerFiles,
    memory: &Memory,
    table: &PageTable,
    mapped: &[Run],
    image: Option<&Arc<Index>>,
) -> Result<u64> {
    let page = layers.page_size;
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
            // The image may show data here, but the pages became zero later.
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
    Reading::new(layers).pieces(pieces, |run, bytes| {
        memory.write(run.start * page, bytes);
        Ok(())
    })?;
    Ok(left)
}

/// Writes zeros over those pages of a run for which an image has data. The other pages read as
/// zeros already.
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
