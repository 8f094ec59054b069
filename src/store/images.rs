//! Which module commits a compaction rewrites, and on what: chains without the links that nothing needs,
//! and images where deltas have outgrown them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::lineage::Family;
use crate::Result;
use crate::format::index::{Index, Shape};
use crate::page::{Run, pages_in, union};
use crate::pages::runs_of;

/// Deltas may hold this many times the pages of the image below them, in percent, before the next one
/// becomes an image. Starting a fresh process then copies at most twice what it maps, and the images
/// take at most half of the room that the deltas take.
pub(super) const PERCENT: u64 = 200;
/// An image that nothing needs any more but what was made on it stays until the deltas that could be
/// folded into it hold this part of its pages, in percent: rewriting it frees about that many.
const STALE: u64 = 25;

/// One file to rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) commit: u64,
    /// The module commit below it from then on; 0: it becomes an image.
    pub(super) base: u64,
    /// The module commit that stays and would have been below an image.
    pub(super) former: u64,
}

/// A file that stays, as it will be.
struct Kept {
    /// The pages of it and all below it. Dropped when its last child was seen.
    held: Vec<Run>,
    /// Pages and files of deltas down to the nearest image.
    deltas: u64,
    children: usize,
}

/// The rewrites for one module, parents first. `percent` 0: no file becomes an image that could stay
/// a delta.
pub(super) fn plan(
    family: &Family,
    percent: u64,
    index: impl Fn(u64) -> Result<Arc<Index>>,
) -> Result<Vec<Job>> {
    let mut children: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, node) in family.nodes() {
        *children.entry(node.parent).or_default() += 1;
    }
    let count = |commit: u64| children.get(&commit).copied().unwrap_or(0);
    let mut kept: BTreeMap<u64, Kept> = BTreeMap::new();
    let mut jobs = Vec::new();
    for (commit, node) in family.nodes() {
        if node.named == 0 && count(commit) == 1 {
            continue;
        }
        let own = index(commit)?;
        let mut runs = runs_of(&own);
        let mut pages = own.data_pages();
        let mut base = node.parent;
        while let Some(below) = family.get(base) {
            if below.named > 0 || count(base) != 1 {
                break;
            }
            let link = index(base)?;
            if link.shape == Shape::Image && pages * 100 < link.data_pages() * STALE {
                let image = Kept {
                    held: runs_of(&link),
                    deltas: 0,
                    children: 1,
                };
                kept.insert(base, image);
                break;
            }
            runs = union(&runs, &runs_of(&link));
            pages += link.data_pages();
            base = below.parent;
        }
        let former = base;
        let mut deltas = 0;
        if let Some(below) = kept.get_mut(&base) {
            deltas = below.deltas + pages + 1;
            below.children -= 1;
            runs = match below.children {
                0 => union(&runs, &std::mem::take(&mut below.held)),
                _ => union(&runs, &below.held),
            };
        }
        if percent > 0 && deltas.saturating_mul(100) > pages_in(&runs).saturating_mul(percent) {
            (base, deltas) = (0, 0);
        }
        if base != node.parent {
            jobs.push(Job {
                commit,
                base,
                former,
            });
        }
        let held = if count(commit) > 0 { runs } else { Vec::new() };
        let children = count(commit);
        kept.insert(
            commit,
            Kept {
                held,
                deltas,
                children,
            },
        );
    }
    Ok(jobs)
}
