//! The differences between two module commits. Only their indexes are read.

use std::sync::Arc;

use super::files::LayerFiles;
use crate::Result;
use crate::format::index::{Content, Index, Shape};
use crate::page_set::{Run, pages_in, push_run, union};

/// A run of pages and the module commit that holds them. `None`: the pages are zero.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) run: Run,
    pub(crate) source: Option<Arc<Index>>,
}

/// The runs of an index. Each run of data pages has the index itself as its source.
pub(crate) fn source_runs(index: &Arc<Index>) -> impl Iterator<Item = (Run, Option<&Arc<Index>>)> {
    index.runs.iter().map(move |run| {
        let pages = Run {
            start: run.start,
            count: run.count,
        };
        (pages, (run.content == Content::Data).then_some(index))
    })
}

/// The pages in which a module commit may differ from its base, and the number of the base. The
/// base of a delta is its parent. The base of an image is its former base, if the image remembers
/// one.
pub(super) fn diff_from_base(index: &Index) -> Option<(Vec<Run>, u64)> {
    match (index.shape, &index.former) {
        (Shape::Delta, _) => Some((runs_of(index), index.parent)),
        (Shape::Image, Some(former)) => Some((former.runs.clone(), former.commit)),
        (Shape::Image, None) => None,
    }
}

pub(crate) fn runs_of(index: &Index) -> Vec<Run> {
    let mut runs = Vec::with_capacity(index.runs.len());
    for run in &index.runs {
        push_run(
            &mut runs,
            Run {
                start: run.start,
                count: run.count,
            },
        );
    }
    runs
}

impl LayerFiles {
    /// The changes that turn a module's page table from module commit `from` into module commit
    /// `to`. `None` stands for a module of zeros. `size` is the size of the table. Either module
    /// commit may be smaller; the rest is then zero. Reads the indexes on the path between the two
    /// module commits, and below that path only the indexes that hold a changed page.
    pub(crate) fn changes(
        &self,
        module: &str,
        size: u64,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<Vec<Change>> {
        let (a, b) = (from.unwrap_or(0), to.unwrap_or(0));
        let touched = match self.diff_by_former_bases(module, size, a, b) {
            Some(touched) => touched,
            None => self.diff_by_parents(module, size, a, b)?,
        };
        match to {
            Some(to) => self.resolve(module, size, to, touched),
            None => Ok(touched
                .into_iter()
                .map(|run| Change { run, source: None })
                .collect()),
        }
    }

    /// The pages that may differ between two module commits, found from their chains of parents.
    /// All pages of an image may differ.
    fn diff_by_parents(&self, module: &str, size: u64, mut a: u64, mut b: u64) -> Result<Vec<Run>> {
        let mut touched: Vec<Vec<Run>> = Vec::new();
        while a != b {
            // Parents are older than their children, so the newer one is never an ancestor of the
            // older one.
            let newer = if a > b { &mut a } else { &mut b };
            let index = self.index_within(module, *newer, size)?;
            touched.push(runs_of(&index));
            *newer = index.parent;
        }
        Ok(union_of_all(touched))
    }

    /// Whether the chains of two module commits meet. `false` also if a footer on the way cannot be
    /// read.
    pub(crate) fn share_an_image(&self, module: &str, mut a: u64, mut b: u64) -> bool {
        while a != b {
            let newer = if a > b { &mut a } else { &mut b };
            match self.parent(module, *newer) {
                Ok(parent) => *newer = parent,
                Err(_) => return false,
            }
        }
        a != 0
    }

    /// The same as `diff_by_parents`, but an image leads to its former base. `None`: an image on
    /// the path has no former base, a module commit on the path is deleted, or the path has more
    /// pages than the module.
    fn diff_by_former_bases(
        &self,
        module: &str,
        size: u64,
        mut a: u64,
        mut b: u64,
    ) -> Option<Vec<Run>> {
        let mut touched: Vec<Vec<Run>> = Vec::new();
        let mut left = size / self.page_size;
        while a != b {
            let newer = if a > b { &mut a } else { &mut b };
            // An index that cannot be read is no error here. `diff_by_parents` reports it if it
            // needs the index.
            let index = self.index_within(module, *newer, size).ok()?;
            let (runs, below) = diff_from_base(&index)?;
            left = left.checked_sub(pages_in(&runs))?;
            touched.push(runs);
            *newer = below;
        }
        Some(union_of_all(touched))
    }

    /// Finds the module commit that holds each page at `commit`. Goes down the chain from the
    /// newest module commit until every page is found.
    pub(crate) fn resolve(
        &self,
        module: &str,
        size: u64,
        commit: u64,
        pages: Vec<Run>,
    ) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        let mut left = pages;
        let mut next = commit;
        while !left.is_empty() {
            let index = self.index_within(module, next, size)?;
            left = split(&index, &left, &mut changes);
            next = index.parent;
        }
        changes.sort_unstable_by_key(|change: &Change| change.run.start);
        Ok(changes)
    }
}

/// Appends the pages that an index holds to `changes`, and returns the other pages. An image holds
/// all pages.
pub(super) fn split(index: &Arc<Index>, pages: &[Run], changes: &mut Vec<Change>) -> Vec<Run> {
    let mut rest = Vec::new();
    for run in pages {
        let mut page = run.start;
        let mut at = index.run_at(page);
        while page < run.end() {
            let found = index.runs.get(at).filter(|found| found.start < run.end());
            let hole_end = found.map_or(run.end(), |found| found.start.max(page));
            if page < hole_end {
                let hole = Run {
                    start: page,
                    count: hole_end - page,
                };
                match index.shape {
                    Shape::Image => changes.push(Change {
                        run: hole,
                        source: None,
                    }),
                    Shape::Delta => push_run(&mut rest, hole),
                }
            }
            page = hole_end;
            if let Some(found) = found {
                let end = found.end().min(run.end());
                let source = (found.content == Content::Data).then(|| index.clone());
                changes.push(Change {
                    run: Run {
                        start: page,
                        count: end - page,
                    },
                    source,
                });
                page = end;
                at += 1;
            }
        }
    }
    rest
}

/// The union of many lists. The lists are merged in pairs, so the cost does not grow with the
/// square of their number.
pub(super) fn union_of_all(mut lists: Vec<Vec<Run>>) -> Vec<Run> {
    while lists.len() > 1 {
        lists = lists
            .chunks(2)
            .map(|pair| match pair {
                [a, b] => union(a, b),
                [a] => a.clone(),
                _ => Vec::new(),
            })
            .collect();
    }
    lists.pop().unwrap_or_default()
}
