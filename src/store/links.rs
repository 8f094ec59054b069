//! `<module>_last`: links to the module commits that the head uses. They are for people; the store
//! itself never reads them but to repair them, so that a failure here fails no call.

use crate::format::commit::Commit;
use crate::format::name;
use crate::sys::fs::{Dir, Kind, Place};

use super::{LogLevel, State, Store};
use crate::{Error, Result};

impl Store {
    /// Brings the links of all modules to the head.
    pub(super) fn update_links(&self, state: &mut State) {
        match self.try_update_links(state) {
            Ok(()) => state.links_behind = false,
            Err(error) => {
                state.links_behind = true;
                self.log(LogLevel::Warning, || {
                    format!("the links of the head are behind: {error}")
                });
            }
        }
    }

    fn try_update_links(&self, state: &State) -> Result<()> {
        let files = &*self.0.files;
        let head = state.history.head_commit();
        for entry in head.iter().flat_map(|commit| &commit.modules) {
            self.point(&entry.id, entry.module_commit)?;
        }
        for entry in files.list(Dir::Root)? {
            let Some(module) = entry.name.strip_suffix("_last") else {
                continue;
            };
            let known = head.is_some_and(|commit| commit.module(module).is_some());
            if entry.kind == Kind::Link && name::check_module_id(module).is_ok() && !known {
                files.unlink(&Place::root(entry.name))?;
            }
        }
        Ok(())
    }

    /// Makes the link of one module point to a module commit, unless it does.
    fn point(&self, module: &str, commit: u64) -> Result<()> {
        let files = &*self.0.files;
        let place = Place::root(name::last(module));
        let target = name::module_commit(module, commit);
        if files.read_link(&place)?.as_deref() == Some(target.as_str()) {
            return Ok(());
        }
        self.repoint(module, commit)
    }

    /// Makes the link of one module point to a module commit.
    fn repoint(&self, module: &str, commit: u64) -> Result<()> {
        let files = &*self.0.files;
        let target = name::module_commit(module, commit);
        let temporary = Place::hidden(format!("{}link", name::TEMPORARY));
        files.unlink(&temporary)?;
        files.symlink(&target, &temporary)?;
        files.rename(&temporary, &Place::root(name::last(module)))
    }

    /// After a commit or restore: only the links of modules whose module commit is another than at the
    /// `old` head.
    pub(super) fn move_links(&self, state: &mut State, old: Option<&Commit>) {
        self.tell_of_high_water(state);
        if state.links_behind {
            return self.update_links(state);
        }
        let moved = (|| {
            let Some(head) = state.history.head_commit() else {
                return Ok(());
            };
            for entry in &head.modules {
                let before = old.and_then(|old| old.module(&entry.id));
                if before.is_none_or(|before| before.module_commit != entry.module_commit) {
                    self.repoint(&entry.id, entry.module_commit)?;
                }
            }
            for entry in old.iter().flat_map(|old| &old.modules) {
                if head.module(&entry.id).is_none() {
                    self.0.files.unlink(&Place::root(name::last(&entry.id)))?;
                }
            }
            Ok::<_, Error>(())
        })();
        if let Err(error) = moved {
            state.links_behind = true;
            self.log(LogLevel::Warning, || {
                format!("the links of the head are behind: {error}")
            });
        }
    }
}
