//! Which module commit files are needed: the files that a commit's map names, and the files below
//! them.

use std::collections::{BTreeMap, BTreeSet};

use super::history::History;
use crate::format::commit::{Commit, ModuleEntry};
use crate::layer::LayerFiles;
use crate::{Error, Result};

/// A file that is needed.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct FileRef {
    /// The module commit below this one. 0: there is none, the file is an image.
    pub(in crate::store) parent: u64,
    /// How many commits' maps name the file. At 0, only the file's children need it.
    pub(in crate::store) refcount: usize,
    /// The file's footer cannot be read, therefore the files below it are not known.
    unreadable: bool,
}

/// A file that nothing needs any more.
#[derive(Debug, Clone)]
pub(in crate::store) struct Unreferenced {
    pub(in crate::store) module: String,
    pub(in crate::store) commit: u64,
    /// The file was an image. The backing file of the module may be another name of it.
    pub(in crate::store) image: bool,
}

/// The needed files of one module, by the number of the commit.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct ModuleRefs {
    files: BTreeMap<u64, FileRef>,
    /// How many of the files are unreadable.
    unreadable: usize,
}

impl ModuleRefs {
    pub(in crate::store) fn get(&self, commit: u64) -> Option<&FileRef> {
        self.files.get(&commit)
    }

    /// All files, ascending by commit: parents before their children.
    pub(in crate::store) fn files(&self) -> impl Iterator<Item = (u64, &FileRef)> {
        self.files.iter().map(|(commit, file)| (*commit, file))
    }

    /// The needed files whose parent is `commit`. They are newer than `commit`.
    pub(in crate::store) fn children(&self, commit: u64) -> impl Iterator<Item = u64> {
        self.files
            .range(commit + 1..)
            .filter(move |(_, file)| file.parent == commit && !file.unreadable)
            .map(|(child, _)| *child)
    }

    /// Whether there is an unreadable file newer than `commit`. Any older file may be the parent of
    /// the unreadable file, also `commit`.
    pub(in crate::store) fn is_unclear(&self, commit: u64) -> bool {
        let mut newer = self.files.range(commit + 1..);
        self.unreadable > 0 && newer.any(|(_, file)| file.unreadable)
    }

    /// Counts one more reference to a file. A file that is not known yet is added, with all files
    /// below it.
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

    /// Takes a file out if nothing needs it, and then each file below it that nothing needs any
    /// more. Appends these files to `gone`.
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
    /// The files that a history needs. This reads a footer for each file.
    pub(in crate::store) fn of(layers: &LayerFiles, history: &History) -> Result<Self> {
        let mut refs = Self::default();
        for commit in history.commits() {
            refs.add(layers, commit)?;
        }
        Ok(refs)
    }

    /// Counts the references of a commit in.
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

    /// Counts the references of a commit out. Returns the files that nothing needs any more.
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

    /// The modules with unreadable files. No file of such a module may be taken for unneeded.
    pub(in crate::store) fn unclear(&self) -> BTreeSet<String> {
        let unclear = self
            .modules
            .iter()
            .filter(|(_, module)| module.is_unclear(0));
        unclear.map(|(module, _)| module.clone()).collect()
    }
}
