//! Mapping modules: memory with the head's bytes in it, the backing file's name, and the tracker.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::options::MapOptions;
use super::{Bound, LogLevel, State, Store};
use crate::dirty::Tracker;
use crate::format::index::{Index, Shape};
use crate::format::name;
use crate::module::{Filled, MapMode, MappedModule};
use crate::page::Run;
use crate::pages::{PageFiles, PageTable, Piece, Reading, place, source_runs};
use crate::sys::fs::{File, Place};
use crate::sys::host;
use crate::sys::memory::{Arena, Memory};
use crate::{Error, Result};

/// Arena memory touched when the first module is mapped, so that a first small capture is quick.
const WARM: usize = 8 << 20;
/// Fewer pages than this are copied rather than mapped: a mapping costs as much as copying about
/// 20 pages.
const WORTH_MAPPING: u64 = 32;
/// Holes up to this many pages are mapped along with their neighbours.
const BRIDGE: u64 = 16;
/// The most parts of an image that are mapped; a process has room for 65,530 mappings in all.
const MAPPINGS: usize = 512;

/// A mapped module of a store. Clones are the same module.
#[derive(Clone)]
pub struct Module {
    store: Store,
    pub(super) mapped: Arc<MappedModule>,
}

impl Module {
    /// The store it belongs to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The first byte of its memory.
    #[must_use]
    pub fn address(&self) -> usize {
        self.mapped.memory.address()
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.mapped.size()
    }

    /// The descriptor of a shared module; see `store_module_fd`.
    ///
    /// # Errors
    /// In private mode.
    pub fn fd(&self) -> Result<RawFd> {
        self.mapped.fd()
    }

    /// Reports writes that the tracker cannot see; see `store_mark_dirty`.
    ///
    /// # Errors
    /// When the range is not inside the module.
    pub fn mark_dirty(&self, offset: u64, length: u64) -> Result<()> {
        self.mapped.mark_dirty(offset, length)
    }

    /// Unmaps the module; see `store_unmap_module`.
    ///
    /// # Errors
    /// While a capture is outstanding.
    pub fn unmap(&self) -> Result<()> {
        self.store.no_capture()?;
        let mut state = self.store.enter()?;
        self.store.no_capture()?;
        let ours = |bound: &Bound| Arc::ptr_eq(&bound.module, &self.mapped);
        if !state.modules.get(&self.mapped.id).is_some_and(ours) {
            return Err(Error::Handle {
                argument: "module",
                why: "it was unmapped earlier",
            });
        }
        state.modules.remove(&self.mapped.id);
        Ok(())
    }
}

impl Store {
    /// Maps a module; see `store_map_module`.
    ///
    /// # Errors
    /// As `store_map_module`.
    pub fn map_module(&self, id: &str, size: u64, options: &MapOptions) -> Result<Module> {
        self.no_capture()?;
        let mut state = self.enter()?;
        self.check_poison()?;
        self.no_capture()?;
        name::check_module_id(id)?;
        if state.modules.contains_key(id) {
            return Err(Error::Exists {
                what: format!("module \"{id}\""),
                why: "it is mapped already".into(),
            });
        }
        let size = self.check_size(&state, id, size)?;
        let page = self.0.pages.page_size;
        if !(options.address as u64).is_multiple_of(page) {
            return Err(Error::invalid(
                format!("address {:#x}", options.address),
                format!("it must be a multiple of the page size, {page}"),
            ));
        }
        let entry = state
            .history
            .head_commit()
            .and_then(|head| head.module(id))
            .cloned();
        if self.0.read_only && (entry.is_none() || options.mode == MapMode::Shared) {
            return Err(Error::ReadOnly {
                what: format!("module \"{id}\""),
                why: "a read-only store maps recorded modules in private mode only",
            });
        }
        let chain = match &entry {
            None => Vec::new(),
            Some(entry) => {
                let chain = self.0.pages.chain(id, entry.module_commit, entry.size)?;
                super::verify::matches(&chain[0], entry)?;
                chain
            }
        };
        let table = PageTable::of_chain(size / page, &chain)?;
        // Comparing reads all memory, and a read error in a mapped image would be a signal.
        let compares = match options.tracker {
            Some(tracker) => tracker == Tracker::Compare,
            None => state.kernel.is_err(),
        };
        let eager = options.eager || compares;
        let mapped = (|| {
            let filled = match options.mode {
                MapMode::Private => {
                    self.fill_private(id, options.address, size, eager, &chain, &table)?
                }
                MapMode::Shared => self.fill_shared(id, options.address, size, &table)?,
            };
            let module = Arc::new(MappedModule::new(filled, options.tracker, &state.kernel)?);
            if !self.0.read_only {
                if state.arena.is_none() {
                    let mut arena = Arena::new(self.0.arena_limit)?;
                    arena.warm(WARM);
                    state.arena = Some(arena);
                }
                // Last, so that a failure before leaves the file as it was.
                let image = chain.last().filter(|index| index.shape == Shape::Image);
                self.name_backing_file(&module, image)?;
            }
            Ok(module)
        })();
        let module = mapped.inspect_err(|_: &Error| {
            if !self.0.read_only {
                let _ = self.0.files.unlink(&backing_place());
            }
        })?;
        if options.tracker.is_none() && compares {
            self.log(LogLevel::Warning, || {
                format!(
                    "module \"{id}\" is compared at every commit: {}",
                    module.tracker_reason
                )
            });
        }
        let bound = Bound {
            module: module.clone(),
            table,
            module_commit: entry.map(|e| e.module_commit),
        };
        state.modules.insert(id.to_owned(), bound);
        Ok(Module {
            store: self.clone(),
            mapped: module,
        })
    }

    /// The size to map, from the caller's and the recorded one.
    fn check_size(&self, state: &State, id: &str, size: u64) -> Result<u64> {
        let recorded = state.history.head_commit().and_then(|head| head.module(id));
        let page = self.0.pages.page_size;
        match recorded {
            Some(entry) if size == 0 || size == entry.size => return Ok(entry.size),
            Some(entry) => {
                return Err(Error::Size {
                    module: id.to_owned(),
                    why: format!(
                        "commit {}, the head, has another size",
                        state.history.head()
                    ),
                    recorded: entry.size,
                    given: size,
                });
            }
            None => {}
        }
        let what = format!("size {size} of module \"{id}\"");
        if size == 0 {
            return Err(Error::invalid(
                what,
                "0 takes the recorded size, and the head does not know this module",
            ));
        }
        if !size.is_multiple_of(page) {
            return Err(Error::invalid(
                what,
                format!("it must be a multiple of the page size, {page}"),
            ));
        }
        // Page tables and the library's sets cost about 1/400 of a module, also of one that is
        // never touched.
        let most = host::memory().saturating_mul(64);
        if size > most {
            return Err(Error::NoMemory {
                what: format!("{what}: this host can track at most {most} bytes").into(),
            });
        }
        Ok(size)
    }

    /// Private memory: the image under it where there is one, and what is newer copied over it.
    fn fill_private(
        &self,
        id: &str,
        address: usize,
        size: u64,
        eager: bool,
        chain: &[Arc<Index>],
        table: &PageTable,
    ) -> Result<Filled> {
        let memory = Memory::anonymous(address, size)?;
        let image = chain.last().filter(|index| index.shape == Shape::Image);
        let mut from_image = Vec::new();
        if let Some(image) = image
            && !eager
        {
            let file = self.0.pages.open(id, image.commit)?;
            if let Some(fd) = file.descriptor() {
                from_image = worth_mapping(image);
                let page = self.0.pages.page_size;
                for run in &from_image {
                    memory.map_over(run.start * page, run.count * page, fd, run.start * page)?;
                }
            }
        }
        let left = lay_over(&self.0.pages, &memory, table, &from_image, image)?;
        Ok(Filled {
            id: id.to_owned(),
            mode: MapMode::Private,
            memory,
            from_image,
            unverified: left * self.0.pages.page_size,
            file: None,
        })
    }

    /// The backing file, new and without its name yet, with its blocks reserved, mapped and filled.
    fn fill_shared(
        &self,
        id: &str,
        address: usize,
        size: u64,
        table: &PageTable,
    ) -> Result<Filled> {
        let file = self.new_backing_file(|file| {
            file.set_len(size)?;
            file.allocate(0, size, false)
        })?;
        let fd = file.descriptor().ok_or_else(|| Error::Unsupported {
            what: format!("module \"{id}\" in shared mode"),
            why: "its files cannot be mapped".into(),
        })?;
        let memory = Memory::shared(address, size, fd)?;
        lay_over(&self.0.pages, &memory, table, &[], None)?;
        Ok(Filled {
            id: id.to_owned(),
            mode: MapMode::Shared,
            memory,
            from_image: Vec::new(),
            unverified: 0,
            file: Some(file),
        })
    }

    /// Gives a module's backing file its name. In private mode that is a link to the image under the
    /// mapping, or an empty file of the module's size.
    fn name_backing_file(&self, module: &MappedModule, image: Option<&Arc<Index>>) -> Result<()> {
        let files = &*self.0.files;
        let temporary = backing_place();
        if module.mode == MapMode::Private {
            files.unlink(&temporary)?;
            let link =
                |image: &Arc<Index>| files.link(&place(&module.id, image.commit), &temporary);
            let linked = match image.map(link) {
                Some(Ok(())) => true,
                None => false,
                Some(Err(error)) => {
                    let id = &module.id;
                    self.log(LogLevel::Info, || {
                        format!("the backing file of \"{id}\" is not a link to its image: {error}")
                    });
                    false
                }
            };
            if !linked {
                self.new_backing_file(|file| file.set_len(module.size()))?;
            }
        }
        files.rename(&temporary, &Place::root(module.id.as_str()))?;
        // Renaming one link of a file over another does nothing at all.
        files.unlink(&temporary)
    }

    /// A new backing file under its temporary name.
    fn new_backing_file(
        &self,
        make: impl FnOnce(&dyn File) -> Result<()>,
    ) -> Result<Arc<dyn File>> {
        let files = &*self.0.files;
        files.unlink(&backing_place())?;
        let file = files.create(&backing_place())?;
        make(&*file)?;
        Ok(file)
    }
}

fn backing_place() -> Place {
    Place::hidden(format!("{}backing", name::TEMPORARY))
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
