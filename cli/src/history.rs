//! The commits of a store, as the commands look at them: the tree, and what each holds.

use std::collections::BTreeMap;

use vmstore::{CommitInfo, FileInfo, Store};

use crate::fail::Failure;

/// A commit and what it is made of.
pub(crate) struct Node {
    pub(crate) info: CommitInfo,
    /// The modules' bytes together.
    pub(crate) size: u64,
    /// The files it needs; `None`: not all of them are readable.
    pub(crate) files: Option<Vec<FileInfo>>,
}

impl Node {
    /// The pages that it wrote: those in its own files. `None`: unknown.
    pub(crate) fn wrote(&self) -> Option<u64> {
        let files = self.files.as_ref()?;
        let own = files
            .iter()
            .filter(|file| file.module_commit == self.info.commit);
        Some(own.map(|file| file.data_pages + file.zero_pages).sum())
    }
}

/// All commits, ascending.
pub(crate) struct History {
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) head: u64,
    pub(crate) page: u64,
}

impl History {
    pub(crate) fn of(store: &Store) -> Result<Self, Failure> {
        let mut nodes = BTreeMap::new();
        for commit in store.commits()? {
            let info = store.commit_info(commit)?;
            let size = store
                .modules(commit)?
                .iter()
                .map(|module| module.size)
                .sum();
            let files = match store.files(commit) {
                Ok(files) => Some(files),
                Err(
                    vmstore::Error::Corrupt { .. }
                    | vmstore::Error::Version { .. }
                    | vmstore::Error::Io { .. },
                ) => None,
                Err(error) => return Err(error.into()),
            };
            nodes.insert(commit, Node { info, size, files });
        }
        Ok(Self {
            nodes,
            head: store.head()?,
            page: store.stats()?.page_size,
        })
    }

    /// The commit that one was made on; 0: it is a first one. `None`: the history is damaged, and it is lost.
    pub(crate) fn parent(&self, node: &Node) -> Option<u64> {
        let parent = node.info.parent;
        (parent == 0 || self.nodes.contains_key(&parent)).then_some(parent)
    }
}
