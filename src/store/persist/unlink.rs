//! Removing files that the history does not need any more: at once, or when the record of the
//! deletion is durable.

use std::collections::HashSet;

use crate::format::commit::Event;
use crate::layer::place;
use crate::store::options::LogLevel;
use crate::store::state::{Locked, PendingUnlink, PersistGuard, Store, Unreferenced};

impl Locked<'_> {
    /// Takes out files that the history does not need since the record `sequence`. Returns the
    /// files that a durable history cannot need either, which the caller removes. The other files
    /// are removed when the record is durable.
    pub(in crate::store) fn take_out(
        &mut self,
        persist: &PersistGuard<'_>,
        gone: Vec<Unreferenced>,
        sequence: u64,
    ) -> Vec<Unreferenced> {
        self.warn_about_high_water();
        if gone.is_empty() {
            return gone;
        }
        let names: HashSet<(&str, u64)> = gone.iter().map(|f| (&*f.module, f.commit)).collect();
        let (store, unpersisted) = (self.store, &mut self.unpersisted);
        unpersisted
            .files
            .retain(|file| !names.contains(&(&*file.module, file.commit)));
        let upto = persist.may_be_durable_upto();
        let not_durable = unpersisted.events.iter().filter(|e| e.sequence > upto);
        let not_durable: HashSet<u64> = not_durable
            .filter_map(|event| match &event.event {
                Event::Committed(commit) => Some(commit.number),
                _ => None,
            })
            .collect();
        for file in &gone {
            store.0.layers.forget(&file.module, file.commit);
        }
        let (now, later): (Vec<_>, Vec<_>) = gone
            .into_iter()
            .partition(|file| not_durable.contains(&file.commit));
        let later = later
            .into_iter()
            .map(|file| PendingUnlink { file, sequence });
        unpersisted.unlinks.extend(later);
        now
    }

    /// Takes the files that nothing needs any more once the records up to `last` are durable.
    pub(super) fn take_due_unlinks(&mut self, last: u64) -> Vec<Unreferenced> {
        let unlinks = std::mem::take(&mut self.unpersisted.unlinks);
        let (due, stay): (Vec<_>, _) = unlinks
            .into_iter()
            .partition(|unlink| unlink.sequence <= last);
        self.unpersisted.unlinks = stay;
        due.into_iter().map(|unlink| unlink.file).collect()
    }
}

impl Store {
    /// Removes files that no history needs. The caller does not hold the state lock, because
    /// removing large files can take long and commits would wait.
    pub(in crate::store) fn remove_files(&self, gone: &[Unreferenced]) {
        for file in gone {
            self.remove_file(file);
        }
        let images = gone.iter().filter(|file| file.image);
        self.release_images(images.map(|file| file.module.as_str()));
    }

    /// Removes a file that no history needs.
    pub(in crate::store) fn remove_file(&self, file: &Unreferenced) {
        let place = place(&file.module, file.commit);
        if let Err(error) = self.0.files.unlink(&place) {
            // The next open removes the file.
            self.log(LogLevel::Warning, || {
                format!("{place} is no longer needed, but could not be removed: {error}")
            });
        }
    }
}
