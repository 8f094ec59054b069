//! The caller's handle of a mapped module: its address, its dirty pages, growing and unmapping.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use super::callers_memory::{adopted_spans, check_not_in_a_module};
use crate::dirty::MemoryKind;
use crate::module::{Descriptor, MapMode, MappedModule};
use crate::store::state::{State, Store};
use crate::sys::memory::Backing;
use crate::sys::{host, memfd};
use crate::{Error, Result};

/// A mapped module of a store. Clones are the same module.
#[derive(Clone)]
pub struct Module {
    pub(super) store: Store,
    pub(super) mapped: Arc<MappedModule>,
}

impl Module {
    /// The store it belongs to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    #[cfg(any(test, fuzzing))]
    pub(in crate::store) fn mapped(&self) -> &MappedModule {
        &self.mapped
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
        self.store.check_no_capture()?;
        let mut locked = self.store.enter()?;
        self.store.check_no_capture()?;
        locked.module(&self.mapped)?;
        locked.forget_precopy();
        locked.modules.remove(&self.mapped.id);
        self.mapped.retire();
        Ok(())
    }

    /// Makes the module larger; see `store_grow_module`.
    ///
    /// # Errors
    /// As `store_grow_module`.
    pub fn grow(&self, new_size: u64) -> Result<()> {
        let (store, module) = (self.store(), &self.mapped);
        store.check_no_capture()?;
        let mut locked = store.enter_to_write()?;
        store.check_no_capture()?;
        let size = module.size();
        if new_size % module.granule != 0 {
            return Err(Error::invalid(
                format!("new_size {new_size}"),
                format!("it must be a multiple of the page size, {}", module.granule),
            ));
        }
        if new_size < size {
            return Err(Error::Size {
                module: module.id.clone(),
                why: "a module does not shrink; store_discard gives memory back".into(),
                recorded: size,
                given: new_size,
            });
        }
        let page = store.page_size();
        let state = locked.module(module)?;
        if new_size == size {
            return Ok(());
        }
        check_module_size(&module.id, new_size)?;
        state.table.grow(new_size / page)?;
        module.memory.claim_behind(new_size)?;
        let mapped = self.map_behind(&locked, size, new_size);
        let grown = mapped.and_then(|(kind, own_bytes)| module.grow(new_size, kind, own_bytes));
        grown.inspect_err(|_| module.memory.unmap_behind())
    }

    /// Maps memory behind the module's end. Returns its kind, and whether it may hold bytes other
    /// than zero.
    fn map_behind(&self, state: &State, size: u64, new_size: u64) -> Result<(MemoryKind, bool)> {
        let module = &self.mapped;
        let added = new_size - size;
        let behind = |from: u64| -> Result<(MemoryKind, bool)> {
            let (fd, _) = module.fd()?;
            module
                .memory
                .map(size, added, Backing::Shared(fd, from + size))?;
            Ok((MemoryKind::Shared, false))
        };
        match &module.descriptor {
            Descriptor::None if module.mode == MapMode::Adopt => {
                let at = module.memory.address() + size as usize;
                let page = self.store().page_size();
                check_not_in_a_module(state, at, added)?;
                match adopted_spans(at, added, page)?.as_slice() {
                    [one] => Ok((one.kind, true)),
                    _ => Err(Error::invalid(
                        format!("{added} bytes at {at:#x}"),
                        "the memory behind an adopted module has parts of several kinds; grow the module part by part",
                    )),
                }
            }
            Descriptor::None => {
                module.memory.map(size, added, Backing::Anonymous)?;
                Ok((MemoryKind::Anonymous, false))
            }
            Descriptor::File(file) => {
                file.set_len(new_size)?;
                file.allocate(size, added, false)?;
                behind(0)
            }
            Descriptor::Own(fd) => {
                memfd::set_length(fd.as_raw_fd(), new_size)?;
                behind(0)
            }
            Descriptor::Borrowed(fd, offset, _) => {
                let length = memfd::length(fd.as_raw_fd())?;
                if offset.checked_add(new_size).is_none_or(|end| end > length) {
                    return Err(Error::Size {
                        module: module.id.clone(),
                        why: format!(
                            "the module begins at byte {offset} of the caller's descriptor, which is too short; make the file longer first"
                        ),
                        recorded: length.saturating_sub(*offset),
                        given: new_size,
                    });
                }
                let (kind, _) = behind(*offset)?;
                Ok((kind, true))
            }
        }
    }
}

/// Refuses modules that this host cannot track. Page tables and the library's sets cost about 1/400
/// of a module's size, also if the module is never touched.
pub(in crate::store) fn check_module_size(id: &str, size: u64) -> Result<()> {
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
