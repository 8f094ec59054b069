//! Making the memory of a module and filling it with the head's bytes, in the modes in which the library makes the
//! memory.

use std::os::fd::AsRawFd;

use super::overlay::{Population, overlay, private_spans, shared_spans, worth_mapping};
use crate::dirty::Tracker;
use crate::format::index::Shape;
use crate::layer::place;
use crate::module::{Descriptor, MapMode, Populated};
use crate::store::state::Locked;
use crate::sys::memfd;
use crate::sys::memory::Backing;
use crate::{Error, Result};

impl Locked<'_> {
    /// Makes the memory of a module and fills it, or fills memory that the caller brought.
    pub(super) fn populate(&self, population: &Population<'_>) -> Result<Populated> {
        let options = population.options;
        match (options.mode, options.fd) {
            (MapMode::Private, _) => self.populate_private(population),
            (MapMode::Shared, _) => self.populate_shared(population),
            (MapMode::Memfd, None) => self.populate_memfd(population),
            (MapMode::Memfd, Some((fd, offset))) => self.populate_borrowed(population, fd, offset),
            (MapMode::Adopt, _) => self.populate_adopted(population),
        }
    }

    /// Private memory: an image is mapped where there is one, and newer pages are copied over it.
    fn populate_private(&self, population: &Population<'_>) -> Result<Populated> {
        let page = self.store.page_size();
        let memory = population.claim(page)?;
        memory.map(0, population.size, Backing::Anonymous)?;
        let image = population
            .chain
            .last()
            .filter(|index| index.shape == Shape::Image);
        // A module that is compared is not mapped from its image: comparing reads all memory, and a
        // read error in a mapped image would be a signal.
        let compares = match population.options.tracker {
            Some(tracker) => tracker == Tracker::Compare,
            None => self.kernel.is_err(),
        };
        let compares = compares || population.options.foreign_writers;
        let mut from_image = Vec::new();
        let mode_reason = match image {
            None => "anonymous memory; the head does not have the module".to_owned(),
            Some(_) if population.options.eager => {
                "copied: VMSTORE_MAP_EAGER asks for it".to_owned()
            }
            Some(_) if compares => {
                "copied: the module is compared, which reads all of its memory".to_owned()
            }
            Some(image) => {
                let file = self.store.0.layers.open(population.id, image.commit)?;
                if let Some(fd) = file.descriptor() {
                    from_image = worth_mapping(image);
                    for run in &from_image {
                        let (at, length) = (run.start * page, run.count * page);
                        memory.map(at, length, Backing::Private(fd, at))?;
                    }
                }
                let mapped: u64 = from_image.iter().map(|run| run.count * page).sum();
                let place = place(population.id, image.commit);
                format!("{mapped} bytes of {place} mapped copy-on-write, the rest copied")
            }
        };
        let left = overlay(
            &self.store.0.layers,
            &memory,
            population.table,
            &from_image,
            image,
        )?;
        let rests = self.store.0.read_only && !compares;
        let spans = private_spans(
            population.whole(page),
            &from_image,
            rests.then_some(population.table),
        );
        Ok(Populated {
            mode_reason,
            unverified: left * page,
            ..population.populated(memory, spans, page)
        })
    }

    /// Makes a new backing file under its temporary name, reserves its blocks, maps it and fills
    /// it.
    fn populate_shared(&self, population: &Population<'_>) -> Result<Populated> {
        let file = self.store.new_backing_file(|file| {
            file.set_len(population.size)?;
            file.allocate(0, population.size, false)
        })?;
        let descriptor = Descriptor::File(file);
        let Some((fd, _)) = descriptor.raw() else {
            return Err(Error::Unsupported {
                what: format!("module \"{}\" in shared mode", population.id),
                why: "its files cannot be mapped".into(),
            });
        };
        let page = self.store.page_size();
        let memory = population.claim(page)?;
        memory.map(0, population.size, Backing::Shared(fd, 0))?;
        overlay(&self.store.0.layers, &memory, population.table, &[], None)?;
        Ok(Populated {
            mode_reason: "the backing file, its blocks reserved".into(),
            descriptor,
            ..population.populated(memory, shared_spans(population.whole(page)), page)
        })
    }

    /// Makes a sealed memfd, maps it and fills it.
    fn populate_memfd(&self, population: &Population<'_>) -> Result<Populated> {
        let (page, huge) = (self.store.page_size(), population.options.huge);
        // Only /proc/PID/maps shows this name. The kernel allows 249 bytes.
        let name = format!("vmstore:{}", population.id);
        let fd = memfd::create(&name, population.size, huge)?;
        let granule = huge.max(page);
        let memory = population.claim(granule)?;
        let mapped = memory.map(0, population.size, Backing::Shared(fd.as_raw_fd(), 0));
        mapped.map_err(|error| match error {
            Error::NoMemory { .. } if huge != 0 => {
                memfd::no_huge_pages(huge, population.size, "they cannot be reserved")
            }
            other => other,
        })?;
        overlay(&self.store.0.layers, &memory, population.table, &[], None)?;
        let mode_reason = match huge {
            0 => "a sealed memfd".to_owned(),
            _ => format!("a sealed memfd of huge pages, {huge} bytes each"),
        };
        Ok(Populated {
            mode_reason,
            descriptor: Descriptor::Own(fd),
            holes_are_zero: huge == 0,
            ..population.populated(memory, shared_spans(population.whole(page)), granule)
        })
    }
}
