//! The history of a store: the tree of commits, and the module commit files that the commits need.

use std::collections::{BTreeMap, HashMap};

use vmstore::{CommitInfo, FileInfo, Store};

use crate::fail::Failure;

/// A module commit: the module, and the number of the commit that made the file.
pub(crate) type FileId = (String, u64);

/// A commit and the files that it needs.
pub(crate) struct Node {
    pub(crate) info: CommitInfo,
    /// The total size of the modules.
    pub(crate) size: u64,
    /// The module commit of each module. Deltas also need the files below them.
    pub(crate) named: Vec<FileId>,
    /// Whether all files that the commit needs can be read.
    pub(crate) readable: bool,
}

pub(crate) struct History {
    /// All commits by number. A parent has a lower number than its children.
    pub(crate) nodes: BTreeMap<u64, Node>,
    /// All files that can be read.
    pub(crate) files: HashMap<FileId, FileInfo>,
    pub(crate) head: u64,
    pub(crate) page: u64,
}

impl History {
    pub(crate) fn of(store: &Store) -> Result<Self, Failure> {
        let mut files = HashMap::new();
        // Whether a file and all files below it can be read. `files` gives each file after the file below it.
        let mut whole: HashMap<FileId, bool> = HashMap::new();
        for file in store.files(0)? {
            let readable = file.is_image() || whole.get(&below(&file)).copied().unwrap_or(false);
            whole.insert(id_of(&file), readable);
            files.insert(id_of(&file), file);
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

    /// The parent of a commit, or 0 if the commit has none. `None`: the parent was lost to damage.
    pub(crate) fn parent(&self, node: &Node) -> Option<u64> {
        let parent = node.info.parent;
        (parent == 0 || self.nodes.contains_key(&parent)).then_some(parent)
    }

    /// The bytes in the files that a commit made itself. `None`: one of these files cannot be read.
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

    /// How many commits a power cut would lose.
    pub(crate) fn unpersisted(&self) -> usize {
        let nodes = self.nodes.values();
        nodes.filter(|node| !node.info.persisted).count()
    }

    /// All files, each after the file below it.
    pub(crate) fn ascending(&self) -> Vec<&FileInfo> {
        let mut files: Vec<&FileInfo> = self.files.values().collect();
        files.sort_unstable_by_key(|file| file.module_commit);
        files
    }
}

pub(crate) fn id_of(file: &FileInfo) -> FileId {
    (file.module.clone(), file.module_commit)
}

/// The name of a module commit's file.
pub(crate) fn file_name(module: &str, module_commit: u64) -> String {
    format!("{module}_Commit{module_commit}")
}

/// The file that a delta builds on.
pub(crate) fn below(file: &FileInfo) -> FileId {
    (file.module.clone(), file.parent)
}
