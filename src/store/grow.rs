//! Growing a module where it is: memory that is plugged in while the guest runs.

use super::State;
use super::fill::{adopted_spans, not_in_a_module};
use super::map::Module;
use crate::dirty::Kind;
use crate::module::Descriptor;
use crate::sys::memfd;
use crate::sys::memory::Backing;
use crate::{Error, MapMode, Result};

impl Module {
    /// Makes the module larger; see `store_grow_module`.
    ///
    /// # Errors
    /// As `store_grow_module`.
    pub fn grow(&self, new_size: u64) -> Result<()> {
        let (store, module) = (self.store(), &self.mapped);
        store.no_capture()?;
        let mut state = store.enter_to_write()?;
        store.no_capture()?;
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
        let bound = state.bound(module)?;
        if new_size == size {
            return Ok(());
        }
        super::map::check_most(&module.id, new_size)?;
        bound.table.grow(new_size / page)?;
        module.memory.claim_behind(new_size)?;
        let plugged = self.plug(&state, size, new_size);
        let grown = plugged.and_then(|(kind, own_bytes)| module.grow(new_size, kind, own_bytes));
        grown.inspect_err(|_| module.memory.unmap_behind())
    }

    /// Maps memory behind the module's end. Returns its kind, and whether it may have bytes of its own.
    fn plug(&self, state: &State, size: u64, new_size: u64) -> Result<(Kind, bool)> {
        let module = &self.mapped;
        let added = new_size - size;
        let behind = |from: u64| -> Result<(Kind, bool)> {
            let (fd, _) = module.fd()?;
            module
                .memory
                .map(size, added, Backing::Shared(fd, from + size))?;
            Ok((Kind::Shared, false))
        };
        match &module.descriptor {
            Descriptor::None if module.mode == MapMode::Adopt => {
                let at = module.memory.address() + size as usize;
                let page = self.store().page_size();
                not_in_a_module(state, at, added)?;
                match adopted_spans(at, added, page)?.as_slice() {
                    [one] => Ok((one.kind, true)),
                    _ => Err(Error::invalid(
                        format!("{added} bytes at {at:#x}"),
                        "memory that an adopted module grows by must be of one kind; grow it in steps",
                    )),
                }
            }
            Descriptor::None => {
                module.memory.map(size, added, Backing::Anonymous)?;
                Ok((Kind::Anonymous, false))
            }
            Descriptor::File(file) => {
                file.set_len(new_size)?;
                file.allocate(size, added, false)?;
                behind(0)
            }
            Descriptor::Own(fd) => {
                use std::os::fd::AsRawFd;
                memfd::set_length(fd.as_raw_fd(), new_size)?;
                behind(0)
            }
            Descriptor::Borrowed(fd, offset, _) => {
                use std::os::fd::AsRawFd;
                let length = memfd::length(fd.as_raw_fd())?;
                if offset.checked_add(new_size).is_none_or(|end| end > length) {
                    return Err(Error::Size {
                        module: module.id.clone(),
                        why: format!(
                            "the caller's descriptor ends before it, which begins at {offset}; make it longer first"
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
