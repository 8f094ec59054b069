//! Which module commits a compaction rewrites, and on which base. Files that nothing needs are
//! merged into their children, and a file becomes an image where the deltas have too many pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Result;
use crate::format::index::{Index, Shape};
use crate::layer::runs_of;
use crate::page_set::{Run, pages_in, union};
use crate::store::state::ModuleRefs;

/// The deltas above an image may hold this share of the module's pages, in percent. A delta that
/// would exceed it becomes an image. A new process then copies at most twice as much as it maps,
/// and the images take at most half of the room that the deltas take.
pub(super) const PERCENT: u64 = 200;
/// An image that only its children need stays until the deltas that could be merged into it hold
/// this share of its pages, in percent. A rewrite of the image frees about as many pages.
const STALE: u64 = 25;

/// One file to rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rewrite {
    pub(super) commit: u64,
    /// The module commit below the rewritten file. 0: the file becomes an image.
    pub(super) base: u64,
    /// The module commit that the file would have as its base if it did not become an image. It
    /// stays in the store.
    pub(super) former_base: u64,
}

/// A file that stays, as it is after the compaction.
struct PlannedFile {
    /// The pages of the file and of all files below it. Dropped when the last child of the file was
    /// planned.
    held: Vec<Run>,
    /// The number of pages and files of the deltas from here down to the nearest image.
    deltas: u64,
    children: usize,
}

/// The rewrites for one module, parents first. `percent` 0: a file that can stay a delta does not
/// become an image.
pub(super) fn plan(
    files: &ModuleRefs,
    percent: u64,
    index: impl Fn(u64) -> Result<Arc<Index>>,
) -> Result<Vec<Rewrite>> {
    let mut children: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, file) in files.files() {
        *children.entry(file.parent).or_default() += 1;
    }
    let count = |commit: u64| children.get(&commit).copied().unwrap_or(0);
    let mut planned: BTreeMap<u64, PlannedFile> = BTreeMap::new();
    let mut rewrites = Vec::new();
    for (commit, file) in files.files() {
        if file.refcount == 0 && count(commit) == 1 {
            continue;
        }
        let own = index(commit)?;
        let mut runs = runs_of(&own);
        let mut pages = own.data_pages();
        let mut base = file.parent;
        while let Some(below) = files.get(base) {
            if below.refcount > 0 || count(base) != 1 {
                break;
            }
            let link = index(base)?;
            if link.shape == Shape::Image && pages * 100 < link.data_pages() * STALE {
                let image = PlannedFile {
                    held: runs_of(&link),
                    deltas: 0,
                    children: 1,
                };
                planned.insert(base, image);
                break;
            }
            runs = union(&runs, &runs_of(&link));
            pages += link.data_pages();
            base = below.parent;
        }
        let former_base = base;
        let mut deltas = 0;
        if let Some(below) = planned.get_mut(&base) {
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
        if base != file.parent {
            rewrites.push(Rewrite {
                commit,
                base,
                former_base,
            });
        }
        let held = if count(commit) > 0 { runs } else { Vec::new() };
        let children = count(commit);
        planned.insert(
            commit,
            PlannedFile {
                held,
                deltas,
                children,
            },
        );
    }
    Ok(rewrites)
}
