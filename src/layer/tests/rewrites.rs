//! Files that were rewritten: what they hold and record, and the changes between commits that are read from them.

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

    /// Rewrites a commit, merged with all below it down to `last`. Checks that all bytes are reported as progress.
    /// Returns the shape of the new file, and its record of the former base.
    fn rewrite_layer(&self, commit: u64, last: u64, former: u64) -> (Shape, Option<Former>) {
        let mut chain = self.layers.chain("a", commit, self.size).unwrap();
        chain.retain(|index| index.commit >= last);
        let temporary = Place::hidden("new-images");
        let mut reported = 0;
        let mut report = |bytes| {
            reported += bytes;
            Ok(())
        };
        let made = rewrite_layer(&self.layers, &chain, former, &temporary, &mut report).unwrap();
        assert_eq!(reported, made.index.data_pages() * self.layers.page_size);
        assert_eq!(reported, pages_of(&chain) * self.layers.page_size);
        let length = made.file.len().unwrap();
        assert_eq!(made.bytes - reported, length - made.index.index_offset());
        let place = Place::root(format!("a_Commit{commit}"));
        self.files.rename(&temporary, &place).unwrap();
        self.layers.forget("a", commit);
        let index = self.layers.index("a", commit).unwrap();
        assert_eq!(index.changed, Some(2), "what the commit itself wrote");
        (index.shape, index.former.clone())
    }

    /// The pages to change from one commit to another.
    fn way(&self, from: u64, to: u64) -> Vec<(u64, u64, u64)> {
        let changes = self.layers.changes("a", self.size, Some(from), Some(to));
        let all = changes.unwrap();
        let reported = all.iter().map(|change| {
            let source = change.source.as_ref().map_or(0, |index| index.commit);
            (change.run.start, change.run.count, source)
        });
        reported.collect()
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
    // A chain that ends in an image with such a record: the new file has the record of that image.
    let of = WrittenChain::new(COMMITS);
    of.rewrite_layer(3, 1, 2);
    let remembered = Former {
        commit: 2,
        runs: runs(&[(2, 1), (5, 3)]),
    };
    assert_eq!(of.rewrite_layer(4, 3, 0), (Shape::Image, Some(remembered)));
    // A merged delta has no such record.
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
    // With the record in the image, no more pages than before.
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
    // Without such a record, all pages.
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
