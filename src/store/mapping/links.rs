//! `<module>_last`: links to the module commits that the head uses. The links are for people. The
//! store itself reads a link only to repair it. Therefore an error here fails no call.

use crate::Result;
use crate::format::commit::Commit;
use crate::format::name;
use crate::store::options::LogLevel;
use crate::store::state::{Locked, Store};
use crate::sys::fs::{Dir, EntryKind, Place};

impl Locked<'_> {
    /// Makes the links of all modules show the head.
    pub(in crate::store) fn update_links(&mut self) {
        let updated = self.try_update_links();
        self.note_links(updated);
    }

    /// Makes the links show the head if an earlier call could not.
    pub(in crate::store) fn catch_up_links(&mut self) {
        if self.links_behind {
            self.update_links();
        }
    }

    /// After a commit or restore: changes the links of the modules whose module commit at the `old`
    /// head was another than at the head now.
    pub(in crate::store) fn move_links(&mut self, old: Option<&Commit>) {
        self.warn_about_high_water();
        if self.links_behind {
            return self.update_links();
        }
        let moved = self.try_move_links(old);
        if moved.is_err() {
            self.note_links(moved);
        }
    }

    fn note_links(&mut self, outcome: Result<()>) {
        self.links_behind = outcome.is_err();
        if let Err(error) = outcome {
            self.store.log(LogLevel::Warning, || {
                format!(
                    "the _last links do not show the head yet; the next call tries again: {error}"
                )
            });
        }
    }

    fn try_update_links(&self) -> Result<()> {
        let files = &*self.store.0.files;
        let head = self.history.head_commit();
        for entry in head.iter().flat_map(|commit| &commit.modules) {
            self.store.point(&entry.id, entry.module_commit)?;
        }
        for entry in files.list(Dir::Root)? {
            let Some(module) = entry.name.strip_suffix("_last") else {
                continue;
            };
            let known = head.is_some_and(|commit| commit.module(module).is_some());
            let is_ours = entry.kind == EntryKind::Link && name::check_module_id(module).is_ok();
            if is_ours && !known {
                files.unlink(&Place::root(entry.name))?;
            }
        }
        Ok(())
    }

    fn try_move_links(&self, old: Option<&Commit>) -> Result<()> {
        let Some(head) = self.history.head_commit() else {
            return Ok(());
        };
        for entry in &head.modules {
            let before = old.and_then(|old| old.module(&entry.id));
            if before.is_none_or(|before| before.module_commit != entry.module_commit) {
                self.store.repoint(&entry.id, entry.module_commit)?;
            }
        }
        for entry in old.iter().flat_map(|old| &old.modules) {
            if head.module(&entry.id).is_none() {
                let link = Place::root(name::last(&entry.id));
                self.store.0.files.unlink(&link)?;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Makes the link of a module point to a module commit. Does nothing if the link points there
    /// already.
    fn point(&self, module: &str, commit: u64) -> Result<()> {
        let place = Place::root(name::last(module));
        let target = name::module_commit(module, commit);
        if self.0.files.read_link(&place)?.as_deref() == Some(target.as_str()) {
            return Ok(());
        }
        self.repoint(module, commit)
    }

    /// Makes the link of a module anew, and makes it point to a module commit.
    fn repoint(&self, module: &str, commit: u64) -> Result<()> {
        let files = &*self.0.files;
        let target = name::module_commit(module, commit);
        let temporary = Place::hidden(format!("{}link", name::TEMPORARY));
        files.unlink(&temporary)?;
        files.symlink(&target, &temporary)?;
        files.rename(&temporary, &Place::root(name::last(module)))
    }
}
