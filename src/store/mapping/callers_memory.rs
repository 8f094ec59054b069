//! Memory that the caller brings: a descriptor, or memory that is mapped already. Such memory may
//! have bytes before it becomes a module.

use std::os::fd::AsRawFd;

use super::overlay::{Population, shared_spans};
use crate::dirty::{MemoryKind, Span};
use crate::layer::{Piece, Reading, Staging};
use crate::module::{self, Descriptor, Populated};
use crate::page_set::{Run, without};
use crate::store::state::{Locked, ModuleState, State};
use crate::sys::arena::Arena;
use crate::sys::memory::{Backing, Memory};
use crate::sys::{mappings, memfd};
use crate::{Error, Result};

impl Locked<'_> {
    /// Maps a descriptor of the caller: a memfd or another file.
    pub(super) fn populate_borrowed(
        &self,
        population: &Population<'_>,
        number: i32,
        offset: u64,
    ) -> Result<Populated> {
        let page = self.store.page_size();
        let borrowed = memfd::borrow(number)?;
        let granule = borrowed.granule.max(page);
        if offset % granule != 0 || population.size % granule != 0 {
            return Err(Error::invalid(
                format!("fd_offset {offset}, size {}", population.size),
                format!("both must be multiples of the descriptor's page size, {granule}"),
            ));
        }
        let end = offset.checked_add(population.size);
        if end.is_none_or(|end| end > borrowed.length) {
            return Err(Error::Size {
                module: population.id.to_owned(),
                why: format!(
                    "the module begins at byte {offset} of the descriptor, which is too short"
                ),
                recorded: borrowed.length.saturating_sub(offset),
                given: population.size,
            });
        }
        let shares = |b: &&ModuleState| match &b.module.descriptor {
            Descriptor::Borrowed(_, from, identity) => {
                let overlap = *from < offset + population.size && offset < from + b.module.size();
                *identity == borrowed.identity && overlap
            }
            _ => false,
        };
        if let Some(bound) = self.modules.values().find(shares) {
            return Err(Error::Exists {
                what: format!(
                    "{} bytes of descriptor {number} from {offset}",
                    population.size
                ),
                why: format!("a part of them is module \"{}\"", bound.module.id).into(),
            });
        }
        let fd = borrowed.fd.as_raw_fd();
        let memory = population.claim(granule)?;
        memory.map(0, population.size, Backing::Shared(fd, offset))?;
        let data = memfd::data_runs(fd, offset, population.size);
        let spans = shared_spans(population.whole(page));
        let dirty = self.overwrite(population, &memory, data)?;
        Ok(Populated {
            mode_reason: format!("the caller's descriptor {number}, from {offset}"),
            descriptor: Descriptor::Borrowed(borrowed.fd, offset, borrowed.identity),
            holes_are_zero: borrowed.tmpfs,
            dirty,
            ..population.populated(memory, spans, granule)
        })
    }

    /// Takes memory that the caller has mapped.
    pub(super) fn populate_adopted(&self, population: &Population<'_>) -> Result<Populated> {
        let page = self.store.page_size();
        let (address, size) = (population.options.address, population.size);
        let spans = adopted_spans(address, size, page)?;
        check_not_in_a_module(self, address, size)?;
        let memory = Memory::adopt(address, size);
        let dirty = self.overwrite(population, &memory, vec![population.whole(page)])?;
        Ok(Populated {
            mode_reason: format!("the caller's memory, {} mapping(s)", spans.len()),
            dirty,
            ..population.populated(memory, spans, page)
        })
    }

    /// Brings memory that the caller brought to the bytes of the head. `own` are its pages that may
    /// be other than zero. If the head does not have the module, the memory keeps its bytes.
    /// Returns the pages that may differ from the head. A failed call changes nothing.
    fn overwrite(
        &self,
        population: &Population<'_>,
        memory: &Memory,
        own: Vec<Run>,
    ) -> Result<Vec<Run>> {
        module::check_tracker(
            population.id,
            memory,
            population.options.tracker,
            &self.kernel,
        )?;
        if population.chain.is_empty() {
            return Ok(own);
        }
        let page = self.store.page_size();
        let mut pieces = Vec::new();
        let mut kept = Vec::new();
        population.table.locate(population.whole(page), |located| {
            if let Some(source) = located.source {
                let run = located.run;
                kept.push(run);
                pieces.push(Piece { run, source });
            }
        });
        let bytes = kept.iter().map(|run| run.count * page).sum::<u64>();
        let mut staging = Staging::new(Arena::of_exactly(bytes.max(page))?);
        staging.read(&mut Reading::new(&self.store.0.layers), 0, pieces, |_| {
            Ok(())
        })?;
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

/// Refuses memory that already belongs to a module.
pub(super) fn check_not_in_a_module(state: &State, address: usize, length: u64) -> Result<()> {
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

/// The parts of adopted memory, each of one kind.
pub(super) fn adopted_spans(address: usize, length: u64, page: u64) -> Result<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::new();
    for mapping in mappings::check_adopted(address, length)? {
        let kind = match (mapping.shared, mapping.file) {
            (true, _) => MemoryKind::Shared,
            (false, true) => MemoryKind::PrivateFile,
            (false, false) => MemoryKind::Anonymous,
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
