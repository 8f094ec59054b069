//! Which module commit files are needed: those that a commit's map names, and those below them.

use std::collections::{BTreeMap, BTreeSet};

use super::history::History;
use crate::format::commit::{Commit, ModuleEntry};
use crate::layer::LayerFiles;
use crate::{Error, Result};

/// A file that is needed.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct FileRef {
    /// The one below; 0: none, it is an image.
    pub(in crate::store) parent: u64,
    /// How many commits' maps name it. At 0 it is there for its children alone.
    pub(in crate::store) refcount: usize,
    /// Its footer cannot be read: what is below it is not known.
    unreadable: bool,
}

/// A file that nothing needs any more.
#[derive(Debug, Clone)]
pub(in crate::store) struct Unreferenced {
    pub(in crate::store) module: String,
    pub(in crate::store) commit: u64,
    /// It was an image, of which a module's backing file may be another name.
    pub(in crate::store) image: bool,
}

/// The needed files of one module, by commit.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct ModuleRefs {
    files: BTreeMap<u64, FileRef>,
    /// How many of them are unreadable.
    unreadable: usize,
}

impl ModuleRefs {
    pub(in crate::store) fn get(&self, commit: u64) -> Option<&FileRef> {
        self.files.get(&commit)
    }

    /// All of them, ascending: parents before their children.
    pub(in crate::store) fn files(&self) -> impl Iterator<Item = (u64, &FileRef)> {
        self.files.iter().map(|(commit, file)| (*commit, file))
    }

    /// The needed files whose parent is `commit`. They are newer than it.
    pub(in crate::store) fn children(&self, commit: u64) -> impl Iterator<Item = u64> {
        self.files
            .range(commit + 1..)
            .filter(move |(_, file)| file.parent == commit && !file.unreadable)
            .map(|(child, _)| *child)
    }

    /// Whether a file other than `commit` may have any file as its parent, because its footer
    /// cannot be read.
    pub(in crate::store) fn is_unclear(&self, commit: u64) -> bool {
        let mut newer = self.files.range(commit + 1..);
        self.unreadable > 0 && newer.any(|(_, file)| file.unreadable)
    }

    /// Names a file once more. What is new is counted in, with all that is below it.
    fn add_ref(&mut self, layers: &LayerFiles, module: &str, commit: u64) -> Result<()> {
        let mut next = commit;
        while next != 0 && !self.files.contains_key(&next) {
            let mut file = FileRef::default();
            match layers.parent(module, next) {
                Ok(parent) => file.parent = parent,
                Err(Error::Corrupt { .. } | Error::Version { .. }) => file.unreadable = true,
                Err(error) => return Err(error),
            }
            self.unreadable += usize::from(file.unreadable);
            next = self.files.entry(next).or_insert(file).parent;
        }
        if let Some(file) = self.files.get_mut(&commit) {
            file.refcount += 1;
        }
        Ok(())
    }

    pub(in crate::store) fn set_parent(&mut self, commit: u64, parent: u64) {
        if let Some(file) = self.files.get_mut(&commit) {
            file.parent = parent;
        }
    }

    /// Takes a file out if nothing needs it, and then those below it of which the same is true.
    /// Appends what went to `gone`.
    pub(in crate::store) fn drop_unneeded(
        &mut self,
        module: &str,
        commit: u64,
        gone: &mut Vec<Unreferenced>,
    ) {
        let mut next = commit;
        while let Some(file) = self.files.get(&next) {
            let (parent, refcount, unreadable) = (file.parent, file.refcount, file.unreadable);
            let image = parent == 0;
            if refcount > 0 || self.is_unclear(next) || self.children(next).next().is_some() {
                return;
            }
            self.files.remove(&next);
            self.unreadable -= usize::from(unreadable);
            gone.push(Unreferenced {
                module: module.to_owned(),
                commit: next,
                image,
            });
            next = parent;
        }
    }
}

/// The needed files of a store, by module.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct FileRefs {
    pub(in crate::store) modules: BTreeMap<String, ModuleRefs>,
}

impl FileRefs {
    /// The files that a history needs, at the cost of a footer for each.
    pub(in crate::store) fn of(layers: &LayerFiles, history: &History) -> Result<Self> {
        let mut refs = Self::default();
        for commit in history.commits() {
            refs.add(layers, commit)?;
        }
        Ok(refs)
    }

    /// Counts a commit in.
    pub(in crate::store) fn add(&mut self, layers: &LayerFiles, commit: &Commit) -> Result<()> {
        for ModuleEntry {
            id, module_commit, ..
        } in &commit.modules
        {
            if !self.modules.contains_key(id) {
                self.modules.insert(id.clone(), ModuleRefs::default());
            }
            if let Some(module) = self.modules.get_mut(id) {
                module.add_ref(layers, id, *module_commit)?;
            }
        }
        Ok(())
    }

    /// Counts a commit out, and returns the files that nothing needs from now on.
    pub(in crate::store) fn remove(&mut self, commit: &Commit) -> Vec<Unreferenced> {
        let mut gone = Vec::new();
        for entry in &commit.modules {
            let Some(module) = self.modules.get_mut(&entry.id) else {
                continue;
            };
            if let Some(file) = module.files.get_mut(&entry.module_commit) {
                file.refcount = file.refcount.saturating_sub(1);
            }
            module.drop_unneeded(&entry.id, entry.module_commit, &mut gone);
        }
        gone
    }

    pub(in crate::store) fn contains(&self, module: &str, commit: u64) -> bool {
        self.modules
            .get(module)
            .is_some_and(|module| module.files.contains_key(&commit))
    }

    /// The modules of which not all files can be read, so that none may be taken for unneeded.
    pub(in crate::store) fn unclear(&self) -> BTreeSet<String> {
        let unclear = self
            .modules
            .iter()
            .filter(|(_, module)| module.is_unclear(0));
        unclear.map(|(module, _)| module.clone()).collect()
    }
}
