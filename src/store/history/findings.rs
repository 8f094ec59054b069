//! The findings of a verification, and which commits are good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::format::commit::{Commit, ModuleEntry};
use crate::format::index::PageLookup;
use crate::layer::place;
use crate::store::state::Store;
use crate::{Error, Result};

/// A module and the number of one of its module commits.
pub(super) type FileId = (String, u64);

/// A result that [`Store::verify_all`] reports.
#[derive(Debug)]
pub enum Finding<'a> {
    /// A file is damaged.
    Damage {
        /// The name of the file, relative to the store.
        file: &'a str,
        /// The module that the file belongs to. Empty: `commits` or the journal.
        module: &'a str,
        /// The commit that wrote the file. 0: `commits` or the journal.
        commit: u64,
        /// The number of the damaged page of the module. `None`: the file as a whole.
        page: Option<u64>,
        /// What is wrong.
        error: &'a Error,
    },
    /// Everything that the commit with this number needs is intact.
    Good(u64),
    /// The commit with this number needs something that is damaged.
    Lost(u64),
}

/// A function that receives findings, or `None`. If it returns `false`, the verification ends with
/// [`Error::Cancelled`]. A call into the same store from inside the function gives [`Error::Busy`],
/// except calls that never wait (see [threads](crate#threads)).
pub type Listener<'a> = Option<&'a mut dyn FnMut(&Finding<'_>) -> bool>;

/// The findings so far.
pub(super) struct Report<'s, 'l> {
    store: &'s Store,
    listener: Listener<'l>,
    first: Option<Error>,
    /// Files that are damaged as a whole.
    files: BTreeSet<FileId>,
    /// Damaged pages of files that are not damaged as a whole.
    pages: BTreeMap<FileId, BTreeSet<u64>>,
}

impl<'s, 'l> Report<'s, 'l> {
    pub(super) fn new(store: &'s Store, listener: Listener<'l>) -> Self {
        Self {
            store,
            listener,
            first: None,
            files: BTreeSet::new(),
            pages: BTreeMap::new(),
        }
    }

    /// Whether an error is a finding, after which the verification goes on. Without a listener, the
    /// first error ends the call.
    pub(super) fn takes(&self, error: &Error) -> bool {
        let damage = matches!(
            error,
            Error::Corrupt { .. } | Error::Version { .. } | Error::Io { .. }
        );
        damage && self.listener.is_some()
    }

    /// Reports damage of a file as a whole, or of one page.
    pub(super) fn note(
        &mut self,
        id: Option<&FileId>,
        page: Option<u64>,
        error: Error,
    ) -> Result<()> {
        if !self.takes(&error) {
            return Err(error);
        }
        let name = match (id, &error) {
            (Some((module, commit)), _) => place(module, *commit).to_string(),
            (None, Error::Corrupt { file, .. } | Error::Version { file, .. }) => file.clone(),
            (None, _) => String::new(),
        };
        match (id, page) {
            (Some(id), Some(page)) => {
                self.pages.entry(id.clone()).or_default().insert(page);
            }
            (Some(id), None) => {
                self.files.insert(id.clone());
            }
            (None, _) => {}
        }
        self.report(&Finding::Damage {
            file: &name,
            module: id.map_or("", |(module, _)| module),
            commit: id.map_or(0, |(_, commit)| *commit),
            page,
            error: &error,
        })?;
        self.first.get_or_insert(error);
        Ok(())
    }

    fn report(&mut self, finding: &Finding<'_>) -> Result<()> {
        if let Some(listener) = &mut self.listener {
            let _inside = self.store.entering_callback();
            if !listener(finding) {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }

    /// Reports which commits are good. If there was any damage, returns the first error.
    pub(super) fn judge(mut self, commits: &[Arc<Commit>]) -> Result<()> {
        if self.listener.is_some() {
            let mut known = BTreeMap::new();
            for commit in commits {
                let mut good = true;
                for module in &commit.modules {
                    let id = (module.id.clone(), module.module_commit);
                    let whole = match known.get(&id) {
                        Some(whole) => *whole,
                        None => self.is_whole(module),
                    };
                    known.insert(id, whole);
                    good &= whole;
                }
                let number = commit.number;
                self.report(&if good {
                    Finding::Good(number)
                } else {
                    Finding::Lost(number)
                })?;
            }
        }
        self.first.map_or(Ok(()), Err)
    }

    /// Whether a module commit is free of damage: it and all files below it can be read, and every
    /// page that it uses from them is intact.
    fn is_whole(&self, module: &ModuleEntry) -> bool {
        if self.files.is_empty() && self.pages.is_empty() {
            return true;
        }
        let mut above = Vec::new();
        let mut next = module.module_commit;
        while next != 0 {
            let id = (module.id.clone(), next);
            if self.files.contains(&id) {
                return false;
            }
            let Ok(index) = self.store.0.layers.index(&module.id, next) else {
                return false;
            };
            let shown = |page: &u64| {
                let hides = |index: &Arc<crate::format::index::Index>| {
                    index.find(*page) != PageLookup::Absent
                };
                !above.iter().any(hides)
            };
            if self.pages.get(&id).is_some_and(|bad| bad.iter().any(shown)) {
                return false;
            }
            next = index.parent;
            above.push(index);
        }
        true
    }
}
