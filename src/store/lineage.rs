//! Which module commit files are needed: those that a commit's map names, and those below them.

use std::collections::{BTreeMap, BTreeSet};

use super::history::History;
use crate::format::commit::{Commit, ModuleEntry};
use crate::pages::PageFiles;
use crate::{Error, Result};

/// A file that is needed.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// The one below; 0: none, it is an image.
    pub(super) parent: u64,
    /// How many commits' maps name it. At 0 it is there for its children alone.
    pub(super) named: usize,
    /// Its footer cannot be read: what is below it is not known.
    unreadable: bool,
}

/// A file that nothing needs any more.
#[derive(Debug, Clone)]
pub(super) struct Gone {
    pub(super) module: String,
    pub(super) commit: u64,
    /// It was an image, of which a module's backing file may be another name.
    pub(super) image: bool,
}

/// The needed files of one module, by commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Family {
    nodes: BTreeMap<u64, Node>,
    /// How many of them are unreadable.
    unreadable: usize,
}

impl Family {
    pub(super) fn get(&self, commit: u64) -> Option<&Node> {
        self.nodes.get(&commit)
    }

    /// All of them, ascending: parents before their children.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (u64, &Node)> {
        self.nodes.iter().map(|(commit, node)| (*commit, node))
    }

    /// The needed files whose parent is `commit`. They are newer than it.
    pub(super) fn children(&self, commit: u64) -> impl Iterator<Item = u64> {
        self.nodes
            .range(commit + 1..)
            .filter(move |(_, node)| node.parent == commit && !node.unreadable)
            .map(|(child, _)| *child)
    }

    /// Whether a file other than `commit` may have any file as its parent, because its footer
    /// cannot be read.
    pub(super) fn is_unclear(&self, commit: u64) -> bool {
        let mut newer = self.nodes.range(commit + 1..);
        self.unreadable > 0 && newer.any(|(_, node)| node.unreadable)
    }

    /// Names a file once more. What is new is counted in, with all that is below it.
    fn name(&mut self, pages: &PageFiles, module: &str, commit: u64) -> Result<()> {
        let mut next = commit;
        while next != 0 && !self.nodes.contains_key(&next) {
            let mut node = Node::default();
            match pages.parent(module, next) {
                Ok(parent) => node.parent = parent,
                Err(Error::Corrupt { .. } | Error::Version { .. }) => node.unreadable = true,
                Err(error) => return Err(error),
            }
            self.unreadable += usize::from(node.unreadable);
            next = self.nodes.entry(next).or_insert(node).parent;
        }
        if let Some(node) = self.nodes.get_mut(&commit) {
            node.named += 1;
        }
        Ok(())
    }

    pub(super) fn set_parent(&mut self, commit: u64, parent: u64) {
        if let Some(node) = self.nodes.get_mut(&commit) {
            node.parent = parent;
        }
    }

    /// Takes a file out if nothing needs it, and then those below it of which the same is true.
    /// Appends what went to `gone`.
    pub(super) fn drop_unneeded(&mut self, module: &str, commit: u64, gone: &mut Vec<Gone>) {
        let mut next = commit;
        while let Some(node) = self.nodes.get(&next) {
            let (parent, named, unreadable) = (node.parent, node.named, node.unreadable);
            let image = parent == 0;
            if named > 0 || self.is_unclear(next) || self.children(next).next().is_some() {
                return;
            }
            self.nodes.remove(&next);
            self.unreadable -= usize::from(unreadable);
            gone.push(Gone {
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
pub(super) struct Lineage {
    pub(super) modules: BTreeMap<String, Family>,
}

impl Lineage {
    /// The files that a history needs, at the cost of a footer for each.
    pub(super) fn of(pages: &PageFiles, history: &History) -> Result<Self> {
        let mut lineage = Self::default();
        for commit in history.commits() {
            lineage.add(pages, commit)?;
        }
        Ok(lineage)
    }

    /// Counts a commit in.
    pub(super) fn add(&mut self, pages: &PageFiles, commit: &Commit) -> Result<()> {
        for ModuleEntry {
            id, module_commit, ..
        } in &commit.modules
        {
            if !self.modules.contains_key(id) {
                self.modules.insert(id.clone(), Family::default());
            }
            if let Some(family) = self.modules.get_mut(id) {
                family.name(pages, id, *module_commit)?;
            }
        }
        Ok(())
    }

    /// Counts a commit out, and returns the files that nothing needs from now on.
    pub(super) fn remove(&mut self, commit: &Commit) -> Vec<Gone> {
        let mut gone = Vec::new();
        for entry in &commit.modules {
            let Some(family) = self.modules.get_mut(&entry.id) else {
                continue;
            };
            if let Some(node) = family.nodes.get_mut(&entry.module_commit) {
                node.named = node.named.saturating_sub(1);
            }
            family.drop_unneeded(&entry.id, entry.module_commit, &mut gone);
        }
        gone
    }

    pub(super) fn contains(&self, module: &str, commit: u64) -> bool {
        self.modules
            .get(module)
            .is_some_and(|family| family.nodes.contains_key(&commit))
    }

    /// The modules of which not all files can be read, so that none may be taken for unneeded.
    pub(super) fn unclear(&self) -> BTreeSet<String> {
        let unclear = self
            .modules
            .iter()
            .filter(|(_, family)| family.is_unclear(0));
        unclear.map(|(module, _)| module.clone()).collect()
    }
}
