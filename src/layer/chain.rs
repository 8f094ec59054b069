//! What differs between two module commits, found from their indexes alone.

use std::sync::Arc;

use super::files::LayerFiles;
use crate::Result;
use crate::format::index::{Content, Index, Shape};
use crate::page_set::{Run, pages_in, push_run, union};

/// A run of pages and where they come from from now on; `None` is zero pages.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) run: Run,
    pub(crate) source: Option<Arc<Index>>,
}

/// The runs of an index with their source.
pub(crate) fn source_runs(index: &Arc<Index>) -> impl Iterator<Item = (Run, Option<&Arc<Index>>)> {
    index.runs.iter().map(move |run| {
        let pages = Run {
            start: run.start,
            count: run.count,
        };
        (pages, (run.content == Content::Data).then_some(index))
    })
}

/// In which pages a module commit differs at most from an older one, and which that is: the parent of a delta,
/// what an image remembers.
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
    /// What to change in a module's table to get from one of its module commits to another; `None`
    /// is the module of zeros. `size` is the table's; either may be of a smaller module, beyond which all
    /// is zero. Costs the indexes on the path between them, and below it only those
    /// that hold a page of it.
    pub(crate) fn changes(
        &self,
        module: &str,
        size: u64,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<Vec<Change>> {
        let (a, b) = (from.unwrap_or(0), to.unwrap_or(0));
        let touched = match self.around_images(module, size, a, b) {
            Some(touched) => touched,
            None => self.between(module, size, a, b)?,
        };
        match to {
            Some(to) => self.resolve(module, size, to, touched),
            None => Ok(touched
                .into_iter()
                .map(|run| Change { run, source: None })
                .collect()),
        }
    }

    /// The pages that may differ between two module commits, by their chains alone: of an image all.
    fn between(&self, module: &str, size: u64, mut a: u64, mut b: u64) -> Result<Vec<Run>> {
        let mut touched: Vec<Vec<Run>> = Vec::new();
        while a != b {
            // Parents are older, so the newer of the two is never an ancestor of the other.
            let newer = if a > b { &mut a } else { &mut b };
            let index = self.index_within(module, *newer, size)?;
            touched.push(runs_of(&index));
            *newer = index.parent;
        }
        Ok(union_of_all(touched))
    }

    /// Whether the chains of two module commits meet before they end. No, if that cannot be told.
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

    /// As `between`, by what images remember of what they were. `None`: that does not lead from one to the other,
    /// since one does not remember or what it remembers is gone, or it leads over more pages than the
    /// module has.
    fn around_images(&self, module: &str, size: u64, mut a: u64, mut b: u64) -> Option<Vec<Run>> {
        let mut touched: Vec<Vec<Run>> = Vec::new();
        let mut left = size / self.page_size;
        while a != b {
            let newer = if a > b { &mut a } else { &mut b };
            // What cannot be read is met again if it is needed.
            let index = self.index_within(module, *newer, size).ok()?;
            let (runs, below) = diff_from_base(&index)?;
            left = left.checked_sub(pages_in(&runs))?;
            touched.push(runs);
            *newer = below;
        }
        Some(union_of_all(touched))
    }

    /// Where pages are at a module commit: newest first down its chain, until each is found.
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

/// Moves what an index holds of `pages` into `changes`, and returns the rest. An image holds
/// everything.
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

/// The union of many lists, merged in pairs so that long paths do not cost their square.
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
