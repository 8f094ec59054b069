//! Files that were written anew: what they hold and remember, and the ways between commits over them.

use std::sync::Arc;

use crate::format::index::{Former, Shape};
use crate::layer::{LayerFiles, pages_of, rewrite_layer};
use crate::page_set::Run;
use crate::store::tests::recorded::RecordedFiles;
use crate::store::tests::written::written;
use crate::sys::fs::{Files as _, Place};

fn runs(pages: &[(u64, u64)]) -> Vec<Run> {
    let run = |(start, count): &(u64, u64)| Run {
        start: *start,
        count: *count,
    };
    pages.iter().map(run).collect()
}

struct WrittenChain {
    files: Arc<RecordedFiles>,
    layers: LayerFiles,
    size: u64,
}

impl WrittenChain {
    fn new(commits: &[&[u64]]) -> Self {
        let (files, layers) = written(8, commits);
        let size = 8 * layers.page_size;
        Self {
            files,
            layers,
            size,
        }
    }

    /// Writes a commit anew with all below it down to `last`; whether it is an image and what it remembers, and that
    /// all of its bytes are told of.
    fn rewrite_layer(&self, commit: u64, last: u64, former: u64) -> (Shape, Option<Former>) {
        let mut chain = self.layers.chain("a", commit, self.size).unwrap();
        chain.retain(|index| index.commit >= last);
        let temporary = Place::hidden("new-images");
        let mut told = 0;
        let mut tell = |bytes| {
            told += bytes;
            Ok(())
        };
        let made = rewrite_layer(&self.layers, &chain, former, &temporary, &mut tell).unwrap();
        assert_eq!(told, made.index.data_pages() * self.layers.page_size);
        assert_eq!(told, pages_of(&chain) * self.layers.page_size);
        let length = made.file.len().unwrap();
        assert_eq!(made.bytes - told, length - made.index.index_offset());
        let place = Place::root(format!("a_Commit{commit}"));
        self.files.rename(&temporary, &place).unwrap();
        self.layers.forget("a", commit);
        let index = self.layers.index("a", commit).unwrap();
        assert_eq!(index.changed, Some(2), "what the commit itself wrote");
        (index.shape, index.former.clone())
    }

    /// What there is to change from one commit to another.
    fn way(&self, from: u64, to: u64) -> Vec<(u64, u64, u64)> {
        let changes = self.layers.changes("a", self.size, Some(from), Some(to));
        let all = changes.unwrap();
        let told = all.iter().map(|change| {
            let source = change.source.as_ref().map_or(0, |index| index.commit);
            (change.run.start, change.run.count, source)
        });
        told.collect()
    }
}

const ALL: &[u64] = &[0, 1, 2, 3, 4, 5, 6, 7];
const COMMITS: &[&[u64]] = &[ALL, &[1, 2], &[2, 5], &[6, 7]];

#[test]
fn an_image_knows_how_it_differs_from_its_former_base() {
    for (former, wanted) in [
        (3, Some(runs(&[(6, 2)]))),
        (2, Some(runs(&[(2, 1), (5, 3)]))),
        (1, Some(runs(&[(1, 2), (5, 3)]))),
        (0, None),
    ] {
        let of = WrittenChain::new(COMMITS);
        let remembered = wanted.map(|runs| Former {
            commit: former,
            runs,
        });
        assert_eq!(of.rewrite_layer(4, 1, former), (Shape::Image, remembered));
    }
    // Of a chain that ends in an image with a memory, what that remembers.
    let of = WrittenChain::new(COMMITS);
    of.rewrite_layer(3, 1, 2);
    let remembered = Former {
        commit: 2,
        runs: runs(&[(2, 1), (5, 3)]),
    };
    assert_eq!(of.rewrite_layer(4, 3, 0), (Shape::Image, Some(remembered)));
    // A delta of two has none.
    let of = WrittenChain::new(COMMITS);
    assert_eq!(of.rewrite_layer(4, 3, 2), (Shape::Delta, None));
}

#[test]
fn changes_between_commits_are_the_pages_that_differ() {
    let of = WrittenChain::new(COMMITS);
    assert_eq!(of.way(4, 3), [(6, 2, 1)]);
    assert_eq!(of.way(3, 4), [(6, 2, 4)]);
    assert_eq!(of.way(2, 4), [(2, 1, 3), (5, 1, 3), (6, 2, 4)]);
    assert_eq!(of.way(4, 1), [(1, 2, 1), (5, 3, 1)]);
    assert!(of.layers.share_an_image("a", 4, 2) && of.layers.share_an_image("a", 1, 3));
    // Over an image that remembers, no more than before.
    of.rewrite_layer(4, 1, 3);
    assert_eq!(of.way(4, 3), [(6, 2, 1)]);
    assert_eq!(of.way(3, 4), [(6, 2, 4)]);
    assert_eq!(of.way(4, 1), [(1, 2, 1), (5, 3, 1)]);
    assert!(!of.layers.share_an_image("a", 4, 3) && !of.layers.share_an_image("a", 1, 4));
    assert!(of.layers.share_an_image("a", 3, 2));
    assert!(
        !of.layers.share_an_image("a", 9, 2),
        "no such commit is known"
    );
    // Over one that does not, all pages.
    let of = WrittenChain::new(COMMITS);
    of.rewrite_layer(4, 1, 0);
    assert_eq!(of.way(3, 4), [(0, 8, 4)]);
}

#[test]
fn changes_between_commits_are_no_more_pages_than_there_are() {
    for (writes, wanted) in [(4, &[(0, 2, 1)][..]), (5, &[(0, 8, 1)])] {
        let mut commits = vec![ALL];
        commits.extend(vec![&[0, 1][..]; writes]);
        let of = WrittenChain::new(&commits);
        let last = commits.len() as u64;
        of.rewrite_layer(last, 1, last - 1);
        assert_eq!(of.way(last, 1), wanted, "{writes} times two pages of eight");
    }
}
