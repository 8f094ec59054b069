//! Reading a commit without mapping it: its bytes, and the files that hold them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::commit::{Commit, ModuleEntry};
use crate::format::index::{FOOTER, Index, Shape};
use crate::layer::{Piece, Reading, check_is};
use crate::page_set::Run;
use crate::store::state::{State, Store};
use crate::{Error, Result};

/// A module commit file that a commit needs, from [`Store::files`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// The id of the module.
    pub module: String,
    /// The number in the file's name, `<module>_Commit<N>`.
    pub module_commit: u64,
    /// The module commit below this file. 0: there is none, the file is an image.
    pub parent: u64,
    /// The size of the module at this module commit, in bytes.
    pub module_size: u64,
    /// The length of the file in bytes. Zero pages of an image are holes.
    pub length: u64,
    /// How many pages have their bytes in the file.
    pub data_pages: u64,
    /// How many pages the file records as zero. An image does not record zero pages.
    pub zero_pages: u64,
}

impl FileInfo {
    fn of(index: &Index) -> Self {
        let (at, sums) = index.checksums_at();
        Self {
            module: index.module.clone(),
            module_commit: index.commit,
            parent: index.parent,
            module_size: index.size,
            length: at + sums + FOOTER as u64,
            data_pages: index.data_pages(),
            zero_pages: index.zero_pages(),
        }
    }

    /// Whether the file is an image, which holds the whole module.
    #[must_use]
    pub fn is_image(&self) -> bool {
        self.parent == 0
    }
}

impl Store {
    /// Reads bytes of a module from `offset` on, as they are at a commit, into `buffer`; see
    /// `store_read`.
    ///
    /// Maps nothing, and does not touch mapped memory. Every page is checked against its checksum.
    /// Offset and length need not be multiples of the page size. After an error the contents of the
    /// buffer are undefined.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the range ends beyond the module. [`Error::NotFound`]: there is no such
    /// commit, or it does not know the module. [`Error::Stale`], [`Error::Corrupt`], [`Error::Io`],
    /// [`Error::NoMemory`].
    pub fn read(&self, commit: u64, module: &str, offset: u64, buffer: &mut [u8]) -> Result<()> {
        buffer.fill(0);
        let length = buffer.len() as u64;
        self.read_data(
            commit,
            module,
            (offset, length),
            || (),
            |at, bytes| {
                buffer[at..at + bytes.len()].copy_from_slice(bytes);
            },
        )
    }

    /// Calls `put` for the bytes of the range that lie in data pages, with their place in the
    /// range. All other bytes are zero. Calls `begin` before that, when the range is known to lie
    /// within the module.
    pub(crate) fn read_data(
        &self,
        commit: u64,
        module: &str,
        (offset, length): (u64, u64),
        begin: impl FnOnce(),
        put: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        self.or_stale(self.read_pages(commit, module, (offset, length), begin, put))
    }

    fn read_pages(
        &self,
        commit: u64,
        module: &str,
        (offset, length): (u64, u64),
        begin: impl FnOnce(),
        mut put: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        let _files_stay = self.lock_maintenance()?;
        let entry = self.entry(commit, module)?;
        let end = offset.checked_add(length).filter(|end| *end <= entry.size);
        let Some(end) = end else {
            return Err(Error::invalid(
                format!("{length} bytes at {offset}"),
                format!(
                    "they must lie within module \"{module}\", which has {} bytes at commit {commit}",
                    entry.size
                ),
            ));
        };
        begin();
        if length == 0 {
            return Ok(());
        }
        let page = self.page_size();
        let start = offset / page;
        let run = Run {
            start,
            count: end.div_ceil(page) - start,
        };
        let layers = &self.0.layers;
        check_is(&*layers.index(module, entry.module_commit)?, &entry)?;
        let found = layers.resolve(module, entry.size, entry.module_commit, vec![run])?;
        let pieces = found.into_iter().filter_map(|change| {
            let run = change.run;
            change.source.map(|source| Piece { run, source })
        });
        Reading::new(layers).pieces(pieces.collect(), |run, bytes| {
            let at = run.start * page;
            let (from, to) = (at.max(offset), (run.end() * page).min(end));
            put(
                (from - offset) as usize,
                &bytes[(from - at) as usize..(to - at) as usize],
            );
            Ok(())
        })
    }

    /// The files that a commit needs, module by module, newest first; see `store_list_files`. 0:
    /// the files of all commits, each once, ascending within its module; damaged files are left
    /// out.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no such commit. [`Error::Stale`], [`Error::Corrupt`],
    /// [`Error::Io`], [`Error::NoMemory`].
    pub fn files(&self, commit: u64) -> Result<Vec<FileInfo>> {
        self.or_stale(self.files_of(commit))
    }

    fn files_of(&self, commit: u64) -> Result<Vec<FileInfo>> {
        let _files_stay = self.lock_maintenance()?;
        if commit == 0 {
            return self.all_files();
        }
        let commit = commit_of(&*self.enter()?, commit)?;
        let mut files = Vec::new();
        for module in &commit.modules {
            let layers = &self.0.layers;
            let mut index = layers.index_within(&module.id, module.module_commit, module.size)?;
            files.push(FileInfo::of(&index));
            while index.shape == Shape::Delta {
                index = layers.index_within(&module.id, index.parent, index.size)?;
                files.push(FileInfo::of(&index));
            }
        }
        Ok(files)
    }

    /// Every file once, ascending within its module. Damaged files are left out. Files below a
    /// damaged file are left out too, unless they are also below an intact file.
    fn all_files(&self) -> Result<Vec<FileInfo>> {
        let commits: Vec<Arc<Commit>> = self.enter()?.history.commits().cloned().collect();
        let mut files = BTreeMap::new();
        for module in commits.iter().flat_map(|commit| &commit.modules) {
            let mut next = module.module_commit;
            while next != 0 && !files.contains_key(&(module.id.clone(), next)) {
                let index = match self.0.layers.index(&module.id, next) {
                    Ok(index) => index,
                    Err(Error::Corrupt { .. } | Error::Version { .. } | Error::Io { .. }) => break,
                    Err(error) => return Err(error),
                };
                files.insert((module.id.clone(), next), FileInfo::of(&index));
                next = index.parent;
            }
        }
        Ok(files.into_values().collect())
    }

    fn entry(&self, commit: u64, module: &str) -> Result<ModuleEntry> {
        let commit = commit_of(&*self.enter()?, commit)?;
        commit.module(module).cloned().ok_or_else(|| {
            let ids: Vec<&str> = commit.modules.iter().map(|m| m.id.as_str()).collect();
            Error::NotFound {
                what: format!("module \"{module}\" in commit {}", commit.number),
                hint: format!("; it has {}", ids.join(", ")).into(),
            }
        })
    }
}

fn commit_of(state: &State, commit: u64) -> Result<Arc<Commit>> {
    Ok(state.history.get(commit)?.commit.clone())
}
