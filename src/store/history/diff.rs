//! The differences between two commits, which may be on different branches. Also finds commits by
//! their labels.

use std::collections::BTreeSet;

use crate::error::try_filled;
use crate::format::commit::{Commit, ModuleEntry};
use crate::format::index::{Index, PageLookup};
use crate::layer::{Change, LayerFiles, Piece, Reading, check_is};
use crate::page_set::{Run, push_run};
use crate::store::state::Store;
use crate::{Error, Result};

/// A range of bytes of a module that differs between two commits, from [`Store::diff`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The id of the module.
    pub module: String,
    /// The offset of the first byte in the module.
    pub offset: u64,
    /// How many bytes, a multiple of the page size.
    pub length: u64,
}

impl Store {
    /// The ranges of bytes that differ between two commits, module by module in the order of their
    /// ids, ascending within a module; see `store_diff`.
    ///
    /// The commits may be on different branches. 0 stands for a store without modules. Ranges are
    /// whole pages, and every page in them has different bytes. A module reads as zeros at a commit
    /// that does not know it, and beyond its size there. `module` limits the result to one module.
    ///
    /// # Errors
    /// [`Error::NotFound`]: there is no such commit, or neither commit knows the module.
    /// [`Error::Stale`], [`Error::Corrupt`], [`Error::Io`], [`Error::NoMemory`].
    pub fn diff(&self, from: u64, to: u64, module: Option<&str>) -> Result<Vec<Range>> {
        self.or_stale(self.differences(from, to, module))
    }

    fn differences(&self, from: u64, to: u64, module: Option<&str>) -> Result<Vec<Range>> {
        let _files_stay = self.lock_maintenance()?;
        let (from, to) = {
            let state = self.enter()?;
            let commit = |number: u64| match number {
                0 => Ok(None),
                number => Ok(Some(state.history.get(number)?.commit.clone())),
            };
            (commit(from)?, commit(to)?)
        };
        let both = [from.as_deref(), to.as_deref()];
        let entries = both.iter().flatten().flat_map(|commit| &commit.modules);
        let mut ids: BTreeSet<&str> = entries.map(|entry| entry.id.as_str()).collect();
        if let Some(module) = module {
            if !ids.contains(module) {
                return Err(Error::NotFound {
                    what: format!("module \"{module}\" in either commit"),
                    hint: "".into(),
                });
            }
            ids.retain(|id| *id == module);
        }
        let mut ranges = Vec::new();
        for id in ids {
            let entry = |commit: Option<&Commit>| commit.and_then(|c| c.module(id)).cloned();
            let runs = self.differing_runs(id, entry(both[0]), entry(both[1]))?;
            let page = self.page_size();
            ranges.extend(runs.into_iter().map(|run| Range {
                module: id.to_owned(),
                offset: run.start * page,
                length: run.count * page,
            }));
        }
        Ok(ranges)
    }

    /// The pages of one module whose bytes differ. A module reads as zeros beyond its end, and at a
    /// commit that does not know it.
    fn differing_runs(
        &self,
        module: &str,
        from: Option<ModuleEntry>,
        to: Option<ModuleEntry>,
    ) -> Result<Vec<Run>> {
        let layers = &self.0.layers;
        let size = [&from, &to].into_iter().flatten().map(|e| e.size).max();
        let size = size.unwrap_or(0);
        for entry in [&from, &to].into_iter().flatten() {
            check_is(&*layers.index(module, entry.module_commit)?, entry)?;
        }
        let number = |entry: Option<ModuleEntry>| entry.map(|entry| entry.module_commit);
        let (from, to) = (number(from), number(to));
        let old = layers.changes(module, size, to, from)?;
        let new = layers.changes(module, size, from, to)?;
        let mut different = Vec::new();
        let mut reading = (Reading::new(layers), Reading::new(layers));
        let mut failed = Ok(());
        each_page(&old, &new, |page, old, new| {
            if failed.is_err() {
                return;
            }
            match differs(&self.0.layers, &mut reading, page, old, new) {
                Ok(false) => {}
                Ok(true) => push_run(
                    &mut different,
                    Run {
                        start: page,
                        count: 1,
                    },
                ),
                Err(error) => failed = Err(error),
            }
        });
        failed.map(|()| different)
    }

    /// The number of the newest commit that has this label; see `store_find_commit`.
    ///
    /// # Errors
    /// [`Error::NotFound`]: no commit has the label. [`Error::Invalid`]: the label is empty.
    pub fn find_commit(&self, label: &str) -> Result<u64> {
        if label.is_empty() {
            return Err(Error::invalid("label", "it must not be empty"));
        }
        let state = self.enter()?;
        let mut found = state.history.commits().filter(|c| c.label == label);
        match found.next_back() {
            Some(commit) => Ok(commit.number),
            None => Err(Error::NotFound {
                what: format!("commit with the label \"{label}\""),
                hint: "".into(),
            }),
        }
    }
}

pub(in crate::store) type PageSource<'a> = Option<&'a std::sync::Arc<Index>>;

/// Walks two lists of changes that have the same pages.
pub(in crate::store) fn each_page(
    old: &[Change],
    new: &[Change],
    mut each: impl FnMut(u64, PageSource, PageSource),
) {
    let mut new = new.iter().peekable();
    for change in old {
        for page in change.run.start..change.run.end() {
            while new.next_if(|other| other.run.end() <= page).is_some() {}
            let there = new.peek().filter(|other| other.run.start <= page);
            let source = there.and_then(|other| other.source.as_ref());
            each(page, change.source.as_ref(), source);
        }
    }
}

/// Whether a page has different bytes in two files. Different checksums prove a difference. Equal
/// checksums prove nothing, therefore the bytes are compared.
pub(in crate::store) fn differs(
    layers: &LayerFiles,
    reading: &mut (Reading<'_>, Reading<'_>),
    page: u64,
    old: PageSource,
    new: PageSource,
) -> Result<bool> {
    let (Some(old), Some(new)) = (old, new) else {
        return Ok(old.is_some() != new.is_some());
    };
    if old.commit == new.commit {
        return Ok(false);
    }
    let checksum = |index: &Index| match index.find(page) {
        PageLookup::Data { slot } => Ok(layers.checksums(index)?.get(slot as usize).copied()),
        _ => Ok::<_, Error>(None),
    };
    if checksum(old)? != checksum(new)? {
        return Ok(true);
    }
    let piece = |index: &std::sync::Arc<Index>| {
        vec![Piece {
            run: Run {
                start: page,
                count: 1,
            },
            source: index.clone(),
        }]
    };
    let mut bytes = try_filled(old.page_size as usize, 0u8, "a page")?;
    reading.0.pieces(piece(old), |_, page| {
        bytes.copy_from_slice(page);
        Ok(())
    })?;
    let mut same = true;
    reading.1.pieces(piece(new), |_, page| {
        same = page == bytes;
        Ok(())
    })?;
    Ok(!same)
}
