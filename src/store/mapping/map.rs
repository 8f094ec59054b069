//! Mapping a module: its memory with the head's bytes, the name of its backing file, and its
//! tracker.

use std::sync::Arc;

use super::backing::backing_place;
use super::module::{Module, check_module_size};
use super::overlay::Population;
use crate::format::commit::ModuleEntry;
use crate::format::index::{Index, Shape};
use crate::format::name;
use crate::layer::{PageTable, check_is};
use crate::module::{MapMode, MappedModule};
use crate::store::options::{LogLevel, MapOptions};
use crate::store::state::{Locked, ModuleState, Store};
use crate::sys::arena::Arena;
use crate::sys::fs::Place;
use crate::{Error, Result};

/// Bytes of the arena that are touched when the first module is mapped. A first small capture is
/// then as quick as later ones.
const WARM: usize = 8 << 20;

/// The names of files that a mapping has made. If the module is not mapped, dropping this value
/// removes them.
struct UnmappedNames<'a> {
    store: &'a Store,
    /// The module whose backing file has its final name already. `None` if the module is not new,
    /// or if its file gets the name last.
    named: Option<&'a str>,
    mapped: bool,
}

impl Drop for UnmappedNames<'_> {
    fn drop(&mut self) {
        if self.mapped || self.store.0.read_only {
            return;
        }
        let _ = self.store.0.files.unlink(&backing_place());
        if let Some(id) = self.named {
            let _ = self.store.0.files.unlink(&Place::root(id));
        }
    }
}

impl Store {
    /// Maps the module `id` of the store into this process; see `store_map_module`.
    ///
    /// If the head knows the module, the memory has the head's bytes. Else the module is new: it
    /// reads as zeros, but adopted memory and a descriptor of the caller keep their bytes. `size`
    /// is in bytes, a multiple of the page size. 0 takes the recorded size of a module that the
    /// head knows.
    ///
    /// The memory is readable and writable, and keeps its address until it is unmapped. It may be
    /// registered with KVM, locked and bound to NUMA nodes. Do not call `mprotect`, `mremap` or
    /// `munmap` for it, and map nothing over it. An id is 1 to 200 bytes of `A-Z a-z 0-9 . _ -`. It
    /// does not begin with a dot, is not `commits`, and does not end in `_last` or in `_Commit` and
    /// digits.
    ///
    /// # Errors
    /// [`Error::Invalid`]: id, size, alignment or options; adopted memory that is not all mapped,
    /// readable and writable. [`Error::Exists`]: the module is mapped already, or the address is
    /// occupied. [`Error::Size`]: the head knows the module with another size, or the descriptor is
    /// too short. [`Error::ReadOnly`]: a new or a shared module of a read-only store.
    /// [`Error::Unsupported`]: the tracker does not work here, or there are not enough huge pages.
    /// [`Error::Busy`]: a capture is outstanding. [`Error::Corrupt`], [`Error::Stale`],
    /// [`Error::Poisoned`], [`Error::Io`]. [`Error::NoMemory`]: also a module that is too large to
    /// be tracked on this host.
    pub fn map_module(&self, id: &str, size: u64, options: &MapOptions) -> Result<Module> {
        self.or_stale(self.map(id, size, options))
    }

    fn map(&self, id: &str, size: u64, options: &MapOptions) -> Result<Module> {
        self.check_no_capture()?;
        let mut locked = self.enter()?;
        self.check_poison()?;
        self.check_no_capture()?;
        name::check_module_id(id)?;
        if locked.modules.contains_key(id) {
            return Err(Error::Exists {
                what: format!("module \"{id}\""),
                why: "it is mapped already".into(),
            });
        }
        let head = locked.history.head_commit();
        let entry = head.and_then(|head| head.module(id)).cloned();
        let size = self.size_to_map(id, size, entry.as_ref(), locked.history.head())?;
        options.check(size, self.page_size())?;
        if self.0.read_only && (entry.is_none() || options.mode == MapMode::Shared) {
            return Err(Error::ReadOnly {
                what: format!("module \"{id}\""),
                why: "a read-only store maps only modules that the head knows, and none with VMSTORE_MAP_SHARED",
            });
        }
        let chain = match &entry {
            None => Vec::new(),
            Some(entry) => {
                let chain = self.0.layers.chain(id, entry.module_commit, entry.size)?;
                check_is(&chain[0], entry)?;
                chain
            }
        };
        let table = PageTable::of_chain(size / self.page_size(), &chain)?;
        let module = locked.bring_up(&Population {
            id,
            size,
            options,
            chain: &chain,
            table: &table,
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
            locked.captures.lists.prepare(module.pages());
        }
        let state = ModuleState {
            module: module.clone(),
            table,
            module_commit: entry.map(|e| e.module_commit),
        };
        locked.modules.insert(id.to_owned(), state);
        Ok(Module {
            store: self.clone(),
            mapped: module,
        })
    }

    /// The size to map, from the size that the caller gave and the recorded size.
    fn size_to_map(
        &self,
        id: &str,
        size: u64,
        recorded: Option<&ModuleEntry>,
        head: u64,
    ) -> Result<u64> {
        match recorded {
            Some(entry) if size == 0 || size == entry.size => {
                check_module_size(id, entry.size)?;
                return Ok(entry.size);
            }
            Some(entry) => {
                return Err(Error::Size {
                    module: id.to_owned(),
                    why: format!("commit {head}, the head, has another size"),
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
                "0 takes the recorded size, but the head does not know this module",
            ));
        }
        let page = self.page_size();
        if size % page != 0 {
            return Err(Error::invalid(
                what,
                format!("it must be a multiple of the page size, {page}"),
            ));
        }
        check_module_size(id, size)?;
        Ok(size)
    }
}

impl Locked<'_> {
    /// Makes the memory of a module, with its bytes, its tracker, and the name of its backing file.
    /// A failed call leaves the names as they were.
    fn bring_up(&mut self, population: &Population<'_>) -> Result<Arc<MappedModule>> {
        let store = self.store;
        let Population { id, options, .. } = *population;
        let image: Option<&Arc<Index>> = population.chain.last();
        let image = image.filter(|index| index.shape == Shape::Image);
        // Memory that the caller brought is written last, when nothing can fail any more. Therefore
        // its backing file gets its name before that.
        let own_bytes = options.mode == MapMode::Adopt || options.fd.is_some();
        let mut names = UnmappedNames {
            store,
            named: (own_bytes && population.chain.is_empty()).then_some(id),
            mapped: false,
        };
        if own_bytes && !store.0.read_only {
            store.link_backing_file(id, population.size, image)?;
        }
        let populated = self.populate(population)?;
        let (wanted, foreign) = (options.tracker, options.foreign_writers);
        let module = Arc::new(MappedModule::new(populated, wanted, foreign, &self.kernel)?);
        if !store.0.read_only {
            if self.captures.arena.is_none() {
                let mut arena = Arena::new(store.0.arena_limit)?;
                arena.warm(WARM);
                self.captures.arena = Some(arena);
            }
            // The name comes last here: a failure before it leaves the old backing file as it was.
            if !own_bytes {
                store.name_backing_file(&module, image)?;
            }
        }
        names.mapped = true;
        Ok(module)
    }
}
