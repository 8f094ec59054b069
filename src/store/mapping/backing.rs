//! The backing file `<module>` of a module. In shared mode the backing file is the memory itself.
//! In all other modes it is a second name (a hard link) of the image below the head, or an empty
//! file of the module's size.

use std::sync::Arc;

use crate::Result;
use crate::format::index::Index;
use crate::format::name;
use crate::layer::place;
use crate::module::{MapMode, MappedModule};
use crate::store::options::LogLevel;
use crate::store::state::{Locked, Store};
use crate::sys::fs::{Access, File, Place};

pub(super) fn backing_place() -> Place {
    Place::hidden(format!("{}backing", name::TEMPORARY))
}

impl Store {
    /// Gives a module's backing file its name.
    pub(super) fn name_backing_file(
        &self,
        module: &MappedModule,
        image: Option<&Arc<Index>>,
    ) -> Result<()> {
        if module.mode == MapMode::Shared {
            let name = Place::root(module.id.as_str());
            return self.0.files.rename(&backing_place(), &name);
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
                    format!(
                        "the backing file of module \"{id}\" could not be made a link to its image and is an empty file: {error}"
                    )
                });
                false
            }
        };
        if !linked {
            self.new_backing_file(|file| file.set_len(size))?;
        }
        files.rename(&temporary, &Place::root(id))?;
        // If both names are links to the same file, the rename does nothing, and the temporary name
        // is still there.
        files.unlink(&temporary)
    }

    /// Makes a new backing file under its temporary name.
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

    /// As [`Locked::release_image`], for a caller without the state lock. The files are read
    /// before the state is locked, because commits wait for the lock.
    pub(in crate::store) fn release_images<'m>(&self, modules: impl IntoIterator<Item = &'m str>) {
        for module in modules {
            let head = self.lock_state().history.head_commit().cloned();
            let entry = head.as_ref().and_then(|head| head.module(module));
            // This fills the cache. An error is reported by the call of `release_image` below.
            let warm =
                entry.map(|entry| self.0.layers.chain(module, entry.module_commit, entry.size));
            // While this descriptor is open, the rename does not free the blocks of the old file.
            // They are freed when the descriptor is closed, after the state lock is given back.
            let old = self.0.files.open(&Place::root(module), Access::Read);
            self.lock_state().release_image(module);
            drop((warm, old));
        }
    }
}

impl Locked<'_> {
    /// The backing file of a module may be a second name of an image that was removed. This makes
    /// it a name of the image below the head. If the module does not exist any more, the backing
    /// file is removed.
    fn release_image(&self, module: &str) {
        let mapped = self.modules.get(module).map(|state| &state.module);
        if mapped.is_some_and(|mapped| mapped.mode == MapMode::Shared) {
            return;
        }
        if let Err(error) = self.relink_backing_file(module) {
            // The next mapping of the module makes the backing file anew.
            self.store.log(LogLevel::Warning, || {
                format!(
                    "the backing file of module \"{module}\" still names an image that is no longer needed: {error}"
                )
            });
        }
    }

    fn relink_backing_file(&self, module: &str) -> Result<()> {
        let store = self.store;
        let mapped = self.modules.get(module).map(|state| &state.module);
        let backing = Place::root(module);
        if store.0.files.open(&backing, Access::Read)?.is_none() {
            return Ok(());
        }
        let head = self.history.head_commit();
        let (size, image) = match (head.and_then(|head| head.module(module)), mapped) {
            (Some(entry), _) => {
                let layers = &store.0.layers;
                let mut chain = layers.chain(module, entry.module_commit, entry.size)?;
                (entry.size, chain.pop())
            }
            (None, Some(mapped)) => (mapped.size(), None),
            (None, None) => return store.0.files.unlink(&backing),
        };
        let size = mapped.map_or(size, |mapped| mapped.size());
        store.link_backing_file(module, size, image.as_ref())
    }
}
