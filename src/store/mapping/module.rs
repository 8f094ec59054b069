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

/// A mapped module of a store. A clone is another handle of the same module.
///
/// [`Store::map_module`] makes the value. [`Module::unmap`] and [`Store::close`] end it. Dropping
/// all clones does not unmap the module: the store keeps it. After the end of the module, its
/// memory stays at its address until the last clone is dropped.
#[derive(Clone)]
pub struct Module {
    pub(super) store: Store,
    pub(super) mapped: Arc<MappedModule>,
}

impl Module {
    /// The store that the module belongs to.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    #[cfg(any(test, fuzzing))]
    pub(in crate::store) fn mapped(&self) -> &MappedModule {
        &self.mapped
    }

    /// The address of the first byte of the module's memory, a multiple of the page size. Never
    /// waits.
    ///
    /// The address stays valid until the module is unmapped and the last clone of this value is
    /// dropped. The guest and other threads can write to the memory at any time. Therefore use raw
    /// pointers and no Rust references, unless nobody else writes and no call of the library
    /// changes the memory meanwhile.
    #[must_use]
    pub fn address(&self) -> usize {
        self.mapped.memory.address()
    }

    /// The size of the module in bytes. Never waits.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.mapped.size()
    }

    /// The descriptor behind a module in mode [`MapMode::Shared`] or [`MapMode::Memfd`], and the
    /// offset in bytes at which the module begins; see `store_module_fd`.
    ///
    /// Pass the descriptor to another process, for example a vhost-user back end. It belongs to the
    /// library and stays the same until the module is unmapped: duplicate or send it, and do not
    /// close it. The kernel tracker does not see writes that others make through it. Never waits.
    ///
    /// # Errors
    /// [`Error::Unsupported`]: a private or an adopted module has no descriptor.
    pub fn fd(&self) -> Result<(RawFd, u64)> {
        self.mapped.fd()
    }

    /// Reports that `length` bytes from `offset` were written, with any tracker; see
    /// `store_mark_dirty`.
    ///
    /// Rounds outward to whole pages. Write first, then mark, both before the capture. Reporting a
    /// page that did not change costs only time. Any thread may call this at any time. Never waits,
    /// and makes no system call.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the range ends beyond the module.
    pub fn mark_dirty(&self, offset: u64, length: u64) -> Result<()> {
        self.mapped.mark_dirty(offset, length)
    }

    /// Reports the pages whose bits are set in a bitmap, with any tracker. This is the format of
    /// KVM's dirty log and of the logs of vhost and VFIO; see `store_import_dirty_bitmap`.
    ///
    /// `offset` is the place of the bitmap's first page in the module, in bytes, a multiple of the
    /// page size. Page `i` is bit `i % 64` of word `i / 64` of `bitmap`. Bits from `page_count` on
    /// are ignored. The log must count pages of the host's size. Take the log after the writes,
    /// import it, then capture. Never waits, and makes no system call.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the range ends beyond the module, or `offset` is not a multiple of the
    /// page size.
    pub fn import_dirty_bitmap(
        &self,
        offset: u64,
        page_count: u64,
        bitmap: impl Iterator<Item = u64>,
    ) -> Result<()> {
        self.mapped.import_bitmap(offset, page_count, bitmap)
    }

    /// Gives memory back to the host, for a balloon or free page reporting; see `store_discard`.
    ///
    /// The range reads as zeros from now on, takes no memory until it is written again, and is
    /// dirty. `offset` and `length` are in bytes, multiples of the page size. The guest may run,
    /// but must not use the range. Do not discard pages that a device has pinned. Waits only for a
    /// scan of the same module.
    ///
    /// # Errors
    /// [`Error::Invalid`]: alignment, or the range ends beyond the module. [`Error::NoMemory`],
    /// [`Error::Io`].
    pub fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.store.check_reentry()?;
        self.mapped.discard(offset, length)
    }

    /// Unmaps the module; see `store_unmap_module`.
    ///
    /// The module's writes since the last commit are dropped. The module stays in the history, and
    /// later commits carry it over unchanged. The memory stays at its address until the last clone
    /// of this value is dropped.
    ///
    /// # Errors
    /// [`Error::Busy`]: a capture is outstanding. [`Error::Handle`]: the module was unmapped
    /// before.
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

    /// Makes the module larger, at its address; see `store_grow_module`.
    ///
    /// `new_size` is in bytes, a multiple of the page size. The guest may run. The new part reads
    /// as zeros, but adopted memory and a descriptor of the caller keep their bytes there; make
    /// these longer before the call. The next commit has the new size. Room for the new part is in
    /// [`MapOptions::max_size`](crate::MapOptions::max_size), in the caller's reservation, or where
    /// nothing happens to be mapped. After an error the module is as it was.
    ///
    /// # Errors
    /// [`Error::Invalid`]: alignment, or adopted memory that is not mapped there. [`Error::Size`]:
    /// `new_size` is smaller than the module, or the descriptor is too short. [`Error::Exists`]:
    /// something is mapped behind the module. [`Error::Busy`]: a capture is outstanding.
    /// [`Error::ReadOnly`], [`Error::Poisoned`], [`Error::NoMemory`], [`Error::Unsupported`],
    /// [`Error::Io`].
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
