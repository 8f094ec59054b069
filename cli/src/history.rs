//! The commits of a store, as the commands look at them: the tree, and the files that hold it.

use std::collections::{BTreeMap, HashMap};

use vmstore::{CommitInfo, FileInfo, Store};

use crate::fail::Failure;

/// A module and the number of one of its module commits.
pub(crate) type FileId = (String, u64);

/// A commit and what it is made of.
pub(crate) struct Node {
    pub(crate) info: CommitInfo,
    /// The modules' bytes together.
    pub(crate) size: u64,
    /// The files that its map names, one for each module.
    pub(crate) named: Vec<FileId>,
    /// These, and all below them, can be read.
    pub(crate) readable: bool,
}

/// All commits, ascending.
pub(crate) struct History {
    pub(crate) nodes: BTreeMap<u64, Node>,
    /// All files that can be read.
    pub(crate) files: HashMap<FileId, FileInfo>,
    pub(crate) head: u64,
    pub(crate) page: u64,
}

impl History {
    pub(crate) fn of(store: &Store) -> Result<Self, Failure> {
        let mut files = HashMap::new();
        // Files that have all that is below them. Parents come before what was made on them.
        let mut whole: HashMap<FileId, bool> = HashMap::new();
        for file in store.files(0)? {
            let readable = file.is_image() || whole.get(&below(&file)).copied().unwrap_or(false);
            let id = (file.module.clone(), file.module_commit);
            whole.insert(id.clone(), readable);
            files.insert(id, file);
        }
        let mut nodes = BTreeMap::new();
        for commit in store.commits()? {
            let info = store.commit_info(commit)?;
            let modules = store.modules(commit)?;
            let size = modules.iter().map(|module| module.size).sum();
            let named: Vec<FileId> = modules
                .into_iter()
                .map(|m| (m.id, m.module_commit))
                .collect();
            let readable = named
                .iter()
                .all(|id| whole.get(id).copied().unwrap_or(false));
            nodes.insert(
                commit,
                Node {
                    info,
                    size,
                    named,
                    readable,
                },
            );
        }
        Ok(Self {
            nodes,
            files,
            head: store.head()?,
            page: store.stats()?.page_size,
        })
    }

    /// The commit that one was made on; 0: it is a first one. `None`: the history is damaged, and it is lost.
    pub(crate) fn parent(&self, node: &Node) -> Option<u64> {
        let parent = node.info.parent;
        (parent == 0 || self.nodes.contains_key(&parent)).then_some(parent)
    }

    /// The bytes that a commit wrote: those in its own files. `None`: unknown.
    pub(crate) fn wrote(&self, node: &Node) -> Option<u64> {
        let own = node.named.iter().filter(|id| id.1 == node.info.commit);
        let pages: Option<u64> = own
            .map(|id| {
                self.files
                    .get(id)
                    .map(|file| file.data_pages + file.zero_pages)
            })
            .sum();
        pages.map(|pages| pages * self.page)
    }

    /// All files, parents before what was made on them.
    pub(crate) fn ascending(&self) -> Vec<&FileInfo> {
        let mut files: Vec<&FileInfo> = self.files.values().collect();
        files.sort_unstable_by_key(|file| file.module_commit);
        files
    }
}

/// The file below another.
pub(crate) fn below(file: &FileInfo) -> FileId {
    (file.module.clone(), file.parent)
}
