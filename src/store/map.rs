//! Mapping modules: memory with the head's bytes in it, the backing file's name, and the tracker.

use std::os::fd::RawFd;
use std::sync::Arc;

use super::options::MapOptions;
use super::{Bound, LogLevel, State, Store};
use crate::format::index::{Index, Shape};
use crate::format::name;
use crate::module::{MapMode, MappedModule};
use crate::pages::{PageTable, place};
use crate::sys::arena::Arena;
use crate::sys::fs::{File, Place};
use crate::sys::host;
use crate::{Error, Result};

/// Arena memory touched when the first module is mapped, so that a first small capture is quick.
const WARM: usize = 8 << 20;

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

    /// The descriptor of a shared module, and where the module begins in it; see `store_module_fd`.
    ///
    /// # Errors
    /// In private mode, and for adopted memory.
    pub fn fd(&self) -> Result<(RawFd, u64)> {
        self.mapped.fd()
    }

    /// Reports writes that the tracker cannot see; see `store_mark_dirty`.
    ///
    /// # Errors
    /// When the range is not inside the module.
    pub fn mark_dirty(&self, offset: u64, length: u64) -> Result<()> {
        self.mapped.mark_dirty(offset, length)
    }

    /// Reports the pages whose bits are set; see `store_import_dirty_bitmap`.
    ///
    /// # Errors
    /// When the range is not inside the module, or not of whole pages.
    pub fn import_dirty_bitmap(
        &self,
        offset: u64,
        page_count: u64,
        bitmap: impl Iterator<Item = u64>,
    ) -> Result<()> {
        self.mapped.import_bitmap(offset, page_count, bitmap)
    }

    /// Gives memory back to the host; see `store_discard`.
    ///
    /// # Errors
    /// As `store_discard`.
    pub fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.store.check_reentry()?;
        self.mapped.discard(offset, length)
    }

    /// Unmaps the module; see `store_unmap_module`.
    ///
    /// # Errors
    /// While a capture is outstanding.
    pub fn unmap(&self) -> Result<()> {
        self.store.no_capture()?;
        let mut state = self.store.enter()?;
        self.store.no_capture()?;
        state.bound(&self.mapped)?;
        state.forget_precopy();
        state.modules.remove(&self.mapped.id);
        self.mapped.retire();
        Ok(())
    }
}

impl Store {
    /// Maps a module; see `store_map_module`.
    ///
    /// # Errors
    /// As `store_map_module`.
    pub fn map_module(&self, id: &str, size: u64, options: &MapOptions) -> Result<Module> {
        self.or_stale(self.map(id, size, options))
    }

    fn map(&self, id: &str, size: u64, options: &MapOptions) -> Result<Module> {
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
        options.check(size, self.0.pages.page_size)?;
        let entry = state
            .history
            .head_commit()
            .and_then(|head| head.module(id))
            .cloned();
        if self.0.read_only && (entry.is_none() || options.mode == MapMode::Shared) {
            return Err(Error::ReadOnly {
                what: format!("module \"{id}\""),
                why: "a read-only store maps recorded modules, and none with VMSTORE_MAP_SHARED",
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
        let table = PageTable::of_chain(size / self.0.pages.page_size, &chain)?;
        let image = chain.last().filter(|index| index.shape == Shape::Image);
        // Memory of the caller's is written to when nothing can fail any more.
        let own_bytes = options.mode == MapMode::Adopt || options.fd.is_some();
        let mapped = (|| {
            if own_bytes && !self.0.read_only {
                self.link_backing_file(id, size, image)?;
            }
            let filled = self.fill(&state, id, size, options, &chain, &table)?;
            let (wanted, foreign) = (options.tracker, options.foreign_writers);
            let module = Arc::new(MappedModule::new(filled, wanted, foreign, &state.kernel)?);
            if !self.0.read_only {
                if state.arena.is_none() {
                    let mut arena = Arena::new(self.0.arena_limit)?;
                    arena.warm(WARM);
                    state.arena = Some(arena);
                }
                // Last, so that a failure before leaves the file as it was.
                if !own_bytes {
                    self.name_backing_file(&module, image)?;
                }
            }
            Ok(module)
        })();
        let module = mapped.inspect_err(|_: &Error| {
            if !self.0.read_only {
                let _ = self.0.files.unlink(&backing_place());
                if own_bytes && entry.is_none() {
                    let _ = self.0.files.unlink(&Place::root(id));
                }
            }
        })?;
        if module.fell_back {
            self.log(LogLevel::Warning, || {
                format!(
                    "module \"{id}\" is compared at every commit: {}",
                    module.tracker_reason
                )
            });
        }
        if !self.0.read_only {
            state.spare.prepare(module.pages());
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
            Some(entry) if size == 0 || size == entry.size => {
                check_most(id, entry.size)?;
                return Ok(entry.size);
            }
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
        if size % page != 0 {
            return Err(Error::invalid(
                what,
                format!("it must be a multiple of the page size, {page}"),
            ));
        }
        check_most(id, size)?;
        Ok(size)
    }

    /// Gives a module's backing file its name. Where it is not the memory itself, it is a link to the
    /// image under the mapping, or an empty file of the module's size.
    fn name_backing_file(&self, module: &MappedModule, image: Option<&Arc<Index>>) -> Result<()> {
        if module.mode == MapMode::Shared {
            return self
                .0
                .files
                .rename(&backing_place(), &Place::root(module.id.as_str()));
        }
        self.link_backing_file(&module.id, module.size(), image)
    }

    /// Makes a module's backing file a link to an image or, without one, an empty file.
    pub(super) fn link_backing_file(
        &self,
        id: &str,
        size: u64,
        image: Option<&Arc<Index>>,
    ) -> Result<()> {
        let files = &*self.0.files;
        let temporary = backing_place();
        files.unlink(&temporary)?;
        let link = |image: &Arc<Index>| files.link(&place(id, image.commit), &temporary);
        let linked = match image.map(link) {
            Some(Ok(())) => true,
            None => false,
            Some(Err(error)) => {
                self.log(LogLevel::Info, || {
                    format!("the backing file of \"{id}\" is not a link to its image: {error}")
                });
                false
            }
        };
        if !linked {
            self.new_backing_file(|file| file.set_len(size))?;
        }
        files.rename(&temporary, &Place::root(id))?;
        // Renaming one link of a file over another does nothing at all.
        files.unlink(&temporary)
    }

    /// A new backing file under its temporary name.
    pub(super) fn new_backing_file(
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
/// Page tables and the library's sets cost about 1/400 of a module, also of one that is never touched.
pub(super) fn check_most(id: &str, size: u64) -> Result<()> {
    let most = host::memory().saturating_mul(64);
    if size > most {
        return Err(Error::NoMemory {
            what: format!(
                "size {size} of module \"{id}\": this host can track at most {most} bytes"
            )
            .into(),
        });
    }
    Ok(())
}

fn backing_place() -> Place {
    Place::hidden(format!("{}backing", name::TEMPORARY))
}
