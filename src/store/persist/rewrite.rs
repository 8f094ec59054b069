//! Files of unpersisted commits that another owner wrote, or whose sync may have failed.

use std::sync::Arc;

use crate::format::name;
use crate::layer::{place, rewrite_layer};
use crate::store::state::{Store, UnsyncedFile};
use crate::sys::fs::Place;
use crate::{Error, Result};

impl Store {
    /// Syncs a file of a dead owner and reads it back, because the kernel may have reported a write
    /// error to that owner alone. If the journal carries the file inline, damage counts as a failed
    /// sync. The next open then writes the file again.
    pub(super) fn sync_inherited(&self, file: &UnsyncedFile, inline: bool) -> Result<()> {
        let read_back = self.sync_and_check(&file.module, file.commit);
        read_back.map_err(|error| match error {
            Error::Corrupt { file, why } if inline => Error::Sync {
                operation: format!("fdatasync({file}), read back: {why}"),
                errno: libc::EIO,
            },
            other => other,
        })
    }

    fn sync_and_check(&self, module: &str, commit: u64) -> Result<()> {
        let layers = &self.0.layers;
        layers.open(module, commit)?.sync()?;
        let index = layers.load(module, commit)?;
        layers.check_pages(&index.into())
    }

    /// Copies a module commit to a new file, and checks each page. The new file is durable before
    /// it gets the name.
    pub(super) fn write_again(&self, module: &str, commit: u64) -> Result<()> {
        let layers = &self.0.layers;
        let index = Arc::new(layers.load(module, commit)?);
        let temporary = Place::hidden(format!("{}again", name::TEMPORARY));
        let copy = rewrite_layer(layers, &[index], 0, &temporary, &mut |_| Ok(()))?;
        let synced = copy.file.sync();
        let named = synced.and_then(|()| layers.files.rename(&temporary, &place(module, commit)));
        named.inspect_err(|_| drop(layers.files.unlink(&temporary)))?;
        // The cache still has the index of the old file.
        layers.forget(module, commit);
        Ok(())
    }
}
